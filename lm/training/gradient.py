"""The gradient of a step, as a replaceable function.

The step (`lm/training/step.py`) divides sums by a count and does not depend on how the sums are computed. A gradient
that is not a plain sum would be another function here with the type `Gradient`, e.g. one that clips each example's
gradient and adds noise for differential privacy. `lm/training/prepare.py` chooses the one that a run uses.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lm.answers import Answer, sampled_softmax
from lm.answers.contract import Noise
from lm.batch import Batch
from lm.config import Config
from lm.devices.mesh import Devices
from lm.training import optimizers
from lm.training.step import Gradient, TrainState


def summed_gradient(answer: Answer, config: Config, devices: Devices) -> Gradient:
    """Returns the gradient of the summed loss, over all devices and all `training.accumulate` micro-batches.

    Neither the number of devices nor the number of micro-batches changes the sums. The dropout of an example depends on
    the seed, the step and its number in the global batch. The candidates of a sampled softmax depend on the seed and
    the step.
    """
    training, groups = config.training, optimizers.groups_of(config)

    def loss(learning, frozen, carry, batch, keys_b, candidates):
        return answer.loss(optimizers.joined(learning, frozen), carry, batch, Noise(keys_b, candidates))

    def of_device(learning, replicated, divided, device):
        """Returns (sums, counts, carry) of the examples on one device."""
        (frozen, step, seed), (carry, batch) = replicated, divided
        rows = batch.inputs_bt.shape[0]
        keys_b, candidates = _noise(config, answer.model.vocab_size, seed, step, device, rows)

        def add(total, micro_batch):
            (nats, (count, carry)), grads = jax.value_and_grad(loss, has_aux=True)(
                learning, frozen, *micro_batch, candidates
            )
            return jax.tree.map(jnp.add, total, (grads, (nats, count))), carry

        zeros = (jax.tree.map(jnp.zeros_like, learning), (jnp.float32(0), jnp.float32(0)))
        split = lambda x: x.reshape(training.accumulate, rows // training.accumulate, *x.shape[1:])
        (sums, counts), carry = lax.scan(add, zeros, jax.tree.map(split, (carry, batch, keys_b)))
        return sums, counts, jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), carry)

    def gradient(state: TrainState, batch: Batch):
        learning, frozen = optimizers.split(groups, state.params)
        return devices.summed(of_device)(learning, (frozen, state.step, state.seed), (state.carry, batch))

    return gradient


def _noise(config: Config, vocab_size: int, seed, step, device, rows: int):
    """Returns (keys_b for dropout, candidates of the sampled softmax); each is None if the configuration has none."""
    keys_b = candidates = None
    step_key = None if isinstance(seed, tuple) else jax.random.fold_in(jax.random.key(seed), step)
    if config.model.dropout:
        row_b = device * rows + jnp.arange(rows)
        keys_b = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(row_b)
    if config.training.sampled_softmax:  # the same candidates for all examples, from a key of their own
        key = jax.random.fold_in(step_key, 2**32 - 1)
        candidates = sampled_softmax.draw_candidates(key, vocab_size, config.training.sampled_softmax)
    return keys_b, candidates
