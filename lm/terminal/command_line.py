"""The command line of every program: flags, files of flags, and suggestions for wrong ones."""

import difflib
import logging
import os
from collections.abc import Callable, Sequence

import absl.logging
from absl import flags

from lm import files
from lm.errors import UserError
from lm.terminal import help


def parsed(
    argv: list[str],
    required: Sequence[str],
    before_parsing: Callable[[list[str]], None] | None,
    positional: str,
    has_fields: bool,
) -> list[str]:
    """Parses the flags as `program` describes, and returns the rest of the command line; raises `UserError`."""
    try:
        check_flag_files(argv)
        if before_parsing:
            before_parsing(argv)
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, has_fields) from error
    except flags.Error as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError("command line", reason.rstrip("."), "see --help for all flags") from error
    except ValueError as error:  # raised for --noFLAG=VALUE
        raise UserError("command line", str(error).rstrip("."), "see --help for all flags") from error
    if not flags.FLAGS["verbosity"].present:
        absl.logging.set_verbosity(absl.logging.WARNING)  # messages of libraries at INFO do not help a user
        for name in ("absl", "asyncio"):  # Orbax logs each error that it raises, asyncio its consequences
            logging.getLogger(name).setLevel("CRITICAL")
    if rest[1:] and positional:
        flags.FLAGS[positional].parse(rest[1:])
    elif rest[1:]:
        raise _stray(rest[1], has_fields)
    for name in required:
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name}", "is missing", f"give --{name}=...")
    return rest


def check_flag_files(arguments: Sequence[str]) -> None:
    """Raises `UserError` for a file of flags, also a nested one, that absl would wait for or read forever."""
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
                raise UserError(f"--flagfile={path}", error.reason, error.action) from None
            except OSError:
                pass  # absl reports it


def _unknown(name: str, has_fields: bool) -> UserError:
    """Returns the error for an unknown flag, with the nearest flags and fields of the configuration."""
    known = [flag.name for flag in help.own_flags()]
    begun = [other for other in known if other.startswith(name)][:2]
    close = begun or difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if has_fields:
        from lm.config import near_fields  # here, as it imports JAX, which takes seconds

        close += [f"config.{path}" for path in near_fields(name.removeprefix("config."))]
    hint = f"did you mean {' or '.join(f'--{each}' for each in close)}? " if close else ""
    return UserError(f"--{name}", "is not a flag of this program", f"{hint}see --help for all flags")


def _stray(argument: str, has_fields: bool) -> UserError:
    """Returns the error for an argument without a flag, with the flag whose value it may be."""
    name, equals, _ = argument.partition("=")
    if equals and name not in flags.FLAGS and not name.startswith("config."):
        return _unknown(name, has_fields)
    hint = f"give --{argument}; " if equals else ""
    if "config" in flags.FLAGS and name.partition(":")[0].endswith(".py"):
        hint = f"give --config={argument}; "
    elif "workdir" in flags.FLAGS and os.path.isfile(os.path.join(argument, "config.json")):
        hint = f"give --workdir={argument}; "
    return UserError("command line", f"{argument!r} is not a flag", f"{hint}see --help for all flags")
