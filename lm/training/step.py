"""The training state, and one pure training step with a given gradient."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.answers import Answer
from lm.batch import Batch
from lm.config import Config, Group
from lm.config.tasks import layout_of
from lm.training import optimizers


class TrainState(NamedTuple):
    """The state that a step reads and writes. A checkpoint stores all of it; the seed and `skipped` are in the
    progress.

    On the devices, `carry` is sharded by the sequences of the batch; `lm/devices/mesh.py` says where the other arrays
    are.
    """

    step: jax.Array  # int32, the number of steps done, with skipped ones
    params: Any
    opt_state: Any  # the optimizer's state of the parameters that learn
    carry: Any  # the decoder's recurrent state after the last window of streams, leading axis batch; else ()
    averaged: Any = ()  # with `optimizer.ema_decay` the average of the parameters that learn; else ()
    # uint32, the seed of dropout and of the sampled softmax; else (). It is an argument of the compiled program and not
    # a constant in it, so that runs with different seeds share one program.
    seed: Any = ()
    skipped: Any = ()  # with `training.not_finite=skip` int32, the number of skipped steps; else ()


class Metrics(NamedTuple):
    """The sums of one step over all devices, float32."""

    loss_sum: jax.Array  # nats, with label smoothing and every other term of the loss
    tokens: jax.Array  # the number of real target tokens
    grad_norm: jax.Array  # global norm, before clipping, of the mean gradient of the parameters that learn


Gradient = Callable[[TrainState, Batch], tuple[Any, tuple[jax.Array, jax.Array], Any]]
"""The contract of a gradient: (state, batch) -> (sums, counts, carry).

`sums` is a tree like the parameters that learn: gradients summed over all devices and micro-batches. `counts` is (sum
of the loss in nats, number of real target tokens), also summed. `carry` is the `TrainState.carry` after the batch.
The function is traced inside the step, for all devices at once; `lm/training/gradient.py` has the usual one.
"""


def seed_of(config: Config) -> Any:
    """Returns `TrainState.seed`; () if nothing is random."""
    return np.uint32(config.seed) if config.model.dropout or config.training.sampled_softmax else ()


def initial_state(answer: Answer, optimizer: optax.GradientTransformation, config: Config, params: Any) -> TrainState:
    """Returns the state before the first step, on one device, with the carry of the whole batch."""
    carry = ()
    if layout_of(config.data) == "streams":
        carry = answer.first_carry(config.data.batch_size)
    learning, _ = optimizers.split(optimizers.groups_of(config), params)
    averaged = jax.tree.map(jnp.array, learning) if config.optimizer.ema_decay else ()
    skipped = jnp.int32(0) if config.training.not_finite == "skip" else ()
    return TrainState(jnp.int32(0), params, optimizer.init(learning), carry, averaged, seed_of(config), skipped)


def weights(state: TrainState) -> Any:
    """Returns the parameters to evaluate, to sample from and to start other runs from: the averages if there are
    any.
    """
    return optimizers.joined(state.averaged, state.params) if state.averaged else state.params


def parted(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """Returns (`weights`, the rest) as a checkpoint has them: other programs read the first alone."""
    rest = state._replace(params=state.params if state.averaged else (), averaged=())._asdict()
    del rest["seed"], rest["skipped"]
    return weights(state), rest


def whole(config: Config, groups: Sequence[Group], params: Any, rest: dict[str, Any], skipped: int) -> TrainState:
    """Returns the state that `parted` divided, after `skipped` skipped steps."""
    counted = np.int32(skipped) if config.training.not_finite == "skip" else ()
    state = TrainState(**rest, seed=seed_of(config), skipped=counted)
    if not state.params:
        return state._replace(params=params)
    return state._replace(averaged=optimizers.split(groups, params)[0])


def make_train_step(
    gradient: Gradient, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns one training step, for `devices.compile`: it gives the mean gradient per token to the optimizer."""
    groups, decay = optimizers.groups_of(config), config.optimizer.ema_decay
    skips = config.training.not_finite == "skip"

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        sums, (loss, count), carry = gradient(state, batch)
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1), sums)
        # A frozen parameter has no gradient, no moments and no share in any norm.
        learning, frozen = optimizers.split(groups, state.params)
        before = optimizers.at_step(state.opt_state, state.step) if skips else state.opt_state
        updates, opt_state = optimizer.update(grads, before, learning)
        learning, averaged = optax.apply_updates(learning, updates), state.averaged
        if decay:
            # The weights of the average are corrected for its start (Kingma and Ba, 2015, section 3): the first
            # averages are nearly plain means of all updates so far.
            made = state.step + 1 - state.skipped if skips else state.step + 1
            share = (1 - decay) / -jnp.expm1(made * math.log(decay))
            averaged = jax.tree.map(lambda mean, new: mean + share * (new - mean), averaged, learning)
        params = optimizers.joined(learning, frozen)
        after = TrainState(state.step + 1, params, opt_state, carry, averaged, state.seed, state.skipped)
        metrics = Metrics(loss, count, optax.global_norm(grads))
        if skips:
            good = jnp.isfinite(metrics.loss_sum) & jnp.isfinite(metrics.grad_norm)
            kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
            # The next step reads the next batch in either case.
            after = kept._replace(step=after.step, skipped=state.skipped + ~good)
        return after, metrics

    return train_step
