"""Cleaning steps that keep or drop an example by its own properties."""

import collections
import functools
import re

from lm.data.read.examples import Example
from lm.data.text.cleaning.changes import of_categories
from lm.data.text.tokenizers.vocabulary import UNSPACED


def words(example: Example, least: float, most: float) -> bool:
    """Returns whether each side has `least` to `most` words between white space."""
    return all(least <= len(side.split()) <= most for side in example.sides)


def characters(example: Example, least: float, most: float) -> bool:
    """Returns whether each side has `least` to `most` characters."""
    return all(least <= len(side) <= most for side in example.sides)


def ratio(example: Example, most: float) -> bool:
    """Returns whether the longer side has at most `most` times the characters of the other; True for plain text."""
    if example.source is None:
        return True
    shorter, longer = sorted((len(example.source), len(example.target)))
    return longer <= most * shorter


def letters(example: Example, least: float) -> bool:
    """Returns whether at least this share of the characters of each side is letters, marks and numbers."""
    return all(letters_in(side) >= least * sum(map(len, side.split())) for side in example.sides)


@functools.cache
def _letters_past_ascii() -> re.Pattern:
    return re.compile(rf"(?:(?![\0-\x7f])[{of_categories('L', 'M', 'N')}])+")


_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())


def letters_in(text: str) -> int:
    """Returns the number of letters, marks and numbers in a text."""
    count = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    return count if text.isascii() else count + sum(map(len, _letters_past_ascii().findall(text)))


def repetition(example: Example, most: float) -> bool:
    """Returns whether the repetition of each side is at most `most`."""
    return all(repeated(side) <= most for side in example.sides)


def repeated(text: str) -> float:
    """Returns the degree of repetition in a text, 0 to 1, the larger of two shares.

    The first is the share of units in occurrences of the most frequent sequence of three units, if it occurs more than
    once. The second is the share of characters in the longest run of one character, if it has three or more.

    Units are words. In scripts without spaces, and in words of more than 24 characters, they are characters. White
    space is not counted.
    """
    units = units_of(text)
    if not units:
        return 0.0
    triples = list(zip(units, units[1:], units[2:], strict=False))
    counts = collections.Counter(triples)
    triple, times = max(counts.items(), key=lambda item: item[1], default=((), 0))
    covered = 0
    if times > 1:
        free = 0  # the first unit that is not counted yet, as occurrences may overlap, e.g. in `a a a a`
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
    """Returns the words of a text; characters in scripts without spaces and in very long words."""
    found = text.split() if text.isascii() else _UNIT.findall(text)
    if all(len(unit) <= _LONG for unit in found):
        return found
    return [part for unit in found for part in (unit if len(unit) > _LONG else (unit,))]
