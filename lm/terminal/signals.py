"""The signals that ask a program to end: it exits with 128 + the signal; training saves a checkpoint before."""

import signal
from collections.abc import Callable
from typing import Any

from lm.errors import Stopped

# SIGHUP comes when a terminal is closed, SIGUSR1 or SIGUSR2 from a scheduler shortly before its time limit, and SIGXCPU
# from Linux. These may come several times: when a terminal is closed, both its shell and the kernel send SIGHUP. A
# second SIGTERM or SIGINT ends the process at once.
URGENT = (signal.SIGTERM, signal.SIGINT)
STOPPING = (*URGENT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def caught(receive: Callable[[int, Any], None]) -> dict[int, Any]:
    """Makes `receive` the handler of the signals `STOPPING`, and returns their previous handlers.

    A signal outside `URGENT` that is ignored stays ignored, e.g. SIGHUP under nohup.
    """
    before = {each: signal.getsignal(each) or signal.SIG_DFL for each in STOPPING}
    chosen = {each: was for each, was in before.items() if each in URGENT or was is not signal.SIG_IGN}
    for each in chosen:
        signal.signal(each, receive)
    return chosen


def stop(number: int, frame: Any) -> None:
    """Raises `Stopped`; the handler of signals for programs that have nothing to save."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL if each in URGENT else signal.SIG_IGN)
    raise Stopped(number, f"stopped by {signal.Signals(number).name}")
