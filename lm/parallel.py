"""How one per-device step runs on many devices: `pmap`, replicated data parallel, axis name "data".

A mapped array has a leading device axis. What is replicated (parameters, optimizer) is the same on every device; what
is cut (batch, carried state) holds consecutive rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.errors import UserError

AXIS = "data"


class Devices:
    """The devices of a run, and the moves between host arrays and mapped ones."""

    def __init__(self, devices: list[jax.Device]):
        self.devices = devices
        self.sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def __len__(self) -> int:
        return len(self.devices)

    def map(self, step: Callable, donate: tuple[int, ...] = ()) -> Callable:
        """`step`, written for one device, compiled for all; collectives name the axis `AXIS`."""
        return jax.pmap(step, axis_name=AXIS, devices=self.devices, donate_argnums=donate)

    def replicate(self, tree: Any) -> Any:
        """A copy on each device."""
        copies = lambda x: np.broadcast_to(np.asarray(x), (len(self), *np.shape(x)))
        return jax.device_put(jax.tree.map(copies, tree), self.sharding)

    def cut(self, tree: Any) -> Any:
        """Rows in equal, consecutive parts; the leading axis must be a multiple of the number of devices."""
        parts = lambda x: np.asarray(x).reshape(len(self), -1, *np.shape(x)[1:])
        return jax.device_put(jax.tree.map(parts, tree), self.sharding)

    @staticmethod
    def first(tree: Any) -> Any:
        """Host copy of what is replicated, from one device (indexing a mapped array is slow)."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)

    @staticmethod
    def join(tree: Any) -> Any:
        """Host copy of what was cut, in one piece."""
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)

    def rows(self, count: int) -> int:
        """The next multiple of the number of devices."""
        return -(-count // len(self)) * len(self)


PARALLEL: dict[str, type[Devices]] = {"pmap": Devices}


def devices_for(batch_size: int, accumulate: int, parallel: str) -> Devices:
    """All local devices, used as `parallel` (a key of `PARALLEL`) says.

    The batch must be cut in equal parts, and each part in `accumulate` parts.
    """
    devices = jax.local_devices()
    parts = len(devices) * accumulate
    if batch_size % parts:
        raise UserError(
            "config.data.batch_size",
            f"{batch_size} is not divisible by {len(devices)} devices times training.accumulate={accumulate}",
            f"use {-(-batch_size // parts) * parts}, or fewer devices",
        )
    return PARALLEL[parallel](devices)
