"""The driver that runs a gated layer as one fused Pallas kernel, on a GPU or a TPU.

The kernel has one program per head, on a GPU one per head and tile of the batch. Inside a program a state array is
[units, batch]. On an H100, an LSTM of 768 hidden units in heads of 32, 64 and 128 takes 0.39, 0.33 and 0.46 of the time
of XLA's loop over heads of 64.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm.recurrence.base import Cell, Execution, State, Weights, dot, project, where
from lm.recurrence.gated import on_chip, one_step
from lm.recurrence.gated.on_chip import Blocks
from lm.recurrence.gated.one_step import BackwardInputs, Marks
from lm.recurrence.gated.order import FeatureMajor, cast, own_columns
from lm.recurrence.gated.xla_loop import flattened

UNITS = {"float32": (16, 32, 64), "bfloat16": (16, 32, 64, 128)}  # hidden units of a head whose matrices fit on chip
TILE = 16  # examples of the batch per program on a GPU, the fewest that a product there can have
FLAG = jnp.int32  # the type of flags, which no other array here has


def forward(
    platform: str, cell: type[Cell], how: Execution, weights: Weights, inputs_tbd: jax.Array, state: State, marks: Marks
) -> tuple[tuple[State, jax.Array], tuple[Any, Any]]:
    """Runs all steps, see `drivers.Driver`. The gates of each step are written to memory, as all its outputs are."""
    order = FeatureMajor(cell, how, *state.output_bh.shape)
    first, zero, starts_t = order.inward((state, one_step.zero_like(cell, how.heads, state), marks.starts))
    recurrent = cast(_by_gate(cell, weights.recurrent_kernel), how.dtype).mT
    zero = jax.tree.map(lambda x: x[..., :1], zero)
    constants = recurrent, zero, own_columns(weights, how.heads)
    projected_t = order.turn(project(weights, inputs_tbd, how.dtype))
    inputs = projected_t.reshape(len(inputs_tbd), cell.gates, *first.output_bh.shape)
    over_time = inputs, _flags(marks.mask_tb), _flags(marks.reset_tb), starts_t
    step = functools.partial(_step, cell, how.dtype)
    found = _by_program(how.heads, platform, order.batch, step, constants, first, over_time, how.reverse)
    final, (outputs_t, inner_t, gates_t) = found
    return order.outward((final, outputs_t)), flattened(inner_t, gates_t)


def _step(cell, dtype, constants, state, now):
    recurrent, zero, own = constants
    projected, mask_1b, reset_1b, start = now
    before = where(reset_1b != 0, zero if start is None else start, state)  # state_{t-1}
    gates = one_step.gates_of(cell, projected, [dot(block, before.output_bh, dtype) for block in recurrent])  # + y R
    state = where(mask_1b != 0, cell.pointwise(gates, before, own), before)  # state_t
    return state, (state.output_bh, before.inner, Blocks(gates))


def backward(
    platform: str,
    cell: type[Cell],
    how: Execution,
    weights: Weights,
    inputs_tbd: jax.Array,
    before_tbh: jax.Array,
    kept: tuple[Any, Any],
    marks: Marks,
    d_outputs_tbh: jax.Array,
    d_final: State,
) -> tuple[tuple[State, State | None], dict[str, jax.Array], jax.Array]:
    """Computes the gradient of all steps, see `drivers.Driver`."""
    time, batch, hidden = before_tbh.shape
    order, (inner_t, gates_t) = FeatureMajor(cell, how, batch, hidden), kept
    before_t, d_outputs_t, d_final = order.inward((before_tbh, d_outputs_tbh, d_final))
    before = State(before_t, jax.tree.map(lambda x: x.reshape(before_t.shape), inner_t))
    own = own_columns(weights, how.heads)
    constants = cast(_by_gate(cell, weights.recurrent_kernel), how.dtype), own
    gates_t = gates_t.reshape(time, -1, *before_t.shape[1:])
    over_time = gates_t, before, d_outputs_t, _flags(marks.mask_tb), _flags(marks.reset_tb)
    step = functools.partial(_backward_step, cell, how.dtype, marks.starts is not None)
    begun = d_final, jax.tree.map(jnp.zeros_like, own)
    found = _by_program(how.heads, platform, batch, step, constants, begun, over_time, not how.reverse)
    (d_first, d_own), (d_gates_t, d_starts_t) = found
    d_gates_ng = order.turn(d_gates_t.reshape(time, order.width, batch)).reshape(time * batch, -1)
    return order.outward((d_first, d_starts_t)), d_own, d_gates_ng


def _backward_step(cell, dtype, started, constants, carry, now):
    recurrent, own = constants
    gates, before, d_output, mask_1b, reset_1b = now
    given = BackwardInputs(tuple(gates), before, d_output, mask_1b != 0, reset_1b != 0)
    through = functools.partial(_through_product, cell, dtype, recurrent)
    return one_step.backward(cell, own, carry, given, through, started)


def _through_product(cell, dtype, recurrent, d_gates):
    d_recurrent = d_gates[: cell.gates - cell.separate] + d_gates[cell.gates :]  # with respect to y_{t-1} R
    products = [dot(block, each, dtype) for block, each in zip(recurrent, d_recurrent, strict=True)]  # ... R^T
    return Blocks(d_gates), functools.reduce(jnp.add, products)


def _by_program(
    heads: int, platform: str, batch: int, step: Callable, constants: Any, carry: Any, xs: Any, reverse: bool
) -> tuple[Any, Any]:
    """Calls `on_chip.loop` for each head, and on a GPU for each tile of the batch."""
    loop = functools.partial(on_chip.loop, step, reverse=reverse, platform=platform)
    if platform == "gpu":
        loop = functools.partial(_by_tile, loop, batch)
    if heads == 1:
        return loop(constants, carry, xs)
    axes = jax.tree.map(lambda x: None if x.dtype == FLAG else -3, (constants, carry, xs))  # all heads share the flags
    return jax.vmap(loop, axes, -3)(constants, carry, xs)


def _by_tile(loop: Callable, batch: int, constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    """Calls `loop` for each tile. Arrays of the carry without a batch axis start at zero, and are summed over tiles."""
    has = lambda x: x.shape[-1] == batch
    cut = lambda x: x.reshape(*x.shape[:-1], -1, TILE) if has(x) else x
    join = lambda x: x.sum(-2) if x.shape[-1] == 1 else x.reshape(*x.shape[:-2], batch)
    axes = jax.tree.map(lambda x: -2 if has(x) else None, (carry, xs))
    return jax.tree.map(join, jax.vmap(loop, (None, *axes), -2)(constants, *jax.tree.map(cut, (carry, xs))))


def _by_gate(cell: type[Cell], kernel: jax.Array) -> jax.Array:
    """Returns a recurrent kernel by gates, [gates, u, u] or [gates, heads, u, u]."""
    *heads, units, _ = kernel.shape
    return jnp.moveaxis(kernel.reshape(*heads, units, cell.gates, units), -2, 0)


def _flags(flags_tb: jax.Array) -> jax.Array:
    """Returns flags as a kernel reads them, [t, 1, b]."""
    return flags_tb[:, None].astype(FLAG)
