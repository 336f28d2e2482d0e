"""The buckets layout: pairs padded to a few lengths."""

from collections.abc import Iterator, Sequence

import numpy as np

from lm.batch import Batch
from lm.data.batches.corpus import Corpus, Pair
from lm.data.batches.layout import Layout, chunks, decoded
from lm.data.front_ends import TEXT, FrontEnd

MOST_SCORES = 2**24  # source times target positions of an evaluation batch: attention holds a score for each


class Buckets(Layout):
    """Training batches of `batch_size` pairs, padded to one of a few (source, target) lengths.

    Every epoch all pairs are used once; the last batch of a bucket is filled with empty rows.
    """

    def __init__(self, corpus: Corpus, batch_size: int, buckets: int, seed: int, front_end: FrontEnd = TEXT):
        self.corpus, self.batch_size, self.seed, self._front_end = corpus, batch_size, seed, front_end
        lengths = [corpus.lengths(variant) + 1 for variant in range(corpus.variants)]
        self.shapes = _shapes(np.concatenate(lengths), buckets)
        self.members = [_assign(each, self.shapes) for each in lengths]  # of each variant
        super().__init__()
        chunks = [-(-len(m) // batch_size) * sum(shape) for shape, m in zip(self.shapes, self.members[0], strict=True)]
        self.padding = 1 - int(lengths[0].sum()) / (sum(chunks) * batch_size)

    def steps(self, epoch: int) -> int:
        return sum(-(-len(m) // self.batch_size) for m in self.members[epoch % self.corpus.variants])

    def plan(self, epoch: int) -> list[tuple[tuple[int, int], np.ndarray]]:
        """Shape and pairs of each batch."""
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
    """One pass over all pairs, whatever their length: (numbers of the pairs, batch)."""
    lengths = corpus.lengths(0) + 1
    shapes = _shapes(lengths, buckets)
    for shape, members in zip(shapes, _assign(lengths, shapes), strict=True):
        rows = max(1, min(batch_size, MOST_SCORES // (shape[0] * shape[1])))
        for chosen in chunks(members, rows):
            yield chosen, pad_pairs(corpus.take(chosen, 0), shape, rows, front_end)


def pad_pairs(pairs: Sequence[Pair], shape: tuple[int, int], rows: int, front_end: FrontEnd = TEXT) -> Batch:
    """Pairs as a batch of `rows` rows and (source, target) lengths `shape`, EOS included."""
    row_k = np.arange(len(pairs))
    source = front_end.pad([source for source, _ in pairs], row_k, (rows, shape[0]))
    batch = decoded([target for _, target in pairs], row_k, (rows, shape[1]))
    return batch._replace(source=source, resets_bt=np.zeros(batch.resets_bt.shape, bool))


LEVELS = 128  # lengths of a side that shapes are chosen from


def _shapes(lengths: np.ndarray, buckets: int) -> list[tuple[int, int]]:
    """At most `buckets` (source, target) lengths that leave little padding, smallest first.

    One after the other is put where it saves the most; each time, all move in turn to where they save the most while
    the others stay, until none can save any more. The sides are free of each other: a pair that is long on one side only
    need not make a shape larger for the many that are not.
    """
    (source, source_level), (target, target_level) = (_levels(side) for side in lengths.T)
    total = source[:, None] + target  # positions of a pair that is padded to these levels
    cells = np.bincount(source_level * len(target) + target_level, minlength=total.size)
    count = cells.reshape(total.shape)  # pairs
    shapes: list[tuple[int, int]] = []  # as places in this grid
    for _ in range(buckets):
        shapes.append(_placed(shapes, count, total))
        before, held = 0, _held(shapes, count, total)
        while held != before:
            for k in range(len(shapes)):
                shapes[k] = _placed(shapes[:k] + shapes[k + 1 :], count, total)
            before, held = held, _held(shapes, count, total)
    members = _assign(lengths, sorted([(int(source[s]), int(target[t])) for s, t in shapes], key=sum))
    # Between two levels there may be no pair as long as the upper one, and some shapes may be of no use.
    return sorted({tuple(lengths[m].max(axis=0).tolist()) for m in members if len(m)}, key=lambda s: (sum(s), s))


def _levels(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(levels, ascending; number of each length's level): the lengths themselves, or near them if they are many."""
    levels = np.flatnonzero(np.bincount(lengths))
    longest = int(levels[-1])
    if len(levels) > LEVELS:
        levels = np.unique(np.ceil(np.geomspace(levels[0], longest, LEVELS)).astype(np.int64))
    return levels, np.searchsorted(levels, np.arange(longest + 1))[lengths]


def _owner(shapes: list[tuple[int, int]], total: np.ndarray) -> np.ndarray:
    """For each place of the grid the smallest shape that holds it; -1 where none does."""
    owner = np.full(total.shape, -1)
    for k in sorted(range(len(shapes)), key=lambda k: -total[shapes[k]]):
        owner[: shapes[k][0] + 1, : shapes[k][1] + 1] = k
    return owner


def _held(shapes: list[tuple[int, int]], count: np.ndarray, total: np.ndarray) -> int:
    """Positions that all pairs take."""
    owner = _owner(shapes, total)
    return sum(int(count[owner == k].sum() * total[shape]) for k, shape in enumerate(shapes))


def _placed(rest: list[tuple[int, int]], count: np.ndarray, total: np.ndarray) -> tuple[int, int]:
    """Where one shape beside the rest leaves the least padding; it holds what they do not."""
    owner = _owner(rest, total)
    saved = -count[owner < 0].sum() * total
    for k, shape in enumerate(rest):
        moved = np.where(owner == k, count, 0).cumsum(axis=0).cumsum(axis=1)  # pairs that a shape here takes from this
        saved += moved * np.maximum(total[shape] - total, 0)
    least = np.argwhere((owner < 0) & (count > 0)).max(axis=0, initial=0)
    saved[: least[0]] = saved[:, : least[1]] = np.iinfo(saved.dtype).min
    return tuple(int(i) for i in np.unravel_index(saved.argmax(), saved.shape))


def _assign(lengths: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each shape, the pairs for which it is the first that holds them."""
    first = np.full(len(lengths), len(shapes))
    for k in reversed(range(len(shapes))):
        first[(lengths[:, 0] <= shapes[k][0]) & (lengths[:, 1] <= shapes[k][1])] = k
    return [np.flatnonzero(first == k) for k in range(len(shapes))]
