"""The gated engine runs a cell over time, with a gradient of its own. `reference.py` has the equations, line by line.

The author of a cell writes only `pointwise`. A driver (`drivers.py`) runs the steps and returns the gradients with
respect to the gates. From these, one product each after the loop computes the gradients of kernels and inputs, in this
file.
"""

import functools

import jax
import jax.numpy as jnp

from lm.recurrence.base import Cell, Execution, State, Weights, befores, dot
from lm.recurrence.gated import drivers
from lm.recurrence.gated.one_step import Marks
from lm.recurrence.gated.order import BatchMajor, own_columns


class GatedCell(Cell):
    """The base of gated cells, which define `gates`, the number of gate blocks, and `pointwise`.

    A cell with more state than its output also defines `initial_inner`. A cell with parameters of its own defines
    `own`. Nothing in a cell may depend on time, as masks and resets belong to the engine.
    """

    recurrent = True
    separate: int = 0  # number of last blocks that reach `pointwise` unsummed: first all `x W + b`, then all `y R`
    batch_major = False  # whether small layers are faster in `BatchMajor` on a CPU: `python -m benchmarks.orders`

    @staticmethod
    def pointwise(gates: tuple[jax.Array, ...], state: State, own: dict[str, jax.Array]) -> State:
        """Returns the state after a step, its output first.

        All arrays are float32 and broadcast to [units, batch]; there may be other axes before these. JAX must be able
        to differentiate the function, and it must treat each column of the batch separately.
        """
        raise NotImplementedError

    @classmethod
    def step(cls, how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        return step(cls, how, weights, inputs_bd, state)

    @classmethod
    def unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        starts = None if starts_tbz is None else cls.start(starts_tbz, how.heads)
        return unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts)


def step(cell: type[GatedCell], how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
    """Returns the state after one time step, computed batch-major (XLA-2)."""
    order = BatchMajor(cell, how, *state.output_bh.shape)
    prepared, before = order.prepared(weights), order.inward(state)
    gates = order.gates(order.project(prepared, inputs_bd), order.recur(prepared, before.output_bh))  # x W + b + y R
    blocks = order.blocks(gates, before.output_bh.shape)
    return order.outward(cell.pointwise(blocks, before, own_columns(weights, how.heads)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unroll(
    cell: type[GatedCell],
    how: Execution,
    weights: Weights,
    inputs_tbd: jax.Array,
    state: State,
    mask_tb: jax.Array,
    reset_tb: jax.Array,
    starts: State | None = None,
) -> tuple[jax.Array, State]:
    """Runs a cell over time.

    Args:
        cell: the cell.
        how: the way to run it.
        weights: the parameters of the layer.
        inputs_tbd: the inputs, time first.
        state: the state before the first step, or before the last one with `how.reverse`.
        mask_tb: bool; a step where it is False leaves the state and its output unchanged.
        reset_tb: bool; before a step where it is True the state is replaced.
        starts: [time, batch, hidden] arrays, the state that a reset sets; None means `zero_state` everywhere.

    Returns:
        outputs_tbh, float32, and the final state.
    """
    return _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts)[0]


def _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts):
    marks = Marks(mask_tb, reset_tb, starts)
    (final, outputs_tbh), kept = drivers.forward(cell, how, weights, inputs_tbd, state, marks)
    return (outputs_tbh, final), (weights, inputs_tbd, state.output_bh, outputs_tbh, kept, marks)


def _backward(cell, how, saved, gradients):
    weights, inputs_tbd, first_bh, outputs_tbh, kept, marks = saved
    start = 0 if marks.starts is None else marks.starts.output_bh
    before_tbh = jnp.where(marks.reset_tb[..., None], start, befores(first_bh, outputs_tbh, how.reverse))  # y_{t-1}
    found = drivers.backward(cell, how, weights, inputs_tbd, before_tbh, kept, marks, *gradients)
    (d_first, d_starts), d_own, d_gates_ng = found
    of_all_steps = BatchMajor(cell, how, len(d_gates_ng), before_tbh.shape[-1])
    d_projected_ng, d_recurrent_ng = of_all_steps.split(d_gates_ng)  # with respect to x_t W + b, and to y_{t-1} R
    inputs_nd = inputs_tbd.reshape(len(d_gates_ng), -1)
    d_weights = Weights(
        kernel=dot(inputs_nd.T, d_projected_ng, how.dtype),  # sum_t x_t^T d_projected_t
        bias=d_projected_ng.sum(0),  # sum_t d_projected_t
        recurrent_kernel=_recurrent_gradient(how, before_tbh, d_recurrent_ng),
        own=jax.tree.map(lambda d, x: d.reshape(x.shape), d_own, weights.own),
    )
    d_inputs_tbd = dot(d_projected_ng, weights.kernel.T, how.dtype).reshape(inputs_tbd.shape)  # d_projected_t W^T
    return d_weights, d_inputs_tbd, d_first, None, None, d_starts


unroll.defvjp(_forward, _backward)


def _recurrent_gradient(how, before_tbh, d_recurrent_ng):
    """Returns the sum over steps of `y_{t-1}^T d_recurrent_t`, one block per head if there are heads."""
    before_nh, steps = before_tbh.reshape(len(d_recurrent_ng), -1), len(d_recurrent_ng)
    if how.heads == 1:
        return dot(before_nh.T, d_recurrent_ng, how.dtype)
    before_kun = before_nh.T.reshape(how.heads, -1, steps)
    d_blocks_ngku = d_recurrent_ng.reshape(steps, -1, how.heads, before_kun.shape[1])
    d_recurrent_kng = d_blocks_ngku.transpose(2, 0, 1, 3).reshape(how.heads, steps, -1)
    return dot(before_kun, d_recurrent_kng, how.dtype)
