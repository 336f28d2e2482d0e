"""The start and the end of every program: its streams, signals and exit codes, and one line for each error."""

import contextlib
import functools
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from lm.errors import Stopped, UserError
from lm.terminal import command_line, compilation_cache, help, output, signals


def program(
    main: Callable[[], None],
    required: Sequence[str] = (),
    before_parsing: Callable[[list[str]], None] | None = None,
    positional: str = "",
    outlives: bool = False,
    has_fields: bool = False,
) -> None:
    """Parses the flags, runs `main` and ends the process.

    The exit code is 0 after success, 2 after an error that the user can correct, and 128 + signal after a signal. If
    the command line asks for help, the help is printed and `main` is not called.

    Args:
        main: called after the flags are parsed.
        required: names of the flags that must be given.
        before_parsing: called with the command line before it is parsed.
        positional: name of the repeatable flag that gets arguments without a flag; empty: such arguments are errors.
        outlives: whether the program continues when its output cannot be written, and drops that output.
        has_fields: whether `--config.SECTION.FIELD=VALUE` are flags too.
    """

    def run(argv: list[str]) -> None:
        compilation_cache.use()
        from lm.devices import memory  # after the flags, so that errors in them are reported at once

        memory.keep()
        main()
        _disconnect()

    flags.DEFINE_bool("debug", False, "show the traceback of errors")
    flags.FLAGS.set_gnu_getopt()  # flags may follow arguments, and files of flags hold fields of the configuration
    _silence_threads()
    signals.caught(signals.stop)
    output.fill_closed()
    output.use_utf8()
    output.outlive() if outlives else output.need()
    try:
        try:
            if help.asked(sys.argv):
                print(help.text(sys.argv, sys.modules[main.__module__].__doc__ or "", has_fields), end="", flush=True)
                return
            parsed = functools.partial(
                command_line.parsed,
                required=required,
                before_parsing=before_parsing,
                positional=positional,
                has_fields=has_fields,
            )
            app.run(run, flags_parser=parsed)
        finally:
            sys.stdout.flush()
    except UserError as error:
        _end(2, str(error), error)
    except Stopped as stopped:
        _end(128 + stopped.number, str(stopped), stopped)
    except OSError as error:
        where = error.filename or "a file"
        message = str(
            UserError(
                str(where), error.strerror or str(error), "check the path, its permissions and the space on the disk"
            )
        )
        _end(2, message, error)
    except Exception as error:
        _fail(error)
        raise


def _fail(error: Exception) -> None:
    """Ends the process if a host was lost, devices are missing or memory is short; returns for any other error."""
    if _hosts() and (lost := _hosts().lost(error)):
        _end(2, str(lost), error)
    if missing := _no_devices():
        _end(2, str(missing), error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        reason = f"is too small ({(str(error).strip() or 'nothing left').splitlines()[0][:160]})"
        _end(2, str(UserError("memory", reason, "use a smaller batch, model, beam or prompt")), error)
    _leave(1, f"{type(error).__name__}: {error}", error)


def _no_devices() -> UserError | None:
    """Returns the error if JAX_PLATFORMS names devices that JAX does not find, else None."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms or "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
        return None
    except Exception as error:  # its backends may raise anything
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].strip() or "JAX has no such backend"
        reason = f"{platforms!r} is not found on this machine ({reason.splitlines()[0][:160]})"
        return UserError("JAX_PLATFORMS", reason, "unset it, or name a platform of this machine, e.g. cpu")


def _hosts() -> Any:
    """Returns the module `lm.devices.hosts` if the program runs on more than one host, else None."""
    module = sys.modules.get("lm.devices.hosts")
    return module if module and module.joined() else None


def _disconnect() -> None:
    if _hosts():
        _hosts().disconnect()


def _leave(code: int, message: str, error: BaseException) -> None:
    """Ends this host and tells the others, if there are any; the usual end of the process would wait for them."""
    if _hosts():
        if code == 1:
            traceback.print_exception(error)
        _hosts().leave(code, message)


def _debugging() -> bool:
    return flags.FLAGS.debug if flags.FLAGS.is_parsed() else "--debug" in sys.argv


def _silence_threads() -> None:
    """Hides failed writes in threads of TensorStore and TensorBoard, as the main thread raises the same errors."""
    unraisable, uncaught = sys.unraisablehook, threading.excepthook

    def show_unraisable(args: Any) -> None:
        if threading.current_thread() is threading.main_thread() or _debugging():
            unraisable(args)

    def show_uncaught(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError) or _debugging():
            uncaught(args)

    sys.unraisablehook, threading.excepthook = show_unraisable, show_uncaught


def _end(code: int, message: str, error: BaseException) -> None:
    if _debugging():
        _leave(1, message, error)
        raise error
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(message, file=sys.stderr, flush=True)
    if isinstance(error, Stopped) and error.together:
        _disconnect()
    _leave(code, message, error)
    sys.exit(code)
