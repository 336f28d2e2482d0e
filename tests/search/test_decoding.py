"""Search, on a recurrence of four units and nine tokens, against plain Python without batches or loops."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.search import automata, beam, sampling
from lm.search.beam import beam_search, beams, coverage, tile_beams
from lm.search.constraints import Constraints
from lm.search.sampling import Sampling, sample
from lm.search.step_function import ensemble

PAD, BOS, EOS, UNK = range(4)
V, D, LENGTH = 9, 4, 12
FORBIDDEN = (PAD, BOS, UNK)
GREEDY = Sampling(temperature=0.0)
FREE = Constraints()

RNG = np.random.default_rng(0)
EMBED_VD, RECUR_DD, HEAD_DV = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in [(V, D), (D, D), (D, V)])


def recurrence(ids_b, state):
    """Each token depends on all before it; the bias is each row's own, and does not change."""
    h_bd = jnp.tanh(state["h"] @ RECUR_DD + EMBED_VD[ids_b])
    return 2 * h_bd @ HEAD_DV + state["bias"], {"h": h_bd, "bias": state["bias"]}


def constant(ids_b, logits_bv):
    """The same distribution at every step: the state itself."""
    return logits_bv, logits_bv


def start(b=5, seed=0, eos_bias=0.0, only=None):
    """BOS and a state for each row; tokens from `only` on are impossible."""
    h_bd = jnp.asarray(np.random.default_rng(seed).normal(size=(b, D)), jnp.float32)
    bias_v = jnp.where(jnp.arange(V) == EOS, eos_bias, 0.0)
    bias_v = jnp.where(jnp.arange(V) < (only or V), bias_v, -jnp.inf)
    return jnp.full(b, BOS), {"h": h_bd, "bias": jnp.tile(bias_v, (b, 1))}


def random_keys(b=5, seed=0):
    return jax.random.split(jax.random.key(seed), b)


def row(tree, r):
    return jax.tree.map(lambda leaf: leaf[r : r + 1], tree)


@cache  # one compilation for all tests of the same shape
def compiled_sample(step_fn, length=LENGTH):
    return jax.jit(partial(sample, step_fn, length=length, eos_id=EOS, forbidden=FORBIDDEN))


@cache
def compiled_beam_search(step_fn, beam_size, length=LENGTH, groups=1, bonus_fn=None):
    settings = {"beam_size": beam_size, "length": length, "eos_id": EOS, "forbidden": FORBIDDEN}
    return jax.jit(partial(beam_search, step_fn, groups=groups, bonus_fn=bonus_fn, **settings))


def draw(ids_b, state, options, *, limits=LENGTH, step_fn=recurrence, keys_b=None, must=FREE, **settings):
    keys_b = random_keys(len(ids_b)) if keys_b is None else keys_b
    given = {"options": options, "limits_b": jnp.broadcast_to(jnp.array(limits), ids_b.shape), "constraints": must}
    return compiled_sample(step_fn, **settings)(ids_b, state, keys_b, **given)


def search(
    ids_b,
    state,
    beam_size,
    length_penalty=0.6,
    *,
    limits=LENGTH,
    step_fn=recurrence,
    must=FREE,
    diversity=0.0,
    **settings,
):
    run = compiled_beam_search(step_fn, beam_size, **settings)
    given = {"limits_b": jnp.broadcast_to(jnp.array(limits), ids_b.shape), "constraints": must}
    return run(ids_b, state, length_penalty=length_penalty, diversity_penalty=diversity, **given)


jitted_recurrence = jax.jit(recurrence)


def next_log_prob(last, state):
    logits_bv, state = jitted_recurrence(jnp.array([last]), state)
    logits_v = np.asarray(logits_bv[0], np.float64)
    return logits_v - np.logaddexp.reduce(logits_v), state


def teacher_forced(state, ids_l):
    """The log-probability of the ids of one row, every one of them given."""
    total = 0.0
    for last, target in itertools.pairwise([BOS, *ids_l]):
        log_prob_v, state = next_log_prob(last, state)
        total += log_prob_v[target]
    return total


def counted(calls):
    def step_fn(ids_b, state):
        jax.debug.callback(lambda: calls.append(1))
        return recurrence(ids_b, state)

    return step_fn


def assert_row_equals(batch, r, alone):
    for name, field in alone._asdict().items():
        np.testing.assert_allclose(field[0], getattr(batch, name)[r], rtol=1e-5, atol=1e-6, err_msg=name)


# Sampling


@pytest.mark.parametrize("options", [GREEDY, Sampling(), Sampling(0.8, 5, 0.9, 0.02)], ids=str)
def test_a_row_alone_equals_the_row_in_a_ragged_batch(options):
    (ids_b, state), keys_b, limits = start(eos_bias=3.0), random_keys(), [12, 3, 0, 7, 12]
    batch = draw(ids_b, state, options, limits=limits)
    assert len(set(batch.lengths_b.tolist())) > 2
    for r, limit in enumerate(limits):
        alone = draw(row(ids_b, r), row(state, r), options, limits=limit, keys_b=row(keys_b, r))
        assert_row_equals(batch, r, alone)


