"""The linear engine: `h_t = a_t * h_{t-1} + b_t`, with a gradient of its own; `a` and `b` are of the input alone.

So time is parallel in training, and a step of sampling has constant cost. The gradient is the same recurrence run the
other way, `g_t = dh_t + a_{t+1} * g_{t+1}`, and everything else is done for all time steps at once.
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
    """A cell sets `gates`, the number of blocks of the input product, and `coefficients`; its output is its state."""

    recurrent = False

    @staticmethod
    def coefficients(gates: tuple[jax.Array, ...], own: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(a, b); all arrays broadcast to [..., units]. Must be differentiable by JAX."""
        raise NotImplementedError

    @classmethod
    def step(cls, how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        a, b = _coefficients(cls, weights.own, project(weights, inputs_bd, how.dtype))
        return State(a * state.output_bh + b, ())

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
    """As `gated.unroll`; `starts_tbh` are states."""
    return _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbh)[0]


def _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbh):
    gates_tbg = project(weights, inputs_tbd, how.dtype)
    a_tbh, b_tbh = _affine(cell, mask_tb, reset_tb, weights.own, gates_tbg, starts_tbh)
    outputs_tbh = states(a_tbh, b_tbh, state.output_bh, how.reverse)
    kept = gates_tbg if how.backward == "keep" else None
    saved = (weights, inputs_tbd, kept, state.output_bh, outputs_tbh, mask_tb, reset_tb, starts_tbh)
    return (outputs_tbh, State(outputs_tbh[0 if how.reverse else -1], ())), saved


def _backward(cell, how, saved, gradients):
    weights, inputs_tbd, gates_tbg, first_bh, outputs_tbh, mask_tb, reset_tb, starts_tbh = saved
    d_outputs_tbh, d_final = gradients
    if gates_tbg is None:
        # In pieces: the one product of the forward pass would be taken for this one, and kept.
        gates_tbg = lax.map(lambda inputs_bd: project(weights, inputs_bd, how.dtype), inputs_tbd, batch_size=CHUNK)
    affine = functools.partial(_affine, cell, mask_tb, reset_tb)
    (a_tbh, _), pullback = jax.vjp(affine, weights.own, gates_tbg, starts_tbh)
    d_states_tbh = d_outputs_tbh.at[0 if how.reverse else -1].add(d_final.output_bh)
    last = jnp.zeros_like(first_bh)
    # What multiplies the state after a step is the next step's `a`.
    d_b_tbh = states(befores(last, a_tbh, not how.reverse), d_states_tbh, last, not how.reverse)
    d_a_tbh = d_b_tbh * befores(first_bh, outputs_tbh, how.reverse)
    d_own, d_gates_tbg, d_starts_tbh = pullback((d_a_tbh, d_b_tbh))
    start = -1 if how.reverse else 0
    d_first = State(a_tbh[start] * d_b_tbh[start], ())

    rows_ng = d_gates_tbg.reshape(-1, d_gates_tbg.shape[-1])
    inputs_nd = inputs_tbd.reshape(len(rows_ng), -1)
    d_weights = Weights(dot(inputs_nd.T, rows_ng, how.dtype), rows_ng.sum(0), None, d_own)
    d_inputs_tbd = dot(rows_ng, weights.kernel.T, how.dtype).reshape(inputs_tbd.shape)
    return d_weights, d_inputs_tbd, d_first, None, None, d_starts_tbh


unroll.defvjp(_forward, _backward)


def _coefficients(cell, own, gates):
    return cell.coefficients(tuple(jnp.split(gates, cell.gates, axis=-1)), own)


def _affine(cell, mask_tb, reset_tb, own, gates_tbg, starts_tbh):
    """(a, b) with masks, `h = h`, and resets, `h = start` before the step, in them."""
    a, b = _coefficients(cell, own, gates_tbg)
    mask, reset = mask_tb[..., None], reset_tb[..., None]
    a, b = jnp.where(mask, a, 1), jnp.where(mask, b, 0)
    if starts_tbh is not None:
        b = jnp.where(reset, a * starts_tbh + b, b)
    return jnp.where(reset, 0, a), b


# ---- the states -------------------------------------------------------------------------------------------------


