"""The two sizes of the tests: `slow` marks what `pytest` leaves out and `pytest -m slow` runs."""

from collections.abc import Callable, Iterable

import pytest


def sized(values: Iterable, fast: Callable[..., bool]) -> list:
    """Returns the values of a parametrization, marked slow but for those of which `fast` says that a property is held by
    them alone in the fast size. A tuple is of several arguments."""
    each = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=() if fast(*value) else pytest.mark.slow) for value in each]
