"""The cleaning steps of `data.cleaning`, each written as `name`, `name(a)` or `name(a, b)`.

Steps that change text change the sources and targets of training and evaluation data alike::

    nfc, nfkc                   the Unicode normal form
    mojibake                    corrects text that was decoded wrongly, by ftfy: `cafÃ©` becomes `café`
    control                     removes control and format characters, except \\n, \\t and the joiners of Indic scripts,
                                Persian and emoji; those that are white space become a space
    html                        removes tags, comments, scripts and styles, and decodes entities
    whitespace                  turns runs of white space into one space, and removes it at the ends of lines

Filters keep a training example only if its sides have a property. Neither they nor the steps below apply to evaluation
data, which would become easier::

    words(least, most)          the number of words between white space is in this range
    characters(least, most)     the number of characters is in this range
    ratio(most)                 the longer side has at most `most` times the characters of the other side
    letters(least)              letters, marks and numbers are at least this share of all but white space
    repetition(most)            the repetition of a side is at most `most`, from 0 to 1 (see `filters.repeated`)

Other steps drop a training example because of another example::

    duplicates                  it is equal to an earlier example
    near_duplicates(t)          its Jaccard similarity to an earlier example is at least t (default 0.8)
    evaluation_overlap          it is equal to a validation or test example
    near_evaluation_overlap(t)  its Jaccard similarity to a validation or test example is at least t (default 0.8)

A text of several lines is changed as a whole. Filters and other steps drop its lines, and the text if no line is left.

The similarity compares the sets of all sequences of five consecutive words of the case-folded texts. In scripts without
spaces, such as Chinese and Thai, and in words of more than 24 characters, characters replace words. The similarity is
estimated by MinHash with 128 permutations. Its standard error is at most 0.045, and 0.035 at a similarity of 0.8.
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
    """A number that a step needs, and its range."""

    name: str
    low: float
    high: float
    whole: bool = False
    default: float | None = None  # None: required

    def __str__(self) -> str:
        return f"{self.name}: a {'whole ' * self.whole}number from {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Step:
    """A cleaning step. The kind decides how its function is called.

    - `changes`: the function maps a text to the changed text.
    - `keeps`: the function maps an example and the arguments to whether the example is kept.
    - `drops`: the function maps the evaluation examples and the arguments to a `Remembering`, which maps an example to
      whether it is kept.
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
    """A step with its arguments, parsed from an entry of `data.cleaning`."""

    text: str  # as written, e.g. words(3, 100); its name in the report
    step: Step
    numbers: tuple[float, ...]


def parse(steps: Sequence[str]) -> tuple[Call, ...]:
    """Returns the parsed steps; raises `UserError` for an unknown step or for invalid arguments."""
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


VERSION = 1  # part of cache keys: raise it when a step changes its results


IDENTITY = [VERSION, unicodedata.unidata_version, *(importlib.metadata.version(name) for name in ("ftfy", "rensa"))]
