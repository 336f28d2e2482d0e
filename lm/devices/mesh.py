"""How one step, written for one device, runs on many: `pmap`, replicated, and `fsdp`, the state cut by name.

In both the batch is cut into consecutive rows over all devices of all hosts, so that row `i` of a batch is the same
example, with the same dropout, whatever the mode and the number of devices.

*A mapped array* has a leading device axis, on each host that of its own devices: what is cut (batch, carried state) holds
consecutive rows. What is replicated is the same on every device, and has its own shape: with one axis more XLA on a CPU
copies all moments of the optimizer before it writes them.
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
    """`pmap`: every device of a run holds the whole state."""

    shards = 1  # parts that parameters are cut into

    def __init__(self, devices: list[jax.Device]):
        self.devices = devices
        self.local = [device for device in devices if device.process_index == jax.process_index()]
        mesh = Mesh(np.array(self.local), (AXIS,))
        self.sharding, self.everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())

    def __len__(self) -> int:
        return len(self.devices)

    def map(self, step: Callable, in_axes: Any, out_axes: Any, donate: tuple[int, ...] = ()) -> Callable:
        """`step`, written for one device, compiled for all; collectives name the axis `AXIS`.

        The axes say of each argument and result, or of parts of them, whether it is mapped (0) or replicated (None).
        """
        return jax.pmap(step, AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices, donate_argnums=donate)

    def replicate(self, tree: Any) -> Any:
        """A copy on each device."""
        return jax.device_put(jax.tree.map(np.asarray, tree), self.everywhere)

    def shard(self, tree: Any) -> Any:
        """This host's rows, of all that every host holds; the leading axis is a multiple of the number of devices."""

        def own(x):
            x = np.asarray(x).reshape(len(self), -1, *np.shape(x)[1:])
            first = self.devices.index(self.local[0])
            return x[first : first + len(self.local)]

        return jax.device_put(jax.tree.map(own, tree), self.sharding)

    def padded(self, count: int) -> int:
        """The next multiple of the number of devices."""
        return -(-count // len(self)) * len(self)

    @staticmethod
    def first(tree: Any) -> Any:
        """Host copy of what is replicated."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)

    @staticmethod
    def join(tree: Any) -> Any:
        """Host copy of what was cut, in one piece; of the devices of this host."""
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)

    # ---- training: `state` is a named tuple, of which `carry` is cut by rows and the rest placed as the mode says ----

    def put(self, tree: Any) -> Any:
        """A batch of which this host holds its share of the rows."""
        parts = lambda x: np.asarray(x).reshape(len(self.local), -1, *np.shape(x)[1:])
        return jax.device_put(jax.tree.map(parts, tree), self.sharding)

    def place(self, state: Any) -> Any:
        """A state that every host holds, on the devices."""
        return self.replicate(state._replace(carry=()))._replace(carry=self.shard(state.carry))

    def summed(self, gradient: Callable) -> Callable:
        """A gradient of one device's rows, summed over all devices.

        Args:
            gradient: (params, replicated, rows, number of the device) -> (gradients, sums, rows).

        Returns:
            The same of all, for use in a step that `compile` compiles: (params, replicated, rows) ->
            (gradients, sums, rows).
        """

        def over_all(params, replicated, rows):
            grads, sums, rows = gradient(params, replicated, rows, lax.axis_index(AXIS))
            if len(self) > 1:
                grads, sums = lax.psum((grads, sums), AXIS)  # one collective for all of them
            return grads, sums, rows

        return over_all

    def compile(self, step: Callable, kind: type, donate: bool = True) -> Callable:
        """(state, batch) -> (state, metrics), its gradients by `summed`; `kind` is the class of the state."""
        state = kind(**{name: 0 if name == "carry" else None for name in kind._fields})
        return self.map(step, (state, 0), (state, None), donate=(0,) if donate else ())

    def replicated(self, params: Any) -> Any:
        """A state's parameters, a copy on each device: for evaluation."""
        return params

    def saved(self, state: Any) -> Any:
        """What a checkpoint keeps of the state, in the shapes of one device.

        Every array has memory of its own: the next step uses the state's again.
        """
        whole = jax.tree.map(np.array, self.first(state._replace(carry=())))
        return whole._replace(carry=jax.tree.map(self._joined, state.carry))

    def _joined(self, rows: jax.Array) -> Any:
        """Mapped rows in one piece: on the host, or of many hosts an array that they hold together."""
        own = np.array(rows).reshape(-1, *rows.shape[2:])
        if len(self.local) == len(self):
            return own
        everywhere = NamedSharding(Mesh(np.array(self.devices), (AXIS,)), P(AXIS))
        return jax.make_array_from_process_local_data(everywhere, own)


# Which axis of a parameter (or of its moments in the optimizer) is cut: the first named one that divides equally. The
# first rule whose pattern is in the name holds. What no axis of divides is small, and every device has it.
RULES = (
    (r"(^|/)embedding$", (0, 1)),  # by words, else by width
    (r"", (-1, -2, -3)),  # by gates, features or, in the head, words; else by what a product sums over
)


class Fsdp(Devices):
    """`fsdp`: a mesh (data, model). Parameters, gradients and optimizer are cut over `model` and copied over `data`.

    A step gathers the parameters, takes the gradient of its rows, and scatters its sum, so that each device updates
    its part alone. The batch is cut over both axes. Arrays have no device axis here, but for batch and carried state.
    """

    AXES = ("data", "model")

    def __init__(self, devices: list[jax.Device], shards: int = 0):
        super().__init__(devices)
        self.shards = shards or len(devices)
        self.mesh = Mesh(np.array(devices).reshape(-1, self.shards), self.AXES)
        self._by_rows = NamedSharding(self.mesh, P(self.AXES))
        self._copies = jax.jit(self._gathered)

    def specs(self, tree: Any) -> Any:
        """The `PartitionSpec` of each array, by `RULES`."""

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
        if self.local[0].platform == "cpu":  # from an accelerator Orbax copies before it returns
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
        """A mapped array of each host as the one array of all, nothing copied."""
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
    """The axis that is cut, or None."""
    return next((axis for axis, name in enumerate(spec) if name), None)


PARALLEL = ("pmap", "fsdp")


def devices_for(batch_size: int, accumulate: int, parallel: str, shards: int = 0) -> Devices:
    """All devices of all hosts, used as `parallel` (one of `PARALLEL`) says.

    The batch must be cut in equal parts, and each part in `accumulate` parts.
    """
    # Those of a host side by side, as it reads consecutive rows.
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
            raise UserError("config.training.shards", "pmap cuts no parameters", action)
        return Devices(devices)
    if shards and len(devices) % shards:
        action = f"give a divisor of {len(devices)}, or 0 for all of them"
        raise UserError("config.training.shards", f"{shards} does not divide {len(devices)} devices", action)
    return Fsdp(devices, shards)
