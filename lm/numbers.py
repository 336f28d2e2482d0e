"""Whole numbers as users write them."""

import re


def whole(text: str) -> int | None:
    """Returns the number that ASCII digits are, without a sign or zeros before it; None for any other text."""
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,17}", text) else None
