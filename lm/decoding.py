"""Search over `step_fn(ids, state) -> (logits, state)`: one loop to sample, one for beam search.

Nothing here knows the model. `step_fn` takes the last token of each row, int32 of shape (b,), and a `state`,
any pytree whose leaves have a leading batch axis; it returns the next token's logits, float32 of shape
(b, v), and the new state. Both searches are meant to be called inside the caller's `jit` and stop as soon as
every row has; a row's result does not depend on the other rows of its batch.

Arguments that both share:
    ids_b: the last token already known of each row (BOS, or the last of the prompt), not yet consumed.
    state: what `step_fn` carries, having consumed all that comes before `ids_b`.
    length: static; the width l of the buffers of generated ids.
    limits_b: int32, the most tokens each row may generate, EOS counted; what exceeds `length` is cut to it.
    eos_id: the token that ends a sequence.
    forbidden: ids that are never generated (PAD, BOS, UNK). Some other id must have a finite logit.

    constraints: see `Constraints`; they hold of what is generated, and know nothing of the prompt.

Log-probabilities are nats under the model's own distribution: the softmax of its logits as they are, with
nothing forbidden, filtered, penalised or tempered. So they equal what teacher forcing of the sequence gives.

Shape letters: b batch, k beam, n rows of a step, l generated time, v vocabulary, p automata, s their states.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

StepFn = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. A pytree: pass it through `jit`, and new values compile nothing anew.

    In this order: `repetition_penalty` divides the positive logits of tokens that were generated before, and
    multiplies the negative ones (Keskar et al. 2019, "CTRL"); the logits are divided by `temperature`; `top_k` keeps the k most probable tokens (Fan et
    al. 2018, "Hierarchical Neural Story Generation"); of these, renormalised, `top_p` keeps the fewest most
    probable whose probabilities reach p (Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration"); of these, `min_p` keeps those at least p times as probable as the most probable (Nguyen et
    al. 2024, "Turning Up the Heat: Min-p Sampling"); of these, renormalised, `typical_p` keeps the fewest whose
    probabilities reach p, those first whose surprise is nearest to the entropy (Meister et al. 2023, "Locally
    Typical Sampling"). At least one token always stays, and but for `typical_p` it is the most probable. Of equal
    tokens the lower id counts as the more probable, so `top_k=1` is greedy whatever the ties.
    """

    temperature: float | jax.Array = 1.0  # 0 is greedy: the most probable token, whatever the filters
    top_k: int | jax.Array = 0  # 0 is off
    top_p: float | jax.Array = 1.0  # 1 is off
    min_p: float | jax.Array = 0.0  # 0 is off
    typical_p: float | jax.Array = 1.0  # 1 is off
    repetition_penalty: float | jax.Array = 1.0  # 1 is off; greedy heeds it too


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Words:
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
    words: Words | None = None


class Generated(NamedTuple):
    """What `sample` generated for each row, without the prompt."""

    ids_bl: jax.Array  # int32, EOS included where it was reached, 0 (PAD) after
    lengths_b: jax.Array  # int32, tokens generated, EOS counted
    log_prob_b: jax.Array  # float32, nats, summed over the tokens generated
    ended_b: jax.Array  # bool, whether EOS was reached


class Beams(NamedTuple):
    """The best hypotheses of each row, best score first.

    A slot that no hypothesis fills has log-probability and score of -inf, length 0 and ids 0; this happens
    only where fewer than k sequences are possible.
    """

    ids_bkl: jax.Array  # int32, as in Generated
    lengths_bk: jax.Array  # int32
    log_prob_bk: jax.Array  # float32, nats, the plain sum
    scores_bk: jax.Array  # float32, log_prob_bk over the length penalty
    ended_bk: jax.Array  # bool


