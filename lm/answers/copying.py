"""The losses of a model that copies from its source: the pointer's mixture and the coverage penalty."""

import jax
import jax.numpy as jnp

from lm.models.decoder import Features
from lm.models.encoder import Memory


def copying_of(features: Features, memory: Memory | None, targets_bt: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """Returns (gate, probability that copying writes the target), both [b, t]; None if the model cannot copy.

    The probability is the attention to all positions of the source that hold the target (See et al., 2017, equation 9).
    """
    if features.gate_bt is None:
        return None
    same_bts = memory.ids_bs[:, None] == targets_bt[..., None]  # the positions of the source that hold the target
    return features.gate_bt, jnp.sum(features.attention_bts * same_bts, axis=-1)


def coverage_loss(attention_bts: jax.Array, weights_bt: jax.Array) -> jax.Array:
    """Returns the coverage loss, the weighted sum over t of sum_s min(a_ts, c_ts) (See et al., 2017, equation 12).

    c_ts is the attention that the steps before t paid to position s. Packed examples attend to their own sources, so
    they do not mix.
    """
    paid_bts = jnp.pad(jnp.cumsum(attention_bts, axis=1)[:, :-1], [(0, 0), (1, 0), (0, 0)])  # c_ts
    return jnp.sum(jnp.minimum(attention_bts, paid_bts).sum(axis=-1) * weights_bt)
