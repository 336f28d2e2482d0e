"""A corpus: examples as ids, read by number; and what can be made of one without another copy of it.

Batches are planned from the lengths alone; ids are read when a batch is made. That is why every corpus says its lengths
at once, and why noise, which is drawn anew in each epoch, must have lengths (or bounds of them) that do not depend on
what is drawn.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from lm.data.store import Records

Pair = tuple[np.ndarray, np.ndarray]  # source ids (none for plain text), target ids


class Corpus(Protocol):
    """Examples as ids, read by number. An epoch may have its own version of them: other noise, other segmentation."""

    variants: int  # epochs `e` and `e + variants` have the same lengths
    closed: np.ndarray  # bool [n]: whether the example ends its document; else the next one goes on with it

    def __len__(self) -> int: ...

    def lengths(self, epoch: int) -> np.ndarray:
        """int [n, 2]: most source and target ids that each example has in the epoch."""

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        """The examples of these numbers."""


class Stored:
    """A corpus in the cache: records of ids, the source's before the target's, and a table of [source ids, target ids,
    closed]."""

    variants = 1

    def __init__(self, records: Records, dtype: str):
        self._records, self._dtype = records, dtype
        self.closed = records.table[:, 2].astype(bool)

    def __len__(self) -> int:
        return len(self._records)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._records.table[:, :2]

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        numbers = np.asarray(numbers, np.int64)
        cuts = self._records.table[numbers, 0].tolist()
        read = (np.frombuffer(record, self._dtype).astype(np.int32) for record in self._records.read(numbers))
        return [(ids[:cut], ids[cut:]) for ids, cut in zip(read, cuts, strict=True)]


class InMemory:
    """A corpus from lists; each example is a document."""

    variants = 1

    def __init__(self, target_ids: Sequence[np.ndarray], source_ids: Sequence[np.ndarray] = ()):
        none = np.zeros(0, np.int32)
        self._pairs = [(source_ids[i] if source_ids else none, target) for i, target in enumerate(target_ids)]
        sizes = [(len(source), len(target)) for source, target in self._pairs]
        self._lengths = np.array(sizes, np.int64).reshape(-1, 2)
        self.closed = np.ones(len(self._pairs), bool)

    def __len__(self) -> int:
        return len(self._pairs)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._lengths

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        return [self._pairs[i] for i in numbers]


class Subset:
    """Some examples of a corpus, renumbered."""

    def __init__(self, corpus: Corpus, numbers: np.ndarray):
        self.variants, self._corpus, self._numbers = corpus.variants, corpus, numbers
        self.closed = corpus.closed[numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._corpus.lengths(epoch)[self._numbers]

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        return self._corpus.take(self._numbers[np.asarray(numbers, np.int64)], epoch)


class Copies:
    """Several versions of one corpus, e.g. other segmentations of the same texts: epoch `e` reads version `e % n`."""

    def __init__(self, versions: Sequence[Corpus]):
        self.variants, self._versions, self.closed = len(versions), versions, versions[0].closed

    def __len__(self) -> int:
        return len(self._versions[0])

    def lengths(self, epoch: int) -> np.ndarray:
        return self._versions[epoch % self.variants].lengths(epoch)

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        return self._versions[epoch % self.variants].take(numbers, epoch)


class Pieces:
    """Documents cut into pieces of at most `longest` ids, as even as can be; each piece becomes a pair by an objective.

    An epoch has its own noise; the lengths are what the sizes say, at most. Where pieces are cut in two, the lengths are
    those of both sides: a number is cut at one place in every epoch, but another piece of its length is there.

    Args:
        corpus: of documents, in one version; only their targets are read.
        longest: most ids of a piece.
        objective: `(ids, rng)` -> (source ids, target ids), a pure function; None: what stands before the cut, and the rest.
        sizes: number of ids -> most (source ids, target ids) that the objective makes of them.
        cuts: `(numbers of ids, rng)` -> where each piece is cut; None: it stays whole, a text.
        seed: the noise of a piece depends on (seed, epoch, number of the piece) alone.
    """

    variants = 1

    def __init__(
        self,
        corpus: Corpus,
        longest: int,
        objective: Callable[[np.ndarray, np.random.Generator], Pair] | None = None,
        sizes: Callable[[int], tuple[int, int]] = lambda n: (0, n),
        cuts: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        seed: int = 0,
    ):
        self._corpus, self._objective, self._seed = corpus, objective, seed
        lengths = corpus.lengths(0)[:, 1]
        counts = np.maximum(-(-lengths // longest), 1)
        self._document = np.repeat(np.arange(len(lengths)), counts)
        place = np.arange(len(self._document)) - np.repeat(np.cumsum(counts) - counts, counts)
        length, count = lengths[self._document], counts[self._document]
        self._begin, self._end = length * place // count, length * (place + 1) // count
        held = self._end - self._begin
        if cuts:
            cut = cuts(held, np.random.default_rng(seed))
            self._lengths = np.stack([cut, held - cut], axis=1)
        else:
            self._lengths = np.array([sizes(n) for n in range(int(held.max(initial=0)) + 1)], np.int64)[held]
        self.closed = np.ones(len(held), bool)
        self._by_length = np.argsort(held, kind="stable") if cuts else None
        self._placed: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._document)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._lengths

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        before_cut = self._lengths[numbers, 0]
        if self._by_length is not None and epoch:
            numbers = self._places(epoch)[numbers]
        documents = [int(self._document[number]) for number in numbers]
        wanted = list(dict.fromkeys(documents))
        read = dict(zip(wanted, self._corpus.take(wanted, 0), strict=True))
        pairs = []
        for number, document, cut in zip(map(int, numbers), documents, before_cut, strict=True):
            ids = read[document][1][self._begin[number] : self._end[number]]
            if self._objective is None:
                pairs.append((ids[:cut], ids[cut:]))
            else:
                pairs.append(self._objective(ids, np.random.default_rng([self._seed, epoch, number])))
        return pairs

    def _places(self, epoch: int) -> np.ndarray:
        """The piece that each number stands for in an epoch: those of one length have changed places at random."""
        places = self._placed.get(epoch)
        if places is None:
            held, places = self._end - self._begin, np.empty_like(self._by_length)
            shuffled = np.random.default_rng([self._seed, epoch, len(self)]).permutation(len(self))
            places[self._by_length] = shuffled[np.argsort(held[shuffled], kind="stable")]
            # As in `Layout.part`: the epoch before stays.
            self._placed = {e: p for e, p in self._placed.items() if e == epoch - 1} | {epoch: places}
        return places
