"""The fused cross-entropy is the plain one: in value, in gradient, and however it is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from lm import losses

B, T, D, V = 3, 5, 4, 7


def case(dtype=jnp.float32):
    """(features, kernel, bias, targets, weights): weights of all sizes, some of them 0."""
    rng = np.random.default_rng(0)
    features, kernel, bias = (jnp.asarray(rng.normal(size=s), dtype) for s in [(B, T, D), (D, V), (V,)])
    targets = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    weights = rng.uniform(0.5, 2, (B, T)) * (rng.random((B, T)) < 0.7)
    assert 0 < (weights == 0).sum() < B * T
    return features, kernel, bias, targets, jnp.asarray(weights, jnp.float32)


def fused(features, kernel, bias, targets, weights, smoothing, z=0.0, dtype="float32"):
    return losses.cross_entropy(features, (kernel, bias), targets, weights, smoothing, z, dtype)[0]


def plain(features, kernel, bias, targets, weights, smoothing, z=0.0):
    """The definition, with all logits and the whole target distribution written out."""
    logits, wanted = features @ kernel + bias, (1 - smoothing) * jax.nn.one_hot(targets, V) + smoothing / V
    return jnp.sum((optax.softmax_cross_entropy(logits, wanted) + z * jax.nn.logsumexp(logits, -1) ** 2) * weights)


def value_and_gradient(loss, *given, smoothing, **options):
    return jax.value_and_grad(partial(loss, smoothing=smoothing, **options), argnums=(0, 1, 2))(*given)


def close(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


@pytest.fixture
def chunks(monkeypatch):
    """Sets how many positions a chunk holds; returns how many chunks that makes."""

    def cut(positions):
        monkeypatch.setattr(losses, "BOUND", -(-positions * V * 8 * 4 // 3))
        features, kernel, _, targets, weights = case()
        return len(losses._chunks(kernel, features.reshape(-1, D), targets.ravel(), weights.ravel())[1])

    return cut


@pytest.mark.parametrize("smoothing, z", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3)])
@pytest.mark.parametrize("positions", [1, 4, 5, B * T])
def test_it_equals_the_definition_in_value_and_gradient_however_it_is_cut(positions, smoothing, z, chunks):
    assert chunks(positions) == -(-B * T // positions)
    found = value_and_gradient(fused, *case(), smoothing=smoothing, z=z)
    close(found, value_and_gradient(plain, *case(), smoothing=smoothing, z=z))


@pytest.mark.parametrize("tied", [False, True])
def test_beside_operands_and_results_it_holds_less_than_the_bound_by_the_compilers_account(tied):
    positions, width, held = 2048, 512, {}
    for vocab in (10_000, 100_000):
        shapes = [(positions, 1, width), (vocab, width) if tied else (width, vocab), (vocab,)]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        ids = jax.ShapeDtypeStruct((positions, 1), jnp.int32)

        def loss(features, table, bias, targets, tied=tied):
            weights = jnp.ones(targets.shape)
            return losses.cross_entropy(features, (table.T if tied else table, bias), targets, weights)[0]

        step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*given, ids).compile()
        held[vocab] = step.memory_analysis().temp_size_in_bytes
    # All logits would be 78 and 781 MiB. A tied head's gradient is that of the transpose, once more as large.
    turned = {vocab: 4 * vocab * width * tied for vocab in held}
    assert all(held[vocab] - turned[vocab] < 64 * 2**20 for vocab in held), held


def test_without_smoothing_it_is_the_cross_entropy_of_the_targets():
    features, kernel, bias, targets, weights = case()
    nats = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, targets)
    total, count = losses.cross_entropy(features, (kernel, bias), targets, weights)
    np.testing.assert_allclose(total, jnp.sum(nats * weights), rtol=1e-6)
    np.testing.assert_allclose(count, weights.sum(), rtol=1e-6)
    assert total.dtype == count.dtype == jnp.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_has_weight_0_counts_for_nothing(smoothing, chunks):
    chunks(4)
    features, kernel, bias, targets, weights = case()
    padding = np.asarray(weights) == 0
    noise = jnp.where(padding[..., None], 50.0, features), kernel, bias, jnp.where(padding, V - 1, targets), weights
    found = value_and_gradient(fused, features, kernel, bias, targets, weights, smoothing=smoothing)
    close(value_and_gradient(fused, *noise, smoothing=smoothing), found)
    d_features = np.asarray(found[1][0])
    assert (d_features[padding] == 0).all() and (np.abs(d_features[~padding]).sum(-1) > 0).all()


def test_the_gradient_is_of_the_value_by_finite_differences_in_float64(chunks):
    chunks(4)
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
    nats = losses.token_losses(features, (kernel, bias), targets)
    assert nats.shape == (B, T)
    np.testing.assert_allclose(
        nats, optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, targets), rtol=1e-5
    )
    np.testing.assert_allclose(jnp.sum(nats * weights), fused(*case(), 0.0), rtol=1e-6)


def test_huge_logits_give_no_infinity():
    features, kernel, bias, targets, weights = case()
    total, gradient = value_and_gradient(fused, features * 1e4, kernel, bias, targets, weights, smoothing=0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, gradient)))


def test_bfloat16_products_keep_float32_results_a_little_off():
    full = value_and_gradient(fused, *case(), smoothing=0.0, dtype="float32")
    half = value_and_gradient(fused, *case(), smoothing=0.0, dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
        assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a).max()
