"""The linear engine: `h_t = a_t * h_{t-1} + b_t`, with a gradient of its own. `a` and `b` depend on the input alone.

Therefore training is parallel over time, and a step of sampling has constant cost. The gradient is the same recurrence
in the other direction, `g_t = dh_t + a_{t+1} * g_{t+1}`. Everything else is computed for all time steps at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lm.recurrence import initial
from lm.recurrence.base import Cell, Execution, State, Weights, befores, dot, project

CHUNK = 64  # time steps that one associative scan covers


class LinearCell(Cell):
    """The base of linear cells, which define `gates`, the number of blocks, and `coefficients`. Outputs are states."""

    recurrent = False

    @staticmethod
    def coefficients(gates: tuple[jax.Array, ...], own: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns (a, b) of `h_t = a * h_{t-1} + b`; all arrays broadcast to [..., units]. JAX differentiates it."""
        raise NotImplementedError

    @classmethod
    def step(cls, how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        a, b = _coefficients(cls, weights.own, project(weights, inputs_bd, how.dtype))
        return State(a * state.output_bh + b, ())  # h_t = a_t h_{t-1} + b_t

    @classmethod
    def unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        return unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unroll(
    cell: type[LinearCell],
    how: Execution,
    weights: Weights,
    inputs_tbd: jax.Array,
    state: State,
    mask_tb: jax.Array,
    reset_tb: jax.Array,
    starts_tbh: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """Runs a cell over time. Arguments and result are those of the gated `unroll`; `starts_tbh` are states."""
    return _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbh)[0]


def _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbh):
    gates_tbg = project(weights, inputs_tbd, how.dtype)  # x_t W + b
    a_tbh, b_tbh = _affine(cell, mask_tb, reset_tb, weights.own, gates_tbg, starts_tbh)
    outputs_tbh = states(a_tbh, b_tbh, state.output_bh, how.reverse)  # h_t
    kept = gates_tbg if how.backward == "keep" else None
    saved = (weights, inputs_tbd, kept, state.output_bh, outputs_tbh, mask_tb, reset_tb, starts_tbh)
    return (outputs_tbh, State(outputs_tbh[0 if how.reverse else -1], ())), saved


def _backward(cell, how, saved, gradients):
    weights, inputs_tbd, gates_tbg, first_bh, outputs_tbh, mask_tb, reset_tb, starts_tbh = saved
    d_outputs_tbh, d_final = gradients
    if gates_tbg is None:
        # Computed in pieces: XLA would merge one whole product with that of the forward pass, and keep it in memory.
        gates_tbg = lax.map(lambda inputs_bd: project(weights, inputs_bd, how.dtype), inputs_tbd, batch_size=CHUNK)
    affine = functools.partial(_affine, cell, mask_tb, reset_tb)
    (a_tbh, _), pullback = jax.vjp(affine, weights.own, gates_tbg, starts_tbh)
    d_states_tbh = d_outputs_tbh.at[0 if how.reverse else -1].add(d_final.output_bh)  # dh_t, of the outputs alone
    last = jnp.zeros_like(first_bh)
    # g_t = dh_t + a_{t+1} g_{t+1}. As h_t = ... + b_t, this is also the gradient with respect to b_t.
    d_b_tbh = states(befores(last, a_tbh, not how.reverse), d_states_tbh, last, not how.reverse)
    d_a_tbh = d_b_tbh * befores(first_bh, outputs_tbh, how.reverse)  # g_t h_{t-1}
    d_own, d_gates_tbg, d_starts_tbh = pullback((d_a_tbh, d_b_tbh))  # through a and b, to the gates
    start = -1 if how.reverse else 0
    d_first = State(a_tbh[start] * d_b_tbh[start], ())  # a_1 g_1, with respect to h_0

    rows_ng = d_gates_tbg.reshape(-1, d_gates_tbg.shape[-1])
    inputs_nd = inputs_tbd.reshape(len(rows_ng), -1)
    d_kernel, d_bias = dot(inputs_nd.T, rows_ng, how.dtype), rows_ng.sum(0)  # sum_t x_t^T d_gates_t, sum_t d_gates_t
    d_weights = Weights(d_kernel, d_bias, None, d_own)
    d_inputs_tbd = dot(rows_ng, weights.kernel.T, how.dtype).reshape(inputs_tbd.shape)  # d_gates_t W^T
    return d_weights, d_inputs_tbd, d_first, None, None, d_starts_tbh


unroll.defvjp(_forward, _backward)


def _coefficients(cell, own, gates):
    return cell.coefficients(tuple(jnp.split(gates, cell.gates, axis=-1)), own)


def _affine(cell, mask_tb, reset_tb, own, gates_tbg, starts_tbh):
    """Returns (a, b) that include masks and resets."""
    a, b = _coefficients(cell, own, gates_tbg)
    mask, reset = mask_tb[..., None], reset_tb[..., None]
    a, b = jnp.where(mask, a, 1), jnp.where(mask, b, 0)  # masked: h_t = 1 h_{t-1} + 0
    if starts_tbh is not None:
        b = jnp.where(reset, a * starts_tbh + b, b)  # reset: h_t = a start + b ...
    return jnp.where(reset, 0, a), b  # ... whatever h_{t-1} is


# ---- the states -------------------------------------------------------------------------------------------------


