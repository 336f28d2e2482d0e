"""Training on several devices: `pmap` replicates the state, `fsdp` shards it. A step is written for one device.

In both modes the batch is sharded over all devices of all hosts in consecutive parts. So example `i` of a batch has the
same content and the same dropout in either mode, with any number of devices.

A *mapped array* has a leading device axis, over the devices of this host. The batch and the carried state are mapped,
with consecutive examples on each device. Replicated arrays are the same on every device and have no device axis: with
one, XLA on a CPU would copy all moments of the optimizer before it writes them.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.errors import UserError

AXIS = "data"


class Devices:
    """The devices of a run in mode `pmap`: every device holds the whole state."""

    shards = 1  # number of shards of the parameters

    def __init__(self, devices: list[jax.Device]):
        self.devices = devices
        self.local = [device for device in devices if device.process_index == jax.process_index()]
        mesh = Mesh(np.array(self.local), (AXIS,))
        self.sharding, self.everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())

    def __len__(self) -> int:
        return len(self.devices)

    def map(self, step: Callable, in_axes: Any, out_axes: Any, donate: tuple[int, ...] = ()) -> Callable:
        """Returns `step`, which is written for one device, compiled for all devices. Collectives use the axis `AXIS`.

        `in_axes` and `out_axes` are 0 for each argument or result that is mapped, and None for each that is replicated.
        They may be trees of these, for parts of an argument.
        """
        return jax.pmap(step, AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices, donate_argnums=donate)

    def replicate(self, tree: Any) -> Any:
        """Returns the tree replicated on every device."""
        return jax.device_put(jax.tree.map(np.asarray, tree), self.everywhere)

    def shard(self, tree: Any) -> Any:
        """Returns this host's examples of a global batch as a mapped array.

        Every host has the global batch. Its leading axis is a multiple of the number of devices.
        """

        def own(x):
            x = np.asarray(x).reshape(len(self), -1, *np.shape(x)[1:])
            first = self.devices.index(self.local[0])
            return x[first : first + len(self.local)]

        return jax.device_put(jax.tree.map(own, tree), self.sharding)

    def padded(self, count: int) -> int:
        """Returns the smallest multiple of the number of devices that is at least `count`."""
        return -(-count // len(self)) * len(self)

    @staticmethod
    def first(tree: Any) -> Any:
        """Returns a host copy of a replicated tree."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)

    @staticmethod
    def join(tree: Any) -> Any:
        """Returns a host copy of a mapped tree without its device axis, from the devices of this host."""
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)

    # ---- training: `state` is a named tuple; its `carry` is mapped, all else is replicated or sharded by the mode ----

    def put(self, tree: Any) -> Any:
        """Returns this host's share of a batch as a mapped array; under `fsdp`, as a part of one global array."""
        parts = lambda x: np.asarray(x).reshape(len(self.local), -1, *np.shape(x)[1:])
        return jax.device_put(jax.tree.map(parts, tree), self.sharding)

    def place(self, state: Any) -> Any:
        """Returns a state that every host has, placed on the devices."""
        return self.replicate(state._replace(carry=()))._replace(carry=self.shard(state.carry))

    def summed(self, gradient: Callable) -> Callable:
        """Returns a gradient function that sums over all devices, for a step that `compile` compiles.

        Args:
            gradient: the function for the examples of one device, `(params, replicated, rows, number of the device) ->
                (gradients, sums, rows)`.

        Returns:
            The function for all devices, `(params, replicated, rows) -> (gradients, sums, rows)`.
        """

        def over_all(params, replicated, rows):
            grads, sums, rows = gradient(params, replicated, rows, lax.axis_index(AXIS))
            if len(self) > 1:
                grads, sums = lax.psum((grads, sums), AXIS)  # one collective for all of them
            return grads, sums, rows

        return over_all

    def compile(self, step: Callable, kind: type, donate: bool = True) -> Callable:
        """Returns a step `(state, batch) -> (state, metrics)` compiled for all devices.

        Args:
            step: the step, whose gradient is a result of `summed`.
            kind: the class of the state, a named tuple.
            donate: whether the new state may reuse the memory of the old one.
        """
        state = kind(**{name: 0 if name == "carry" else None for name in kind._fields})
        return self.map(step, (state, 0), (state, None), donate=(0,) if donate else ())

    def replicated(self, params: Any) -> Any:
        """Returns the parameters of a state replicated on every device, for evaluation."""
        return params

    def saved(self, state: Any) -> Any:
        """Returns the state for a checkpoint, in the shapes of one device.

        Every array is a copy, as the next step reuses the memory of the state.
        """
        whole = jax.tree.map(np.array, self.first(state._replace(carry=())))
        return whole._replace(carry=jax.tree.map(self._joined, state.carry))

    def _joined(self, rows: jax.Array) -> Any:
        """Returns a mapped array without its device axis: a host array, or with several hosts one global array."""
        own = np.array(rows).reshape(-1, *rows.shape[2:])
        if len(self.local) == len(self):
            return own
        everywhere = NamedSharding(Mesh(np.array(self.devices), (AXIS,)), P(AXIS))
        return jax.make_array_from_process_local_data(everywhere, own)


