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

import base64
import collections
import copy
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os.path
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import entities, unescape
from typing import Any

import ftfy
import numpy as np
import rensa

from lm.data.examples import Example, Examples, blank, kept
from lm.data.store import Finished, key_of, remembered
from lm.data.tokenizers import UNSPACED
from lm.errors import UserError, nearest

SHOWN, WIDTH = 3, 100  # examples of each step in a report, and characters of each
OVERLAP_LINE = 50  # shorter lines of a text are in many texts, and no sign of an overlap

# ---- steps that change ------------------------------------------------------------------------------------------


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


_ENCODING_ALONE = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)


def mojibake(text: str) -> str:
    return text if text.isascii() else ftfy.fix_text(text, _ENCODING_ALONE)


def control(text: str) -> str:
    # A form feed, or the \r of an old system, stands between words.
    return _controls().sub(lambda found: " " if found[0].isspace() else "", text.replace("\r\n", "\n"))


_TAGS = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br button "
    "canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed fieldset "
    "figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins "
    "kbd label legend li link main map mark marquee menu meta meter nav nobr noframes noscript object ol optgroup option "
    "output p param picture pre progress q rp rt ruby s samp script section select slot small source span strike strong "
    "style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul var video wbr"
).split()
_INLINE = frozenset("a abbr acronym b bdi bdo big cite code dfn em font i ins kbd mark nobr q s samp small span strike "
                    "strong sub sup tt u var wbr".split())  # fmt: skip
# Names that HTML has, so that `x<y` and <user> stay. What is within has no < or >, which keeps the time linear.
_TAG = re.compile(rf"</?({'|'.join(sorted(_TAGS, key=len, reverse=True))})(?:[\s/][^<>]*)?>|<!doctype\b[^<>]*>", re.I)
_OPENING = re.compile(r"<!--|<(script|style)(?:\s[^<>]*)?>", re.I)
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.I) for name in ("script", "style")} | {None: re.compile("-->")}
_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]*);")


def html(text: str) -> str:
    """Again and again until nothing is left to do: `&amp;lt;` is `<` escaped twice, and cleaned text stays as it is."""
    for _ in range(8):
        if "<" not in text and "&" not in text:
            return text
        before = text
        text = _TAG.sub(_in_place_of_tag, _without_hidden(text))
        text = _ENTITY.sub(_character, re.sub("&(?:amp;)+", "&", text))
        if text == before:
            return text
    return re.sub("[<&]", "", text)  # made to be nested without end


def whitespace(text: str) -> str:
    return "\n".join([" ".join(line.split()) for line in text.split("\n")])


def _in_place_of_tag(found: re.Match) -> str:
    """A space where a browser begins a new line or cell."""
    return "" if (found[1] or "").lower() in _INLINE else " "


def _character(found: re.Match) -> str:
    # With the semicolon alone: `?a=1&lt=2` is an address.
    return unescape(found[0]) if found[1][0] == "#" else entities.html5.get(found[1] + ";", found[0])


def _without_hidden(text: str) -> str:
    """Without comments, scripts and styles; one that never ends is left alone."""
    parts, start, endless = [], 0, set()
    for opening in _OPENING.finditer(text):
        kind = opening[1] and opening[1].lower()
        if opening.start() < start or kind in endless:
            continue
        closing = _CLOSING[kind].search(text, opening.end())
        if closing is None:
            endless.add(kind)
            continue
        parts += [text[start : opening.start()], " " if kind else ""]
        start = closing.end()
    return "".join([*parts, text[start:]])


