"""A recurrent layer: the parameters of one cell, and the two ways to run it."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.recurrence import gated
from lm.recurrence.cells import GatedCell
from lm.recurrence.gated import State


def _orthogonal_blocks(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[hidden, gates * hidden]: one orthogonal matrix for each gate."""
    hidden, gates = shape[0], shape[1] // shape[0]
    orthogonal = nn.initializers.orthogonal()
    return jnp.concatenate([orthogonal(k, (hidden, hidden)) for k in jax.random.split(key, gates)], axis=1)


class RecurrentLayer(nn.Module):
    """`step` and `unroll` with the same parameters: `kernel` [inputs, g], `recurrent_kernel` [h, g], `bias` [g]."""

    cell: type[GatedCell]
    inputs: int
    hidden: int
    dtype: str

    def setup(self):
        width = self.cell.gates * self.hidden
        self.kernel = self.param("kernel", nn.initializers.glorot_uniform(), (self.inputs, width))
        self.recurrent_kernel = self.param("recurrent_kernel", _orthogonal_blocks, (self.hidden, width))
        self.bias = self.param("bias", lambda key: self.cell.initial_bias(self.hidden))

    def step(self, inputs_bd: jax.Array, state: State) -> State:
        """One time step; the output is `State.output_bh`."""
        gates_bg = gated.dot(inputs_bd, self.kernel, self.dtype) + self.bias
        return gated.step(self.cell, gates_bg, self.recurrent_kernel, state, self.dtype)

    def unroll(
        self,
        inputs_tbd: jax.Array,
        state: State,
        mask_tb: jax.Array,
        reset_tb: jax.Array,
        reverse: bool = False,
        starts: State | None = None,
    ) -> tuple[jax.Array, State]:
        """All time steps; returns outputs_tbh and the final state. See `gated.unroll` for mask, reset and starts."""
        time, batch, width = inputs_tbd.shape
        gates_ng = gated.dot(inputs_tbd.reshape(-1, width), self.kernel, self.dtype) + self.bias
        gates_tbg = gates_ng.reshape(time, batch, -1)
        return gated.unroll(
            self.cell, gates_tbg, self.recurrent_kernel, state, mask_tb, reset_tb, reverse, self.dtype, starts
        )
