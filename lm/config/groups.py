"""Groups of parameters in the optimizer, as `config.optimizer.groups` writes them."""

import math
import re
from typing import NamedTuple

from lm.config.durations import parse_duration
from lm.errors import UserError


class Group(NamedTuple):
    """Of parameters: those whose names a pattern matches whole, and no pattern before it."""

    pattern: str
    factor: float  # of the learning rate; 0: frozen
    begin: int | str = 0  # the group does not change before: a duration, or in the optimizer a number of updates


def parse_group(text: str) -> Group:
    """Of `PATTERN=>FACTOR` or `PATTERN=>FACTOR@DURATION`; raises `UserError`."""
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
            raise UserError(where, f"{text!r} is frozen and begins", "give a factor, or leave out what follows it")
    return Group(pattern, number, begin or 0)


def check_pattern(text: str, where: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        action = "write e.g. encoder/.*, with \\ before a sign that stands for itself"
        raise UserError(where, f"{text!r} is not a regular expression ({error})", action) from None
