"""Optax chains from the configuration."""

import re

import jax
import jax.numpy as jnp
import optax

from lm.config import OptimizerConfig
from lm.errors import UserError


def schedule(config: OptimizerConfig, warmup: int, steps: int) -> optax.Schedule:
    """update number (from 0) -> learning rate. `warmup` and `steps` are in updates."""
    peak, final = config.learning_rate, config.final_fraction
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=final),
        # Continuous at the end of the warm-up (Vaswani et al., 2017); without one, from the first update on.
        # Counts below 0 are the warm-up's: optax asks both schedules and takes one answer.
        "inverse_sqrt": lambda count: peak * (max(warmup, 1) / (jnp.maximum(count, 0) + max(warmup, 1))) ** 0.5,
    }[config.schedule]
    # The first update is already a step: its rate is peak / warmup, not 0.
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, after], [warmup])


def name_of(path) -> str:
    """A parameter's name: its path in the tree joined by `/`."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def decay_mask(config: OptimizerConfig, params) -> dict:
    """A tree of bools: which parameters decay. A pattern that fits no parameter is refused."""
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: re.fullmatch(config.decayed, name_of(path)) is not None, params
    )
    if config.weight_decay and not any(jax.tree.leaves(mask)):
        names = sorted(name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
        raise UserError(
            "config.optimizer.decayed", f"{config.decayed!r} fits no parameter", f"names: {', '.join(names)}"
        )
    return mask


def optimizer(config: OptimizerConfig, rate: optax.Schedule, params) -> optax.GradientTransformation:
    """Clipping, then the named rule; `params` (arrays or shapes) tells which ones decay."""
    adam = {"b1": config.b1, "b2": config.b2, "eps": config.epsilon}
    mask = decay_mask(config, params)
    rule = {
        "adamw": lambda: optax.adamw(rate, **adam, weight_decay=config.weight_decay, mask=mask),
        "adam": lambda: optax.adam(rate, **adam),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity(),
            optax.sgd(rate, momentum=config.b1 or None),
        ),
    }[config.name]()
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule) if config.clip_norm else rule
