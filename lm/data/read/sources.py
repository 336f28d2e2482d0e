"""Where text comes from: a string `scheme:location` becomes a split, a sequence of examples on disk.

    2*SOURCE + 1*SOURCE             a mixture: in training the numbers of examples are as the weights say, and no source is
                                    read less than once an epoch; elsewhere, and without weights, each example is there once
    SOURCE | SOURCE_FORMAT | TARGET_FORMAT
                                    a source with formats of its own (the last may be left out)
    tfds:NAME[/CONFIG][:SPLIT]      any TensorFlow Datasets name; without SPLIT, the split named as the role; SPLIT may be a
                                    slice, e.g. train[:10%]
    text:GLOB                       plain text, each file one document; `**` crosses folders
    parallel:SOURCE_FILE,TARGET_FILE  line n of one file belongs to line n of the other (two patterns: of each pair of files)
    jsonl:FILE                      {"text"} or {"source", "target"} on each line, and "log_prob" where it is known; a list as
                                    target has all that is right (an empty one: to say nothing)
    tsv:FILE                        source<TAB>target on each line; FILE may be a pattern here too

A backslash before `,`, `|`, `+`, `*`, `?` or `[` makes it a part of a path: `parallel:a\\,b.en,a.de` (see `paths.py`).

A record of `tfds` or `jsonl` with other fields becomes an example by format strings (`data.source_format`,
`data.target_format`, or the source's own; see `formats.py`); one of `tsv` or `parallel` has the fields source and target.
So `1*tfds:squad | answer: {question} {context} | {answers[text][0]} + 2*tsv:pairs.tsv | translate: {source}` are two tasks
for one model. A label of `tfds` is its name, not its number. How files are read: see `text_files.py`.

A source is read once, as a stream, into the cache (`store.py`), under a name that says what its bytes are; what is held
out of it, or how often a mixture repeats it, is a choice of numbers. Memory holds a few numbers for each example.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from lm.config.formats import Formats
from lm.config.formats import problem as problem_of
from lm.data.read import examples, headers, paths, store, text_files
from lm.data.read.datasets import Dataset
from lm.data.read.examples import Chosen, Example, Examples, Joined, Slice, blank
from lm.data.read.headers import Headers
from lm.data.read.report import Report
from lm.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Split:
    name: str  # train, validation, test
    spec: str  # the source it was read from, e.g. text:corpus/*.txt
    examples: Examples
    note: str = ""  # what the user must know of it, in one line; empty if nothing
    report: Report | None = None  # of training data: what cleaning did to it
    warnings: tuple[str, ...] = ()  # what looks like a mistake in it, a sentence each
    parts: tuple[tuple[str, int], ...] = ()  # of a mixture, not of training data: each source as written, its examples

    @property
    def ranges(self) -> dict[str, range]:
        """The numbers of each part's examples."""
        ends = itertools.accumulate((size for _, size in self.parts), initial=0)
        return {name: range(begin, begin + size) for (name, size), begin in zip(self.parts, ends, strict=False)}

    @property
    def fingerprint(self) -> str:
        """Of the examples, in order."""
        return self.examples.fingerprint[:16]


def load_splits(
    train: str,
    validation: str,
    test: str,
    wanted: Collection[str] = ("train", "validation", "test"),
    formats: Formats | None = None,
) -> dict[str, Split]:
    """Reads the `wanted` splits; an empty `test` is left out, and for an empty `validation` a part of `train` is held out.

    Held out of a `text:` source is what follows its first `int(0.9 * n)` characters, the files laid end to end, as
    char-rnn and nanoGPT do; of any other a twentieth of the examples, chosen by a hash of their content, so that
    equal examples fall on the same side and examples added later move no other.

    Raises:
        UserError: a source that cannot be read, with the file and the line at fault.
    """
    formats = formats or Formats()
    if formats.turns and not validation and "train" in wanted:
        reason = "held out by chance, replies of one conversation would be on both sides"
        raise UserError("config.data.validation", reason, "name a source")
    splits = {
        role: _joined(role, spec, _loaded(role, spec, _mixture(role, spec, formats)[0]))
        for role, spec in (("validation", validation), ("test", test))
        if role in wanted and spec
    }
    if "train" in wanted or ("validation" in wanted and not validation):
        parts, weights = _mixture("train", train, formats)
        loaded = _loaded("train", train, parts)
        if not validation:
            loaded, held = zip(*map(_hold_out, loaded), strict=True)
            splits["validation"] = _joined("validation", train, held)
        splits["train"] = _joined("train", train, _mixed(loaded, weights) if any(weights) else loaded)
    return {role: splits[role] for role in ("train", "validation", "test") if role in splits and role in wanted}


