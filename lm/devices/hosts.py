"""Many hosts: one process on each runs the same program; they find each other, agree, and end together.

Hosts meet at a coordinator, the first of them. Each beats like a heart there; where one falls silent or says that it
failed, the others end with one line, rather than wait for it for ever in a collective.
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
from jax._src import distributed  # its client has the store of keys, which has no public name

from lm.devices.mesh import AXIS, Devices
from lm.errors import UserError
from lm.numbers import whole

SILENCE = 30.0  # seconds without a beat after which a host counts as lost
GATHERING = 40  # seconds that hosts wait for one another at the start
_BEAT = 2.0
_PREPARATION = 24 * 3600 * 1000  # milliseconds that hosts wait for one that prepares data; a lost one is noticed before


def join(coordinator: str, processes: int, process: int) -> None:
    """Makes this process one host of a run; before anything else asks JAX for devices.

    Args:
        coordinator: ADDRESS:PORT of the first host; auto: as JAX finds it (Cloud TPU, Slurm, Open MPI, Kubernetes), and
            alone where it finds nothing; none: alone.
        processes: how many hosts there are; -1: as JAX finds it.
        process: which of them this is, from 0; -1: as JAX finds it.
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
            raise UserError("--coordinator", f"{coordinator!r} is no address", "give ADDRESS:PORT, auto or none")
        if (processes == -1) != (process == -1):
            flag = "--process" if process == -1 else "--processes"
            raise UserError(flag, "is missing", "give both --processes and --process, or neither")
        if processes != -1 and not 0 <= process < processes:
            raise UserError("--process", f"{process} is not one of {processes}", f"give 0 to {processes - 1}")
    # Orbax and our own loop see to signals; the service of JAX would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    where = {} if coordinator == "auto" else {"coordinator_address": coordinator}
    where |= {} if processes == -1 else {"num_processes": processes, "process_id": process}
    reason = "its place is found" if coordinator == "auto" else f"{coordinator} is the first host's"
    action = f"start every host within {GATHERING} s, with an address of the first one that the others reach"
    apart = UserError("--coordinator", f"{reason}, and not every host was there after {GATHERING} s", action)
    restore = _end_on_abort(lambda: apart)
    try:
        jax.distributed.initialize(
            **where, initialization_timeout=GATHERING, heartbeat_timeout_seconds=int(2 * SILENCE)
        )
    except ValueError as error:  # what JAX says where it finds no cluster
        if coordinator == "auto":
            return
        reason = f"this host's place is not known ({str(error).strip().splitlines()[0]})"
        raise UserError("--coordinator", reason, "give --processes and --process") from error
    except RuntimeError as error:
        raise apart from error
    finally:
        restore()
    if joined():  # before JAX makes its devices, for which it waits for the other hosts too
        if distributed.global_state.process_id:  # what all would say is said once
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
            os.environ["TQDM_DISABLE"] = "1"
        watch = _Watch()
        # Last first.
        _parting.callback(_end_on_abort(lambda: _error("the first host is gone")))
        _parting.callback(jax.distributed.shutdown)
        _parting.callback(watch.stop)
        _parting.callback(meet)
        watch.start()


def joined() -> bool:
    """Whether there are other hosts; asks JAX for no devices."""
    return distributed.global_state.client is not None and distributed.global_state.num_processes > 1


def is_first() -> bool:
    return jax.process_index() == 0


def _client() -> Any:
    return distributed.global_state.client


_meetings = iter(range(2**62))


