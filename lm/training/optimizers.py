"""Optax optimizers from the configuration, and the groups of parameters with their learning rates."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.config import Config, Group, OptimizerConfig, parse_group
from lm.errors import UserError
from lm.models.names import name_of


def schedule(config: OptimizerConfig, warmup: int, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step (from 0). `warmup` and `steps` are in steps."""
    peak, final = config.learning_rate, config.final_fraction
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=final),
        # Continuous at the end of the warm-up (Vaswani et al., 2017); without a warm-up, from the first step on.
        # Optax evaluates both schedules and selects one; counts below 0 belong to the warm-up.
        "inverse_sqrt": lambda count: peak * (max(warmup, 1) / (jnp.maximum(count, 0) + max(warmup, 1))) ** 0.5,
    }[config.schedule]
    # The first step already changes parameters: its learning rate is peak / warmup, not 0.
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, after], [warmup])


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


ALL = Group(".*", 1.0)


LORA = (Group(".*_lora_[ab]", 1.0), Group(".*", 0.0))


def groups_of(config: Config) -> tuple[Group, ...]:
    """Returns the groups of the configuration. The default is one group of all parameters; with LoRA only the adapters
    learn.
    """
    given = tuple(map(parse_group, config.optimizer.groups))
    return given or (LORA if config.model.lora_rank else (ALL,))


def assigned(groups: Sequence[Group], params: Any) -> dict[str, Group]:
    """The group of each parameter (arrays or shapes), by name.

    Raises:
        UserError: a parameter is in no group, or a group has no parameter.
    """
    names = sorted(flatten_dict(params, sep="/"))
    found: dict[str, Group] = {}
    for name in names:
        matching = [group for group in groups if re.fullmatch(group.pattern, name)]
        if not matching:
            reason, action = f"no pattern matches the parameter {name}", "add one, e.g. .*=>1 as the last"
            raise UserError("config.optimizer.groups", reason, action)
        found[name] = matching[0]
    for group in groups:
        if group not in found.values():
            reason = f"{group.pattern!r} matches no parameter that those before it do not"
            raise UserError("config.optimizer.groups", reason, f"names: {', '.join(names)}")
    return found


def split(groups: Sequence[Group], params: Any) -> tuple[Any, Any]:
    """Returns the parts of the tree that learn, at once or later, and that are frozen."""
    flat, group_of = flatten_dict(params, sep="/"), assigned(groups, params)
    learning = {name: leaf for name, leaf in flat.items() if group_of[name].factor}
    frozen = {name: leaf for name, leaf in flat.items() if name not in learning}
    return unflatten_dict(learning, sep="/"), unflatten_dict(frozen, sep="/")


def joined(one: Any, other: Any) -> Any:
    """Returns the union of two parts of a tree; a parameter of both is that of `one`."""
    return unflatten_dict(flatten_dict(other, sep="/") | flatten_dict(one, sep="/"), sep="/")


def optimizer(
    config: OptimizerConfig, rate: optax.Schedule, params: Any, groups: Sequence[Group] = (ALL,)
) -> optax.GradientTransformation:
    """Returns the optimizer for the parameters that learn: clipping, the named rule and the factors of the groups.

    The decay of adamw is multiplied by the learning rate, as in Optax and PyTorch; Loshchilov and Hutter (2019)
    multiply it by the schedule alone. sgd with momentum is PyTorch's, without dampening: the learning rate multiplies
    the sum of gradients.

    `params` are all parameters, as arrays or shapes. `Group.begin` is in steps. Before a group begins, it does not
    count for the norm that is clipped. Its moments are those of an optimizer that starts with it; all groups share the
    learning rate.
    """
    group_of, (learning, _) = assigned(groups, params), split(groups, params)
    of_each = lambda reason: jax.tree_util.tree_map_with_path(lambda path, _: reason(group_of[name_of(path)]), learning)
    decay = optax.add_decayed_weights(config.weight_decay, decay_mask(config, learning))
    decay = decay if config.weight_decay else optax.identity()
    rule = {
        "adamw": lambda: optax.chain(optax.scale_by_adam(config.b1, config.b2, config.epsilon), decay),
        "adam": lambda: optax.scale_by_adam(config.b1, config.b2, config.epsilon),
        "sgd": lambda: optax.chain(decay, optax.trace(config.b1) if config.b1 else optax.identity()),
    }[config.name]()
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    factors = of_each(lambda group: group.factor)
    scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))
    if all(factor == 1 for factor in jax.tree.leaves(factors)):
        scale = optax.identity()

    begins = of_each(lambda group: str(group.begin))
    kinds = sorted(set(jax.tree.leaves(begins)))

    def from_begin(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        later = lambda begin: optax.conditionally_mask(inner, lambda count: count >= begin)
        each = {begin: later(int(begin)) if int(begin) else inner for begin in kinds}
        return optax.partition(each, begins)

    if kinds != ["0"]:
        clip, rule = optax.chain(from_begin(optax.identity()), clip), from_begin(rule)
    return optax.chain(clip, rule, scale, optax.scale_by_learning_rate(rate))


def at_step(state: optax.OptState, step: jax.Array) -> optax.OptState:
    """Returns the optimizer's state with its schedules at `step` (from 0).

    A skipped step leaves the optimizer's state unchanged, so moments and their bias correction count only the steps
    that were made. The learning rate and the start of groups follow the steps of the run, so that the schedule ends
    with the run.
    """
    counting = (optax.ScaleByScheduleState, optax.ConditionallyMaskState)

    def moved(node: Any) -> Any:
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=step)
        if isinstance(node, optax.ConditionallyMaskState):
            return node._replace(step=step, inner_state=at_step(node.inner_state, step))
        return node

    return jax.tree.map(moved, state, is_leaf=lambda node: isinstance(node, counting))
