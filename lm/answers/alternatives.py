"""A softmax over a few alternatives, of which several may mean the target."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

IMPOSSIBLE = -1e30  # the logit of an impossible alternative; finite, as in `Attention.weights`
NOTHING = -1  # fills ids up: it is no id


def alternative_nats(
    logits: jax.Array, gold: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> jax.Array:
    """Returns the negative log-probability of all alternatives that mean the target together; infinite if there is
    none.

    The last axis of `logits` and `gold` is the alternatives. Smoothing is over the possible ones. `z_loss` is the
    weight of the squared logarithm of their normalizer.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A finite number, or the gradient of what has no choice (padding of the batch) would be NaN.
    nats = normalizer - jax.nn.logsumexp(jnp.where(gold, logits, IMPOSSIBLE), axis=-1)
    if label_smoothing:
        possible = logits > IMPOSSIBLE
        spread = normalizer - jnp.mean(logits, axis=-1, where=possible | ~possible.any(-1, keepdims=True))
        nats = (1 - label_smoothing) * nats + label_smoothing * spread
    nats = nats + z_loss * normalizer**2 if z_loss else nats
    return jnp.where(gold.any(axis=-1), nats, jnp.inf)


def label_table(labels: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Returns labels_lt: the ids of each label, filled up with `NOTHING`."""
    return np.array([[*ids, *[NOTHING] * (width - len(ids))] for ids in labels])
