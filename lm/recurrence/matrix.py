"""The matrix-memory cell mLSTM (Beck et al., 2024, "xLSTM"), with products within chunks and a scan over the chunks::

    C_t = f_t C_{t-1} + i_t k_t v_t^T      n_t = f_t n_{t-1} + i_t k_t
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)      y_t = o_t * s * (h_t - mean(h_t)) / std(h_t)

The equations are per head. `i = exp(.)` and `f = sigmoid(.)` are one number per head. Mean and standard deviation are
over the hidden units of a head, as in the authors' blocks; without them, two layers diverge. C and n are held in units
of e^m, where m is the largest log-weight of the terms that they sum, so that nothing overflows. The output does not
depend on m, so no gradient has to pass through it.

The authors' code (NX-AI/xlstm) differs in two points:

- It adds 1e-6 to the denominator and 1e-5 to the variance; here it is nothing and 1e-6. In units of e^m, a denominator
  is at least e^-16 and its bound e^-m at most e^40 here; the paper has no limits.
- The output gate here is that of the paper. Their block has a gate of the block's input in its place, a convolution
  before queries and keys, and gates that read queries, keys and values. Here all of them are one product of the layer's
  input.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lm.recurrence import linear
from lm.recurrence.base import Cell, Execution, State, Weights, project

CHUNK = 64  # most steps of a chunk
NEVER = -1e30  # a log-weight; finite, so that differences of two are no NaN
# Bounds of the logarithm of a denominator. Beyond them, float32 holds neither its square nor the inverse of the square.
EXPONENTS = -16, 40


class MLSTM(Cell):
    """Matrix LSTM (Beck et al., 2024). The docstring of the module has its equations and departures.

    `kernel` has the blocks query, key, value and output gate, and one column per head for input and for forget gates. A
    start is one key and one value, written into the memory with weight 1. For the gradient, "keep" holds the results of
    the products within chunks, about [t, b, heads, CHUNK] numbers, and "recompute" only the memory that each chunk
    starts with. `dtype` is the type of the input products; products within chunks are float32.
    """

    gates = 4
    recurrent = False

    @classmethod
    def width(cls, hidden, heads):
        return 4 * hidden + 2 * heads

    @classmethod
    def initial_bias(cls, hidden, heads):
        # The heads remember from twenty to four hundred steps.
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
        after = lax.stop_gradient(jnp.maximum(log_forget + m, log_input))  # m_t = max(log f_t + m_{t-1}, log i_t)
        forget, write = jnp.exp(log_forget + m - after)[..., None], jnp.exp(log_input - after)[..., None]  # f'_t, i'_t
        normaliser = forget * normaliser + write * key  # n_t = f'_t n_{t-1} + i'_t k_t
        # C_t = f'_t C_{t-1} + i'_t k_t v_t^T
        memory = forget[..., None] * memory + (write * key)[..., None] * value[..., None, :]
        read = jnp.einsum("bkij,bki->bkj", memory, query)  # C_t^T q_t
        norm = jnp.einsum("bki,bki->bk", normaliser, query)  # n_t . q_t
        return State(out * _normal(read, norm, after, weights), (memory, normaliser, after))

    @classmethod
    def unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        """Runs the cell over time. Arguments and result are those of the gated `unroll`."""
        time = len(inputs_tbd)
        length = -(-time // -(-time // CHUNK))  # chunks of nearly equal length
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
    """Returns query, key, value, [..., heads, units], output gate, [..., hidden], log i and log f, [..., heads]."""
    gates, heads = project(weights, inputs, how.dtype), how.heads
    hidden = (gates.shape[-1] - 2 * heads) // 4
    *blocks, log_input, forget = jnp.split(gates, [hidden * i for i in range(1, 5)] + [4 * hidden + heads], axis=-1)
    query, key, value = (x.reshape(*x.shape[:-1], heads, -1) for x in blocks[:3])
    key = key * (hidden // heads) ** -0.5  # k_t is divided by the root of its width
    return query, key, value, jax.nn.sigmoid(blocks[3]), log_input, jax.nn.log_sigmoid(forget)


def _normal(read, norm, m, weights):
    """Returns `s * (h - mean(h)) / std(h)` of each head, [..., hidden], for `h = read / denominator`.

    `read` and `norm` are in units of e^m. The quotient of two small numbers would overflow, and so would its gradient.
    So the variance is multiplied by the square of the denominator instead.
    """
    denominator = jnp.maximum(jnp.abs(norm), jnp.exp(jnp.clip(-m, *EXPONENTS)))  # max(|n . q|, 1)
    read = read - read.mean(axis=-1, keepdims=True)
    variance = (read * read).mean(axis=-1) + 1e-6 * denominator * denominator
    read = read * lax.rsqrt(variance)[..., None]
    return read.reshape(*read.shape[:-2], -1) * weights.own["scale"]


def _start(vectors_z, heads):
    """Returns the output, the key and the value of a start."""
    output, *written = jnp.split(vectors_z, 3, axis=-1)
    key, value = (x.reshape(*x.shape[:-1], heads, -1) for x in written)
    return output, key, value


def _chunk(how, weights, state, part):
    """Computes a chunk of `l` steps.

    A step l reads a weighted sum over the steps s of the chunk up to it, and over the memory from before the chunk.
    After a reset, it reads the steps since the reset and the start that the reset set. In units of e^m::

        weight_ls = f_{s+1} ... f_l i_s      read_l = sum_s weight_ls (q_l . k_s) v_s + weight_before_l C^T q_l
    """
    inputs_lbd, mask_lb, reset_lb, starts_lbz = part
    query, key, value, out, log_input, log_forget = _gates(how, weights, inputs_lbd)
    log_input = jnp.where(mask_lb[..., None], log_input, NEVER)  # a masked step writes nothing ...
    log_forget = jnp.where(mask_lb[..., None], log_forget, 0)  # ... and forgets nothing
    # total_l = sum of log f since the last reset. A difference of sums over the whole chunk would add rounding errors.
    goes_on = jnp.broadcast_to(~reset_lb[..., None], log_forget.shape).astype(log_forget.dtype)
    total = linear.chunked(goes_on, log_forget, jnp.zeros_like(log_forget[0]), False)
    to_heads = lambda x: jnp.moveaxis(x, 0, 2)  # [l, b, k, ...] -> [b, k, l, ...]
    query, key, value, log_input, total = map(to_heads, (query, key, value, log_input, total))
    reset, (memory, normaliser, m) = reset_lb.T[:, None], state.inner

    # The log-weights. A step reads the steps since the last reset, itself included, and the memory before them.
    steps = jnp.arange(len(inputs_lbd))
    last_reset = lax.cummax(jnp.where(reset, steps, -1), axis=2)  # -1: none yet
    sees = (steps[:, None] >= steps) & (steps >= last_reset[..., None])
    # log weight_ls = total_l - total_s + log i_s
    weight_ls = jnp.where(sees, total[..., None] - total[..., None, :] + log_input[..., None, :], NEVER)
    carried = last_reset < 0  # no reset in the chunk yet: the memory from before it is read
    weight_before = total + jnp.where(carried, m[..., None], 0)
    after = lax.stop_gradient(jnp.maximum(weight_ls.max(axis=-1), weight_before))  # m_l, the largest log-weight

    # The sums that are read.
    weight_ls, weight_before = jnp.exp(weight_ls - after[..., None]), jnp.exp(weight_before - after)
    scores_ls = jnp.einsum("bkli,bksi->bkls", query, key) * weight_ls  # weight_ls (q_l . k_s)
    from_carried = jnp.where(carried, weight_before, 0)
    read = jnp.einsum("bkls,bksj->bklj", scores_ls, value)  # sum_s weight_ls (q_l . k_s) v_s
    read += jnp.einsum("bkli,bkij->bklj", query, memory) * from_carried[..., None]  # + weight_before_l C^T q_l
    norm = scores_ls.sum(-1) + jnp.einsum("bkli,bki->bkl", query, normaliser) * from_carried  # n_l . q_l
    if starts_lbz is not None:
        start_output, *started = _start(starts_lbz, how.heads)
        at_reset = jnp.maximum(last_reset, 0)[..., None]
        start_key, start_value = (jnp.take_along_axis(to_heads(x), at_reset, axis=2) for x in started)
        from_start = jnp.where(carried, 0, weight_before)
        score = jnp.einsum("bkli,bkli->bkl", query, start_key) * from_start  # weight_before_l (q_l . k_start)
        read, norm = read + score[..., None] * start_value, norm + score

    # The memory after the chunk, with the weights of the last step: C = weight_before C + sum_s weight_s k_s v_s^T.
    weight_s = weight_ls[:, :, -1]
    scaled_key = weight_s[..., None] * key
    keep = from_carried[:, :, -1, None]
    memory = keep[..., None] * memory + jnp.einsum("bksi,bksj->bkij", scaled_key, value)
    normaliser = keep * normaliser + scaled_key.sum(2)  # n = weight_before n + sum_s weight_s k_s
    if starts_lbz is not None:
        scaled_key = from_start[:, :, -1, None] * start_key[:, :, -1]
        memory += scaled_key[..., None] * start_value[:, :, -1, None]
        normaliser += scaled_key
    outputs_lbh = out * _normal(*(jnp.moveaxis(x, 2, 0) for x in (read, norm, after)), weights)

    # A masked step repeats the output before it. That is a linear recurrence, too.
    fresh = 0 if starts_lbz is None else start_output
    stays = jnp.where(reset_lb[..., None], fresh, 0)
    outputs_lbh = jnp.where(mask_lb[..., None], outputs_lbh, stays)
    stands = jnp.broadcast_to(~(mask_lb | reset_lb)[..., None], outputs_lbh.shape).astype(outputs_lbh.dtype)
    outputs_lbh = linear.states(stands, outputs_lbh, state.output_bh, False)
    return State(outputs_lbh[-1], (memory, normaliser, after[..., -1])), outputs_lbh
