"""Files of text, read as a stream: decompressed, decoded strictly, cut into lines or into pieces of a document.

Files that end in `.gz` or `.zst` are decompressed. Files are UTF-8, strictly. A byte order mark at the start is dropped
and `\\r\\n` becomes `\\n`; nothing else is changed. A line ends at `\\n` only. Blank lines (of nothing but white space) are
skipped, in `parallel` where both files have one; a blank source or target beside text is an error.
"""

import codecs
import contextlib
import glob
import gzip
import hashlib
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from etils import epath

from lm.config.formats import Formats, proposed
from lm.data.read.examples import Example, blank
from lm.errors import UserError

CHUNK = 2**20  # bytes that are read at once
LONGEST = 2**17  # characters of a document that become one example, at most; what follows continues it


# ---- formats ----------------------------------------------------------------------------------------------------


def documents(paths: Sequence[epath.Path]) -> Iterator[Example]:
    """Each file is one document, in pieces that end with a line where one ends in the piece."""
    for path in paths:
        text, continued = "", False
        for chunk in chunks(path):
            text += chunk
            while len(text) > LONGEST:
                cut = text.rfind("\n", 0, LONGEST) + 1 or LONGEST
                yield Example(None, text[:cut], continued=continued)
                text, continued = text[cut:], True
        if text:
            yield Example(None, text, continued=continued)


def aligned(source: epath.Path, target: epath.Path) -> Iterator[Example]:
    """Line n of one file belongs to line n of the other."""
    paths, ended = (source, target), [0, 0]
    both = itertools.zip_longest(lines(source), lines(target))
    for number, pair in enumerate(both, start=1):
        for side in (0, 1):
            ended[side] += pair[side] is not None
        empty = [line is None or blank(line) for line in pair]
        if all(empty):
            continue
        if None in pair:
            _refuse_unaligned(paths, ended, both)
        if any(empty):
            short, full = paths if empty[0] else paths[::-1]
            mend = "fill the line, or delete it in both files"
            raise UserError(f"{short}:{number}", f"the line is blank, line {number} of {full} is not", mend)
        yield Example(*pair)


def _refuse_unaligned(paths: Sequence[epath.Path], ended: list[int], rest: Iterator[tuple]) -> None:
    for pair in rest:
        for side in (0, 1):
            ended[side] += pair[side] is not None
    what = f"{ended[0]:,} lines against {ended[1]:,} in {paths[1]}"
    raise UserError(str(paths[0]), what, "align the files: line n of one belongs to line n of the other")


def tab_separated(paths: Sequence[epath.Path]) -> Iterator[Example]:
    for path in paths:
        for number, line in enumerate(lines(path), start=1):
            if blank(line):
                continue
            fields = line.split("\t")
            if len(fields) != 2:
                what = f"{len(fields) - 1} tabs where there must be one"
                mend = "write source<TAB>target on each line; of more columns take two, e.g. with cut -f1,2"
                raise UserError(f"{path}:{number}", what, mend)
            if any(map(blank, fields)):
                what = f"the {'source' if blank(fields[0]) else 'target'} is blank"
                raise UserError(f"{path}:{number}", what, "fill it, or delete the line")
            yield Example(*fields)


def json_lines(paths: Sequence[epath.Path], formats: Formats) -> Iterator[Example]:
    texts = None
    for path in paths:
        for number, line in enumerate(lines(path), start=1):
            if blank(line):
                continue
            for example in _from_json(line, f"{path}:{number}", formats):
                if texts is not None and texts != (example.source is None):
                    what = "texts and source-target pairs are mixed in one source"
                    mend = "put them into two files, as they are for different tasks"
                    raise UserError(f"{path}:{number}", what, mend)
                texts = example.source is None
                yield example


def _from_json(line: str, where: str, formats: Formats) -> list[Example]:
    """The examples in a line of JSON: one, or those of a conversation."""
    mend = 'write {"text": ...} or {"source": ..., "target": ...} on each line'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at column {error.colno}" if known else str(error)
        raise UserError(where, f"is not valid JSON ({reason})", mend) from None
    if not isinstance(record, dict):
        raise UserError(where, f"is not a JSON object but {line.strip()[:20]!r}", mend)
    try:
        found = formats.filled(record)
    except KeyError as error:
        raise UserError(where, error.args[0], "correct the record, or name another field in the format") from None
    if not found:
        raise UserError(where, "is a conversation without a reply", "give it two turns or more, or delete the line")
    return [_checked(each, where, mend) for each in found]


