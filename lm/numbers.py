"""Whole numbers in texts that users write."""

import re


def whole(text: str) -> int | None:
    """Returns the value of a whole number in ASCII digits, without sign or leading zeros; None for any other text."""
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,17}", text) else None
