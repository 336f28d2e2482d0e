"""The streams layout: one continuous text in parallel streams, which are read window after window."""

from collections.abc import Iterator

import numpy as np

from lm.batch import BOS, EOS, PAD, Batch
from lm.data.batches.corpus import Corpus
from lm.data.batches.layout import Layout


class Streams(Layout):
    """Training batches of `batch_size` parallel streams, in windows of `window` tokens.

    In each epoch the documents are shuffled and concatenated, each followed by EOS. The result is rotated by a random
    offset and split into `batch_size` streams, so an epoch uses each token once. Window `w + 1` of a stream continues
    window `w`, and the state is carried over.

    A random share `reset_rate` of the windows starts from a zero state, as a document does. Without such windows, a
    model of one long text would see the zero state only once per epoch, and a prompt starts from that state.

    Args:
        corpus: the documents.
        batch_size: number of streams.
        window: tokens per window.
        reset_rate: the share of windows that start from a zero state, 0 to 1.
        seed: seed of the order, the rotation and the resets.
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
        # The first window of an epoch clears the state, which is left over from the end of the epoch before.
        rng = np.random.default_rng([self.seed, epoch, step])
        cleared_b = (rng.random(self.batch_size) < self.reset_rate)[rows.start : rows.stop] | (step == 0)
        return _window_batch(plan.read(begin_b + column[0] - 1, self.window + 1), real, cleared_b)


def _shuffled(closed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the numbers of all examples: documents in random order, the examples of a document in their own order."""
    starts = np.flatnonzero(np.concatenate([[True], closed[:-1]]))
    sizes = np.diff(starts, append=len(closed))
    order = rng.permutation(len(starts))
    sizes = sizes[order]
    return np.repeat(starts[order] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(closed))


class _Ring:
    """Documents in a given order, concatenated, each followed by EOS, and rotated by `turn`; read on demand."""

    def __init__(self, corpus: Corpus, epoch: int, order: np.ndarray, turn: int):
        self.corpus, self.epoch, self.order, self.turn = corpus, epoch, order, turn
        # The position after each example; the EOS of a document belongs to its last example.
        self.ends = np.cumsum(corpus.lengths(epoch)[order, 1] + corpus.closed[order], dtype=np.int64)
        self._held: dict[int, np.ndarray] = {}  # the examples read last, as the next window continues in them

    def read(self, begin_b: np.ndarray, count: int) -> np.ndarray:
        """Returns int32 [b, count]: `count` ids from each position on; after the end the ring starts again."""
        size = int(self.ends[-1])
        begin_b = (begin_b - self.turn) % size
        first_b = np.searchsorted(self.ends, begin_b, side="right")
        offset_b = begin_b - np.where(first_b > 0, self.ends[first_b - 1], 0)
        laps, rest = divmod(count, size)
        last = (begin_b + rest - 1) % size if rest else begin_b
        last_b = np.searchsorted(self.ends, last, side="right")
        # A window of a tiny text may go round several times: then all documents are read, as often as needed.
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
    """Yields the batches of one pass over all documents in order, in at most `streams` parallel streams.

    A stream starts at the start of a document if one is near, otherwise within a document; its state starts from zero.
    So with one stream the state is carried through the whole text, except that each document starts from zero.

    Args:
        corpus: the documents.
        streams: the most streams.
        window: tokens per window.
    """
    ring = _Ring(corpus, 0, np.arange(len(corpus)), 0)
    starts = np.concatenate([[0], ring.ends[:-1][corpus.closed[:-1]]])
    edges = _edges(starts, int(ring.ends[-1]), streams)
    begin_b, end_b = edges[:-1], edges[1:]
    for offset in range(0, int((end_b - begin_b).max()), window):
        real = begin_b[:, None] + offset + np.arange(window) < end_b[:, None]
        yield _window_batch(ring.read(begin_b + offset - 1, window + 1), real, np.full(len(begin_b), offset == 0))


def _edges(starts: np.ndarray, length: int, streams: int) -> np.ndarray:
    """Returns the start of each stream, and the end of the text.

    The parts are nearly equal; a start moves to the nearest start of a document within half a part.
    """
    part = length / streams
    edges = [0]
    for k in range(1, streams):
        nearest = int(starts[np.abs(starts - k * part).argmin()])
        edges.append(nearest if abs(nearest - k * part) < part / 2 else round(k * part))
    return np.unique([*edges, length])


def _window_batch(ids: np.ndarray, real: np.ndarray, cleared_b: np.ndarray) -> Batch:
    """Returns the batch of ids [b, t + 1], which begin one id before the window; inputs at resets are BOS."""
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
