"""Initial parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.models.inputs import INPUTS


def initial_params(model: nn.Module, seed: int) -> Any:
    """Returns the parameters that a model begins with, a pure function of the seed."""
    return _initial_params(model, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds, which the compilation cache keeps
def _initial_params(model, seed):
    source = INPUTS[model.source].smallest() if model.source else None
    return model.init(jax.random.key(seed), jnp.ones((1, 1), jnp.int32), source)["params"]
