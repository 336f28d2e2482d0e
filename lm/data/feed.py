"""The feed: creates the layout of a configuration, and prepares its batches ahead of training."""

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
    """Training batches by index, and the size of an epoch."""

    batches: Layout
    left_out: int  # pairs that are longer than `max_length`
    workers: int = 0  # processes that create batches; 0: a thread of this process

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def tokens_per_epoch(self) -> int:
        """The number of target tokens in an epoch, without padding."""
        return self.batches.tokens_per_epoch

    @property
    def padding(self) -> float:
        """The share of positions that are padding, 0 to 1."""
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
        """Returns an iterator over batches `start` to `stop - 1`, which are prepared ahead.

        Each of several hosts gets an equal, consecutive share of the examples of every batch, and reads no others.

        Args:
            start: index of the first batch.
            stop: index after the last batch.
            put: moves a batch to the devices.
            host: index of this host.
            hosts: number of hosts; must divide the batch size.
            say: logs a line when a worker process died.
        """
        share = self.batches.batch_size // hosts
        make = functools.partial(_share, self.batches, range(host * share, (host + 1) * share))
        if self.workers and stop > start:
            make = Workers(make, start, stop, self.workers, say).take
        # One thread, as `Workers.take` needs the batches to be requested in order.
        made = grain.MapDataset.range(start, stop).map(make).map(put)
        return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _share(layout: Layout, rows: range, index: int) -> Batch:
    return layout.share(int(index), rows)


def training_data(encoded: Encoded, config: DataConfig, seed: int) -> TrainingData:
    """Returns the training batches of a split, in the layout of the configuration.

    Raises:
        UserError: no pair fits into `data.max_length`.
    """
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
            reason = f"is {config.max_length}, and every training pair is longer, its end token included"
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
    """Yields (numbers of the examples, their batch) in one pass over a split of a task with a source."""
    front_end = FRONT_ENDS[TASKS[config.task].source]
    return buckets.evaluation_buckets(encoded.corpus, config.batch_size, config.buckets, front_end)


def evaluation_batches(encoded: Encoded, config: DataConfig) -> Iterator[Batch]:
    """Yields the batches of one pass over a split, with each token once, whatever the layout of training."""
    if TASKS[config.task].has_source:
        for _, batch in numbered_evaluation_batches(encoded, config):
            yield batch
    else:
        yield from streams.evaluation_streams(encoded.corpus, config.evaluation_streams, config.window)
