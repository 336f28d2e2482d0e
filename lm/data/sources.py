"""Where text comes from: a string `scheme:location` becomes a split, a sequence of examples in memory.

    2*SOURCE + 1*SOURCE             training data only: a mixture; numbers of examples are as the weights say, and no
                                    source is read less than once an epoch
    tfds:NAME[/CONFIG][:SPLIT]      any TensorFlow Datasets name; without SPLIT, the split named as the role; SPLIT may be a
                                    slice, e.g. train[:10%]
    text:GLOB                       plain text, each file one document; `**` crosses folders
    parallel:SOURCE_FILE,TARGET_FILE  line n of one file belongs to line n of the other (two patterns: of each pair of files)
    jsonl:FILE                      {"text"} or {"source", "target"} on each line, and "log_prob" where it is known
    tsv:FILE                        source<TAB>target on each line; FILE may be a pattern here too

A record of `tfds` or `jsonl` with other fields becomes an example by format strings (`data.source_format`,
`data.target_format`; see `formats.py`). A label of `tfds` is its name, not its number.

Files that end in `.gz` or `.zst` are decompressed. Files are UTF-8, strictly. A byte order mark at the start is dropped and `\\r\\n` becomes `\\n`; nothing else is changed.
A line ends at `\\n` only. Blank lines (of nothing but white space) are skipped, in `parallel` where both files have
one; a blank source or target beside text is an error.
"""

import contextlib
import dataclasses
import difflib
import glob
import gzip
import hashlib
import io
import itertools
import json
import logging
import math
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from etils import epath

from lm.data.cleaning import Report
from lm.data.examples import Example, blank
from lm.errors import UserError, nearest
from lm.formats import fill


@dataclasses.dataclass(frozen=True)
class Formats:
    """How a record becomes an example; both empty: by its fields `text`, or `source` and `target`."""

    source: str = ""  # empty beside a target: the example has no source
    target: str = ""  # empty beside a source: the field `target`

    def __bool__(self) -> bool:
        return bool(self.source or self.target)

    def filled(self, record: dict[str, Any]) -> dict[str, Any]:
        """`text`, or `source` and `target`; raises `KeyError` with a sentence."""
        if not self.source:
            return {"text": fill(self.target, record)}
        return {"source": fill(self.source, record), "target": fill(self.target or "{target}", record)}


@dataclasses.dataclass(frozen=True)
class Split:
    name: str  # train, validation, test
    spec: str  # the source it was read from, e.g. text:corpus/*.txt
    examples: Sequence[Example]
    fingerprint: str  # of the strings of the examples, in order
    note: str  # what the user must know of it, in one line; empty if nothing
    report: Report | None = None  # of training data: what cleaning did to it

    def replaced(self, examples: Sequence[Example]) -> "Split":
        """The split with other examples, and the fingerprint of those."""
        return _split(self.name, self.spec, examples, self.note)


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
    splits = {
        role: _load(role, spec, formats)
        for role, spec in (("validation", validation), ("test", test))
        if role in wanted and spec
    }
    if "train" in wanted or ("validation" in wanted and not validation):
        parts = _mixture(train)
        # In a mixture the formats are of those sources that have fields.
        known = lambda spec: formats if len(parts) == 1 or spec.startswith(FIELDED) else Formats()
        loaded = [_load("train", spec, known(spec)) for _, spec in parts]
        if not validation:
            loaded, held = zip(*map(_hold_out, loaded), strict=True)
            splits["validation"] = _joined("validation", train, held, [e for split in held for e in split.examples])
        weights = [weight for weight, _ in parts]
        splits["train"] = loaded[0] if len(parts) == 1 else _joined("train", train, loaded, _mixed(loaded, weights))
    return {role: splits[role] for role in ("train", "validation", "test") if role in splits and role in wanted}


FIELDED = ("tfds:", "jsonl:")  # sources whose records have fields that a format can name
_WEIGHTED = re.compile(r"(\d+(?:\.\d+)?)\*(\w+:.*)", re.DOTALL)


