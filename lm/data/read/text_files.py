"""Text files, read as a stream: decompressed, decoded, and split into lines or pieces of a document.

Files that end in `.gz` or `.zst` are decompressed. Files must be valid UTF-8. A byte order mark at the start is dropped
and `\\r\\n` becomes `\\n`; nothing else is changed. A line ends only at `\\n`. Blank lines, which are empty or white
space, are skipped. In `parallel` a pair of blank lines is skipped, and one blank line beside text is an error.
"""

import codecs
import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from etils import epath

from lm import files
from lm.config.formats import Formats, proposed
from lm.data.read.examples import Example, blank
from lm.data.read.paths import opened
from lm.errors import UserError

CHUNK = 2**20  # bytes per read
# The endings of compressed files, and the reason that `files.disguise` gives for their bytes.
COMPRESSED = {".gz": "is gzip-compressed", ".zst": "is zstd-compressed"}
LONGEST_LINE = 2**28  # characters
LONGEST = 2**17  # the most characters of an example; the rest of a longer document continues it in further ones


# ---- formats ----------------------------------------------------------------------------------------------------


def documents(paths: Sequence[epath.Path]) -> Iterator[Example]:
    """Yields each file as one document, in pieces that end at the end of a line if they contain one."""
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
    """Yields a pair for each line: line n of the first file is the source of line n of the second."""
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
            action = "fill the line, or delete it in both files"
            raise UserError(f"{short}:{number}", f"is a blank line, and line {number} of {full} is not", action)
        yield Example(*pair)


def _refuse_unaligned(paths: Sequence[epath.Path], ended: list[int], rest: Iterator[tuple]) -> None:
    for pair in rest:
        for side in (0, 1):
            ended[side] += pair[side] is not None
    reason = f"has {ended[0]:,} lines, and {paths[1]} has {ended[1]:,}"
    raise UserError(str(paths[0]), reason, "align the files: line n of one must belong to line n of the other")


def tab_separated(path: epath.Path) -> Iterator[Example]:
    """Yields a pair for each line `source<TAB>target`."""
    for number, line in enumerate(lines(path), start=1):
        if blank(line):
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            reason = f"has {len(fields) - 1} tabs instead of one"
            action = "write source<TAB>target on each line; select two of more columns, e.g. with cut -f1,2"
            raise UserError(f"{path}:{number}", reason, action)
        if any(map(blank, fields)):
            reason = f"has a blank {'source' if blank(fields[0]) else 'target'}"
            raise UserError(f"{path}:{number}", reason, "fill it, or delete the line")
        yield Example(*fields)


def json_lines(paths: Sequence[epath.Path], formats: Formats) -> Iterator[Example]:
    """Yields the examples of each line, which is a JSON object; all must be texts, or all pairs."""
    texts = None
    for path in paths:
        for number, line in enumerate(lines(path), start=1):
            if blank(line):
                continue
            for example in _from_json(line, f"{path}:{number}", formats):
                if texts is not None and texts != (example.source is None):
                    reason = "mixes texts and source-target pairs in one source"
                    action = "put them into two files, as they are for different tasks"
                    raise UserError(f"{path}:{number}", reason, action)
                texts = example.source is None
                yield example


class Number(float):
    """A number of JSON that keeps its spelling, so that `1.0`, `1e400` or 400 digits become texts as written."""

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.written = text
        return number

    def __str__(self) -> str:
        return self.written


def _spelled(value: Any) -> str:
    return (str(value) if isinstance(value, Number) else json.dumps(value))[:20]


