"""The default options of decoding of each task."""

from collections.abc import Mapping
from typing import Any

from lm.config.tasks import ANSWER_KINDS, TASKS
from lm.errors import UserError
from lm.search.options import Options

_DRAWING = ("top_k", "top_p", "min_p", "typical_p", "mbr_samples")


def for_task(task: str, asked: Mapping[str, Any]) -> Options:
    """Returns the options of a task: the asked ones by name, `greedy` among them, and the task's own temperature.

    Raises:
        UserError: they contradict each other, or have no use for the task.
    """
    chooses, asked = ANSWER_KINDS[TASKS[task].answer].how, dict(asked)
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
    # If the answer is chosen, its n best are not drawn.
    return Options(**({} if chooses else {"temperature": 0.0 if cold else 1.0}) | values)
