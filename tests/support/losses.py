"""The example that losses are tried with, and the comparison of what they find with what is expected."""

import jax
import jax.numpy as jnp
import numpy as np

B, T, D, V = 3, 5, 4, 7


def case(dtype=jnp.float32):
    """(features, kernel, bias, targets, weights): weights of all sizes, some of them 0."""
    rng = np.random.default_rng(0)
    features, kernel, bias = (jnp.asarray(rng.normal(size=s), dtype) for s in [(B, T, D), (D, V), (V,)])
    targets = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    weights = rng.uniform(0.5, 2, (B, T)) * (rng.random((B, T)) < 0.7)
    assert 0 < (weights == 0).sum() < B * T
    return features, kernel, bias, targets, jnp.asarray(weights, jnp.float32)


def close(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)
