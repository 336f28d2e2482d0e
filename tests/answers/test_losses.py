"""The fused cross-entropy is the plain one: in value, in gradient, and however it is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from support.losses import B, D, T, V, case, close

from lm.answers import cross_entropy as head
from lm.answers.sampled_softmax import Candidates, draw_candidates, sampled_cross_entropy


def fused(features, kernel, bias, targets, weights, smoothing, z=0.0, dtype="float32"):
    return head.cross_entropy(features, (kernel, bias), targets, weights, smoothing, z, dtype)[0]


def plain(features, kernel, bias, targets, weights, smoothing, z=0.0):
    """The definition, with all logits and the whole target distribution written out."""
    logits, wanted = features @ kernel + bias, (1 - smoothing) * jax.nn.one_hot(targets, V) + smoothing / V
    return jnp.sum((optax.softmax_cross_entropy(logits, wanted) + z * jax.nn.logsumexp(logits, -1) ** 2) * weights)


def value_and_gradient(loss, *given, smoothing, **options):
    return jax.value_and_grad(partial(loss, smoothing=smoothing, **options), argnums=(0, 1, 2))(*given)


@pytest.fixture
def chunks(monkeypatch):
    """Sets how many positions and ids are looked at at a time, and whether their logits are computed twice."""
    return lambda *plan: monkeypatch.setattr(head, "_plan", lambda *_: head._Plan(*plan))


@pytest.mark.parametrize("smoothing, z", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3)])
@pytest.mark.parametrize("plan", [(1, V, False), (4, 3, True), (5, 4, False), (B * T, 2, True), (B * T, V, False)])
def test_it_equals_the_definition_in_value_and_gradient_however_it_is_cut(plan, smoothing, z, chunks):
    chunks(*plan)
    expected = value_and_gradient(plain, *case(), smoothing=smoothing, z=z)
    close(value_and_gradient(fused, *case(), smoothing=smoothing, z=z), expected)
    close(fused(*case(), smoothing, z), expected[0])


@pytest.mark.parametrize("vocab", [1, 1000, 10_000, 60_000, 1_000_000])
@pytest.mark.parametrize("positions", [1, 16, 2048, 2**16])
@pytest.mark.parametrize("width", [16, 512, 4096])
def test_chunks_are_wide_enough_for_fast_products_and_within_the_bound(positions, vocab, width):
    rows, columns, again = head._plan(jax.ShapeDtypeStruct((width, vocab), jnp.float32), positions)
    assert min(positions, head.FEW) <= rows <= positions and 1 <= columns <= vocab
    assert 8 * rows * (columns if again else vocab) <= 3 / 4 * head.BOUND
    assert 4 * width * (max(columns, rows) if again else columns) <= head.BOUND / 8
    assert again == (vocab >= 60_000 and positions > (16 if vocab == 60_000 else 1))


@pytest.mark.parametrize("tied", [False, True])
def test_beside_operands_and_results_it_holds_less_than_the_bound_by_the_compilers_account(tied):
    positions, width, held = 2048, 512, {}
    for vocab in (10_000, 40_000, 100_000):
        shapes = [(positions, 1, width), (vocab, width) if tied else (width, vocab), (vocab,)]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        ids = jax.ShapeDtypeStruct((positions, 1), jnp.int32)

        def loss(features, table, bias, targets, tied=tied):
            weights = jnp.ones(targets.shape)
            return head.cross_entropy(features, (table.T if tied else table, bias), targets, weights)[0]

        step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*given, ids).compile()
        held[vocab] = step.memory_analysis().temp_size_in_bytes
    # All logits would be 78, 312 and 781 MiB. A tied head's gradient is that of the transpose, once more as large.
    turned = {vocab: 4 * vocab * width * tied for vocab in held}
    assert all(held[vocab] - turned[vocab] < 64 * 2**20 for vocab in held), held


def test_without_smoothing_it_is_the_cross_entropy_of_the_targets():
    features, kernel, bias, targets, weights = case()
    nats = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, targets)
    total, count = head.cross_entropy(features, (kernel, bias), targets, weights)
    np.testing.assert_allclose(total, jnp.sum(nats * weights), rtol=1e-6)
    np.testing.assert_allclose(count, weights.sum(), rtol=1e-6)
    assert total.dtype == count.dtype == jnp.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_has_weight_0_counts_for_nothing(smoothing, chunks):
    chunks(4, 3, True)
    features, kernel, bias, targets, weights = case()
    padding = np.asarray(weights) == 0
    noise = jnp.where(padding[..., None], 50.0, features), kernel, bias, jnp.where(padding, V - 1, targets), weights
    found = value_and_gradient(fused, features, kernel, bias, targets, weights, smoothing=smoothing)
    close(value_and_gradient(fused, *noise, smoothing=smoothing), found)
    d_features = np.asarray(found[1][0])
    assert (d_features[padding] == 0).all() and (np.abs(d_features[~padding]).sum(-1) > 0).all()


def test_the_gradient_is_of_the_value_by_finite_differences_in_float64(chunks):
    chunks(4, 3, True)
    with jax.enable_x64(True):
        features, kernel, bias, targets, weights = case(jnp.float64)
        for smoothing in (0.0, 0.1):
            value = lambda *given, e=smoothing: 3 * fused(*given, targets, weights, e) ** 2
            assert value(features, kernel, bias).dtype == jnp.float64
            check_grads(value, (features, kernel, bias), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
            found = value_and_gradient(fused, *case(jnp.float64), smoothing=smoothing)
            close(found, value_and_gradient(plain, *case(jnp.float64), smoothing=smoothing), rtol=1e-10)


def test_losses_by_token_add_up_to_the_loss():
    features, kernel, bias, targets, weights = case()
    nats = head.position_nats(features, (kernel, bias), targets)
    assert nats.shape == (B, T)
    np.testing.assert_allclose(
        nats, optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, targets), rtol=1e-5
    )
    np.testing.assert_allclose(jnp.sum(nats * weights), fused(*case(), 0.0), rtol=1e-6)


@pytest.mark.parametrize("plan", [(15, V, False), (4, 3, True)])
def test_huge_logits_give_no_infinity(plan, chunks):
    chunks(*plan)
    features, kernel, bias, targets, weights = case()
    total, gradient = value_and_gradient(fused, features * 1e4, kernel, bias, targets, weights, smoothing=0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, gradient)))


def test_bfloat16_products_keep_float32_results_a_little_off():
    full = value_and_gradient(fused, *case(), smoothing=0.0, dtype="float32")
    half = value_and_gradient(fused, *case(), smoothing=0.0, dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
        assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a).max()


# ---- sampled softmax --------------------------------------------------------------------------------------------

WORDS, SAMPLED = 50, 16


def sampled_case(dtype=jnp.float32):
    """As `case`, of more ids, with targets among those that are always candidates and among the rest."""
    features, _, _, _, weights = case(dtype)
    rng = np.random.default_rng(1)
    kernel, bias = (jnp.asarray(rng.normal(size=s), dtype) for s in [(D, WORDS), (WORDS,)])
    return features, kernel, bias, jnp.asarray(rng.integers(0, WORDS, (B, T)), jnp.int32).at[0, 0].set(3), weights


def sampled(features, kernel, bias, targets, weights, candidates, smoothing=0.0):
    return sampled_cross_entropy(features, (kernel, bias), targets, weights, candidates)[0]


def test_the_normaliser_of_a_sampled_softmax_is_unbiased():
    features, kernel, bias, targets, _ = sampled_case()
    logits = features @ kernel + bias
    gold = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]

    @jax.jit
    @jax.vmap
    def normalizers(key):
        candidates, one = draw_candidates(key, WORDS, SAMPLED), jnp.ones((1, 1))
        nats = jax.vmap(lambda f, t: sampled(f[None, None], kernel, bias, t[None, None], one, candidates))
        return jnp.exp(nats(features.reshape(-1, D), targets.ravel()) + gold.ravel())

    found = np.asarray(normalizers(jax.random.split(jax.random.key(0), 4000)))
    expected = np.exp(jax.nn.logsumexp(logits, axis=-1)).ravel()
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - expected) < 4 * error).all()
    assert (error < 0.02 * expected).all()


def test_candidates_are_the_first_ids_and_one_of_each_part_of_the_rest_each_as_often():
    draws = jax.vmap(lambda key: draw_candidates(key, WORDS, SAMPLED))(jax.random.split(jax.random.key(0), 2000))
    ids = np.asarray(draws.ids_c)
    assert (ids[:, :8] == np.arange(8)).all() and ids[:, 8:].min() == 8 and ids.max() == WORDS - 1
    parts = 8 + np.arange(9) * (WORDS - 8) / 8
    assert (parts[:-1] - 1 < ids[:, 8:]).all() and (ids[:, 8:] < parts[1:]).all()
    counts = np.bincount(ids[:, 8:].ravel(), minlength=WORDS)[8:] / len(ids)
    np.testing.assert_allclose(counts, 8 / (WORDS - 8), atol=0.05)
    np.testing.assert_allclose(np.exp(draws.log_weights_c[0]), [1] * 8 + [(WORDS - 8) / 8] * 8, rtol=1e-6)


def test_the_gradient_of_a_sampled_softmax_is_of_its_value_however_it_is_cut(monkeypatch):
    candidates = draw_candidates(jax.random.key(0), WORDS, SAMPLED)
    whole = value_and_gradient(sampled, *sampled_case(), candidates, smoothing=0.0)
    with jax.enable_x64(True):
        features, kernel, bias, targets, weights = sampled_case(jnp.float64)
        value = lambda *given: sampled(*given, targets, weights, candidates)
        check_grads(value, (features, kernel, bias), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    monkeypatch.setattr(head, "BOUND", -(-SAMPLED * 8 * 4 * 4 // 3))
    assert head.positions_at_once(SAMPLED, B * T) == 4
    close(value_and_gradient(sampled, *sampled_case(), candidates, smoothing=0.0), whole)
    touched = np.unique([*candidates.ids_c, *np.asarray(sampled_case()[3])[np.asarray(sampled_case()[4]) > 0]])
    assert (np.asarray(whole[1][1])[:, np.setdiff1d(np.arange(WORDS), touched)] == 0).all()


@pytest.mark.parametrize("count, width", [(4096, 128), (60_000, 16)])
def test_a_sampled_softmax_holds_less_than_the_bound_by_the_compilers_account(count, width):
    shapes = [(2048, 1, width), (width, 100_000), (100_000,)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def loss(features, kernel, bias, targets, key):
        candidates = draw_candidates(key, kernel.shape[1], count)
        return sampled(features, kernel, bias, targets, jnp.ones(targets.shape), candidates)

    ids = jax.ShapeDtypeStruct((2048, 1), jnp.int32)
    step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*given, ids, jax.eval_shape(lambda: jax.random.key(0))).compile()
    assert step.memory_analysis().temp_size_in_bytes < 64 * 2**20


def test_a_sampled_softmax_over_all_ids_is_the_softmax():
    features, kernel, bias, targets, weights = sampled_case()
    everything = Candidates(jnp.arange(WORDS), jnp.zeros(WORDS))
    found = value_and_gradient(sampled, features, kernel, bias, targets, weights, everything, smoothing=0.0)
    close(found, value_and_gradient(fused, features, kernel, bias, targets, weights, smoothing=0.0))
