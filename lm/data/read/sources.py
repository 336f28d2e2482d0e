"""Sources: turns a string `SCHEME:LOCATION` into a split, a sequence of examples on disk.

The kinds of sources are::

    tfds:NAME[/CONFIG][:SPLIT]        a data set of TensorFlow Datasets. Without SPLIT, the split that is named like its
                                      role is read. SPLIT may be a slice, e.g. train[:10%].
    text:GLOB                         plain text; each file is one document; `**` crosses folders
    parallel:SOURCE_FILE,TARGET_FILE  two files; line n of the first is the source of line n of the second. Two patterns
                                      must match equally many files, which are paired in sorted order.
    jsonl:FILE                        {"text"} or {"source", "target"} on each line, with "log_prob" if it is known. A
                                      list as target has all correct answers; an empty list means no text at all.
    tsv:FILE                          source<TAB>target on each line; FILE may be a pattern here and for jsonl
    2*SOURCE + 1*SOURCE               a mixture. In training the numbers of examples are in the ratio of the weights,
                                      and an epoch reads each source at least once. In evaluation, and without weights,
                                      each example is read once.
    SOURCE | SOURCE_FORMAT | TARGET_FORMAT
                                      a source with formats of its own; the target format may be left out

A backslash before `,`, `|`, `+`, `*`, `?` or `[` makes it a part of a path: `parallel:a\\,b.en,a.de` (see `paths.py`).

Format strings turn a record of `tfds` or `jsonl` with other fields into an example. They are `data.source_format` and
`data.target_format`, or the formats of the source itself (see `formats.py`). A record of `tsv` or `parallel` has the
fields `source` and `target`. For example, this mixture has two tasks for one model::

    1*tfds:squad | answer: {question} {context} | {answers[text][0]} + 2*tsv:pairs.tsv | translate: {source}

A label of `tfds` becomes its name, not its number. See `text_files.py` for how files are read.

A source is read once, as a stream, into the cache (`store.py`), under a key that depends on the bytes of its files.
Held-out data and the repetitions of a mixture are lists of example numbers, so a source is stored only once. Memory
holds a few numbers per example.
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
    """The examples of the training, validation or test split."""

    name: str  # train, validation, test
    spec: str  # the source that it is read from, e.g. text:corpus/*.txt
    examples: Examples
    note: str = ""  # a remark for the user in one line, e.g. about held-out data; may be empty
    report: Report | None = None  # the effect of cleaning; only for training data
    warnings: tuple[str, ...] = ()  # likely mistakes in the data, one sentence each
    parts: tuple[tuple[str, int], ...] = ()  # evaluation on a mixture: (source, examples) of each part

    @property
    def ranges(self) -> dict[str, range]:
        """The example numbers of each part of a mixture."""
        ends = itertools.accumulate((size for _, size in self.parts), initial=0)
        return {name: range(begin, begin + size) for (name, size), begin in zip(self.parts, ends, strict=False)}

    @property
    def fingerprint(self) -> str:
        """A hash of the examples in their order, 16 hexadecimal digits."""
        return self.examples.fingerprint[:16]


def load_splits(
    train: str,
    validation: str,
    test: str,
    wanted: Collection[str] = ("train", "validation", "test"),
    formats: Formats | None = None,
) -> dict[str, Split]:
    """Reads the `wanted` splits.

    If `validation` is empty, a part of `train` is held out for it. From a `text:` source, the files are concatenated
    and all characters after the first `int(0.9 * n)` are held out, as in char-rnn and nanoGPT. From any other source, a
    twentieth of the examples is held out, chosen by a hash of their content. So equal examples are on the same side,
    and examples that are added later do not move others.

    Args:
        train: the source of the training data.
        validation: the source of the validation data; empty: held out of `train`.
        test: the source of the test data; empty: there is no test split.
        wanted: names of the splits to read.
        formats: rules by which records become examples, for sources without formats of their own.

    Raises:
        UserError: a source cannot be read; the error names the file and the line at fault.
    """
    formats = formats or Formats()
    if formats.turns and not validation and "train" in wanted:
        reason = "is empty, and if replies were held out by chance, one conversation would be on both sides"
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


FIELDED = ("tfds:", "jsonl:")  # sources whose records may have any fields, which formats can name


def _mixture(role: str, spec: str, formats: Formats) -> tuple[list[tuple[str, Formats, str]], list[float]]:
    """Returns the (source, formats, name) of each part of a mixture, and the weights; a missing weight is 0."""
    field, parts, weights = f"config.data.{role}", [], []
    written = re.split(r"\s+\+\s+(?=[\d.]*\*?\w+:)", spec)
    for each in written:
        weight, name = re.fullmatch(r"(?:([\d.]+)\*)?(.*)", each, re.DOTALL).groups()
        source, *own = map(str.strip, re.split(r"\s\|(?=\s|$)", name))
        if len(own) > 2:
            action = "write SOURCE | SOURCE_FORMAT | TARGET_FORMAT, and \\| for a bar in a path"
            raise UserError(field, f"{name!r} has {len(own)} formats", action)
        # With a target format the source format may be constant: an encoder-decoder that only generates texts reads the
        # same source for all of them.
        constant = [True, False] if len(own) == 2 and own[1] else [False] * len(own)
        for problem in filter(None, map(problem_of, own, constant)):
            action = "write fields in braces, e.g. 'answer: {question} {context}', and \\| for a bar in a path"
            raise UserError(field, problem, action)
        if own:
            known = Formats(*own, *[""] * (2 - len(own)), formats.turns, formats.history)
        else:  # in a mixture, the formats of the configuration apply to sources with any fields
            known = formats if len(written) == 1 or source.startswith(FIELDED) else Formats()
        parts.append((source, known, name))
        weights.append(_number(weight) if weight else 0.0)
    if any(weights) != all(weights) or not all(map(math.isfinite, weights)):
        reason = f"{spec!r} is not a valid mixture"
        raise UserError(field, reason, "write WEIGHT*SOURCE + WEIGHT*SOURCE, with weights above 0 or without any")
    return parts, weights


def _number(text: str) -> float:
    """Returns the positive number that a text spells, or NaN if it spells none."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) and float(text) else math.nan