def _from_json(line: str, where: str, formats: Formats) -> list[Example]:
    """Returns the examples in a line of JSON: one, or one per reply of a conversation."""
    action = 'write {"text": ...} or {"source": ..., "target": ...} on each line'

    def refuse(constant: str):
        raise UserError(where, f"has {constant}, which is not JSON", "write a text or a number, or delete the line")

    try:
        record = json.loads(line, parse_float=Number, parse_int=Number, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at column {error.colno}" if known else str(error)
        raise UserError(where, f"is not valid JSON ({reason})", action) from None
    if not isinstance(record, dict):
        raise UserError(where, f"is not a JSON object but {line.strip()[:20]!r}", action)
    try:
        found = formats.filled(record)
    except KeyError as error:
        raise UserError(where, error.args[0], "correct the record, or name another field in the format") from None
    if not found:
        raise UserError(where, "is a conversation without a reply", "give it two turns or more, or delete the line")
    return [_checked(each, where, action) for each in found]


def _checked(record: dict[str, Any], where: str, action: str) -> Example:
    """Returns the example of a record, after checks of its keys and their types."""
    names = [name for name in ("text", "source", "target") if name in record]
    if names not in (["text"], ["source", "target"]):
        fix = f"{action}, {proposed(list(record))}" if record else action
        raise UserError(where, f"has the keys {', '.join(record)[:80] or '(none)'}", fix)
    for name in names:
        several = name == "target" and isinstance(record[name], list)
        for text in record[name] if several else [record[name]]:
            if not isinstance(text, str):
                raise UserError(where, f"{name!r} is {_spelled(text)}, not a string", action)
            if blank(text) and not several:
                action = "fill it, or delete the line" + ", or write [] for no text at all" * (name == "target")
                raise UserError(where, f"{name!r} is blank", action)
            if not files.encodable(text):
                raise UserError(where, f"{name!r} has half of a surrogate pair", "write the complete character")
    log_prob = record.get("log_prob")
    if log_prob is not None:
        number = isinstance(log_prob, int | float) and not isinstance(log_prob, bool)
        if not number or not math.isfinite(log_prob) or log_prob > 0:
            reason = f"'log_prob' is {_spelled(log_prob)}"
            raise UserError(where, reason, "give the natural logarithm of a probability, or leave it out")
        log_prob = float(log_prob)
    return Example.answered(record.get("source"), record[names[-1]], log_prob)


# ---- streams ----------------------------------------------------------------------------------------------------


def lines(path: epath.Path) -> Iterator[str]:
    """Yields the lines of a file. Unlike in `str.splitlines`, U+2028, U+0085 and the like are parts of a line."""
    parts: list[str] = []
    number, held = 1, 0  # the number of the last, unfinished line of the chunks so far, and its characters
    for chunk in chunks(path):
        first, *others = chunk.split("\n")
        parts.append(first)
        number, held = number + len(others), len(others[-1]) if others else held + len(first)
        if held > LONGEST_LINE:
            reason = f"has a line of more than {LONGEST_LINE:,} characters"
            raise UserError(f"{path}:{number}", reason, "check that it is the right file, or split the line")
        for other in others:
            yield "".join(parts)
            parts = [other]
    if rest := "".join(parts):
        yield rest


def chunks(path: epath.Path) -> Iterator[str]:
    """Yields the text of a file in parts; raises `UserError` with the line and byte if it is not UTF-8 text."""
    # `read` bytes and `line - 1` lines are before the chunk; `held` is a final \r, as a \n may follow it.
    read, line, begun, held = 0, 1, False, ""
    kept = b""  # bytes of a character that the chunk splits
    for data in itertools.chain(_decompressed(path), [None]):
        final, data = data is None, kept + (data or b"")
        if not read and (known := files.disguise(data)):
            reason, action = known
            if path.suffix in COMPRESSED:
                raise UserError(str(path), f"holds data that {reason}", action)
            endings = [f"rename it to end in {ending}, or " for ending, said in COMPRESSED.items() if said == reason]
            raise UserError(str(path), reason, "".join(endings) + action)
        nul = data.find(b"\0")
        if nul >= 0:
            reason = f"looks binary: byte {read + nul} is NUL"
            raise UserError(f"{path}:{line + data.count(bytes([10]), 0, nul)}", reason, "give plain text in UTF-8")
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8: byte {read + error.start} is 0x{data[error.start]:02x} ({error.reason})"
            where = f"{path}:{line + data.count(bytes([10]), 0, error.start)}"
            raise UserError(where, reason, "convert it, e.g. iconv -f LATIN1 -t UTF-8") from None
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
        raise UserError(str(path), "is empty", "give a file with text, or leave this one out")


def _decompressed(path: epath.Path) -> Iterator[bytes]:
    """Yields the bytes of a file, decompressed if it ends in `.gz` or `.zst`."""
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
            action = f"download the file again, or rename it if it is not a {path.suffix} file"
            raise UserError(str(path), f"cannot be decompressed ({error})", action) from None
        except ImportError:
            raise UserError(str(path), "needs the package zstandard", "pip install 'lm[zstd]'") from None


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """Yields the decompressed bytes of a Zstandard file, which may have several frames."""
    import zstandard

    frame = None  # reads are small, as the output may be 2**15 times as large as the input
    for data in iter(lambda: file.read(2**12), b""):
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


# ---- identity ---------------------------------------------------------------------------------------------------


def text_digest(path: epath.Path) -> str:
    """Returns the `digest` of a file after a check that it starts with text, so that other files fail at once."""
    next(chunks(path))
    return digest(path)


def digest(path: epath.Path) -> str:
    """Returns the SHA-256 of a file's bytes, followed by its suffix if it is decompressed; part of cache keys."""
    with opened(path) as file:
        found = hashlib.sha256()
        for data in iter(lambda: file.read(CHUNK), b""):
            found.update(data)
    return found.hexdigest() + (path.suffix if path.suffix in COMPRESSED else "")
