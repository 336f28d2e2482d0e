"""The two sizes of the tests: `slow` marks what `pytest` leaves out and `pytest -m slow` runs."""

from collections.abc import Callable, Iterable

import pytest


def sized(values: Iterable, fast: Callable[..., bool]) -> list:
    """Returns the values of a parametrization, of which those are marked slow that `fast` is false of.

    A tuple is the values of several arguments. The fast values alone should still show the property.
    """
    each = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=() if fast(*value) else pytest.mark.slow) for value in each]
