"""The conditions that the loop watches for: numbers that are not finite, a rising loss, a signal to stop."""

import math
import signal
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from lm.terminal import signals


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def all_finite(tree: Any) -> bool:
    """Returns whether every number of the arrays on the devices is finite, however they are placed."""
    return bool(_all_finite(tree).addressable_data(0))


class Fault(NamedTuple):
    """A number that is not finite, so that training cannot continue from this state."""

    step: int
    which: str

    def __str__(self) -> str:
        return f"{self.which} is not finite"


class Divergence:
    """Detects a loss that rises and stays up: each of the last steps is far above the lowest mean of as many steps so
    far.

    A mean of the last steps would not do. A batch of short texts may have a fraction of the loss of a batch of long
    texts. With such batches, a loss that doubles would be missed, and a loss that merely does not fall would be
    reported.
    """

    STEPS, FACTOR = 20, 1.5

    def __init__(self):
        self._recent: list[float] = []
        self._lowest = math.inf
        self._said = False

    def seen(self, loss: float) -> str:
        """Returns a warning after a step with this loss (nats per token), once for each rise; else an empty text."""
        self._recent = [*self._recent[1 - self.STEPS :], loss]
        if len(self._recent) < self.STEPS:
            return ""
        least, mean = min(self._recent), sum(self._recent) / self.STEPS
        self._lowest = min(self._lowest, mean)
        limit = self.FACTOR * self._lowest + 0.1
        if least <= limit or self._said:
            self._said = self._said and mean > limit
            return ""
        self._said = True
        return (
            f"the loss of the last {self.STEPS} steps is at least {least:.3f}, and was {self._lowest:.3f}: "
            "training diverges; a lower learning rate, more warm-up or clip_norm may help"
        )


class StopSignal:
    """Remembers the first signal that asks the program to end, so that the loop can save first.

    A second SIGTERM or SIGINT ends the process at once; `lm/terminal/signals.py` has the list.
    """

    def __init__(self):
        self.number = 0
        self._before = signals.caught(self._receive)

    def _receive(self, number, frame):
        self.number = self.number or number
        if number in signals.URGENT:
            for each in signals.URGENT:
                before = self._before[each]
                signal.signal(each, signal.SIG_DFL if before is signals.stop else before)

    def restore(self) -> None:
        """Gives all signals back to the handlers of before."""
        for each, before in self._before.items():
            signal.signal(each, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()