def states(a_tbh: jax.Array, b_tbh: jax.Array, first_bh: jax.Array, reverse: bool) -> jax.Array:
    """The states of all steps of `h_t = a_t * h_{t-1} + b_t`: chunked, or one step after the other on a CPU.

    There a step of a batch fills the cores, and nothing is read or written twice.
    """
    choices = {"cpu": sequential, "default": chunked}
    choices = {name: functools.partial(which, reverse=reverse) for name, which in choices.items()}
    return lax.platform_dependent(a_tbh, b_tbh, first_bh, **choices)


def sequential(a_tbh, b_tbh, first_bh, reverse):
    def body(state, now):
        state = now[0] * state + now[1]
        return state, state

    return lax.scan(body, first_bh, (a_tbh, b_tbh), reverse=reverse, unroll=4)[1]


def chunked(a_tbh, b_tbh, first_bh, reverse):
    """Associative scans inside all chunks at once, then one step a chunk: work linear in time for a chunk's size."""
    time = len(a_tbh)
    length = min(CHUNK, time)
    fill = [(0, -time % length), (0, 0), (0, 0)]
    cut = lambda x: x.reshape(-1, length, *x.shape[1:])
    # Steps that fill up change nothing.
    a, b = cut(jnp.pad(a_tbh, fill, constant_values=1)), cut(jnp.pad(b_tbh, fill))
    combine = lambda one, two: (one[0] * two[0], one[1] * two[0] + two[1])
    a, b = lax.associative_scan(combine, (a, b), axis=1, reverse=reverse)
    end = 0 if reverse else -1

    def body(state, now):
        return now[0] * state + now[1], state

    _, befores = lax.scan(body, first_bh, (a[:, end], b[:, end]), reverse=reverse)
    return (a * befores[:, None] + b).reshape(-1, *first_bh.shape)[:time]


# ---- cells ------------------------------------------------------------------------------------------------------


class MinGRU(LinearCell):
    """A GRU whose gate and candidate are of the input alone (Feng et al., 2024). Gates: update, candidate.

    It is the paper's plain form. Their log-space form has a candidate that is positive,
    `g(x) = x + 0.5` for x of at least 0 and else `sigmoid(x)`; here it is `x`.
    """

    gates = 2

    @staticmethod
    def coefficients(gates, own):
        update, candidate = gates
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * candidate


class MinLSTM(LinearCell):
    """Forget and input gates of the input alone, scaled to add up to 1 (Feng et al., 2024). Gates: forget, input, candidate.

    It is the paper's plain form, as in `MinGRU`, not the log-space one.
    """

    gates = 3

    @staticmethod
    def coefficients(gates, own):
        forget, write, candidate = gates
        odds = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(write)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * candidate


class RGLRU(LinearCell):
    """Real-gated linear recurrent unit (De et al., 2024, "Griffin"): `a = exp(-8 softplus(decay) r)`, `b = sqrt(1 - a^2) i x`.

    Gates: recurrence r, input i, and x. A unit's own `decay` starts so that `a` of an open gate is uniform in 0.9 to 0.999, as
    the paper says.

    The authors' code (google-deepmind/recurrentgemma) differs. At the first position of a text its input is not multiplied by
    sqrt(1 - a^2); here it is, so the first state is 0.03 to 0.32 of theirs where a gate is half open. Its gates are block-diagonal,
    ours dense, and x is a projection of the layer's input by the same kernel. Its decay starts so that `exp(-softplus(decay))` has
    a square uniform between those of 0.9 and 0.999, and `a` of an open gate, its eighth power, is 0.43 to 0.99. It clips the
    root's gradient at 1,000; here 1 - a^2 is at least 1e-12.
    """

    gates = 3

    @staticmethod
    def coefficients(gates, own):
        recurrence, write, value = gates
        log_a = -8 * jax.nn.softplus(own["decay"]) * jax.nn.sigmoid(recurrence)
        # The root's slope at 0 is infinite, and `a` is 1 in float32 where a gate is closed.
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))
        return jnp.exp(log_a), scale * jax.nn.sigmoid(write) * value

    @classmethod
    def own(cls, hidden):
        def decay(random, shape):
            open_gate = random.uniform(0.9, 0.999, shape)
            return np.log(np.expm1(-np.log(open_gate) / 8))

        return {"decay": lambda key: initial.drawn(decay)(key, (hidden,))}