def sample(
    step_fn: StepFn,
    ids_b: jax.Array,
    state: Any,
    keys_b: jax.Array,
    *,
    options: Sampling,
    length: int,
    limits_b: jax.Array,
    eos_id: int,
    forbidden: tuple[int, ...],
    constraints: Constraints = Constraints(),  # noqa: B008  (it never changes)
) -> Generated:
    """Draws a continuation of each row, one token a step; greedy where the temperature is 0.

    Args:
        keys_b: one random key for each row. Token t of row r is drawn with `fold_in(keys_b[r], t)`, so a
            row's tokens do not depend on the batch it is in.
        options: see `Sampling`. The other arguments: see the module.
    """
    limits_b = jnp.minimum(limits_b, length)

    def open_rows(step, generated):
        return ~generated.ended_b & (step < limits_b)

    def unfinished(carry):
        step, _, _, generated = carry
        return jnp.any(open_rows(step, generated))

    def generate(carry):
        step, ids_b, (state, words_bp), generated = carry
        logits_bv, state = _checked_step(step_fn, ids_b, state)
        step_keys_b = jax.vmap(jax.random.fold_in, (0, None))(keys_b, step)
        open_b = open_rows(step, generated)
        permitted_bv = _permitted(constraints, generated.ids_bl, step, words_bp, logits_bv, eos_id, forbidden)
        penalised_bv = _penalised(logits_bv, generated.ids_bl, step, options.repetition_penalty)
        ids_b = jnp.where(open_b, _choose(jnp.where(permitted_bv, penalised_bv, -jnp.inf), step_keys_b, options), 0)
        words_bp = _read(constraints, words_bp, ids_b)
        chosen_b = jnp.take_along_axis(logits_bv, ids_b[:, None], axis=1)[:, 0]
        log_prob_b = chosen_b - jax.nn.logsumexp(logits_bv, axis=1)
        generated = Generated(
            ids_bl=generated.ids_bl.at[:, step].set(ids_b),
            lengths_b=generated.lengths_b + open_b,
            log_prob_b=generated.log_prob_b + jnp.where(open_b, log_prob_b, 0),
            ended_b=generated.ended_b | (ids_b == eos_id) & open_b,
        )
        return step + 1, ids_b, (state, words_bp), generated

    b = ids_b.shape[0]
    nothing = Generated(
        ids_bl=jnp.zeros((b, length), jnp.int32),
        lengths_b=jnp.zeros(b, jnp.int32),
        log_prob_b=jnp.zeros(b, jnp.float32),
        ended_b=jnp.zeros(b, bool),
    )
    start = (jnp.int32(0), ids_b.astype(jnp.int32), (state, _unread(constraints, b)), nothing)
    return lax.while_loop(unfinished, generate, start)[-1]


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
    """The k sequences of each row that beam search finds most probable (Sutskever et al. 2014, section 3.2).

    Each step keeps the k most probable extensions of all that is in the beam; those that end in EOS leave it
    for the finished set, which keeps the k best scores and loses none of them to a hypothesis still in the
    beam. The beam fills up again from what is left in it, so a beam of 1 is greedy search whatever the length
    penalty. The score is the log-probability over ((5 + tokens) / 6) ** length_penalty, EOS counted, plus the
    bonus (Wu et al. 2016, "Google's Neural Machine Translation System", equation 14).

    Where words must come, there is a beam for each number of tokens by which a hypothesis is nearer to having
    them, so that one that pays for a word competes with those that pay as much (grid beam search, Hokamp and Liu
    2017). With groups, each of them is a beam of k / groups; they take turns at each step, and a token costs
    `diversity_penalty` nats for each time that groups before have taken it at this step (diverse beam search,
    Vijayakumar et al. 2018, Hamming diversity). That decides what stays in a beam, and is no part of a score.

    A row stops when nothing in its beams can still beat the worst of k finished: log-probabilities only fall,
    so a hypothesis's score is bounded by its present log-probability at the penalty of the row's limit.
    Stopping thus changes no result. At the limit, unfinished hypotheses fill the slots, if any, that finished
    ones leave free, and are ranked among them by score; those that lack a word only where there is nothing else.

    Args:
        step_fn: called with b * m rows, m = `beams(beam_size, constraints)`, row-major: beam j of row i is row
            i * m + j. The state is tiled and reordered here; what `step_fn` closes over for each row (an encoder's
            memory) the caller passes through `tile_beams`.
        beam_size: k, static, at least 1.
        length_penalty: at least 0; 0 ranks by log-probability. The other arguments: see the module.
        groups: static, a divisor of k; 1 where words must come.
        bonus_fn: the state after a step -> float32 of shape (n,), at most 0: what a hypothesis's score gains, such
            as a coverage penalty.
    """
    b, width = ids_b.shape[0], beam_size // groups
    m = beams(width, constraints)
    if beam_size % groups or groups > 1 and m != width:
        raise ValueError(f"{groups} groups of a beam of {beam_size}, with {m} beams of {width}")
    # A group is a row of its own, but for what its tokens cost.
    rows = b * groups
    limits_r = jnp.repeat(jnp.minimum(limits_b, length), groups)

    def penalty(tokens):
        return ((5 + jnp.float32(tokens)) / 6) ** length_penalty

    def open_rows(step, alive, finished):
        attainable_r = jnp.max(alive.log_prob_bk, axis=1) / penalty(limits_r)
        open_r = (step < limits_r) & (attainable_r > finished.scores_bk[:, -1])
        # Groups stop together: what one takes has a price for the others as long as they go on.
        return jnp.repeat(jnp.any(open_r.reshape(b, groups), axis=1), groups)

    def unfinished(carry):
        step, _, _, alive, finished = carry
        return jnp.any(open_rows(step, alive, finished))

    def extend(carry):
        step, ids_n, (state, words_np), alive, finished = carry
        logits_nv, state = _checked_step(step_fn, ids_n, state)
        v = logits_nv.shape[1]
        ids_nl = alive.ids_bkl.reshape(rows * m, length)
        permitted_nv = _permitted(constraints, ids_nl, step, words_np, logits_nv, eos_id, forbidden)
        log_prob_nv = jnp.where(permitted_nv, jax.nn.log_softmax(logits_nv), -jnp.inf)
        candidates_bkv = alive.log_prob_bk[:, :, None] + log_prob_nv.reshape(rows, m, v)
        if groups > 1:
            in_turn = candidates_bkv.reshape(b, groups, width, v)
            log_prob_bk, index_bk = (x.reshape(rows, m) for x in _take_turns(in_turn, diversity_penalty))
        elif m > width:
            progress_nv = _progress(constraints, words_np).reshape(rows, m * v)
            log_prob_bk, index_bk = _best_of_each(candidates_bkv.reshape(rows, m * v), progress_nv, width, m)
        else:
            log_prob_bk, index_bk = lax.top_k(candidates_bkv.reshape(rows, m * v), m)
        parents_bk, ids_bk = index_bk // v, index_bk % v
        rows_n = (jnp.arange(rows)[:, None] * m + parents_bk).reshape(rows * m)
        scores_bk = log_prob_bk / penalty(step + 1)
        if bonus_fn is not None:
            scores_bk += bonus_fn(state)[rows_n].reshape(rows, m)
        ids_bkl = jnp.take_along_axis(alive.ids_bkl, parents_bk[:, :, None], axis=1)
        extended = Beams(
            ids_bkl=ids_bkl.at[:, :, step].set(ids_bk),
            lengths_bk=jnp.full((rows, m), step + 1),
            log_prob_bk=log_prob_bk,
            scores_bk=scores_bk,
            ended_bk=ids_bk == eos_id,
        )
        new_alive = _only(extended, ~extended.ended_bk)
        new_finished = _best(width, finished, _only(extended, extended.ended_bk))
        # A row that has stopped waits for the others unchanged: at its limit it may not grow.
        open_r = open_rows(step, alive, finished)
        alive = jax.tree.map(lambda new, old: _where(open_r, new, old), new_alive, alive)
        finished = jax.tree.map(lambda new, old: _where(open_r, new, old), new_finished, finished)
        ids_n = ids_bk.reshape(rows * m)
        state = jax.tree.map(lambda leaf: leaf[rows_n], (state, words_np))
        return step + 1, ids_n, (state[0], _read(constraints, state[1], ids_n)), alive, finished

    def blank(k):
        return Beams(
            ids_bkl=jnp.zeros((rows, k, length), jnp.int32),
            lengths_bk=jnp.zeros((rows, k), jnp.int32),
            log_prob_bk=jnp.zeros((rows, k), jnp.float32),
            scores_bk=jnp.zeros((rows, k), jnp.float32),
            ended_bk=jnp.zeros((rows, k), bool),
        )

    alive = _only(blank(m), jnp.broadcast_to(jnp.arange(m) == 0, (rows, m)))
    finished = _only(blank(width), jnp.zeros((rows, width), bool))
    ids_n, state = tile_beams((ids_b.astype(jnp.int32), state), groups * m)
    start = (jnp.int32(0), ids_n, (state, _unread(constraints, rows * m)), alive, finished)
    *_, alive, finished = lax.while_loop(unfinished, extend, start)

    # Finished comes first in all merges, so a slot that nothing fills is one of the blanks that it began with.
    rank_k = jnp.arange(width)
    whole_k = jnp.arange(m) >= m - width  # the last beam's hypotheses have all words
    free_r = jnp.sum(jnp.isneginf(finished.scores_bk), axis=1)
    ends = _best(width, _only(alive, jnp.broadcast_to(whole_k, (rows, m))))
    found = _best(width, finished, _only(ends, rank_k < free_r[:, None]))
    if m > width:
        none_r1 = jnp.all(jnp.isneginf(found.scores_bk), axis=1, keepdims=True)
        found = _best(width, found, _only(alive, jnp.broadcast_to(none_r1, (rows, m))))
    return _best(beam_size, jax.tree.map(lambda x: x.reshape(b, beam_size, *x.shape[2:]), found))