def _checked(record: dict[str, Any], where: str, mend: str) -> Example:
    names = [name for name in ("text", "source", "target") if name in record]
    if names not in (["text"], ["source", "target"]):
        fix = f"{mend}, {proposed(list(record))}" if record else mend
        raise UserError(where, f"has the keys {', '.join(record)[:80] or '(none)'}", fix)
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


# ---- streams ----------------------------------------------------------------------------------------------------


def lines(path: epath.Path) -> Iterator[str]:
    """Without `str.splitlines`: U+2028, U+0085 and their like are part of a line."""
    parts: list[str] = []
    for chunk in chunks(path):
        first, *others = chunk.split("\n")
        parts.append(first)
        for other in others:
            yield "".join(parts)
            parts = [other]
    if rest := "".join(parts):
        yield rest


def chunks(path: epath.Path) -> Iterator[str]:
    """A file's text in parts, strictly UTF-8, or the line and byte that keep it from being text."""
    read, line, begun, held = 0, 1, False, ""  # bytes and lines before the chunk; a \r at its end waits for the \n
    kept = b""  # bytes of a character that the chunk cuts
    for data in itertools.chain(_decompressed(path), [None]):
        final, data = data is None, kept + (data or b"")
        nul = data.find(b"\0")
        if nul >= 0:
            what = f"looks binary: byte {read + nul} is NUL"
            raise UserError(f"{path}:{line + data.count(bytes([10]), 0, nul)}", what, "give plain text in UTF-8")
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            what = f"is not UTF-8: byte {read + error.start} is 0x{data[error.start]:02x} ({error.reason})"
            where = f"{path}:{line + data.count(bytes([10]), 0, error.start)}"
            raise UserError(where, what, "convert it, e.g. iconv -f LATIN1 -t UTF-8") from None
        line, read, kept = line + data.count(b"\n", 0, used), read + used, data[used:]
        if not read - used and text:
            text = text.removeprefix("\ufeff")
        text = held + text
        held = "\r" if text.endswith("\r") and not final else ""
        text = text[: len(text) - len(held)].replace("\r\n", "\n")
        begun = begun or not blank(text)
        if text:
            yield text
    if not begun:
        raise UserError(str(path), "is empty", "give a file with text in it, or leave this one out")


def _decompressed(path: epath.Path) -> Iterator[bytes]:
    """What a `.gz` or `.zst` file holds; of any other the bytes as they are."""
    with opened(path) as file:
        try:
            if path.suffix == ".gz":
                parts: Any = gzip.GzipFile(fileobj=file)
                yield from iter(lambda: parts.read(CHUNK), b"")
            elif path.suffix == ".zst":
                yield from _frames(file)
            else:
                yield from iter(lambda: file.read(CHUNK), b"")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(str(path), f"cannot be decompressed ({error})", "fetch the file again") from None
        except ImportError:
            raise UserError(str(path), "needs the package zstandard", "pip install 'lm[zstd]'") from None


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """The frames of a Zstandard file, which may be several."""
    import zstandard

    frame = None
    for data in iter(lambda: file.read(2**17), b""):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(error) from None
            data = frame.unused_data
            if frame.eof:
                frame = None
    if frame:
        raise EOFError("the file ends within a frame")


# ---- paths ------------------------------------------------------------------------------------------------------


def digest(path: epath.Path) -> str:
    """SHA-256 of a file's bytes, and how they are read."""
    with opened(path) as file:
        found = hashlib.sha256()
        for data in iter(lambda: file.read(CHUNK), b""):
            found.update(data)
    return found.hexdigest() + (path.suffix if path.suffix in (".gz", ".zst") else "")


def path_of(name: str) -> epath.Path:
    return epath.Path(name).expanduser()


def named(name: str, role: str, scheme: str) -> list[epath.Path]:
    """The file of this name, or the files that a pattern matches."""
    return matches(name, role, scheme) if set("*?[") & set(name) else [path_of(name)]


def matches(pattern: str, role: str, scheme: str) -> list[epath.Path]:
    """The files that a pattern matches, sorted; a pattern that is the name of a file is that file."""
    path = path_of(pattern)
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


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
    with _readable(path):
        if path.is_dir():  # not every file system says so when it is read
            raise IsADirectoryError
        if "://" not in str(path) and path.exists() and not os.path.isfile(path):
            what, mend = "is a pipe or a device, and data is read more than once", "write it to a file first"
            raise UserError(str(path), what, mend)
        with path.open("rb") as file:
            yield file
