"""Several hosts: one process on each runs the same program. They find each other, agree on values, and end together.

The first host is the coordinator. Each host sends it a heartbeat. If the heartbeat of a host stops, or a host reports
that it failed, the other hosts end with one line of error; otherwise they would wait for it forever in a collective.
"""

import contextlib
import ctypes
import hashlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax._src import distributed  # its key-value store has no public name

from lm.devices.mesh import AXIS, Devices
from lm.errors import UserError
from lm.numbers import whole

SILENCE = 30.0  # seconds without a heartbeat after which a host counts as lost
GATHERING = 40  # seconds that hosts wait for each other at the start
_BEAT = 2.0
_PREPARATION = 24 * 3600 * 1000  # milliseconds to wait for a host that prepares data; lost hosts are noticed before


def join(coordinator: str, processes: int, process: int) -> None:
    """Makes this process one of the hosts of a run. It must be called before anything asks JAX for devices.

    Args:
        coordinator: `ADDRESS:PORT` of the first host. With `auto` JAX detects it (Cloud TPU, Slurm, Open MPI,
            Kubernetes), and the process runs alone if JAX detects nothing. With `none` it runs alone.
        processes: the number of hosts; -1 if JAX detects it.
        process: the number of this host, from 0; -1 if JAX detects it.

    Raises:
        UserError: the flags contradict each other, or not every host appeared in time.
    """
    given = {"--processes": processes, "--process": process}
    if coordinator in ("auto", "none"):
        for flag, value in given.items():
            if value != -1:
                raise UserError(flag, "needs the address of the first host", "give --coordinator=ADDRESS:PORT")
        if coordinator == "none":
            return
    else:
        _, colon, port = coordinator.rpartition(":")
        if not colon or not 0 < (whole(port) or 0) < 2**16:
            raise UserError("--coordinator", f"{coordinator!r} is not an address", "give ADDRESS:PORT, auto or none")
        if (processes == -1) != (process == -1):
            flag = "--process" if process == -1 else "--processes"
            raise UserError(flag, "is missing", "give both --processes and --process, or neither")
        if processes != -1 and not 0 <= process < processes:
            raise UserError(
                "--process", f"{process} is not less than --processes={processes}", f"give 0 to {processes - 1}"
            )
    # Our training loop handles signals; the preemption service of JAX would catch SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    where = {} if coordinator == "auto" else {"coordinator_address": coordinator}
    where |= {} if processes == -1 else {"num_processes": processes, "process_id": process}
    reason = "was detected by JAX" if coordinator == "auto" else f"is {coordinator}"
    action = f"start all hosts within {GATHERING} s, and give an address of the first one that the others can reach"
    apart = UserError("--coordinator", f"{reason}, and not all hosts had connected after {GATHERING} s", action)
    restore = _end_on_abort(lambda: apart)
    try:
        jax.distributed.initialize(
            **where, initialization_timeout=GATHERING, heartbeat_timeout_seconds=int(2 * SILENCE)
        )
    except ValueError as error:  # JAX found no cluster
        if coordinator == "auto":
            return
        reason = f"gives no place to this host ({str(error).strip().splitlines()[0]})"
        raise UserError("--coordinator", reason, "give --processes and --process") from error
    except RuntimeError as error:
        raise apart from error
    finally:
        restore()
    if joined():  # before JAX creates its devices, which waits for the other hosts too
        if distributed.global_state.process_id:  # only the first host prints
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open as long as the process
            os.environ["TQDM_DISABLE"] = "1"
        watch = _Watch()
        # An exit stack calls the last one first.
        _parting.callback(_end_on_abort(lambda: _error("the first host is gone")))
        _parting.callback(jax.distributed.shutdown)
        _parting.callback(watch.stop)
        _parting.callback(meet)
        watch.start()


def joined() -> bool:
    """Returns whether there are other hosts, without asking JAX for devices."""
    return distributed.global_state.client is not None and distributed.global_state.num_processes > 1


def is_first() -> bool:
    """Returns whether this is the first host, which writes files and prints."""
    return jax.process_index() == 0


def _client() -> Any:
    return distributed.global_state.client


_meetings = iter(range(2**62))