def beams(beam_size: int, constraints: Constraints) -> int:
    """How many beams `beam_search` steps for each row."""
    return beam_size * (1 + (constraints.words.furthest if constraints.words else 0))


def ensemble(*step_fns: StepFn) -> StepFn:
    """One step of several models: the mean of their probabilities; the state is a tuple of theirs."""

    def step_fn(ids_b, states):
        stepped = [_checked_step(step, ids_b, state) for step, state in zip(step_fns, states, strict=True)]
        if len(stepped) == 1:
            return stepped[0][0], (stepped[0][1],)
        log_prob_mbv = jnp.stack([jax.nn.log_softmax(logits_bv) for logits_bv, _ in stepped])
        # Of their sum: a softmax makes a mean of it.
        return jax.nn.logsumexp(log_prob_mbv, axis=0), tuple(state for _, state in stepped)

    return step_fn


def coverage(
    step_fn: StepFn,
    attention_fn: Callable[[Any], jax.Array],
    mask_ns: jax.Array,
    penalty: float | jax.Array,
) -> tuple[StepFn, Callable[[Any], jax.Array]]:
    """The step and the bonus for `beam_search` that add penalty * sum_s log(min(attention paid to s, 1)) to a score.

    Wu et al. (2016), equation 14. The state becomes (that of `step_fn`, the attention paid so far: zeros_ns at first).

    Args:
        attention_fn: the state after a step -> float32 of shape (n, s), the weights that the step attended with.
        mask_ns: where the source is real.
        penalty: at least 0.
    """

    def step(ids_n, state):
        logits_nv, inner = step_fn(ids_n, state[0])
        return logits_nv, (inner, state[1] + attention_fn(inner))

    def bonus(state):
        paid_ns = jnp.clip(state[1], jnp.finfo(jnp.float32).tiny, 1)  # -inf would be no score at all
        return penalty * jnp.sum(jnp.where(mask_ns, jnp.log(paid_ns), 0), axis=1)

    return step, bonus


