"""The fields of a configuration: one tree of typed dataclasses, which is the only home of defaults.

Each field declares its meaning, its default and its range. `rules.validated` checks the values.
"""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any

from lm.config.tasks import TASKS
from lm.devices.mesh import PARALLEL
from lm.errors import UserError, nearest
from lm.recurrence import BACKWARD, CELLS, DRIVERS

TOKENIZERS = ("bytes", "characters", "words", "unigram", "bpe")


NORMALIZATIONS = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")  # the rules of SentencePiece


NOISES = ("spans", "bart")


POOLS = ("mean", "max", "last")


RENAMED = {"model.scan": "model.driver"}  # name in an earlier version -> name now


class Duration(str):
    """A length of training: `500`, `"500 steps"`, `"2.5 epochs"` or `"3_000_000 tokens"` (real target tokens)."""


class Names(tuple):
    """A tuple of strings, written with commas on the command line: `nfc,words(1,100)`."""


def split_names(text: str) -> Names:
    """Returns the parts between the commas of a text; commas inside parentheses do not separate parts."""
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
    """Returns a dataclass field with its help and the range of its values.

    Args:
        default: the default value.
        text: the help: meaning, unit and special values. If only some tasks, tokenizers or optimizers read the field,
            the help begins with their names and a colon; `not lm` means every task but `lm`.
        choices: the only values that the field may have; empty for no such list.
        low: the smallest value.
        high: the largest value.
        below: a bound that the value must be less than.
        later: whether the field is younger than some runs of this minor version, whose `config.json` lacks it. Its
            default must be the behavior of those runs.
    """
    metadata = {"help": text, "choices": choices, "low": low, "high": high, "below": below, "later": later}
    return dataclasses.field(default=default, metadata=metadata)


