"""The cache of ids: made once, whole or not at all, the same whoever makes it, and never read if it was altered."""

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, environment, tree_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import store
from lm.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pair(number):
    return np.arange(number % 3, dtype=np.int32), 4 + np.arange(number % 7, dtype=np.int32) * number


def make(numbers):
    return [pair(number) for number in numbers], {"unknown": len(numbers)}


RANGES = [range(0, 5), range(5, 6), range(6, 20)]


def made(key="key", ranges=RANGES, make=make, vocab_size=1000):
    return store.stored(key, ranges, make, vocab_size, "test")


@pytest.mark.parametrize("vocab_size", [2**16, 2**16 + 1])
def test_what_is_read_is_what_was_written_in_any_order(vocab_size):
    corpus = made(vocab_size=vocab_size)
    assert len(corpus) == 20 and corpus.counts == {"unknown": 20}
    for numbers in (range(20), [19, 0, 5, 5, 7], []):
        for number, (source, target) in zip(numbers, corpus.take(numbers, 0), strict=True):
            np.testing.assert_array_equal(source, pair(number)[0])
            np.testing.assert_array_equal(target, pair(number)[1])
            assert source.dtype == target.dtype == np.int32
    assert corpus.lengths(0).tolist() == [[len(side) for side in pair(number)] for number in range(20)]
    again = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(again.take([13], 0)[0][1], pair(13)[1])


def test_a_cache_that_is_there_is_not_made_again():
    made()

    def never(numbers):
        raise AssertionError

    assert len(made(make=never)) == 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 12_000_000), max_size=30))
def test_shards_are_consecutive_and_bounded(sizes):
    ranges = store.shard_ranges(sizes)
    assert [number for part in ranges for number in part] == list(range(len(sizes)))
    for part in ranges:
        assert len(part) == 1 or sum(sizes[number] for number in part) <= store.SHARD_CHARACTERS


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_preparation_that_broke_off_ends_with_the_same_bytes(left, cache):
    made()
    whole = tree_of(cache / "key")
    seen = []

    def breaks(numbers):
        if len(seen) == left:
            raise KeyboardInterrupt
        seen.append(numbers)
        return make(numbers)

    with pytest.raises(KeyboardInterrupt):
        made("other", make=breaks)
    finished = {path.name for path in (cache / "other").glob("0*.json")}
    assert len(finished) == left

    def only_missing(numbers):
        assert numbers not in seen
        return make(numbers)

    made("other", make=only_missing)
    assert tree_of(cache / "other") == whole


PREPARE = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_store import RANGES, make
from lm.data import store
os.environ["LM_CACHE_DIR"] = {cache!r}
def slow(numbers):
    print(numbers.start, flush=True)
    time.sleep({pause})
    return make(numbers)
store.stored("killed", RANGES, slow, 1000, "test")
"""


def prepare(cache, pause):
    script = PREPARE.format(tests=str(ROOT / "tests"), cache=str(cache), pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True)


def test_a_killed_preparation_and_two_at_once_end_with_the_same_bytes(cache):
    made()
    whole = tree_of(cache / "key")
    killed = prepare(cache, 0.3)
    assert killed.stdout.readline() == "0\n" and killed.stdout.readline() == "5\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    both = [prepare(cache, 0.2) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(sum(said, [])) == ["5", "6"]  # what was whole was kept, and nothing was made twice
    assert tree_of(cache / "killed") == whole


@pytest.mark.parametrize("what", ["a bit", "truncated", "gone", "another's", "note gone bad", "note of another"])
def test_an_altered_shard_is_named_and_never_read(what, cache):
    made()
    shard, note = cache / "key" / "00002.array_record", cache / "key" / "00002.json"
    data = bytearray(shard.read_bytes())
    if what == "a bit":
        data[len(data) // 3] ^= 4
        shard.write_bytes(data)
    elif what == "truncated":
        shard.write_bytes(data[:-100])
    elif what == "gone":
        shard.unlink()
    elif what == "another's":
        for name in ("00002.array_record", "00002.json"):
            (cache / "key" / name).write_bytes((cache / "key" / name.replace("2", "1")).read_bytes())
    elif what == "note gone bad":
        note.write_text('{"sha256": ')
    else:
        note.write_text(json.dumps({"sha256": "0", "counts": {}}))
    with pytest.raises(UserError, match=r"00002.array_record: is not what was written; delete .*/key;"):
        made()
