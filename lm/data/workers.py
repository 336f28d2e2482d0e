"""Worker processes that prepare batches ahead. Batch i depends on i alone, so a new process replaces one that died.

Each worker has a pipe to the run, and no other process holds an end of it. If a worker dies, even in the middle of a
batch, the run reads the end of the pipe. If the run is killed, the worker's next write fails, and the worker ends.
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

MOST_DEATHS = 3  # of workers at the same batch; then the batch is at fault, or the memory
# A signal to the whole process group, e.g. by Ctrl-C, is for the run, which may need batches until it has saved.
# Workers block it, and end with the run.
BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU}


class Workers:
    """Creates batches `start` to `stop - 1`; of n workers, worker w creates every n-th batch from `start + w` on.

    `take` returns the batches in order.
    """

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int, count: int, say: Callable[[str], None]):
        self._make, self._start, self._stop, self._say = cloudpickle.dumps(make), start, stop, say
        self._count, self._failed = min(count, stop - start), None
        resource_tracker.ensure_running()  # it unblocks signals when it starts, so it must start first
        self._running = [self._started(start + worker) for worker in range(self._count)]
        # Ends the workers together with this object, and before Python exits, which would wait for them.
        util.Finalize(self, _end, (self._running,), exitpriority=10)

    def _started(self, first: int) -> tuple[SpawnProcess, Connection]:
        """Returns a new worker, which creates batch `first` and every `count`-th batch after it, and its pipe."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        indices = range(first, self._stop, self._count)
        process = context.Process(target=_work, args=(theirs, self._make, indices), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # a process inherits the mask
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return process, ours

    def take(self, index: int) -> Batch:
        """Returns batch `index`; callers must request the indices in order. After an error each call raises it again.

        Raises:
            UserError: three workers in a row died at this batch.
            Exception: an error that a worker raised.
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
                    raise  # this process is ending
                process.join()
            else:
                if isinstance(made, Exception):
                    raise made
                return made
            deaths, reason = deaths + 1, _reason(process.exitcode)
            if deaths == MOST_DEATHS:
                reason = f"{deaths} processes died while they prepared batch {index:,}, the last one by {reason}"
                raise UserError("config.data.workers", reason, "use fewer workers, or 0, or a machine with more memory")
            self._say(f"a worker process died by {reason}; another one continues with batch {index:,}")
            self._running[worker] = self._started(index)


def _reason(code: int) -> str:
    """Returns a phrase for the end of a process; `code` is its exit code, in Python negative for a signal."""
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name + (" (often because memory is short)" if -code == signal.SIGKILL else "")


def _end(running: list[tuple[SpawnProcess, Connection]]) -> None:
    ending = [process for process, _ in running]
    running.clear()
    for process in ending:
        process.kill()
    for process in ending:
        process.join()


def _work(pipe: Connection, make: bytes, indices: range) -> None:
    """Runs in a worker: writes the batches of `indices`, or the error that ends them, until the pipe closes."""
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
    """Returns a pickled error with its traceback as a note; errors that cannot be pickled become `RuntimeError`."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickled := pickle.dumps(error))
        return pickled
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
