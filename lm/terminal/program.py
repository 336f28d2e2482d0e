"""How every program starts and ends: flags, the compilation cache, exit codes, one line for each error."""

import contextlib
import logging
import os
import pathlib
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
from absl import app, flags

from lm.errors import Stopped, UserError
from lm.terminal import output, signals


def program(
    main: Callable[[], None],
    required: Sequence[str] = (),
    before_parsing: Callable[[list[str]], None] | None = None,
    positional: str = "",
    outlives: bool = False,
) -> None:
    """Parses the flags, runs `main` and ends the process: 0 done, 2 the user can mend it, 128 + signal.

    Args:
        main: called with the flags parsed.
        required: flags that must be given.
        before_parsing: called with the command line.
        positional: the flag, one that may be given many times, that arguments without a name are values of.
        outlives: output that cannot be written is dropped, and the program goes on: its purpose is another.
    """

    def run(argv: list[str]) -> None:
        _use_compilation_cache()
        from lm.devices import memory  # after the flags, so that mistakes answer at once

        memory.keep()
        main()
        _disconnect()

    flags.DEFINE_bool("debug", False, "show the traceback of an error")
    flags.FLAGS.set_gnu_getopt()  # flags may follow arguments, and files of flags hold fields of the configuration
    _silence_threads()
    signals.caught(signals.stop)
    output.fill_closed()
    output.use_utf8()
    output.outlive() if outlives else output.need()
    try:
        try:
            app.run(run, flags_parser=lambda argv: _parsed(argv, required, before_parsing, positional))
        finally:
            sys.stdout.flush()
    except UserError as error:
        _end(2, str(error), error)
    except Stopped as stopped:
        _end(128 + stopped.number, str(stopped), stopped)
    except OSError as error:
        where = error.filename or "a file"
        message = str(UserError(str(where), error.strerror or str(error), "mend the path, its rights or the disk"))
        _end(2, message, error)
    except Exception as error:
        _fail(error)
        raise


def _parsed(
    argv: list[str], required: Sequence[str], before_parsing: Callable[[list[str]], None] | None, positional: str
) -> list[str]:
    """Parses the flags as `program` says, and returns what is left of the command line; raises `UserError`."""
    try:
        if before_parsing:
            before_parsing(argv)
        rest = app.parse_flags_with_usage(argv) if {"--help", "-h", "--helpfull"} & set(argv) else flags.FLAGS(argv)
    except flags.Error as error:
        what = str(error).strip().splitlines()[-1]
        raise UserError("command line", what.rstrip("."), "--help lists the flags") from error
    except UnicodeDecodeError as error:
        raise UserError("--flagfile", "is not text", "give a file of flags, one a line") from error
    if not flags.FLAGS["verbosity"].present:
        absl.logging.set_verbosity(absl.logging.WARNING)  # libraries log at INFO what is of no use to a user
        for name in ("absl", "asyncio"):  # Orbax logs each error that it raises, asyncio what follows from it
            logging.getLogger(name).setLevel("CRITICAL")
    if rest[1:] and positional:
        flags.FLAGS[positional].parse(rest[1:])
    elif rest[1:]:
        raise UserError("command line", f"{rest[1]!r} is not a flag", "--help lists the flags")
    for name in required:
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name}", "is missing", f"give --{name}=...")
    return rest


def _fail(error: Exception) -> None:
    """Ends the process where a host was lost or memory is short; returns where the error is one of the program's own."""
    if _hosts() and (lost := _hosts().lost(error)):
        _end(2, str(lost), error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        what = f"there is too little ({(str(error).strip() or 'nothing was left').splitlines()[0][:160]})"
        _end(2, str(UserError("memory", what, "ask for less: a smaller batch, model, beam or prompt")), error)
    _leave(1, f"{type(error).__name__}: {error}", error)


def _hosts() -> Any:
    """`lm.devices.hosts`, where the program has more than one host."""
    module = sys.modules.get("lm.devices.hosts")
    return module if module and module.joined() else None


def _disconnect() -> None:
    if _hosts():
        _hosts().disconnect()


def _leave(code: int, message: str, error: BaseException) -> None:
    """Where there are other hosts, ends this one as they must hear of it; the usual end would wait for them."""
    if _hosts():
        if code == 1:
            traceback.print_exception(error)
        _hosts().leave(code, message)


def _debugging() -> bool:
    return flags.FLAGS.debug if flags.FLAGS.is_parsed() else "--debug" in sys.argv


def _silence_threads() -> None:
    """What the threads of TensorStore and TensorBoard print of a failed write; it is raised in the main thread too."""
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
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(message, file=sys.stderr, flush=True)
    if isinstance(error, Stopped):  # as all hosts are
        _disconnect()
    _leave(code, message, error)
    sys.exit(code)


def _use_compilation_cache() -> None:
    """Programs compiled by an earlier process are used again; JAX_COMPILATION_CACHE_DIR says where they lie."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "lm" / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the small ones, by the dozen, add up too
