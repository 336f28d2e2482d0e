"""How the gated engine holds its arrays inside, and its products there.

*Of state* is an array of one number a unit and row of the batch, outside [..., b, h]. `*u` is [hidden], or of block-diagonal
heads [heads, hidden / heads]. *Flat* is an array of the gates of one step, a block of `hidden` after the other.
A mask, or anything with no units, is made to broadcast with what is of state.

On a CPU the input products are in the loop: a product of a step's width runs at full speed there, and its result is still in
the cache when it is added. Batches below `narrow` would read the kernel anew for little work, so they have one product before it.

`FeatureMajor`, units before batch: `R @ y` needs no transpose, and a gate is a block of whole rows. `BatchMajor` is how arrays lie outside.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Execution, Weights, dot, project


def cast(tree: Any, dtype: str) -> Any:
    """What products read again and again, in their type once."""
    return tree if dtype == "float32" else jax.tree.map(lambda x: x.astype(dtype), tree)


def units(how: Execution, hidden: int) -> tuple[int, ...]:
    """`*u`."""
    return (hidden,) if how.heads == 1 else (how.heads, hidden // how.heads)


class FeatureMajor:
    """Of state [..., *u, b], flat [g, b]."""

    axis = 0  # of a flat array's blocks
    narrow = 16

    @staticmethod
    def inward(tree: Any, how: Execution) -> Any:
        """From outside, [..., b, h], to what is of state."""

        def one(x):
            x = x.swapaxes(-1, -2)
            return x if how.heads == 1 else x.reshape(*x.shape[:-2], *units(how, x.shape[-2]), x.shape[-1])

        return jax.tree.map(one, tree)

    @staticmethod
    def outward(tree: Any, how: Execution) -> Any:
        """Back again."""

        def one(x):
            x = x if how.heads == 1 else x.reshape(*x.shape[:-3], -1, x.shape[-1])
            return x.swapaxes(-1, -2)

        return jax.tree.map(one, tree)

    @staticmethod
    def own(own: Any, batch: int) -> Any:
        """A cell's own parameters, of state without a batch, as the backward loop reads them."""
        return own

    @staticmethod
    def flags(flags_tb: jax.Array) -> jax.Array:
        """To broadcast with what is of state at a step."""
        return flags_tb

    @staticmethod
    def turn(inputs_tbx: jax.Array) -> jax.Array:
        """Inputs or gates from outside, as a step's are here."""
        return inputs_tbx.swapaxes(1, 2)

    @staticmethod
    def rows(flat_tgb: jax.Array) -> jax.Array:
        """Gates of all steps, [t * b, g]."""
        return flat_tgb.swapaxes(1, 2).reshape(-1, flat_tgb.shape[1])

    @staticmethod
    def flat_shape(width: int, batch: int) -> tuple[int, int]:
        return width, batch

    @staticmethod
    def blocks(flat: jax.Array, like: jax.Array) -> tuple[jax.Array, ...]:
        """Each gate's, of state."""
        return tuple(flat.reshape(-1, *like.shape))

    @staticmethod
    def blocks_at(t: jax.Array, flat_tgb: jax.Array, like: jax.Array) -> tuple[jax.Array, ...]:
        """`blocks` of step `t`, each read by itself: XLA on a CPU does not vectorise what takes two from one reading."""
        batch = like.shape[-1]
        rows = like.size // batch
        read = lambda at: lax.dynamic_slice(flat_tgb, (t, at, 0), (1, rows, batch))
        return tuple(read(at).reshape(like.shape) for at in range(0, flat_tgb.shape[1], rows))

    @staticmethod
    def flat(blocks: tuple[jax.Array, ...]) -> jax.Array:
        """And back."""
        return jnp.concatenate([each.reshape(-1, each.shape[-1]) for each in blocks])

    @staticmethod
    def turned(weights: Weights, how: Execution) -> Weights:
        """As products read them: made once, not at every step."""
        kernel, recurrent = cast((weights.kernel.T, weights.recurrent_kernel.mT), how.dtype)
        return weights._replace(kernel=kernel, bias=weights.bias[:, None], recurrent_kernel=recurrent)

    @staticmethod
    def project(turned: Weights, how: Execution, inputs_db: jax.Array) -> jax.Array:
        """`x W + b` of a step, flat."""
        return dot(turned.kernel, inputs_db, how.dtype) + turned.bias

    @staticmethod
    def recur(turned: Weights, how: Execution, output: jax.Array) -> jax.Array:
        """`y R` of a step, flat."""
        product = dot(turned.recurrent_kernel, output, how.dtype)
        if how.heads > 1:
            heads, units, batch = output.shape
            product = jnp.moveaxis(product.reshape(heads, -1, units, batch), 1, 0).reshape(-1, batch)
        return product

    @staticmethod
    def back_kernel(weights: Weights, how: Execution) -> jax.Array:
        return cast(weights.recurrent_kernel, how.dtype)

    @staticmethod
    def recur_back(kernel: jax.Array, how: Execution, d_flat: jax.Array, like: jax.Array) -> jax.Array:
        """The gradient of the output through `recur`."""
        if how.heads > 1:
            d_flat = jnp.moveaxis(d_flat.reshape(-1, *like.shape), 0, 1).reshape(how.heads, -1, like.shape[-1])
        return dot(kernel, d_flat, how.dtype)