def _mixture(spec: str) -> list[tuple[float, str]]:
    """(weight, source) of each part of `2*SOURCE + 1*SOURCE`; any other specification is a mixture of one."""
    if not _WEIGHTED.fullmatch(spec):
        return [(1.0, spec)]
    parts = [_WEIGHTED.fullmatch(part) for part in re.split(r"\s+\+\s+", spec)]
    if not all(parts) or not all(float(part[1]) > 0 for part in parts):
        what = f"{spec!r} is no mixture"
        raise UserError("config.data.train", what, "write WEIGHT*SOURCE + WEIGHT*SOURCE, weights above 0")
    return [(float(weight), source) for weight, source in (part.groups() for part in parts)]


def _mixed(splits: Sequence[Split], weights: Sequence[float]) -> list[Example]:
    """An epoch of a mixture: every example of every source at least once, some repeated so that the numbers of examples
    are as the weights say. Whatever is left of a source's last round is chosen by hash."""
    round_ = max(len(split.examples) / weight for split, weight in zip(splits, weights, strict=True))
    mixed = []
    for split, weight in zip(splits, weights, strict=True):
        rounds, rest = divmod(round(round_ * weight), len(split.examples))
        if rounds > MOST_ROUNDS:
            what = f"{split.spec} would be repeated {rounds:,} times in an epoch"
            raise UserError("config.data.train", what, f"give it a weight that means at most {MOST_ROUNDS:,}")
        digest = lambda i, examples=split.examples: hashlib.blake2b(examples[i].content, digest_size=8).digest()
        chosen = sorted(sorted(range(len(split.examples)), key=digest)[:rest]) if rest else []
        mixed += [*split.examples] * rounds + [split.examples[i] for i in chosen]
    return mixed


MOST_ROUNDS = 1000


def _joined(name: str, spec: str, parts: Sequence[Split], examples: Sequence[Example]) -> Split:
    if len(parts) == 1:
        return parts[0]
    if len({example.source is None for example in examples}) > 1:
        raise UserError("config.data.train", f"{spec} mixes texts with pairs", "mix sources of one kind")
    return _split(name, spec, examples, "; ".join(part.note for part in parts if part.note))


def _load(role: str, spec: str, formats: Formats) -> Split:
    field = f"config.data.{role}"
    scheme, separator, location = spec.partition(":")
    if not separator or scheme not in SCHEMES:
        raise UserError(field, f"{spec!r} has no known scheme", f"write scheme:location; {nearest(scheme, SCHEMES)}")
    if not location:
        raise UserError(field, f"{spec!r} names nothing to read", "write scheme:location, e.g. text:corpus/*.txt")
    if formats and scheme not in ("tfds", "jsonl"):
        what = f"{scheme}: has no fields that the formats of config.data could name"
        raise UserError(field, what, "use jsonl:FILE, or leave the formats out")
    found = SCHEMES[scheme](location, role, formats)
    # Only tfds can bring blank ones: the file formats refuse them, but nobody can mend a published data set.
    examples = [e for e in found if not blank(e.target) and (e.source is None or not blank(e.source))]
    if not examples:
        raise UserError(field, f"{spec} holds no example", "check that it is the right file or split")
    left_out = len(found) - len(examples)
    return _split(role, spec, examples, f"{left_out:,} blank examples of {spec} are left out" if left_out else "")


def _split(name: str, spec: str, examples: Sequence[Example], note: str) -> Split:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.content)
    return Split(name, spec, examples, digest.hexdigest()[:16], note)


# ---- held out of training ---------------------------------------------------------------------------------------


