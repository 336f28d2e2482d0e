"""Search, on a recurrence of four units and nine tokens, against plain Python without batches or loops."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.decoding import Sampling, beam_search, sample, tile_beams

PAD, BOS, EOS, UNK = range(4)
V, D, LENGTH = 9, 4, 12
FORBIDDEN = (PAD, BOS, UNK)
GREEDY = Sampling(temperature=0.0)

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
def compiled_beam_search(step_fn, beam_size, length=LENGTH):
    settings = {"beam_size": beam_size, "length": length, "eos_id": EOS, "forbidden": FORBIDDEN}
    return jax.jit(partial(beam_search, step_fn, **settings))


def draw(ids_b, state, options, *, limits=LENGTH, step_fn=recurrence, keys_b=None, **settings):
    keys_b = random_keys(len(ids_b)) if keys_b is None else keys_b
    limits_b = jnp.broadcast_to(jnp.array(limits), ids_b.shape)
    return compiled_sample(step_fn, **settings)(ids_b, state, keys_b, options=options, limits_b=limits_b)


def search(ids_b, state, beam_size, length_penalty=0.6, *, limits=LENGTH, step_fn=recurrence, **settings):
    run = compiled_beam_search(step_fn, beam_size, **settings)
    limits_b = jnp.broadcast_to(jnp.array(limits), ids_b.shape)
    return run(ids_b, state, length_penalty=length_penalty, limits_b=limits_b)


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


def renormalised(logits_v, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The filters by sorting: {allowed id: its probability}."""
    order = sorted((i for i in range(V) if i not in FORBIDDEN), key=lambda i: (-logits_v[i], i))
    order = order[: top_k or None]
    p = np.exp([logits_v[i] / temperature for i in order])
    p /= p.sum()
    kept = (np.cumsum(p) - p < top_p) & (p >= min_p * p[0])
    kept[0] = True
    return {i: p_i / p[kept].sum() for i, p_i, keep in zip(order, p, kept, strict=True) if keep}


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
        {"top_k": 3, "top_p": 0.7},
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


def reference_beams(state, beam_size, length_penalty, limit):
    """[(score, log_prob, ids)] of one row, best first, without batches and without stopping early."""
    alive, finished = [(0.0, (), state)], []
    for _ in range(limit):
        candidates = []
        for log_prob, ids, state in alive:
            log_prob_v, after = next_log_prob(ids[-1] if ids else BOS, state)
            allowed = (i for i in range(V) if i not in FORBIDDEN and np.isfinite(log_prob_v[i]))
            candidates += [(log_prob + log_prob_v[i], (*ids, i), after) for i in allowed]
        best = sorted(candidates, key=lambda c: -c[0])[:beam_size]
        alive = [c for c in best if c[1][-1] != EOS]
        finished += [c for c in best if c[1][-1] == EOS]
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
