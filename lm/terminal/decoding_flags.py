"""The flags of decoding, which several programs share, and the `Options` that they describe."""

import dataclasses
from typing import Any

from absl import flags

from lm.search.options import NAMES, Options

flags.disclaim_key_flags()  # so that the --help of the program shows them as its own


def define_flags(*without: str) -> None:
    """Defines a flag for each option that is not in `without`, and --greedy."""
    for field in dataclasses.fields(Options):
        text, default = field.metadata["help"], field.default
        if field.name in without:
            continue
        if field.name == "temperature":  # its default depends on the task
            flags.DEFINE_float("temperature", None, f"{text}; default: 1 for a language model, else 0")
        elif isinstance(default, tuple):
            flags.DEFINE_multi_string(field.name, [], text)
        else:
            define = flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_float
            define(field.name, default, text)
    flags.DEFINE_bool("greedy", False, "greedy decoding: always the most probable token")


def given() -> dict[str, Any]:
    """Returns the values of the flags that differ from their defaults, by name."""
    defined = [name for name in (*NAMES, "greedy") if name in flags.FLAGS]
    return {name: flags.FLAGS[name].value for name in defined if flags.FLAGS[name].value != flags.FLAGS[name].default}


def from_flags(task: str) -> Options:
    """Returns the options of the command line for a task.

    Raises:
        UserError: options contradict each other, or do not apply to the task.
    """
    from lm.search import task_options  # here, as it imports JAX, and --help must answer at once

    return task_options.for_task(task, given())