def _mixed(splits: Sequence[Split], weights: Sequence[float]) -> list[Split]:
    """Returns the parts of one epoch of a mixture, with examples repeated so that the weights hold.

    Each example of each source is used at least once. If the last round of a source is incomplete, its examples are
    chosen by their hash.
    """
    round_ = max(len(split.examples) / weight for split, weight in zip(splits, weights, strict=True))
    mixed = []
    for split, weight in zip(splits, weights, strict=True):
        rounds, rest = divmod(round(round_ * weight), len(split.examples))
        if rounds > MOST_ROUNDS:
            reason = f"repeats {split.spec} {rounds:,} times in an epoch"
            raise UserError("config.data.train", reason, f"lower its weight; the limit is {MOST_ROUNDS:,}")
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
    """Returns the parts of a source; if a file is missing, the error explains escapes where they may be the cause."""
    try:
        return [_load(role, *part) for part in parts]
    except paths.Missing as missing:
        if not re.search(r"[\\|,*?\[]|\s\+\s", spec):
            raise
        raise UserError(missing.where, missing.reason, f"{missing.action}; {paths.ESCAPING}") from None


def _load(role: str, spec: str, formats: Formats, name: str) -> Split:
    """Returns the split of one source; `name` is the source as written, with its own formats."""
    field = f"config.data.{role}"
    scheme, separator, location = spec.partition(":")
    if not separator or scheme not in SCHEMES:
        raise UserError(field, f"{spec!r} has no known scheme", f"write scheme:location; {nearest(scheme, SCHEMES)}")
    if not location:
        raise UserError(field, f"{spec!r} names nothing to read", "write scheme:location, e.g. text:corpus/*.txt")
    if formats and scheme == "text":
        reason = f"{scheme}: has no fields, so the formats of config.data cannot name any"
        raise UserError(field, reason, "use jsonl:FILE, or leave the formats out")
    read = SCHEMES[scheme](location, role, formats)
    blanks = several = 0

    def make(finished: Sequence[store.Finished]) -> Iterator[Example]:
        nonlocal blanks, several
        done = sum(shard.note["examples"] + shard.note["blanks"] for shard in finished)
        for example in itertools.islice(read.examples, done, None):
            # Blank examples in files are errors, but users cannot correct a published data set, so they are skipped.
            # A blank target is valid if the data gives a list of targets: the correct answer may be no text.
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
        raise UserError(field, f"{spec} has no examples", "check that it is the right file or split")
    left_out = sum(note["blanks"] for note in found.notes)
    said = [f"{left_out:,} blank examples of {spec} are left out"] if left_out else []
    said += [f"{read.note} of {spec}"] if read.note else []
    if listed := sum(note.get("several", 0) for note in found.notes):
        said.append(f"{listed:,} of {len(found):,} have several targets: scores use all, training and loss the first")
    warnings = tuple(headers.sentences(found.notes[-1]["headers"], read.names))
    return Split(role, name, found, "; ".join(said), warnings=warnings)


