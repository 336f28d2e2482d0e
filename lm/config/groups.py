"""Groups of parameters with their own learning rates, as written in `config.optimizer.groups`."""

import math
import re
from typing import NamedTuple

from lm.config.durations import parse_duration
from lm.errors import UserError


class Group(NamedTuple):
    """A group of parameters: those whose whole names match its pattern, and no pattern of an earlier group."""

    pattern: str
    factor: float  # multiplies the learning rate; 0: frozen
    begin: int | str = 0  # frozen until then: a duration, or in the optimizer a number of steps


def parse_group(text: str) -> Group:
    """Returns the group that a text describes: `PATTERN=>FACTOR` or `PATTERN=>FACTOR@DURATION`.

    Raises:
        UserError: the text has another form.
    """
    where, (pattern, arrow, rest) = "config.optimizer.groups", text.rpartition("=>")
    factor, at, begin = rest.partition("@")
    check_pattern(pattern, where)
    try:
        number = float(factor)
    except ValueError:
        number = -1
    if not arrow or not 0 <= number < math.inf:
        raise UserError(where, f"{text!r} is not PATTERN=>FACTOR", "give e.g. encoder/.*=>0.1, with 0 for frozen")
    if at:
        parse_duration(begin, where)
        if not number:
            raise UserError(
                where,
                f"{text!r} is frozen by the factor 0, and begins to learn",
                "give a factor above 0, or leave out @DURATION",
            )
    return Group(pattern, number, begin or 0)


def check_pattern(text: str, where: str) -> None:
    """Raises `UserError`, naming the field `where`, if a text is not a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        action = "write e.g. encoder/.*, with \\ before a character that is meant literally"
        raise UserError(where, f"{text!r} is not a regular expression ({error})", action) from None