@pytest.mark.parametrize("options", [GREEDY, Sampling(), Sampling(0.5, 3, 0.7, 0.1)], ids=str)
def test_log_prob_is_the_models_own_under_teacher_forcing(options):
    ids_b, state = start()
    generated = draw(ids_b, state, options)
    for r, length in enumerate(generated.lengths_b.tolist()):
        expected = teacher_forced(row(state, r), generated.ids_bl[r, :length].tolist())
        np.testing.assert_allclose(generated.log_prob_b[r], expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_limits_lengths_and_ends_agree_with_the_ids(temperature):
    limits = [0, 99, LENGTH, 5, 1]
    generated = draw(*start(eos_bias=2.0), Sampling(temperature), limits=limits)
    ids_bl, lengths_b, log_prob_b, ended_b = jax.tree.map(np.asarray, generated)
    assert ended_b.any() and not ended_b.all() and log_prob_b[0] == 0
    for r, limit in enumerate(limits):
        length = lengths_b[r]
        assert ended_b[r] == (EOS in ids_bl[r])
        assert length == (list(ids_bl[r]).index(EOS) + 1 if ended_b[r] else min(limit, LENGTH))
        assert length <= limit
        assert (ids_bl[r, length:] == PAD).all() and not np.isin(ids_bl[r, :length], FORBIDDEN).any()


def test_sampling_stops_when_every_row_has():
    calls = []
    step_fn = counted(calls)
    generated = draw(*start(eos_bias=3.0), Sampling(), limits=500, length=500, step_fn=step_fn)
    jax.effects_barrier()
    assert generated.ended_b.all() and len(calls) == generated.lengths_b.max() < 100
    calls.clear()
    draw(*start(eos_bias=-1e9), Sampling(), limits=[3, 0, 2, 4, 1], length=500, step_fn=step_fn)
    jax.effects_barrier()
    assert len(calls) == 4


def test_greedy_takes_the_most_probable_allowed_token():
    ids_b, state = start()
    generated = draw(ids_b, state, GREEDY)
    for t in range(LENGTH):
        logits_bv, state = jitted_recurrence(ids_b, state)
        ids_b = jnp.argmax(logits_bv.at[:, jnp.array(FORBIDDEN)].set(-1e9), axis=1)
        assert (generated.ids_bl[:, t] == jnp.where(t < generated.lengths_b, ids_b, PAD)).all()


def test_keeping_one_token_equals_greedy():
    greedy = draw(*start(), GREEDY)
    for options in (Sampling(top_k=1), Sampling(top_p=0.0), Sampling(min_p=1.0)):
        assert (greedy.ids_bl == draw(*start(), options).ids_bl).all()
    assert not (greedy.ids_bl == draw(*start(), Sampling()).ids_bl).all()


def renormalised(logits_v, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """The filters by sorting: {allowed id: its probability}."""
    order = sorted((i for i in range(V) if i not in FORBIDDEN), key=lambda i: (-logits_v[i], i))
    order = order[: top_k or None]
    p = np.exp([logits_v[i] / temperature for i in order])
    p /= p.sum()
    kept = (np.cumsum(p) - p < top_p) & (p >= min_p * p[0])
    kept[0] = True
    p = {i: p_i / p[kept].sum() for i, p_i, keep in zip(order, p, kept, strict=True) if keep}
    if typical_p < 1:
        entropy = -sum(p_i * np.log(p_i) for p_i in p.values())
        order = sorted(p, key=lambda i: (round(abs(-np.log(p[i]) - entropy), 5), i))
        masses = np.cumsum([0.0, *(p[i] for i in order)])
        p = {i: p[i] for i, before in zip(order, masses, strict=False) if before < typical_p or before == 0}
    return {i: p_i / sum(p.values()) for i, p_i in p.items()}


@pytest.mark.parametrize(
    "logits_v",
    [
        [5.0, 5.0, 0.3, 5.0, 1.7, -0.4, 0.9, 1.2, -1.1],
        [5.0, 5.0, 1.0, 5.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        [5.0, 5.0, -1.0, 5.0, -0.0, 0.0, -0.0, 0.0, -1.0],
    ],
    ids=["distinct", "tied", "zeros"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": 4},
        {"top_k": 99},
        {"top_p": 0.0},
        {"top_p": 0.5},
        {"top_p": 0.8},
        {"top_p": 0.97},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"typical_p": 0.01},
        {"typical_p": 0.5},
        {"typical_p": 0.9},
        {"top_k": 3, "top_p": 0.7},
        {"temperature": 1.4, "top_k": 5, "min_p": 0.1, "typical_p": 0.6},
        {"temperature": 1.7, "top_k": 4, "top_p": 0.9, "min_p": 0.25},
    ],
    ids=str,
)
def test_draws_follow_the_renormalised_distribution_of_the_allowed_tokens(logits_v, options):
    draws, expected = 10_000, renormalised(logits_v, **options)
    logits_bv = jnp.tile(jnp.array(logits_v), (draws, 1))
    generated = draw(jnp.full(draws, BOS), logits_bv, Sampling(**options), step_fn=constant, limits=1, length=2)
    counts_v = np.bincount(generated.ids_bl[:, 0], minlength=V)
    assert set(np.flatnonzero(counts_v)) == set(expected)
    chi_square = sum((counts_v[i] - draws * p) ** 2 / (draws * p) for i, p in expected.items())
    freedom = len(expected) - 1
    assert chi_square <= freedom + 4 * np.sqrt(2 * freedom)


def test_successive_draws_and_rows_are_independent():
    draws = 10_000
    logits_bv = jnp.tile(jnp.where(jnp.arange(V) == EOS, -jnp.inf, 0.0), (draws, 1))
    ids_bl = draw(jnp.full(draws, BOS), logits_bv, Sampling(), step_fn=constant, length=2).ids_bl
    pairs = np.bincount(ids_bl[:, 0] * V + ids_bl[:, 1], minlength=V * V).reshape(V, V)[4:, 4:]
    assert pairs.sum() == draws
    assert ((pairs - draws / 25) ** 2 / (draws / 25)).sum() < 24 + 4 * np.sqrt(48)


@pytest.mark.parametrize("size", [1, 2, 16, 17, 1000])
def test_a_draw_is_as_likely_as_its_weight_and_none_is_of_weight_0(size):
    """Also where whole blocks have none, at the ends too, and where a sum is rounded."""
    draws, weights_v = 20_000, np.random.default_rng(0).exponential(size=size).astype(np.float32)
    weights_v[: size // 3] = weights_v[size - size // 5 :] = 0
    weights_v[size // 2 :: 7] *= 1e-9  # vanishes in a sum
    ids_b = sampling._drawn(jnp.tile(weights_v, (draws, 1)), jax.random.split(jax.random.key(1), draws))
    counts_v, expected_v = np.bincount(ids_b, minlength=size), draws * weights_v / weights_v.sum()
    assert len(counts_v) == size and (counts_v[weights_v == 0] == 0).all()
    likely = expected_v > 1
    chi_square = ((counts_v - expected_v) ** 2 / np.maximum(expected_v, 1e-9))[likely].sum()
    freedom = likely.sum() - 1
    assert chi_square <= freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 3), (1 - 2**-23, 46)])
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_id_that_has_a_weight(monkeypatch, uniform, expected):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform))
    weights_v = jnp.where((jnp.arange(60) < 3) | (jnp.arange(60) > 46), 0, 0.1)
    (found,) = sampling._drawn(weights_v[None], random_keys(1))
    assert found == expected


