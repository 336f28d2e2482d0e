"""Gated cells: each is its pointwise part; the engine (`engine.py`) does the matrix products.

`gates` are arrays [units, batch] (see `GatedCell.pointwise`), so a mean over units is one over axis -2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lm.recurrence.base import State
from lm.recurrence.gated.engine import GatedCell


class Elman(GatedCell):
    """`y = tanh(gate)` (Elman, 1990), as PyTorch's RNN has it."""

    gates = 1
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        return State(jnp.tanh(gates[0]), ())


class GRU(GatedCell):
    """Gated recurrent unit (Cho et al., 2014), resetting after the product as cuDNN does: `tanh(x W + b + r (y R + b'))`.

    Gates in order: reset, update, candidate. What follows is the candidate's `y R`. Cho et al. reset before the product,
    `tanh(x W + b + (r y) R)`; PyTorch's GRU is as here. It has two biases for each gate, whose sum is one here.
    """

    gates = 3
    separate = 1
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        reset, update, candidate, recurrent = gates
        new = jnp.tanh(candidate + jax.nn.sigmoid(reset) * (recurrent + own["recurrent_bias"]))
        return State(new + jax.nn.sigmoid(update) * (state.output_bh - new), ())

    @classmethod
    def own(cls, hidden):
        return {"recurrent_bias": lambda key: jnp.zeros(hidden)}


class LSTM(GatedCell):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    Gates in order: input, forget, candidate, output. The forget gate's bias starts at 1 (Jozefowicz et al., 2015); PyTorch's,
    the sum of two, starts near 0.
    """

    gates = 4
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)
        return State(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)

    @classmethod
    def initial_inner(cls, batch, hidden):
        return jnp.zeros((batch, hidden))

    @classmethod
    def initial_bias(cls, hidden, heads):
        return jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0)


class PeepholeLSTM(LSTM):
    """An LSTM whose gates see the cell: input and forget the one before, output the one after (Gers and Schmidhuber, 2000).

    A unit's gates see its own cell alone, by weights that start at 0. The candidate and the cell pass through tanh, as in Graves
    (2013); Gers and Schmidhuber read the cell without it.
    """

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        i, f = i + own["peephole_input"] * state.inner, f + own["peephole_forget"] * state.inner
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)
        return State(jax.nn.sigmoid(o + own["peephole_output"] * cell) * jnp.tanh(cell), cell)

    @classmethod
    def own(cls, hidden):
        return {f"peephole_{gate}": lambda key: jnp.zeros(hidden) for gate in ("input", "forget", "output")}


@jax.custom_jvp
def standardised(x: jax.Array) -> jax.Array:
    """With mean 0 and variance 1 over the units."""
    return _standardised(x)[0]


def _standardised(x):
    x = x - x.mean(axis=-2, keepdims=True)
    scale = jax.lax.rsqrt((x * x).mean(axis=-2, keepdims=True) + 1e-6)
    return x * scale, scale


@standardised.defjvp
def _tangent(primals, tangents):
    x, scale = _standardised(*primals)
    d = scale * tangents[0]
    # The choice has no effect on the value (XLA-10).
    along = jnp.where(jnp.isnan(x), 0, (x * d).mean(axis=-2, keepdims=True))
    return x, d - d.mean(axis=-2, keepdims=True) - x * along


class LayerNormLSTM(LSTM):
    """An LSTM that normalises each gate, and the cell where the output reads it (after Ba et al., 2016).

    Mean and variance are over the units (of a head); scales start at 1. The bias is added before a gate is normalised, the
    shift after. Ba et al. normalise `x W` and `y R` apart, each over the units of all gates together; here it is their sum, each
    gate by itself. The shift of the forget gate starts at 1, and 1e-6 is added to the variance.
    """

    blocks = ("input", "forget", "candidate", "output")

    @staticmethod
    def pointwise(gates, state, own):
        def normal(x, name):
            return standardised(x) * own[f"scale_{name}"] + own[f"shift_{name}"]

        i, f, g, o = map(normal, gates, LayerNormLSTM.blocks)
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)
        return State(jax.nn.sigmoid(o) * jnp.tanh(normal(cell, "cell")), cell)

    @classmethod
    def own(cls, hidden):
        scales = {f"scale_{name}": lambda key: jnp.ones(hidden) for name in (*cls.blocks, "cell")}
        shifts = {f"shift_{name}": lambda key: jnp.zeros(hidden) for name in (*cls.blocks, "cell")}
        return scales | shifts | {"shift_forget": lambda key: jnp.ones(hidden)}

    @classmethod
    def initial_bias(cls, hidden, heads):
        return jnp.zeros(4 * hidden)


class SLSTM(GatedCell):
    """Scalar LSTM: exponential gates, a normaliser and a stabiliser (Beck et al., 2024, "xLSTM").

    Gates in order: input (log), forget (its logit), candidate, output. Carried beside the output: cell, normaliser, and the
    stabiliser m, in units of which (e^m) the two are held. The normaliser starts at 1 and m at 0, so it stays at least 1:
    at each step one of the two gates is 1.

    The authors' code (NX-AI/xlstm) differs. Its normaliser starts at 0, so the first output is o tanh(g), whatever the input gate;
    here it is exp(i) / (sigmoid(f) + exp(i)) times that, about 0.54 with initial biases, and the difference fades as the
    normaliser's first 1 is forgotten. Its layer has a group norm over each head after the cell, and a convolution before the input and
    forget gates; here is neither. Its recurrent kernel starts at 0, ours orthogonal; its biases of the forget gate start otherwise.
    """

    gates = 4

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        cell, normaliser, m = state.inner
        log_forget = jax.nn.log_sigmoid(f) + m
        # The output does not depend on m, so no gradient has to pass through it.
        m = jax.lax.stop_gradient(jnp.maximum(log_forget, i))
        forget, write = jnp.exp(log_forget - m), jnp.exp(i - m)
        cell, normaliser = forget * cell + write * jnp.tanh(g), forget * normaliser + write
        return State(jax.nn.sigmoid(o) * cell / normaliser, (cell, normaliser, m))

    @classmethod
    def initial_inner(cls, batch, hidden):
        # Three arrays, though two are equal (XLA-11).
        return jnp.zeros((batch, hidden)), jnp.ones((batch, hidden)), jnp.zeros((batch, hidden))

    @classmethod
    def initial_bias(cls, hidden, heads):
        # Memories of about two steps to two hundred, spread over the units of a head.
        forget = np.tile(np.linspace(0.5, 5.0, hidden // heads), heads)
        return jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(forget)

    @classmethod
    def start_blocks(cls):
        return 2

    @classmethod
    def start(cls, vectors_z, heads=1):
        output, cell = jnp.split(vectors_z, 2, axis=-1)
        return State(output, (cell, jnp.ones_like(cell), jnp.zeros_like(cell)))
