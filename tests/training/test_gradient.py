"""The gradient of an update: another function takes its place, and nothing else changes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config
from support.sizes import sized
from test_training import LAYOUTS, SPECS, Setup, changed_parameters

from lm.devices.mesh import Devices, Fsdp
from lm.training.gradient import summed_gradient

pytestmark = pytest.mark.usefixtures("quick_training")

PLAIN = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0, "optimizer.learning_rate": 1.0, "optimizer.b1": 0.0}


def half_of(batch, number: int):
    """The batch in which the rows of the other half of each device count for nothing."""
    rows = batch.weights_bt.shape[-2]
    chosen_b = np.arange(rows) // (rows // 2) == number
    return batch._replace(weights_bt=batch.weights_bt * chosen_b[:, None].astype(np.float32))


@pytest.mark.parametrize(
    "layout, mode",
    sized(itertools.product(LAYOUTS, [Devices, Fsdp]), lambda layout, mode: (layout == "buckets") == (mode is Fsdp)),
)
def test_a_gradient_that_clips_each_half_of_a_batch_takes_the_place_of_the_usual_one(layout, mode, sources):
    # Plain gradient descent, so that the update is the mean gradient times one rate.
    setup, devices = Setup(tiny_config(layout, sources[SPECS[layout]], PLAIN)), mode(jax.devices()[:2])
    usual, batch = summed_gradient(setup.answer, setup.config, devices), setup.data.batches[0]

    expected, tokens, norms = [], [], []
    (whole,), state = setup.updates(devices, [batch])
    unclipped = changed_parameters(setup, devices, state)
    for number in (0, 1):
        rows = batch.weights_bt.reshape(2, -1, batch.weights_bt.shape[1])  # those of each device
        half = half_of(batch._replace(weights_bt=rows), number).weights_bt.reshape(batch.weights_bt.shape)
        (metrics,), state = setup.updates(devices, [batch._replace(weights_bt=half)])
        tokens.append(metrics.tokens)
        norms.append(metrics.grad_norm * metrics.tokens)
        expected.append(changed_parameters(setup, devices, state))
    assert sum(tokens) == whole.tokens and min(tokens) > 0
    limit = 0.5 * min(norms)

    def clipped(state, batch):
        def of_half(number):
            sums, counts, carry = usual(state, half_of(batch, number))
            share = limit / optax.global_norm(sums)
            return jax.tree.map(lambda g: g * share, sums), counts, carry

        (one, counts, _), (other, more, carry) = of_half(0), of_half(1)
        return *jax.tree.map(jnp.add, (one, counts), (other, more)), carry

    (metrics,), state = setup.updates(devices, [batch], clipped)
    assert metrics.tokens == whole.tokens
    np.testing.assert_allclose(metrics.loss_sum, whole.loss_sum, rtol=1e-5)
    weights = [limit / norm * count / whole.tokens for norm, count in zip(norms, tokens, strict=True)]
    for name, update in changed_parameters(setup, devices, state).items():
        wanted = weights[0] * expected[0][name] + weights[1] * expected[1][name]
        np.testing.assert_allclose(update, wanted, rtol=1e-3, atol=1e-6, err_msg=name)
    assert metrics.grad_norm < 0.6 * whole.grad_norm and np.abs(unclipped["head_bias"]).max() > 1e-3


def test_without_a_gradient_parameters_stay_and_the_carried_state_goes_on(sources):
    setup, devices = Setup(tiny_config("streams", sources["lm"], PLAIN)), Devices(jax.devices()[:2])
    usual = summed_gradient(setup.answer, setup.config, devices)

    def none(state, batch):
        sums, counts, carry = usual(state, batch)
        return jax.tree.map(jnp.zeros_like, sums), counts, carry

    _, expected = setup.updates(devices, [setup.data.batches[0]])
    _, state = setup.updates(devices, [setup.data.batches[0]], none)
    assert not any(np.abs(update).max() for update in changed_parameters(setup, devices, state).values())
    for one, other in zip(jax.tree.leaves(state.carry), jax.tree.leaves(expected.carry), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one).max() > 0
