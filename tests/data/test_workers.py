"""Processes that make batches: what is left of a run when one of them, or the run itself, dies."""

import dataclasses
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from support.programs import run_alone

from lm.batch import Batch
from lm.data import workers
from lm.data.feed import TrainingData
from lm.errors import UserError
from lm.terminal import signals


@dataclasses.dataclass
class Numbers:
    """Batches that say their number: one fills several pipes. Some are an error, or the end of the process."""

    errors: dict[int, Exception] = dataclasses.field(default_factory=dict)
    ends: tuple[int, ...] = ()
    batch_size = 2

    def share(self, index: int, rows: range) -> Batch:
        if index in self.errors:
            raise self.errors[index]
        if index in self.ends:
            os._exit(9)
        return Batch(None, *[np.full((len(rows), 50_000), index)] * 4)


def numbers_of(layout: Numbers, workers: int, start: int, stop: int, said: list[str]) -> Iterator[int]:
    for batch in TrainingData(layout, 0, workers).iterate(start, stop, tuple, say=said.append):
        yield int(batch[1][0, 0])


def workers_of_this_process() -> list[multiprocessing.Process]:
    gc.collect()  # those of iterators that nobody holds any more end with them
    return multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_replaced_and_no_batch_is_lost(number):
    said, found, others = [], [], workers_of_this_process()
    for index in numbers_of(Numbers(), 2, 3, 40, said):
        found.append(index)
        if index in (3, 20):  # with half a batch in its pipe
            os.kill(next(worker.pid for worker in workers_of_this_process() if worker not in others), number)
    assert found == [*range(3, 40)]
    assert len(said) == 2 and all(f"died by {number.name}" in line for line in said)


@pytest.mark.slow
def test_signals_to_the_whole_group_leave_workers_at_work():
    said, found, others = [], [], workers_of_this_process()
    for index in numbers_of(Numbers(), 2, 0, 20, said):
        found.append(index)
        for worker in workers_of_this_process():
            if index == 3 and worker not in others:
                for each in workers.BLOCKED:
                    os.kill(worker.pid, each)
    assert found == [*range(20)] and not said
    assert {*signals.STOPPING} == workers.BLOCKED


def test_what_a_worker_raises_is_raised_and_one_that_dies_again_and_again_is_named():
    said: list[str] = []
    for error in (UserError("here", "is nothing", "go there"), OSError(5, "Input/output error"), MemoryError("short")):
        found = numbers_of(Numbers(errors={6: error}), 2, 3, 40, said)
        assert [next(found) for _ in range(3)] == [3, 4, 5]
        with pytest.raises(type(error)) as raised:
            next(found)
        assert str(raised.value) == str(error) and not said
    found = numbers_of(Numbers(ends=(6,)), 2, 3, 40, said)
    with pytest.raises(UserError, match="^error: config.data.workers: 3 processes died .* batch 6, .* exit code 9"):
        list(found)
    assert len(said) == 2


@pytest.mark.slow
def test_workers_end_with_their_process_however_that_ends():
    code = """
import os, signal, sys, time, multiprocessing
sys.path += ["tests", "tests/data"]
from test_workers import Numbers, numbers_of
if __name__ == "__main__":
    found = numbers_of(Numbers(), 2, 0, 10**6, [])
    next(found)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    for way in ("kill", "return"):
        done = run_alone("-c", code, way)
        assert done.returncode == {"kill": -signal.SIGKILL, "return": 0}[way], done.stderr
        left = {int(pid) for pid in done.stdout.split()}
        assert len(left) == 2
        for _ in range(100):
            left = {pid for pid in left if os.path.exists(f"/proc/{pid}")}
            if not left:
                break
            time.sleep(0.1)
        assert not left
