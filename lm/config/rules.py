"""The rules of a configuration: `validated` checks each of them and returns a copy that nothing can write to."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lm import files
from lm.config import formats
from lm.config.durations import parse_duration
from lm.config.groups import check_pattern, parse_group
from lm.config.schema import TOKENIZERS, Config, Duration, Names, copied, fields, get, split_names
from lm.config.tasks import ANSWER_KINDS, TASKS, answer_of, layout_of
from lm.errors import UserError, nearest
from lm.recurrence import CELLS, GatedCell


def validated(config: Config) -> Config:
    """A copy that cannot be changed; raises `UserError` that names the first field that breaks a rule."""
    if not isinstance(config, Config):
        raise UserError("config", f"get_config() returned {type(config).__name__}", "return lm.config.Config(...)")
    config = copied(config)  # it may be a variant of a validated configuration
    for path, section, field in fields(config):
        _check_type(path, section, field)
        _check_value(path, getattr(section, field.name), field.metadata)
    for rules in (_data_rules, _tokenizer_rules, _model_rules, _decoder_rules, _training_rules, _optimizer_rules):
        for holds, path, reason, action in rules(config):
            if not holds:
                raise UserError(f"config.{path}", reason, action)
    for _, section, _ in fields(config):
        section.__dict__["_fixed"] = True
    config.__dict__["_fixed"] = True
    return config


# Rules are of several fields, or of the form of one; each is made when all before it hold.
Rules = Iterator[tuple[bool, str, str, str]]  # whether it holds, the field, what is wrong with it, what to do


def _data_rules(config: Config) -> Rules:
    data, task = config.data, TASKS[config.data.task]
    yield (
        bool(data.train),
        "data.train",
        "is empty",
        "give a source, e.g. text:corpus/*.txt or tfds:tinyworld/translate",
    )
    for path in "data.source_format data.target_format".split():
        problem = formats.problem(get(config, path))
        yield not problem, path, problem, "write fields in braces, e.g. '{question} {answers[text][0]}'"
    for text in data.turns:
        problem = formats.problem(text) or ("" if "{turn}" in text else f"{text!r} does not name {{turn}}")
        yield not problem, "data.turns", problem, "write e.g. 'Guest: {turn},Seller: {turn}'"
    yield (
        len(data.turns) in (0, 2),
        "data.turns",
        f"has {len(data.turns)} formats",
        "give two, of the user's turns and of the model's",
    )
    yield (
        not data.turns or task.pairs,
        "data.turns",
        f"the task {data.task} has no replies",
        "use config.data.task=seq2seq",
    )
    yield (
        data.layout in ("", *task.layouts),
        "data.layout",
        f"the task {data.task} has no layout {data.layout!r}",
        nearest(data.layout, task.layouts),
    )
    yield (
        data.prefix_least <= data.prefix_most,
        "data.prefix_least",
        f"{data.prefix_least} is more than data.prefix_most, {data.prefix_most}",
        "give at most that",
    )
    yield (
        data.max_length > 2 or data.task not in ("prefix", "denoise"),
        "data.max_length",
        f"{data.max_length} leaves nothing to take out of a text",
        "give at least 3",
    )
    yield (
        data.window > 1 or layout_of(data) != "packed",
        "data.window",
        "a row of one position holds no example",
        "give at least 2",
    )
    yield (
        data.noise.kind != "spans" or data.noise.rate > 0 or data.task != "denoise",
        "data.noise.rate",
        "takes nothing out of a text",
        "give e.g. 0.15",
    )


def _tokenizer_rules(config: Config) -> Rules:
    data, tokenizer = config.data, config.data.tokenizer
    kind, trained = tokenizer.kind, tokenizer.kind in ("unigram", "bpe")
    saved = kind.endswith("tokenizer.json")
    taken = saved or config.training.init_from != ""
    yield (
        not tokenizer.sampling or trained or saved,
        "data.tokenizer.sampling",
        f"a {kind} tokenizer has one segmentation",
        "use unigram or bpe, or give 0",
    )
    yield (
        not tokenizer.sampling or TASKS[data.task].pairs or layout_of(data) == "streams",
        "data.tokenizer.sampling",
        "texts are cut in pieces by their one segmentation",
        "use seq2seq, classify or streams, or give 0",
    )
    yield (
        trained or (tokenizer.normalization == "identity" and (not tokenizer.pieces or taken)),
        "data.tokenizer.kind",
        f"{kind} has no normalization and no pieces of its own",
        "use unigram or bpe, or the step nfkc of config.data.cleaning",
    )
    yield (
        kind in TOKENIZERS or kind.endswith((".model", "tokenizer.json")),
        "data.tokenizer.kind",
        f"{kind!r} is unknown",
        nearest(kind, (*TOKENIZERS, "a path that ends in .model or tokenizer.json")),
    )
    yield (
        not trained or tokenizer.vocab_size > 0,
        "data.tokenizer.vocab_size",
        f"a {kind} tokenizer needs a size",
        "give e.g. 8000",
    )


def _decodes(config: Config) -> bool:
    """Whether words are written, not a label or a span of the source chosen by a reader."""
    return ANSWER_KINDS[answer_of(config)].decodes


def _model_rules(config: Config) -> Rules:
    model, task = config.model, TASKS[config.data.task]
    yield (
        model.hidden_dim % model.heads == 0,
        "model.heads",
        f"{model.heads} does not divide the width {model.hidden_dim}",
        "choose a divisor of model.hidden_dim",
    )
    yield (
        model.driver != "pallas" or (issubclass(CELLS[model.cell], GatedCell) and model.backward != "recompute"),
        "model.driver",
        "there are kernels for gated cells, and for a gradient from what was kept",
        "use auto, another model.cell or model.backward=keep",
    )
    yield (
        not model.pool or task.pooled_answer != "",
        "model.pool",
        f"the task {config.data.task} has no labels",
        "use data.task=classify, or ''",
    )
    yield (
        not model.pool or layout_of(config.data) == "buckets",
        "model.pool",
        "the encoder's outputs are pooled over a row, and packed rows hold several examples",
        "use data.layout=buckets",
    )
    yield (
        not ANSWER_KINDS[answer_of(config)].needs_attention or model.attention != "none",
        "model.attention",
        f"the task {config.data.task} points by attention",
        "use dot or additive",
    )
    yield (
        not model.self_attention or _decodes(config),
        "model.self_attention",
        "there is no decoder that could attend to what it wrote",
        "give 0",
    )
    shared = model.encoder == "decoder" and task.has_source
    yield (
        not shared or _decodes(config),
        "model.encoder",
        "there is no decoder that could read the source",
        "use bidirectional or unidirectional",
    )
    yield (
        not shared or model.attention == "none",
        "model.attention",
        "to a decoder that reads the source itself, that is part of its own past",
        "use none, and model.self_attention=256 or as far as it is to look back",
    )
    yield (
        not shared or layout_of(config.data) == "buckets",
        "model.encoder",
        "a decoder that reads the source itself begins where that ends, and packed rows hold several examples",
        "use data.layout=buckets",
    )


def _decoder_rules(config: Config) -> Rules:
    """Rules of a decoder with attention to a source, and of a head over the vocabulary."""
    model, task = config.model, TASKS[config.data.task]
    attends = model.attention != "none" and task.has_source and _decodes(config)
    for name in ("copy", "coverage"):
        yield (
            attends or not getattr(model, name),
            f"model.{name}",
            "there is no decoder with attention to a source",
            "set model.attention=dot for a task with a source, or leave it out",
        )
    yield (
        not model.tied or _decodes(config),
        "model.tied",
        "there is no head over the vocabulary to tie",
        "leave it out",
    )
    yield (
        not model.tied or model.embed_dim == model.hidden_dim or attends,
        "model.tied",
        f"the head reads {model.hidden_dim} features, the embedding has {model.embed_dim}",
        "make model.embed_dim and model.hidden_dim equal",
    )


def _training_rules(config: Config) -> Rules:
    training = config.training
    for path in "training.label_smoothing training.z_loss model.copy".split():
        yield (
            not training.sampled_softmax or not get(config, path),
            path,
            "needs the probability of every word",
            "leave it out, or config.training.sampled_softmax",
        )
    yield (
        not training.sampled_softmax or ANSWER_KINDS[answer_of(config)].over_vocabulary,
        "training.sampled_softmax",
        f"the task {config.data.task} has no softmax over the vocabulary",
        "leave it out",
    )
    yield (
        training.sampled_softmax == 0 or training.sampled_softmax >= 16,
        "training.sampled_softmax",
        f"{training.sampled_softmax} ids are too few",
        "give e.g. 8192, or 0 for all",
    )
    yield (
        config.data.batch_size % training.accumulate == 0,
        "training.accumulate",
        f"{training.accumulate} does not divide the batch size {config.data.batch_size}",
        "choose a divisor of data.batch_size",
    )
    yield (
        training.init_from == "" or bool(training.init_from.strip(":")),
        "training.init_from",
        "names no run",
        "give WORKDIR or WORKDIR:best",
    )
    for text in training.init_params:
        check_pattern(text.split("=>")[0], "config.training.init_params")
    for path in "training.steps training.eval_every training.checkpoint_every training.log_every".split():
        amount, _ = parse_duration(get(config, path), f"config.{path}")
        yield amount > 0, path, "is zero", "give a positive duration"


def _optimizer_rules(config: Config) -> Rules:
    optimizer = config.optimizer
    groups = [parse_group(text) for text in optimizer.groups]
    yield (
        not groups or any(group.factor for group in groups),
        "optimizer.groups",
        "freezes all parameters",
        "give a pattern with a factor above 0, e.g. .*=>1 as the last",
    )
    yield (
        optimizer.name != "adam" or optimizer.weight_decay == 0,
        "optimizer.weight_decay",
        "adam has no weight decay",
        "use optimizer.name=adamw",
    )
    check_pattern(optimizer.decayed, "config.optimizer.decayed")


def _check_type(path: str, section: Any, field: dataclasses.Field) -> None:
    """Exact types, but for an int given as a float, and durations, which become an int or a plain phrase."""
    value = getattr(section, field.name)
    if field.type is Duration:
        amount, unit = parse_duration(value, f"config.{path}")
        setattr(section, field.name, int(amount) if unit == "steps" else f"{amount:.15g} {unit}")
    elif field.type is Names:
        given = split_names(value) if isinstance(value, str) else value
        if not isinstance(given, (tuple, list)) or not all(isinstance(name, str) for name in given):
            raise UserError(
                f"config.{path}", f"{value!r} is no list of names", f"give e.g. a,b: {field.metadata['help']}"
            )
        setattr(section, field.name, Names(given))
    elif field.type is float and type(value) is int:
        setattr(section, field.name, float(value))
    elif type(value) is not field.type:
        reason = f"{value!r} is a {type(value).__name__}"
        raise UserError(f"config.{path}", reason, f"give a {field.type.__name__}: {field.metadata['help']}")
    elif field.type is str and not files.encodable(value):
        raise UserError(f"config.{path}", f"{value!r} is not UTF-8", "rename the file, or give another text")


def _check_value(path: str, value: Any, rule: Mapping[str, Any]) -> None:
    """See `_field`; no number may be infinite or NaN."""
    if rule["choices"] and value not in rule["choices"]:
        raise UserError(f"config.{path}", f"{value!r} is unknown", nearest(value, rule["choices"]))
    if type(value) not in (int, float):
        return
    low, high, below = rule["low"], rule["high"], rule["below"]
    if not math.isfinite(value):
        raise UserError(f"config.{path}", f"{value!r} is not finite", "give a finite number")
    if not (low <= value <= high and value < below):
        action = f"give at least {low:g}" if high == math.inf else f"give {low:g} to {high:.12g}"
        action += f" and less than {below:g}" if below < math.inf else ""
        raise UserError(f"config.{path}", f"{value!r} is out of range", action)
