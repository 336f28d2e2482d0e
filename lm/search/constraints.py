"""Which tokens a search may generate at all."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Automata:
    """What the text must hold and must not, as deterministic automata that read every token; all begin in state 0.

    A token that has no next state in one of them is not generated. `progress_ps` says how many tokens a state is
    nearer than state 0 to where EOS may come; `furthest` is what it is there, summed over the automata.
    """

    next_psv: jax.Array  # int32, the state after a token; -1: there is none
    progress_ps: jax.Array  # int32, at least 0
    furthest: int = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constraints:
    """What may be generated at all. Where a row is left without any token, EOS ends it."""

    min_length: int | jax.Array = 0  # tokens before EOS may come
    no_repeat_ngram: int | jax.Array = 0  # n: no n tokens come twice (Paulus et al. 2018, section 2.5); 0 is off
    automata: Automata | None = None


# What may come
def permitted(constraints, ids_nl, step, states_np, logits_nv, eos_id, forbidden) -> jax.Array:
    """bool (n, v): the tokens that may follow `step` generated ones."""
    tokens_v = jnp.arange(logits_nv.shape[1])
    possible_v = ~jnp.isin(tokens_v, jnp.array(forbidden, jnp.int32))
    permitted_nv = possible_v & ((step >= constraints.min_length) | (tokens_v != eos_id)) & jnp.isfinite(logits_nv)
    permitted_nv &= lax.cond(
        constraints.no_repeat_ngram > 0,
        lambda: ~_repeating(ids_nl, step, constraints.no_repeat_ngram, len(tokens_v)),
        lambda: jnp.ones_like(permitted_nv),
    )
    if constraints.automata is not None:
        permitted_nv &= jnp.all(_after(constraints.automata, states_np) >= 0, axis=1)
    nothing_n1 = ~jnp.any(permitted_nv, axis=1, keepdims=True)
    return permitted_nv | nothing_n1 & (tokens_v == eos_id)


def _repeating(ids_nl: jax.Array, step: jax.Array, size: int | jax.Array, v: int) -> jax.Array:
    """bool (n, v): the tokens that would end `size` tokens which are there already."""
    n, length = ids_nl.shape
    at_l = jnp.arange(length)

    def narrow(back, match_nl):
        last_n1 = lax.dynamic_index_in_dim(ids_nl, step - back, axis=1)
        return match_nl & (jnp.roll(ids_nl, back, axis=1) == last_n1)

    match_nl = jnp.broadcast_to((at_l >= size - 1) & (at_l < step), (n, length))
    return marked(ids_nl, lax.fori_loop(1, size, narrow, match_nl), v)


def marked(ids_nl: jax.Array, which_nl: jax.Array, v: int) -> jax.Array:
    """bool (n, v): the tokens that stand at the given places."""
    n = ids_nl.shape[0]
    return jnp.zeros((n, v), bool).at[jnp.arange(n)[:, None], ids_nl].max(which_nl)


def unread(constraints: Constraints, n: int) -> jax.Array:
    """The states of the automata of n rows before the first token."""
    return jnp.zeros((n, constraints.automata.next_psv.shape[0] if constraints.automata else 0), jnp.int32)


def _after(automata: Automata, states_np: jax.Array) -> jax.Array:
    """int32 (n, p, v): the states after each token."""
    return automata.next_psv[jnp.arange(states_np.shape[1]), states_np]


def read(constraints: Constraints, states_np: jax.Array, ids_n: jax.Array) -> jax.Array:
    """The states after the given tokens; -1 comes of EOS in a row that was left without a token, and is its last."""
    if constraints.automata is None:
        return states_np
    return constraints.automata.next_psv[jnp.arange(states_np.shape[1]), states_np, ids_n[:, None]]


def progress(constraints: Constraints, states_np: jax.Array) -> jax.Array:
    """int32 (n, v): how far a row is after each token, as `Automata.progress_ps` has it."""
    automata = constraints.automata
    after_npv = jnp.maximum(_after(automata, states_np), 0)
    return jnp.sum(automata.progress_ps[jnp.arange(states_np.shape[1])[:, None], after_npv], axis=1)
