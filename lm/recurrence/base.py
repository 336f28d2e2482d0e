"""The parts that all cells and engines share: the state, the weights of a layer, the way it is run, and products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BACKWARD = ("keep", "recompute", "segments")
DRIVERS = ("auto", "xla", "pallas")


class State(NamedTuple):
    """The state of one recurrent layer: float32 arrays with the batch first, for any type of the products."""

    output_bh: jax.Array  # y_t
    inner: Any  # the rest of the state, e.g. the cell c_t of an LSTM; () if there is none


class Weights(NamedTuple):
    """The parameters of one layer. `g` is `Cell.width`, and `r` the width of the recurrent product."""

    kernel: jax.Array  # W, [inputs, g]
    bias: jax.Array  # b, [g]
    recurrent_kernel: jax.Array | None  # R, [hidden, r]; with heads one block each, [heads, hidden / heads, r / heads]
    own: dict[str, jax.Array]  # the cell's own parameters, each [hidden]


class Execution(NamedTuple):
    """The way in which a layer is run over time.

    `backward` names the values that are kept for the gradient beside inputs and states (see `RecurrentLayer`). `driver`
    names the program that runs a gated layer that keeps its gates; `gated/drivers.py` decides. "auto" uses the fused
    kernel (`gated/pallas_kernel.py`) on a GPU if heads have few hidden units and the batch is a multiple of 16.
    "pallas" uses it on a TPU as well, and "xla" never. In all other cases XLA's loop (`gated/xla_loop.py`) runs the
    layer.
    """

    heads: int = 1
    dtype: str = "float32"  # type of the operands of products, float32 or bfloat16; sums are float32
    backward: str = "keep"
    reverse: bool = False  # from the last step to the first
    driver: str = "auto"


class Cell:
    """The interface of a cell, for layers and engines. A cell holds no numbers, so all methods are class methods.

    The engines define `step(how, weights, inputs_bd, state)` and
    `unroll(how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz)`.
    """

    gates: int  # number of blocks of the input product, each as wide as the state
    recurrent: bool  # whether there is a recurrent kernel

    @classmethod
    def width(cls, hidden: int, heads: int) -> int:
        """Returns the width of the input product."""
        return cls.gates * hidden

    @classmethod
    def initial_bias(cls, hidden: int, heads: int) -> jax.Array:
        """Returns the initial bias, [width]."""
        return jnp.zeros(cls.width(hidden, heads))

    @classmethod
    def own(cls, hidden: int) -> dict[str, Callable[[jax.Array], jax.Array]]:
        """Returns the initializers of the cell's own parameters: name -> function of a key that returns [hidden]."""
        return {}

    @classmethod
    def initial_inner(cls, batch: int, hidden: int) -> Any:
        """Returns the first `State.inner`, a pytree of [batch, hidden] arrays; () if the output is the whole state."""
        return ()

    @classmethod
    def zero_state(cls, batch: int, hidden: int, heads: int = 1) -> State:
        """Returns the state in which a layer starts, float32."""
        return State(jnp.zeros((batch, hidden)), cls.initial_inner(batch, hidden))

    @classmethod
    def start_blocks(cls) -> int:
        """Returns the number of vectors, each as wide as the state, that `start` reads."""
        return len(jax.tree.leaves(cls.zero_state(1, 1)))

    @classmethod
    def start(cls, vectors_z: jax.Array, heads: int = 1) -> State:
        """Returns the state for vectors in (-1, 1), [..., start_blocks * hidden]. Here the vectors are the state."""
        blocks = cls.start_blocks()
        structure = jax.tree.structure(cls.zero_state(1, 1))
        return jax.tree.unflatten(structure, jnp.split(vectors_z, blocks, axis=-1))


def where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """Returns `jnp.where` of trees of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def dot(left: jax.Array, right: jax.Array, dtype: str) -> jax.Array:
    """Returns a matrix product with operands in `dtype`. It accumulates in float32, or in float64 if an operand is."""
    accumulate = jnp.promote_types(jnp.promote_types(left.dtype, right.dtype), jnp.float32)
    dtype = accumulate if dtype == "float32" else dtype
    return jnp.matmul(left.astype(dtype), right.astype(dtype), preferred_element_type=accumulate)


def befores(first_bh: jax.Array, states_tbh: jax.Array, reverse: bool) -> jax.Array:
    """Returns the state before each step, without resets: `first_bh`, then the states after all steps but the last."""
    return jnp.concatenate((states_tbh[1:], first_bh[None]) if reverse else (first_bh[None], states_tbh[:-1]))


def project(weights: Weights, inputs_nd: jax.Array, dtype: str) -> jax.Array:
    """Returns `x W + b`, [..., g], for any leading axes, in one product."""
    width = inputs_nd.shape[-1]
    product = dot(inputs_nd.reshape(-1, width), weights.kernel, dtype)
    return (product + weights.bias).reshape(*inputs_nd.shape[:-1], -1)
