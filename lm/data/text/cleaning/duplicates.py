"""Cleaning steps that drop an example because it repeats or resembles another one."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import rensa

from lm.data.read.examples import Example, blank
from lm.data.text.cleaning.filters import units_of

OVERLAP_LINE = 50  # characters; shorter lines occur in many texts, and do not indicate an overlap


class Remembering:
    """A step with a memory: `new` entries are stored in the cache, and recalled when an interrupted pass resumes."""

    def __init__(self):
        self.new: list[Any] = []  # in types of JSON

    def recall(self, new: Sequence[Any]) -> None:
        """Adds entries that were new in an earlier pass."""


class Duplicates(Remembering):
    """Drops examples that are equal to an earlier one."""

    def __init__(self, evaluation: Iterable[Example]):
        super().__init__()
        self._seen: set[int] = set()

    def __call__(self, example: Example) -> bool:
        key = key_of_example(example)
        if key in self._seen:
            return False
        self._seen.add(key)
        self.new.append(key)
        return True

    def recall(self, new):
        self._seen.update(new)


class EvaluationOverlap(Remembering):
    """Drops examples that are equal to an evaluation example."""

    def __init__(self, evaluation: Iterable[Example]):
        super().__init__()
        self._keys = Keys(evaluation)

    def __call__(self, example: Example) -> bool:
        return self._keys.find([key_of_example(example)])[0] < 0


class NearDuplicates(Remembering):
    """Drops examples whose Jaccard similarity to an earlier one is at least `threshold`."""

    def __init__(self, evaluation: Iterable[Example], threshold: float = 0.8):
        super().__init__()
        self._seen = _Sketches(threshold)

    def __call__(self, example: Example) -> bool:
        sketch = _sketch(example)
        if self._seen.hold_similar(sketch):
            return False
        self._seen.add(sketch)
        self.new.append(base64.b64encode(sketch.__getstate__()).decode())
        return True

    def recall(self, new):
        for state in new:
            sketch = rensa.RMinHash(num_perm=_SKETCH, seed=1)
            sketch.__setstate__(base64.b64decode(state))
            self._seen.add(sketch)


class NearEvaluationOverlap(Remembering):
    """Drops examples whose Jaccard similarity to an evaluation example is at least `threshold`."""

    def __init__(self, evaluation: Iterable[Example], threshold: float = 0.8):
        super().__init__()
        self._evaluation = _Sketches(threshold)
        for part in evaluation:
            self._evaluation.add(_sketch(part))

    def __call__(self, example: Example) -> bool:
        return not self._evaluation.hold_similar(_sketch(example))


class Keys:
    """A set of the keys of examples, eight bytes each."""

    def __init__(self, parts: Iterable[Example]):
        keys = np.fromiter(map(key_of_example, parts), np.uint64)
        self.all = len(keys)
        self._keys, self.counts = np.unique(keys, return_counts=True)

    def find(self, keys: Sequence[int]) -> np.ndarray:
        """Returns int [keys]: the index of each key in the set, or -1."""
        keys = np.asarray(keys, np.uint64)
        if not self.all:
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, places, -1)


class _Sketches:
    """A set of MinHash sketches; locality-sensitive hashing finds candidates, which are then compared."""

    def __init__(self, threshold: float):
        self._least = threshold - 1e-6  # rounding must not exclude a similarity at the threshold
        self._sketches: list[rensa.RMinHash] = []
        self._bands = rensa.RMinHashLSH(threshold=threshold, num_perm=_SKETCH, num_bands=_bands(threshold))

    def hold_similar(self, sketch: rensa.RMinHash) -> bool:
        return any(self._sketches[index].jaccard(sketch) >= self._least for index in self._bands.query(sketch))

    def add(self, sketch: rensa.RMinHash) -> None:
        self._bands.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)


_SKETCH, _SHINGLE = 128, 5


def _bands(threshold: float) -> int:
    """Returns the fewest bands that miss at most 1 % of the pairs at the threshold; more bands find more false ones."""
    counts = [2**power for power in range(_SKETCH.bit_length())]
    return next((n for n in counts if (1 - threshold ** (_SKETCH // n)) ** n <= 0.01), _SKETCH)


def _sketch(example: Example) -> rensa.RMinHash:
    sketch = rensa.RMinHash(num_perm=_SKETCH, seed=1)
    sketch.update(_shingles(example))
    return sketch


def _shingles(example: Example) -> set[str]:
    shingles: set[str] = set()
    for name, side in zip("ts", reversed(example.sides), strict=False):
        units = units_of(side.casefold())
        shingles.update(name + " ".join(units[i : i + _SHINGLE]) for i in range(max(1, len(units) - _SHINGLE + 1)))
    return shingles  # the order varies between processes, but a sketch depends on the set alone


def key_of_example(example: Example) -> int:
    """Returns a hash of the texts of an example, 64 bits."""
    return int.from_bytes(hashlib.blake2b(example.content, digest_size=8).digest(), "big")


def in_lines(example: Example) -> bool:
    """Returns whether an example is a text of several lines, which are compared one by one."""
    return example.source is None and "\n" in example.target


def lines_of(example: Example) -> Iterator[Example]:
    """Yields the parts that are compared with other data: the example, or the long lines of a text of several lines."""
    if not in_lines(example):
        yield example
        return
    lines = [line for line in example.target.split("\n") if not blank(line)]
    for line in lines:
        if len(lines) == 1 or len(line) >= OVERLAP_LINE:
            yield Example(None, line)
