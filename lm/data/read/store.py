"""The cache: records on disk in ArrayRecord shards, which are written once and read only if they are unaltered.

A directory has these files::

    DIRECTORY/00000.array_record   record 0 is the state that the maker needs to continue; then the records of the shard
    DIRECTORY/00000.json           written after the shard: its SHA-256, its rows of the table, and its metadata
    DIRECTORY/table.npy            int32 [records, columns]: numbers about each record, e.g. its length
    DIRECTORY/complete.json        written last: the SHA-256 and the metadata of all shards

The contents of a shard are a pure function of its inputs. So a preparation that was killed resumes after the last
complete shard, and the result has the same bytes. One process at a time prepares a directory; others wait for it.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from lm import files, json_files
from lm.errors import UserError

SHARD_RECORDS = 20_000
SHARD_CHARACTERS = 8_000_000


class Shard(NamedTuple):
    """Records that are written to one file."""

    records: Sequence[bytes]
    table: np.ndarray  # int32 [records, columns]
    note: dict[str, Any]  # metadata in types of JSON, e.g. counts
    memory: bytes = b""  # the state that the maker needs to continue after this shard


class Finished(NamedTuple):
    """The metadata and state of a shard that an interrupted preparation completed."""

    note: dict[str, Any]
    memory: bytes


class Records:
    """The records of a complete directory.

    The SHA-256 of a shard is checked when it is first read; `check` checks all of them.

    Attributes:
        table: int32 [records, columns].
        notes: the metadata of each shard.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        complete = _complete(directory)
        self.notes: list[dict[str, Any]] = [shard["note"] for shard in complete["shards"]]
        self._digests = [shard["sha256"] for shard in complete["shards"]]
        self._starts = np.cumsum([0, *(shard["records"] for shard in complete["shards"])])
        if _digest(directory / "table.npy") != complete["table"]:
            raise _altered(directory / "table.npy")
        self.table = np.load(directory / "table.npy", mmap_mode="r")
        self._readers: dict[int, ArrayRecordReader] = {}

    def __getstate__(self):  # another process opens the files itself
        return self._directory

    def __setstate__(self, directory: pathlib.Path):
        self.__init__(directory)

    def __len__(self) -> int:
        return len(self.table)

    def total(self, name: str) -> float:
        """Returns the sum over shards of the number `name` in their metadata."""
        return sum(note[name] for note in self.notes)

    def check(self) -> "Records":
        """Raises `UserError` if a shard was altered; returns the records themselves."""
        for shard in range(len(self._digests)):
            self._reader(shard)
        return self

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Returns the records with these numbers."""
        # Record 0 of a shard is the state of the maker.
        return from_parts(self._starts, numbers, lambda shard, places: self._reader(shard).read((places + 1).tolist()))

    def _reader(self, shard: int) -> ArrayRecordReader:
        if shard not in self._readers:
            path = _path(self._directory, shard)
            if _digest(path) != self._digests[shard]:
                raise _altered(path)
            self._readers[shard] = ArrayRecordReader(str(path))
        return self._readers[shard]


def from_parts(
    starts: np.ndarray, numbers: Sequence[int], read: Callable[[int, np.ndarray], Sequence[Any]]
) -> list[Any]:
    """Returns the items with the given numbers from concatenated parts.

    Args:
        starts: the number of the first item of each part, ascending.
        numbers: the numbers of the items, in any order.
        read: called once for each part that is needed, with its index and the places of the items in it.
    """
    numbers = np.asarray(numbers, np.int64)
    parts = np.searchsorted(starts, numbers, side="right") - 1
    found: list[Any] = [None] * len(numbers)
    for part in np.unique(parts).tolist():
        at = np.flatnonzero(parts == part)
        for i, each in zip(at.tolist(), read(part, numbers[at] - starts[part]), strict=True):
            found[i] = each
    return found


def cache_directory() -> pathlib.Path:
    """Returns the directory of the cache: LM_CACHE_DIR, or `lm/data` in the user's cache directory."""
    if given := os.environ.get("LM_CACHE_DIR"):
        return pathlib.Path(given)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if cache.parts[0] == "~":
        raise UserError(
            "HOME", "is not set, and this user has no home directory", "set HOME, or LM_CACHE_DIR for the cache of data"
        )
    return cache / "lm" / "data"


