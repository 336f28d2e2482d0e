"""The matrix-memory cell mLSTM (Beck et al., 2024, "xLSTM"), chunkwise: products inside a chunk, a scan from one to the next.

    C_t = f_t C_{t-1} + i_t k_t v_t^T      n_t = f_t n_{t-1} + i_t k_t
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)      y_t = o_t * s * (h_t - mean(h_t)) / std(h_t)

by heads, with `i = exp(.)` and `f = sigmoid(.)` one number a head, mean and standard deviation over the units of a head, as
in the authors' blocks: without them two layers of it diverge. C and n are held in units of e^m, where m is the largest
log-weight of what they sum, so that nothing overflows. The output does not depend on m, so no gradient has to pass through it.

The authors' code (NX-AI/xlstm) differs in its epsilons: it adds 1e-6 to the denominator and 1e-5 to the variance, here nothing
and 1e-6. In units of e^m, a denominator is at least e^-16 and its bound e^-m at most e^40, where the paper has no limits. The output
gate is the paper's. Their block has a gate of the block's input in its place, a convolution before queries and keys, and gates that
read queries, keys and values; here all are one product of the layer's input.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lm.recurrence import linear
from lm.recurrence.base import Cell, Execution, State, Weights, project

CHUNK = 64  # most steps of one
NEVER = -1e30  # a log-weight; finite, so that differences of two are no NaN
# Least and most of the logarithm of a denominator. Beyond, float32 holds neither its square nor the inverse of that.
EXPONENTS = -16, 40


class MLSTM(Cell):
    """Matrix LSTM (Beck et al., 2024); the module has its equations and departures.

    `kernel` has blocks query, key, value, output gate, and one column a head for input and for forget gates.

    A state is started by one key and one value, written with weight 1. For the gradient, "keep" holds what the products
    inside chunks made, about [t, b, heads, CHUNK] numbers; "recompute" the carried memory of each chunk alone. `dtype` is that
    of the input products; those inside chunks are float32.
    """

    gates = 4
    recurrent = False

    @classmethod
    def width(cls, hidden, heads):
        return 4 * hidden + 2 * heads

    @classmethod
    def initial_bias(cls, hidden, heads):
        # Heads that remember from twenty to four hundred steps.
        return jnp.zeros(cls.width(hidden, heads)).at[-heads:].set(np.linspace(3.0, 6.0, heads))

    @classmethod
    def own(cls, hidden):
        return {"scale": lambda key: jnp.ones(hidden)}

    @classmethod
    def zero_state(cls, batch, hidden, heads=1):
        units = hidden // heads
        inner = jnp.zeros((batch, heads, units, units)), jnp.zeros((batch, heads, units)), jnp.zeros((batch, heads))
        return State(jnp.zeros((batch, hidden)), inner)

    @classmethod
    def start_blocks(cls):
        return 3

    @classmethod
    def start(cls, vectors_z, heads=1):
        output, key, value = _start(vectors_z, heads)
        return State(output, (key[..., :, None] * value[..., None, :], key, jnp.zeros(key.shape[:-1], key.dtype)))

    @classmethod
    def step(cls, how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        query, key, value, out, log_input, log_forget = _gates(how, weights, inputs_bd)
        memory, normaliser, m = state.inner
        after = lax.stop_gradient(jnp.maximum(log_forget + m, log_input))
        forget, write = jnp.exp(log_forget + m - after)[..., None], jnp.exp(log_input - after)[..., None]
        normaliser = forget * normaliser + write * key
        memory = forget[..., None] * memory + (write * key)[..., None] * value[..., None, :]
        read = jnp.einsum("bkij,bki->bkj", memory, query)
        norm = jnp.einsum("bki,bki->bk", normaliser, query)
        return State(out * _normal(read, norm, after, weights), (memory, normaliser, after))

    @classmethod
    def unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        """As `gated.unroll`."""
        time = len(inputs_tbd)
        length = -(-time // -(-time // CHUNK))  # as even as can be
        over_time = (inputs_tbd, mask_tb, reset_tb, starts_tbz)
        if how.reverse:
            over_time = jax.tree.map(lambda x: x[::-1], over_time)
        fill = lambda x: jnp.pad(x, [(0, -time % length)] + [(0, 0)] * (x.ndim - 1))  # masked
        cut = lambda x: fill(x).reshape(-1, length, *x.shape[1:])
        body = functools.partial(_chunk, how, weights)
        if how.backward != "keep":
            body = jax.checkpoint(body)
        final, outputs = lax.scan(body, state, jax.tree.map(cut, over_time))
        outputs_tbh = outputs.reshape(-1, *outputs.shape[2:])[:time]
        return outputs_tbh[::-1] if how.reverse else outputs_tbh, final


def _gates(how, weights, inputs):
    """(query, key, value) [..., heads, units], output gate [..., hidden], log of input and forget gate [..., heads]."""
    gates, heads = project(weights, inputs, how.dtype), how.heads
    hidden = (gates.shape[-1] - 2 * heads) // 4
    *blocks, log_input, forget = jnp.split(gates, [hidden * i for i in range(1, 5)] + [4 * hidden + heads], axis=-1)
    query, key, value = (x.reshape(*x.shape[:-1], heads, -1) for x in blocks[:3])
    key = key * (hidden // heads) ** -0.5
    return query, key, value, jax.nn.sigmoid(blocks[3]), log_input, jax.nn.log_sigmoid(forget)


def _normal(read, norm, m, weights):
    """[..., heads, units] -> [..., hidden], each head normalised; all but the result in units of e^m.

    What is normalised is `h = read / denominator`. The variance is multiplied by the denominator's square instead, for the quotient
    of two small numbers, and its gradient, overflow.
    """
    denominator = jnp.maximum(jnp.abs(norm), jnp.exp(jnp.clip(-m, *EXPONENTS)))  # max(|n . q|, 1)
    read = read - read.mean(axis=-1, keepdims=True)
    variance = (read * read).mean(axis=-1) + 1e-6 * denominator * denominator
    read = read * lax.rsqrt(variance)[..., None]
    return read.reshape(*read.shape[:-2], -1) * weights.own["scale"]


def _start(vectors_z, heads):
    """(output, key, value) of a start."""
    output, *written = jnp.split(vectors_z, 3, axis=-1)
    key, value = (x.reshape(*x.shape[:-1], heads, -1) for x in written)
    return output, key, value


def _chunk(how, weights, state, part):
    """A chunk of `l` steps: what is read is the sum over steps `s` of the chunk, and over what there was before.

    What there was before is the carried memory, or after a reset what it started.
    """
    inputs_lbd, mask_lb, reset_lb, starts_lbz = part
    query, key, value, out, log_input, log_forget = _gates(how, weights, inputs_lbd)
    log_input = jnp.where(mask_lb[..., None], log_input, NEVER)
    log_forget = jnp.where(mask_lb[..., None], log_forget, 0)
    # Since the last reset; a difference of sums over the whole chunk would round by what stands before it.
    goes_on = jnp.broadcast_to(~reset_lb[..., None], log_forget.shape).astype(log_forget.dtype)
    total = linear.chunked(goes_on, log_forget, jnp.zeros_like(log_forget[0]), False)
    to_heads = lambda x: jnp.moveaxis(x, 0, 2)  # [l, b, k, ...] -> [b, k, l, ...]
    query, key, value, log_input, total = map(to_heads, (query, key, value, log_input, total))
    reset, (memory, normaliser, m) = reset_lb.T[:, None], state.inner

    # Log-weights. Each step sees those since the last reset, itself included, and what there was before them.
    steps = jnp.arange(len(inputs_lbd))
    last_reset = lax.cummax(jnp.where(reset, steps, -1), axis=2)  # -1: none yet
    sees = (steps[:, None] >= steps) & (steps >= last_reset[..., None])
    weight_ls = jnp.where(sees, total[..., None] - total[..., None, :] + log_input[..., None, :], NEVER)
    carried = last_reset < 0
    weight_before = total + jnp.where(carried, m[..., None], 0)
    after = lax.stop_gradient(jnp.maximum(weight_ls.max(axis=-1), weight_before))

    # What is read.
    weight_ls, weight_before = jnp.exp(weight_ls - after[..., None]), jnp.exp(weight_before - after)
    scores_ls = jnp.einsum("bkli,bksi->bkls", query, key) * weight_ls
    from_carried = jnp.where(carried, weight_before, 0)
    read = jnp.einsum("bkls,bksj->bklj", scores_ls, value)
    read += jnp.einsum("bkli,bkij->bklj", query, memory) * from_carried[..., None]
    norm = scores_ls.sum(-1) + jnp.einsum("bkli,bki->bkl", query, normaliser) * from_carried
    if starts_lbz is not None:
        start_output, *started = _start(starts_lbz, how.heads)
        at_reset = jnp.maximum(last_reset, 0)[..., None]
        start_key, start_value = (jnp.take_along_axis(to_heads(x), at_reset, axis=2) for x in started)
        from_start = jnp.where(carried, 0, weight_before)
        score = jnp.einsum("bkli,bkli->bkl", query, start_key) * from_start
        read, norm = read + score[..., None] * start_value, norm + score

    # What is carried on: the last step's weights, of keys and values.
    weight_s = weight_ls[:, :, -1]
    scaled_key = weight_s[..., None] * key
    keep = from_carried[:, :, -1, None]
    memory = keep[..., None] * memory + jnp.einsum("bksi,bksj->bkij", scaled_key, value)
    normaliser = keep * normaliser + scaled_key.sum(2)
    if starts_lbz is not None:
        scaled_key = from_start[:, :, -1, None] * start_key[:, :, -1]
        memory += scaled_key[..., None] * start_value[:, :, -1, None]
        normaliser += scaled_key
    outputs_lbh = out * _normal(*(jnp.moveaxis(x, 2, 0) for x in (read, norm, after)), weights)

    # Where there is no step the output stays as it was: that, too, is a linear recurrence.
    fresh = 0 if starts_lbz is None else start_output
    stays = jnp.where(reset_lb[..., None], fresh, 0)
    outputs_lbh = jnp.where(mask_lb[..., None], outputs_lbh, stays)
    stands = jnp.broadcast_to(~(mask_lb | reset_lb)[..., None], outputs_lbh.shape).astype(outputs_lbh.dtype)
    outputs_lbh = linear.states(stands, outputs_lbh, state.output_bh, False)
    return State(outputs_lbh[-1], (memory, normaliser, after[..., -1])), outputs_lbh
