"""The configuration: one tree of typed fields, the only home of defaults, fixed once validated.

A config file's `get_config()` returns a `Config`; `--config.section.field=value` replaces one field.
`validated` checks every rule and returns a copy that nothing can write to. `to_json` and `from_json` are exact
inverses, so a run's `config.json` says all that was asked for.
"""

import copy
import dataclasses
import json
import math
import pathlib
import re
import runpy
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lm import formats
from lm.errors import UserError, nearest
from lm.parallel import PARALLEL
from lm.recurrence import BACKWARD, CELLS, SCANS, GatedCell
from lm.tasks import TASKS, layout_of

TOKENIZERS = ("bytes", "characters", "words", "unigram", "bpe")
NORMALIZATIONS = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")  # the rules that SentencePiece has
NOISES = ("spans", "bart")
POOLS = ("mean", "max", "last")
UNITS = ("steps", "epochs", "tokens")


class Duration(str):
    """A length of training: `500`, `"500 steps"`, `"2.5 epochs"` or `"3_000_000 tokens"` (real target tokens)."""


class Names(tuple):
    """Several strings; on the command line with commas between them: `nfc,length(1,100)`."""


def split_names(text: str) -> Names:
    """The parts between commas, but for commas in parentheses."""
    return Names(part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip())


