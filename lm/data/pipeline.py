"""From sources to batches on their way to the device: encode once, lay out, load ahead."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence

import grain
import numpy as np

from lm.config import DataConfig
from lm.data import batches, sources
from lm.data.batches import Batch, Buckets, Streams
from lm.data.sources import Example, Split
from lm.data.tokenizers import UNK, Tokenizer, train_tokenizer
from lm.errors import UserError
from lm.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as ids, and what its figures are divided by."""

    split: Split
    source_ids: Sequence[np.ndarray]  # empty where the task has no source
    target_ids: Sequence[np.ndarray]
    unknown: int  # ids that are UNK

    @property
    def pairs(self) -> list[batches.Pair]:
        return list(zip(self.source_ids, self.target_ids, strict=True))

    @property
    def tokens(self) -> int:
        """Target tokens, each example's EOS included."""
        return sum(len(ids) + 1 for ids in self.target_ids)

    @property
    def target_bytes(self) -> int:
        """UTF-8 bytes of the targets."""
        return sum(len(example.target.encode()) for example in self.split.examples)

    @property
    def floor(self) -> float | None:
        """Mean of -log p of the examples under their source (nats); None where the data does not know it."""
        known = [example.log_prob for example in self.split.examples]
        return None if None in known else -float(np.mean(known))


def load_splits(config: DataConfig, wanted: Collection[str] = ("train", "validation", "test")) -> dict[str, Split]:
    """The wanted splits of a configuration; every example must fit the task."""
    formats = sources.Formats(config.source_format, config.target_format)
    splits = sources.load_splits(config.train, config.validation, config.test, wanted, formats)
    for split in splits.values():
        check_examples(split.examples, config.task, f"config.data.{split.name}")
    return splits


def check_examples(examples: Sequence[Example], task: str, where: str) -> None:
    """Raises `UserError` if an example has no source and the task needs one, or the other way round."""
    wants = TASKS[task].has_source
    for number, example in enumerate(examples, start=1):
        if (example.source is not None) != wants:
            has, needs = ("text", "source and target") if wants else ("source and target", "text")
            other = "lm" if wants else "seq2seq"
            what = f"example {number} is {has}, the task {task!r} needs {needs}"
            raise UserError(where, what, f"use other data, or config.data.task={other}")


def make_tokenizer(config: DataConfig, train: Split) -> Tokenizer:
    """Trained on the training split only, on sources and targets alike."""
    texts = (text for example in train.examples for text in (example.source, example.target) if text is not None)
    return train_tokenizer(config.tokenizer.kind, config.tokenizer.vocab_size, texts)


def encode(split: Split, tokenizer: Tokenizer) -> Encoded:
    source_ids = [tokenizer.encode(example.source) for example in split.examples if example.source is not None]
    target_ids = [tokenizer.encode(example.target) for example in split.examples]
    unknown = sum(int(np.sum(ids == UNK)) for ids in (*source_ids, *target_ids))
    return Encoded(split, source_ids, target_ids, unknown)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Training batches by index, and how long an epoch is."""

    batches: Streams | Buckets
    left_out: int  # pairs longer than `max_length`

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def tokens_per_epoch(self) -> int:
        """Real target tokens."""
        return self.batches.tokens_per_epoch

    @property
    def padding(self) -> float:
        """The share of positions that hold no token, 0 to 1."""
        return self.batches.padding

    def iterate(self, start: int, stop: int, put: Callable[[Batch], Batch]) -> Iterator[Batch]:
        """Batches `start` to `stop`, made ahead by threads; `put` moves a batch to the devices."""
        made = grain.MapDataset.range(start, stop).map(lambda i: put(self.batches[int(i)]))
        return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def training_data(encoded: Encoded, config: DataConfig, seed: int) -> TrainingData:
    if TASKS[config.task].layout == "streams":
        return TrainingData(Streams(encoded.target_ids, config.batch_size, config.window, config.reset_rate, seed), 0)
    fitting = [pair for pair in encoded.pairs if max(map(len, pair)) < config.max_length]
    if not fitting:
        what = f"no training pair has at most {config.max_length} tokens on both sides"
        raise UserError("config.data.max_length", what, "raise it")
    left_out = len(encoded.pairs) - len(fitting)
    return TrainingData(Buckets(fitting, config.batch_size, config.buckets, seed), left_out)


def evaluation_batches(encoded: Encoded, config: DataConfig) -> Iterator[Batch]:
    """One pass over a split, every token once."""
    if TASKS[config.task].layout == "streams":
        yield from batches.evaluation_streams(encoded.target_ids, config.evaluation_streams, config.window)
    else:
        for _, batch in batches.evaluation_buckets(encoded.pairs, config.batch_size, config.buckets):
            yield batch