def test_other_values_of_the_options_compile_nothing_anew():
    traces, outcomes = [], set()

    def step_fn(ids_b, state):
        traces.append(len(outcomes))
        return recurrence(ids_b, state)

    for seed, options in enumerate([Sampling(), GREEDY, Sampling(0.7, 3, 0.9, 0.1)]):
        generated = draw(*start(), options, limits=seed + 9, keys_b=random_keys(seed=seed), step_fn=step_fn)
        outcomes.add(tuple(generated.ids_bl.ravel().tolist()))
    assert len(outcomes) == 3 and set(traces) == {0}


@pytest.mark.parametrize("options", [GREEDY, Sampling(), Sampling(1e-30), Sampling(1.0, 7, 0.99, 0.01)], ids=str)
def test_impossible_tokens_are_never_drawn_and_make_no_nan(options):
    generated = draw(*start(only=5), options)
    assert (generated.ids_bl < 5).all() and jnp.isfinite(generated.log_prob_b).all()


def test_a_step_with_the_wrong_logits_is_refused():
    with pytest.raises(ValueError, match="float32 logits of shape"):
        draw(jnp.full(2, BOS), jnp.zeros((2, V), jnp.bfloat16), GREEDY, step_fn=constant)


# Beam search


def reference_beams(
    state, beam_size, length_penalty, limit, permitted=lambda ids, i: True, last=lambda ids: ids[-1] == EOS
):
    """[(score, log_prob, ids)] of one row, best first, without batches and without stopping early."""
    alive, finished = [(0.0, (), state)], []
    for _ in range(limit):
        candidates = []
        for log_prob, ids, state in alive:
            log_prob_v, after = next_log_prob(ids[-1] if ids else BOS, state)
            allowed = [i for i in range(V) if i not in FORBIDDEN and np.isfinite(log_prob_v[i]) and permitted(ids, i)]
            allowed = allowed or [EOS]
            candidates += [(log_prob + log_prob_v[i], (*ids, i), after) for i in allowed]
        best = sorted(candidates, key=lambda c: -c[0])[:beam_size]
        alive = [c for c in best if not last(c[1])]
        finished += [c for c in best if last(c[1])]
    hypotheses = finished + alive[: max(beam_size - len(finished), 0)]
    return sorted(((p / penalty(ids, length_penalty), p, ids) for p, ids, _ in hypotheses), reverse=True)[:beam_size]