def states(a_tbh: jax.Array, b_tbh: jax.Array, first_bh: jax.Array, reverse: bool) -> jax.Array:
    """Returns h_t of all steps of `h_t = a_t * h_{t-1} + b_t`, computed in chunks, or step by step on a CPU.

    On a CPU, one step of a batch keeps the cores busy, and a loop reads and writes every number once.
    """
    choices = {"cpu": sequential, "default": chunked}
    choices = {name: functools.partial(which, reverse=reverse) for name, which in choices.items()}
    return lax.platform_dependent(a_tbh, b_tbh, first_bh, **choices)


def sequential(a_tbh, b_tbh, first_bh, reverse):
    """Returns the states, computed one step after the other."""

    def body(state, now):
        state = now[0] * state + now[1]  # h_t = a_t h_{t-1} + b_t
        return state, state

    return lax.scan(body, first_bh, (a_tbh, b_tbh), reverse=reverse, unroll=4)[1]


def chunked(a_tbh, b_tbh, first_bh, reverse):
    """Returns the states, computed by an associative scan within each chunk and a loop over the chunks.

    The work is linear in the length, for a given size of the chunks (Blelloch, 1990; Martin and Cundy, 2018).
    """
    time = len(a_tbh)
    length = min(CHUNK, time)
    fill = [(0, -time % length), (0, 0), (0, 0)]
    cut = lambda x: x.reshape(-1, length, *x.shape[1:])
    # The last chunk is filled with steps h_t = 1 h_{t-1} + 0, which have no effect.
    a, b = cut(jnp.pad(a_tbh, fill, constant_values=1)), cut(jnp.pad(b_tbh, fill))
    # Two steps in a row: a_2 (a_1 h + b_1) + b_2 = (a_1 a_2) h + (a_2 b_1 + b_2).
    combine = lambda one, two: (one[0] * two[0], one[1] * two[0] + two[1])
    a, b = lax.associative_scan(combine, (a, b), axis=1, reverse=reverse)  # from the chunk's start to each step
    end = 0 if reverse else -1

    def body(state, now):
        return now[0] * state + now[1], state  # the state after a chunk from that before it

    _, befores = lax.scan(body, first_bh, (a[:, end], b[:, end]), reverse=reverse)  # the state before each chunk
    return (a * befores[:, None] + b).reshape(-1, *first_bh.shape)[:time]


# ---- cells ------------------------------------------------------------------------------------------------------


class MinGRU(LinearCell):
    """A GRU whose gate and candidate depend on the input alone (Feng et al., 2024). Gates: update z, candidate h'.

    `h_t = (1 - z_t) * h_{t-1} + z_t * h'_t`. It is the plain form of the paper. In the paper's log-space form the
    candidate is positive, `g(x) = x + 0.5` if x is at least 0 and `sigmoid(x)` otherwise; here it is `x`.
    """

    gates = 2

    @staticmethod
    def coefficients(gates, own):
        update, candidate = gates
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * candidate  # 1 - z_t, z_t * h'_t


class MinLSTM(LinearCell):
    """An LSTM whose gates depend on the input alone (Feng et al., 2024). Gates: forget f, input i, candidate h'.

    `h_t = f'_t * h_{t-1} + i'_t * h'_t` with `f' = f / (f + i)` and `i' = i / (f + i)`. It is the plain form of the
    paper, as in `MinGRU`, not the log-space form.
    """

    gates = 3

    @staticmethod
    def coefficients(gates, own):
        forget, write, candidate = gates
        odds = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(write)  # log(f / i)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * candidate  # f / (f + i), i / (f + i) * h'


class RGLRU(LinearCell):
    """Real-gated linear recurrent unit (De et al., 2024, "Griffin").

    `a = exp(-8 softplus(decay) r)`, `b = sqrt(1 - a^2) i x`. Gates: recurrence r, input i, and x. The parameter `decay`
    of each hidden unit starts so that `a` with an open gate is uniform in 0.9 to 0.999, as in
    the paper.

    The authors' code (google-deepmind/recurrentgemma) differs in four points:

    - It does not multiply the input by sqrt(1 - a^2) at the first position of a text. Here the first state is 0.03 to
      0.32 of theirs if a gate is half open.
    - Its gates are block-diagonal. Here they are dense, and x is a projection of the layer's input by the same kernel.
    - Its decay starts so that the square of `exp(-softplus(decay))` is uniform between the squares of 0.9 and 0.999.
      Then `a` with an open gate, the eighth power, is 0.43 to 0.99.
    - It clips the gradient of the root at 1,000. Here 1 - a^2 is at least 1e-12.
    """

    gates = 3

    @staticmethod
    def coefficients(gates, own):
        recurrence, write, value = gates
        log_a = -8 * jax.nn.softplus(own["decay"]) * jax.nn.sigmoid(recurrence)  # log a_t = -8 softplus(decay) r_t
        # sqrt(1 - a_t^2). The slope of the root at 0 is infinite, and `a` rounds to 1 in float32 if a gate is closed.
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))
        return jnp.exp(log_a), scale * jax.nn.sigmoid(write) * value  # a_t, sqrt(1 - a_t^2) * i_t * x_t

    @classmethod
    def own(cls, hidden):
        def decay(random, shape):
            open_gate = random.uniform(0.9, 0.999, shape)
            return np.log(np.expm1(-np.log(open_gate) / 8))  # solves exp(-8 softplus(decay)) = open_gate

        return {"decay": lambda key: initial.drawn(decay)(key, (hidden,))}
