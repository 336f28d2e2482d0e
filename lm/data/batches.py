"""Three layouts of encoded text. Batch `i` is a pure function of `(seed, i)`; a resume is a number.

*Streams* cut one continuous text into rows that are read side by side, window after window, the recurrent state
carried along. *Buckets* pad examples to a few lengths. *Packed* puts several examples into a row. Only numpy here: what
happens to whole batches on their way to the device is in `pipeline.py`. A process may ask for some rows of a batch
only; it then reads the examples of those alone.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.data.corpus import Corpus, Pair, Recent
from lm.data.tokenizers import BOS, EOS, PAD


class Batch(NamedTuple):
    """int32 ids, `PAD` where there is nothing; leading axis batch."""

    source_bs: np.ndarray | None  # what the encoder reads, ended by EOS; None without encoder
    inputs_bt: np.ndarray  # the token before each target; BOS at a document's start
    targets_bt: np.ndarray  # what the decoder must write, ended by EOS
    weights_bt: np.ndarray  # float32, 1 on real targets and 0 on padding
    resets_bt: np.ndarray  # bool, True where a document starts: the state is cleared, or read from the source anew
    # Packed pairs: the position in source_bs of the EOS of each example of the row, ascending, and the width of source_bs
    # where a row has fewer; the k-th reset of a row starts the k-th example. None: a row is one example.
    source_ends_bk: np.ndarray | None = None


def pad_rows(batch: Batch, rows: int) -> Batch:
    """The batch with empty rows added at its end: PAD everywhere, weight 0."""
    fill = rows - batch.inputs_bt.shape[0]
    return Batch(*(None if a is None else np.pad(a, [(0, fill), (0, 0)]) for a in batch))


class Layout:
    """Batches by number. A layout says how many an epoch has and makes one of them."""

    corpus: Corpus
    batch_size: int
    padding: float  # share of positions that hold no token, over the first epoch

    def __init__(self):
        self._plans = Recent(lambda epoch: self.plan(epoch))
        closed = int(np.sum(self.corpus.closed))
        written = [self.corpus.lengths(epoch)[:, 1] for epoch in range(self.corpus.variants)]
        self._tokens = [int(np.sum(each, dtype=np.int64)) + closed for each in written]
        steps = [self.steps(epoch) for epoch in range(self.corpus.variants)]
        self._ends = np.cumsum(steps).tolist()  # of the epochs of one round of variants
        self.steps_per_epoch = -(-self._ends[-1] // len(steps))
        self.tokens_per_epoch = sum(self._tokens) // len(self._tokens)

    def tokens(self, epoch: int) -> int:
        """Target tokens of an epoch, the EOS of each document included."""
        return self._tokens[epoch % self.corpus.variants]

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        raise NotImplementedError

    def plan(self, epoch: int) -> Any:
        """What the batches of an epoch are made from; asked for once."""
        raise NotImplementedError

    def make(self, plan: Any, epoch: int, step: int, rows: range) -> Batch:
        """Rows of a batch of an epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Batch:
        return self.part(index, range(self.batch_size))

    def part(self, index: int, rows: range) -> Batch:
        """Some rows of batch `index`."""
        round_, place = divmod(index, self._ends[-1])
        variant = bisect.bisect_right(self._ends, place)
        step = place - (self._ends[variant - 1] if variant else 0)
        epoch = round_ * self.corpus.variants + variant
        return self.make(self._plans(epoch), epoch, step, rows)


# ---- streams ----------------------------------------------------------------------------------------------------


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
        return _cut(plan.read(begin_b + column[0] - 1, self.window + 1), real, cleared_b)


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
        yield _cut(ring.read(begin_b + offset - 1, window + 1), real, np.full(len(begin_b), offset == 0))


def _edges(starts: np.ndarray, length: int, streams: int) -> np.ndarray:
    """Where rows begin, and the end: near equal parts, moved to the nearest document's start within half a part."""
    part = length / streams
    edges = [0]
    for k in range(1, streams):
        nearest = int(starts[np.abs(starts - k * part).argmin()])
        edges.append(nearest if abs(nearest - k * part) < part / 2 else round(k * part))
    return np.unique([*edges, length])


