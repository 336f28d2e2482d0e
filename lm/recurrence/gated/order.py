"""The two memory orders in which XLA's loop holds its arrays, and the matrix products in each.

A state array has one number for each hidden unit and each example of the batch. A flat array has all gates of one step,
in blocks of `hidden` numbers. `*u` means [hidden], or [heads, hidden / heads] with block-diagonal heads::

    order         state array      flat array  use
    outside       [..., b, h]      [b, g]      the interface of the engine
    FeatureMajor  [..., *u, b]     [g, b]      loops: R y needs no transpose, and a gate is a block of whole rows
    BatchMajor    [..., b, *u, 1]  [b, g]      small layers on a CPU (XLA-1), single steps (XLA-2): no transposes

The table shows how much the second order saves: the time of a whole training step on 2 cores without it, relative to
the time with it. The models are 2-layer language models with a vocabulary of 1,000 and windows of 64 tokens. The second
column has one simulated device per core. Reproduce it with `python -m benchmarks.orders`::

    model                             one device  one device per core
    LSTM, 128 hidden units, batch 32        1.16                 1.09
    LSTM, 256 hidden units, batch 32        1.07                 1.08
    LSTM, 256 hidden units, batch 16        1.04                 1.00
    GRU, 256 hidden units, batch 32         1.06                 1.10
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Cell, Execution, Weights, dot, project


def cast(tree: Any, dtype: str) -> Any:
    """Returns the arrays in the type of the products, so that an array that many products read is cast only once."""
    return tree if dtype == "float32" else jax.tree.map(lambda x: x.astype(dtype), tree)


def by_head(x: jax.Array, heads: int, axis: int) -> jax.Array:
    """Returns the array with its axis of hidden units, counted from the end, split into the axes of `*u`."""
    if heads == 1:
        return x
    axis += x.ndim
    return x.reshape(*x.shape[:axis], heads, -1, *x.shape[axis + 1 :])


def own_columns(weights: Weights, heads: int) -> dict[str, jax.Array]:
    """Returns the cell's own parameters as `[*u, 1]`, which broadcast with state arrays in either order."""
    return jax.tree.map(lambda x: by_head(x[:, None], heads, -2), weights.own)


