"""A corpus: examples as ids, read by number; and what can be made of one without another copy of it.

Batches are planned from the lengths alone; ids are read when a batch is made. That is why every corpus says its lengths
at once, and why noise, which is drawn anew in each epoch, must have lengths (or bounds of them) that do not depend on
what is drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from lm.data.front_ends import TEXT, FrontEnd
from lm.data.read.store import Records

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
    """A corpus in the cache: records of a source's values and a target's ids, and a table of [length of the source, of the
    target, closed, ...]."""

    variants = 1

    def __init__(self, records: Records, dtype: str, front_end: FrontEnd = TEXT):
        self._records, self._dtype, self._front_end = records, np.dtype(dtype), front_end
        self.closed = records.table[:, 2].astype(bool)

    def __len__(self) -> int:
        return len(self._records)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._records.table[:, :2]

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        numbers = np.asarray(numbers, np.int64)
        sizes = (self._records.table[numbers, 1] * self._dtype.itemsize).tolist()  # bytes of the target
        return [
            self._pair(record, len(record) - size)
            for record, size in zip(self._records.read(numbers), sizes, strict=True)
        ]

    def _pair(self, record: bytes, begin: int) -> Pair:
        """Of a record whose target begins at this byte."""
        target = np.frombuffer(record, self._dtype, offset=begin).astype(np.int32)
        return self._front_end.from_bytes(record[:begin], self._dtype), target


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


class Excerpts:
    """Documents cut into pieces of at most `longest` ids, as even as can be; each is a text.

    Args:
        corpus: of documents, in one version; only their targets are read.
        longest: most ids of a piece.
    """

    variants = 1

    def __init__(self, corpus: Corpus, longest: int):
        self._corpus = corpus
        lengths = corpus.lengths(0)[:, 1]
        counts = np.maximum(-(-lengths // longest), 1)
        self._document = np.repeat(np.arange(len(lengths)), counts)
        place = np.arange(len(self._document)) - np.repeat(np.cumsum(counts) - counts, counts)
        length, count = lengths[self._document], counts[self._document]
        self._begin, self._end = length * place // count, length * (place + 1) // count
        self._sizes = self._end - self._begin
        self._lengths = np.stack([np.zeros_like(self._sizes), self._sizes], axis=1)
        self.closed = np.ones(len(self._sizes), bool)

    def __len__(self) -> int:
        return len(self._document)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._lengths

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        return [(ids[:0], ids) for ids in self._texts(numbers)]

    def _texts(self, numbers: Sequence[int]) -> list[np.ndarray]:
        documents = [int(self._document[number]) for number in numbers]
        wanted = list(dict.fromkeys(documents))
        read = dict(zip(wanted, self._corpus.take(wanted, 0), strict=True))
        places = zip(documents, self._begin[numbers], self._end[numbers], strict=True)
        return [read[document][1][begin:end] for document, begin, end in places]


class Noised(Excerpts):
    """Excerpts made into pairs by an objective, with other noise in each epoch.

    Args:
        objective: `(ids, rng)` -> (source ids, target ids), a pure function.
        sizes: number of ids -> most (source ids, target ids) that the objective makes of them: the lengths.
        seed: the noise of a piece depends on (seed, epoch, number of the piece) alone.
    """

    def __init__(
        self,
        corpus: Corpus,
        longest: int,
        objective: Callable[[np.ndarray, np.random.Generator], Pair],
        sizes: Callable[[int], tuple[int, int]],
        seed: int,
    ):
        super().__init__(corpus, longest)
        self._objective, self._seed = objective, seed
        self._lengths = np.array([sizes(n) for n in range(int(self._sizes.max(initial=0)) + 1)], np.int64)[self._sizes]

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        key = lambda number: np.random.default_rng([self._seed, epoch, number])
        texts = zip(self._texts(numbers), map(int, numbers), strict=True)
        return [self._objective(ids, key(number)) for ids, number in texts]


class PrefixPairs(Excerpts):
    """Excerpts cut in two, source and target. A number is cut at one place in every epoch, so that lengths are known; but
    pieces of one length change places from epoch to epoch.

    Args:
        cuts: `(numbers of ids, rng)` -> so many of them are the source's.
        seed: of cuts and places.
    """

    def __init__(
        self,
        corpus: Corpus,
        longest: int,
        cuts: Callable[[np.ndarray, np.random.Generator], np.ndarray],
        seed: int,
    ):
        super().__init__(corpus, longest)
        self._seed, self._by_length = seed, np.argsort(self._sizes, kind="stable")
        cut = cuts(self._sizes, np.random.default_rng(seed))
        self._lengths = np.stack([cut, self._sizes - cut], axis=1)
        self._places = Recent(self._shuffled)

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        texts = self._texts(self._places(epoch)[numbers] if epoch else numbers)
        return [(ids[:cut], ids[cut:]) for ids, cut in zip(texts, self._lengths[numbers, 0], strict=True)]

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The piece that each number stands for."""
        places = np.empty_like(self._by_length)
        shuffled = np.random.default_rng([self._seed, epoch, len(self)]).permutation(len(self))
        places[self._by_length] = shuffled[np.argsort(self._sizes[shuffled], kind="stable")]
        return places


class Recent:
    """What is made once an epoch. The epoch before stays, as threads that prefetch may still read it."""

    def __init__(self, make: Callable[[int], Any]):
        self._make, self._made = make, {}

    def __call__(self, epoch: int) -> Any:
        made = self._made.get(epoch)
        if made is None:
            made = self._make(epoch)
            self._made = {e: m for e, m in self._made.items() if e == epoch - 1} | {epoch: made}
        return made
