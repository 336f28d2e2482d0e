"""Batches on their way to the device: laid out, made ahead."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import grain
import numpy as np

from lm.batch import Batch
from lm.config import DataConfig
from lm.config.tasks import TASKS, layout_of
from lm.data.batches import buckets, streams
from lm.data.batches.buckets import Buckets
from lm.data.batches.corpus import Excerpts, Subset
from lm.data.batches.layout import Layout
from lm.data.batches.packed import Packed
from lm.data.batches.streams import Streams
from lm.data.encoding import Encoded
from lm.data.front_ends import FRONT_ENDS
from lm.data.workers import Workers
from lm.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Training batches by index, and how long an epoch is."""

    batches: Layout
    left_out: int  # pairs longer than `max_length`
    workers: int = 0  # processes that make batches; 0: a thread of this one

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

    def iterate(
        self,
        start: int,
        stop: int,
        put: Callable[[Batch], Batch],
        host: int = 0,
        hosts: int = 1,
        say: Callable[[str], None] = print,
    ) -> Iterator[Batch]:
        """Batches `start` to `stop`, made ahead; `put` moves a batch to the devices, `say` tells of a worker that died.

        Of `hosts` processes each gets its equal, consecutive share of the rows of every batch, and reads no more.
        """
        share = self.batches.batch_size // hosts
        make = functools.partial(_share, self.batches, range(host * share, (host + 1) * share))
        if self.workers and stop > start:
            make = Workers(make, start, stop, self.workers, say).take
        # One thread, so that batches are asked for in order.
        made = grain.MapDataset.range(start, stop).map(make).map(put)
        return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _share(layout: Layout, rows: range, index: int) -> Batch:
    return layout.share(int(index), rows)


def training_data(encoded: Encoded, config: DataConfig, seed: int) -> TrainingData:
    """The layout of the configuration over a split."""
    corpus, layout, has_source = encoded.corpus, layout_of(config), TASKS[config.task].has_source
    front_end = FRONT_ENDS.get(TASKS[config.task].source)
    if layout == "streams":
        return TrainingData(
            Streams(corpus, config.batch_size, config.window, config.reset_rate, seed), 0, config.workers
        )
    left_out = 0
    if has_source:
        longest = np.max([corpus.lengths(v).max(axis=1) for v in range(corpus.variants)], axis=0)
        fitting = np.flatnonzero(longest < config.max_length)
        if not len(fitting):
            reason = f"no training pair has at most {config.max_length} tokens on both sides"
            raise UserError("config.data.max_length", reason, "raise it")
        left_out = len(corpus) - len(fitting)
        corpus = Subset(corpus, fitting) if left_out else corpus
    else:
        corpus = Excerpts(corpus, config.window - 1)
    if layout == "buckets":
        made = Buckets(corpus, config.batch_size, config.buckets, seed, front_end)
    else:
        width = max(config.window, config.max_length * has_source)
        made = Packed(corpus, config.batch_size, width, front_end, seed)
    return TrainingData(made, left_out, config.workers)


def numbered_evaluation_batches(encoded: Encoded, config: DataConfig) -> Iterator[tuple[np.ndarray, Batch]]:
    """One pass over a split of a task with a source: (numbers of the examples, their batch)."""
    front_end = FRONT_ENDS[TASKS[config.task].source]
    return buckets.evaluation_buckets(encoded.corpus, config.batch_size, config.buckets, front_end)


def evaluation_batches(encoded: Encoded, config: DataConfig) -> Iterator[Batch]:
    """One pass over a split, every token once, whatever the layout of training."""
    if TASKS[config.task].has_source:
        for _, batch in numbered_evaluation_batches(encoded, config):
            yield batch
    else:
        yield from streams.evaluation_streams(encoded.corpus, config.evaluation_streams, config.window)
