"""Lengths of training, in steps, epochs or target tokens."""

import math
import re

from lm.errors import UserError, nearest

UNITS = ("steps", "epochs", "tokens")


def parse_duration(value: int | str, where: str) -> tuple[float, str]:
    """Returns the amount and the unit, one of `UNITS`, of a duration such as `500` or `"2.5 epochs"`.

    Raises:
        UserError: the value is not a duration; the error names the field `where`.
    """
    match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([a-z]*)", str(value).strip())
    if isinstance(value, bool) or not match or not math.isfinite(float(match[1])):
        raise UserError(where, f"{value!r} is not a duration", "give e.g. 500, '2.5 epochs' or '1_000_000 tokens'")
    unit = match[2] or "steps"
    unit = unit if unit.endswith("s") else unit + "s"
    if unit not in UNITS:
        raise UserError(where, f"{match[2]!r} is not a unit of training", nearest(unit, UNITS))
    amount = float(match[1])
    if unit == "steps" and amount != int(amount):
        raise UserError(where, f"{value!r} is not a whole number of steps", "give a whole number")
    return amount, unit


def in_steps(duration: int | str, steps_per_epoch: int, tokens_per_epoch: int, where: str = "duration") -> int:
    """Returns a duration in whole steps, rounded up; `tokens_per_epoch` counts target tokens without padding."""
    amount, unit = parse_duration(duration, where)
    if unit == "epochs":
        amount *= steps_per_epoch
    elif unit == "tokens":
        amount *= steps_per_epoch / tokens_per_epoch
    return max(math.ceil(amount - 1e-9), int(amount > 0))
