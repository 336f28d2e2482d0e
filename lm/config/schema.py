"""The fields of a configuration: one tree of typed dataclasses, the only home of defaults.

A field says its meaning, its default and the values that it may have. `rules.validated` checks them.
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


NORMALIZATIONS = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")  # the rules that SentencePiece has


NOISES = ("spans", "bart")


POOLS = ("mean", "max", "last")


RENAMED = {"model.scan": "model.driver"}  # fields by their names in earlier versions


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
        "",
        "jsonl, tfds: the text, or what the decoder writes, e.g. '{label}'; a list is all that is right, the first is learned; both "
        "empty: `text` or `target`",
    )
    turns: Names = _field(
        Names(),
        "conversations: how a turn of the user, and one of the model, is written in a source, e.g. 'Guest: {turn},Seller: "
        "{turn}'; jsonl, tfds: a record's list `turns` (or what source_format names) becomes an example for each reply",
    )
    history: int = _field(0, "conversations: turns before a reply that its source holds at most; 0: all", low=0)
    cleaning: Names = _field(
        Names(), "steps of cleaning in order, each a name or name(numbers): see lm/data/text/cleaning/steps.py"
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
    driver: str = _field(
        "auto",
        "what runs a gated cell over time, unless backward=recompute. auto: on a GPU one kernel that keeps the recurrent "
        "matrix on chip, where heads have 16, 32 or 64 units (bfloat16: or 128) and a device's rows at a time are a multiple "
        "of 16, else XLA's loop; pallas: a kernel on a TPU too, where none has been measured; xla: always XLA's loop",
        choices=DRIVERS,
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
        "when loss or gradient is not finite: stop, skip (the update, not its step), or rewind (to the last checkpoint, and on with "
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


def fields(config: Any, prefix: str = "") -> list[tuple[str, Any, dataclasses.Field]]:
    """Every leaf as (dotted path, the section that holds it, its dataclass field)."""
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
    """The value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def copied(value: Any) -> Any:
    """Returns a copy of a configuration or of a section that can be written to; any other value as it is."""
    if not isinstance(value, _Section):
        return value
    names = [field.name for field in dataclasses.fields(value)]
    return type(value)(**{name: copied(getattr(value, name)) for name in names})
