"""Initial parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.models.encoder_decoder import EncoderDecoder
from lm.models.readers import Reader


def initial_params(model: EncoderDecoder | Reader, seed: int) -> Any:
    """A pure function of the seed."""
    return _initial_params(model, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds, which the compilation cache keeps
def _initial_params(model, seed):
    ids = jnp.ones((1, 1), jnp.int32)
    return model.init(jax.random.key(seed), ids, ids if model.has_encoder else None)["params"]