@functools.cache
def _of_categories(*categories: str) -> str:
    """The code points of those Unicode categories (first letters or whole), for between the brackets of a pattern."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)).startswith(categories):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@functools.cache
def _controls() -> re.Pattern:
    return re.compile(rf"(?![\n\t\u200c\u200d])[{_of_categories('Cc', 'Cf')}]")


@functools.cache
def _letters_past_ascii() -> re.Pattern:
    return re.compile(rf"(?:(?![\0-\x7f])[{_of_categories('L', 'M', 'N')}])+")


# ---- steps that filter ------------------------------------------------------------------------------------------


def words(example: Example, least: float, most: float) -> bool:
    return all(least <= len(side.split()) <= most for side in _sides(example))


def characters(example: Example, least: float, most: float) -> bool:
    return all(least <= len(side) <= most for side in _sides(example))


def ratio(example: Example, most: float) -> bool:
    """A text without a source has no ratio, and stays."""
    if example.source is None:
        return True
    shorter, longer = sorted((len(example.source), len(example.target)))
    return longer <= most * shorter


def letters(example: Example, least: float) -> bool:
    return all(_letters_in(side) >= least * sum(map(len, side.split())) for side in _sides(example))


def _letters_in(text: str) -> int:
    count = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    return count if text.isascii() else count + sum(map(len, _letters_past_ascii().findall(text)))


_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())


def repetition(example: Example, most: float) -> bool:
    return all(repeated(side) <= most for side in _sides(example))


def repeated(text: str) -> float:
    """The larger of two shares: that of units in occurrences of the most frequent three neighbouring units, if they
    occur more than once, and that of characters in the longest run of one character, if it is three or longer.

    Units are words; characters in scripts without spaces, and in words of more than 24. White space is not counted.
    """
    units = _units(text)
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


def _units(text: str) -> list[str]:
    found = text.split() if text.isascii() else _UNIT.findall(text)
    if all(len(unit) <= _LONG for unit in found):
        return found
    return [part for unit in found for part in (unit if len(unit) > _LONG else (unit,))]


def _sides(example: Example) -> tuple[str, ...]:
    return (example.target,) if example.source is None else (example.source, example.target)


# ---- steps that remember ----------------------------------------------------------------------------------------


class Remembering:
    """A step with a memory: what is `new` in it is kept in the cache, and recalled when a killed pass goes on."""

    def __init__(self):
        self.new: list[Any] = []  # of what JSON has

    def recall(self, new: Sequence[Any]) -> None:
        """Takes in what was new at an earlier time."""


class Duplicates(Remembering):
    def __init__(self, evaluation: Iterable[Example]):
        super().__init__()
        self._seen: set[int] = set()

    def __call__(self, example: Example) -> bool:
        key = _key(example)
        if key in self._seen:
            return False
        self._seen.add(key)
        self.new.append(key)
        return True

    def recall(self, new):
        self._seen.update(new)


class EvaluationOverlap(Remembering):
    def __init__(self, evaluation: Iterable[Example]):
        super().__init__()
        self._keys = _Keys(evaluation)

    def __call__(self, example: Example) -> bool:
        return self._keys.find([_key(example)])[0] < 0


class NearDuplicates(Remembering):
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
    def __init__(self, evaluation: Iterable[Example], threshold: float = 0.8):
        super().__init__()
        self._evaluation = _Sketches(threshold)
        for part in evaluation:
            self._evaluation.add(_sketch(part))

    def __call__(self, example: Example) -> bool:
        return not self._evaluation.hold_similar(_sketch(example))


class _Keys:
    """Keys of examples, eight bytes each."""

    def __init__(self, parts: Iterable[Example]):
        keys = np.fromiter(map(_key, parts), np.uint64)
        self.all = len(keys)
        self._keys, self.counts = np.unique(keys, return_counts=True)

    def find(self, keys: Sequence[int]) -> np.ndarray:
        """int [keys]: the place of each, -1 where it is not there."""
        keys = np.asarray(keys, np.uint64)
        if not self.all:
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, places, -1)


class _Sketches:
    """Similar ones are found by locality-sensitive hashing, and then compared."""

    def __init__(self, threshold: float):
        self._least = threshold - 1e-6  # float error must not lose one that is equal
        self._sketches: list[rensa.RMinHash] = []
        self._bands = rensa.RMinHashLSH(threshold=threshold, num_perm=_SKETCH, num_bands=_bands(threshold))

    def hold_similar(self, sketch: rensa.RMinHash) -> bool:
        return any(self._sketches[index].jaccard(sketch) >= self._least for index in self._bands.query(sketch))

    def add(self, sketch: rensa.RMinHash) -> None:
        self._bands.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)


_SKETCH, _SHINGLE = 128, 5


def _bands(threshold: float) -> int:
    """The fewest bands that miss at most one in a hundred at the threshold: fewer find fewer in vain."""
    counts = [2**power for power in range(_SKETCH.bit_length())]
    return next((n for n in counts if (1 - threshold ** (_SKETCH // n)) ** n <= 0.01), _SKETCH)


def _sketch(example: Example) -> rensa.RMinHash:
    sketch = rensa.RMinHash(num_perm=_SKETCH, seed=1)
    sketch.update(_shingles(example))
    return sketch


def _shingles(example: Example) -> set[str]:
    shingles: set[str] = set()
    for name, side in zip("ts", reversed(_sides(example)), strict=False):
        units = _units(side.casefold())
        shingles.update(name + " ".join(units[i : i + _SHINGLE]) for i in range(max(1, len(units) - _SHINGLE + 1)))
    return shingles  # in an order that changes from process to process; a sketch is of the set


def _key(example: Example) -> int:
    return int.from_bytes(hashlib.blake2b(example.content, digest_size=8).digest(), "big")


def _in_lines(example: Example) -> bool:
    return example.source is None and "\n" in example.target


def _parts(example: Example) -> Iterator[Example]:
    """What is looked for in other data: the example, or of a text of several lines those that are long enough."""
    if not _in_lines(example):
        yield example
        return
    lines = [line for line in example.target.split("\n") if not blank(line)]
    for line in lines:
        if len(lines) == 1 or len(line) >= OVERLAP_LINE:
            yield Example(None, line)


# ---- the list of steps ------------------------------------------------------------------------------------------


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


# ---- the report -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class StepReport:
    changed: int = 0  # examples
    dropped: int = 0  # examples; those that a change left blank too
    lines: int = 0  # dropped lines of texts, whether the text stayed or not
    shown: list[list[str]] = dataclasses.field(default_factory=list)  # [before, after], or [before] if dropped

    def show(self, before: Example, after: Example | None) -> None:
        drops = sum(len(pair) == 1 for pair in self.shown)
        if (drops if after is None else len(self.shown) - drops) < SHOWN:
            self.shown.append(_shown(before, after))


@dataclasses.dataclass
class Report:
    steps: dict[str, StepReport]  # by the step as it is written, in order
    examples_in: int = 0
    examples_out: int = 0  # examples_in less all that steps dropped
    evaluation: int = 0  # examples of validation and test; of texts of several lines, the lines that are long enough
    overlap: int = 0  # those of them that are also, exactly, in the training data that was kept
    overlap_shown: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Of what JSON has."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Report":
        return cls(**fields | {"steps": {name: StepReport(**step) for name, step in fields["steps"].items()}})

    def lines(self) -> list[str]:
        """For printing."""
        lines = [f"cleaning: {self.examples_in:,} training examples in, {self.examples_out:,} out"]
        for name, step in self.steps.items():
            counts = [f"{step.changed:,} changed"] * bool(step.changed) + [f"{step.dropped:,} dropped"] * bool(
                step.dropped
            )
            counts += [f"{step.lines:,} lines dropped"] * bool(step.lines)
            lines.append(f"  {name}: {', '.join(counts) or 'nothing to do'}")
            lines += [f"    {' -> '.join(map(repr, pair))}" for pair in step.shown]
        share = f" ({self.overlap / self.evaluation:.1%})" if self.evaluation else ""
        lines.append(
            f"  overlap: {self.overlap:,} of {self.evaluation:,} evaluation examples{share} are in training too"
        )
        return lines + [f"    {text!r}" for text in self.overlap_shown]


def _shown(before: Example, after: Example | None) -> list[str]:
    """From shortly before the first difference."""
    texts = ["\t".join(_sides(example)) for example in (before, after) if example is not None]
    start = max(0, len(os.path.commonprefix(texts)) - WIDTH // 4) if after is not None else 0
    cut = [("…" if start else "") + text[start:] for text in texts]
    return [text if len(text) <= WIDTH else text[: WIDTH - 1] + "…" for text in cut]


# ---- cleaning ---------------------------------------------------------------------------------------------------


class Cleaner:
    """One pass over the training data, in order: what it has seen, it remembers.

    Args:
        steps: see the top of this file.
        evaluation: the examples of validation and test, each already through `change` of a cleaner of the same steps;
            read once for each step that compares with them.

    Raises:
        UserError: see `parse`.
    """

    def __init__(self, steps: Sequence[str], evaluation: Iterable[Example] = ()):
        self._calls = parse(steps)
        parts = lambda: (part for example in evaluation for part in _parts(example))
        self._evaluation, self._found = _Keys(parts()), []
        self._overlapping: set[int] = set()  # places of evaluation keys that training data have
        self._functions = [
            call.step.function(parts(), *call.numbers) if call.step.kind == "drops" else call.step.function
            for call in self._calls
        ]
        self._interrupted = False
        self.report = Report({call.text: StepReport() for call in self._calls}, evaluation=self._evaluation.all)

    def memory(self) -> bytes:
        """What `resume` needs beside the report: what is new since the last call."""
        steps = [step for step in self._functions if isinstance(step, Remembering)]
        new = json.dumps([self._interrupted, self._found, [step.new for step in steps]])
        self._found = []
        for step in steps:
            step.new = []
        return new.encode()

    def resume(self, report: dict[str, Any], memories: Iterable[bytes]) -> None:
        """Becomes what another was when it gave the last of its memories, and had this report."""
        self.report = Report.from_dict(copy.deepcopy(report))  # it grows, and belongs to the caller
        for memory in memories:
            self._interrupted, found, news = json.loads(memory)
            self._overlapping.update(found)
            steps = [step for step in self._functions if isinstance(step, Remembering)]
            for step, new in zip(steps, news, strict=True):
                step.recall(new)

    def change(self, example: Example) -> Example:
        """Through the steps that change; for evaluation data, and not in the report. It may be blank then."""
        for call, function in zip(self._calls, self._functions, strict=True):
            if call.step.kind == "changes":
                example = _changed(function, example)
        return example

    def clean(self, example: Example) -> Example | None:
        """Through all steps in order; None if one of them dropped it, or a change left a side of it blank."""
        self.report.examples_in += 1
        if self._interrupted and example.continued:  # what it goes on from is not there
            example = dataclasses.replace(example, continued=False)
        cleaned = self._through_steps(example)
        self._interrupted = cleaned is None
        if cleaned is not None:
            self.report.examples_out += 1
            if self._evaluation.all:
                self._look_for_overlap(cleaned)
        return cleaned

    def _through_steps(self, example: Example) -> Example | None:
        for call, function in zip(self._calls, self._functions, strict=True):
            report = self.report.steps[call.text]
            if call.step.kind == "changes":
                after = _changed(function, example)
                if after is not example and any(map(blank, _sides(after))):
                    after = None
                elif after is not example:
                    report.changed += 1
                    report.show(example, after)
            else:
                keep = functools.partial(_keeps, function, call)
                after = _with_lines(keep, example, report)
            if after is None:
                report.dropped += 1
                if call.step.kind == "changes" or not _in_lines(example):  # else its lines are shown
                    report.show(example, None)
                return None
            example = after
        return example

    def _look_for_overlap(self, example: Example) -> None:
        parts = list(_parts(example))
        for part, place in zip(parts, self._evaluation.find([*map(_key, parts)]).tolist(), strict=True):
            if place >= 0 and place not in self._overlapping:
                self._overlapping.add(place)
                self._found.append(place)
                self.report.overlap += int(self._evaluation.counts[place])
                if len(self.report.overlap_shown) < SHOWN:
                    self.report.overlap_shown += _shown(part, None)


def _keeps(function: Callable[..., bool], call: Call, example: Example) -> bool:
    return function(example, *call.numbers) if call.step.kind == "keeps" else function(example)


def _changed(function: Callable[[str], str], example: Example) -> Example:
    """The example itself if nothing changed; else its probability is no longer known."""
    source, target = example.source and function(example.source), function(example.target)
    if source == example.source and target == example.target:
        return example
    return dataclasses.replace(example, source=source, target=target, log_prob=None)


def _with_lines(keep: Callable[[Example], bool], example: Example, report: StepReport) -> Example | None:
    """The example, without the lines that a text must not keep."""
    if not _in_lines(example):
        return example if keep(example) else None
    lines, kept = example.target.split("\n"), []
    for line in lines:
        part = Example(None, line)
        if blank(line) or keep(part):
            kept.append(line)
        else:
            report.lines += 1
            report.show(part, None)
    if len(kept) == len(lines):
        return example
    if all(map(blank, kept)):
        return None
    return dataclasses.replace(example, target="\n".join(kept), log_prob=None)


# ---- whole splits, in the cache ---------------------------------------------------------------------------------


def changed(examples: Examples, steps: Sequence[str]) -> Examples:
    """Evaluation data through the steps that change."""
    cleaner = Cleaner([call.text for call in parse(steps) if call.step.kind == "changes"])

    def make(finished: Sequence[Finished]) -> Iterator[Example]:
        done = sum(shard.note["examples"] for shard in finished)
        return map(cleaner.change, examples.from_number(done))

    return kept(key_of("changed", IDENTITY, steps, examples.fingerprint), make, "cleaning evaluation data")


def cleaned(train: Examples, steps: Sequence[str], evaluation: Examples) -> tuple[Examples, Report]:
    """Training data through all steps, and what these did; `evaluation` has been through `changed`."""
    cleaner: Cleaner | None = None
    identity = (IDENTITY, steps, train.fingerprint, evaluation.fingerprint)

    def make(finished: Sequence[Finished]) -> Iterator[Example]:
        nonlocal cleaner
        cleaner = Cleaner(steps, evaluation)
        if finished:
            cleaner.resume(finished[-1].note["report"], [shard.memory for shard in finished])
        for example in train.from_number(cleaner.report.examples_in):
            if clean := cleaner.clean(example):
                yield clean

    if not steps:  # nothing changes, but what overlaps is reported always
        report = remembered(
            key_of("overlap", *identity), lambda: (collections.deque(make(()), 0), cleaner.report.as_dict())[1]
        )
        return train, Report.from_dict(report)
    found = kept(
        key_of("cleaned", *identity),
        make,
        "cleaning train",
        note=lambda: {"report": cleaner.report.as_dict()},
        memory=lambda: cleaner.memory(),
    )
    return found, Report.from_dict(found.notes[-1]["report"])


VERSION = 1  # of the steps: raise it when one of them does something else
IDENTITY = [VERSION, unicodedata.unidata_version, *(importlib.metadata.version(name) for name in ("ftfy", "rensa"))]
