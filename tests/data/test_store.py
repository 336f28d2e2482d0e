"""The cache: made once, whole or not at all, the same whoever makes it, and never read if it was altered."""

import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import ROOT, environment, tree_of

from lm.data.read import store
from lm.data.read.store import Shard
from lm.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


RANGES = [range(0, 5), range(5, 6), range(6, 20)]


def record(number):
    return bytes([number]) * (number % 7)


def shard(numbers, seen=()):
    """A shard whose memory says which shards were made before it."""
    table = np.array([[number, number**2] for number in numbers], np.int32)
    return Shard([*map(record, numbers)], table, {"count": len(numbers)}, bytes([*seen, numbers.start]))


def make(finished):
    seen = finished[-1].memory if finished else b""
    assert sum(each.note["count"] for each in finished) == (RANGES[len(finished)].start if len(finished) < 3 else 20)
    for numbers in RANGES[len(finished) :]:
        made = shard(numbers, seen)
        seen = made.memory
        yield made


def made(key="key", make=make):
    return store.stored(key, make, "test")


def test_what_is_read_is_what_was_written_in_any_order():
    records = made()
    assert len(records) == 20 and records.total("count") == 20
    for numbers in (range(20), [19, 0, 5, 5, 7], []):
        assert records.read(numbers) == [*map(record, numbers)]
    assert records.table.tolist() == [[number, number**2] for number in range(20)]
    assert pickle.loads(pickle.dumps(records)).read([13]) == [record(13)]


def test_a_cache_that_is_there_is_not_made_again():
    def never(finished):
        raise AssertionError

    made()
    assert len(made(make=never)) == 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 12_000_000), max_size=30))
def test_shards_are_consecutive_and_bounded(sizes):
    ranges = list(store.shard_ranges(sizes))
    assert [number for part in ranges for number in part] == list(range(len(sizes)))
    for part in ranges:
        assert len(part) == 1 or sum(sizes[number] for number in part) <= store.SHARD_CHARACTERS


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_preparation_that_broke_off_ends_with_the_same_bytes(left, cache):
    made()

    def breaks(finished):
        for number, each in enumerate(make(finished)):
            if number == left:
                raise KeyboardInterrupt
            yield each
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made("other", breaks)
    assert len(list((cache / "other").glob("0*.json"))) == left and not (cache / "other/complete.json").exists()

    def goes_on(finished):
        assert len(finished) == left
        return make(finished)

    made("other", goes_on)
    assert tree_of(cache / "other") == tree_of(cache / "key")


PREPARE = """
import os, sys, time
sys.path[:0] = {folders!r}
from test_store import make
from lm.data.read import store
os.environ["LM_CACHE_DIR"] = {cache!r}
def slow(finished):
    for number, shard in enumerate(make(finished), start=len(finished)):
        print(number, flush=True)
        time.sleep({pause})
        yield shard
store.stored("killed", slow, "test")
"""


def prepare(cache, pause):
    folders = [str(ROOT / "tests" / "data"), str(ROOT / "tests")]
    script = PREPARE.format(folders=folders, cache=str(cache), pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True)


def test_a_killed_preparation_and_two_at_once_end_with_the_same_bytes(cache):
    made()
    killed = prepare(cache, 0.3)
    assert killed.stdout.readline() == "0\n" and killed.stdout.readline() == "1\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    both = [prepare(cache, 0.2) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(sum(said, [])) == ["1", "2"]  # what was whole was kept, and nothing was made twice
    assert tree_of(cache / "killed") == tree_of(cache / "key")


# What is done to the note of a shard, or of all of them.
NOTES = {
    "its note": lambda text: text[:-9],
    "deep note": lambda text: "[" * 10_000,
    "a number": lambda text: re.sub('"records": ([0-9])', '"records": 1\\1', text, count=1),
}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("what", ["a bit", "truncated", "gone", "another's", "its note", "deep note", "a number"])
def test_an_altered_shard_is_named_and_never_read(what, complete, cache):
    made()
    path, note = cache / "key" / "00002.array_record", cache / "key" / "00002.json"
    if not complete:
        (cache / "key" / "complete.json").unlink()
    elif what in NOTES:
        note = cache / "key" / "complete.json"
    data = bytearray(path.read_bytes())
    if what == "a bit":
        data[len(data) // 3] ^= 4
        path.write_bytes(data)
    elif what == "truncated":
        path.write_bytes(data[:-100])
    elif what == "gone":
        path.unlink()
    elif what == "another's":
        path.write_bytes((cache / "key" / "00001.array_record").read_bytes())
    else:
        note.write_text(NOTES[what](note.read_text()))
    with pytest.raises(UserError, match=r"(00002.*|complete.json): is corrupt; delete .*/key;"):
        made().read([0, 10])
    if complete and what not in NOTES:
        with pytest.raises(UserError, match="is corrupt"):
            made().check()
        assert made().read([0]) == [record(0)]  # a shard is checked when it is read


def test_an_altered_table_is_named(cache):
    made()
    table = cache / "key" / "table.npy"
    table.write_bytes(table.read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match="table.npy: is corrupt"):
        made()


def test_what_is_remembered_is_made_once(cache):
    assert store.remembered("answer", lambda: {"it": 42}) == {"it": 42}
    assert store.remembered("answer", lambda: None) == {"it": 42}
    (cache / "answer.json").write_text('{"it"')
    assert store.remembered("answer", lambda: {"it": 43}) == {"it": 43}
    assert store.remembered("answer", lambda: None) == {"it": 43}
    (cache / "answer.json").write_text((cache / "answer.json").read_text().replace("43", "44"))
    assert store.remembered("answer", lambda: {"it": 45}) == {"it": 45}
