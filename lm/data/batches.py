"""Two layouts of encoded text. Batch `i` is a pure function of `(seed, i)`; a resume is a number.

*Streams* cut one continuous text into rows that are read side by side, window after window, the recurrent state
carried along. *Buckets* pad examples to a few lengths. Only numpy here: what happens to whole batches on their way to
the device is in `pipeline.py`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm.data.tokenizers import BOS, EOS, PAD


class Batch(NamedTuple):
    """int32 ids, `PAD` where there is nothing; leading axis batch."""

    source_bs: np.ndarray | None  # what the encoder reads, ended by EOS; None without encoder
    inputs_bt: np.ndarray  # the token before each target; BOS at a document's start
    targets_bt: np.ndarray  # what the decoder must write, ended by EOS
    weights_bt: np.ndarray  # float32, 1 on real targets and 0 on padding
    resets_bt: np.ndarray  # bool, True where a document starts and the state is cleared


def pad_rows(batch: Batch, rows: int) -> Batch:
    """The batch with empty rows added at its end: PAD everywhere, weight 0."""
    fill = rows - batch.inputs_bt.shape[0]
    return Batch(*(None if a is None else np.pad(a, [(0, fill), (0, 0)]) for a in batch))


# ---- streams ----------------------------------------------------------------------------------------------------


class Streams:
    """Training batches of `batch_size` parallel streams, `window` steps each.

    Every epoch the documents are shuffled, laid end to end (each ended by EOS), turned by a random offset, and cut
    into `batch_size` streams; all tokens are used once. Window `w + 1` continues window `w` in every row, but for a
    share `reset_rate` of them, which start as a document does. Without it a model that reads one long text meets the
    zero state once an epoch, and may know nothing to say from there: just where a prompt begins.
    """

    def __init__(self, documents: Sequence[np.ndarray], batch_size: int, window: int, reset_rate: float, seed: int):
        self.documents, self.batch_size, self.window = documents, batch_size, window
        self.reset_rate, self.seed = reset_rate, seed
        self.tokens_per_epoch = sum(len(ids) + 1 for ids in documents)
        self.length = -(-self.tokens_per_epoch // batch_size)
        self.steps_per_epoch = -(-self.length // window)
        self.padding = 1 - self.tokens_per_epoch / (self.steps_per_epoch * window * batch_size)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, index: int) -> Batch:
        epoch, window = divmod(index, self.steps_per_epoch)
        ids, starts = self._epoch(epoch)
        column = window * self.window + np.arange(self.window)
        position = np.arange(self.batch_size)[:, None] * self.length + column
        real = (column < self.length) & (position < len(ids))
        # A stream's first step clears the state: what was carried belongs to the end of the epoch before.
        rng = np.random.default_rng([self.seed, epoch, window])
        cleared_b = (rng.random(self.batch_size) < self.reset_rate) | (window == 0)
        return _cut(ids, starts, np.where(real, position, 0), real, cleared_b)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            rng = np.random.default_rng([self.seed, epoch])
            ids, starts = _lay(self.documents, rng.permutation(len(self.documents)))
            turn = rng.integers(len(ids))
            # The epoch before stays, as threads that prefetch may still read it.
            self._epochs = {e: v for e, v in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = np.roll(ids, turn), np.roll(starts, turn)
        return self._epochs[epoch]


def evaluation_streams(documents: Sequence[np.ndarray], streams: int, window: int) -> Iterator[Batch]:
    """One pass over all documents in order, as `streams` rows, whatever the batch size of training.

    A row starts at a document's start where one is near, else within a document, and then its state starts from zero:
    with 1 stream the state is carried through the whole text.
    """
    ids, starts = _lay(documents, np.arange(len(documents)))
    edges = _edges(np.flatnonzero(starts), len(ids), streams)
    begin, end = edges[:-1, None], edges[1:, None]
    for offset in range(0, int((end - begin).max()), window):
        column = offset + np.arange(window)
        position = begin + column
        real = position < end
        yield _cut(ids, starts, np.where(real, position, 0), real, np.full(len(begin), offset == 0))


def _edges(starts: np.ndarray, length: int, streams: int) -> np.ndarray:
    """Where rows begin, and the end: near equal parts, moved to the nearest document's start within half a part."""
    part = length / streams
    edges = [0]
    for k in range(1, streams):
        nearest = int(starts[np.abs(starts - k * part).argmin()])
        edges.append(nearest if abs(nearest - k * part) < part / 2 else round(k * part))
    return np.unique([*edges, length])