FIELDED = ("tfds:", "jsonl:")  # sources whose records have fields that a format can name


def _mixture(role: str, spec: str, formats: Formats) -> tuple[list[tuple[str, Formats, str]], list[float]]:
    """(source, its formats, its name) of each part of `2*SOURCE | FORMAT + 1*SOURCE`, and the weights: 0 where none are."""
    field, parts, weights = f"config.data.{role}", [], []
    written = re.split(r"\s+\+\s+(?=[\d.]*\*?\w+:)", spec)
    for each in written:
        weight, name = re.fullmatch(r"(?:([\d.]+)\*)?(.*)", each, re.DOTALL).groups()
        source, *own = map(str.strip, re.split(r"\s\|(?=\s|$)", name))
        if len(own) > 2:
            action = "write SOURCE | SOURCE_FORMAT | TARGET_FORMAT, and \\| for a bar in a path"
            raise UserError(field, f"{name!r} has {len(own)} formats", action)
        # Beside a target a source may be the same for all: an encoder-decoder that generates texts is given nothing else.
        constant = [True, False] if len(own) == 2 and own[1] else [False] * len(own)
        for problem in filter(None, map(problem_of, own, constant)):
            action = "write fields in braces, e.g. 'answer: {question} {context}', and \\| for a bar in a path"
            raise UserError(field, problem, action)
        if own:
            known = Formats(*own, *[""] * (2 - len(own)), formats.turns, formats.history)
        else:  # in a mixture the formats of the configuration are of those sources that have fields
            known = formats if len(written) == 1 or source.startswith(FIELDED) else Formats()
        parts.append((source, known, name))
        weights.append(_number(weight) if weight else 0.0)
    if any(weights) != all(weights) or not all(map(math.isfinite, weights)):
        reason = f"{spec!r} is no mixture"
        raise UserError(field, reason, "write WEIGHT*SOURCE + WEIGHT*SOURCE, weights above 0, or none of them")
    return parts, weights


def _number(text: str) -> float:
    """NaN where it is none, or not above 0."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) and float(text) else math.nan


def _mixed(splits: Sequence[Split], weights: Sequence[float]) -> list[Split]:
    """An epoch of a mixture: every example of every source at least once, some repeated so that the numbers of examples
    are as the weights say. Whatever is left of a source's last round is chosen by hash."""
    round_ = max(len(split.examples) / weight for split, weight in zip(splits, weights, strict=True))
    mixed = []
    for split, weight in zip(splits, weights, strict=True):
        rounds, rest = divmod(round(round_ * weight), len(split.examples))
        if rounds > MOST_ROUNDS:
            reason = f"{split.spec} would be repeated {rounds:,} times in an epoch"
            raise UserError("config.data.train", reason, f"give it a weight that means at most {MOST_ROUNDS:,}")
        lowest = np.sort(np.argsort(split.examples.hashes, kind="stable")[:rest])
        numbers = np.concatenate([*[np.arange(len(split.examples))] * rounds, lowest])
        mixed.append(dataclasses.replace(split, examples=Chosen(split.examples, numbers)))
    return mixed


MOST_ROUNDS = 1000


def _joined(name: str, spec: str, parts: Sequence[Split]) -> Split:
    if len(parts) == 1:
        return parts[0]
    if len({bool(part.examples.table[0, 0] < 0) for part in parts}) > 1:
        raise UserError(f"config.data.{name}", f"{spec} mixes texts with pairs", "mix sources of one kind")
    note = "; ".join(part.note for part in parts if part.note)
    warnings = tuple(dict.fromkeys(warning for part in parts for warning in part.warnings))
    sizes = () if name == "train" else tuple((part.spec, len(part.examples)) for part in parts)
    return Split(name, spec, Joined([part.examples for part in parts]), note, warnings=warnings, parts=sizes)


