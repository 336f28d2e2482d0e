"""The packed layout: several examples per sequence, so that almost no position is padding."""

import numpy as np

from lm.batch import Batch
from lm.data.batches.corpus import Corpus
from lm.data.batches.layout import Layout, decoded
from lm.data.front_ends import FrontEnd

OPEN = 128  # the most sequences that are filled at the same time


class Packed(Layout):
    """Training batches of `batch_size` packed sequences of whole examples; the state is reset between examples.

    Examples are packed once. In each epoch the packed sequences are shuffled, and the last batch is filled up with
    empty ones. The side with more tokens has `width` positions. The other side has proportionally fewer, but enough for
    its longest example.
    """

    def __init__(self, corpus: Corpus, batch_size: int, width: int, front_end: FrontEnd | None, seed: int):
        """Packs the examples.

        Args:
            corpus: the examples; none may be longer than `width`, its end included.
            batch_size: packed sequences per batch.
            width: positions of the longer side.
            front_end: pads the sources; None for a task without sources.
            seed: seed of the packing and of the order of each epoch.
        """
        has_source = front_end is not None
        self.corpus, self.batch_size, self.seed = corpus, batch_size, seed
        lengths = [corpus.lengths(variant) + [int(has_source), 1] for variant in range(corpus.variants)]
        totals, longest = (
            sum(each.sum(axis=0) for each in lengths),
            np.max([each.max(axis=0) for each in lengths], axis=0),
        )
        share = totals / totals.max()
        self.shape = tuple(int(n) for n in np.maximum(np.ceil(width * share), longest))  # source, target
        self.rows = [pack(each, self.shape, seed) for each in lengths]  # per variant: the examples of each sequence
        self.most = max(len(row) for rows in self.rows for row in rows)  # the most examples in a sequence
        self._front_end = front_end
        super().__init__()
        self.padding = 1 - int(lengths[0].sum()) / (self.steps(0) * batch_size * sum(self.shape))

    def steps(self, epoch: int) -> int:
        return -(-len(self.rows[epoch % self.corpus.variants]) // self.batch_size)

    def plan(self, epoch: int) -> np.ndarray:
        """Returns the order of the packed sequences in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.rows[epoch % self.corpus.variants]))

    def make(self, plan: np.ndarray, epoch: int, step: int, rows: range) -> Batch:
        packed = self.rows[epoch % self.corpus.variants]
        chosen = [packed[i] for i in plan[step * self.batch_size :][: self.batch_size][rows.start : rows.stop]]
        pairs = self.corpus.take([number for row in chosen for number in row], epoch)
        count_b = np.array([len(row) for row in chosen], np.int64)
        row_k = np.repeat(np.arange(len(chosen)), count_b)
        source_width, target_width = self.shape
        batch = decoded([target for _, target in pairs], row_k, (len(rows), target_width))
        if self._front_end is None:
            return batch
        values = [source for source, _ in pairs]
        first_b = np.cumsum(count_b) - count_b  # index into `pairs` of the first example of each sequence
        end_k = np.cumsum([0, *(len(each) + 1 for each in values)])
        ends = np.full((len(rows), self.most), source_width, np.int32)
        ends[row_k, np.arange(len(pairs)) - first_b[row_k]] = end_k[1:] - 1 - end_k[first_b[row_k]]
        return batch._replace(source=self._front_end.pad(values, row_k, (len(rows), source_width)), source_ends_bk=ends)


def pack(lengths: np.ndarray, shape: tuple[int, int], seed: int) -> list[list[int]]:
    """Returns the numbers of the examples of each packed sequence.

    The algorithm is best fit: an example is added to the open sequence that it leaves with the least free space. If it
    fits into none, a new sequence is opened; if `OPEN` sequences are open, the fullest one is closed first. Examples
    come in random order, so that sequences are alike.

    Args:
        lengths: int [n, 2], the (source, target) lengths of the examples, ends included.
        shape: the (source, target) positions of a packed sequence.
        seed: seed of the order of the examples.
    """
    rows: list[list[int]] = []
    free = np.zeros((0, 2), np.int64)
    opened = np.zeros(0, np.int64)  # the numbers of the open sequences
    for number in np.random.default_rng([seed, len(lengths)]).permutation(len(lengths)).tolist():
        left = free - lengths[number]
        slack = np.where(left.min(axis=1, initial=2**30) >= 0, left.max(axis=1, initial=0), 2**30)
        best = int(slack.argmin()) if len(slack) else -1
        if best >= 0 and slack[best] < 2**30:
            free[best] = left[best]
            rows[opened[best]].append(number)
            continue
        if len(free) == OPEN:
            best = int(free.sum(axis=1).argmin())
            free, opened = np.delete(free, best, axis=0), np.delete(opened, best)
        free = np.concatenate([free, [np.array(shape) - lengths[number]]])
        opened = np.append(opened, len(rows))
        rows.append([number])
    return rows
