"""The flags of decoding, which several programs share, and the `Options` that they ask for."""

import dataclasses
from typing import Any

from absl import flags

from lm.search.options import NAMES, Options

flags.disclaim_key_flags()  # they are the program's, whose --help shows them


def define_flags(*without: str) -> None:
    """A flag for each option but these, and --greedy."""
    for field in dataclasses.fields(Options):
        text, default = field.metadata["help"], field.default
        if field.name in without:
            continue
        if field.name == "temperature":  # depends on the task
            flags.DEFINE_float("temperature", None, f"{text}; default 1 for a language model, else 0")
        elif isinstance(default, tuple):
            flags.DEFINE_multi_string(field.name, [], text)
        else:
            define = flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_float
            define(field.name, default, text)
    flags.DEFINE_bool("greedy", False, "always the most probable token")


def given() -> dict[str, Any]:
    """The flags of options that are not at their defaults, by name."""
    defined = [name for name in (*NAMES, "greedy") if name in flags.FLAGS]
    return {name: flags.FLAGS[name].value for name in defined if flags.FLAGS[name].value != flags.FLAGS[name].default}


def from_flags(task: str) -> Options:
    """Those of the command line, for a task; raises `UserError` where they contradict each other or have no use there."""
    from lm.search import task_options  # tasks lie in a package that imports JAX, and --help is to answer at once

    return task_options.for_task(task, given())
