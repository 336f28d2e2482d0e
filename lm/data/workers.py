"""Processes that make batches ahead, and that can die: batch i is a function of i, so another process makes it again.

Each worker writes to a pipe of its own whose other end the run alone holds. So the end of either is noticed at once: a
worker that dies, even with half a batch in the pipe, ends its pipe, and one whose run was killed cannot write any more.
"""

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import cloudpickle

from lm.batch import Batch
from lm.errors import UserError

MOST_DEATHS = 3  # of workers that make one batch; then it is not the worker
# A signal to a whole group, as from Ctrl-C, is for the run, which may need batches until it is saved; workers end with it.
BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU}


class Workers:
    """Makes batches `start` to `stop`, worker w of n every n-th from `start + w` on; `take` gives them in order."""

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int, count: int, say: Callable[[str], None]):
        self._make, self._start, self._stop, self._say = cloudpickle.dumps(make), start, stop, say
        self._count, self._failed = min(count, stop - start), None
        resource_tracker.ensure_running()  # which unblocks signals when it starts
        self._running = [self._started(start + worker) for worker in range(self._count)]
        # With this object, and before the usual end of Python, which would wait for them.
        util.Finalize(self, _end, (self._running,), exitpriority=10)

    def _started(self, first: int) -> tuple[SpawnProcess, Connection]:
        """A worker that makes batch `first` and its later ones."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        indices = range(first, self._stop, self._count)
        process = context.Process(target=_work, args=(theirs, self._make, indices), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # which a process inherits
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return process, ours

    def take(self, index: int) -> Batch:
        """Returns batch `index`; indices are asked for one after the other, until an error is raised.

        Raises:
            UserError: workers die again and again.
            Exception: what a worker raised.
        """
        if self._failed:
            raise self._failed
        try:
            return self._taken(index)
        except Exception as error:
            self._failed = error
            raise

    def _taken(self, index: int) -> Batch:
        worker, deaths = (index - self._start) % self._count, 0
        while True:
            process, pipe = self._running[worker]
            try:
                made = pickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                if not self._running:
                    raise  # this process ends
                process.join()
            else:
                if isinstance(made, Exception):
                    raise made
                return made
            deaths, reason = deaths + 1, _reason(process.exitcode)
            if deaths == MOST_DEATHS:
                reason = f"{deaths} processes died while each made batch {index:,}, the last one by {reason}"
                raise UserError("config.data.workers", reason, "give fewer, or 0, or this machine more memory")
            self._say(f"a worker process died by {reason}: another one makes batch {index:,} and its later ones")
            self._running[worker] = self._started(index)


def _reason(code: int) -> str:
    """How a process ended, of which `code` is the exit code as Python gives it."""
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name + (" (as where memory is short)" if -code == signal.SIGKILL else "")


def _end(running: list[tuple[SpawnProcess, Connection]]) -> None:
    ending = [process for process, _ in running]
    running.clear()
    for process in ending:
        process.kill()
    for process in ending:
        process.join()


def _work(pipe: Connection, make: bytes, indices: range) -> None:
    """A worker: writes the batches of `indices`, or the error that ends them, until nobody reads any more."""
    try:
        try:
            made = cloudpickle.loads(make)
            for index in indices:
                pipe.send_bytes(pickle.dumps(made(index), protocol=pickle.HIGHEST_PROTOCOL))
        except BrokenPipeError:
            raise
        except Exception as error:
            pipe.send_bytes(_pickled(error))
    except BrokenPipeError:
        return


def _pickled(error: Exception) -> bytes:
    """An error with the traceback that it has here; one that does not survive that, as a `RuntimeError`."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickled := pickle.dumps(error))
        return pickled
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