# The axis by which a parameter, or its moments in the optimizer, is sharded. The first rule whose pattern is found in
# the name applies, with the first of its axes that the number of shards divides. Arrays with no divisible axis are
# small; they are replicated.
RULES = (
    (r"(^|/)embedding$", (0, 1)),  # by words, else by embedding dimensions
    (r"", (-1, -2, -3)),  # by gates, features or, in the head, words; else by the axis that a product sums over
)


class Fsdp(Devices):
    """The devices of a run in mode `fsdp`, as a mesh with the axes `data` and `model`.

    Parameters, gradients and optimizer state are sharded over `model` and replicated over `data`. A step gathers the
    parameters, computes the gradient of its examples, and scatters the sum, so that each device updates its own shard.
    The batch is sharded over both axes. Only the batch and the carried state have a device axis.
    """

    AXES = ("data", "model")

    def __init__(self, devices: list[jax.Device], shards: int = 0):
        super().__init__(devices)
        self.shards = shards or len(devices)
        self.mesh = Mesh(np.array(devices).reshape(-1, self.shards), self.AXES)
        self._by_rows = NamedSharding(self.mesh, P(self.AXES))
        self._copies = jax.jit(self._gathered)

    def specs(self, tree: Any) -> Any:
        """Returns the `PartitionSpec` of each array by `RULES`."""

        def spec(path, x):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            axes = next(axes for pattern, axes in RULES if re.search(pattern, name))
            for axis in axes:
                if -x.ndim <= axis < x.ndim and x.shape[axis] % self.shards == 0:
                    return P(*("model" if i == axis % x.ndim else None for i in range(x.ndim)))
            return P()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def put(self, tree: Any) -> Any:
        return jax.tree.map(self._of_all_hosts, super().put(tree))

    def place(self, state: Any) -> Any:
        rest = jax.tree.map(np.asarray, state._replace(carry=()))
        placed = jax.tree.map(self._part, rest, self._shardings(rest))
        return placed._replace(carry=jax.tree.map(self._of_all_hosts, self.shard(state.carry)))

    def summed(self, gradient: Callable) -> Callable:
        def over_all(params, replicated, rows):
            specs = self.specs(params)

            def local(params, replicated, rows):
                params = jax.tree.map(self._gather, params, specs)
                rows = jax.tree.map(lambda x: x[0], rows)
                grads, sums, rows = gradient(params, replicated, rows, lax.axis_index(self.AXES))
                leaves, structure = jax.tree.flatten(grads)
                cut = [axis_of(spec) is not None for spec in structure.flatten_up_to(specs)]
                uncut = [leaf for leaf, is_cut in zip(leaves, cut, strict=True) if not is_cut]
                uncut, sums = lax.psum((uncut, sums), self.AXES)
                scattered = jax.tree.map(self._scatter, grads, specs)
                parts = [leaf for leaf, is_cut in zip(jax.tree.leaves(scattered), cut, strict=True) if is_cut]
                parts = lax.psum(parts, "data") if self.shards < len(self) else parts
                parts, uncut = iter(parts), iter(uncut)
                grads = structure.unflatten([next(parts if is_cut else uncut) for is_cut in cut])
                return grads, sums, jax.tree.map(lambda x: x[None], rows)

            by_rows = P(self.AXES)
            mapped = jax.shard_map(
                local, mesh=self.mesh, in_specs=(specs, P(), by_rows), out_specs=(specs, P(), by_rows), check_vma=False
            )
            return mapped(params, replicated, rows)

        return over_all

    def compile(self, step: Callable, kind: type, donate: bool = True) -> Callable:
        def placed(state, batch):
            after, metrics = step(state, batch)
            rest = after._replace(carry=())
            rest = jax.lax.with_sharding_constraint(rest, self._shardings(rest))
            everywhere = NamedSharding(self.mesh, P())
            return rest._replace(carry=after.carry), jax.lax.with_sharding_constraint(metrics, everywhere)

        return jax.jit(placed, donate_argnums=(0,) if donate else ())

    def replicated(self, params: Any) -> Any:
        own = lambda x: self._same_memory(x, x.shape, self.everywhere)
        return jax.tree.map(own, self._copies(params))

    def _gathered(self, params: Any) -> Any:
        specs = self.specs(params)
        gather = lambda tree: jax.tree.map(self._gather, tree, specs)
        mapped = jax.shard_map(gather, mesh=self.mesh, in_specs=(specs,), out_specs=P(), check_vma=False)
        return mapped(params)

    def saved(self, state: Any) -> Any:
        rest = state._replace(carry=())
        if self.local[0].platform == "cpu":  # Orbax copies arrays of an accelerator before it returns
            rest = _copy(rest)
        return rest._replace(carry=jax.tree.map(lambda x: self._joined(self._of_this_host(x)), state.carry))

    def _shardings(self, tree: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.specs(tree))

    @staticmethod
    def _part(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    @staticmethod
    def _gather(x: jax.Array, spec: P) -> jax.Array:
        axis = axis_of(spec)
        return x if axis is None else lax.all_gather(x, "model", axis=axis, tiled=True)

    @staticmethod
    def _scatter(x: jax.Array, spec: P) -> jax.Array:
        axis = axis_of(spec)
        return x if axis is None else lax.psum_scatter(x, "model", scatter_dimension=axis, tiled=True)

    def _of_all_hosts(self, x: jax.Array) -> jax.Array:
        """Returns the mapped arrays of all hosts as one global array, without a copy."""
        return self._same_memory(x, (len(self), *x.shape[1:]), self._by_rows)

    def _of_this_host(self, x: jax.Array) -> jax.Array:
        return self._same_memory(x, (len(self.local), *x.shape[1:]), self.sharding)

    def _same_memory(self, x, shape, sharding):
        on = {shard.device: shard.data for shard in x.addressable_shards}
        return jax.make_array_from_single_device_arrays(shape, sharding, [on[device] for device in self.local])


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jax.numpy.copy, tree)


