"""Dropout that depends on the example alone."""

import jax


def dropout(values_tbd: jax.Array, rate: float, keys_b: jax.Array | None, place: int) -> jax.Array:
    """Variational dropout: one mask per sequence, the same at every time step (Gal and Ghahramani, 2016).

    `keys_b` holds one key per example, so that a mask depends on the example and not on the device that it is on; None
    means no dropout. `place` tells apart the places of one model. The examples of a packed row share the row's mask.
    """
    if keys_b is None or rate == 0:
        return values_tbd
    width = values_tbd.shape[-1]

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, (width,))

    return values_tbd * (jax.vmap(mask)(keys_b) / (1 - rate))
