"""How every program starts and ends: flags, the compilation cache, exit codes, one line for each error."""

import contextlib
import difflib
import functools
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
from absl import app, flags

from lm import files
from lm.errors import Stopped, UserError
from lm.terminal import help, output, signals


def program(
    main: Callable[[], None],
    required: Sequence[str] = (),
    before_parsing: Callable[[list[str]], None] | None = None,
    positional: str = "",
    outlives: bool = False,
    has_fields: bool = False,
) -> None:
    """Parses the flags, runs `main` and ends the process: 0 done, 2 the user can put it right, 128 + signal.

    Where the command line asks for help, that is printed, and nothing else happens.

    Args:
        main: called with the flags parsed.
        required: flags that must be given.
        before_parsing: called with the command line.
        positional: the flag, one that may be given many times, that arguments without a name are values of.
        outlives: output that cannot be written is dropped, and the program goes on: its purpose is another.
        has_fields: whether `--config.SECTION.FIELD=VALUE` are flags too.
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
            if help.asked(sys.argv):
                print(help.text(sys.argv, sys.modules["__main__"].__doc__ or "", has_fields), end="", flush=True)
                return
            parsed = functools.partial(
                _parsed, required=required, before_parsing=before_parsing, positional=positional, has_fields=has_fields
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
            UserError(str(where), error.strerror or str(error), "check the path, its rights and the room on the disk")
        )
        _end(2, message, error)
    except Exception as error:
        _fail(error)
        raise


def _parsed(
    argv: list[str],
    required: Sequence[str],
    before_parsing: Callable[[list[str]], None] | None,
    positional: str,
    has_fields: bool,
) -> list[str]:
    """Parses the flags as `program` says, and returns what is left of the command line; raises `UserError`."""
    try:
        _check_flag_files(argv)
        if before_parsing:
            before_parsing(argv)
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, has_fields) from error
    except flags.Error as error:
        what = str(error).strip().splitlines()[-1]
        raise UserError("command line", what.rstrip("."), "--help lists the flags") from error
    if not flags.FLAGS["verbosity"].present:
        absl.logging.set_verbosity(absl.logging.WARNING)  # libraries log at INFO what is of no use to a user
        for name in ("absl", "asyncio"):  # Orbax logs each error that it raises, asyncio what follows from it
            logging.getLogger(name).setLevel("CRITICAL")
    if rest[1:] and positional:
        flags.FLAGS[positional].parse(rest[1:])
    elif rest[1:]:
        raise _stray(rest[1], has_fields)
    for name in required:
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name}", "is missing", f"give --{name}=...")
    return rest


def _check_flag_files(arguments: Sequence[str]) -> None:
    """Raises `UserError` for a file of flags, or one that it names, that absl would wait for or read without end."""
    waiting, seen = [*arguments], set()
    while waiting:
        name, equals, path = waiting.pop(0).strip().partition("=")
        if name.lstrip("-") != "flagfile" or not name.startswith("-"):
            continue
        path = os.path.expanduser(path if equals else waiting[0] if waiting else "")
        if path not in seen:
            seen.add(path)
            try:
                waiting += files.read_text(path, "file of flags").splitlines()
            except UserError as error:
                raise UserError(f"--flagfile={path}", error.what, error.mend) from None
            except OSError:
                pass  # absl says so


def _unknown(name: str, has_fields: bool) -> UserError:
    """The refusal of a flag that there is not, with the nearest flags and fields of the configuration."""
    known = [flag.name for flag in help.own_flags()]
    begun = [other for other in known if other.startswith(name)][:2]
    close = begun or difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if has_fields:
        from lm.config import near_fields  # it imports JAX, for which other programs' mistakes need not wait

        close += [f"config.{path}" for path in near_fields(name.removeprefix("config."))]
    hint = f"did you mean {' or '.join(f'--{each}' for each in close)}? " if close else ""
    return UserError(f"--{name}", "there is no such flag", f"{hint}--help lists the flags")


def _stray(argument: str, has_fields: bool) -> UserError:
    """The refusal of an argument that has no name, with the flag that it may be the value of."""
    name, equals, _ = argument.partition("=")
    if equals and name not in flags.FLAGS and not name.startswith("config."):
        return _unknown(name, has_fields)
    hint = f"give --{argument}; " if equals else ""
    if "config" in flags.FLAGS and name.partition(":")[0].endswith(".py"):
        hint = f"give --config={argument}; "
    elif "workdir" in flags.FLAGS and os.path.isfile(os.path.join(argument, "config.json")):
        hint = f"give --workdir={argument}; "
    return UserError("command line", f"{argument!r} is not a flag", f"{hint}--help lists the flags")


def _fail(error: Exception) -> None:
    """Ends the process where a host was lost or memory is short; returns where the error is one of the program's own."""
    if _hosts() and (lost := _hosts().lost(error)):
        _end(2, str(lost), error)
    if missing := _no_devices():
        _end(2, str(missing), error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        what = f"there is too little ({(str(error).strip() or 'nothing was left').splitlines()[0][:160]})"
        _end(2, str(UserError("memory", what, "ask for less: a smaller batch, model, beam or prompt")), error)
    _leave(1, f"{type(error).__name__}: {error}", error)


def _no_devices() -> UserError | None:
    """What is wrong where JAX_PLATFORMS asks for devices that JAX does not find."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms or "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
        return None
    except Exception as error:  # whatever its backends raise
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].strip() or "JAX has no such backend"
        what = f"{platforms!r} is not found here ({reason.splitlines()[0][:160]})"
        return UserError("JAX_PLATFORMS", what, "unset it, or name what this machine has, e.g. cpu")


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
    if isinstance(error, Stopped) and error.together:
        _disconnect()
    _leave(code, message, error)
    sys.exit(code)


def _use_compilation_cache() -> None:
    """Programs compiled by an earlier process are used again; JAX_COMPILATION_CACHE_DIR says where they lie."""
    import jax

    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not directory:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = os.path.join(cache, "lm", "compiled")
        if directory.startswith("~"):
            print("no HOME is known, so programs are compiled anew at each start", file=sys.stderr, flush=True)
        else:
            jax.config.update("jax_compilation_cache_dir", directory)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the small ones, by the dozen, add up too
    _say_once_where_it_fails(directory)


def _say_once_where_it_fails(directory: str) -> None:
    """JAX warns of every program that it cannot keep; the first warning becomes a line, the others nothing."""
    show, failed = warnings.showwarning, []

    def show_other(message, category, filename, lineno, file=None, line=None):
        text = str(message)
        if not re.match("Error (reading|writing) persistent compilation cache", text):
            return show(message, category, filename, lineno, file, line)
        failed.append(text)
        if len(failed) == 1:
            reason = text.partition("': ")[2].splitlines()[0][:160]
            what = f"the compilation cache {directory} fails ({reason}), so programs are compiled anew at each start"
            print(f"{what}; JAX_COMPILATION_CACHE_DIR names another folder", file=sys.stderr, flush=True)

    warnings.showwarning = show_other
