"""Lines of output, and standard streams that fail or whose terminal is closed."""

import errno
import os
import signal
import sys
from typing import Any, TextIO

from tqdm import tqdm

from lm.errors import Stopped, UserError


def say(text: str) -> None:
    """Prints a line on standard output, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


lost: list[str] = []  # a sentence for each standard stream that could not be written, with the reason


class _Outliving:
    """A text stream that drops its output after the first error in writing."""

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
        # From here on the descriptor leads to /dev/null, so that buffered output and output of C code is dropped too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        lost.append(f"{self._name} could not be written ({error.strerror}); later output was dropped")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Needed(_Outliving):
    """A text stream that ends the program if it cannot be written, since its output is the program's purpose."""

    def _drop(self, error: OSError) -> None:
        super()._drop(error)
        if isinstance(error, BrokenPipeError):  # the reader, e.g. `head`, has ended
            raise Stopped(signal.SIGPIPE, f"{self._name} was closed by its reader") from error
        reason = "is closed" if error.errno == errno.EBADF else f"cannot be written ({error.strerror})"
        raise UserError(self._name, reason, "redirect it to a file on a disk with free space") from error


def fill_closed() -> None:
    """Opens standard descriptors that are closed, as otherwise the next opened file would get one of them."""
    for number, name in enumerate(("input", "output", "error")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # gets the lowest free number
            os.set_inheritable(opened, True)
            if number:
                lost.append(f"standard {name} was closed")
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115  as long as the process


def outlive() -> None:
    """Makes later output that cannot be printed be dropped: for programs whose purpose is not their output."""
    sys.stdout = _Outliving(
        sys.stdout or open(1, "w", closefd=False, encoding="utf-8"),  # noqa: SIM115  as above
        "standard output",
    )
    sys.stderr = _Outliving(sys.stderr, "standard error")


def need() -> None:
    """Makes the program end if standard output cannot be written; standard error that fails is dropped."""
    if sys.stdout is None:  # a descriptor that is open for reading alone makes the first write fail
        sys.stdout = open(  # noqa: SIM115  as above
            os.open(os.devnull, os.O_RDONLY), "w", closefd=False, encoding="utf-8"
        )
    sys.stdout = _Needed(sys.stdout, "standard output")
    sys.stderr = _Outliving(sys.stderr, "standard error")


def use_utf8() -> None:
    """Makes all streams UTF-8, independent of the locale.

    Python fixes the encoding of arguments and file names when it starts. If that is not UTF-8, this process restarts
    itself.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def note(text: str) -> None:
    """Prints a line on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
