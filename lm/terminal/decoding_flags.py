"""The flags of decoding, which several programs share, and the `Options` that they ask for."""

import dataclasses
from typing import Any

from absl import flags

from lm.errors import UserError
from lm.search.options import NAMES, Options

flags.disclaim_key_flags()  # they are the program's, whose --help shows them

_DRAWING = ("top_k", "top_p", "min_p", "typical_p", "mbr_samples")


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
    from lm.config.tasks import ANSWER_KINDS, TASKS  # its package imports JAX, and --help is to answer at once

    asked, chooses = given(), ANSWER_KINDS[TASKS[task].answer].how
    unused = [name for name in asked if name != "num_samples"]
    if chooses and unused:
        raise UserError(f"--{unused[0]}", f"the task {task} {chooses}", "leave it out")
    greedy = asked.pop("greedy", False)
    drawing = "temperature" in asked or any(name in asked for name in _DRAWING)
    if greedy and (drawing or "beam_size" in asked):
        raise UserError("--greedy", "contradicts the other flags for drawing or beams", "give one of them")
    if "beam_size" in asked and drawing:
        raise UserError("--beam_size", "contradicts the flags for drawing", "give one of them")
    cold = greedy or (TASKS[task].has_source and not drawing)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()}
    # Where a task chooses, its n best are no draws.
    return Options(**({} if chooses else {"temperature": 0.0 if cold else 1.0}) | values)
