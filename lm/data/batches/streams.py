"""The streams layout: one continuous text in rows that are read side by side, window after window."""

from collections.abc import Iterator

import numpy as np

from lm.batch import BOS, EOS, PAD, Batch
from lm.data.batches.corpus import Corpus
from lm.data.batches.layout import Layout


class Streams(Layout):
    """Training batches of `batch_size` parallel streams, `window` steps each.

    Every epoch the documents are shuffled, laid end to end (each ended by EOS), turned by a random offset, and cut
    into `batch_size` streams; all tokens are used once. Window `w + 1` continues window `w` in every row, but for a
    share `reset_rate` of them, which start as a document does. Without it a model that reads one long text meets the
    zero state once an epoch, and may know nothing to say from there: just where a prompt begins.
    """

    def __init__(self, corpus: Corpus, batch_size: int, window: int, reset_rate: float, seed: int):
        self.corpus, self.batch_size, self.window = corpus, batch_size, window
        self.reset_rate, self.seed = reset_rate, seed
        super().__init__()
        self.padding = 1 - self.tokens(0) / (self.steps(0) * window * batch_size)

    def _length(self, epoch: int) -> int:
        return -(-self.tokens(epoch) // self.batch_size)

    def steps(self, epoch: int) -> int:
        return -(-self._length(epoch) // self.window)

    def plan(self, epoch: int) -> "_Ring":
        rng = np.random.default_rng([self.seed, epoch])
        order = _shuffled(self.corpus.closed, rng)
        return _Ring(self.corpus, epoch, order, int(rng.integers(self.tokens(epoch))))

    def make(self, plan: "_Ring", epoch: int, step: int, rows: range) -> Batch:
        length = self._length(epoch)
        column = step * self.window + np.arange(self.window)
        begin_b = np.arange(rows.start, rows.stop) * length
        real = (column < length) & (begin_b[:, None] + column < self.tokens(epoch))
        # A stream's first step clears the state: what was carried belongs to the end of the epoch before.
        rng = np.random.default_rng([self.seed, epoch, step])
        cleared_b = (rng.random(self.batch_size) < self.reset_rate)[rows.start : rows.stop] | (step == 0)
        return _window_batch(plan.read(begin_b + column[0] - 1, self.window + 1), real, cleared_b)


def _shuffled(closed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of all examples, documents in random order, the examples of one in theirs."""
    starts = np.flatnonzero(np.concatenate([[True], closed[:-1]]))
    sizes = np.diff(starts, append=len(closed))
    order = rng.permutation(len(starts))
    sizes = sizes[order]
    return np.repeat(starts[order] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(closed))


class _Ring:
    """Documents in an order, end to end, each ended by EOS, turned by an offset; read where it is asked for."""

    def __init__(self, corpus: Corpus, epoch: int, order: np.ndarray, turn: int):
        self.corpus, self.epoch, self.order, self.turn = corpus, epoch, order, turn
        # Of each example, the EOS of its document included where that ends with it.
        self.ends = np.cumsum(corpus.lengths(epoch)[order, 1] + corpus.closed[order], dtype=np.int64)
        self._held: dict[int, np.ndarray] = {}  # the examples read last: the next window goes on in them

    def read(self, begin_b: np.ndarray, count: int) -> np.ndarray:
        """int32 [b, count]: the ids from each position on, round and round."""
        size = int(self.ends[-1])
        begin_b = (begin_b - self.turn) % size
        first_b = np.searchsorted(self.ends, begin_b, side="right")
        offset_b = begin_b - np.where(first_b > 0, self.ends[first_b - 1], 0)
        laps, rest = divmod(count, size)
        last = (begin_b + rest - 1) % size if rest else begin_b
        last_b = np.searchsorted(self.ends, last, side="right")
        # More than once round, in a tiny text: all documents, so many times.
        wrapped_b = (last_b < first_b) | ((last_b == first_b) & (last < begin_b))
        number_b = last_b - first_b + 1 + len(self.ends) * (wrapped_b + laps)
        numbers = [self.order[np.arange(f, f + n) % len(self.order)] for f, n in zip(first_b, number_b, strict=True)]
        wanted = dict.fromkeys(np.concatenate(numbers).tolist())
        held = self._held
        missing = [number for number in wanted if number not in held]
        read = dict(zip(missing, self.corpus.take(missing, self.epoch), strict=True))
        end = np.array([EOS], np.int32)
        documents = {
            n: held[n] if n in held else np.concatenate([read[n][1], end[: int(self.corpus.closed[n])]]) for n in wanted
        }
        self._held = documents
        ids = np.empty((len(begin_b), count), np.int32)
        for row, (chosen, offset) in enumerate(zip(numbers, offset_b, strict=True)):
            parts = [documents[number] for number in chosen.tolist()]
            ids[row] = (parts[0] if len(parts) == 1 else np.concatenate(parts))[offset : offset + count]
        return ids


def evaluation_streams(corpus: Corpus, streams: int, window: int) -> Iterator[Batch]:
    """One pass over all documents in order, as `streams` rows, whatever the batch size of training.

    A row starts at a document's start where one is near, else within a document, and then its state starts from zero:
    with 1 stream the state is carried through the whole text.
    """
    ring = _Ring(corpus, 0, np.arange(len(corpus)), 0)
    starts = np.concatenate([[0], ring.ends[:-1][corpus.closed[:-1]]])
    edges = _edges(starts, int(ring.ends[-1]), streams)
    begin_b, end_b = edges[:-1], edges[1:]
    for offset in range(0, int((end_b - begin_b).max()), window):
        real = begin_b[:, None] + offset + np.arange(window) < end_b[:, None]
        yield _window_batch(ring.read(begin_b + offset - 1, window + 1), real, np.full(len(begin_b), offset == 0))


def _edges(starts: np.ndarray, length: int, streams: int) -> np.ndarray:
    """Where rows begin, and the end: near equal parts, moved to the nearest document's start within half a part."""
    part = length / streams
    edges = [0]
    for k in range(1, streams):
        nearest = int(starts[np.abs(starts - k * part).argmin()])
        edges.append(nearest if abs(nearest - k * part) < part / 2 else round(k * part))
    return np.unique([*edges, length])


def _window_batch(ids: np.ndarray, real: np.ndarray, cleared_b: np.ndarray) -> Batch:
    """The batch of ids [b, t + 1], the one before the window first; where the state is cleared BOS is read."""
    before, ids = ids[:, :-1], ids[:, 1:]
    resets = before == EOS
    resets[:, 0] |= cleared_b
    return Batch(
        source=None,
        inputs_bt=np.where(real, np.where(resets, BOS, before), PAD).astype(np.int32),
        targets_bt=np.where(real, ids, PAD).astype(np.int32),
        weights_bt=real.astype(np.float32),
        resets_bt=real & resets,
    )
