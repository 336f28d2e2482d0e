"""The gated engine: runs a cell over time, with a gradient of its own.

Time comes first here (`tbg`), so that a step reads one contiguous block. The input products `x W + b` are the
caller's: one product over all time steps. Under plain autodiff of `lax.scan` every step would add to the gradient of
the recurrent kernel, reading and writing it each time; here the backward scan takes the vector-Jacobian product of the
pointwise part alone and emits the gradient of the gates, and the kernel's gradient is one product after the scan.
Kept for the backward pass, per time step: the gates, the output and the cell's inner state.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class State(NamedTuple):
    """What one recurrent layer carries: float32, leading axis batch, whatever the type of the products."""

    output_bh: jax.Array
    inner: Any


def zero_state(cell, batch: int, hidden: int) -> State:
    """What a layer starts from, float32: no output yet, and what the cell says of the rest."""
    return State(jnp.zeros((batch, hidden)), cell.initial_inner(batch, hidden))


def dot(left: jax.Array, right: jax.Array, dtype: str) -> jax.Array:
    """A matrix product with operands in `dtype`, accumulated and returned in float32 (float64 stays)."""
    accumulate = jnp.promote_types(left.dtype, jnp.float32)
    dtype = accumulate if dtype == "float32" else dtype
    return jnp.dot(left.astype(dtype), right.astype(dtype), preferred_element_type=accumulate)


def step(cell, gates_bg: jax.Array, recurrent_hg: jax.Array, state: State, dtype: str) -> State:
    """One time step. `gates_bg` holds `x W + b`."""
    gates_bg = gates_bg + dot(state.output_bh, recurrent_hg, dtype)
    inner, output_bh = cell.pointwise(gates_bg, state.inner)
    return State(output_bh, inner)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6, 7))
def unroll(
    cell,
    gates_tbg: jax.Array,
    recurrent_hg: jax.Array,
    state: State,
    mask_tb: jax.Array,
    reset_tb: jax.Array,
    reverse: bool,
    dtype: str,
    starts: State | None = None,
) -> tuple[jax.Array, State]:
    """Runs `cell` over time.

    Args:
        cell: a `GatedCell`.
        gates_tbg: `x W + b` of every step.
        recurrent_hg: the recurrent kernel `R`.
        state: what the first step (the last one, if `reverse`) starts from.
        mask_tb: bool; where False the state, output included, stays as it was.
        reset_tb: bool; where True the state is set anew before the step.
        reverse: whether to run from the last step to the first.
        dtype: type of the products, float32 or bfloat16.
        starts: [time, batch, hidden] arrays, the state taken where `reset_tb` is True; None is `zero_state` everywhere.

    Returns:
        outputs_tbh, float32, and the final state.
    """
    return _forward(cell, gates_tbg, recurrent_hg, state, mask_tb, reset_tb, reverse, dtype, starts)[0]


def _forward(cell, gates_tbg, recurrent_hg, state, mask_tb, reset_tb, reverse, dtype, starts):
    zero = _fresh(cell, state)

    def body(state, now):
        gates_bg, mask_b, reset_b, fresh = now
        state = _where(reset_b, zero if fresh is None else fresh, state)
        gates_bg = gates_bg + dot(state.output_bh, recurrent_hg, dtype)
        inner, output_bh = cell.pointwise(gates_bg, state.inner)
        state = _where(mask_b, State(output_bh, inner), state)
        return state, (state, gates_bg)

    final, (states, gates_tbg) = lax.scan(body, state, (gates_tbg, mask_tb, reset_tb, starts), reverse=reverse)
    saved = (gates_tbg, recurrent_hg, state, states, mask_tb, reset_tb, starts)
    return (states.output_bh, final), saved


def _backward(cell, reverse, dtype, saved, gradients):
    gates_tbg, recurrent_hg, first, states, mask_tb, reset_tb, starts = saved
    d_outputs_tbh, d_final = gradients

    def before(first, states, fresh):  # the state that each step started from, resets applied
        ends = (states[1:], first[None]) if reverse else (first[None], states[:-1])
        shifted = jnp.concatenate(ends)
        return jnp.where(reset_tb[..., None], fresh, shifted)

    previous = jax.tree.map(before, first, states, _fresh(cell, first) if starts is None else starts)
    transposed_gh = recurrent_hg.T

    def body(d_state, now):
        gates_bg, inner, d_output_bh, mask_b, reset_b = now
        d_state = State(d_state.output_bh + d_output_bh, d_state.inner)
        zeros = jax.tree.map(jnp.zeros_like, d_state)
        d_new, d_kept = _where(mask_b, d_state, zeros), _where(mask_b, zeros, d_state)
        # Recomputing the pointwise part here is cheaper than reading what its gradient needs from memory.
        _, pullback = jax.vjp(cell.pointwise, gates_bg, inner)
        d_gates_bg, d_inner = pullback((d_new.inner, d_new.output_bh))
        d_previous = State(dot(d_gates_bg, transposed_gh, dtype), d_inner)
        d_previous = jax.tree.map(jnp.add, d_previous, d_kept)
        d_start = None if starts is None else _where(reset_b, d_previous, zeros)
        return _where(reset_b, zeros, d_previous), (d_gates_bg, d_start)

    now = (gates_tbg, previous.inner, d_outputs_tbh, mask_tb, reset_tb)
    d_first, (d_gates_tbg, d_starts) = lax.scan(body, d_final, now, reverse=not reverse)
    hidden, gates = recurrent_hg.shape
    d_recurrent_hg = dot(previous.output_bh.reshape(-1, hidden).T, d_gates_tbg.reshape(-1, gates), dtype)
    return d_gates_tbg, d_recurrent_hg, d_first, None, None, d_starts


unroll.defvjp(_forward, _backward)


def _fresh(cell, like: State) -> State:
    """`zero_state` in the shape and type of another state."""
    zero = zero_state(cell, *like.output_bh.shape)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), zero, like)


def _where(condition_b, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition_b[:, None], a, b), if_true, if_false)