class _Section:
    """A section of the configuration; assigning to a field raises `AttributeError` after `validated`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_fixed"):
            raise AttributeError(f"{type(self).__name__}.{name}: a validated configuration is never changed")
        known = type(self).__dataclass_fields__
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; {nearest(name, known)}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass(unsafe_hash=True)
class TokenizerConfig(_Section):
    """The tokenizer of a run."""

    kind: str = _field(
        "unigram",
        f"tokenizer: one of {', '.join(TOKENIZERS)}, or the path of a SentencePiece .model file or of another run's "
        "tokenizer.json",
    )
    vocab_size: int = _field(
        0,
        "size of the vocabulary, special ids included. For characters and words it is a limit, and 0 means no limit; "
        "unigram and bpe need a size; bytes and a path have their own.",
        low=0,
        high=2**31 - 1,
    )
    normalization: str = _field(
        "identity",
        f"unigram, bpe: SentencePiece's normalization of text before it is split: one of {', '.join(NORMALIZATIONS)}",
        choices=NORMALIZATIONS,
    )
    pieces: Names = _field(
        Names(),
        "unigram, bpe: pieces that are never split, e.g. <user>,<bot>. If the tokenizer comes from another run (by "
        "training.init_from or by its path), it may be of any kind, and pieces that its vocabulary lacks are appended.",
    )
    sentinels: int = _field(
        0,
        "number of sentinel ids, which mark the spans that the task denoise removes; 0 means as many as the task "
        "needs. If the tokenizer comes from another run, missing ones are added.",
        low=0,
        high=10_000,
    )
    multiple_of: int = _field(
        1,
        "number to whose multiple the vocabulary is padded with unused ids, e.g. 128; 1 means no padding",
        low=1,
        high=2**16,
    )
    sampling: float = _field(
        0.0,
        "unigram, bpe: random segmentations of the training data. For unigram it is the temperature (Kudo, 2018), "
        "for bpe the dropout of merges; 0 means none.",
        low=0,
        high=1,
    )
    copies: int = _field(
        4,
        "unigram, bpe: number of segmentations of the training data that are drawn if sampling is above 0; epochs "
        "use them in turn",
        low=1,
        high=1000,
    )


@dataclasses.dataclass(unsafe_hash=True)
class NoiseConfig(_Section):
    """The noise of the task `denoise`."""

    kind: str = _field(
        "spans",
        "denoise: kind of noise, spans (T5; Raffel et al., 2020) or bart (BART; Lewis et al., 2020)",
        choices=NOISES,
    )
    rate: float = _field(0.15, "denoise: with kind=spans, the share of the tokens that is removed", low=0, below=1)
    mean_span: float = _field(
        3.0, "denoise: mean length, in tokens, of a span that one sentinel or mask replaces", low=1, high=1000
    )
    infilling: float = _field(
        0.3,
        "denoise: with kind=bart, the share of the tokens that is masked; one mask replaces a whole span",
        low=0,
        below=1,
    )
    deletion: float = _field(
        0.0, "denoise: with kind=bart, the share of the tokens that is deleted without a mask", low=0, below=1
    )
    permutation: float = _field(
        1.0, "denoise: with kind=bart, the share of the texts whose sentences are shuffled", low=0, high=1
    )


@dataclasses.dataclass(unsafe_hash=True)
class DataConfig(_Section):
    """The data, the task, and the layout of batches."""

    train: str = _field(
        "", "source of the training data, SCHEME:LOCATION, where SCHEME is tfds, text, parallel, jsonl or tsv"
    )
    validation: str = _field(
        "",
        "source of the validation data; empty means data held out of the training data: the last tenth of a text "
        "source, or a twentieth of the examples of another source",
    )
    test: str = _field("", "source of the test data; empty means none")
    source_format: str = _field(
        "",
        "format of the source (the encoder's input) of a jsonl or tfds record, e.g. '{question} {context}'; empty "
        "means the field `source`",
    )
    target_format: str = _field(
        "",
        "format of the text or target of a jsonl or tfds record, e.g. '{label}'; empty means the field `text` or "
        "`target`. If a field is a list, all its items are correct answers, and the first one is learned.",
    )
    turns: Names = _field(
        Names(),
        "conversations: two formats, of a turn of the user and of a turn of the model, e.g. 'Guest: {turn},Seller: "
        "{turn}'. In a jsonl or tfds record the list `turns`, or the list that source_format names, becomes one "
        "example per reply of the model.",
    )
    history: int = _field(0, "conversations: most turns before a reply that its source holds; 0 means all", low=0)
    cleaning: Names = _field(
        Names(),
        "cleaning steps in order, each NAME or NAME(NUMBERS), e.g. nfc,words(1,100); empty means none. docs/data.md "
        "lists them.",
    )
    task: str = _field(
        "seq2seq", f"task, which decides how examples become batches: one of {', '.join(TASKS)}", choices=TASKS
    )
    layout: str = _field(
        "",
        "layout of the training batches: streams (continuous text), buckets (pairs of similar length) or packed "
        "(several examples per sequence); empty means streams for lm, else buckets",
    )
    batch_size: int = _field(
        64,
        "sequences per training step over all devices; a sequence is an example, a stream (lm), or several examples "
        "(layout=packed)",
        low=1,
        high=2**20,
    )
    window: int = _field(
        128,
        "lm, packed: length of a window in tokens. In streams, gradients stop at its edges, and the recurrent state "
        "is carried over them. With layout=packed it is the length of a packed sequence, at least max_length for "
        "tasks with a source.",
        low=1,
        high=2**20,
    )
    reset_rate: float = _field(
        0.05,
        "lm: share of the training windows that start with a zero state, as a document does",
        low=0,
        high=1,
    )
    max_length: int = _field(
        128,
        "not lm: most tokens of the source and of the target in training, each with its end token. Longer pairs are "
        "left out; prefix and denoise split longer texts. Evaluation keeps pairs of any length.",
        low=1,
    )
    buckets: int = _field(
        8,
        "not lm: number of lengths that pairs are padded to. More buckets waste fewer positions on padding, and each "
        "is compiled once.",
        low=1,
    )
    evaluation_streams: int = _field(
        16,
        "lm: number of streams that an evaluation text is divided into; 1 carries the state through the whole text",
        low=1,
    )
    prefix_least: float = _field(
        0.25, "prefix: smallest share of a text that is the source; each share is drawn uniformly", low=0, high=1
    )
    prefix_most: float = _field(0.75, "prefix: largest share of a text that is the source", low=0, high=1)
    span: int = _field(30, "extract: most tokens of an answer; a longer target counts as absent from its source", low=1)
    workers: int = _field(
        0, "number of processes that prepare batches; 0 means a thread of the main process", low=0, high=256
    )
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)


@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig(_Section):
    """The architecture and the numerical settings of the model."""

    cell: str = _field("lstm", f"recurrent cell: one of {', '.join(CELLS)}", choices=CELLS)
    embed_dim: int = _field(256, "dimension of the token embeddings", low=1)
    hidden_dim: int = _field(256, "hidden units of each recurrent layer, and of each direction of an encoder", low=1)
    layers: int = _field(2, "recurrent layers of the decoder, and as many of the encoder", low=1, high=1000)
    encoder: str = _field(
        "bidirectional",
        "not lm: direction of the encoder, unidirectional or bidirectional. With decoder there is no encoder: the "
        "decoder reads the source as the beginning of its text, with the parameters of a language model.",
        choices=("unidirectional", "bidirectional", "decoder"),
    )
    attention: str = _field(
        "none",
        "not lm: attention of the decoder to the source: dot, additive or none (a vector of fixed length alone)",
        choices=("none", "dot", "additive"),
    )
    copy: bool = _field(
        False,
        "prefix, denoise, seq2seq, classify: whether the decoder may copy tokens of the source (pointer-generator; "
        "See et al., 2017). Needs attention.",
    )
    coverage: float = _field(
        0.0,
        "prefix, denoise, seq2seq, classify: weight of the coverage loss, which penalizes repeated attention to the "
        "same positions (See et al., 2017), e.g. 1. Needs attention.",
        low=0,
    )
    self_attention: int = _field(
        0,
        "number of its own previous outputs that the decoder attends to (Daniluk et al., 2017), e.g. 128; 0 means "
        "none. Needs a decoder.",
        low=0,
        later=True,
    )
    pool: str = _field(
        "",
        f"classify: pooling ({', '.join(POOLS)}) of the encoder's outputs for a head over the labels, without a "
        "decoder; empty means that a decoder, which can write only the labels, ranks them",
        choices=("", *POOLS),
    )
    dropout: float = _field(
        0.0,
        "probability that a hidden unit is dropped between layers, with one mask per sequence (variational dropout)",
        low=0,
        below=1,
    )
    tied: bool = _field(False, "whether the output head is the transposed target embedding")
    heads: int = _field(
        1,
        "heads of each recurrent layer: equal parts that do not read each other's state (block-diagonal recurrent "
        "kernel); 1 means a full kernel",
        low=1,
    )
    dtype: str = _field(
        "float32",
        "type of the operands of matrix products, float32 or bfloat16; parameters and states are always float32",
        choices=("float32", "bfloat16"),
    )
    lora_rank: int = _field(
        0,
        "rank of trained low-rank adapters (LoRA; Hu et al., 2022) of the recurrent layers' kernels and of the head; 0 "
        "means none. All other parameters are frozen unless optimizer.groups says otherwise. Needs training.init_from.",
        low=0,
    )
    lora_alpha: float = _field(16.0, "scale of the LoRA adapters, which are multiplied by alpha / rank", low=0)
    backward: str = _field(
        "keep",
        "memory that a recurrent layer keeps for its gradient: keep (everything, fastest), recompute (no gates), or "
        "segments (the state of every sqrt(T)-th step)",
        choices=BACKWARD,
    )
    driver: str = _field(
        "auto",
        "program that runs a gated cell over time: auto, pallas or xla. auto uses a fused kernel on a GPU if a head "
        "has 16, 32 or 64 hidden units (in bfloat16 also 128) and a device has a multiple of 16 examples at a time, "
        "else XLA's loop. pallas uses a kernel on a TPU too, which has not been measured. xla always uses XLA's "
        "loop, as backward=recompute does.",
        choices=DRIVERS,
        later=True,
    )


@dataclasses.dataclass(unsafe_hash=True)
class OptimizerConfig(_Section):
    """The optimizer and the schedule of its learning rate."""

    name: str = _field("adamw", "optimizer: adamw, adam or sgd", choices=("adamw", "adam", "sgd"))
    learning_rate: float = _field(1e-3, "peak learning rate", low=0)
    schedule: str = _field(
        "cosine",
        "learning rate after the warm-up: constant, linear, cosine or inverse_sqrt",
        choices=("constant", "linear", "cosine", "inverse_sqrt"),
    )
    warmup: Duration = _field(0, "length of the linear warm-up")
    final_fraction: float = _field(
        0.0, "linear, cosine: learning rate at the end, as a fraction of the peak", low=0, high=1
    )
    weight_decay: float = _field(
        0.0,
        "adamw, sgd: weight decay. In adamw it is decoupled: each step subtracts the decay times the learning rate "
        "times the parameter. In sgd it is an L2 penalty with half this weight.",
        low=0,
    )
    groups: Names = _field(
        Names(),
        "groups of parameters with their own learning rates, each PATTERN=>FACTOR or PATTERN=>FACTOR@DURATION, e.g. "
        "embedding/.*=>0,encoder/.*=>0.1@2 epochs,.*=>1; empty means one group. A parameter belongs to the first "
        "pattern (a regular expression) that matches its whole name. FACTOR multiplies the learning rate, 0 freezes "
        "the group, and @DURATION freezes it until then.",
    )
    decayed: str = _field(
        r"(.*/(kernel|recurrent_kernel)|head_kernel)(_lora_[ab])?",
        "regular expression that matches the whole names of the parameters with weight decay",
    )
    b1: float = _field(0.9, "adam, adamw: decay of the mean of gradients; sgd: momentum", low=0, below=1)
    b2: float = _field(0.999, "adam, adamw: decay of the mean of squared gradients", low=0, below=1)
    epsilon: float = _field(1e-8, "adam, adamw: term added to the root of the mean of squared gradients", low=0)
    clip_norm: float = _field(
        1.0, "largest global norm of the gradients, which are scaled down to it; 0 means no limit", low=0
    )
    ema_decay: float = _field(
        0.0,
        "decay per step of an exponential moving average of the parameters, e.g. 0.999; 0 means none. Evaluation, "
        "sampling and init_from then use the average, and the best checkpoint is chosen by it.",
        low=0,
        below=1,
    )


@dataclasses.dataclass(unsafe_hash=True)
class TrainingConfig(_Section):
    """The length of training, evaluations, checkpoints, initial parameters and devices."""

    steps: Duration = _field(1000, "length of training")
    eval_every: Duration = _field(
        200, "interval between evaluations on the validation data; the last step is always evaluated"
    )
    checkpoint_every: Duration = _field(
        200, "interval between checkpoints; the last step and each new best evaluation are always saved"
    )
    log_every: Duration = _field(50, "interval between lines of training metrics")
    keep_checkpoints: int = _field(
        2, "number of latest checkpoints that are kept beside the best one by validation loss", low=1
    )
    eval_examples: int = _field(
        256,
        "seq2seq, extract, classify: number of validation examples that are answered and scored at each evaluation; "
        "0 means none",
        low=0,
    )
    init_from: str = _field(
        "",
        "run that this one starts from, WORKDIR or WORKDIR:CHECKPOINT, where CHECKPOINT is best, latest, STEP or "
        "mean:N; empty means none. Its tokenizer and parameters are loaded, and the optimizer starts fresh.",
    )
    checkpoint_minutes: float = _field(15.0, "longest time between checkpoints in minutes; 0 means no limit", low=0)
    parallel: str = _field(
        "pmap",
        "use of several devices: pmap (each holds all parameters) or fsdp (each holds a shard of them); the results "
        "are the same",
        choices=PARALLEL,
    )
    shards: int = _field(
        0,
        "fsdp: number of devices that parameters and optimizer state are sharded over; 0 means all, which needs the "
        "least memory",
        low=0,
    )
    not_finite: str = _field(
        "stop",
        "action if the loss or its gradient is not finite: stop, skip (the step leaves the parameters unchanged) or "
        "rewind (training resumes from the last checkpoint with another data order)",
        choices=("stop", "skip", "rewind"),
    )
    not_finite_most: int = _field(10, "skip, rewind: most skips or rewinds in a run, which then stops", low=0)
    init_params: Names = _field(
        Names(),
        "regular expressions for the parameters to load from the run init_from, which must match whole names, e.g. "
        "encoder/.*; empty means all parameters with equal names. PATTERN=>NAME loads the parameter NAME of that "
        "run, e.g. encoder/layer_(\\d)_forward/(.*)=>decoder/layers_\\1/\\2.",
    )
    init_mismatch: str = _field(
        "refuse",
        "action if a parameter has another shape in the run init_from: refuse (an error) or skip",
        choices=("refuse", "skip"),
    )
    word_vectors: str = _field(
        "",
        "file of word vectors, `word v1 v2 ...` on each line (GloVe, word2vec), which initialize the embeddings of "
        "whole words; empty means none",
    )
    accumulate: int = _field(
        1,
        "number of micro-batches that a device's batch is divided into, one after the other, to save memory; the "
        "results are the same",
        low=1,
    )
    label_smoothing: float = _field(
        0.0,
        "share of the target distribution that is spread over the vocabulary, labels or spans in training",
        low=0,
        below=1,
    )
    z_loss: float = _field(
        0.0,
        "weight in training of the squared logarithm of the softmax's normalizer, e.g. 1e-4, which keeps the "
        "normalizer near 1",
        low=0,
    )
    sampled_softmax: int = _field(
        0,
        "lm, prefix, denoise, seq2seq: number of ids beside the target in the softmax of a training step, for "
        "vocabularies of 100,000 words, e.g. 8192; 0 means all ids. Half of them are the first ids (the most "
        "frequent words of a words tokenizer), and the others are drawn from the rest. Evaluation always uses all "
        "ids.",
        low=0,
        later=True,
    )


@dataclasses.dataclass(unsafe_hash=True)
class Config(_Section):
    """The whole configuration of a run."""

    seed: int = _field(
        0, "seed of all random numbers: initial parameters, dropout and data order", low=0, high=2**32 - 1
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def fields(config: Any, prefix: str = "") -> list[tuple[str, Any, dataclasses.Field]]:
    """Returns (dotted path, the section that holds it, its dataclass field) for every field that is not a section.

    Raises:
        UserError: a section is replaced by a value of another type.
    """
    leaves = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(field.type):
            if not isinstance(value, field.type):
                reason = f"is a {type(value).__name__}"
                raise UserError(f"config.{prefix}{field.name}", reason, f"give a {field.type.__name__}")
            leaves += fields(value, f"{prefix}{field.name}.")
        else:
            leaves.append((prefix + field.name, config, field))
    return leaves


def get(config: Config, path: str) -> Any:
    """Returns the value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def copied(value: Any) -> Any:
    """Returns a writable copy of a configuration or of a section; any other value is returned as it is."""
    if not isinstance(value, _Section):
        return value
    names = [field.name for field in dataclasses.fields(value)]
    return type(value)(**{name: copied(getattr(value, name)) for name in names})
