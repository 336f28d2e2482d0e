"""The equations of one step, forward and backward, that all drivers of the engine share.

`reference.py` has the whole recurrence. Here, arrays may be in any memory order in which a cell's `pointwise` sees its units on
the axis before the last one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm.recurrence.base import Cell, State, where


class Marks(NamedTuple):
    """What a layer is told of every step, beside its input."""

    mask_tb: jax.Array  # bool; where False the state, output included, stays as it was
    reset_tb: jax.Array  # bool; where True the state is set anew before the step
    starts: State | None  # [time, batch, hidden] arrays, what it is set to; None is `zero_state` everywhere


class BackwardInputs(NamedTuple):
    """What a step of the gradient reads."""

    gates: tuple[jax.Array, ...]
    before: State  # the state that the step came from, after resets
    d_output: jax.Array  # the gradient of the loss by y_t, without what later steps add
    mask: jax.Array
    reset: jax.Array


def zero_like(cell: type[Cell], heads: int, state: State) -> State:
    """`zero_state` in the shape and the types of another state."""
    zero = cell.zero_state(*state.output_bh.shape, heads)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), zero, state)


def gates_of(cell: type[Cell], projected: Sequence[jax.Array], recurrent: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """What `pointwise` reads, given the blocks of `x W + b` and of `y R`: their sums, but for the `separate` last blocks."""
    summed = cell.gates - cell.separate
    sums = tuple(map(jnp.add, projected[:summed], recurrent[:summed]))
    return (*sums, *projected[summed:], *recurrent[summed:])


def backward(
    cell: type[Cell],
    own: Any,
    carry: tuple[State, Any],
    given: BackwardInputs,
    through_product: Callable[[tuple[jax.Array, ...]], tuple[Any, jax.Array]],
    started: bool,
) -> tuple[tuple[State, Any], tuple[Any, State | None]]:
    """The gradient of one step.

    Args:
        cell: a gated cell.
        own: its own parameters.
        carry: the gradients by the state after the step, and by `own` as summed so far.
        given: what the step reads.
        through_product: returns, from the gradients by the gates, what is kept of them, and the gradient by `y_{t-1}`.
        started: whether resets set a state that has a gradient.

    Returns:
        the carry of the step before; what is kept of the gates' gradients, and the gradient by the start.
    """
    d_state, d_own = carry
    d_state = d_state._replace(output_bh=d_state.output_bh + given.d_output)
    zeros = jax.tree.map(jnp.zeros_like, d_state)
    d_new, d_unchanged = where(given.mask, d_state, zeros), where(given.mask, zeros, d_state)
    # Computing `pointwise` again is cheaper than reading from memory what its gradient needs.
    _, pullback = jax.vjp(cell.pointwise, given.gates, given.before, own)
    d_gates, d_before, d_own_now = pullback(d_new)
    kept, d_output_before = through_product(d_gates)
    d_before = jax.tree.map(jnp.add, d_before, d_unchanged)
    d_before = d_before._replace(output_bh=d_before.output_bh + d_output_before)
    d_start = where(given.reset, d_before, zeros) if started else None
    return (where(given.reset, zeros, d_before), jax.tree.map(jnp.add, d_own, d_own_now)), (kept, d_start)
