"""Cleaning and normalising: steps named in a list, `data.cleaning`, each a `name`, `name(a)` or `name(a, b)`.

Steps that change text, in source and target, of training and evaluation data alike:

    nfc, nfkc                   Unicode normal forms
    mojibake                    text that was decoded wrongly, by ftfy: `cafÃ©` becomes `café`
    control                     control and format characters go, but \\n, \\t and the joiners that Indic scripts, Persian
                                and emoji are written with; those that are white space become a space
    html                        tags, comments, scripts and styles go, entities become what they stand for
    whitespace                  runs of white space become one space, and none is left at the ends of a line

Steps that drop examples of the training data; evaluation data keep all, or they would be made easier:

    words(least, most)          each side has that many words between white space
    characters(least, most)     each side has that many characters
    ratio(most)                 the longer side of a pair has at most so many times the characters of the other
    letters(least)              the share of letters, marks and numbers among the characters that are not white space
    repetition(most)            how much of a side is one repeated thing, from 0 to 1: see `repetition`
    duplicates                  what was there before, exactly
    near_duplicates(t)          what resembles an earlier one by a Jaccard similarity of t (0.8) or more
    evaluation_overlap          what is in the validation or test data, exactly
    near_evaluation_overlap(t)  what resembles an example of the validation or test data

A text of several lines is changed as a whole, and loses the lines that a step drops; it is dropped when none is left.
The similarity is of the sets of five neighbouring words of the case-folded text (characters in scripts without spaces,
such as Chinese and Thai, and in words of more than 24), estimated by MinHash of 128 permutations: its standard error is
at most 0.045, and 0.035 at 0.8.
"""

import dataclasses
import importlib.metadata
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from lm.data.text.cleaning.changes import control, html, mojibake, nfc, nfkc, whitespace
from lm.data.text.cleaning.duplicates import Duplicates, EvaluationOverlap, NearDuplicates, NearEvaluationOverlap
from lm.data.text.cleaning.filters import characters, letters, ratio, repetition, words
from lm.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Argument:
    name: str
    low: float
    high: float
    whole: bool = False
    default: float | None = None  # None: it must be given

    def __str__(self) -> str:
        return f"{self.name}: a {'whole ' * self.whole}number from {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Step:
    """What a name stands for.

    kind            function
    changes         of a text, to the text
    keeps           of an example and the arguments, whether it stays
    drops           of evaluation examples and the arguments, a `Remembering`: of an example, whether it stays
    """

    kind: str
    function: Callable[..., Any]
    arguments: tuple[Argument, ...] = ()


_COUNTS = tuple(Argument(name, 0, 1e9, whole=True) for name in ("least", "most"))


_THRESHOLD = (Argument("threshold", 0.1, 1, default=0.8),)


STEPS: dict[str, Step] = {
    "nfc": Step("changes", nfc),
    "nfkc": Step("changes", nfkc),
    "mojibake": Step("changes", mojibake),
    "control": Step("changes", control),
    "html": Step("changes", html),
    "whitespace": Step("changes", whitespace),
    "words": Step("keeps", words, _COUNTS),
    "characters": Step("keeps", characters, _COUNTS),
    "ratio": Step("keeps", ratio, (Argument("most", 1, 1e9),)),
    "letters": Step("keeps", letters, (Argument("least", 0, 1),)),
    "repetition": Step("keeps", repetition, (Argument("most", 0, 1),)),
    "duplicates": Step("drops", Duplicates),
    "near_duplicates": Step("drops", NearDuplicates, _THRESHOLD),
    "evaluation_overlap": Step("drops", EvaluationOverlap),
    "near_evaluation_overlap": Step("drops", NearEvaluationOverlap, _THRESHOLD),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One entry of the list, understood."""

    text: str  # as it is written, e.g. words(3, 100): its name in the report
    step: Step
    numbers: tuple[float, ...]


def parse(steps: Sequence[str]) -> tuple[Call, ...]:
    """Raises `UserError` for a step that is not one, or numbers that it does not take."""
    return tuple(map(_parsed, steps))


def _parsed(text: str) -> Call:
    found = re.fullmatch(r"\s*([^\s()]+)\s*(?:\(([^()]*)\))?\s*", text)
    if not found:
        raise UserError(
            "config.data.cleaning", f"{text!r} is not written as a step", "write name, name(1) or name(1, 2)"
        )
    name, inner = found.groups()
    if name not in STEPS:
        raise UserError("config.data.cleaning", f"{name!r} is not a step", nearest(name, STEPS))
    step, given = STEPS[name], [part.strip() for part in inner.split(",")] if inner and inner.strip() else []
    takes = f"{name} takes ({'; '.join(map(str, step.arguments))})" if step.arguments else f"write {name}"
    least = sum(argument.default is None for argument in step.arguments)
    if not least <= len(given) <= len(step.arguments):
        raise UserError("config.data.cleaning", f"{text.strip()!r} has {len(given)} numbers", takes)
    numbers = []
    for part, argument in zip(given, step.arguments, strict=False):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not argument.low <= number <= argument.high or (argument.whole and number % 1):
            raise UserError("config.data.cleaning", f"{part!r} in {text.strip()!r} is not in range", takes)
        numbers.append(number)
    if step.arguments == _COUNTS and numbers[0] > numbers[1]:
        raise UserError("config.data.cleaning", f"{text.strip()!r} keeps nothing", "write the smaller number first")
    numbers += [argument.default for argument in step.arguments[len(given) :]]
    return Call(text.strip(), step, tuple(numbers))


VERSION = 1  # of the steps: raise it when one of them does something else


IDENTITY = [VERSION, unicodedata.unidata_version, *(importlib.metadata.version(name) for name in ("ftfy", "rensa"))]
