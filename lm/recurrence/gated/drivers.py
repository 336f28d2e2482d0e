"""Which driver runs a gated layer over time: the one place where the platform and the shapes decide."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from lm.recurrence.base import Cell, Execution, Weights
from lm.recurrence.gated import pallas_kernel, xla_loop
from lm.recurrence.gated.order import BatchMajor, FeatureMajor, MemoryOrder

SMALL = 2**18  # numbers in a recurrent kernel that `BatchMajor` makes faster on a CPU (XLA-1)


class Driver(NamedTuple):
    """A pair of functions.

    `forward(cell, how, weights, inputs_tbd, state, marks)` returns `(final, outputs_tbh)`, and what the gradient reads:
    `before.inner` of all steps, and the gates or None.

    `backward(cell, how, weights, inputs_tbd, before_tbh, kept, marks, d_outputs_tbh, d_final)`, in which `before_tbh` is what each
    step read of the output, returns the gradients by `(state, starts)`, by the cell's own parameters ([*u, 1]), and by the gates,
    [t * b, g], where blocks that stay separate are apart.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def loop(order: type[MemoryOrder], projects_before: bool) -> Driver:
    """The loop of XLA in a memory order."""
    return Driver(
        functools.partial(xla_loop.forward, order, projects_before), functools.partial(xla_loop.backward, order)
    )


def kernel(platform: str) -> Driver:
    """The Pallas kernel of a platform, "gpu" or "tpu"."""
    return Driver(
        functools.partial(pallas_kernel.forward, platform), functools.partial(pallas_kernel.backward, platform)
    )


def choices(cell: type[Cell], how: Execution, weights: Weights, batch: int) -> dict[str, Driver]:
    """The driver for each platform, by the names of `lax.platform_dependent`."""
    small = cell.batch_major and how.heads == 1 and weights.recurrent_kernel.size <= SMALL
    order = BatchMajor if small else FeatureMajor
    found = {"cpu": loop(order, projects_before=batch < order.narrow)}
    units = weights.recurrent_kernel.shape[-2]  # of a head
    for name, platform in (("cuda", "gpu"), ("tpu", "tpu")):
        if has_kernel(how, units, batch, platform):
            found[name] = kernel(platform)
    return {**found, "default": loop(FeatureMajor, projects_before=True)}


def has_kernel(how: Execution, units: int, batch: int, platform: str) -> bool:
    """Whether a Pallas kernel runs layers of so many units a head and examples a device, on "gpu", "tpu" or "cpu"."""
    if how.driver == "xla" or how.backward != "keep":
        return False
    if platform == "gpu":
        return units in pallas_kernel.UNITS[how.dtype] and batch % pallas_kernel.TILE == 0
    return platform == "tpu" and how.driver == "pallas"


def forward(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd: jax.Array, *arrays: Any) -> Any:
    """`Driver.forward`, of the driver of the platform that the program is compiled for."""
    drivers = choices(cell, how, weights, inputs_tbd.shape[1])
    chosen = {name: functools.partial(driver.forward, cell, how) for name, driver in drivers.items()}
    return lax.platform_dependent(weights, inputs_tbd, *arrays, **chosen)


def backward(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd: jax.Array, *arrays: Any) -> Any:
    """`Driver.backward`, likewise."""
    drivers = choices(cell, how, weights, inputs_tbd.shape[1])
    chosen = {name: functools.partial(driver.backward, cell, how) for name, driver in drivers.items()}
    return lax.platform_dependent(weights, inputs_tbd, *arrays, **chosen)
