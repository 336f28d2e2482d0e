"""A recurrent layer: the parameters of one cell, and the two ways to run it."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from lm.recurrence import initial
from lm.recurrence.base import Cell, Execution, State, Weights

LORA = ("_lora_a", "_lora_b")  # what the names of a kernel's adapters end in


def adapted(kernel: jax.Array, a: jax.Array, b: jax.Array, alpha: float) -> jax.Array:
    """`kernel + alpha / rank * a @ b` (Hu et al., 2022, "LoRA"), each kernel of a stack for itself."""
    return kernel + alpha / a.shape[-1] * (a @ b)


def adaptable(module: nn.Module, name: str, kernel: jax.Array, rank: int, alpha: float) -> jax.Array:
    """The kernel, [..., inputs, width]; with a rank above 0, adapted by parameters of the module's own.

    They are called NAME_lora_a and NAME_lora_b. The second starts from zero, so nothing changes at first.
    """
    if not rank:
        return kernel
    *stack, inputs, width = kernel.shape
    gaussian = initial.normal(inputs**-0.5)
    a = module.param(name + LORA[0], gaussian, (*stack, inputs, rank))
    b = module.param(name + LORA[1], nn.initializers.zeros, (*stack, rank, width))
    return adapted(kernel, a, b, alpha)


class RecurrentLayer(nn.Module):
    """`step` and `unroll` with the same parameters: `kernel` [inputs, g], `bias` [g], those of the cell's own, [h] each, and of
    gated cells `recurrent_kernel`: [h, g], or with `heads` [heads, h / heads, g / heads].

    `backward` is what the gradient finds kept, beside inputs, outputs and what the cell carries, all of them [t, b, h]:
    "keep": the gates [t, b, g] too, fastest. "recompute": nothing; gates are computed again, a step at a time.
    "segments": what is carried after every sqrt(t)-th step alone; the stretch from there is run again.

    `driver` says what runs a gated cell over time on an accelerator (see `Execution`). With a `lora_rank` above 0 both kernels are `adaptable`.
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
        # By the inputs alone: Glorot's rule counts the outputs of all gates, and a gate would hardly see its input.
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
        """One time step; the output is `State.output_bh`."""
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
        """All time steps; returns outputs_tbh, float32, and the final state.

        Args:
            inputs_tbd: time first.
            state: what the first step (the last one, if `reverse`) starts from.
            mask_tb: bool; where False the state, output included, stays as it was.
            reset_tb: bool; where True the state is set anew before the step.
            reverse: from the last step to the first.
            starts_tbz: what `Cell.start` makes the state of, where `reset_tb` is True; None is `zero_state` everywhere.
        """
        weights, time = self._weights(), len(inputs_tbd)
        how = Execution(self.heads, self.dtype, self.backward, reverse, self.driver)
        over_time = (inputs_tbd, mask_tb, reset_tb, starts_tbz)
        if self.backward != "segments":
            return self._unroll(how, weights, state, over_time)
        length = max(1, round(time**0.5))
        fill = -time % length
        # What fills the last segment is masked; a run in reverse meets it first and leaves the state alone.
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