def _field(
    default: Any,
    text: str,
    choices: Collection[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
    later: bool = False,
) -> Any:
    """A field, and the values that it may have: one of `choices`; at least `low`, at most `high`, and less than `below`.

    `later` says that there are runs of this minor version that have not got it: its default is what they did.
    """
    metadata = {"help": text, "choices": choices, "low": low, "high": high, "below": below, "later": later}
    return dataclasses.field(default=default, metadata=metadata)


class _Section:
    """A group of fields; after `validated`, assignment raises."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_fixed"):
            raise AttributeError(f"{type(self).__name__}.{name}: a validated configuration is never changed")
        known = type(self).__dataclass_fields__
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; {nearest(name, known)}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass(unsafe_hash=True)
class TokenizerConfig(_Section):
    kind: str = _field(
        "unigram",
        f"how text becomes ids: one of {', '.join(TOKENIZERS)}, or a path: of a .model file, or of a run's tokenizer.json",
    )
    vocab_size: int = _field(
        0,
        "ids in the vocabulary, specials included; 0: as many as there are (not for unigram, bpe)",
        low=0,
        high=2**31 - 1,
    )
    normalization: str = _field(
        "identity",
        f"unigram, bpe: how text is normalised before it is cut: one of {', '.join(NORMALIZATIONS)}",
        choices=NORMALIZATIONS,
    )
    pieces: Names = _field(
        Names(),
        "unigram, bpe: pieces of your own that are never cut, e.g. <user>,<bot>; init_from, or kind a saved tokenizer: "
        "those that it has not are added to it",
    )
    sentinels: int = _field(
        0,
        "ids that stand for what noise took out; 0: as many as the task needs; init_from, or kind a saved tokenizer: at "
        "least so many",
        low=0,
        high=10_000,
    )
    multiple_of: int = _field(
        1, "the vocabulary is filled up to a multiple of this with ids that are never used, e.g. 128", low=1, high=2**16
    )
    sampling: float = _field(
        0.0,
        "unigram: temperature of sampled segmentations (Kudo, 2018); bpe: dropout of merges; training only; 0: none",
        low=0,
        high=1,
    )
    copies: int = _field(
        4,
        "with sampling: how many segmentations of the corpus are kept; epoch e reads copy e modulo this",
        low=1,
        high=1000,
    )


@dataclasses.dataclass(unsafe_hash=True)
class NoiseConfig(_Section):
    kind: str = _field("spans", "denoise: spans (Raffel et al., 2020) or bart (Lewis et al., 2020)", choices=NOISES)
    rate: float = _field(0.15, "spans: share of the tokens that is taken out", low=0, below=1)
    mean_span: float = _field(
        3.0, "spans, bart: mean length of a span that one sentinel stands for, tokens", low=1, high=1000
    )
    infilling: float = _field(0.3, "bart: share of the tokens whose spans one mask stands for", low=0, below=1)
    deletion: float = _field(0.0, "bart: share of the tokens that is deleted without a trace", low=0, below=1)
    permutation: float = _field(1.0, "bart: share of the texts whose sentences are put in another order", low=0, high=1)


@dataclasses.dataclass(unsafe_hash=True)
class DataConfig(_Section):
    train: str = _field(
        "", "source of training data, `scheme:location`, scheme one of tfds, text, parallel, jsonl, tsv"
    )
    validation: str = _field("", "source of validation data; empty: held out of the training data")
    test: str = _field("", "source of test data; empty: none")
    source_format: str = _field(
        "", "jsonl, tfds: what the encoder reads of a record, e.g. '{question} {context}'; both empty: `source`"
    )
    target_format: str = _field(
        "", "jsonl, tfds: the text, or what the decoder writes, e.g. '{label}'; both empty: `text` or `target`"
    )
    turns: Names = _field(
        Names(),
        "conversations: how a turn of the user, and one of the model, is written in a source, e.g. 'Guest: {turn},Seller: "
        "{turn}'; jsonl, tfds: a record's list `turns` (or what source_format names) becomes an example for each reply",
    )
    history: int = _field(0, "conversations: turns before a reply that its source holds at most; 0: all", low=0)
    cleaning: Names = _field(
        Names(), "steps of cleaning in order, each a name or name(numbers): see lm/data/cleaning.py"
    )
    task: str = _field("seq2seq", f"how examples become batches: one of {', '.join(TASKS)}", choices=TASKS)
    layout: str = _field("", "streams, buckets or packed (several examples a row); empty: the task's own")
    batch_size: int = _field(64, "examples (seq2seq) or streams (lm) per update, over all devices", low=1, high=2**20)
    window: int = _field(
        128, "lm: time steps per batch; gradients stop at its edge, the recurrent state does not", low=1, high=2**20
    )
    reset_rate: float = _field(
        0.05, "lm: share of training windows that start as a document does, state cleared; 0 to 1", low=0, high=1
    )
    max_length: int = _field(
        128, "seq2seq: training pairs with more tokens on a side are left out (never in evaluation)", low=1
    )
    buckets: int = _field(
        8, "seq2seq: number of lengths that pairs are padded to; each is compiled once, more leave less padding", low=1
    )
    evaluation_streams: int = _field(
        16, "lm: streams that an evaluation text is cut into; 1 carries state through it all", low=1
    )
    prefix_least: float = _field(0.25, "prefix: least share of a text that the encoder reads, 0 to 1", low=0, high=1)
    prefix_most: float = _field(0.75, "prefix: most of it; each text's share is drawn between the two", low=0, high=1)
    span: int = _field(
        30, "extract: most tokens of an answer; longer ones are as those that are not in the source", low=1
    )
    workers: int = _field(0, "processes that make batches ahead; 0: threads of the main one", low=0, high=256)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)


@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig(_Section):
    cell: str = _field("lstm", f"recurrent cell: one of {', '.join(CELLS)}", choices=CELLS)
    embed_dim: int = _field(256, "width of the token embeddings", low=1)
    hidden_dim: int = _field(256, "width of each recurrent layer (an encoder's directions share it)", low=1)
    layers: int = _field(2, "recurrent layers of the decoder, and of the encoder", low=1, high=1000)
    encoder: str = _field(
        "bidirectional",
        "encoder's direction: unidirectional or bidirectional; decoder: the decoder itself reads the source as the beginning "
        "of its text, with the parameters of a language model; a task without source has none",
        choices=("unidirectional", "bidirectional", "decoder"),
    )
    attention: str = _field(
        "none",
        "what the decoder sees beside the fixed-length vector: none, dot or additive",
        choices=("none", "dot", "additive"),
    )
    copy: bool = _field(
        False, "whether the decoder may copy what it attends to (pointer-generator, See et al., 2017); with attention"
    )
    coverage: float = _field(
        0.0, "weight in training of the attention that is paid twice (See et al., 2017), e.g. 1; with attention", low=0
    )
    self_attention: int = _field(
        0,
        "to how many of its own outputs before it the decoder attends (Daniluk et al., 2017), e.g. 128; 0: to none",
        low=0,
        later=True,
    )
    pool: str = _field(
        "",
        f"classify: {', '.join(POOLS)} of the encoder's outputs under a head over the labels, without decoder; empty: a "
        "decoder whose words are those of the labels alone ranks them",
        choices=("", *POOLS),
    )
    dropout: float = _field(
        0.0,
        "probability of dropping a unit between layers, 0 to 1; one mask per sequence (variational)",
        low=0,
        below=1,
    )
    tied: bool = _field(False, "whether the output head is the target embedding's transpose")
    heads: int = _field(
        1,
        "equal parts of a layer that do not read each other's state (block-diagonal recurrent kernel); 1: all read all",
        low=1,
    )
    dtype: str = _field(
        "float32",
        "type of the products: float32 or bfloat16; parameters and state are float32",
        choices=("float32", "bfloat16"),
    )
    lora_rank: int = _field(
        0,
        "init_from: rank of what is learnt of the kernels of recurrent layers and of the head (LoRA, Hu et al., 2022), "
        "all else frozen unless optimizer.groups says otherwise; 0: none",
        low=0,
    )
    lora_alpha: float = _field(16.0, "lora_rank: what is learnt counts alpha / rank times", low=0)
    backward: str = _field(
        "keep",
        "what a recurrent layer keeps for its gradient: keep (all, fastest), recompute (no gates) or "
        "segments (the state of every sqrt(T)-th step)",
        choices=BACKWARD,
    )
    scan: str = _field(
        "auto",
        "what runs a gated cell over time, unless backward=recompute. auto: on a GPU one kernel that keeps the recurrent "
        "matrix on chip, where heads have 16, 32 or 64 units (bfloat16: or 128) and a device's rows at a time are a multiple "
        "of 16, else XLA's loop; pallas: a kernel on a TPU too, where none has been measured; xla: always XLA's loop",
        choices=SCANS,
        later=True,
    )


@dataclasses.dataclass(unsafe_hash=True)
class OptimizerConfig(_Section):
    name: str = _field("adamw", "adamw, adam or sgd", choices=("adamw", "adam", "sgd"))
    learning_rate: float = _field(1e-3, "peak learning rate", low=0)
    schedule: str = _field(
        "cosine",
        "after warm-up: constant, linear, cosine or inverse_sqrt",
        choices=("constant", "linear", "cosine", "inverse_sqrt"),
    )
    warmup: Duration = _field(0, "length of the linear warm-up")
    final_fraction: float = _field(0.0, "linear and cosine end at this fraction of the peak, 0 to 1", low=0, high=1)
    weight_decay: float = _field(
        0.0, "adamw: decoupled decay per update, times the learning rate; sgd: L2 penalty, halved", low=0
    )
    groups: Names = _field(
        Names(),
        "which parameters learn how fast, the first whose regular expression matches the name whole: PATTERN=>FACTOR of "
        "the learning rate, 0 is frozen; PATTERN=>FACTOR@DURATION learns from there on, e.g. "
        "embedding/.*=>0,encoder/.*=>0.1@2 epochs,.*=>1; empty: all alike",
    )
    decayed: str = _field(
        r"(.*/(kernel|recurrent_kernel)|head_kernel)(_lora_[ab])?",
        "regular expression: names of the parameters that decay, matched whole",
    )
    b1: float = _field(0.9, "adam, adamw: decay of the mean of gradients; sgd: momentum", low=0, below=1)
    b2: float = _field(0.999, "adam, adamw: decay of the mean of squared gradients", low=0, below=1)
    epsilon: float = _field(1e-8, "adam, adamw: added to the root of the mean of squares", low=0)
    clip_norm: float = _field(1.0, "gradients are scaled to at most this global norm; 0: never", low=0)
    ema_decay: float = _field(
        0.0,
        "decay, per update, of an exponential moving average of the parameters, which is then what is evaluated, kept as "
        "best, sampled from and started from, e.g. 0.999; 0: none",
        low=0,
        below=1,
    )


@dataclasses.dataclass(unsafe_hash=True)
class TrainingConfig(_Section):
    steps: Duration = _field(1000, "length of training")
    eval_every: Duration = _field(200, "between evaluations on validation data; there is one at the end in any case")
    checkpoint_every: Duration = _field(
        200, "between checkpoints; there is one at the end, and one at each best evaluation"
    )
    log_every: Duration = _field(50, "between lines of training metrics")
    keep_checkpoints: int = _field(2, "latest checkpoints kept, beside the best by validation loss", low=1)
    eval_examples: int = _field(
        256, "seq2seq: validation examples generated and scored at an evaluation; 0: none", low=0
    )
    init_from: str = _field(
        "", "WORKDIR[:best|latest|STEP|mean:N] of the run whose tokenizer and parameters this one starts from"
    )
    checkpoint_minutes: float = _field(
        15.0, "most minutes between checkpoints, whatever the steps; 0: steps alone", low=0
    )
    parallel: str = _field(
        "pmap",
        "how devices share the work: pmap (each holds all parameters) or fsdp (each holds a part); same numbers",
        choices=PARALLEL,
    )
    shards: int = _field(
        0, "fsdp: devices that parameters and optimizer are cut over; 0: all, which takes least memory", low=0
    )
    not_finite: str = _field(
        "stop",
        "when loss or gradient is not finite: stop, skip (the update), or rewind (to the last checkpoint, and on with "
        "another data order)",
        choices=("stop", "skip", "rewind"),
    )
    not_finite_most: int = _field(10, "skip, rewind: how often in a run; then it stops", low=0)
    init_params: Names = _field(
        Names(),
        "init_from: regular expressions, matched whole, of the parameters that are loaded, e.g. encoder/.*; with "
        "=>NAME those that have another name there, e.g. encoder/layer_(\\d)_forward/(.*)=>decoder/layers_\\1/\\2; "
        "empty: all that have the same name",
    )
    init_mismatch: str = _field(
        "refuse", "init_from: what to do with a parameter of another shape: refuse or skip", choices=("refuse", "skip")
    )
    word_vectors: str = _field(
        "", "file of word vectors, `word v1 v2 ...` a line (GloVe, word2vec), that embeddings of whole words start from"
    )
    accumulate: int = _field(
        1, "parts that a device's batch is cut into, one after the other, to save memory; same update", low=1
    )
    label_smoothing: float = _field(
        0.0, "share of the target distribution spread over the vocabulary in training, 0 to 1", low=0, below=1
    )
    z_loss: float = _field(
        0.0,
        "weight in training of the squared log of the softmax's normaliser, which it keeps near 1; e.g. 1e-4",
        low=0,
    )
    sampled_softmax: int = _field(
        0,
        "ids beside the target that an update's softmax is over, for vocabularies of 100,000: half of them the first "
        "(the most frequent of a words tokenizer), half drawn from the rest; evaluation is over all; 0: all",
        low=0,
        later=True,
    )


@dataclasses.dataclass(unsafe_hash=True)
class Config(_Section):
    seed: int = _field(0, "seed of everything random: initial parameters, dropout, data order", low=0, high=2**32 - 1)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


class Group(NamedTuple):
    """Of parameters: those whose names a pattern matches whole, and no pattern before it."""

    pattern: str
    factor: float  # of the learning rate; 0: frozen
    begin: int | str = 0  # the group does not change before: a duration, or in the optimizer a number of updates


def parse_group(text: str) -> Group:
    """Of `PATTERN=>FACTOR` or `PATTERN=>FACTOR@DURATION`; raises `UserError`."""
    where, (pattern, arrow, rest) = "config.optimizer.groups", text.rpartition("=>")
    factor, at, begin = rest.partition("@")
    _check_pattern(pattern, where)
    try:
        number = float(factor)
    except ValueError:
        number = -1
    if not arrow or not 0 <= number < math.inf:
        raise UserError(where, f"{text!r} is not PATTERN=>FACTOR", "give e.g. encoder/.*=>0.1, with 0 for frozen")
    if at:
        parse_duration(begin, where)
        if not number:
            raise UserError(where, f"{text!r} is frozen and begins", "give a factor, or leave out what follows it")
    return Group(pattern, number, begin or 0)


def _check_pattern(text: str, where: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise UserError(where, f"{text!r} is not a regular expression ({error})", "mend it") from None


# ---- durations --------------------------------------------------------------------------------------------------


def parse_duration(value: int | str, where: str) -> tuple[float, str]:
    """Returns (amount, unit), unit one of `UNITS`; raises `UserError` naming the field `where`."""
    match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([a-z]*)", str(value).strip())
    if isinstance(value, bool) or not match or not math.isfinite(float(match[1])):
        raise UserError(where, f"{value!r} is not a duration", "give e.g. 500, '2.5 epochs' or '1_000_000 tokens'")
    unit = match[2] or "steps"
    unit = unit if unit.endswith("s") else unit + "s"
    if unit not in UNITS:
        raise UserError(where, f"{match[2]!r} is not a unit of training", nearest(unit, UNITS))
    amount = float(match[1])
    if unit == "steps" and amount != int(amount):
        raise UserError(where, f"{value!r} is not a whole number of steps", "give a whole number")
    return amount, unit


def in_steps(duration: int | str, steps_per_epoch: int, tokens_per_epoch: int, where: str = "duration") -> int:
    """The duration in whole updates, rounded up; `tokens_per_epoch` counts real target tokens."""
    amount, unit = parse_duration(duration, where)
    if unit == "epochs":
        amount *= steps_per_epoch
    elif unit == "tokens":
        amount *= steps_per_epoch / tokens_per_epoch
    return max(math.ceil(amount - 1e-9), int(amount > 0))


# ---- validation -------------------------------------------------------------------------------------------------


def validated(config: Config) -> Config:
    """A copy that cannot be changed; raises `UserError` that names the first field that breaks a rule."""
    if not isinstance(config, Config):
        raise UserError("config", f"get_config() returned {type(config).__name__}", "return lm.config.Config(...)")
    config = editable(config)  # it may be a variant of a validated configuration
    for path, section, field in fields(config):
        _check_type(path, section, field)
        _check_value(path, getattr(section, field.name), field.metadata)
    for rules in (_data_rules, _tokenizer_rules, _model_rules, _training_rules, _optimizer_rules):
        for holds, path, what, mend in rules(config):
            if not holds:
                raise UserError(f"config.{path}", what, mend)
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
    return config.model.pool == "" and not TASKS[config.data.task].points


def _model_rules(config: Config) -> Rules:
    model, task = config.model, TASKS[config.data.task]
    yield (
        model.hidden_dim % model.heads == 0,
        "model.heads",
        f"{model.heads} does not divide the width {model.hidden_dim}",
        "choose a divisor of model.hidden_dim",
    )
    yield (
        model.scan != "pallas" or (issubclass(CELLS[model.cell], GatedCell) and model.backward != "recompute"),
        "model.scan",
        "there are kernels for gated cells, and for a gradient from what was kept",
        "use auto, another model.cell or model.backward=keep",
    )
    yield (
        not model.pool or task.ranks,
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
        not task.points or model.attention != "none",
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
        not training.sampled_softmax or (_decodes(config) and not TASKS[config.data.task].ranks),
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
        _check_pattern(text.split("=>")[0], "config.training.init_params")
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
    _check_pattern(optimizer.decayed, "config.optimizer.decayed")


def editable(config: Config) -> Config:
    """A copy that can be changed."""
    config = copy.deepcopy(config)
    for _, section, _ in fields(config):
        section.__dict__.pop("_fixed", None)
    config.__dict__.pop("_fixed", None)
    return config


def fields(config: Any, prefix: str = "") -> list[tuple[str, Any, dataclasses.Field]]:
    """Every leaf as (dotted path, the section that holds it, its dataclass field)."""
    leaves = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(field.type):
            if not isinstance(value, field.type):
                what = f"is a {type(value).__name__}"
                raise UserError(f"config.{prefix}{field.name}", what, f"give a {field.type.__name__}")
            leaves += fields(value, f"{prefix}{field.name}.")
        else:
            leaves.append((prefix + field.name, config, field))
    return leaves


def get(config: Config, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


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
        what = f"{value!r} is a {type(value).__name__}"
        raise UserError(f"config.{path}", what, f"give a {field.type.__name__}: {field.metadata['help']}")
    elif field.type is str and any("\ud800" <= character <= "\udfff" for character in value):
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
        mend = f"give at least {low:g}" if high == math.inf else f"give {low:g} to {high:.12g}"
        mend += f" and less than {below:g}" if below < math.inf else ""
        raise UserError(f"config.{path}", f"{value!r} is out of range", mend)


# ---- files and overrides ----------------------------------------------------------------------------------------


def from_file(spec: str) -> Config:
    """What `get_config()` of a Python file returns, not validated; `FILE:TEXT` calls `get_config(TEXT)`."""
    names, given = defined(spec), spec.partition(":")[2]
    made = _of_the_user(spec, lambda: names["get_config"](*([given] if given else [])))
    if not isinstance(made, Config):
        raise UserError(
            f"--config={spec}", f"get_config() returned {type(made).__name__}", "return lm.config.Config(...)"
        )
    return made


def defined(spec: str) -> dict[str, Any]:
    """All that the Python file of `FILE` or `FILE:TEXT` defines, by its name."""
    name = spec.partition(":")[0]
    if not pathlib.Path(name).is_file():
        files = sorted(str(p) for p in pathlib.Path("configs").rglob("*.py"))
        raise UserError(f"--config={spec}", "there is no such file", nearest(spec, files))
    return _of_the_user(spec, lambda: runpy.run_path(name))


def _of_the_user(spec: str, run: Callable[[], Any]) -> Any:
    """What lines of the user's own file return; an error of theirs names the line."""
    try:
        return run()
    except Exception as error:  # whatever they may raise
        name = spec.partition(":")[0]
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        where = f"{name}:{frames[-1]}" if frames else f"--config={spec}"
        what = "defines no get_config()" if str(error) == "'get_config'" else f"{type(error).__name__}: {error}"
        raise UserError(where, what, "mend the file") from error


def override(config: Config, values: Iterable[tuple[str, str]]) -> None:
    """Sets fields, by dotted paths, from what stands on a command line."""
    known = {path: (section, field) for path, section, field in fields(config)}
    for path, text in values:
        if path not in known:
            raise UserError(f"--config.{path}", "there is no such field", nearest(path, known))
        section, field = known[path]
        try:
            value = {"true": True, "false": False}[text.lower()] if field.type is bool else field.type(text)
        except (ValueError, KeyError):
            raise UserError(f"--config.{path}", f"{text!r} is no {field.type.__name__}", "give one") from None
        setattr(section, field.name, text if field.type in (Duration, Names) else value)


# ---- JSON -------------------------------------------------------------------------------------------------------


def to_json(config: Config) -> str:
    """Indented JSON with every field, in the order of the dataclasses."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> Config:
    """The inverse of `to_json`, validated; `where` (a file) is named in errors. Fields that came later may lack."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(where, f"is not valid JSON ({error})", "restore the file, or start in a new workdir") from None

    def build(kind: type, tree: Any, path: str) -> Any:
        known = {field.name: field for field in dataclasses.fields(kind)}
        if not isinstance(tree, dict):
            raise UserError(f"{where}: {path or 'top level'}", "is not an object", "restore the file")
        for name in tree:
            if name not in known:
                raise UserError(f"{where}: {path}{name}", "is an unknown field", nearest(name, known))
        missing = [name for name in known if name not in tree and not known[name].metadata.get("later")]
        if missing:
            mend = "restore the file, or use the version of lm that wrote it, which manifest.json names"
            raise UserError(f"{where}: {path}{missing[0]}", "is missing", mend)
        values = {
            name: build(field.type, tree[name], f"{path}{name}.")
            if dataclasses.is_dataclass(field.type)
            else tree[name]
            for name, field in known.items()
            if name in tree
        }
        return kind(**values)

    return validated(build(Config, tree, ""))


def differences(old: Config, new: Config) -> list[str]:
    """`path: old -> new` for every field that differs."""
    return [
        f"{path}: {get(old, path)!r} -> {get(new, path)!r}"
        for path, _, _ in fields(old)
        if get(old, path) != get(new, path)
    ]
