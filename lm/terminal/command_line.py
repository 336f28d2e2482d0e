"""The command line of every program: flags, files of flags, and what a wrong one was meant to be."""

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
    """Parses the flags as `program` says, and returns what is left of the command line; raises `UserError`."""
    try:
        check_flag_files(argv)
        if before_parsing:
            before_parsing(argv)
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, has_fields) from error
    except flags.Error as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError("command line", reason.rstrip("."), "--help lists the flags") from error
    except ValueError as error:  # of --noFLAG=VALUE
        raise UserError("command line", str(error).rstrip("."), "--help lists the flags") from error
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


def check_flag_files(arguments: Sequence[str]) -> None:
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
                raise UserError(f"--flagfile={path}", error.reason, error.action) from None
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