class BatchMajor:
    """Of state [..., b, *u, 1], flat [b, g]. Nothing is moved on the way in or out. Of several heads it has a single step alone.

    A cell sees the batch before its units, where it may see heads, and each row as a batch of one.
    """

    axis = 1
    narrow = 2

    @staticmethod
    def inward(tree: Any, how: Execution) -> Any:
        return jax.tree.map(lambda x: x.reshape(*x.shape[:-1], *units(how, x.shape[-1]), 1), tree)

    @staticmethod
    def outward(tree: Any, how: Execution) -> Any:
        after = -2 if how.heads == 1 else -3
        return jax.tree.map(lambda x: x.reshape(*x.shape[:after], -1), tree)

    @staticmethod
    def own(own: Any, batch: int) -> Any:
        """Each row has its own: XLA on a CPU is bad at sums over the batch, which are so left for after the loop."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), own)

    @staticmethod
    def flags(flags_tb: jax.Array) -> jax.Array:
        return flags_tb[..., None, None]

    @staticmethod
    def turn(inputs_tbx: jax.Array) -> jax.Array:
        return inputs_tbx

    @staticmethod
    def rows(flat_tbg: jax.Array) -> jax.Array:
        return flat_tbg.reshape(-1, flat_tbg.shape[-1])

    @staticmethod
    def flat_shape(width: int, batch: int) -> tuple[int, int]:
        return batch, width

    @staticmethod
    def blocks(flat: jax.Array, like: jax.Array) -> tuple[jax.Array, ...]:
        count = flat.size // like.size
        return tuple(each.reshape(like.shape) for each in jnp.split(flat, count, axis=1))

    @staticmethod
    def blocks_at(t: jax.Array, flat_tbg: jax.Array, like: jax.Array) -> tuple[jax.Array, ...]:
        batch = len(like)
        width = like.size // batch
        read = lambda at: lax.dynamic_slice(flat_tbg, (t, 0, at), (1, batch, width))
        return tuple(read(at).reshape(like.shape) for at in range(0, flat_tbg.shape[2], width))

    @staticmethod
    def flat(blocks: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([each.reshape(len(each), -1) for each in blocks], axis=1)

    @staticmethod
    def turned(weights: Weights, how: Execution) -> Weights:
        kernel, recurrent = cast((weights.kernel, weights.recurrent_kernel), how.dtype)
        return weights._replace(kernel=kernel, recurrent_kernel=recurrent)

    @staticmethod
    def project(turned: Weights, how: Execution, inputs_bd: jax.Array) -> jax.Array:
        return project(turned, inputs_bd, how.dtype)

    @staticmethod
    def recur(turned: Weights, how: Execution, output: jax.Array) -> jax.Array:
        if how.heads == 1:
            return dot(output.reshape(len(output), -1), turned.recurrent_kernel, how.dtype)
        batch, heads, units, _ = output.shape
        output_kbi = output.reshape(batch, heads, units).swapaxes(0, 1)
        # XLA on a CPU turns the transpose of a product into a product that it has not got in bfloat16.
        product_kbg = lax.optimization_barrier(dot(output_kbi, turned.recurrent_kernel, how.dtype))
        return product_kbg.reshape(heads, batch, -1, units).transpose(1, 2, 0, 3).reshape(batch, -1)

    @staticmethod
    def back_kernel(weights: Weights, how: Execution) -> jax.Array:
        return cast(weights.recurrent_kernel.T, how.dtype)

    @staticmethod
    def recur_back(kernel: jax.Array, how: Execution, d_flat: jax.Array, like: jax.Array) -> jax.Array:
        return dot(d_flat, kernel, how.dtype).reshape(like.shape)
