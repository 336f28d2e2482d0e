"""Every way to run a gated cell over time, Pallas' kernels by its interpreter, and how tests compile them."""

import functools

import jax
import pytest

from lm.recurrence.gated import drivers, on_chip, pallas_kernel
from lm.recurrence.gated.order import BatchMajor, FeatureMajor

# Programs so small take longest to compile, so this is done without haste for their speed.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
WAYS = {  # (driver, whether gates are kept, heads, reversed, with starts)
    "feature-major": (drivers.loop(FeatureMajor, True), "keep", 1, False, False),
    "feature-major in the loop": (drivers.loop(FeatureMajor, False), "keep", 2, True, True),
    "feature-major recomputed": (drivers.loop(FeatureMajor, False), "recompute", 2, True, True),
    "batch-major": (drivers.loop(BatchMajor, True), "keep", 1, False, False),
    "batch-major in the loop": (drivers.loop(BatchMajor, False), "keep", 1, True, True),
    "batch-major recomputed": (drivers.loop(BatchMajor, True), "recompute", 1, False, True),
    "kernel of a TPU": (drivers.kernel("tpu"), "keep", 2, True, True),
    "kernel of a GPU": (drivers.kernel("gpu"), "keep", 1, False, True),
}


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels are run by Pallas' interpreter, and their platforms are named here; a tile is one that divides the batch."""
    platforms, loop = [], on_chip.loop

    def interpret(*given, **how):
        platforms.append(how["platform"])
        return loop(*given, **how, interpret=True)

    monkeypatch.setattr(on_chip, "loop", interpret)
    monkeypatch.setattr(pallas_kernel, "TILE", 2)
    return platforms
