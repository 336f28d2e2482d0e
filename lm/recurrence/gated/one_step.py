"""The equations of one step, forward and backward, that all drivers of the engine share.

`reference.py` has the whole recurrence. Here arrays may be in any memory order, as long as a cell's `pointwise` has the
hidden units on the axis before the last.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm.recurrence.base import Cell, State, where


class Marks(NamedTuple):
    """The marks of every step: they say where there is no token, and where a text starts."""

    mask_tb: jax.Array  # bool; a step where it is False leaves the state and its output unchanged
    reset_tb: jax.Array  # bool; before a step where it is True the state is replaced
    starts: State | None  # [time, batch, hidden] arrays, the state that a reset sets; None means `zero_state`


class BackwardInputs(NamedTuple):
    """The values that one step of the gradient reads."""

    gates: tuple[jax.Array, ...]
    before: State  # state_{t-1}, after resets
    d_output: jax.Array  # the gradient of the loss with respect to y_t, without the part of later steps
    mask: jax.Array
    reset: jax.Array


def zero_like(cell: type[Cell], heads: int, state: State) -> State:
    """Returns `zero_state` in the shape and the types of another state."""
    zero = cell.zero_state(*state.output_bh.shape, heads)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), zero, state)


def gates_of(cell: type[Cell], projected: Sequence[jax.Array], recurrent: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns the gates for `pointwise`: sums of the blocks of `x W + b` and `y R`, and the separate last blocks."""
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
    """Computes the gradient of one step.

    Args:
        cell: a gated cell.
        own: the cell's own parameters.
        carry: the gradients with respect to the state after the step, and to `own`, summed over later steps.
        given: the values that the step reads.
        through_product: maps the gradients with respect to the gates to the part of them that is kept, and to the
            gradient with respect to `y_{t-1}`.
        started: whether resets set a state that has a gradient.

    Returns:
        The carry for the step before; the part of the gates' gradients that is kept, and the gradient with respect to
        the start.
    """
    d_state, d_own = carry
    d_state = d_state._replace(output_bh=d_state.output_bh + given.d_output)  # the loss and step t+1 both read y_t
    zeros = jax.tree.map(jnp.zeros_like, d_state)
    d_new, d_unchanged = where(given.mask, d_state, zeros), where(given.mask, zeros, d_state)  # computed, or passed on
    # Recomputing `pointwise` is cheaper than reading its intermediate values from memory.
    _, pullback = jax.vjp(cell.pointwise, given.gates, given.before, own)
    d_gates, d_before, d_own_now = pullback(d_new)  # through pointwise
    kept, d_output_before = through_product(d_gates)  # d_recurrent_t R^T
    d_before = jax.tree.map(jnp.add, d_before, d_unchanged)  # a masked step passes all of it on
    d_before = d_before._replace(output_bh=d_before.output_bh + d_output_before)
    d_start = where(given.reset, d_before, zeros) if started else None  # a reset: to the start, not to state_{t-1}
    return (where(given.reset, zeros, d_before), jax.tree.map(jnp.add, d_own, d_own_now)), (kept, d_start)