def _loaded(role: str, spec: str, parts: Sequence[tuple[str, Formats, str]]) -> list[Split]:
    """The parts of a source; where a file is missing, and the source was cut or is a pattern, the error says how to escape."""
    try:
        return [_load(role, *part) for part in parts]
    except paths.Missing as missing:
        if not re.search(r"[\\|,*?\[]|\s\+\s", spec):
            raise
        raise UserError(missing.where, missing.reason, f"{missing.action}; {paths.ESCAPING}") from None


def _load(role: str, spec: str, formats: Formats, name: str) -> Split:
    """`name`: the source as it is written, its own formats included."""
    field = f"config.data.{role}"
    scheme, separator, location = spec.partition(":")
    if not separator or scheme not in SCHEMES:
        raise UserError(field, f"{spec!r} has no known scheme", f"write scheme:location; {nearest(scheme, SCHEMES)}")
    if not location:
        raise UserError(field, f"{spec!r} names nothing to read", "write scheme:location, e.g. text:corpus/*.txt")
    if formats and scheme == "text":
        reason = f"{scheme}: has no fields that the formats of config.data could name"
        raise UserError(field, reason, "use jsonl:FILE, or leave the formats out")
    read = SCHEMES[scheme](location, role, formats)
    blanks = several = 0

    def make(finished: Sequence[store.Finished]) -> Iterator[Example]:
        nonlocal blanks, several
        done = sum(shard.note["examples"] + shard.note["blanks"] for shard in finished)
        for example in itertools.islice(read.examples, done, None):
            # Only tfds can bring blank ones: the file formats refuse them, but nobody can mend a published data set.
            # A list of targets may be empty, as nothing is then what is right.
            sides = example.sides if example.others is None else example.sides[:-1]
            if scheme == "tfds" and any(map(blank, sides)):
                blanks += 1
            else:
                several += bool(example.others)
                yield example

    def note() -> dict[str, Any]:
        nonlocal blanks, several
        counted = {"blanks": blanks, "several": several, "headers": read.headers.found()}
        blanks = several = 0
        return counted

    key = store.key_of("texts", VERSION, scheme, read.identity, dataclasses.astuple(formats))
    found = examples.kept(key, make, f"reading {role}", note)
    if not len(found):
        raise UserError(field, f"{spec} holds no example", "check that it is the right file or split")
    left_out = sum(note["blanks"] for note in found.notes)
    said = [f"{left_out:,} blank examples of {spec} are left out"] if left_out else []
    said += [f"{read.note} of {spec}"] if read.note else []
    if listed := sum(note.get("several", 0) for note in found.notes):
        said.append(f"{listed:,} of {len(found):,} have several targets: scores take all, training and loss the first")
    warnings = tuple(headers.sentences(found.notes[-1]["headers"], read.names))
    return Split(role, name, found, "; ".join(said), warnings=warnings)


VERSION = 3  # of how sources are read: raise it when the same bytes become other examples


# ---- held out of training ---------------------------------------------------------------------------------------


