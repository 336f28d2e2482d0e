"""Cells: the pointwise part of a recurrence; the engine in `gated.py` does the matrix products.

All arrays are float32 and [batch, hidden] (`bd` throughout), but `gates`, which is [batch, gates * hidden].
"""

from typing import Any

import jax
import jax.numpy as jnp


class GatedCell:
    """`gates_t = x_t W + y_{t-1} R + b;  inner_t, y_t = pointwise(gates_t, inner_{t-1})`.

    A cell sets `gates`, the number of gate blocks, and `pointwise`. A cell that carries more than its output `y` also
    sets `initial_inner`. Nothing here may depend on time: masks and resets are the engine's.
    """

    gates: int

    @staticmethod
    def pointwise(gates: jax.Array, inner: Any) -> tuple[Any, jax.Array]:
        """Returns (inner, output); must be differentiable by JAX and act on each unit of the batch alone."""
        raise NotImplementedError

    @staticmethod
    def initial_inner(batch: int, hidden: int) -> Any:
        """What the cell carries beside its output: a pytree of [batch, hidden] arrays; here nothing."""
        return ()

    @classmethod
    def initial_bias(cls, hidden: int) -> jax.Array:
        """[gates * hidden]."""
        return jnp.zeros(cls.gates * hidden)


class Elman(GatedCell):
    """`y = tanh(gates)` (Elman, 1990)."""

    gates = 1

    @staticmethod
    def pointwise(gates, inner):
        return inner, jnp.tanh(gates)


class LSTM(GatedCell):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    Blocks of gates in order: input, forget, candidate, output. The forget gate's bias starts at 1 (Jozefowicz et al.,
    2015).
    """

    gates = 4

    @staticmethod
    def pointwise(gates, inner):
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * inner + jax.nn.sigmoid(i) * jnp.tanh(g)
        return cell, jax.nn.sigmoid(o) * jnp.tanh(cell)

    @staticmethod
    def initial_inner(batch, hidden):
        return jnp.zeros((batch, hidden))

    @classmethod
    def initial_bias(cls, hidden):
        return jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0)
