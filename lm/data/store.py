"""Token ids on disk: ArrayRecord shards, made once, whole or not at all, and never read if they were altered.

    DIRECTORY/00000.array_record   record 0: int32 lengths [n, 2] of the shard's examples; then one record an example
    DIRECTORY/00000.json           written after it: SHA-256 of the shard, and what was counted while it was made

A shard is a pure function of its examples and the tokenizer, so a preparation that was killed goes on with the first
shard that is missing, and ends with the same bytes. One process at a time prepares a directory; others wait for it.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from lm.data.corpus import Pair
from lm.errors import UserError

SHARD_EXAMPLES = 20_000
SHARD_CHARACTERS = 8_000_000


class Stored:
    """A corpus in the shards of a directory."""

    variants = 1

    def __init__(
        self, paths: Sequence[pathlib.Path], lengths: Sequence[np.ndarray], counts: dict[str, int], dtype: str
    ):
        self._paths, self.counts, self._dtype = paths, counts, dtype
        self._lengths = np.concatenate(lengths) if lengths else np.zeros((0, 2), np.int32)
        self._starts = np.cumsum([0, *map(len, lengths)])
        self._readers: dict[int, ArrayRecordReader] = {}

    def __getstate__(self):  # other processes open the files for themselves
        return vars(self) | {"_readers": {}}

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self, epoch: int) -> np.ndarray:
        return self._lengths

    def take(self, numbers: Sequence[int], epoch: int) -> list[Pair]:
        numbers = np.asarray(numbers, np.int64)
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        found: list[Pair] = [None] * len(numbers)  # type: ignore[list-item]
        for shard in np.unique(shards):
            at = np.flatnonzero(shards == shard)
            places = (numbers[at] - self._starts[shard] + 1).tolist()  # record 0 holds the lengths
            for i, record in zip(at, self._reader(int(shard)).read(places), strict=True):
                ids, cut = np.frombuffer(record, self._dtype).astype(np.int32), self._lengths[numbers[i], 0]
                found[i] = ids[:cut], ids[cut:]
        return found

    def _reader(self, shard: int) -> ArrayRecordReader:
        if shard not in self._readers:
            self._readers[shard] = ArrayRecordReader(str(self._paths[shard]))
        return self._readers[shard]


def cache_directory() -> pathlib.Path:
    """LM_CACHE_DIR, or `lm/data` in the user's cache."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(os.environ.get("LM_CACHE_DIR") or home / "lm" / "data")


def shard_ranges(characters: Sequence[int]) -> list[range]:
    """Consecutive examples, of so many characters each, in shards of bounded size."""
    ranges, begin, held = [], 0, 0
    for number, size in enumerate(characters):
        if number > begin and (number - begin >= SHARD_EXAMPLES or held + size > SHARD_CHARACTERS):
            ranges.append(range(begin, number))
            begin, held = number, 0
        held += size
    return [*ranges, range(begin, len(characters))] if characters else []


def stored(
    key: str,
    ranges: Sequence[range],
    make: Callable[[range], tuple[list[Pair], dict[str, int]]],
    vocab_size: int,
    what: str,
) -> Stored:
    """The corpus under `key`; shards that are not there yet are made.

    Args:
        key: names the directory; says everything that the ids depend on.
        ranges: the examples of each shard.
        make: the ids of a range of examples, and what was counted on the way (summed over the shards).
        vocab_size: decides how many bytes an id takes.
        what: is made, for the progress bar.

    Raises:
        UserError: a shard that is not as it was written, by name.
    """
    directory = cache_directory() / key
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{k:05d}.array_record" for k in range(len(ranges))]
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    with _lock(directory):
        for stale in directory.glob(".0*"):  # of a process that was killed
            stale.unlink()
        missing = [k for k, path in enumerate(paths) if not path.with_suffix(".json").exists()]
        quiet = len(missing) < 2 or not sys.stderr.isatty()
        for k in tqdm(missing, desc=what, unit="shard", disable=quiet, leave=False, file=sys.stderr):
            _write(paths[k], *make(ranges[k]), dtype)
    lengths, totals = [], {}
    for path, examples in zip(paths, ranges, strict=True):
        found, counts = _checked(path)
        if len(found) != len(examples):
            raise _altered(path)
        lengths.append(found)
        totals = {name: totals.get(name, 0) + count for name, count in counts.items()}
    return Stored(paths, lengths, totals, dtype)


def _write(path: pathlib.Path, pairs: list[Pair], counts: dict[str, int], dtype: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lengths = np.array([(len(source), len(target)) for source, target in pairs], "<i4").reshape(-1, 2)
    # Records are read one by one, in any order, so each is a group; ids hardly compress.
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        writer.write(lengths.tobytes())
        for pair in pairs:
            writer.write(np.concatenate(pair).astype(dtype).tobytes())
        writer.close()
    except RuntimeError as error:  # whatever the disk says
        reason = str(error).partition(";")[0]
        mend = "make room there, or set LM_CACHE_DIR to another folder"
        raise UserError(str(path.parent), f"cannot be written ({reason})", mend) from None
    with temporary.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    temporary.replace(path)
    note = path.with_suffix(".json")
    temporary.write_text(json.dumps({"sha256": digest, "counts": counts}))
    temporary.replace(note)


def _checked(path: pathlib.Path) -> tuple[np.ndarray, dict[str, int]]:
    """A shard's lengths and counts, once it is known to be what was written."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != note["sha256"]:
                raise _altered(path)
        counts = {str(name): int(count) for name, count in note["counts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _altered(path) from None
    return np.frombuffer(ArrayRecordReader(str(path)).read([0])[0], "<i4").reshape(-1, 2), counts


def _altered(path: pathlib.Path) -> UserError:
    return UserError(str(path), "is not what was written", f"delete {path.parent}; it is made again at the next start")


class _lock:
    """Held by one process at a time; it ends with the process, however that ends."""

    def __init__(self, directory: pathlib.Path):
        self._path = directory / ".lock"

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_) -> None:
        self._file.close()