VERSION = 3  # part of the cache key: raise it when the same bytes become other examples


# ---- held out of training ---------------------------------------------------------------------------------------


def _hold_out(train: Split) -> tuple[Split, Split]:
    texts = train.examples
    if train.spec.startswith("text:"):
        # As in char-rnn and nanoGPT. The document at the boundary is divided.
        total = int(texts.table[:, 1].sum(dtype=np.int64))
        kept, held = Slice(texts, 0, int(0.9 * total)), Slice(texts, int(0.9 * total), total)
        note = f"validation is the last tenth of {train.spec} (by characters), held out of training"
    else:
        # If no hash is in the lowest twentieth of all possible ones, the example with the lowest hash is held out.
        hashes = texts.hashes
        low = hashes <= max(2**64 // 20, int(hashes.min()))
        if low.all():  # if all hashes are, only the lowest one is held out
            low = hashes == hashes.min()
        kept, held = Chosen(texts, np.flatnonzero(~low)), Chosen(texts, np.flatnonzero(low))
        note = (
            f"validation is {len(held):,} of the {len(texts):,} examples of {train.spec}, "
            "chosen by hash and held out of training"
        )
    if not len(kept) or not len(held):
        if train.spec.startswith("text:"):
            reason = f"is empty, and {train.spec} is too small to hold out a part of it"
        else:
            reason = "one example" if len(texts) == 1 else f"{len(texts):,} examples, which are all equal"
            reason = f"is empty, and {train.spec} has {reason}, so none can be held out"
        raise UserError("config.data.validation", reason, "name a source, or use more training data")
    return dataclasses.replace(train, examples=kept), Split("validation", train.spec, held, note)


# ---- schemes ----------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """The examples at a location, and the files that they are read from."""

    identity: Any  # digests of all that the examples depend on, in types of JSON; part of the cache key
    examples: Iterable[Example]  # the files are read during iteration
    names: Sequence[str] = ()  # names of the files, for tables of two columns
    headers: Headers = Headers()  # watches the first rows of these files
    note: str = ""  # a remark about files that are left out


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
        raise UserError(f"config.data.{role}", reason, "name equally many of both, in the same order")
    return _table(list(zip(*sides, strict=True)), text_files.aligned, role, formats)


def _tsv(location: str, role: str, formats: Formats) -> Source:
    return _table([[path] for path in paths.named(location, role, "tsv")], text_files.tab_separated, role, formats)


def _table(
    groups: Sequence[Sequence[epath.Path]],
    rows: Callable[..., Iterator[Example]],
    role: str,
    formats: Formats,
) -> Source:
    """Returns a source whose rows of source and target are read from each group of files."""
    (groups, note), watch = paths.once(groups), Headers()
    pairs = itertools.chain.from_iterable(watch.watched(rows(*group), number) for number, group in enumerate(groups))
    names = [str(path) for path, *_ in groups]
    return Source(_digests(groups), _formatted(pairs, role, formats), names, watch, note)


def _digests(groups: Sequence[Sequence[epath.Path]]) -> list[str]:
    return [text_files.text_digest(path) for group in groups for path in group]


def _formatted(pairs: Iterable[Example], role: str, formats: Formats) -> Iterator[Example]:
    """Yields the example of each pair, which is a record of the fields `source` and `target` for the formats."""
    for pair in pairs:
        try:
            (texts,) = formats.filled({"source": pair.source, "target": pair.target})
        except KeyError as error:
            action = "name these, or give the source its own formats: SOURCE | SOURCE_FORMAT | TARGET_FORMAT"
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
