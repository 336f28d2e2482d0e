"""The tokens that a search may generate."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax

NOTHING = 256  # the byte of a token that has ended


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Automata:
    """The strings that a text must not contain, must contain, and ends before, as deterministic automata.

    They read the bytes of every token. The axis p holds one automaton for all banned strings if there are any, then one
    per forced string, then one for all stop strings if there are any. Each has its own states, and a last one that is
    never left: then the text contains a string. The arrays are linear in the strings and in the vocabulary. `table_sv`
    is their product, and exists only if it is small.
    """

    first_p: jax.Array  # int32, the state before the first byte
    last_p: jax.Array  # int32, the state of a text that holds a string
    next_sc: jax.Array  # int32 (s, 257), the state after a byte; after NOTHING, the same one
    progress_s: (
        jax.Array
    )  # int32, how many tokens a state of a forced string is nearer than the first one to the last one
    bytes_lu: tuple[jax.Array, ...]  # int16, the l-th bytes of all tokens with at least l, the longest token first
    places_v: jax.Array  # int32, the place of each token in that order
    table_sv: jax.Array | None  # int32, the state after each token
    bans: bool = field(metadata={"static": True})  # whether the first automaton is of banned strings
    stops: bool = field(metadata={"static": True})  # whether the last automaton is of stop strings
    furthest: int = field(metadata={"static": True})  # the sum of `progress_s` over the last states


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constraints:
    """The constraints on generated tokens. If a sequence has no permitted token, EOS ends it.

    A token that completes a stop string ends a text as EOS does, and is permitted only where EOS is.
    """

    min_length: int | jax.Array = 0  # tokens before EOS may come
    no_repeat_ngram: int | jax.Array = 0  # n: no n tokens come twice (Paulus et al. 2018, section 2.5); 0 is off
    automata: Automata | None = None


def permitted(constraints, ids_nl, step, states_np, logits_nv, eos_id, forbidden) -> jax.Array:
    """Returns bool (n, v): the tokens that may follow `step` generated ones; none if the constraints permit none."""
    tokens_v = jnp.arange(logits_nv.shape[1])
    possible_v = ~jnp.isin(tokens_v, jnp.array(forbidden, jnp.int32))
    permitted_nv = possible_v & jnp.isfinite(logits_nv)
    permitted_nv &= lax.cond(
        constraints.no_repeat_ngram > 0,
        lambda: ~_repeating(ids_nl, step, constraints.no_repeat_ngram, len(tokens_v)),
        lambda: jnp.ones_like(permitted_nv),
    )
    ends_nv, may_end_nv = tokens_v == eos_id, step >= constraints.min_length
    if (automata := constraints.automata) is not None:
        holds_npv = states_after(automata, states_np) == automata.last_p[:, None]
        forced = slice(automata.bans, holds_npv.shape[1] - automata.stops)
        may_end_nv &= jnp.all(holds_npv[:, forced], axis=1)
        if automata.bans:
            permitted_nv &= ~holds_npv[:, 0]
        if automata.stops:
            ends_nv |= holds_npv[:, -1]
    return permitted_nv & (~ends_nv | may_end_nv)


def or_end(permitted_nv: jax.Array, eos_id: int) -> jax.Array:
    """Returns the permitted tokens, with EOS in rows without any."""
    nothing_n1 = ~jnp.any(permitted_nv, axis=1, keepdims=True)
    return permitted_nv | nothing_n1 & (jnp.arange(permitted_nv.shape[1]) == eos_id)


def ended(constraints: Constraints, states_np: jax.Array, ids_n: jax.Array, eos_id: int) -> jax.Array:
    """Returns bool (n,): whether the token that led to these states of the automata was the last one of its text."""
    stopped = constraints.automata is not None and constraints.automata.stops
    return (ids_n == eos_id) | (states_np[:, -1] == constraints.automata.last_p[-1] if stopped else False)


def _repeating(ids_nl: jax.Array, step: jax.Array, size: int | jax.Array, v: int) -> jax.Array:
    """Returns bool (n, v): the tokens that would repeat an n-gram of `size` tokens."""
    n, length = ids_nl.shape
    at_l = jnp.arange(length)

    def narrow(back, match_nl):
        last_n1 = lax.dynamic_index_in_dim(ids_nl, step - back, axis=1)
        return match_nl & (jnp.roll(ids_nl, back, axis=1) == last_n1)

    match_nl = jnp.broadcast_to((at_l >= size - 1) & (at_l < step), (n, length))
    return marked(ids_nl, lax.fori_loop(1, size, narrow, match_nl), v)


def marked(ids_nl: jax.Array, which_nl: jax.Array, v: int) -> jax.Array:
    """Returns bool (n, v): the tokens at the marked positions."""
    n = ids_nl.shape[0]
    return jnp.zeros((n, v), bool).at[jnp.arange(n)[:, None], ids_nl].max(which_nl)


def unread(constraints: Constraints, n: int) -> jax.Array:
    """Returns the states of the automata of n rows before the first token."""
    first_p = jnp.zeros(0, jnp.int32) if constraints.automata is None else constraints.automata.first_p
    return jnp.broadcast_to(first_p, (n, len(first_p)))


def states_after(automata: Automata, states_x: jax.Array) -> jax.Array:
    """Returns int32 (..., v): the states after each token."""
    return walked(automata, states_x) if automata.table_sv is None else automata.table_sv[states_x]


def walked(automata: Automata, states_x: jax.Array) -> jax.Array:
    """Computes `states_after` byte by byte."""
    size = len(automata.places_v)
    bytes_lv = jnp.stack([jnp.pad(u, (0, size - len(u)), constant_values=NOTHING) for u in automata.bytes_lu])
    states_xv = jnp.broadcast_to(states_x[..., None], (*states_x.shape, size))
    states_xv = lax.fori_loop(0, len(bytes_lv), lambda place, xv: automata.next_sc[xv, bytes_lv[place]], states_xv)
    return states_xv[..., automata.places_v]


def read(constraints: Constraints, states_np: jax.Array, ids_n: jax.Array) -> jax.Array:
    """The states after the given tokens."""
    if (automata := constraints.automata) is None:
        return states_np
    places_n = automata.places_v[ids_n]
    bytes_ln = jnp.stack(
        [
            jnp.where(places_n < len(bytes_u), bytes_u[jnp.minimum(places_n, len(bytes_u) - 1)], NOTHING)
            for bytes_u in automata.bytes_lu
        ]
    )
    # A loop in XLA: it would fuse a chain of look-ups and recompute each of them for every later one.
    step = lambda place, states_np: automata.next_sc[states_np, bytes_ln[place][:, None]]
    return lax.fori_loop(0, len(bytes_ln), step, states_np)


def progress(constraints: Constraints, states_np: jax.Array) -> jax.Array:
    """Returns int32 (n, v): the progress of a row after each token, see `Automata.progress_s`."""
    return jnp.sum(constraints.automata.progress_s[states_after(constraints.automata, states_np)], axis=1)
