"""The choice of the driver that runs a gated layer over time, by platform and shapes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from lm.recurrence.base import Cell, Execution, Weights
from lm.recurrence.gated import pallas_kernel, xla_loop
from lm.recurrence.gated.order import BatchMajor, FeatureMajor, MemoryOrder

SMALL = 2**18  # most numbers in a recurrent kernel with which `BatchMajor` is faster on a CPU (XLA-1)


class Driver(NamedTuple):
    """A pair of functions that run all steps of a layer, forward and backward.

    `forward(cell, how, weights, inputs_tbd, state, marks)` returns `(final, outputs_tbh)`, and the pair that the
    gradient reads: `before.inner` of all steps, and the gates or None.

    `backward(cell, how, weights, inputs_tbd, before_tbh, kept, marks, d_outputs_tbh, d_final)` returns the gradients
    with respect to `(state, starts)`, to the cell's own parameters (`[*u, 1]`), and to the gates, [t * b, g], in which
    separate blocks are not summed. `before_tbh` is y_{t-1} of each step, after resets.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def loop(order: type[MemoryOrder], projects_before: bool) -> Driver:
    """Returns the driver that is XLA's loop in a memory order."""
    return Driver(
        functools.partial(xla_loop.forward, order, projects_before), functools.partial(xla_loop.backward, order)
    )


def kernel(platform: str) -> Driver:
    """Returns the driver that is the fused kernel of a platform, "gpu" or "tpu"."""
    return Driver(
        functools.partial(pallas_kernel.forward, platform), functools.partial(pallas_kernel.backward, platform)
    )


def choices(cell: type[Cell], how: Execution, weights: Weights, batch: int) -> dict[str, Driver]:
    """Returns the driver for each platform, by the names of `lax.platform_dependent`."""
    small = cell.batch_major and how.heads == 1 and weights.recurrent_kernel.size <= SMALL
    order = BatchMajor if small else FeatureMajor
    found = {"cpu": loop(order, projects_before=batch < order.narrow)}
    units = weights.recurrent_kernel.shape[-2]  # of a head
    for name, platform in (("cuda", "gpu"), ("tpu", "tpu")):
        if has_kernel(how, units, batch, platform):
            found[name] = kernel(platform)
    return {**found, "default": loop(FeatureMajor, projects_before=True)}


def has_kernel(how: Execution, units: int, batch: int, platform: str) -> bool:
    """Returns whether a fused kernel runs a layer on "gpu", "tpu" or "cpu".

    Args:
        how: the way to run it.
        units: the hidden units of a head.
        batch: the examples per device.
        platform: the platform.
    """
    if how.driver == "xla" or how.backward != "keep":
        return False
    if platform == "gpu":
        return units in pallas_kernel.UNITS[how.dtype] and batch % pallas_kernel.TILE == 0
    return platform == "tpu" and how.driver == "pallas"


def forward(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd: jax.Array, *arrays: Any) -> Any:
    """Calls `Driver.forward` of the driver for the platform that the program is compiled for."""
    drivers = choices(cell, how, weights, inputs_tbd.shape[1])
    chosen = {name: functools.partial(driver.forward, cell, how) for name, driver in drivers.items()}
    return lax.platform_dependent(weights, inputs_tbd, *arrays, **chosen)


def backward(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd: jax.Array, *arrays: Any) -> Any:
    """Calls `Driver.backward` of the driver for the platform that the program is compiled for."""
    drivers = choices(cell, how, weights, inputs_tbd.shape[1])
    chosen = {name: functools.partial(driver.backward, cell, how) for name, driver in drivers.items()}
    return lax.platform_dependent(weights, inputs_tbd, *arrays, **chosen)
