"""The packed layout: several examples a row, so that almost no position is padding."""

import numpy as np

from lm.batch import Batch
from lm.data.batches.corpus import Corpus
from lm.data.batches.layout import Layout, decoded
from lm.data.front_ends import FrontEnd

OPEN = 128  # rows that are filled side by side


class Packed(Layout):
    """Training batches of `batch_size` rows, each holding whole examples, the state reset between them.

    The rows are put together once; every epoch they are shuffled, and the last batch is filled with empty ones. The
    side with more tokens is `width` positions long, the other in proportion.
    """

    def __init__(self, corpus: Corpus, batch_size: int, width: int, front_end: FrontEnd | None, seed: int):
        """No example may be longer than `width`, its end included; `front_end` is None where there is no source."""
        has_source = front_end is not None
        self.corpus, self.batch_size, self.seed = corpus, batch_size, seed
        lengths = [corpus.lengths(variant) + [int(has_source), 1] for variant in range(corpus.variants)]
        totals, longest = (
            sum(each.sum(axis=0) for each in lengths),
            np.max([each.max(axis=0) for each in lengths], axis=0),
        )
        share = totals / totals.max()
        self.shape = tuple(int(n) for n in np.maximum(np.ceil(width * share), longest))  # source, target
        self.rows = [pack(each, self.shape, seed) for each in lengths]  # of each variant
        self.most = max(len(row) for rows in self.rows for row in rows)  # examples in a row
        self._front_end = front_end
        super().__init__()
        self.padding = 1 - int(lengths[0].sum()) / (self.steps(0) * batch_size * sum(self.shape))

    def steps(self, epoch: int) -> int:
        return -(-len(self.rows[epoch % self.corpus.variants]) // self.batch_size)

    def plan(self, epoch: int) -> np.ndarray:
        """The order of the rows."""
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
        first_b = np.cumsum(count_b) - count_b  # the number of each row's first example
        end_k = np.cumsum([0, *(len(each) + 1 for each in values)])
        ends = np.full((len(rows), self.most), source_width, np.int32)
        ends[row_k, np.arange(len(pairs)) - first_b[row_k]] = end_k[1:] - 1 - end_k[first_b[row_k]]
        return batch._replace(source=self._front_end.pad(values, row_k, (len(rows), source_width)), source_ends_bk=ends)


def pack(lengths: np.ndarray, shape: tuple[int, int], seed: int) -> list[list[int]]:
    """Examples of (source, target) lengths in rows of `shape`: best fit among the rows that are open.

    Examples come in random order, so that rows are alike; each goes where it leaves the least free. When too many rows
    are open, the fullest is closed.
    """
    rows: list[list[int]] = []
    free = np.zeros((0, 2), np.int64)
    opened = np.zeros(0, np.int64)  # the row's number
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
