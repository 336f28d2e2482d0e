"""Beam search, diverse and grid beam search, and the coverage penalty. `step_function.py` has shapes and arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lm.search.constraints import Constraints, ended, or_end, permitted, progress, read, unread
from lm.search.step_function import StepFn, checked_step

STUCK = 1e6  # subtracted from the score of a hypothesis that ended since no token was permitted
FEW = 32  # beams of a grid that are each searched for by themselves


class Beams(NamedTuple):
    """The best hypotheses of each sequence, best score first.

    An empty slot has log-probability and score of -inf, length 0 and ids 0. It occurs only if fewer than k sequences
    are possible.
    """

    ids_bkl: jax.Array  # int32, as in Generated
    lengths_bk: jax.Array  # int32
    log_prob_bk: jax.Array  # float32, nats, the plain sum
    scores_bk: jax.Array  # float32, log_prob_bk over the length penalty, minus STUCK if no token was permitted
    ended_bk: jax.Array  # bool, as in Generated


def beam_search(
    step_fn: StepFn,
    ids_b: jax.Array,
    state: Any,
    *,
    beam_size: int,
    length_penalty: float | jax.Array,
    length: int,
    limits_b: jax.Array,
    eos_id: int,
    forbidden: tuple[int, ...],
    constraints: Constraints = Constraints(),  # noqa: B008  (it never changes)
    groups: int = 1,
    diversity_penalty: float | jax.Array = 0.0,
    bonus_fn: Callable[[Any], jax.Array] | None = None,
) -> Beams:
    """Returns the k most probable sequences that beam search finds for each row (Sutskever et al., 2014, section 3.2).

    Each step keeps the k most probable extensions of all hypotheses in the beam. Those that end in EOS move to the
    finished set, which keeps the k best scores. The beam is filled up from the remaining extensions, so a beam of 1 is
    greedy search for any length penalty. The score is the log-probability over ((5 + tokens) / 6) ** length_penalty,
    EOS counted, plus the bonus (Wu et al., 2016, "Google's Neural Machine Translation System", equation 14).

    With forced words, there is a beam for each number of tokens that a hypothesis has completed of them, so that
    hypotheses compete with those at the same stage (grid beam search, Hokamp and Liu, 2017). With groups, each is a
    beam of k / groups. The groups take turns at each step, and a token costs `diversity_penalty` nats for each earlier
    group that chose it at this step (diverse beam search, Vijayakumar et al., 2018, Hamming diversity). This affects
    the choice within a beam, but not the score.

    A row stops when no hypothesis in its beams can beat the worst of k finished ones. Log-probabilities only fall, so a
    score is bounded by the present log-probability at the penalty of the row's limit; stopping thus changes no result.
    At the limit, unfinished hypotheses fill free slots and are ranked by score. A hypothesis that lacks a forced word,
    or that ended since no token was permitted, appears only if there are no others.

    Args:
        step_fn: called with b * m rows, m = `beams(beam_size, constraints)`, row-major: beam j of row i is row i * m +
            j. The state is tiled and reordered here. The caller passes arrays that `step_fn` closes over (an encoder's
            memory) through `tile_beams`.
        beam_size: k, static, at least 1.
        length_penalty: at least 0; 0 ranks by log-probability. The other arguments: see the module.
        groups: static, a divisor of k; 1 with forced words.
        bonus_fn: maps the state after a step to float32 of shape (n,), at most 0: an addition to the score, such as a
            coverage penalty.
    """
    b, width = ids_b.shape[0], beam_size // groups
    m = beams(width, constraints)
    if beam_size % groups or groups > 1 and m != width:
        raise ValueError(f"{groups} groups of a beam of {beam_size}, with {m} beams of {width}")
    # A group is searched like a separate sequence, except for the diversity penalty.
    rows = b * groups
    limits_r = jnp.repeat(jnp.minimum(limits_b, length), groups)

    def penalty(tokens):
        return ((5 + jnp.float32(tokens)) / 6) ** length_penalty

    def open_rows(step, alive, finished):
        attainable_r = jnp.max(alive.log_prob_bk, axis=1) / penalty(limits_r)
        open_r = (step < limits_r) & (attainable_r > finished.scores_bk[:, -1])
        # Groups stop together, since the tokens of one are penalized in the others.
        return jnp.repeat(jnp.any(open_r.reshape(b, groups), axis=1), groups)

    def unfinished(carry):
        step, _, _, alive, finished = carry
        return jnp.any(open_rows(step, alive, finished))

    def extend(carry):
        step, ids_n, (state, states_np), alive, finished = carry
        logits_nv, state = checked_step(step_fn, ids_n, state)
        v = logits_nv.shape[1]
        ids_nl = alive.ids_bkl.reshape(rows * m, length)
        permitted_nv = permitted(constraints, ids_nl, step, states_np, logits_nv, eos_id, forbidden)
        stuck_n = ~jnp.any(permitted_nv, axis=1)
        log_prob_nv = jnp.where(or_end(permitted_nv, eos_id), jax.nn.log_softmax(logits_nv), -jnp.inf)
        candidates_bkv = alive.log_prob_bk[:, :, None] + log_prob_nv.reshape(rows, m, v)
        if groups > 1:
            in_turn = candidates_bkv.reshape(b, groups, width, v)
            log_prob_bk, index_bk = (x.reshape(rows, m) for x in _take_turns(in_turn, diversity_penalty))
        elif m > width:
            progress_nv = progress(constraints, states_np).reshape(rows, m * v)
            log_prob_bk, index_bk = _best_of_each(candidates_bkv.reshape(rows, m * v), progress_nv, width, m)
        else:
            log_prob_bk, index_bk = lax.top_k(candidates_bkv.reshape(rows, m * v), m)
        parents_bk, ids_bk = index_bk // v, index_bk % v
        rows_n = (jnp.arange(rows)[:, None] * m + parents_bk).reshape(rows * m)
        scores_bk = log_prob_bk / penalty(step + 1) - STUCK * stuck_n[rows_n].reshape(rows, m)
        if bonus_fn is not None:
            scores_bk += bonus_fn(state)[rows_n].reshape(rows, m)
        ids_n = ids_bk.reshape(rows * m)
        state, states_np = jax.tree.map(lambda leaf: leaf[rows_n], (state, states_np))
        states_np = read(constraints, states_np, ids_n)
        ids_bkl = jnp.take_along_axis(alive.ids_bkl, parents_bk[:, :, None], axis=1)
        extended = Beams(
            ids_bkl=ids_bkl.at[:, :, step].set(ids_bk),
            lengths_bk=jnp.full((rows, m), step + 1),
            log_prob_bk=log_prob_bk,
            scores_bk=scores_bk,
            ended_bk=ended(constraints, states_np, ids_n, eos_id).reshape(rows, m),
        )
        new_alive = _only(extended, ~extended.ended_bk)
        new_finished = _best(width, finished, _only(extended, extended.ended_bk))
        # A sequence that has stopped stays unchanged until the others have stopped.
        open_r = open_rows(step, alive, finished)
        alive = jax.tree.map(lambda new, old: _where(open_r, new, old), new_alive, alive)
        finished = jax.tree.map(lambda new, old: _where(open_r, new, old), new_finished, finished)
        return step + 1, ids_n, (state, states_np), alive, finished

    alive = _only(_blank(rows, m, length), jnp.broadcast_to(jnp.arange(m) == 0, (rows, m)))
    finished = _only(_blank(rows, width, length), jnp.zeros((rows, width), bool))
    ids_n, state = tile_beams((ids_b.astype(jnp.int32), state), groups * m)
    start = (jnp.int32(0), ids_n, (state, unread(constraints, rows * m)), alive, finished)
    *_, alive, finished = lax.while_loop(unfinished, extend, start)

    found = _ranked(alive, finished, width)
    return _best(beam_size, jax.tree.map(lambda x: x.reshape(b, beam_size, *x.shape[2:]), found))


def beams(beam_size: int, constraints: Constraints) -> int:
    """Returns the number of beams that `beam_search` steps for each row."""
    return beam_size * (1 + (constraints.automata.furthest if constraints.automata else 0))


def coverage(
    paid_fn: Callable[[Any], jax.Array], mask_ns: jax.Array, penalty: float | jax.Array
) -> Callable[[Any], jax.Array]:
    """Returns the bonus for `beam_search` that adds penalty * sum_s log(min(attention paid to s, 1)) to a score.

    See Wu et al. (2016), equation 14.

    Args:
        paid_fn: maps the state after a step to float32 of shape (n, s), the attention paid to each position so far. A
            step function for it adds its attention weights to its state.
        mask_ns: True at the positions of the source.
        penalty: at least 0.
    """

    def bonus(state):
        paid_ns = jnp.clip(paid_fn(state), jnp.finfo(jnp.float32).tiny, 1)  # -inf would be no score at all
        return penalty * jnp.sum(jnp.where(mask_ns, jnp.log(paid_ns), 0), axis=1)

    return bonus


def tile_beams(tree: Any, beam_size: int) -> Any:
    """Repeats each row of every leaf `beam_size` times: leading axis b becomes b * k, row-major."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, beam_size, axis=0), tree)


