"""Gated cells. Each is its pointwise equation; the engine (`engine.py`) computes the matrix products.

`gates` are arrays [units, batch] (see `GatedCell.pointwise`), so a mean over hidden units is a mean over axis -2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lm.recurrence.base import State
from lm.recurrence.gated.engine import GatedCell


class Elman(GatedCell):
    """The simple recurrent network (Elman, 1990): `y_t = tanh(x_t W + y_{t-1} R + b)`, as in PyTorch's RNN."""

    gates = 1
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        return State(jnp.tanh(gates[0]), ())  # y_t


class GRU(GatedCell):
    """Gated recurrent unit (Cho et al., 2014) that resets after the product, as cuDNN does.

    The candidate is `tanh(x W + b + r (y R + b'))`. Gates in order: reset r, update z, candidate. The last block is the
    candidate's `y R`, which stays separate. Cho et al. reset before the product, `tanh(x W + b + (r y) R)`. PyTorch's
    GRU is as here, except that it has two biases per gate; here each gate has their sum.
    """

    gates = 3
    separate = 1
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        reset, update, candidate, recurrent = gates
        new = jnp.tanh(candidate + jax.nn.sigmoid(reset) * (recurrent + own["recurrent_bias"]))  # n_t
        return State(new + jax.nn.sigmoid(update) * (state.output_bh - new), ())  # y_t = (1 - z_t) n_t + z_t y_{t-1}

    @classmethod
    def own(cls, hidden):
        return {"recurrent_bias": lambda key: jnp.zeros(hidden)}


