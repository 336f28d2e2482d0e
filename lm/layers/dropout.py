"""Dropout that depends only on the example."""

import jax


def dropout(values_tbd: jax.Array, rate: float, keys_b: jax.Array | None, place: int) -> jax.Array:
    """Applies variational dropout: one mask per sequence, the same at every time step (Gal and Ghahramani, 2016).

    Args:
        values_tbd: the values, time first.
        rate: the share of values that is set to zero.
        keys_b: one key per sequence, so that a mask does not depend on the device; None means no dropout. Packed
            examples of one sequence share its mask.
        place: a number for each use of dropout in a model, so that their masks differ.
    """
    if keys_b is None or rate == 0:
        return values_tbd
    width = values_tbd.shape[-1]

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, (width,))

    return values_tbd * (jax.vmap(mask)(keys_b) / (1 - rate))