def _best_of_each(candidates_bc, progress_bc, width: int, m: int) -> tuple[jax.Array, jax.Array]:
    """The `width` best candidates (values, indices) of each progress 0, 1, ..., side by side: m in all."""
    if m // width <= FEW:
        each = [lax.top_k(jnp.where(progress_bc == p, candidates_bc, -jnp.inf), width) for p in range(m // width)]
        return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*each, strict=True))
    # Of many, each by itself would cost the square of their number.
    index_bc = jnp.broadcast_to(jnp.arange(candidates_bc.shape[1]), candidates_bc.shape)
    progress_bc, costs_bc, index_bc = lax.sort((progress_bc, -candidates_bc, index_bc), num_keys=2)
    bounds = jax.vmap(lambda sorted_c: jnp.searchsorted(sorted_c, jnp.arange(m // width + 1)))(progress_bc)
    places_bgk = bounds[:, :-1, None] + jnp.arange(width)
    there_bk = (places_bgk < bounds[:, 1:, None]).reshape(-1, m)
    places_bk = jnp.minimum(places_bgk.reshape(-1, m), candidates_bc.shape[1] - 1)
    taken = lambda each_bc: jnp.take_along_axis(each_bc, places_bk, axis=1)
    return jnp.where(there_bk, -taken(costs_bc), -jnp.inf), taken(index_bc)


def _take_turns(candidates_bgkv: jax.Array, diversity_penalty) -> tuple[jax.Array, jax.Array]:
    """The best candidates (values, indices) of each group, (b, g, k), tokens that groups before took at a price."""
    b, groups, k, v = candidates_bgkv.shape
    taken_bv, values, indices = jnp.zeros((b, v)), [], []
    for group in range(groups):
        own_bc = candidates_bgkv[:, group].reshape(b, k * v)
        index_bk = lax.top_k(own_bc - jnp.tile(diversity_penalty * taken_bv, (1, k)), k)[1]
        values.append(jnp.take_along_axis(own_bc, index_bk, axis=1))
        indices.append(index_bk)
        taken_bv = taken_bv.at[jnp.arange(b)[:, None], index_bk % v].add(jnp.isfinite(values[-1]))
    return jnp.stack(values, axis=1), jnp.stack(indices, axis=1)


def _blank(rows: int, k: int, length: int) -> Beams:
    """Returns empty slots."""
    return Beams(
        ids_bkl=jnp.zeros((rows, k, length), jnp.int32),
        lengths_bk=jnp.zeros((rows, k), jnp.int32),
        log_prob_bk=jnp.zeros((rows, k), jnp.float32),
        scores_bk=jnp.zeros((rows, k), jnp.float32),
        ended_bk=jnp.zeros((rows, k), bool),
    )


def _ranked(alive: Beams, finished: Beams, width: int) -> Beams:
    """Returns the `width` best hypotheses of each row at the end of the search, with unfinished ones in free slots.

    Finished ones come first in all merges, so an empty slot is one of the blanks that it started with.
    """
    rows, m = alive.scores_bk.shape
    rank_k = jnp.arange(width)
    whole_k = jnp.arange(m) >= m - width  # the last beam's hypotheses have all words
    free_r = jnp.sum(finished.scores_bk < -STUCK / 2, axis=1)
    ends = _best(width, _only(alive, jnp.broadcast_to(whole_k, (rows, m))))
    found = _best(width, finished, _only(ends, rank_k < free_r[:, None]))
    if m == width:
        return found
    none_r1 = jnp.all(jnp.isneginf(found.scores_bk), axis=1, keepdims=True)
    return _best(width, found, _only(alive, jnp.broadcast_to(none_r1, (rows, m))))


def _only(beams: Beams, keep_bk: jax.Array) -> Beams:
    """Returns the beams with all slots emptied that are not kept."""
    return beams._replace(
        log_prob_bk=jnp.where(keep_bk, beams.log_prob_bk, -jnp.inf),
        scores_bk=jnp.where(keep_bk, beams.scores_bk, -jnp.inf),
    )


def _best(k: int, *sets: Beams) -> Beams:
    """The k best scores of the sets, best first; of equal scores, the earlier set's."""
    together = jax.tree.map(lambda *fields: jnp.concatenate(fields, axis=1), *sets)
    index_bk = lax.top_k(together.scores_bk, k)[1]
    return jax.tree.map(lambda field: jax.vmap(lambda row, index: row[index])(field, index_bk), together)


def _where(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns `jnp.where` for a condition on the leading axes."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - condition.ndim)), new, old)