def axis_of(spec: P) -> int | None:
    """Returns the axis that a `PartitionSpec` shards, or None."""
    return next((axis for axis, name in enumerate(spec) if name), None)


PARALLEL = ("pmap", "fsdp")


def devices_for(batch_size: int, accumulate: int, parallel: str, shards: int = 0) -> Devices:
    """Returns all devices of all hosts in the mode `parallel`, one of `PARALLEL`.

    Raises:
        UserError: the batch cannot be divided equally among devices and their `accumulate` micro-batches, or `shards`
            does not fit the mode or the number of devices.
    """
    # The devices of a host are consecutive, as a host reads consecutive examples.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    parts = len(devices) * accumulate
    if batch_size % parts:
        raise UserError(
            "config.data.batch_size",
            f"{batch_size} is not divisible by {len(devices)} devices times training.accumulate={accumulate}",
            f"use {-(-batch_size // parts) * parts}, or fewer devices",
        )
    if parallel == "pmap":
        if shards:
            action = "use config.training.parallel=fsdp, or give 0"
            raise UserError("config.training.shards", "is above 0, and pmap does not shard parameters", action)
        return Devices(devices)
    if shards and len(devices) % shards:
        action = f"give a divisor of {len(devices)}, or 0 for all of them"
        raise UserError("config.training.shards", f"{shards} does not divide {len(devices)} devices", action)
    return Fsdp(devices, shards)
