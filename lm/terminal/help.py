"""The output of -h and --help: description and flags of a program, and fields of the configuration if it has them."""

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from lm.errors import UserError

REPEAT = ";\n    repeat this option"  # absl's words about a flag that may be given several times
ASKED = ("-h", "--h", "-help", "--help", "--helpfull", "--helpshort")


def asked(argv: Sequence[str]) -> bool:
    """Returns whether a command line asks for help.

    An argument after a flag that still needs its value is that value, not a request for help.
    """
    values = [name.startswith("-") and takes_value(name.lstrip("-")) for name in argv[:-1]]
    return any(argument in ASKED and not value for argument, value in zip(argv[1:], values, strict=True))


def takes_value(name: str) -> bool:
    """Returns whether a flag of this name needs a value."""
    return name in flags.FLAGS and not flags.FLAGS[name].boolean


def own_flags() -> list[flags.Flag]:
    """Returns the flags of this program, without those of libraries, sorted by name."""
    modules = flags.FLAGS.flags_by_module_dict()
    ours = [name for name in modules if name == sys.argv[0] or name.partition(".")[0] in ("lm", "benchmarks")]
    return sorted((flag for name in ours for flag in modules[name]), key=lambda flag: flag.name)


def text(argv: Sequence[str], description: str, has_fields: bool) -> str:
    """Returns the help of this program.

    Prose is wrapped at the width of the terminal. Each field of the configuration is one line, so that `grep` finds it.
    """
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    paragraphs = [part if "\n " in part else textwrap.fill(part, width) for part in description.strip().split("\n\n")]
    parts = ["\n\n".join(paragraphs), "\n".join(["flags:", *_flags(width)])]
    return "\n\n".join(parts + (_sections(*_named(argv)) if has_fields else [])) + "\n"


def _flags(width: int) -> list[str]:
    found = []
    for flag in own_flags():
        default = "" if flag.default in (None, "", []) else "=" + flag.default_as_str.strip("'")
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}{default}"
        line = f"  {name}  {flag.help.partition(REPEAT)[0]}"
        found.append(textwrap.fill(line, width, subsequent_indent=" " * 6, break_on_hyphens=False))
    return found


def _named(argv: Sequence[str]) -> tuple[Any, str]:
    """Returns the configuration whose values are shown, and a sentence that says which one it is."""
    from lm.config import Config, from_file  # here, as it imports JAX, which help without fields does not need

    named = [argument.partition("=")[2] for argument in argv if argument.lstrip("-").startswith("config=")]
    try:
        if named:
            return from_file(named[-1]), f"The values shown are those of {named[-1]}."
    except UserError as error:
        return Config(), f"The values shown are the defaults ({error})."
    return Config(), "The values shown are the defaults; add --config=FILE for those of a file."


def _sections(config: Any, which: str) -> list[str]:
    from lm.config import fields

    found = {"config": [f"fields of the configuration, set by --config.SECTION.FIELD=VALUE. {which}"]}
    for path, section, field in fields(config):
        name = f"config.{path}".rpartition(".")[0]
        line = f"  --config.{path}={_shown(getattr(section, field.name))}  {field.metadata['help']}{_range(field)}"
        found.setdefault(name, [f"{name}:"]).append(line)
    return ["\n".join(lines) for lines in found.values()]


def _shown(value: Any) -> str:
    value = ",".join(value) if isinstance(value, tuple) else str(value)
    return repr(value) if " " in value else value


def _range(field: Any) -> str:
    """Returns the range of a field in parentheses, without the choices that its help already names."""
    choices, low, high, below = (field.metadata[name] for name in ("choices", "low", "high", "below"))
    missing = [choice for choice in choices if choice and choice not in field.metadata["help"]]
    said = [f"one of {', '.join(filter(None, choices))}"] if missing else []
    if low > -math.inf and high < math.inf:
        said.append(f"{low:g} to {high:,}")
    elif low > -math.inf:
        said.append(f"at least {low:g}" + (f" and less than {below:g}" if below < math.inf else ""))
    said += ["steps, epochs or tokens, e.g. '2 epochs'"] if field.type.__name__ == "Duration" else []
    return f" ({'; '.join(said)})" if said else ""
