"""Initializers that draw on the host: functions of a key and a shape, as Flax expects them.

NumPy draws in float64 and sums in a fixed order, so the parameters depend on the key alone, not on the platform, the
number of devices, the cores or the threads. Another type of CPU or another BLAS may round the last bits of float64
differently. Float32 does not have these bits, so two types of machines differ at most in one of a million numbers, by
its last bit.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
BLOCK = 32  # columns, rows and terms of a product: every BLAS computes such small products in one thread


def drawn(draw: Draw) -> nn.initializers.Initializer:
    """Returns the initializer that calls `draw` on the host, also from within a compiled program."""

    def initial(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype | None = None) -> jax.Array:
        shape, dtype = tuple(shape), jnp.dtype(dtype or jnp.result_type(float))

        def on_the_host(words):
            random = np.random.Generator(np.random.Philox(key=int.from_bytes(np.asarray(words).tobytes(), "little")))
            return draw(random, shape).astype(dtype)

        return jax.pure_callback(on_the_host, jax.ShapeDtypeStruct(shape, dtype), jax.random.key_data(key))

    return initial


def normal(deviation: float) -> nn.initializers.Initializer:
    """Returns the initializer of a normal distribution with mean 0."""
    return drawn(lambda random, shape: deviation * random.standard_normal(shape))


@drawn
def lecun_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns [..., inputs, width], normal with variance 1 / inputs, cut at two deviations (LeCun et al., 1998)."""
    numbers = random.standard_normal(shape)
    while (far := np.abs(numbers) > 2).any():
        numbers[far] = random.standard_normal(far.sum())
    return numbers / (0.87962566103423978 * shape[-2] ** 0.5)  # the deviation after truncation


@drawn
def orthogonal_blocks(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns [..., hidden, gates * hidden], an orthogonal matrix for each gate, and for each head if there are any."""
    *heads, hidden, width = shape
    each = [orthogonal(random, hidden) for _ in range(np.prod(heads, dtype=int) * (width // hidden))]
    return np.stack(each).reshape(*heads, -1, hidden, hidden).swapaxes(-3, -2).reshape(shape)


def orthogonal(random: np.random.Generator, size: int) -> np.ndarray:
    """Returns a uniformly distributed orthogonal matrix: a product of reflections with random normals (Stewart, 1980).

    A block of reflections is `I - V T V^T` (Schreiber and Van Loan, 1989). Blocks are applied from the last to the
    first.
    """
    padded = -(-size // BLOCK) * BLOCK
    normals = np.zeros((padded, padded))
    normals[:size, :size] = np.tril(random.standard_normal((size, size)))
    signs = np.where(np.diagonal(normals) < 0, -1.0, 1.0)
    normals[range(size), range(size)] += (signs * np.sqrt((normals * normals).sum(axis=0)))[:size]
    normals[:, :size] *= np.sqrt(2 / (normals * normals).sum(axis=0)[:size])  # so that a reflection is I - v v^T
    product = np.eye(padded)
    for first in reversed(range(0, padded, BLOCK)):
        v_tij = normals[first:, first : first + BLOCK].reshape(-1, BLOCK, BLOCK)
        tiles = product[first:, first:].reshape(len(v_tij), BLOCK, len(v_tij), BLOCK).swapaxes(1, 2)  # a view
        gram, t = sum(v.T @ v for v in v_tij), np.eye(BLOCK)  # V^T V, T
        for j in range(1, BLOCK):
            t[:j, j] = -(t[:j, :j] * gram[:j, j]).sum(axis=1)  # a column of T from the columns before it
        read_tij = t @ sum(v.T @ row_tij for v, row_tij in zip(v_tij, tiles, strict=True))  # T V^T Q
        for v, row_tij in zip(v_tij, tiles, strict=True):
            row_tij -= v @ read_tij  # Q - V T V^T Q
    return product[:size, :size] * -signs[:size]  # the signs make the distribution uniform
