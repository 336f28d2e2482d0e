"""A corpus: examples as ids, read by number, and views of a corpus that do not copy it.

Layouts plan batches from the lengths alone; ids are read when a batch is created. So every corpus knows its lengths in
advance. Each epoch draws new noise, so its lengths, or bounds of them, must not depend on the draw.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from lm.data.front_ends import TEXT, FrontEnd
from lm.data.read.store import Records

Pair = tuple[np.ndarray, np.ndarray]  # values of the source (empty for plain text), int32 target ids


class Corpus(Protocol):
    """Examples as ids, read by number. Epochs may have versions of their own, with other noise or segmentation."""

    variants: int  # epochs `e` and `e + variants` have the same lengths
    closed: np.ndarray  # bool [n]: whether the example ends its document; if not, the next one continues it

    def __len__(self) -> int: ...

    def lengths(self, epoch: int) -> np.ndarray:
        """Returns int [n, 2]: the source and target lengths of each example in the epoch, or upper bounds of them."""

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        """Returns the examples with these numbers, as they are in the epoch."""


class Stored:
    """A corpus in the cache.

    A record has the values of a source, then the ids of a target. A row of the table has the length of the source, the
    length of the target, whether the example ends its document, and more columns.
    """

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
        sizes = (self._records.table[numbers, 1] * self._dtype.itemsize).tolist()  # of the targets, in bytes
        return [
            self._pair(record, len(record) - size)
            for record, size in zip(self._records.read(numbers), sizes, strict=True)
        ]

    def _pair(self, record: bytes, begin: int) -> Pair:
        """Returns the pair in a record whose target starts at byte `begin`."""
        target = np.frombuffer(record, self._dtype, offset=begin).astype(np.int32)
        return self._front_end.from_bytes(record[:begin], self._dtype), target


class InMemory:
    """A corpus of lists in memory; each example is a document."""

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
    """Some examples of a corpus, with new numbers from 0."""

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
    """Versions of one corpus, e.g. segmentations of the same texts; epoch `e` reads version `e % n` of n."""

    def __init__(self, versions: Sequence[Corpus]):
        self.variants, self._versions, self.closed = len(versions), versions, versions[0].closed

    def __len__(self) -> int:
        return len(self._versions[0])

    def lengths(self, epoch: int) -> np.ndarray:
        return self._versions[epoch % self.variants].lengths(epoch)

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        return self._versions[epoch % self.variants].take(numbers, epoch)


class Excerpts:
    """Documents that are split into pieces of at most `longest` ids and nearly equal length; each piece is a text.

    Args:
        corpus: the documents, in one version; only their targets are read.
        longest: the most ids of a piece.
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
    """Excerpts that an objective turns into pairs, with new noise in each epoch.

    Args:
        corpus: the documents.
        longest: the most ids of a piece.
        objective: a pure function from (ids, rng) to (source ids, target ids).
        sizes: maps the length of a piece to the most (source ids, target ids) of its pair.
        seed: seed of the noise; the noise of a piece depends on (seed, epoch, number of the piece) alone.
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
    """Excerpts that are split in two, a source and a target.

    An example is split at the same position in every epoch, so its lengths are known in advance. Pieces of equal length
    are exchanged from epoch to epoch, so the splits of a text vary.

    Args:
        corpus: the documents.
        longest: the most ids of a piece.
        cuts: maps (lengths of pieces, rng) to the lengths of their sources.
        seed: seed of the splits and of the exchange.
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
        """Returns the piece that each example has in the epoch: a random one of the same length."""
        places = np.empty_like(self._by_length)
        shuffled = np.random.default_rng([self._seed, epoch, len(self)]).permutation(len(self))
        places[self._by_length] = shuffled[np.argsort(self._sizes[shuffled], kind="stable")]
        return places


class Recent:
    """Caches a value per epoch. The value of the epoch before is kept, as threads that prefetch may still read it."""

    def __init__(self, make: Callable[[int], Any]):
        self._make, self._made = make, {}

    def __call__(self, epoch: int) -> Any:
        made = self._made.get(epoch)
        if made is None:
            made = self._make(epoch)
            self._made = {e: m for e, m in self._made.items() if e == epoch - 1} | {epoch: made}
        return made