def _lay(documents: Sequence[np.ndarray], order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents end to end as (ids, whether a document starts here), each ended by EOS."""
    ids = np.concatenate([part for i in order for part in (documents[i], [EOS])]).astype(np.int32)
    starts = np.zeros(len(ids), bool)
    starts[0] = True
    starts[np.flatnonzero(ids[:-1] == EOS) + 1] = True
    return ids, starts


def _cut(ids: np.ndarray, starts: np.ndarray, position: np.ndarray, real: np.ndarray, cleared_b: np.ndarray) -> Batch:
    """The batch at `position` [b, t]; where the state is cleared, be it within a document, BOS is read."""
    resets = starts[position]
    resets[:, 0] |= cleared_b
    return Batch(
        source_bs=None,
        inputs_bt=np.where(real, np.where(resets, BOS, ids[position - 1]), PAD).astype(np.int32),
        targets_bt=np.where(real, ids[position], PAD).astype(np.int32),
        weights_bt=real.astype(np.float32),
        resets_bt=real & resets,
    )


# ---- buckets ----------------------------------------------------------------------------------------------------

Pair = tuple[np.ndarray, np.ndarray]  # source ids, target ids
MOST_SCORES = 2**24  # source times target positions of an evaluation batch: attention holds a score for each


class Buckets:
    """Training batches of `batch_size` pairs, padded to one of a few (source, target) lengths.

    Every epoch all pairs are used once; the last batch of a bucket is filled with empty rows.
    """

    def __init__(self, pairs: Sequence[Pair], batch_size: int, buckets: int, seed: int):
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        lengths = np.array([(len(source) + 1, len(target) + 1) for source, target in pairs])
        self.shapes = _shapes(lengths, buckets)
        self.members = _assign(lengths, self.shapes)
        self.tokens_per_epoch = int(lengths[:, 1].sum())
        self.steps_per_epoch = sum(-(-len(m) // batch_size) for m in self.members)
        self._plans: dict[int, list[tuple[tuple[int, int], np.ndarray]]] = {}

    def __getitem__(self, index: int) -> Batch:
        epoch, batch = divmod(index, self.steps_per_epoch)
        if epoch not in self._plans:
            rng = np.random.default_rng([self.seed, epoch])
            plan = [
                (shape, chosen)
                for shape, members in zip(self.shapes, self.members, strict=True)
                for chosen in _chunks(rng.permutation(members), self.batch_size)
            ]
            self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
            self._plans[epoch] = [plan[i] for i in rng.permutation(len(plan))]
        shape, chosen = self._plans[epoch][batch]
        return pad_pairs([self.pairs[i] for i in chosen], shape, self.batch_size)

    @property
    def padding(self) -> float:
        """The share of positions, of both sides, that are padding."""
        real = sum(len(source) + len(target) + 2 for source, target in self.pairs)
        held = sum(
            -(-len(m) // self.batch_size) * self.batch_size * sum(shape)
            for shape, m in zip(self.shapes, self.members, strict=True)
        )
        return 1 - real / held


def evaluation_buckets(pairs: Sequence[Pair], batch_size: int, buckets: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """One pass over all pairs, whatever their length: (indices of the pairs, batch)."""
    lengths = np.array([(len(source) + 1, len(target) + 1) for source, target in pairs])
    shapes = _shapes(lengths, buckets)
    for shape, members in zip(shapes, _assign(lengths, shapes), strict=True):
        rows = max(1, min(batch_size, MOST_SCORES // (shape[0] * shape[1])))
        for chosen in _chunks(members, rows):
            yield chosen, pad_pairs([pairs[i] for i in chosen], shape, rows)


def pad_pairs(pairs: Sequence[Pair], shape: tuple[int, int], rows: int) -> Batch:
    """Pairs as a batch of `rows` rows and (source, target) lengths `shape`, EOS included."""
    source = np.full((rows, shape[0]), PAD, np.int32)
    inputs, targets = np.full((2, rows, shape[1]), PAD, np.int32)
    for row, (source_ids, target_ids) in enumerate(pairs):
        source[row, : len(source_ids) + 1] = [*source_ids, EOS]
        inputs[row, : len(target_ids) + 1] = [BOS, *target_ids]
        targets[row, : len(target_ids) + 1] = [*target_ids, EOS]
    return Batch(source, inputs, targets, (targets != PAD).astype(np.float32), np.zeros(targets.shape, bool))


def _chunks(members: np.ndarray, size: int) -> list[np.ndarray]:
    return [members[i : i + size] for i in range(0, len(members), size)]


def _shapes(lengths: np.ndarray, buckets: int) -> list[tuple[int, int]]:
    """At most `buckets` (source, target) lengths that leave the least padding, smallest first.

    Pairs are ordered by total length and cut into runs; a dynamic programme over the places to cut finds the best.
    """
    total = lengths.sum(axis=1)
    keys = np.unique(total)
    # tallest[i][j]: lengths that hold all pairs of keys[i..j]; held[j]: number of pairs up to key j.
    peaks = np.array([lengths[total == key].max(axis=0) for key in keys])
    held = np.concatenate([[0], np.cumsum([np.sum(total == key) for key in keys])])
    best = np.full((buckets + 1, len(keys) + 1), np.inf)
    best[:, 0] = 0
    choice = np.zeros(best.shape, int)
    for j in range(1, len(keys) + 1):
        tallest = np.maximum.accumulate(peaks[:j][::-1])[::-1].sum(axis=1)
        cost = tallest * (held[j] - held[:j])
        for k in range(1, buckets + 1):
            totals = best[k - 1, :j] + cost
            choice[k, j] = totals.argmin()
            best[k, j] = totals[choice[k, j]]
    shapes, j = [], len(keys)
    for k in range(buckets, 0, -1):
        if j == 0:
            break
        i = choice[k, j]
        shapes.append(tuple(int(x) for x in peaks[i:j].max(axis=0)))
        j = i
    return sorted(set(shapes), key=sum)


def _assign(lengths: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each shape, the pairs for which it is the first that holds them."""
    fits = np.array([(lengths <= shape).all(axis=1) for shape in shapes])
    first = fits.argmax(axis=0)
    return [np.flatnonzero((first == k) & fits[k]) for k in range(len(shapes))]