def penalty(ids, length_penalty):
    return ((5 + len(ids)) / 6) ** length_penalty


def hypotheses_of(beams, r):
    """Row r in the form of `reference_beams`."""
    log_prob_k, scores_k, lengths_k = (x[r].tolist() for x in (beams.log_prob_bk, beams.scores_bk, beams.lengths_bk))
    ids_k = [tuple(ids_l[:n]) for ids_l, n in zip(beams.ids_bkl[r].tolist(), lengths_k, strict=True)]
    return list(zip(scores_k, log_prob_k, ids_k, strict=True))


def assert_hypotheses(found, expected):
    assert [h[2] for h in found] == [h[2] for h in expected]
    np.testing.assert_allclose([h[:2] for h in found], [h[:2] for h in expected], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("eos_bias", [-2.0, 2.0, 4.0])
def test_beams_equal_a_plain_search_that_never_stops_early(length_penalty, eos_bias):
    limits = [8, 5, 0, 1, 12]
    for seed in range(4):
        ids_b, state = start(seed=seed, eos_bias=eos_bias)
        beams = search(ids_b, state, 3, length_penalty, limits=limits)
        for r, limit in enumerate(limits):
            expected = reference_beams(row(state, r), 3, length_penalty, limit)
            assert len(expected) == (3 if limit else 1)
            assert_hypotheses(hypotheses_of(beams, r)[: len(expected)], expected)


def test_beam_search_stops_when_no_hypothesis_can_improve():
    calls = []
    beams = search(*start(eos_bias=2.0), 2, 0.0, limits=500, length=500, step_fn=counted(calls))
    jax.effects_barrier()
    assert beams.ended_bk.all() and beams.lengths_bk.max() <= len(calls) < 30


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 5.0])
def test_a_beam_of_one_equals_greedy(length_penalty):
    limits = [99, 12, 0, 3, 12]
    for seed in range(4):
        ids_b, state = start(seed=seed, eos_bias=seed - 1.0)
        greedy = draw(ids_b, state, GREEDY, limits=limits)
        beams = search(ids_b, state, 1, length_penalty, limits=limits)
        assert (beams.ids_bkl[:, 0] == greedy.ids_bl).all()
        assert (beams.lengths_bk[:, 0] == greedy.lengths_b).all()
        assert (beams.ended_bk[:, 0] == greedy.ended_b).all()
        np.testing.assert_allclose(beams.log_prob_bk[:, 0], greedy.log_prob_b, rtol=1e-5, atol=1e-6)


def test_a_row_alone_equals_the_row_in_a_ragged_batch_of_beams():
    (ids_b, state), limits = start(), [12, 3, 0, 7, 12]
    batch = search(ids_b, state, 3, limits=limits)
    for r, limit in enumerate(limits):
        assert_row_equals(batch, r, search(row(ids_b, r), row(state, r), 3, limits=limit))