def tile_beams(tree: Any, beam_size: int) -> Any:
    """Repeats each row of every leaf `beam_size` times: leading axis b becomes b * k, row-major."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, beam_size, axis=0), tree)


def _checked_step(step_fn: StepFn, ids_b: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    logits_bv, state = step_fn(ids_b, state)
    if logits_bv.ndim != 2 or logits_bv.shape[0] != ids_b.shape[0] or logits_bv.dtype != jnp.float32:
        raise ValueError(
            f"step_fn must return float32 logits of shape ({ids_b.shape[0]}, v) for ids of shape "
            f"{ids_b.shape}, got {logits_bv.dtype} of shape {logits_bv.shape}"
        )
    return logits_bv, state


# What may come


def _permitted(constraints, ids_nl, step, words_np, logits_nv, eos_id, forbidden) -> jax.Array:
    """bool (n, v): the tokens that may follow `step` generated ones."""
    tokens_v = jnp.arange(logits_nv.shape[1])
    possible_v = ~jnp.isin(tokens_v, jnp.array(forbidden, jnp.int32))
    permitted_nv = possible_v & ((step >= constraints.min_length) | (tokens_v != eos_id)) & jnp.isfinite(logits_nv)
    permitted_nv &= lax.cond(
        constraints.no_repeat_ngram > 0,
        lambda: ~_repeating(ids_nl, step, constraints.no_repeat_ngram, len(tokens_v)),
        lambda: jnp.ones_like(permitted_nv),
    )
    if constraints.words is not None:
        permitted_nv &= jnp.all(_after(constraints.words, words_np) >= 0, axis=1)
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
    return _marked(ids_nl, lax.fori_loop(1, size, narrow, match_nl), v)


def _marked(ids_nl: jax.Array, which_nl: jax.Array, v: int) -> jax.Array:
    """bool (n, v): the tokens that stand at the given places."""
    n = ids_nl.shape[0]
    return jnp.zeros((n, v), bool).at[jnp.arange(n)[:, None], ids_nl].max(which_nl)


def _unread(constraints: Constraints, n: int) -> jax.Array:
    """The states of the automata of n rows before the first token."""
    return jnp.zeros((n, constraints.words.next_psv.shape[0] if constraints.words else 0), jnp.int32)


def _after(words: Words, words_np: jax.Array) -> jax.Array:
    """int32 (n, p, v): the states after each token."""
    return words.next_psv[jnp.arange(words_np.shape[1]), words_np]


def _read(constraints: Constraints, words_np: jax.Array, ids_n: jax.Array) -> jax.Array:
    """The states after the given tokens; -1 comes of EOS in a row that was left without a token, and is its last."""
    if constraints.words is None:
        return words_np
    return constraints.words.next_psv[jnp.arange(words_np.shape[1]), words_np, ids_n[:, None]]


def _progress(constraints: Constraints, words_np: jax.Array) -> jax.Array:
    """int32 (n, v): how far a row is after each token, as `Words.progress_ps` has it."""
    words = constraints.words
    after_npv = jnp.maximum(_after(words, words_np), 0)
    return jnp.sum(words.progress_ps[jnp.arange(words_np.shape[1])[:, None], after_npv], axis=1)


# What is chosen


def _best_of_each(candidates_bc, progress_bc, width: int, m: int) -> tuple[jax.Array, jax.Array]:
    """The `width` best candidates (values, indices) of each progress 0, 1, ..., side by side: m in all."""
    each = [
        lax.top_k(jnp.where(progress_bc == progress, candidates_bc, -jnp.inf), width) for progress in range(m // width)
    ]
    return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*each, strict=True))


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


def _penalised(logits_bv, ids_bl, step, penalty: float | jax.Array) -> jax.Array:
    """The logits, those of tokens that were generated before made less."""

    def penalise():
        used_bv = _marked(
            ids_bl, jnp.broadcast_to(jnp.arange(ids_bl.shape[1]) < step, ids_bl.shape), logits_bv.shape[1]
        )
        return jnp.where(used_bv, jnp.where(logits_bv > 0, logits_bv / penalty, logits_bv * penalty), logits_bv)

    return lax.cond(penalty != 1, penalise, lambda: logits_bv)


def _choose(logits_bv: jax.Array, keys_b: jax.Array, options: Sampling) -> jax.Array:
    """The next token of each row."""

    def greedy():
        return jnp.argmax(logits_bv, axis=1).astype(jnp.int32)

    def draw():
        # From the maximum down, so that a low temperature overflows to -inf and not to inf.
        behind_bv = (jnp.max(logits_bv, axis=1, keepdims=True) - logits_bv) / options.temperature
        return _drawn(jnp.where(_filter(behind_bv, options), jnp.exp(-behind_bv), 0), keys_b)

    return lax.cond(options.temperature == 0, greedy, draw)


def _drawn(weights_bv: jax.Array, keys_b: jax.Array) -> jax.Array:
    """An id of each row, as likely as its weight, and none of weight 0.

    By inversion: a block of ids first, then one of these. That takes two random numbers, where the maximum of Gumbel
    noise (`jax.random.categorical`) takes one for each id: on a CPU much of a small model's time.
    """
    b, v = weights_bv.shape
    width = math.isqrt(v - 1) + 1
    blocks_bmw = jnp.pad(weights_bv, [(0, 0), (0, -v % width)]).reshape(b, -1, width)
    uniform_2b = jax.vmap(lambda key: jax.random.uniform(key, (2,)), out_axes=1)(keys_b)

    def first_above(weights_bn, uniform_b):
        # Rounding must not choose what has no weight, so the sum up to there does not count.
        sums_bn = jnp.where(weights_bn > 0, jnp.cumsum(weights_bn, axis=1), 0)
        return jnp.argmax(sums_bn > uniform_b[:, None] * jnp.max(sums_bn, axis=1, keepdims=True), axis=1)

    block_b = first_above(blocks_bmw.sum(axis=2), uniform_2b[0])
    inside_bw = jnp.take_along_axis(blocks_bmw, block_b[:, None, None], axis=1)[:, 0]
    return (block_b * width + first_above(inside_bw, uniform_2b[1])).astype(jnp.int32)


def _filter(behind_bv: jax.Array, options: Sampling) -> jax.Array:
    """Which tokens may be drawn, given how far each is behind the most probable, in nats."""
    ratio_bv = jnp.exp(-behind_bv)  # to the most probable token's probability
    everything_bv = jnp.ones_like(behind_bv, bool)

    def most_probable_k():
        return _fewest_that_reach(behind_bv, jnp.ones_like(behind_bv), jnp.float32(options.top_k))

    kept_bv = lax.cond(options.top_k > 0, most_probable_k, lambda: everything_bv)

    def nucleus():
        mass_bv = jnp.where(kept_bv, ratio_bv, 0)
        return _fewest_that_reach(behind_bv, mass_bv, options.top_p * jnp.sum(mass_bv, axis=1, keepdims=True))

    kept_bv &= lax.cond(options.top_p < 1, nucleus, lambda: everything_bv)
    kept_bv &= ratio_bv >= jnp.minimum(options.min_p, 1)

    def typical():
        mass_bv = jnp.where(kept_bv, ratio_bv, 0)
        mass_bv /= jnp.sum(mass_bv, axis=1, keepdims=True)
        surprise_bv = -jnp.log(mass_bv)
        entropy_b1 = jnp.sum(jnp.where(mass_bv > 0, mass_bv * surprise_bv, 0), axis=1, keepdims=True)
        distance_bv = jnp.where(kept_bv, jnp.abs(surprise_bv - entropy_b1), jnp.inf)
        return _fewest_that_reach(distance_bv, mass_bv, options.typical_p)

    return kept_bv & lax.cond(options.typical_p < 1, typical, lambda: everything_bv)


def _fewest_that_reach(behind_bv: jax.Array, mass_bv: jax.Array, target_b1: jax.Array) -> jax.Array:
    """The fewest tokens, least behind first and lower id first among equals, whose mass reaches the target.

    Finds the last such token's distance bit by bit (the bits of non-negative floats are ordered as they are):
    31 sums over the vocabulary, an eighth of a sort's time on a CPU at 50,000 tokens.
    """
    target_b1 = jnp.maximum(target_b1, jnp.finfo(jnp.float32).tiny)  # so that at least one token is needed
    bits_bv = lax.bitcast_convert_type(jnp.abs(behind_bv), jnp.int32)  # -0.0 would come before all

    def mass_before(bound_b1):
        return jnp.sum(jnp.where(bits_bv < bound_b1, mass_bv, 0), axis=1, keepdims=True)

    def set_bit(i, bound_b1):
        higher_b1 = bound_b1 | (1 << (30 - i))
        return jnp.where(mass_before(higher_b1) < target_b1, higher_b1, bound_b1)

    bound_b1 = lax.fori_loop(0, 31, set_bit, jnp.zeros((behind_bv.shape[0], 1), jnp.int32))
    tied_bv = jnp.where(bits_bv == bound_b1, mass_bv, 0)
    needed_bv = mass_before(bound_b1) + jnp.cumsum(tied_bv, axis=1) - tied_bv < target_b1
    return (bits_bv < bound_b1) | (bits_bv == bound_b1) & needed_bv


def _only(beams: Beams, keep_bk: jax.Array) -> Beams:
    """Empties the slots that are not kept."""
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
    """`jnp.where` for a condition on the leading axes."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - condition.ndim)), new, old)