def key_of(*parts: Any) -> str:
    """Returns a key of the cache: a hash of these values, which must be in types of JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def shard_ranges(characters: Iterable[int]) -> Iterator[range]:
    """Yields ranges of consecutive examples that form a shard of bounded size, given the characters of each example."""
    begin, held, number = 0, 0, -1
    for number, size in enumerate(characters):
        if number > begin and (number - begin >= SHARD_RECORDS or held + size > SHARD_CHARACTERS):
            yield range(begin, number)
            begin, held = number, 0
        held += size
    if number >= 0:
        yield range(begin, number + 1)


def stored(
    key: str,
    make: Callable[[Sequence[Finished]], Iterator[Shard]],
    reason: str,
    total: int | None = None,
) -> Records:
    """Returns the records under `key`; if they are not complete, the missing shards are created first.

    Args:
        key: the name of the directory; depends on everything that the records depend on.
        make: returns the shards that follow the given complete ones.
        reason: the label of the progress bar.
        total: the number of records, if it is known.

    Raises:
        UserError: a file was altered, or the directory cannot be written; the error names it.
    """
    directory = cache_directory() / key
    if not (directory / "complete.json").exists():
        with _writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = (directory / ".lock").open("wb")
        with lock:  # closing releases the lock, and so does the end of the process
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "complete.json").exists():  # another process may have completed it meanwhile
                _prepare(directory, make, reason, total)
    return Records(directory)


def remembered(key: str, make: Callable[[], Any]) -> Any:
    """Returns the result of `make` from the cache; if it is missing or altered there, calls `make` and stores it.

    The result must be in types of JSON.
    """
    path = cache_directory() / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, UserError):
        record = json_files.parsed(files.read_text(path, "note of the cache"), {"digest": str, "made": object})
        if record["digest"] == key_of(record["made"]):
            return record["made"]
    made = make()
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, {"digest": key_of(made), "made": made})
    return made


# ---- writing ----------------------------------------------------------------------------------------------------


def _prepare(directory: pathlib.Path, make, reason: str, total: int | None) -> None:
    for stale in directory.glob(".*.*"):  # temporary files of a process that was killed
        stale.unlink()
    notes, finished = [], []
    for number in itertools.count():
        path = _path(directory, number)
        if not path.with_suffix(".json").exists():
            break
        note = _note(path)
        notes.append(note)
        finished.append(Finished(note["note"], ArrayRecordReader(str(path)).read([0])[0]))
    done, quiet = sum(note["records"] for note in notes), not sys.stderr.isatty()
    with tqdm(None, reason, total, False, sys.stderr, initial=done, unit=" examples", delay=1, disable=quiet) as bar:
        for number, shard in enumerate(make(finished), start=len(notes)):
            notes.append(_write(_path(directory, number), shard))
            bar.update(len(shard.records))
    rows = [np.array(note["table"], np.int32).reshape(note["shape"]) for note in notes]
    shards = [{name: note[name] for name in ("sha256", "records", "note")} for note in notes]
    temporary = directory / f".0.{os.getpid()}"
    with _writing(directory):
        with temporary.open("wb") as file:
            np.save(file, np.concatenate(rows) if rows else np.zeros((0, 0), np.int32))
        temporary.replace(directory / "table.npy")
        _write_note(directory / "complete.json", {"table": _digest(directory / "table.npy"), "shards": shards})


def _write(path: pathlib.Path, shard: Shard) -> dict[str, Any]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _writing(path.parent):
        # Records are read one by one in random order, so each one is a group of its own.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        writer.write(shard.memory)
        for record in shard.records:
            writer.write(record)
        writer.close()
        with temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        temporary.replace(path)
        note = {"sha256": digest, "records": len(shard.records), "note": shard.note}
        note |= {"table": shard.table.ravel().tolist(), "shape": shard.table.shape}
        _write_note(path.with_suffix(".json"), note)
    return note


def _write_note(path: pathlib.Path, note: dict[str, Any]) -> None:
    _write_json(path, note | {"digest": key_of(note)})


def _write_json(path: pathlib.Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


# ---- checking ---------------------------------------------------------------------------------------------------


_SHARD = {"note": {str: object}, "sha256": str, "records": int}
_COMPLETE = {"table": str, "shards": [_SHARD]}
_NOTE = _SHARD | {"table": [int], "shape": [int]}


def _complete(directory: pathlib.Path) -> dict[str, Any]:
    return _read_note(directory / "complete.json", _COMPLETE)


def _note(path: pathlib.Path) -> dict[str, Any]:
    """Returns the metadata of a shard that an interrupted preparation completed, after a check of its SHA-256."""
    note = _read_note(path.with_suffix(".json"), _NOTE)
    if _digest(path) != note["sha256"]:
        raise _altered(path)
    return note


def _read_note(path: pathlib.Path, form: Any) -> dict[str, Any]:
    """Returns unaltered metadata; raises `UserError` if it was altered. Before version 0.3.1 it had no digest."""
    try:
        note = json_files.parsed(files.read_text(path, "note of the cache"), form | {"digest?": str})
    except (OSError, ValueError, UserError):
        raise _altered(path) from None
    if note.pop("digest", None) not in (None, key_of(note)):
        raise _altered(path)
    return note


def _digest(path: pathlib.Path) -> str:
    try:
        files.require_regular(path, f"delete {path.parent}; the next start creates it again")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise _altered(path) from None


def _path(directory: pathlib.Path, number: int) -> pathlib.Path:
    return directory / f"{number:05d}.array_record"


def _altered(path: pathlib.Path) -> UserError:
    return UserError(str(path), "is corrupt", f"delete {path.parent}; the next start creates it again")


@contextlib.contextmanager
def _writing(directory: pathlib.Path):
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError for all errors of the disk
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        action = "free space there, or set LM_CACHE_DIR to another folder"
        raise UserError(str(directory), f"cannot be written ({reason})", action) from None