class LSTM(GatedCell):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    Gates in order: input i, forget f, candidate g, output o. The bias of the forget gate starts at 1 (Jozefowicz et
    al., 2015). PyTorch's, the sum of two biases, starts near 0.
    """

    gates = 4
    batch_major = True

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)  # c_t = f_t c_{t-1} + i_t g_t
        return State(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)  # y_t = o_t tanh(c_t)

    @classmethod
    def initial_inner(cls, batch, hidden):
        return jnp.zeros((batch, hidden))  # c_0

    @classmethod
    def initial_bias(cls, hidden, heads):
        return jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0)


class PeepholeLSTM(LSTM):
    """An LSTM whose gates read the cell (Gers and Schmidhuber, 2000).

    Input and forget gate read c_{t-1}, the output gate reads c_t. The gates of a hidden unit read only its own cell,
    with weights that start at 0. The candidate and the cell pass through tanh, as in Graves (2013); Gers and
    Schmidhuber read the cell without tanh.
    """

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        i, f = i + own["peephole_input"] * state.inner, f + own["peephole_forget"] * state.inner  # + p c_{t-1}
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)  # c_t
        return State(jax.nn.sigmoid(o + own["peephole_output"] * cell) * jnp.tanh(cell), cell)  # y_t

    @classmethod
    def own(cls, hidden):
        return {f"peephole_{gate}": lambda key: jnp.zeros(hidden) for gate in ("input", "forget", "output")}


@jax.custom_jvp
def standardised(x: jax.Array) -> jax.Array:
    """Returns `(x - mean) / std` over the hidden units (Ba et al., 2016, equation 3)."""
    return _standardised(x)[0]


def _standardised(x):
    x = x - x.mean(axis=-2, keepdims=True)
    scale = jax.lax.rsqrt((x * x).mean(axis=-2, keepdims=True) + 1e-6)  # 1 / std
    return x * scale, scale


@standardised.defjvp
def _tangent(primals, tangents):
    x, scale = _standardised(*primals)
    d = scale * tangents[0]  # dx / std
    # mean(x dx / std), the change of std. The `where` has no effect on the value (XLA-10).
    along = jnp.where(jnp.isnan(x), 0, (x * d).mean(axis=-2, keepdims=True))
    return x, d - d.mean(axis=-2, keepdims=True) - x * along  # without the changes of mean and std


class LayerNormLSTM(LSTM):
    """An LSTM that normalizes each gate, and the cell as the output reads it (after Ba et al., 2016).

    Mean and variance are over the hidden units of a head; scales start at 1. The bias is added before a gate is
    normalized, and the shift after it. Ba et al. normalize `x W` and `y R` separately, each over the hidden units of
    all gates together. Here their sum is normalized, for each gate separately. The shift of the forget gate starts at
    1, and 1e-6 is added to the variance.
    """

    blocks = ("input", "forget", "candidate", "output")

    @staticmethod
    def pointwise(gates, state, own):
        def normal(x, name):
            return standardised(x) * own[f"scale_{name}"] + own[f"shift_{name}"]

        i, f, g, o = map(normal, gates, LayerNormLSTM.blocks)  # LN(x_t W + y_{t-1} R + b), gate by gate
        cell = jax.nn.sigmoid(f) * state.inner + jax.nn.sigmoid(i) * jnp.tanh(g)  # c_t
        return State(jax.nn.sigmoid(o) * jnp.tanh(normal(cell, "cell")), cell)  # y_t = o_t tanh(LN(c_t))

    @classmethod
    def own(cls, hidden):
        scales = {f"scale_{name}": lambda key: jnp.ones(hidden) for name in (*cls.blocks, "cell")}
        shifts = {f"shift_{name}": lambda key: jnp.zeros(hidden) for name in (*cls.blocks, "cell")}
        return scales | shifts | {"shift_forget": lambda key: jnp.ones(hidden)}

    @classmethod
    def initial_bias(cls, hidden, heads):
        return jnp.zeros(4 * hidden)


class SLSTM(GatedCell):
    """Scalar LSTM: exponential gates, a normalizer and a stabilizer (Beck et al., 2024, "xLSTM").

    Gates in order: input i (its logarithm), forget f (its logit), candidate g, output o. The state also holds the cell
    c, the normalizer n and the stabilizer m; c and n are held in units of e^m. The normalizer starts at 1 and m at 0.
    At each step one of the two stabilized gates is 1, so the normalizer stays at least 1.

    The authors' code (NX-AI/xlstm) differs in four points:

    - Its normalizer starts at 0, so the first output is o tanh(g) for any input gate. Here it is that times exp(i) /
      (sigmoid(f) + exp(i)), about 0.54 with initial biases. The difference fades as the initial 1 is forgotten.
    - Its layer has a group norm over each head after the cell, and a convolution before input and forget gate. Here
      there is neither.
    - Its recurrent kernel starts at 0. Here it starts orthogonal.
    - The biases of its forget gate start differently.
    """

    gates = 4

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        cell, normaliser, m = state.inner
        log_forget = jax.nn.log_sigmoid(f) + m  # log f_t + m_{t-1}
        # m_t = max(log f_t + m_{t-1}, log i_t). The output does not depend on m, so no gradient has to pass through it.
        m = jax.lax.stop_gradient(jnp.maximum(log_forget, i))
        forget, write = jnp.exp(log_forget - m), jnp.exp(i - m)  # f'_t, i'_t, the stabilized gates
        # c_t = f'_t c_{t-1} + i'_t tanh(g_t), n_t = f'_t n_{t-1} + i'_t
        cell, normaliser = forget * cell + write * jnp.tanh(g), forget * normaliser + write
        return State(jax.nn.sigmoid(o) * cell / normaliser, (cell, normaliser, m))  # y_t = o_t c_t / n_t

    @classmethod
    def initial_inner(cls, batch, hidden):
        # c, n and m: three arrays, although two are equal (XLA-11).
        return jnp.zeros((batch, hidden)), jnp.ones((batch, hidden)), jnp.zeros((batch, hidden))

    @classmethod
    def initial_bias(cls, hidden, heads):
        # Memories of about two to two hundred steps, spread over the hidden units of a head.
        forget = np.tile(np.linspace(0.5, 5.0, hidden // heads), heads)
        return jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(forget)

    @classmethod
    def start_blocks(cls):
        return 2

    @classmethod
    def start(cls, vectors_z, heads=1):
        output, cell = jnp.split(vectors_z, 2, axis=-1)
        return State(output, (cell, jnp.ones_like(cell), jnp.zeros_like(cell)))
