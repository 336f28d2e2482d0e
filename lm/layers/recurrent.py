"""A recurrent layer: the parameters of one cell, and the two ways to run it."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from lm.recurrence import initial
from lm.recurrence.base import Cell, Execution, State, Weights

LORA = ("_lora_a", "_lora_b")  # endings of the names of a kernel's adapters


def adapted(kernel: jax.Array, a: jax.Array, b: jax.Array, alpha: float) -> jax.Array:
    """Returns `kernel + alpha / rank * a @ b` (Hu et al., 2022, "LoRA"), for each kernel of a stack."""
    return kernel + alpha / a.shape[-1] * (a @ b)


def adaptable(module: nn.Module, name: str, kernel: jax.Array, rank: int, alpha: float) -> jax.Array:
    """Returns the kernel, [..., inputs, width], adapted by two parameters of the module if the rank is above 0.

    They are called NAME_lora_a and NAME_lora_b. The second starts at zero, so the kernel is unchanged at first.
    """
    if not rank:
        return kernel
    *stack, inputs, width = kernel.shape
    gaussian = initial.normal(inputs**-0.5)
    a = module.param(name + LORA[0], gaussian, (*stack, inputs, rank))
    b = module.param(name + LORA[1], nn.initializers.zeros, (*stack, rank, width))
    return adapted(kernel, a, b, alpha)


class RecurrentLayer(nn.Module):
    """A recurrent layer: `step` and `unroll` with the same parameters.

    The parameters are `kernel` [inputs, g], `bias` [g] and the cell's own, [h] each. Gated cells also have
    `recurrent_kernel`: [h, g], or [heads, h / heads, g / heads] with heads. With a `lora_rank` above 0 both kernels are
    `adaptable`.

    `backward` names the values that are kept for the gradient beside inputs, outputs and states, all of them [t, b, h]:

    - "keep": also the gates, [t, b, g]. It is the fastest.
    - "recompute": nothing more. The gates are recomputed, one step at a time.
    - "segments": only the state after every sqrt(t)-th step. The segment from there is run again.

    `driver` names the program that runs a gated cell over time on an accelerator (see `Execution`).
    """

    cell: type[Cell]
    inputs: int
    hidden: int
    heads: int = 1
    dtype: str = "float32"
    backward: str = "keep"
    driver: str = "auto"
    lora_rank: int = 0
    lora_alpha: float = 1.0

    def setup(self):
        cell, hidden, heads = self.cell, self.hidden, self.heads
        width = cell.width(hidden, heads)
        # Scaled by the inputs alone: Glorot's rule also counts the outputs of all gates, so inputs would have little
        # effect.
        self.kernel = self.param("kernel", initial.lecun_normal, (self.inputs, width))
        self.bias = self.param("bias", lambda key: cell.initial_bias(hidden, heads))
        self.recurrent_kernel = None
        if cell.recurrent:
            shape = (hidden, width) if heads == 1 else (heads, hidden // heads, width // heads)
            self.recurrent_kernel = self.param("recurrent_kernel", initial.orthogonal_blocks, shape)
        lora = self.lora_rank, self.lora_alpha
        self.adapted_kernel = adaptable(self, "kernel", self.kernel, *lora)
        self.adapted_recurrent_kernel = None
        if cell.recurrent:
            self.adapted_recurrent_kernel = adaptable(self, "recurrent_kernel", self.recurrent_kernel, *lora)
        self.own = {name: self.param(name, initial) for name, initial in cell.own(hidden).items()}

    def step(self, inputs_bd: jax.Array, state: State) -> State:
        """Returns the state after one time step; the output is `State.output_bh`."""
        return self.cell.step(Execution(self.heads, self.dtype), self._weights(), inputs_bd, state)

    def unroll(
        self,
        inputs_tbd: jax.Array,
        state: State,
        mask_tb: jax.Array,
        reset_tb: jax.Array,
        reverse: bool = False,
        starts_tbz: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """Runs all time steps; returns outputs_tbh, float32, and the final state.

        Args:
            inputs_tbd: the inputs, time first.
            state: the state before the first step, or before the last one with `reverse`.
            mask_tb: bool; a step where it is False leaves the state and its output unchanged.
            reset_tb: bool; before a step where it is True the state is replaced.
            reverse: whether to run from the last step to the first.
            starts_tbz: the vectors from which `Cell.start` computes the state after a reset; None means `zero_state`.
        """
        weights, time = self._weights(), len(inputs_tbd)
        how = Execution(self.heads, self.dtype, self.backward, reverse, self.driver)
        over_time = (inputs_tbd, mask_tb, reset_tb, starts_tbz)
        if self.backward != "segments":
            return self._unroll(how, weights, state, over_time)
        length = max(1, round(time**0.5))
        fill = -time % length
        # The padding of the last segment is masked. In reverse it comes first and leaves the state unchanged.
        cut = lambda x: jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, length, *x.shape[1:])

        @jax.checkpoint
        def segment(state, part):
            outputs_tbh, state = self._unroll(how._replace(backward="keep"), weights, state, part)
            return state, outputs_tbh

        final, outputs = lax.scan(segment, state, jax.tree.map(cut, over_time), reverse=reverse)
        return outputs.reshape(-1, *outputs.shape[2:])[:time], final

    def _unroll(self, how, weights, state, over_time):
        inputs_tbd, mask_tb, reset_tb, starts_tbz = over_time
        return self.cell.unroll(how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz)

    def _weights(self):
        return Weights(self.adapted_kernel, self.bias, self.adapted_recurrent_kernel, self.own)