def test_a_beams_score_is_that_of_its_sequence_under_teacher_forcing():
    ids_b, state = start()
    beams = search(ids_b, state, 3, 0.8)
    assert (jnp.diff(beams.scores_bk) <= 0).all()
    for r in range(5):
        for score, log_prob, ids in hypotheses_of(beams, r):
            expected = teacher_forced(row(state, r), ids)
            np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
            np.testing.assert_allclose(score, expected / penalty(ids, 0.8), rtol=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
def test_a_beam_as_wide_as_the_space_lists_all_of_it_in_order(length_penalty):
    ids_b, state = start(2, only=6)  # EOS, 4 and 5: 1 + 2 + 4 sequences that end within 3 tokens, 8 that do not
    beams = search(ids_b, state, 16, length_penalty, limits=3)
    for r in range(2):
        expected = []
        for n in (1, 2, 3):
            for body in itertools.product((4, 5), repeat=n - 1):
                for ids in [(*body, last) for last in ((EOS, 4, 5) if n == 3 else (EOS,))]:
                    log_prob = teacher_forced(row(state, r), ids)
                    expected.append((log_prob / penalty(ids, length_penalty), log_prob, ids))
        assert len(expected) == 15
        assert_hypotheses(hypotheses_of(beams, r)[:15], sorted(expected, reverse=True))
    # The sixteenth slot has nothing to hold.
    assert jnp.isneginf(beams.scores_bk[:, 15]).all() and jnp.isneginf(beams.log_prob_bk[:, 15]).all()
    assert not beams.ids_bkl[:, 15].any() and not beams.lengths_bk[:, 15].any() and not beams.ended_bk[:, 15].any()


def test_beams_pad_after_their_end_and_never_hold_a_forbidden_token():
    beams = search(*start(), 3)
    used_bkl = jnp.arange(LENGTH) < beams.lengths_bk[:, :, None]
    assert not (jnp.isin(beams.ids_bkl, jnp.array(FORBIDDEN)) & used_bkl).any()
    assert (jnp.where(used_bkl, PAD, beams.ids_bkl) == PAD).all()
    assert ((beams.ids_bkl == EOS).any(axis=2) == beams.ended_bk).all() and beams.ended_bk.any()


def test_the_rows_of_a_step_are_tiled_row_major():
    ids_b, state = start(3)
    bias_bv = jnp.array([[0.0], [50.0], [-50.0]]) * (jnp.arange(V) == EOS)

    def step_fn(ids_n, h_nd):
        assert ids_n.shape == (6,)
        logits_nv, state = recurrence(ids_n, {"h": h_nd, "bias": tile_beams(bias_bv, 2)})
        return logits_nv, state["h"]

    beams = search(ids_b, state["h"], 2, 0.0, step_fn=step_fn)
    assert beams.lengths_bk[1].tolist() == [1, 2] and not beams.ended_bk[2].any()
    assert tile_beams(jnp.array([1, 2]), 2).tolist() == [1, 1, 2, 2]


# Constraints


def ends_in(ids, i, words):
    return any((*ids, i)[-len(word) :] == word for word in words)


def repeats(ids, n):
    grams = [ids[i : i + n] for i in range(len(ids) - n + 1)]
    return len(grams) != len(set(grams))


SURFACES = [bytes([i] * (i > UNK)) for i in range(V)]  # each token is one byte


def must_read(banned=(), forced=(), stops=()):
    return automata.of_bytes(
        SURFACES, *([bytes(word) for word in words] for words in (banned, forced, stops)), FORBIDDEN
    )


BANNED = ((5, 6), (6, 5), (4, 8), (8, 4), (7, 7), (6, 4, 5), (8, 8))
RULES = {
    "minimum": (Constraints(min_length=4), lambda ids, i: i != EOS or len(ids) >= 4),
    "unigrams": (Constraints(no_repeat_ngram=1), lambda ids, i: not repeats((*ids, i), 1)),
    "bigrams": (Constraints(no_repeat_ngram=2), lambda ids, i: not repeats((*ids, i), 2)),
    "trigrams": (Constraints(no_repeat_ngram=3), lambda ids, i: not repeats((*ids, i), 3)),
    "banned": (Constraints(automata=must_read(BANNED)), lambda ids, i: not ends_in(ids, i, BANNED)),
    "all": (
        Constraints(3, 2, must_read([(4, 8), (5, 6)])),
        lambda ids, i: (
            (i != EOS or len(ids) >= 3) and not repeats((*ids, i), 2) and not ends_in(ids, i, ((4, 8), (5, 6)))
        ),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_constraints_hold_of_greedy_and_beams_as_of_plain_searches(name):
    must, permitted = RULES[name]
    limits, broken = [12, 6, 12, 1, 9], 0
    for seed in range(3):
        ids_b, state = start(seed=seed, eos_bias=3.0 if name == "minimum" else 0.0)
        greedy, found = (
            draw(ids_b, state, GREEDY, limits=limits, must=must),
            search(ids_b, state, 3, limits=limits, must=must),
        )
        free = draw(ids_b, state, GREEDY, limits=limits)
        for r, limit in enumerate(limits):
            ids = tuple(greedy.ids_bl[r, : greedy.lengths_b[r]].tolist())
            ((_, log_prob, expected),) = reference_beams(row(state, r), 1, 0.0, limit, permitted)
            assert ids == expected
            np.testing.assert_allclose(greedy.log_prob_b[r], log_prob, rtol=1e-4)
            broken += ids != tuple(free.ids_bl[r, : free.lengths_b[r]].tolist())
            expected = reference_beams(row(state, r), 3, 0.6, limit, permitted)
            assert_hypotheses(hypotheses_of(found, r)[: len(expected)], expected)
            for _, log_prob, ids in hypotheses_of(found, r)[: len(expected)]:
                np.testing.assert_allclose(log_prob, teacher_forced(row(state, r), ids), rtol=1e-4)
    assert broken  # the rule changed something


@pytest.mark.parametrize("name", RULES)
def test_constraints_hold_of_samples_row_by_row(name):
    must, permitted = RULES[name]
    (ids_b, state), keys_b, limits = start(eos_bias=1.0), random_keys(), [12, 3, 0, 7, 12]
    batch = draw(ids_b, state, Sampling(1.3, top_p=0.98), limits=limits, must=must)
    for r, limit in enumerate(limits):
        ids = batch.ids_bl[r, : batch.lengths_b[r]].tolist()
        assert all(permitted(tuple(ids[:t]), ids[t]) for t in range(len(ids)))
        alone = (row(ids_b, r), row(state, r), Sampling(1.3, top_p=0.98))
        assert_row_equals(batch, r, draw(*alone, limits=limit, keys_b=row(keys_b, r), must=must))
        beams_of = search(ids_b, state, 3, limits=limits, must=must)
        assert_row_equals(beams_of, r, search(row(ids_b, r), row(state, r), 3, limits=limit, must=must))


def test_a_stop_string_ends_a_text_where_eos_may_in_samples_and_beams():
    """As EOS does: each search finds what a plain one finds in which such a token is the last one."""
    stops, limits, came = [(5,), (6, 7), (4, 8)], [12, 6, 12, 1, 9], 0
    for seed, least in ((0, 0), (1, 3)):
        must = Constraints(min_length=least, automata=must_read(stops=stops))
        ids_b, state = start(seed=seed, eos_bias=-2.0)
        greedy, found = (
            draw(ids_b, state, GREEDY, limits=limits, must=must),
            search(ids_b, state, 3, limits=limits, must=must),
        )
        last = lambda ids: bool(ids) and (ids[-1] == EOS or ends_in(ids[:-1], ids[-1], stops))
        permitted = lambda ids, i, least=least: len(ids) >= least or not (i == EOS or ends_in(ids, i, stops))
        for r, limit in enumerate(limits):
            ids = tuple(greedy.ids_bl[r, : greedy.lengths_b[r]].tolist())
            ((_, log_prob, expected),) = reference_beams(row(state, r), 1, 0.0, limit, permitted, last)
            assert ids == expected and bool(greedy.ended_b[r]) == last(ids)
            np.testing.assert_allclose(greedy.log_prob_b[r], log_prob, rtol=1e-4)
            came += last(ids) and ids[-1] != EOS
            expected = reference_beams(row(state, r), 3, 0.6, limit, permitted, last)
            assert_hypotheses(hypotheses_of(found, r)[: len(expected)], expected)
            assert found.ended_bk[r, : len(expected)].tolist() == [last(h[2]) for h in expected]
    assert came


def test_a_hypothesis_that_is_left_without_any_token_ranks_behind_those_that_hold_the_words():
    """After (5,) nothing may come, however probable 5 is; a text that holds the words begins otherwise."""
    must = Constraints(automata=must_read(banned=[(5, i) for i in range(4, V)], forced=[(7, 6)]))
    ids_b, state = start(eos_bias=2.0)
    state["bias"] = state["bias"].at[:, 5].add(6.0)
    for beam_size in (1, 3):
        found = search(ids_b, state, beam_size, limits=6, must=must)
        for r in range(5):
            ids = found.ids_bkl[r, 0, : found.lengths_bk[r, 0]].tolist()
            assert contains(ids, [7, 6]), ids


@pytest.mark.parametrize("density", [1.0, 0.3, 0.05])
def test_many_beams_of_a_grid_are_filled_as_few_are(density, monkeypatch):
    """Ties, beams that have no candidate and beams that have too few among them."""
    rng, width, groups = np.random.default_rng(0), 3, 7
    candidates_bc = rng.integers(-9, 0, (4, 60)).astype(np.float32)
    candidates_bc[rng.random((4, 60)) > density] = -np.inf
    progress_bc = rng.choice([0, 1, 3, 6], (4, 60), p=[0.5, 0.3, 0.1, 0.1])
    given = jnp.array(candidates_bc), jnp.array(progress_bc), width, width * groups
    few = beam._best_of_each(*given)
    monkeypatch.setattr(beam, "FEW", 1)
    many = beam._best_of_each(*given)
    np.testing.assert_array_equal(few[0], many[0])
    finite = np.isfinite(few[0])
    np.testing.assert_array_equal(few[1][finite], many[1][finite])
    assert finite.any() and not finite.all()


def test_a_row_without_any_token_left_ends():
    ids_b, state = start(only=6)  # 4 and 5, each once, and no EOS before the tenth
    must = Constraints(min_length=10, no_repeat_ngram=1)
    generated = draw(ids_b, state, GREEDY, must=must)
    assert generated.ended_b.all() and (generated.lengths_b == 3).all()
    found = search(ids_b, state, 2, must=must)
    assert found.ended_bk.all() and (found.lengths_bk == 3).all()


@pytest.mark.parametrize("shift", [0.0, -4.0])
@pytest.mark.parametrize("penalty", [0.5, 2.0, 4.0])
def test_the_repetition_penalty_makes_what_was_generated_less_likely(penalty, shift):
    ids_b, state = start(eos_bias=-3.0)
    state["bias"] += shift
    generated = draw(ids_b, state, Sampling(0.0, repetition_penalty=penalty))
    free = draw(ids_b, state, GREEDY)
    assert (generated.ids_bl != free.ids_bl).any()
    for r in range(5):
        after, ids, total = row(state, r), [], 0.0
        while EOS not in ids and len(ids) < LENGTH:
            logits_bv, after = jitted_recurrence(jnp.array([ids[-1] if ids else BOS]), after)
            logits_v = np.array(logits_bv[0], np.float64)
            penalised_v = logits_v.copy()
            for i in set(ids):
                penalised_v[i] = logits_v[i] / penalty if logits_v[i] > 0 else logits_v[i] * penalty
            penalised_v[list(FORBIDDEN)] = -np.inf
            ids.append(int(penalised_v.argmax()))
            total += logits_v[ids[-1]] - np.logaddexp.reduce(logits_v)
        assert generated.ids_bl[r, : generated.lengths_b[r]].tolist() == ids
        np.testing.assert_allclose(generated.log_prob_b[r], total, rtol=1e-4)  # the model's own


def contains(ids, word):
    return any(ids[i : i + len(word)] == word for i in range(len(ids)))


FORCED = ((5, 7), (8,))


def reference_grid(state, beam_size, length_penalty, limit):
    """Hypotheses that hold all of `FORCED`, by a beam for each number of their tokens that is there."""

    def progress(ids):
        total = 0
        for word in FORCED:
            if contains(ids, word):
                total += len(word)
            else:
                total += max(n for n in range(len(word)) if n == 0 or ids[-n:] == word[:n])
        return total

    alive, finished, furthest = [(0.0, (), state)], [], sum(map(len, FORCED))
    for _ in range(limit):
        candidates = []
        for log_prob, ids, state in alive:
            log_prob_v, after = next_log_prob(ids[-1] if ids else BOS, state)
            for i in range(V):
                if i not in FORBIDDEN and (i != EOS or progress(ids) == furthest):
                    candidates.append((log_prob + log_prob_v[i], (*ids, i), after))
        alive = []
        for reached in range(furthest + 1):
            same = [c for c in candidates if progress(c[1]) == reached]
            best = sorted(same, key=lambda c: -c[0])[:beam_size]
            alive += [c for c in best if c[1][-1] != EOS]
            finished += [c for c in best if c[1][-1] == EOS]
    whole = [c for c in alive if progress(c[1]) == furthest]
    hypotheses = finished + sorted(whole, key=lambda c: -c[0])[: max(beam_size - len(finished), 0)]
    return sorted(((p / penalty(ids, length_penalty), p, ids) for p, ids, _ in hypotheses), reverse=True)[:beam_size]


MUST = Constraints(automata=must_read(forced=FORCED))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_forced_words_come_and_the_beams_equal_a_plain_grid(length_penalty):
    limits = [8, 4, 12, 3, 6]
    assert beams(3, MUST) == 12
    for seed in range(2):
        ids_b, state = start(seed=seed, eos_bias=1.0)
        found = search(ids_b, state, 3, length_penalty, limits=limits, must=MUST)
        for r, limit in enumerate(limits):
            expected = reference_grid(row(state, r), 3, length_penalty, limit)
            assert_hypotheses(hypotheses_of(found, r)[: len(expected)], expected)
            for _, log_prob, ids in hypotheses_of(found, r)[: len(expected)]:
                assert all(contains(ids, word) for word in FORCED)
                np.testing.assert_allclose(log_prob, teacher_forced(row(state, r), ids), rtol=1e-4)
            alone = search(row(ids_b, r), row(state, r), 3, length_penalty, limits=limit, must=MUST)
            assert_row_equals(found, r, alone)


def test_the_widest_grid_finds_the_best_of_all_that_hold_the_words():
    ids_b, state = start(2, only=6)
    must = Constraints(automata=must_read(forced=[(5, 4)]))
    found = search(ids_b, state, 16, 0.7, limits=4, length=4, must=must)
    for r in range(2):
        expected = []
        for n in range(1, 5):
            for body in itertools.product((4, 5), repeat=n - 1):
                for ids in [(*body, last) for last in ((EOS, 4, 5) if n == 4 else (EOS,))]:
                    if contains(ids, (5, 4)):
                        log_prob = teacher_forced(row(state, r), ids)
                        expected.append((log_prob / penalty(ids, 0.7), log_prob, ids))
        assert len(expected) > 10
        assert_hypotheses(hypotheses_of(found, r)[: len(expected)], sorted(expected, reverse=True))


def test_words_that_do_not_fit_leave_the_best_without_them():
    ids_b, state = start()
    found = search(ids_b, state, 2, limits=2, must=MUST)  # three tokens and EOS
    assert jnp.isfinite(found.scores_bk).all() and (found.lengths_bk == 2).all()


# Groups


def reference_groups(state, width, groups, diversity, length_penalty, limit):
    """Diverse beam search as its paper has it, without stopping early."""
    alive, finished = [[(0.0, (), state)] for _ in range(groups)], [[] for _ in range(groups)]
    for _ in range(limit):
        taken = np.zeros(V)
        for g in range(groups):
            candidates = []
            for log_prob, ids, state in alive[g]:
                log_prob_v, after = next_log_prob(ids[-1] if ids else BOS, state)
                candidates += [(log_prob + log_prob_v[i], (*ids, i), after) for i in range(V) if i not in FORBIDDEN]
            best = sorted(candidates, key=lambda c: -(c[0] - diversity * taken[c[1][-1]]))[:width]
            for candidate in best:
                taken[candidate[1][-1]] += 1
            alive[g] = [c for c in best if c[1][-1] != EOS]
            finished[g] += [c for c in best if c[1][-1] == EOS]
    found = []
    for g in range(groups):
        of_group = sorted(((p / penalty(ids, length_penalty), p, ids) for p, ids, _ in finished[g]), reverse=True)[
            :width
        ]
        rest = sorted(alive[g], key=lambda c: -c[0])[: width - len(of_group)]
        found += of_group + [(p / penalty(ids, length_penalty), p, ids) for p, ids, _ in rest]
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("width", "groups"), [(1, 4), (2, 2)])
@pytest.mark.parametrize("diversity", [0.0, 0.7, 50.0])
def test_diverse_beams_equal_a_plain_search_in_turns(width, groups, diversity):
    limits = [8, 5, 1, 3, 12]
    for seed in range(2):
        ids_b, state = start(seed=seed, eos_bias=1.0)
        found = search(ids_b, state, width * groups, 0.8, limits=limits, groups=groups, diversity=diversity)
        for r, limit in enumerate(limits):
            expected = reference_groups(row(state, r), width, groups, diversity, 0.8, limit)
            assert_hypotheses(hypotheses_of(found, r), expected)
            alone = (row(ids_b, r), row(state, r), width * groups, 0.8)
            assert_row_equals(found, r, search(*alone, limits=limit, groups=groups, diversity=diversity))
        if diversity == 50 and width == 1:
            assert all(len(set(found.ids_bkl[r, :, 0].tolist())) == groups for r in range(5))


def test_a_group_that_cannot_improve_still_has_its_price_for_the_others():
    ids_b, state = start(40, eos_bias=1.0)
    chosen = jnp.array([19, 21, 28, 30])  # where stopping one group alone would change another
    state = jax.tree.map(lambda leaf: leaf[chosen], state)
    found = search(ids_b[:4], state, 4, 0.0, groups=2, diversity=0.3)
    for r in range(4):
        assert_hypotheses(hypotheses_of(found, r), reference_groups(row(state, r), 2, 2, 0.3, 0.0, LENGTH))


# Coverage and ensembles

SOURCE, MEMORY_SD = 4, jnp.asarray(RNG.normal(size=(4, D)), jnp.float32)


def attention(state):
    return jax.nn.softmax(3 * state["h"] @ MEMORY_SD.T)


MASK_S = jnp.array([True, True, True, False])


def covered(weight):
    def mask(n):
        return jnp.broadcast_to(MASK_S, (n, SOURCE))

    def step_fn(ids_n, state):
        logits_nv, inner = recurrence(ids_n, state[0])
        return logits_nv, (inner, state[1] + attention(inner))

    def bonus_fn(state):
        return coverage(lambda state: state[1], mask(len(state[1])), weight)(state)

    return step_fn, bonus_fn


def paid(state, ids):
    """The attention that each source position got under teacher forcing of the ids."""
    total = np.zeros(SOURCE)
    for last in [BOS, *ids[:-1]]:
        _, state = jitted_recurrence(jnp.array([last]), state)
        total += np.asarray(attention(state))[0]
    return total


def test_a_beam_as_wide_as_the_space_ranks_all_of_it_with_coverage():
    (ids_b, state), weight = start(2, only=6), 0.8
    step_fn, bonus_fn = covered(weight)
    begin = (state, jnp.zeros((2, SOURCE)))
    found = search(ids_b, begin, 16, 0.5, limits=3, step_fn=step_fn, bonus_fn=bonus_fn)
    without = search(ids_b, state, 16, 0.5, limits=3)
    assert (found.ids_bkl != without.ids_bkl).any()
    for r in range(2):
        expected = []
        for n in (1, 2, 3):
            for body in itertools.product((4, 5), repeat=n - 1):
                for ids in [(*body, last) for last in ((EOS, 4, 5) if n == 3 else (EOS,))]:
                    log_prob = teacher_forced(row(state, r), ids)
                    bonus = weight * np.log(np.minimum(paid(row(state, r), ids), 1))[np.array(MASK_S)].sum()
                    expected.append((log_prob / penalty(ids, 0.5) + bonus, log_prob, ids))
        assert_hypotheses(hypotheses_of(found, r)[:15], sorted(expected, reverse=True))


def test_an_ensemble_is_the_mean_of_the_probabilities():
    def other(ids_b, state):
        logits_bv, state = recurrence(ids_b, state)
        return logits_bv[:, ::-1] * 0.5, state

    ids_b, state = start()
    both = ensemble(recurrence, other)
    for step_fn in (recurrence, other):  # of two that are the same
        one, twice = draw(ids_b, state, GREEDY, step_fn=step_fn), ensemble(step_fn, step_fn)
        for name, field in draw(ids_b, (state, state), GREEDY, step_fn=twice)._asdict().items():
            np.testing.assert_allclose(field, getattr(one, name), rtol=1e-5)
    found = search(ids_b, (state, state), 3, 0.0, step_fn=both)
    for r in range(5):
        for _, log_prob, ids in hypotheses_of(found, r):
            states, total = [row(state, r)] * 2, 0.0
            for last, target in itertools.pairwise([BOS, *ids]):
                stepped = [step(jnp.array([last]), s) for step, s in zip((recurrence, other), states, strict=True)]
                states = [s for _, s in stepped]
                total += np.log(np.mean([jax.nn.softmax(logits_bv[0])[target] for logits_bv, _ in stepped]))
            np.testing.assert_allclose(log_prob, total, rtol=1e-4)