def _hold_out(train: Split) -> tuple[Split, Split]:
    if train.spec.startswith("text:"):
        kept, held = _cut(train.examples)
        note = f"validation is the last tenth of {train.spec} (by characters), held out of training"
    else:
        kept, held = _choose(train.examples)
        note = (
            f"validation is {len(held):,} of the {len(train.examples):,} examples of {train.spec}, "
            "chosen by hash and held out of training"
        )
    if not kept or not held:
        what = f"{train.spec} is too small to hold validation data out of it"
        raise UserError("config.data.validation", what, "name a validation source, or use more text")
    return (
        _split("train", train.spec, kept, train.note),
        _split("validation", train.spec, held, note),
    )


def _cut(documents: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Documents before and after character `int(0.9 * n)` of all; the one that it falls in is divided."""
    left = int(0.9 * sum(len(document.target) for document in documents))
    kept, held = [], []
    for document in documents:
        before, after = document.target[:left], document.target[left:]
        left -= len(before)
        kept += [Example(None, before)] if before else []
        held += [Example(None, after)] if after else []
    return kept, held


def _choose(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The examples whose hash is not, and is, among the lowest twentieth of all hashes."""
    hashes = [hashlib.blake2b(example.content, digest_size=8).digest() for example in examples]
    # Of few examples perhaps none is that low: then the lowest one goes.
    limit = max((2**64 // 20).to_bytes(8, "big"), min(hashes))
    kept = [example for example, hashed in zip(examples, hashes, strict=True) if hashed > limit]
    held = [example for example, hashed in zip(examples, hashes, strict=True) if hashed <= limit]
    return kept, held


# ---- files ------------------------------------------------------------------------------------------------------


def _read_text(location: str, role: str, formats: Formats) -> list[Example]:
    return [Example(None, _read(path)) for path in _matches(location, role, "text")]


def _read_parallel(location: str, role: str, formats: Formats) -> list[Example]:
    names = location.split(",")
    if len(names) != 2 or not all(names):
        what = f"parallel:{location} does not name two files"
        raise UserError(f"config.data.{role}", what, "write parallel:SOURCE_FILE,TARGET_FILE")
    files = [_files(name, role, "parallel") for name in names]
    if len(files[0]) != len(files[1]):
        what = f"parallel:{location} matches {len(files[0])} source files and {len(files[1])} target files"
        raise UserError(f"config.data.{role}", what, "name as many of both, in the same order")
    return [example for pair in zip(*files, strict=True) for example in _read_aligned([str(path) for path in pair])]


def _read_aligned(names: list[str]) -> list[Example]:
    sources, targets = (_lines(_read(_path(name))) for name in names)
    longer = max(sources, targets, key=len)
    if not all(blank(line) for line in longer[min(len(sources), len(targets)) :]):
        what = f"{len(sources):,} lines against {len(targets):,} in {names[1]}"
        raise UserError(names[0], what, "align the files: line n of one belongs to line n of the other")
    examples = []
    for number, (source, target) in enumerate(itertools.zip_longest(sources, targets, fillvalue=""), start=1):
        if blank(source) and blank(target):
            continue
        if blank(source) or blank(target):
            empty, full = names if blank(source) else reversed(names)
            mend = "fill the line, or delete it in both files"
            raise UserError(f"{empty}:{number}", f"the line is blank, line {number} of {full} is not", mend)
        examples.append(Example(source, target))
    return examples


def _read_tsv(location: str, role: str, formats: Formats) -> list[Example]:
    return [example for path in _files(location, role, "tsv") for example in _read_tsv_file(str(path))]


def _read_tsv_file(location: str) -> list[Example]:
    examples = []
    for number, line in enumerate(_lines(_read(_path(location))), start=1):
        if blank(line):
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            what = f"{len(fields) - 1} tabs where there must be one"
            raise UserError(f"{location}:{number}", what, "write source<TAB>target on each line")
        if any(map(blank, fields)):
            what = f"the {'source' if blank(fields[0]) else 'target'} is blank"
            raise UserError(f"{location}:{number}", what, "fill it, or delete the line")
        examples.append(Example(*fields))
    return examples


def _read_jsonl(location: str, role: str, formats: Formats) -> list[Example]:
    examples: list[Example] = []
    for path in _files(location, role, "jsonl"):
        for number, line in enumerate(_lines(_read(path)), start=1):
            if blank(line):
                continue
            where = f"{path}:{number}"
            example = _example(line, where, formats)
            if examples and (example.source is None) != (examples[0].source is None):
                what = "texts and source-target pairs are mixed in one source"
                raise UserError(where, what, "put them into two files, as they are for different tasks")
            examples.append(example)
    return examples


def _example(line: str, where: str, formats: Formats) -> Example:
    """The example in a line of JSON."""
    mend = 'write {"text": ...} or {"source": ..., "target": ...} on each line'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at column {error.colno}" if known else str(error)
        raise UserError(where, f"is not valid JSON ({reason})", mend) from None
    if not isinstance(record, dict):
        raise UserError(where, f"is not a JSON object but {line.strip()[:20]!r}", mend)
    if formats:
        try:
            record = formats.filled(record) | {"log_prob": record.get("log_prob")}
        except KeyError as error:
            raise UserError(where, error.args[0], "mend the record, or the format in config.data") from None
    names = [name for name in ("text", "source", "target") if name in record]
    if names not in (["text"], ["source", "target"]):
        raise UserError(where, f"has the keys {', '.join(record)[:80] or '(none)'}", mend)
    for name in names:
        if not isinstance(record[name], str):
            raise UserError(where, f"{name!r} is {json.dumps(record[name])[:20]}, not a string", mend)
        if blank(record[name]):
            raise UserError(where, f"{name!r} is blank", "fill it, or delete the line")
        if re.search("[\ud800-\udfff]", record[name]):
            raise UserError(where, f"{name!r} holds half of a surrogate pair", "write the character whole")
    log_prob = record.get("log_prob")
    if log_prob is not None:
        number = isinstance(log_prob, int | float) and not isinstance(log_prob, bool)
        if not number or not math.isfinite(log_prob) or log_prob > 0:
            what = f"'log_prob' is {json.dumps(log_prob)[:20]}"
            raise UserError(where, what, "give the natural logarithm of a probability, or leave it out")
        log_prob = float(log_prob)
    return Example(record.get("source"), record[names[-1]], log_prob)


def _lines(text: str) -> list[str]:
    """Without `str.splitlines`: U+2028, U+0085 and their like are part of a line."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _path(name: str) -> epath.Path:
    return epath.Path(name).expanduser()


def _files(name: str, role: str, scheme: str) -> list[epath.Path]:
    """The file of this name, or the files that a pattern matches."""
    return _matches(name, role, scheme) if set("*?[") & set(name) else [_path(name)]


def _matches(pattern: str, role: str, scheme: str) -> list[epath.Path]:
    """The files that a pattern matches, sorted; a pattern that is the name of a file is that file."""
    path = _path(pattern)
    with _readable(path):
        if path.exists():
            return [path]
        if "://" in pattern:
            found = path.parent.glob(path.name)
        else:
            found = map(epath.Path, glob.glob(str(path), recursive=True))  # epath has no `**`
        files = sorted((path for path in found if not path.is_dir()), key=str)
    if not files:
        what = f"{scheme}:{pattern} matches no file"
        raise UserError(f"config.data.{role}", what, "check the path; ** crosses folders, quote it from the shell")
    return files


@contextlib.contextmanager
def _readable(path: epath.Path):
    """Says what keeps a file from being read."""
    try:
        yield
    except IsADirectoryError:
        raise UserError(str(path), "is a directory", f"name its files, e.g. text:{path}/*.txt") from None
    except FileNotFoundError:
        raise UserError(str(path), "no such file", "check the path") from None
    except NotImplementedError:
        raise UserError(str(path), "** is not read from a bucket", "write one * for each folder") from None
    except ImportError as error:
        raise UserError(str(path), f"this kind of path needs a package ({error})", "install it") from None
    except OSError as error:
        raise UserError(
            str(path), f"cannot be read ({error.strerror or error})", "check the path and its rights"
        ) from None


def _read(path: epath.Path) -> str:
    """A file's text, strictly UTF-8, or the line and byte that keep it from being text."""
    with _readable(path):
        if path.is_dir():  # not every file system says so when it is read
            raise IsADirectoryError
        data = path.read_bytes()
    data = _decompressed(data, path)
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise UserError(f"{path}:{line}", f"looks binary: byte {nul} is NUL", "give plain text in UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8: byte {error.start} is 0x{data[error.start]:02x} ({error.reason})"
        raise UserError(f"{path}:{line}", what, "convert it, e.g. iconv -f LATIN1 -t UTF-8") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if blank(text):
        raise UserError(str(path), "is empty", "give a file with text in it, or leave this one out")
    return text


def _decompressed(data: bytes, path: epath.Path) -> bytes:
    """What a `.gz` or `.zst` file holds; of any other the bytes as they are."""
    try:
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            return b"".join(_frames(data))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(str(path), f"cannot be decompressed ({error})", "fetch the file again") from None
    except ImportError:
        raise UserError(str(path), "needs the package zstandard", "pip install 'lm[zstd]'") from None
    return data


def _frames(data: bytes) -> Iterator[bytes]:
    """The frames of a Zstandard file, which may be several."""
    import zstandard

    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise EOFError(error) from None
        if not frame.eof:
            raise EOFError("the file ends within a frame")
        data = frame.unused_data


# ---- TensorFlow Datasets ----------------------------------------------------------------------------------------


def _read_tfds(location: str, role: str, formats: Formats) -> list[Example]:
    # A version is part of the name: imdb_reviews/plain_text:1.0.0:train.
    name, split = re.fullmatch(r"((?:huggingface:)?[^:]*(?::\d+\.\d+\.\d+)?)(?::(.*))?", location, re.DOTALL).groups()
    # TFDS greets, counts and reports on standard output, which belongs to what the program was asked for.
    with contextlib.redirect_stdout(io.StringIO()):
        builder = _prepared(_builder(name, role, formats), name, role)
        try:
            records = builder.as_data_source(split or role)
        except (ValueError, AssertionError):
            what = f"tfds:{name} has no split {split or role!r}"
            mend = f"write tfds:{name}:SPLIT, {nearest(split or role, builder.info.splits)}"
            raise UserError(f"config.data.{role}", what, mend) from None
        except NotImplementedError:
            what = f"tfds:{name} is prepared in a format that cannot be read at random: {builder.data_dir}"
            raise UserError(f"config.data.{role}", what, "move that folder away, or set TFDS_DATA_DIR") from None
    examples = []
    for start in range(0, len(records), 10_000):  # in blocks: one by one they take three times as long
        for record in records.__getitems__(list(range(start, min(start + 10_000, len(records))))):
            plain = _plain(builder.info.features, record)
            try:
                texts = formats.filled(plain) if formats else plain
            except KeyError as error:
                where, mend = f"tfds:{name}, example {len(examples)}", "mend config.data's formats"
                raise UserError(where, error.args[0], mend) from None
            target = texts["text"] if "text" in texts else texts["target"]
            log_prob = float(plain["log_prob"]) if "log_prob" in plain else None
            examples.append(Example(texts.get("source"), target, log_prob))
    return examples


def _plain(feature: Any, value: Any) -> Any:
    """What TFDS gives for a feature as strings, numbers, and lists and dicts of them; labels by their names."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: _plain(feature[name], value[name]) for name in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict) and isinstance(value, dict):
            return {name: [_plain(inner[name], each) for each in value[name]] for name in inner}
        return [_plain(inner, each) for each in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else str(int(value))  # -1 where a test set hides it
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if hasattr(value, "tolist") else value


def import_builders() -> None:
    """Makes the data sets of text, and TinyWorld, known to TFDS.

    TFDS imports its groups one after another, and stops without a word at the first that lacks a dependency
    (nearest_neighbors, without h5py), so that glue or wmt16_translate would be unknown: those of text are named.
    """
    import tensorflow_datasets.question_answering
    import tensorflow_datasets.summarization
    import tensorflow_datasets.text
    import tensorflow_datasets.text_simplification
    import tensorflow_datasets.translate  # noqa: F401

    import lm.data.tinyworld  # noqa: F401  (it registers itself with TFDS)


def _builder(name: str, role: str, formats: Formats) -> Any:
    """The builder of a data set whose features can be read."""
    import tensorflow_datasets as tfds  # here, as those who read files need not wait for it

    import_builders()
    field = f"config.data.{role}"
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        names = _similar(name.partition("/")[0], tfds.list_builders(with_community_datasets=False))
        raise UserError(field, f"tfds:{name} is no data set of TFDS", names) from None
    except (ValueError, AssertionError, TypeError) as error:
        configs = _configs(name)
        config = re.sub("(^|/)[^/]*=.*", "", name.partition("/")[2].partition(":")[0])  # without parameters
        if config and configs and config not in configs:
            raise UserError(field, f"tfds:{name} has no config {config!r}", _similar(config, configs)) from None
        reason = str(error).rpartition('}": ')[2].partition("\n")[0]
        raise UserError(
            field, f"tfds:{name} cannot be opened ({reason})", "write tfds:NAME[/CONFIG][:SPLIT]"
        ) from error
    except ImportError as error:
        raise UserError(field, f"tfds:{name} needs a package ({error})", "install it") from None
    except Exception as error:  # `huggingface:` asks the network, and fails as its libraries do
        reason = str(error).partition("\n")[0]
        raise UserError(field, f"tfds:{name} cannot be opened ({reason})", "check the name and the network") from error
    features = builder.info.features
    names = sorted(features) if isinstance(features, tfds.features.FeaturesDict) else [type(features).__name__]
    texts = set(names) & {"text", "source", "target"}
    if not formats and (
        texts not in ({"text"}, {"source", "target"})
        or not all(isinstance(features[key], tfds.features.Text) for key in texts)
    ):
        what = f"tfds:{name} has the features {', '.join(names)}; read are text, or source and target"
        mend = "say how they make these: config.data.source_format and config.data.target_format"
        raise UserError(field, what, mend)
    return builder


def _prepared(builder: Any, name: str, role: str) -> Any:
    """The builder, with its data on this machine."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if builder.data_path.exists():
        return builder
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # TFDS makes ten attempts, each after twice the wait: three and a half minutes, where there is no network.
    downloader.MAX_RETRIES = 5
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.info("preparing tfds:%s in %s", name, builder.data_dir)
    try:
        builder.download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except FileExistsError:
        return tfds.builder(name)  # another process was faster
    except Exception as error:
        # Each of hundreds of builders fails in its own way, where network, disk, a package or a manual step is missing.
        reason = str(error).partition("\n")[0]
        mend = f"check network and disk, or bring the data set, prepared as array_record, to {builder.data_dir}"
        raise UserError(f"config.data.{role}", f"tfds:{name} cannot be prepared ({reason})", mend) from error
    return builder


def _configs(name: str) -> Sequence[str]:
    import tensorflow_datasets as tfds

    try:
        return list(tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs)
    except (ValueError, AssertionError):
        return []


def _similar(name: str, choices: Sequence[str]) -> str:
    """As `nearest`, for lists too long to print."""
    return nearest(name, difflib.get_close_matches(name, choices, n=8, cutoff=0))


SCHEMES: dict[str, Callable[[str, str, Formats], list[Example]]] = {
    "tfds": _read_tfds,
    "text": _read_text,
    "parallel": _read_parallel,
    "jsonl": _read_jsonl,
    "tsv": _read_tsv,
}
