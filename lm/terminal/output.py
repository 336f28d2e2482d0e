"""Lines on standard output, and the streams of a program that outlives its terminal."""

import errno
import os
import signal
import sys
from typing import Any, TextIO

from tqdm import tqdm

from lm.errors import Stopped, UserError


def say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


lost: list[str] = []  # for each stream of this process that could not be written a sentence that says why


class _Outliving:
    """A text stream whose output is dropped from the first time on that it cannot be written."""

    def __init__(self, stream: TextIO, name: str):
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        # The descriptor leads nowhere from here on, so that what is buffered, and what C prints, has an end too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        lost.append(f"{self._name} could not be written ({error.strerror}): it was dropped from there on")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Needed(_Outliving):
    """A text stream that a program exists for: it ends where its output cannot be written."""

    def _drop(self, error: OSError) -> None:
        super()._drop(error)
        if isinstance(error, BrokenPipeError):  # its reader, e.g. `head`, has enough
            raise Stopped(signal.SIGPIPE, f"{self._name} was closed by its reader") from error
        reason = "is closed" if error.errno == errno.EBADF else f"cannot be written ({error.strerror})"
        raise UserError(self._name, reason, "give it a terminal, or a file with room") from error


def fill_closed() -> None:
    """Opens the standard descriptors that were closed, or the next file that is opened would be one of them."""
    for number, name in enumerate(("input", "output", "error")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest that is free
            os.set_inheritable(opened, True)
            if number:
                lost.append(f"standard {name} was closed")
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115  as long as the process


def outlive() -> None:
    """From here on what cannot be printed is dropped: for programs whose purpose is not their output."""
    sys.stdout = _Outliving(sys.stdout or open(1, "w", closefd=False, encoding="utf-8"), "standard output")  # noqa: SIM115  as above
    sys.stderr = _Outliving(sys.stderr, "standard error")


def need() -> None:
    """From here on the program ends where standard output cannot be written; a standard error that fails is dropped."""
    if sys.stdout is None:  # what is opened for reading cannot be written
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", closefd=False, encoding="utf-8")  # noqa: SIM115  as above
    sys.stdout = _Needed(sys.stdout, "standard output")
    sys.stderr = _Outliving(sys.stderr, "standard error")


def use_utf8() -> None:
    """Has all streams in UTF-8, whatever the locale.

    Python fixes the encoding of arguments and of names of files when it starts. Where that is another one, this process
    begins again.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def note(text: str) -> None:
    """A line on standard error, above a bar if there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
