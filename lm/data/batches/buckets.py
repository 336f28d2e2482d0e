"""The buckets layout: pairs that are padded to one of a few lengths."""

from collections.abc import Iterator, Sequence

import numpy as np

from lm.batch import Batch
from lm.data.batches.corpus import Corpus, Pair
from lm.data.batches.layout import Layout, chunks, decoded
from lm.data.front_ends import TEXT, FrontEnd

MOST_SCORES = 2**24  # source times target positions of an evaluation batch: attention keeps a score for each


class Buckets(Layout):
    """Training batches of `batch_size` pairs, padded to one of a few (source, target) lengths.

    An epoch uses each pair once. The last batch of a bucket is filled up with empty examples.

    Args:
        corpus: the pairs.
        batch_size: examples per batch.
        buckets: the most (source, target) lengths, and so the most shapes that the training step is compiled for.
        seed: seed of the order of pairs and batches.
        front_end: pads the sources.
    """

    def __init__(self, corpus: Corpus, batch_size: int, buckets: int, seed: int, front_end: FrontEnd = TEXT):
        self.corpus, self.batch_size, self.seed, self._front_end = corpus, batch_size, seed, front_end
        lengths = [corpus.lengths(variant) + 1 for variant in range(corpus.variants)]
        self.shapes = _shapes(np.concatenate(lengths), buckets)
        self.members = [_assign(each, self.shapes) for each in lengths]  # per variant: the pairs of each shape
        super().__init__()
        chunks = [-(-len(m) // batch_size) * sum(shape) for shape, m in zip(self.shapes, self.members[0], strict=True)]
        self.padding = 1 - int(lengths[0].sum()) / (sum(chunks) * batch_size)

    def steps(self, epoch: int) -> int:
        return sum(-(-len(m) // self.batch_size) for m in self.members[epoch % self.corpus.variants])

    def plan(self, epoch: int) -> list[tuple[tuple[int, int], np.ndarray]]:
        """Returns the (source, target) lengths of each batch, and the numbers of its pairs."""
        rng = np.random.default_rng([self.seed, epoch])
        plan = [
            (shape, chosen)
            for shape, members in zip(self.shapes, self.members[epoch % self.corpus.variants], strict=True)
            for chosen in chunks(rng.permutation(members), self.batch_size)
        ]
        return [plan[i] for i in rng.permutation(len(plan))]

    def make(self, plan: list, epoch: int, step: int, rows: range) -> Batch:
        shape, chosen = plan[step]
        return pad_pairs(self.corpus.take(chosen[rows.start : rows.stop], epoch), shape, len(rows), self._front_end)


def evaluation_buckets(
    corpus: Corpus, batch_size: int, buckets: int, front_end: FrontEnd = TEXT
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields (numbers of the pairs, batch) in one pass over all pairs, of any length.

    A batch of long pairs has fewer than `batch_size`, so that attention scores fit into memory.
    """
    lengths = corpus.lengths(0) + 1
    shapes = _shapes(lengths, buckets)
    for shape, members in zip(shapes, _assign(lengths, shapes), strict=True):
        rows = max(1, min(batch_size, MOST_SCORES // (shape[0] * shape[1])))
        for chosen in chunks(members, rows):
            yield chosen, pad_pairs(corpus.take(chosen, 0), shape, rows, front_end)


def pad_pairs(pairs: Sequence[Pair], shape: tuple[int, int], rows: int, front_end: FrontEnd = TEXT) -> Batch:
    """Returns a batch of `rows` examples, filled with pairs, of (source, target) lengths `shape`, EOS included."""
    row_k = np.arange(len(pairs))
    source = front_end.pad([source for source, _ in pairs], row_k, (rows, shape[0]))
    batch = decoded([target for _, target in pairs], row_k, (rows, shape[1]))
    return batch._replace(source=source, resets_bt=np.zeros(batch.resets_bt.shape, bool))


LEVELS = 128  # the most candidate lengths per side


def _shapes(lengths: np.ndarray, buckets: int) -> list[tuple[int, int]]:
    """Returns at most `buckets` (source, target) lengths that leave little padding, the smallest first.

    A greedy search adds one shape at a time where it saves the most positions. After each addition, every shape in turn
    moves to its best place while the others stay, until no move saves any more. The two lengths of a shape are
    independent, so a pair with one long side does not lengthen the other side of its bucket.

    Args:
        lengths: int [n, 2], the source and target lengths of the pairs, EOS included.
        buckets: the most shapes.
    """
    (source, source_level), (target, target_level) = (_levels(side) for side in lengths.T)
    total = source[:, None] + target  # [source level, target level]: positions of a pair that is padded to these levels
    cells = np.bincount(source_level * len(target) + target_level, minlength=total.size)
    count = cells.reshape(total.shape)  # pairs at each pair of levels
    shapes: list[tuple[int, int]] = []  # as indices into this grid
    for _ in range(buckets):
        shapes.append(_placed(shapes, count, total))
        before, held = 0, _held(shapes, count, total)
        while held != before:
            for k in range(len(shapes)):
                shapes[k] = _placed(shapes[:k] + shapes[k + 1 :], count, total)
            before, held = held, _held(shapes, count, total)
    members = _assign(lengths, sorted([(int(source[s]), int(target[t])) for s, t in shapes], key=sum))
    # Shrink each shape to its longest members, as a level may exceed them, and drop shapes without members.
    return sorted({tuple(lengths[m].max(axis=0).tolist()) for m in members if len(m)}, key=lambda s: (sum(s), s))


def _levels(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (levels, the index of the level of each length).

    Levels are ascending: all lengths that occur, or a geometric series of about `LEVELS` if there are more.
    """
    levels = np.flatnonzero(np.bincount(lengths))
    longest = int(levels[-1])
    if len(levels) > LEVELS:
        levels = np.unique(np.ceil(np.geomspace(levels[0], longest, LEVELS)).astype(np.int64))
    return levels, np.searchsorted(levels, np.arange(longest + 1))[lengths]


def _owner(shapes: list[tuple[int, int]], total: np.ndarray) -> np.ndarray:
    """Returns for each cell of the grid the index of the smallest shape that holds it, or -1."""
    owner = np.full(total.shape, -1)
    for k in sorted(range(len(shapes)), key=lambda k: -total[shapes[k]]):
        owner[: shapes[k][0] + 1, : shapes[k][1] + 1] = k
    return owner


def _held(shapes: list[tuple[int, int]], count: np.ndarray, total: np.ndarray) -> int:
    """Returns the number of positions of all pairs that the shapes hold, padding included."""
    owner = _owner(shapes, total)
    return sum(int(count[owner == k].sum() * total[shape]) for k, shape in enumerate(shapes))


def _placed(rest: list[tuple[int, int]], count: np.ndarray, total: np.ndarray) -> tuple[int, int]:
    """Returns the cell for one more shape that leaves the least padding and holds all pairs that `rest` does not."""
    owner = _owner(rest, total)
    saved = -count[owner < 0].sum() * total
    for k, shape in enumerate(rest):
        # The number of pairs that would move from shape k to a new shape at each cell.
        moved = np.where(owner == k, count, 0).cumsum(axis=0).cumsum(axis=1)
        saved += moved * np.maximum(total[shape] - total, 0)
    least = np.argwhere((owner < 0) & (count > 0)).max(axis=0, initial=0)
    saved[: least[0]] = saved[:, : least[1]] = np.iinfo(saved.dtype).min
    return tuple(int(i) for i in np.unravel_index(saved.argmax(), saved.shape))


def _assign(lengths: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Returns for each shape the numbers of the pairs for which it is the first that holds them."""
    first = np.full(len(lengths), len(shapes))
    for k in reversed(range(len(shapes))):
        first[(lengths[:, 0] <= shapes[k][0]) & (lengths[:, 1] <= shapes[k][1])] = k
    return [np.flatnonzero(first == k) for k in range(len(shapes))]