def _hold_out(train: Split) -> tuple[Split, Split]:
    texts = train.examples
    if train.spec.startswith("text:"):
        # As char-rnn and nanoGPT do. The document that the end falls in is divided.
        total = int(texts.table[:, 1].sum(dtype=np.int64))
        kept, held = Slice(texts, 0, int(0.9 * total)), Slice(texts, int(0.9 * total), total)
        note = f"validation is the last tenth of {train.spec} (by characters), held out of training"
    else:
        # Of few examples perhaps none is among the lowest twentieth of all hashes: then the lowest one goes.
        hashes = texts.hashes
        low = hashes <= max(2**64 // 20, int(hashes.min()))
        if low.all():  # or all of them are: then the lowest one goes too
            low = hashes == hashes.min()
        kept, held = Chosen(texts, np.flatnonzero(~low)), Chosen(texts, np.flatnonzero(low))
        note = (
            f"validation is {len(held):,} of the {len(texts):,} examples of {train.spec}, "
            "chosen by hash and held out of training"
        )
    if not len(kept) or not len(held):
        if train.spec.startswith("text:"):
            reason = f"{train.spec} is too small to hold validation data out of it"
        else:
            reason = "one example" if len(texts) == 1 else f"{len(texts):,} examples, which are all equal"
            reason = f"{train.spec} has {reason}, so none can be held out for validation"
        raise UserError("config.data.validation", reason, "name a validation source, or use more text")
    return dataclasses.replace(train, examples=kept), Split("validation", train.spec, held, note)


# ---- schemes ----------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """What a scheme finds at a location."""

    identity: Any  # what its examples depend on, of what JSON has
    examples: Iterable[Example]  # read when they are iterated over
    names: Sequence[str] = ()  # of files of a table
    headers: Headers = Headers()  # of these, once their rows were read
    note: str = ""  # what is left out


def _text(location: str, role: str, formats: Formats) -> Source:
    files, note = paths.once([[path] for path in paths.matches(location, role, "text")])
    return Source(_digests(files), text_files.documents([path for (path,) in files]), note=note)


def _parallel(location: str, role: str, formats: Formats) -> Source:
    names = paths.divided(location)
    if len(names) != 2 or not all(names):
        reason = f"parallel:{location} does not name two files"
        action = "write parallel:SOURCE_FILE,TARGET_FILE, and \\, for a comma in a path"
        raise UserError(f"config.data.{role}", reason, action)
    sides = [paths.named(name, role, "parallel") for name in names]
    if len(sides[0]) != len(sides[1]):
        reason = f"parallel:{location} matches {len(sides[0])} source files and {len(sides[1])} target files"
        raise UserError(f"config.data.{role}", reason, "name as many of both, in the same order")
    return _table(list(zip(*sides, strict=True)), text_files.aligned, role, formats)


def _tsv(location: str, role: str, formats: Formats) -> Source:
    return _table([[path] for path in paths.named(location, role, "tsv")], text_files.tab_separated, role, formats)


def _table(
    groups: Sequence[Sequence[epath.Path]],
    rows: Callable[..., Iterator[Example]],
    role: str,
    formats: Formats,
) -> Source:
    """Rows of source and target, read from each group of files."""
    (groups, note), watch = paths.once(groups), Headers()
    pairs = itertools.chain.from_iterable(watch.watched(rows(*group), number) for number, group in enumerate(groups))
    names = [str(path) for path, *_ in groups]
    return Source(_digests(groups), _formatted(pairs, role, formats), names, watch, note)


def _digests(groups: Sequence[Sequence[epath.Path]]) -> list[str]:
    return [text_files.text_digest(path) for group in groups for path in group]


def _formatted(pairs: Iterable[Example], role: str, formats: Formats) -> Iterator[Example]:
    """Pairs as records of source and target."""
    for pair in pairs:
        try:
            (texts,) = formats.filled({"source": pair.source, "target": pair.target})
        except KeyError as error:
            action = "name these, or give the source formats of its own: SOURCE | SOURCE_FORMAT | TARGET_FORMAT"
            raise UserError(f"config.data.{role}", error.args[0], action) from None
        yield Example(texts.get("source"), texts["text"] if "text" in texts else texts["target"])


def _jsonl(location: str, role: str, formats: Formats) -> Source:
    files, note = paths.once([[path] for path in paths.named(location, role, "jsonl")])
    records = text_files.json_lines([path for (path,) in files], formats)
    return Source(_digests(files), records, note=note)


def _tfds(location: str, role: str, formats: Formats) -> Source:
    dataset = Dataset(location, role, formats)
    return Source(dataset.identity(), dataset)


SCHEMES: dict[str, Callable[[str, str, Formats], Source]] = {
    "tfds": _tfds,
    "text": _text,
    "parallel": _parallel,
    "jsonl": _jsonl,
    "tsv": _tsv,
}