def meet() -> None:
    """Waits until every host has called it."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"lm/meet/{next(_meetings)}", _PREPARATION)


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """Lets the first host run the block before the others, which then find its files on a shared disk."""
    if not is_first():
        meet()
    yield
    if is_first():
        meet()
    meet()


def all_say(text: str) -> list[str]:
    """Returns the texts of all hosts, in their order; every host must call it."""
    if jax.process_count() == 1:
        return [text]
    place = f"lm/said/{next(_meetings)}"
    _client().key_value_set(f"{place}/{jax.process_index()}", text)
    return [_client().blocking_key_value_get(f"{place}/{i}", _PREPARATION) for i in range(jax.process_count())]


def require_same(values: dict[str, str]) -> None:
    """Raises `UserError` if a host has another value than the first host; `values` are by name."""
    short = {name: hashlib.sha256(value.encode()).hexdigest()[:16] for name, value in values.items()}
    first, *others = all_say(",".join(short.values()))
    for host, other in enumerate(others, start=1):
        for name, a, b in zip(short, first.split(","), other.split(","), strict=True):
            if a != b:
                reason = f"has another {name} than the first host"
                raise UserError(
                    f"host {host} of {jax.process_count()}",
                    reason,
                    "start every host with the same command, files and environment",
                )


class Vote:
    """A vote by which all hosts learn of each other's wishes, such as stopping, at the same step.

    It is a collective of its own. Its result is read one step later, so that no step waits for it. With one host the
    result is immediate.
    """

    def __init__(self, devices: Devices):
        self._devices = devices
        self._step = devices.map(lambda wishes: lax.pmax(wishes[0], AXIS), 0, None)
        self._asked = None

    def __call__(self, *wishes: int) -> list[int]:
        """Returns the largest value of each wish over all hosts; 0 means no wish."""
        if jax.process_count() == 1:
            return list(wishes)
        of_each = np.array([wishes] * len(self._devices.local), np.int32)
        asked, self._asked = self._asked, self._step(self._devices.put(of_each))
        return [0] * len(wishes) if asked is None else self._devices.first(asked).tolist()


# ---- ending -----------------------------------------------------------------------------------------------------


_parting = contextlib.ExitStack()


def disconnect() -> None:
    """Ends the connection of all hosts together; the normal end of a program calls it before the interpreter ends.

    A thread inside JAX's client cannot return after the interpreter has ended, and C++ would abort the process.
    """
    _parting.close()


def leave(code: int, message: str) -> None:
    """Ends this process with an exit code, and sends the other hosts the message."""
    with contextlib.suppress(Exception):  # the coordinator itself may have failed
        _client().key_value_set(f"lm/failed/{jax.process_index()}", message)
        time.sleep(1 if is_first() else 0)  # the coordinator ends with the first host
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the normal end would wait for all hosts


def lost(error: BaseException) -> UserError | None:
    """Returns the error to report if an exception means that the connection to another host failed, else None."""
    if not joined() or not re.search("gloo|nccl|connection|peer|coordination|barrier|heartbeat", str(error), re.I):
        return None
    reason = f"a computation with the other hosts failed ({str(error).strip().splitlines()[0][:160]})"
    return _error(reason)


def _error(reason: str) -> UserError:
    where = f"host {distributed.global_state.process_id} of {distributed.global_state.num_processes}"
    return UserError(where, reason, "start all hosts again; they resume from the last checkpoint")


def _end_on_abort(said: Callable[[], UserError]) -> Callable[[], None]:
    """Makes an abort print an error and exit with code 2, since threads of JAX abort the process when hosts are lost.

    The handler is one of C, as handlers of Python run only in the main thread, which waits in a collective. Returns a
    function that restores the previous handler.
    """

    def aborted(_: int) -> None:
        os.write(2, f"{said()}\n".encode())
        os._exit(2)

    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    before = set_handler(signal.SIGABRT, ctypes.cast(_kept[-1], ctypes.c_void_p))
    return lambda: set_handler(signal.SIGABRT, before)


_kept: list[Any] = []  # C holds pointers to these


class _Watch(threading.Thread):
    """A thread that sends heartbeats, reads those of the other hosts, and ends this process if one is lost."""

    def __init__(self):
        super().__init__(name="lm-hosts", daemon=True)
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        state, client = distributed.global_state, _client()
        me, count = state.process_id, state.num_processes
        beats, heard, reached = {}, dict.fromkeys(range(count), time.monotonic()), time.monotonic()
        for beat in itertools.count():
            if self._over.is_set():
                return
            try:
                client.key_value_set(f"lm/beat/{me}", str(beat), allow_overwrite=True)
                failed = client.key_value_dir_get("lm/failed/")
                found = {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get("lm/beat/")}
                reached = time.monotonic()
            except Exception:  # the client may raise anything if nobody answers
                if time.monotonic() - reached > SILENCE / 3:
                    self._say("the first host is gone")
                self._over.wait(1)
                continue
            for key, message in failed:
                host = int(key.rpartition("/")[2])
                if host != me:
                    self._say(f"host {host} ended ({message.removeprefix('error: ')[:300]})")
            now = time.monotonic()
            for host in range(count):
                if found.get(host) != beats.get(host):
                    heard[host] = now
                if now - heard[host] > SILENCE:
                    self._say(f"host {host} sent no heartbeat for {SILENCE:.0f} s")
            beats = found
            self._over.wait(_BEAT)

    def _say(self, reason: str) -> None:
        print(_error(reason), file=sys.stderr, flush=True)
        os._exit(2)
