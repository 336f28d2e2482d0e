"""The gated recurrence and its gradient as a paper writes them. Every driver of the engine is tested against this file.

    gates_t = x_t W + y_{t-1} R + b          state_t = pointwise(gates_t, state_{t-1})          y_t = output of state_t

A masked step leaves the state unchanged. A reset replaces the state before the step by the step's start, or by zero.
With heads, R is block-diagonal. The last `separate` gates reach `pointwise` as two blocks, x W + b and y R, not as
their sum. The axes are t time, b batch, d inputs, g gates, k heads, u and v hidden units of a head. A state is [b, k,
u, 1], as `pointwise` has the hidden units on the axis before the last.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Cell, Execution, State, Weights, where


def by_head(tree: Any, heads: int) -> Any:
    """Returns the same arrays with [k, u, 1] in place of the last axis."""
    return jax.tree.map(lambda x: x.reshape(*x.shape[:-1], heads, -1, 1), tree)


def joined(tree: Any) -> Any:
    """Returns the arrays that `by_head` was given."""
    return jax.tree.map(lambda x: x.reshape(*x.shape[:-3], -1), tree)


def step(cell: type[Cell], weights: Weights, state: State, now: tuple) -> tuple[State, tuple]:
    """Returns the state after one step; and the output, the gates and the state before the step, for the gradient."""
    xw, mask, reset, start = now
    before = where(reset, start, state)  # state_{t-1}
    yr = jnp.einsum("bku,kugv->gbkv", before.output_bh[..., 0], weights.recurrent_kernel)[..., None]  # y_{t-1} R
    summed = cell.gates - cell.separate
    gates = (*(xw[:summed] + yr[:summed]), *xw[summed:], *yr[summed:])  # x_t W + b + y_{t-1} R
    state = where(mask, cell.pointwise(gates, before, weights.own), before)  # state_t
    return state, (state.output_bh, gates, before)


def step_backward(cell: type[Cell], weights: Weights, d_state: State, now: tuple) -> tuple[State, tuple]:
    """Returns the gradient with respect to the state before a step, and to everything else that the step read."""
    d_output, gates, before, mask, reset = now
    d_state = d_state._replace(output_bh=d_state.output_bh + d_output)  # the loss reads y_t, and so does step t+1
    zeros = jax.tree.map(jnp.zeros_like, d_state)
    _, pullback = jax.vjp(cell.pointwise, gates, before, weights.own)
    d_gates, d_before, d_own = pullback(where(mask, d_state, zeros))  # through pointwise
    summed = cell.gates - cell.separate
    d_xw = jnp.stack(d_gates[: cell.gates])  # with respect to x_t W + b
    d_yr = jnp.stack(d_gates[:summed] + d_gates[cell.gates :])  # with respect to y_{t-1} R
    through_r = jnp.einsum("gbkv,kugv->bku", d_yr[..., 0], weights.recurrent_kernel)[..., None]  # d_yr R^T
    d_before = d_before._replace(output_bh=d_before.output_bh + through_r)
    d_before = jax.tree.map(jnp.add, d_before, where(mask, zeros, d_state))  # a masked step passes all of it on
    return where(reset, zeros, d_before), (d_xw, d_yr, d_own, where(reset, d_before, zeros))  # a reset: to the start


def forward(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd, state: State, mask_tb, reset_tb, starts):
    """Returns (outputs_tbh, final state), and the values that `gradient` reads. The arguments are `engine.unroll`'s."""
    (time, batch, _), heads, hidden = inputs_tbd.shape, how.heads, state.output_bh.shape[-1]
    if starts is None:  # zero, at every step
        zero = jax.tree.map(lambda x, like: x.astype(like.dtype), cell.zero_state(batch, hidden, heads), state)
        starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (time, *x.shape)), zero)
    own, state, starts = by_head((weights.own, state, starts), heads)
    kernel_kugv = weights.recurrent_kernel.reshape(heads, hidden // heads, cell.gates, -1)
    shaped = weights._replace(recurrent_kernel=kernel_kugv, own=own)
    xw = (inputs_tbd @ weights.kernel + weights.bias).reshape(time, batch, cell.gates, hidden)  # x_t W + b
    marks = mask_tb[..., None, None, None], reset_tb[..., None, None, None]
    over_time = by_head(xw.swapaxes(1, 2), heads), *marks, starts
    one = functools.partial(step, cell, shaped)
    final, (outputs, gates, befores) = lax.scan(one, state, over_time, reverse=how.reverse)
    return (joined(outputs), joined(final)), (shaped, gates, befores, *marks)


def gradient(cell: type[Cell], how: Execution, weights: Weights, inputs_tbd, saved: tuple, d_outputs_tbh, d_final):
    """Returns the gradients with respect to weights, inputs, first state and starts (zero if a start was not read)."""
    shaped, gates, befores, *marks = saved
    over_time = by_head(d_outputs_tbh, how.heads), gates, befores, *marks
    back = functools.partial(step_backward, cell, shaped)
    d_first, steps = lax.scan(back, by_head(d_final, how.heads), over_time, reverse=not how.reverse)
    d_xw, d_yr, d_own, d_starts = steps
    d_xw_tbg = joined(d_xw).swapaxes(1, 2).reshape(*inputs_tbd.shape[:2], -1)
    d_recurrent = jnp.einsum("tbku,tgbkv->kugv", befores.output_bh[..., 0], d_yr[..., 0])  # sum_t y_{t-1}^T d_yr_t
    d_weights = Weights(
        kernel=jnp.einsum("tbd,tbg->dg", inputs_tbd, d_xw_tbg),  # sum_t x_t^T d_xw_t
        bias=d_xw_tbg.sum((0, 1)),  # sum_t d_xw_t
        recurrent_kernel=d_recurrent.reshape(weights.recurrent_kernel.shape),
        own=jax.tree.map(lambda d, x: d.sum(0).reshape(x.shape), d_own, weights.own),
    )
    return d_weights, d_xw_tbg @ weights.kernel.T, joined(d_first), joined(d_starts)  # d_x_t = d_xw_t W^T