@dataclasses.dataclass(frozen=True)
class MemoryOrder:
    """The base of the two orders, for a layer of one cell, one way to run it, and arrays of one size."""

    cell: type[Cell]
    how: Execution
    batch: int
    hidden: int

    axis = 0  # of a flat array's blocks
    narrow = 0  # smaller batches have one input product before the loop (XLA-3)

    @property
    def width(self) -> int:
        """The width of a flat array."""
        return (self.cell.gates + self.cell.separate) * self.hidden

    def flat_shape(self, width: int) -> tuple[int, int]:
        """Returns the shape of `width` gates of one step."""
        return (self.batch, width) if self.axis else (width, self.batch)

    def blocks_at(self, t: jax.Array, flat_t: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
        """Returns the `blocks` of step `t`, each read separately (XLA-4)."""
        size = (1, *self.flat_shape(self.hidden))
        at = lambda first: (t, 0, first) if self.axis else (t, first, 0)
        read = lambda first: lax.dynamic_slice(flat_t, at(first), size).reshape(shape)
        return tuple(read(first) for first in range(0, self.width, self.hidden))

    def flat(self, blocks: tuple[jax.Array, ...]) -> jax.Array:
        """Returns the flat array that `blocks` was given."""
        return jnp.concatenate([each.reshape(self.flat_shape(self.hidden)) for each in blocks], self.axis)

    def gates(self, projected: jax.Array, recurrent: jax.Array) -> jax.Array:
        """Returns the gates for `pointwise`, flat: the sum of `x W + b` and `y R`, with the separate blocks apart."""
        if not self.cell.separate:
            return projected + recurrent
        at = [(self.cell.gates - self.cell.separate) * self.hidden]
        (x, x_apart), (y, y_apart) = (jnp.split(each, at, self.axis) for each in (projected, recurrent))
        return jnp.concatenate([x + y, x_apart, y_apart], self.axis)

    def split(self, d_flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the gradients with respect to `x W + b` and to `y R`, from the gradient with respect to `gates`."""
        if not self.cell.separate:
            return d_flat, d_flat
        at = [(self.cell.gates - self.cell.separate) * self.hidden, self.cell.gates * self.hidden]
        summed, x_apart, y_apart = jnp.split(d_flat, at, self.axis)
        return tuple(jnp.concatenate([summed, apart], self.axis) for apart in (x_apart, y_apart))


class FeatureMajor(MemoryOrder):
    """The order with the batch last: state arrays `[..., *u, b]`, flat arrays [g, b]."""

    axis = 0
    narrow = 16

    def inward(self, tree: Any) -> Any:
        """Returns state arrays, from [..., b, h]."""
        return jax.tree.map(lambda x: by_head(x.swapaxes(-1, -2), self.how.heads, -2), tree)

    def outward(self, tree: Any) -> Any:
        """Returns [..., b, h], from state arrays."""
        join = lambda x: x if self.how.heads == 1 else x.reshape(*x.shape[:-3], -1, x.shape[-1])
        return jax.tree.map(lambda x: join(x).swapaxes(-1, -2), tree)

    def turn(self, flat_t: jax.Array) -> jax.Array:
        """Converts inputs or gates of all steps from [t, b, g] to flat arrays, or back."""
        return flat_t.swapaxes(1, 2)

    def flags(self, flags_tb: jax.Array) -> jax.Array:
        """Returns flags that broadcast with the state arrays of a step."""
        return flags_tb

    def blocks(self, flat: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
        """Returns the gates of a flat array, as state arrays."""
        return tuple(flat.reshape(-1, *shape))

    def own(self, own: Any) -> Any:
        """Returns the cell's own parameters (`own_columns`) in the form in which the gradient sums over steps."""
        return own

    def prepared(self, weights: Weights) -> Weights:
        """Returns the weights as `project` and `recur` read them, transposed and cast once for all steps."""
        kernel, recurrent = cast((weights.kernel.T, weights.recurrent_kernel.mT), self.how.dtype)
        return weights._replace(kernel=kernel, bias=weights.bias[:, None], recurrent_kernel=recurrent)

    def project(self, prepared: Weights, inputs_db: jax.Array) -> jax.Array:
        """Returns `x W + b` of a step, flat."""
        return dot(prepared.kernel, inputs_db, self.how.dtype) + prepared.bias

    def recur(self, prepared: Weights, output: jax.Array) -> jax.Array:
        """Returns `y R` of a step, flat."""
        product = dot(prepared.recurrent_kernel, output, self.how.dtype)
        if self.how.heads > 1:
            heads, units, batch = output.shape
            product = jnp.moveaxis(product.reshape(heads, -1, units, batch), 1, 0).reshape(-1, batch)
        return product

    def prepared_backward(self, weights: Weights) -> jax.Array:
        """Returns the recurrent kernel as `recur_backward` reads it."""
        return cast(weights.recurrent_kernel, self.how.dtype)

    def recur_backward(self, kernel: jax.Array, d_flat: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Returns `d R^T`, the gradient with respect to `y`, from d, the gradient with respect to `y R`."""
        if self.how.heads > 1:
            d_flat = jnp.moveaxis(d_flat.reshape(-1, *shape), 0, 1).reshape(self.how.heads, -1, self.batch)
        return dot(kernel, d_flat, self.how.dtype)


class BatchMajor(MemoryOrder):
    """The order with the batch first: state arrays `[..., b, *u, 1]`, flat arrays [b, g].

    It serves loops with one head, and single steps with any number of heads. A cell treats each example as a batch of
    one.
    """

    axis = 1
    narrow = 2

    def inward(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: by_head(x[..., None], self.how.heads, -2), tree)

    def outward(self, tree: Any) -> Any:
        after = -2 if self.how.heads == 1 else -3
        return jax.tree.map(lambda x: x.reshape(*x.shape[:after], -1), tree)

    def turn(self, flat_t: jax.Array) -> jax.Array:
        return flat_t

    def flags(self, flags_tb: jax.Array) -> jax.Array:
        return flags_tb[..., None, None]

    def blocks(self, flat: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
        return tuple(each.reshape(shape) for each in jnp.split(flat, self.width // self.hidden, axis=1))

    def own(self, own: Any) -> Any:
        # Each example of the batch has its own copy; their gradients are summed after the loop (XLA-5).
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.batch, *x.shape)), own)

    def prepared(self, weights: Weights) -> Weights:
        kernel, recurrent = cast((weights.kernel, weights.recurrent_kernel), self.how.dtype)
        return weights._replace(kernel=kernel, recurrent_kernel=recurrent)

    def project(self, prepared: Weights, inputs_bd: jax.Array) -> jax.Array:
        return project(prepared, inputs_bd, self.how.dtype)

    def recur(self, prepared: Weights, output: jax.Array) -> jax.Array:
        if self.how.heads == 1:
            return dot(output.reshape(self.batch, -1), prepared.recurrent_kernel, self.how.dtype)
        _, heads, units, _ = output.shape
        output_kbi = output.reshape(self.batch, heads, units).swapaxes(0, 1)
        product_kbg = lax.optimization_barrier(dot(output_kbi, prepared.recurrent_kernel, self.how.dtype))  # XLA-6
        return product_kbg.reshape(heads, self.batch, -1, units).transpose(1, 2, 0, 3).reshape(self.batch, -1)

    def prepared_backward(self, weights: Weights) -> jax.Array:
        return cast(weights.recurrent_kernel.T, self.how.dtype)

    def recur_backward(self, kernel: jax.Array, d_flat: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return dot(d_flat, kernel, self.how.dtype).reshape(shape)