def meet() -> None:
    """Until every host is here."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"lm/meet/{next(_meetings)}", _PREPARATION)


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """The first host goes through the block before the others, which then find in place what it made on a shared disk."""
    if not is_first():
        meet()
    yield
    if is_first():
        meet()
    meet()


def all_say(text: str) -> list[str]:
    """What each host says."""
    if jax.process_count() == 1:
        return [text]
    place = f"lm/said/{next(_meetings)}"
    _client().key_value_set(f"{place}/{jax.process_index()}", text)
    return [_client().blocking_key_value_get(f"{place}/{i}", _PREPARATION) for i in range(jax.process_count())]


def require_same(values: dict[str, str]) -> None:
    """Raises `UserError` where a host has another value than the first one; `values` by name."""
    short = {name: hashlib.sha256(value.encode()).hexdigest()[:16] for name, value in values.items()}
    first, *others = all_say(",".join(short.values()))
    for host, other in enumerate(others, start=1):
        for name, a, b in zip(short, first.split(","), other.split(","), strict=True):
            if a != b:
                reason = f"its {name} is not that of the first host"
                raise UserError(f"host {host} of {jax.process_count()}", reason, "give every host the same")


class Vote:
    """What any host wishes, known to all of them at the same step.

    A collective of its own, whose answer is read one step later so that nothing waits for it; alone it is at once.
    """

    def __init__(self, devices: Devices):
        self._devices = devices
        self._step = devices.map(lambda wishes: lax.pmax(wishes[0], AXIS), 0, None)
        self._asked = None

    def __call__(self, *wishes: int) -> list[int]:
        """The greatest value of each wish over all hosts; 0 is none."""
        if jax.process_count() == 1:
            return list(wishes)
        of_each = np.array([wishes] * len(self._devices.local), np.int32)
        asked, self._asked = self._asked, self._step(self._devices.put(of_each))
        return [0] * len(wishes) if asked is None else self._devices.first(asked).tolist()


# ---- ending -----------------------------------------------------------------------------------------------------


_parting = contextlib.ExitStack()


def disconnect() -> None:
    """The usual end, of all hosts together, while Python is still whole: a thread that is inside JAX's client when the
    interpreter ends cannot come back from there, and C++ aborts the process."""
    _parting.close()


def leave(code: int, message: str) -> None:
    """Ends this process, and tells the other hosts why."""
    with contextlib.suppress(Exception):  # the coordinator may be what failed
        _client().key_value_set(f"lm/failed/{jax.process_index()}", message)
        time.sleep(1 if is_first() else 0)  # the first one takes the coordinator with it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the usual end would wait for all hosts


def lost(error: BaseException) -> UserError | None:
    """What an error means that is the end of another host, as the transport between them says it; else None."""
    if not joined() or not re.search("gloo|nccl|connection|peer|coordination|barrier|heartbeat", str(error), re.I):
        return None
    reason = f"a computation with the other hosts failed ({str(error).strip().splitlines()[0][:160]})"
    return _error(reason)


def _error(reason: str) -> UserError:
    where = f"host {distributed.global_state.process_id} of {distributed.global_state.num_processes}"
    return UserError(where, reason, "start all hosts again: they go on from the last checkpoint")


def _end_on_abort(said: Callable[[], UserError]) -> Callable[[], None]:
    """JAX's own threads abort the process where hosts are gone: then too there is a last line, and exit code 2.

    A handler of C, as Python's own run in the main thread alone, and that waits in a collective. Returns what undoes it.
    """

    def aborted(_: int) -> None:
        os.write(2, f"{said()}\n".encode())
        os._exit(2)

    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
    before = set_handler(signal.SIGABRT, ctypes.cast(_kept[-1], ctypes.c_void_p))
    return lambda: set_handler(signal.SIGABRT, before)


_kept: list[Any] = []  # what C holds a pointer to


class _Watch(threading.Thread):
    """Beats, listens to the others, and ends this process where one is gone."""

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
            except Exception:  # whatever the client raises where nobody answers
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
                    self._say(f"host {host} was not heard of for {SILENCE:.0f} s")
            beats = found
            self._over.wait(_BEAT)

    def _say(self, reason: str) -> None:
        print(_error(reason), file=sys.stderr, flush=True)
        os._exit(2)