def _cut(ids: np.ndarray, real: np.ndarray, cleared_b: np.ndarray) -> Batch:
    """The batch of ids [b, t + 1], the one before the window first; where the state is cleared BOS is read."""
    before, ids = ids[:, :-1], ids[:, 1:]
    resets = before == EOS
    resets[:, 0] |= cleared_b
    return Batch(
        source_bs=None,
        inputs_bt=np.where(real, np.where(resets, BOS, before), PAD).astype(np.int32),
        targets_bt=np.where(real, ids, PAD).astype(np.int32),
        weights_bt=real.astype(np.float32),
        resets_bt=real & resets,
    )


# ---- buckets ----------------------------------------------------------------------------------------------------

MOST_SCORES = 2**24  # source times target positions of an evaluation batch: attention holds a score for each


class Buckets(Layout):
    """Training batches of `batch_size` pairs, padded to one of a few (source, target) lengths.

    Every epoch all pairs are used once; the last batch of a bucket is filled with empty rows.
    """

    def __init__(self, corpus: Corpus, batch_size: int, buckets: int, seed: int):
        self.corpus, self.batch_size, self.seed = corpus, batch_size, seed
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
            for chosen in _chunks(rng.permutation(members), self.batch_size)
        ]
        return [plan[i] for i in rng.permutation(len(plan))]

    def make(self, plan: list, epoch: int, step: int, rows: range) -> Batch:
        shape, chosen = plan[step]
        return pad_pairs(self.corpus.take(chosen[rows.start : rows.stop], epoch), shape, len(rows))


def evaluation_buckets(corpus: Corpus, batch_size: int, buckets: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """One pass over all pairs, whatever their length: (numbers of the pairs, batch)."""
    lengths = corpus.lengths(0) + 1
    shapes = _shapes(lengths, buckets)
    for shape, members in zip(shapes, _assign(lengths, shapes), strict=True):
        rows = max(1, min(batch_size, MOST_SCORES // (shape[0] * shape[1])))
        for chosen in _chunks(members, rows):
            yield chosen, pad_pairs(corpus.take(chosen, 0), shape, rows)


def pad_pairs(pairs: Sequence[Pair], shape: tuple[int, int], rows: int) -> Batch:
    """Pairs as a batch of `rows` rows and (source, target) lengths `shape`, EOS included."""
    row_k = np.arange(len(pairs))
    source = end_to_end([source for source, _ in pairs], row_k, (rows, shape[0]))
    batch = decoded([target for _, target in pairs], row_k, (rows, shape[1]))
    return batch._replace(source_bs=source, resets_bt=np.zeros(batch.resets_bt.shape, bool))


def end_to_end(texts: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int32 `shape`: the texts, each ended by EOS, one after the other in the rows `row_k`, ascending.

    All at once, as an assignment for each short text takes longer than all else.
    """
    size_k = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    end_k = np.cumsum(size_k)
    inside = np.ones(size_k.sum(), bool)
    inside[end_k - 1] = False
    flat = np.full(len(inside), EOS, np.int32)
    flat[inside] = np.concatenate([flat[:0], *texts])
    used_b = np.bincount(row_k, size_k, shape[0])
    ids = np.full(shape, PAD, np.int32)
    ids[np.arange(shape[1]) < used_b[:, None]] = flat
    return ids


def decoded(texts: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> Batch:
    """A batch without source: the decoder writes the texts of a row one after the other, its state reset at each."""
    targets = end_to_end(texts, row_k, shape)
    inputs = np.empty(shape, np.int32)
    inputs[:, 0], inputs[:, 1:] = EOS, targets[:, :-1]
    real = targets != PAD
    resets = (inputs == EOS) & real
    inputs[resets], inputs[~real] = BOS, PAD
    return Batch(None, inputs, targets, real.astype(np.float32), resets)


def _chunks(members: np.ndarray, size: int) -> list[np.ndarray]:
    return [members[i : i + size] for i in range(0, len(members), size)]


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
