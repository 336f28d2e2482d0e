"""The rules of a configuration: `validated` checks each of them and returns a copy that cannot be changed."""

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
    """Returns a copy that cannot be changed.

    Raises:
        UserError: a field breaks a rule; the error names the first such field.
    """
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


# Each rule concerns several fields, or the form of one. It is evaluated only after all rules before it hold.
# A rule is (whether it holds, the field, the reason and the action of the error).
Rules = Iterator[tuple[bool, str, str, str]]


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
        "give two: one for turns of the user, one for turns of the model",
    )
    yield (
        not data.turns or task.pairs,
        "data.turns",
        f"are given, but the task {data.task} has no replies",
        "use config.data.task=seq2seq, extract or classify",
    )
    yield (
        data.layout in ("", *task.layouts),
        "data.layout",
        f"{data.layout!r} is not a layout of the task {data.task}",
        nearest(data.layout, task.layouts),
    )
    yield (
        data.prefix_least <= data.prefix_most,
        "data.prefix_least",
        f"{data.prefix_least} is more than data.prefix_most, {data.prefix_most}",
        "lower it, or raise config.data.prefix_most",
    )
    yield (
        data.max_length > 2 or data.task not in ("prefix", "denoise"),
        "data.max_length",
        f"{data.max_length} leaves no room to remove tokens from a text",
        "give at least 3",
    )
    yield (
        data.window > 1 or layout_of(data) != "packed",
        "data.window",
        "has one position, and a packed sequence of one position holds no example",
        "give at least 2",
    )
    yield (
        data.noise.kind != "spans" or data.noise.rate > 0 or data.task != "denoise",
        "data.noise.rate",
        "is 0, so nothing is removed from a text",
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
        "is not possible with this task and layout, which split long texts by a fixed segmentation",
        "use config.data.task=seq2seq or classify, or config.data.layout=streams, or give 0",
    )
    yield (
        trained or (tokenizer.normalization == "identity" and (not tokenizer.pieces or taken)),
        "data.tokenizer.kind",
        f"{kind} has neither normalization nor pieces",
        "use unigram or bpe, or config.data.cleaning=nfkc",
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
    """Returns whether a decoder writes the answer; other models choose a label or a span of the source."""
    return ANSWER_KINDS[answer_of(config)].decodes


def _model_rules(config: Config) -> Rules:
    model, task = config.model, TASKS[config.data.task]
    yield (
        model.hidden_dim % model.heads == 0,
        "model.heads",
        f"{model.heads} does not divide the {model.hidden_dim} hidden units",
        "give a divisor of config.model.hidden_dim",
    )
    yield (
        model.driver != "pallas" or (issubclass(CELLS[model.cell], GatedCell) and model.backward != "recompute"),
        "model.driver",
        "is pallas, which has kernels only for gated cells with model.backward=keep or segments",
        "use auto, a gated config.model.cell, or config.model.backward=keep",
    )
    yield (
        not model.pool or task.pooled_answer != "",
        "model.pool",
        f"needs labels, and the task {config.data.task} has none",
        "use config.data.task=classify, or leave it empty",
    )
    yield (
        not model.pool or layout_of(config.data) == "buckets",
        "model.pool",
        "pools over whole sequences, and packed sequences hold several examples",
        "use config.data.layout=buckets",
    )
    yield (
        not ANSWER_KINDS[answer_of(config)].needs_attention or model.attention != "none",
        "model.attention",
        f"is none, and the task {config.data.task} needs attention to point at its answer",
        "use dot or additive",
    )
    yield (
        not model.self_attention or _decodes(config),
        "model.self_attention",
        "needs a decoder, and this model has none",
        "give 0",
    )
    shared = model.encoder == "decoder" and task.has_source
    yield (
        not shared or _decodes(config),
        "model.encoder",
        "is decoder, and this model has no decoder to read the source",
        "use bidirectional or unidirectional",
    )
    yield (
        not shared or model.attention == "none",
        "model.attention",
        "has no encoder to attend to, as the decoder itself reads the source",
        "use none, and e.g. config.model.self_attention=256",
    )
    yield (
        not shared or layout_of(config.data) == "buckets",
        "model.encoder",
        "is decoder, which reads one source per sequence, and packed sequences hold several examples",
        "use config.data.layout=buckets",
    )


def _decoder_rules(config: Config) -> Rules:
    """Yields the rules of a decoder with attention to a source, and of a head over the vocabulary."""
    model, task = config.model, TASKS[config.data.task]
    attends = model.attention != "none" and task.has_source and _decodes(config)
    for name in ("copy", "coverage"):
        yield (
            attends or not getattr(model, name),
            f"model.{name}",
            "needs a decoder with attention to a source",
            "use a task with a source and config.model.attention=dot, or leave it out",
        )
    yield (
        not model.tied or _decodes(config),
        "model.tied",
        "needs a head over the vocabulary, and this model has none",
        "leave it out",
    )
    yield (
        not model.tied or model.embed_dim == model.hidden_dim or attends,
        "model.tied",
        f"needs as many hidden units ({model.hidden_dim}) as embedding dimensions ({model.embed_dim})",
        "set config.model.embed_dim and config.model.hidden_dim to the same number",
    )


def _training_rules(config: Config) -> Rules:
    training = config.training
    for path in "training.label_smoothing training.z_loss model.copy".split():
        yield (
            not training.sampled_softmax or not get(config, path),
            path,
            "needs the probability of every id, which training.sampled_softmax does not compute",
            "leave it out, or set config.training.sampled_softmax=0",
        )
    yield (
        not training.sampled_softmax or ANSWER_KINDS[answer_of(config)].over_vocabulary,
        "training.sampled_softmax",
        f"needs a softmax over the vocabulary, and the task {config.data.task} has none",
        "leave it out",
    )
    yield (
        training.sampled_softmax == 0 or training.sampled_softmax >= 16,
        "training.sampled_softmax",
        f"{training.sampled_softmax} is too small a sample",
        "give e.g. 8192, or 0 for all",
    )
    yield (
        config.data.batch_size % training.accumulate == 0,
        "training.accumulate",
        f"{training.accumulate} does not divide the batch size {config.data.batch_size}",
        "give a divisor of config.data.batch_size",
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
        "give one pattern a factor above 0, e.g. .*=>1 at the end",
    )
    yield (
        optimizer.name != "adam" or optimizer.weight_decay == 0,
        "optimizer.weight_decay",
        "is above 0, and adam has no weight decay",
        "use config.optimizer.name=adamw",
    )
    check_pattern(optimizer.decayed, "config.optimizer.decayed")


def _check_type(path: str, section: Any, field: dataclasses.Field) -> None:
    """Raises `UserError` for a value of another type than its field; normalizes durations, lists of names and floats.

    An int is accepted for a float. A duration becomes an int (steps) or a phrase such as `"2.5 epochs"`.
    """
    value = getattr(section, field.name)
    if field.type is Duration:
        amount, unit = parse_duration(value, f"config.{path}")
        setattr(section, field.name, int(amount) if unit == "steps" else f"{amount:.15g} {unit}")
    elif field.type is Names:
        given = split_names(value) if isinstance(value, str) else value
        if not isinstance(given, (tuple, list)) or not all(isinstance(name, str) for name in given):
            raise UserError(
                f"config.{path}",
                f"{value!r} is not a list of strings",
                f"give a list, e.g. a,b: {field.metadata['help']}",
            )
        setattr(section, field.name, Names(given))
    elif field.type is float and type(value) is int:
        setattr(section, field.name, float(value))
    elif type(value) is not field.type:
        reason = f"{value!r} is a {type(value).__name__}"
        raise UserError(
            f"config.{path}", reason, f"give a value of type {field.type.__name__}: {field.metadata['help']}"
        )
    elif field.type is str and not files.encodable(value):
        raise UserError(
            f"config.{path}",
            f"{value!r} is not UTF-8",
            "give a text that can be encoded as UTF-8; rename the file if it is a path",
        )


def _check_value(path: str, value: Any, rule: Mapping[str, Any]) -> None:
    """Raises `UserError` for a value outside the range that `_field` declares, and for an infinite number or NaN."""
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
