"""What the loop watches for: numbers that are not finite, a loss that rises, a signal to stop."""

import math
import signal
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def all_finite(tree: Any) -> bool:
    """Of arrays on the devices, whichever way they are placed."""
    return bool(_all_finite(tree).addressable_data(0))


class Divergence:
    """Sees a loss that rises and stays up: each of the last steps against the lowest mean of as many so far.

    Their own mean would not do: a batch of short texts may have a fraction of the loss of one of long texts. Where it has, a
    loss that doubles goes unseen; one that does not come down is seen.
    """

    STEPS, FACTOR = 20, 1.5

    def __init__(self):
        self._recent: list[float] = []
        self._lowest = math.inf
        self._said = False

    def seen(self, loss: float) -> str:
        """What to say after a step with this loss (nats a token), once for each rise; else empty."""
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
            f"the loss of the last {self.STEPS} steps is at least {least:.3f}, and was {self._lowest:.3f}: training diverges; "
            "a lower learning rate, more warm-up or clip_norm may help"
        )


class StopSignal:
    """Remembers SIGTERM or SIGINT, so that the loop can save first; a second signal ends the process at once."""

    def __init__(self):
        self.number = 0
        self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGTERM, signal.SIGINT)}

    def _receive(self, number, frame):
        self.number = number
        self.restore()

    def restore(self) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)
