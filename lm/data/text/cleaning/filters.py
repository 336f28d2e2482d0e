"""Cleaning steps that keep or drop an example for its own sake."""

import collections
import functools
import re

from lm.data.read.examples import Example
from lm.data.text.cleaning.changes import of_categories
from lm.data.text.tokenizers.vocabulary import UNSPACED


def words(example: Example, least: float, most: float) -> bool:
    return all(least <= len(side.split()) <= most for side in example.sides)


def characters(example: Example, least: float, most: float) -> bool:
    return all(least <= len(side) <= most for side in example.sides)


def ratio(example: Example, most: float) -> bool:
    """A text without a source has no ratio, and stays."""
    if example.source is None:
        return True
    shorter, longer = sorted((len(example.source), len(example.target)))
    return longer <= most * shorter


def letters(example: Example, least: float) -> bool:
    return all(letters_in(side) >= least * sum(map(len, side.split())) for side in example.sides)


@functools.cache
def _letters_past_ascii() -> re.Pattern:
    return re.compile(rf"(?:(?![\0-\x7f])[{of_categories('L', 'M', 'N')}])+")


_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())


def letters_in(text: str) -> int:
    count = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    return count if text.isascii() else count + sum(map(len, _letters_past_ascii().findall(text)))


def repetition(example: Example, most: float) -> bool:
    return all(repeated(side) <= most for side in example.sides)


def repeated(text: str) -> float:
    """The larger of two shares: that of units in occurrences of the most frequent three neighbouring units, if they
    occur more than once, and that of characters in the longest run of one character, if it is three or longer.

    Units are words; characters in scripts without spaces, and in words of more than 24. White space is not counted.
    """
    units = units_of(text)
    if not units:
        return 0.0
    triples = list(zip(units, units[1:], units[2:], strict=False))
    counts = collections.Counter(triples)
    triple, times = max(counts.items(), key=lambda item: item[1], default=((), 0))
    covered = 0
    if times > 1:
        free = 0  # units before it are counted: occurrences overlap in `a a a a`
        for index, other in enumerate(triples):
            if other == triple:
                covered += index + 3 - max(index, free)
                free = index + 3
    run = max((found.end() - found.start() for found in _RUN.finditer(text)), default=0)
    return max(covered / len(units), run / sum(map(len, text.split())))


_RUN = re.compile(r"(\S)\1\1+")


_UNIT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


_LONG = 24


def units_of(text: str) -> list[str]:
    found = text.split() if text.isascii() else _UNIT.findall(text)
    if all(len(unit) <= _LONG for unit in found):
        return found
    return [part for unit in found for part in (unit if len(unit) > _LONG else (unit,))]
