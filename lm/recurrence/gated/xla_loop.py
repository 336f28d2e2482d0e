"""The driver that runs a gated layer as a loop of XLA (`lax.scan`), on any platform, in either memory order.

With plain automatic differentiation of the loop, every step would read and write the whole gradient of the recurrent
kernel. Here the backward loop returns the gradients with respect to the gates. `engine.py` then computes the gradients
of kernels and inputs from them, with one product each.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Cell, Execution, State, Weights, project, where
from lm.recurrence.gated import one_step
from lm.recurrence.gated.one_step import BackwardInputs, Marks
from lm.recurrence.gated.order import MemoryOrder, own_columns


class Constants(NamedTuple):
    """The values that every step reads and none changes."""

    order: MemoryOrder
    weights: Weights  # `MemoryOrder.prepared`
    own: Any
    zero: State | None = None  # the state that a reset sets if there are no starts
    backward_kernel: jax.Array | None = None
    started: bool = False


def forward(
    order_class: type[MemoryOrder],
    projects_before: bool,
    cell: type[Cell],
    how: Execution,
    weights: Weights,
    inputs_tbd: jax.Array,
    state: State,
    marks: Marks,
) -> tuple[tuple[State, jax.Array], tuple[Any, Any]]:
    """Runs all steps, see `drivers.Driver`. `projects_before`: one input product before the loop (XLA-3)."""
    order = order_class(cell, how, *state.output_bh.shape)
    first, zero, starts_t = order.inward((state, one_step.zero_like(cell, how.heads, state), marks.starts))
    constants = Constants(order, order.prepared(weights), own_columns(weights, how.heads), zero)
    inputs_t = order.turn(project(weights, inputs_tbd, how.dtype) if projects_before else inputs_tbd)
    gates_t = room(order, inputs_tbd, state.output_bh.dtype) if how.backward == "keep" else None
    over_time = jnp.arange(len(inputs_tbd)), inputs_t, order.flags(marks.mask_tb), order.flags(marks.reset_tb), starts_t
    step = functools.partial(_step, constants, projects_before)
    (final, gates_t), (outputs_t, inner_t) = lax.scan(step, (first, gates_t), over_time, reverse=how.reverse)
    return order.outward((final, outputs_t)), flattened(inner_t, gates_t)


def _step(constants, projects_before, carry, now):
    order, state, gates_t = constants.order, *carry
    t, inputs, mask, reset, start = now
    before = where(reset, constants.zero if start is None else start, state)  # state_{t-1}
    projected = inputs if projects_before else order.project(constants.weights, inputs)  # x_t W + b
    gates = order.gates(projected, order.recur(constants.weights, before.output_bh))  # + y_{t-1} R
    blocks = order.blocks(gates, before.output_bh.shape)
    state = where(mask, order.cell.pointwise(blocks, before, constants.own), before)  # state_t
    if gates_t is not None:
        gates_t = lax.dynamic_update_index_in_dim(gates_t, gates, t, 0)
    return (state, gates_t), (state.output_bh, before.inner)


def backward(
    order_class: type[MemoryOrder],
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
    order, (inner_t, gates_t) = order_class(cell, how, batch, hidden), kept
    before_t, d_outputs_t = order.inward((before_tbh, d_outputs_tbh))
    own = own_columns(weights, how.heads)
    constants = Constants(
        order,
        order.prepared(weights),
        order.own(own),
        backward_kernel=order.prepared_backward(weights),
        started=marks.starts is not None,
    )
    # The gradient with respect to the gates overwrites the gates (XLA-7).
    d_gates_t = room(order, d_outputs_tbh, d_outputs_tbh.dtype) if gates_t is None else gates_t
    d_gates_t = d_gates_t.reshape(time, *order.flat_shape(order.width))
    first, last = (0, time - 1) if how.reverse else (time - 1, 0)  # of this loop
    d_own = jax.tree.map(jnp.zeros_like, constants.own)
    begun = (order.inward(d_final), d_own), d_gates_t[first], d_gates_t
    over_time = (
        jnp.arange(time),
        None if how.backward == "keep" else order.turn(inputs_tbd),
        before_t,
        jax.tree.map(lambda x: x.reshape(before_t.shape), inner_t),
        d_outputs_t,
        order.flags(marks.mask_tb),
        order.flags(marks.reset_tb),
    )
    step = functools.partial(_backward_step, constants, time)
    ended, d_starts_t = lax.scan(step, begun, over_time, reverse=not how.reverse)
    (d_first, d_own), d_gates, d_gates_t = ended
    d_own = jax.tree.map(lambda d, x: d.reshape(-1, *x.shape).sum(0), d_own, own)
    d_gates_ng = order.turn(d_gates_t.at[last].set(d_gates)).reshape(time * batch, -1)
    return order.outward((d_first, d_starts_t)), d_own, d_gates_ng


def _backward_step(constants, time, carry, now):
    """Computes the gradient of one step. It reads the gates, or recomputes them if `inputs` are given."""
    order, (sums, d_gates, gates_t) = constants.order, carry
    t, inputs, output, inner, d_output, mask, reset = now
    # The gradient of the step before in this loop is written one step late (XLA-7).
    from_step = jnp.clip(t - (1 if order.how.reverse else -1), 0, time - 1)
    gates_t = lax.dynamic_update_index_in_dim(gates_t, d_gates, from_step, 0)
    if inputs is None:
        gates = order.blocks_at(t, gates_t, output.shape)
    else:
        projected, recurrent = order.project(constants.weights, inputs), order.recur(constants.weights, output)
        gates = order.blocks(order.gates(projected, recurrent), output.shape)
    given = BackwardInputs(gates, State(output, inner), d_output, mask, reset)
    through = functools.partial(_through_product, constants, output.shape)
    found = one_step.backward(order.cell, constants.own, sums, given, through, constants.started)
    sums, (d_gates, d_start) = found
    return (sums, d_gates, gates_t), d_start


def _through_product(constants, shape, d_blocks):
    """Returns the gradients with respect to all gates, as one flat array (XLA-8), and to `y_{t-1}`."""
    order = constants.order
    d_gates = order.flat(d_blocks)  # the second result is d_recurrent_t R^T
    return d_gates, order.recur_backward(constants.backward_kernel, order.split(d_gates)[1], shape)


def room(order: MemoryOrder, after_tbd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns memory for the flat arrays of all steps, allocated after `after_tbd`. It is never read before a write.

    XLA-9 says why it is not filled with zeros.
    """
    fill = (after_tbd[0, 0, 0] * 0).astype(dtype)
    return jnp.broadcast_to(fill, (len(after_tbd), *order.flat_shape(order.width)))


def flattened(inner_t: Any, gates_t: Any) -> tuple[Any, Any]:
    """Returns the values that the gradient reads as [t, numbers of a step]: the same shapes from every driver."""
    return jax.tree.map(lambda x: x.reshape(len(x), -1), (inner_t, gates_t))
