"""What every recurrent cell and both engines share: the state, a layer's weights, how it is run, and products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BACKWARD = ("keep", "recompute", "segments")
DRIVERS = ("auto", "xla", "pallas")


class State(NamedTuple):
    """What one recurrent layer carries: float32, leading axis batch, whatever the type of the products."""

    output_bh: jax.Array
    inner: Any


class Weights(NamedTuple):
    """Of one layer. `g` is `Cell.width`; `r` is as wide where there is a recurrent kernel."""

    kernel: jax.Array  # [inputs, g]
    bias: jax.Array  # [g]
    recurrent_kernel: jax.Array | None  # [hidden, r], or of block-diagonal heads [heads, hidden / heads, r / heads]
    own: dict[str, jax.Array]  # the cell's own parameters, each [hidden]


class Execution(NamedTuple):
    """How a layer is run over time.

    `backward` says what is kept for the gradient, beside inputs and states (see `RecurrentLayer`). `driver` says what runs a gated
    layer that keeps its gates; `gated/drivers.py` decides. With "auto" it is a Pallas kernel (`gated/pallas_kernel.py`) on a GPU,
    if heads have few units and the batch is a multiple of 16, with "pallas" on a TPU too, and with "xla" never. Everything
    else is XLA's loop (`gated/xla_loop.py`).
    """

    heads: int = 1
    dtype: str = "float32"  # of the products, float32 or bfloat16; they accumulate in float32
    backward: str = "keep"
    reverse: bool = False  # from the last step to the first
    driver: str = "auto"


class Cell:
    """What a layer asks of a cell, whichever engine runs it; all are class methods, for a cell holds no numbers.

    `step(how, weights, inputs_bd, state)` and `unroll(how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz)` are the
    engines'.
    """

    gates: int  # blocks, each as wide as the state, of the input product
    recurrent: bool  # whether there is a recurrent kernel

    @classmethod
    def width(cls, hidden: int, heads: int) -> int:
        """Of the input product."""
        return cls.gates * hidden

    @classmethod
    def initial_bias(cls, hidden: int, heads: int) -> jax.Array:
        """[width]."""
        return jnp.zeros(cls.width(hidden, heads))

    @classmethod
    def own(cls, hidden: int) -> dict[str, Callable[[jax.Array], jax.Array]]:
        """The cell's own parameters: name -> function of a key that gives the initial [hidden]."""
        return {}

    @classmethod
    def initial_inner(cls, batch: int, hidden: int) -> Any:
        """What the cell carries beside its output: a pytree of [batch, hidden] arrays; here nothing."""
        return ()

    @classmethod
    def zero_state(cls, batch: int, hidden: int, heads: int = 1) -> State:
        """What a layer starts from, float32."""
        return State(jnp.zeros((batch, hidden)), cls.initial_inner(batch, hidden))

    @classmethod
    def start_blocks(cls) -> int:
        """How many vectors as wide as the state `start` reads."""
        return len(jax.tree.leaves(cls.zero_state(1, 1)))

    @classmethod
    def start(cls, vectors_z: jax.Array, heads: int = 1) -> State:
        """The state that vectors in (-1, 1) stand for, [..., start_blocks * hidden]: here they are the state."""
        blocks = cls.start_blocks()
        structure = jax.tree.structure(cls.zero_state(1, 1))
        return jax.tree.unflatten(structure, jnp.split(vectors_z, blocks, axis=-1))


def where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """`jnp.where` of trees of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def dot(left: jax.Array, right: jax.Array, dtype: str) -> jax.Array:
    """A matrix product with operands in `dtype`, accumulated and returned in float32 (float64 stays)."""
    accumulate = jnp.promote_types(jnp.promote_types(left.dtype, right.dtype), jnp.float32)
    dtype = accumulate if dtype == "float32" else dtype
    return jnp.matmul(left.astype(dtype), right.astype(dtype), preferred_element_type=accumulate)


def befores(first_bh: jax.Array, states_tbh: jax.Array, reverse: bool) -> jax.Array:
    """What each step came from, resets aside, given what it went to: `first_bh`, then all but the last."""
    return jnp.concatenate((states_tbh[1:], first_bh[None]) if reverse else (first_bh[None], states_tbh[:-1]))


def project(weights: Weights, inputs_nd: jax.Array, dtype: str) -> jax.Array:
    """`x W + b`, [..., g], of any leading axes, in one product."""
    width = inputs_nd.shape[-1]
    product = dot(inputs_nd.reshape(-1, width), weights.kernel, dtype)
    return (product + weights.bias).reshape(*inputs_nd.shape[:-1], -1)
