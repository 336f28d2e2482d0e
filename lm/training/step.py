"""The training state and one pure update of it."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lm.answers import sampled
from lm.answers.contract import Answer, Noise
from lm.batch import Batch
from lm.config import Config, Group
from lm.config.tasks import layout_of
from lm.devices.mesh import Devices
from lm.training import optimizers


class TrainState(NamedTuple):
    """All that a checkpoint keeps, and the seed. On the devices `carry` is cut by rows; see lm/parallel.py for the rest."""

    step: jax.Array  # int32, updates done
    params: Any
    opt_state: Any  # of the parameters that learn
    carry: Any  # the decoder's recurrent state after the last window (streams), leading axis batch; else ()
    averaged: Any = ()  # with `optimizer.ema_decay` the average of the parameters that learn; else ()
    seed: Any = ()  # uint32, of dropout and sampled softmax; else (). Here it is no part of the program, so that all seeds have one


def seed_of(config: Config) -> Any:
    """`TrainState.seed`, which no checkpoint keeps."""
    return np.uint32(config.seed) if config.model.dropout or config.training.sampled_softmax else ()


def weights(state: TrainState) -> Any:
    """The parameters that are evaluated, sampled from and started from: averaged where there are averages."""
    return optimizers.joined(state.averaged, state.params) if state.averaged else state.params


def parted(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """(`weights`, the rest) as a checkpoint has them, so that its parameters are those that others want."""
    rest = state._replace(params=state.params if state.averaged else (), averaged=())._asdict()
    del rest["seed"]
    return weights(state), rest


def whole(config: Config, groups: Sequence[Group], params: Any, rest: dict[str, Any]) -> TrainState:
    """The inverse of `parted`."""
    state = TrainState(**rest, seed=seed_of(config))
    if not state.params:
        return state._replace(params=params)
    return state._replace(averaged=optimizers.split(groups, params)[0])


class Metrics(NamedTuple):
    """Of one update, over all devices, float32."""

    loss_sum: jax.Array  # nats, label smoothing and all that is added to the loss included
    tokens: jax.Array  # real target tokens
    grad_norm: jax.Array  # global norm of the mean gradient of what is not frozen, before clipping


def initial_state(answer: Answer, optimizer: optax.GradientTransformation, config: Config, params: Any) -> TrainState:
    """Before the first update, on one device; `carry` for the whole batch."""
    carry = ()
    if layout_of(config.data) == "streams":
        carry = answer.first_carry(config.data.batch_size)
    learning, _ = optimizers.split(optimizers.groups_of(config), params)
    averaged = jax.tree.map(jnp.array, learning) if config.optimizer.ema_decay else ()
    return TrainState(jnp.int32(0), params, optimizer.init(learning), carry, averaged, seed_of(config))


def make_train_step(
    answer: Answer, optimizer: optax.GradientTransformation, config: Config, devices: Devices
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One update, for `devices.compile`.

    The mean is over real target tokens of all devices and all of the `accumulate` parts, so that neither changes the
    update. A row's dropout depends on (seed, step, row of the global batch) and not on the device, the candidates of a
    sampled softmax on (seed, step).
    """
    training, parts = config.training, config.training.accumulate
    groups, decay = optimizers.groups_of(config), config.optimizer.ema_decay

    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(learning, frozen, *rest):
        return answer.loss(optimizers.joined(learning, frozen), *rest)

    def device_gradient(learning, replicated, carried, device):
        """(gradients, (nats, tokens), carry) of one device's rows: sums, not means."""
        (frozen, step, seed), (carry, batch) = replicated, carried
        rows = batch.inputs_bt.shape[0]
        keys_b = candidates = None
        step_key = None if isinstance(seed, tuple) else jax.random.fold_in(jax.random.key(seed), step)
        if config.model.dropout:
            row_b = device * rows + jnp.arange(rows)
            keys_b = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(row_b)
        if training.sampled_softmax:  # the same for all rows; the key is that of no row
            key = jax.random.fold_in(step_key, 2**32 - 1)
            candidates = sampled.draw_candidates(key, answer.model.vocab_size, training.sampled_softmax)

        def part_gradient(total, part):
            carry, part_batch, part_keys = part
            (loss, (count, carry)), grads = gradient(learning, frozen, carry, part_batch, Noise(part_keys, candidates))
            return jax.tree.map(jnp.add, total, (grads, (loss, count))), carry

        zeros = (jax.tree.map(jnp.zeros_like, learning), (jnp.float32(0), jnp.float32(0)))
        cut = lambda x: x.reshape(parts, rows // parts, *x.shape[1:])
        (grads, sums), carry = lax.scan(part_gradient, zeros, jax.tree.map(cut, (carry, batch, keys_b)))
        return grads, sums, jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), carry)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        summed = devices.summed(device_gradient)
        # What is frozen has no gradient, no moments and no part in any norm.
        learning, frozen = optimizers.split(groups, state.params)
        grads, (loss, count), carry = summed(learning, (frozen, state.step, state.seed), (state.carry, batch))
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, learning)
        learning, averaged = optax.apply_updates(learning, updates), state.averaged
        if decay:
            # Unbiased by its start (Kingma and Ba, 2015, section 3): at first a plain mean of the steps.
            share = (1 - decay) / -jnp.expm1((state.step + 1) * math.log(decay))
            averaged = jax.tree.map(lambda mean, new: mean + share * (new - mean), averaged, learning)
        after = TrainState(state.step + 1, optimizers.joined(learning, frozen), opt_state, carry, averaged, state.seed)
        metrics = Metrics(loss, count, optax.global_norm(grads))
        if config.training.not_finite == "skip":
            good = jnp.isfinite(metrics.loss_sum) & jnp.isfinite(metrics.grad_norm)
            kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
            after = kept._replace(step=after.step)  # the data goes on
        return after, metrics

    return train_step
