"""For every cell: the unrolled engine equals a loop over one step, and its gradients equal autodiff's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lm.recurrence import CELLS, GatedCell, RecurrentLayer, State, gated, zero_state

TIME, BATCH, WIDTH, HIDDEN = 6, 3, 4, 5


class NewCell(GatedCell):
    """What a user writes: a cell with one gate and an inner state, in ten lines."""

    gates = 2

    @staticmethod
    def pointwise(gates, inner):
        keep, value = jnp.split(gates, 2, axis=-1)
        inner = jax.nn.sigmoid(keep) * inner + (1 - jax.nn.sigmoid(keep)) * jnp.tanh(value)
        return inner, jnp.sin(inner)

    @staticmethod
    def initial_inner(batch, hidden):
        return jnp.full((batch, hidden), 0.3)


ALL_CELLS = {**CELLS, "new": NewCell}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def case(cell, dtype=jnp.float32):
    """Everything `gated.unroll` takes, with ragged masks and resets."""
    gates = cell.gates * HIDDEN
    state = jax.tree.map(lambda x: random(9, *x.shape, dtype=dtype) * 0.3, zero_state(cell, BATCH, HIDDEN))
    mask_tb = jnp.arange(TIME)[:, None] < jnp.array([6, 4, 1])
    resets = [2, 3, 0, 5], [0, 1, 2, 1]  # the last one is where the mask is False
    reset_tb = jnp.zeros((TIME, BATCH), bool).at[resets].set(True)
    return (
        random(1, TIME, BATCH, gates, dtype=dtype),
        random(2, HIDDEN, gates, dtype=dtype) * 0.5,
        state,
        mask_tb,
        reset_tb,
    )


def starts_of(cell, dtype=jnp.float32):
    """A state for each reset to take; the numbers where there is no reset must not matter."""
    return jax.tree.map(lambda x: random(8, TIME, *x.shape, dtype=dtype), zero_state(cell, BATCH, HIDDEN))


def loop(cell, gates_tbg, recurrent_hg, state, mask_tb, reset_tb, reverse, dtype="float32", starts=None):
    """The definition: one step after the other, differentiated by JAX."""
    outputs = [None] * TIME
    for t in reversed(range(TIME)) if reverse else range(TIME):
        fresh = jax.tree.map(lambda x, t=t: x[t], starts) or zero_state(cell, BATCH, HIDDEN)
        state = jax.tree.map(lambda s, f, t=t: jnp.where(reset_tb[t][:, None], f, s), state, fresh)
        new = gated.step(cell, gates_tbg[t], recurrent_hg, state, dtype)
        state = jax.tree.map(lambda n, s, t=t: jnp.where(mask_tb[t][:, None], n, s), new, state)
        outputs[t] = state.output_bh
    return jnp.stack(outputs), state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL_CELLS)
@pytest.mark.parametrize("starts", [lambda cell: None, starts_of], ids=["zero", "starts"])
def test_unroll_equals_a_loop_over_step(starts, name, dtype, reverse):
    cell = ALL_CELLS[name]
    outputs, final = gated.unroll(cell, *case(cell), reverse, dtype, starts(cell))
    expected_outputs, expected_final = loop(cell, *case(cell), reverse, dtype, starts(cell))
    np.testing.assert_allclose(outputs, expected_outputs, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), final, expected_final)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((outputs, final)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ALL_CELLS)
@pytest.mark.parametrize("starts", [lambda cell, dtype: None, starts_of], ids=["zero", "starts"])
def test_gradient_equals_autodiff_in_float64(starts, name, reverse, float64):
    cell = ALL_CELLS[name]
    gates_tbg, recurrent_hg, state, mask_tb, reset_tb = case(cell, jnp.float64)
    weights = jax.tree.map(lambda x: random(3, *x.shape, dtype=jnp.float64), (gates_tbg[..., :HIDDEN], state))

    def objective(run):
        def value(gates_tbg, recurrent_hg, state, starts):
            found = run(cell, gates_tbg, recurrent_hg, state, mask_tb, reset_tb, reverse, "float32", starts)
            found = (found[0], State(*found[1]))
            return sum(jax.tree.leaves(jax.tree.map(lambda a, w: jnp.sum(jnp.sin(a) * w), found, weights)))

        given = gates_tbg, recurrent_hg, state, starts(cell, jnp.float64)
        return jax.grad(value, argnums=(0, 1, 2, 3))(*given)

    ours, theirs = objective(gated.unroll), objective(loop)
    assert jax.tree.leaves(ours)[0].dtype == jnp.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)


def test_gradient_by_finite_differences(float64):
    gates_tbg, recurrent_hg, state, mask_tb, reset_tb = case(CELLS["lstm"], jnp.float64)
    value = lambda *a: gated.unroll(CELLS["lstm"], *a, mask_tb, reset_tb, False, "float32")
    check_grads(value, (gates_tbg, recurrent_hg, state), order=1, modes=["rev"])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ALL_CELLS)
def test_more_padding_changes_nothing(name, reverse):
    cell = ALL_CELLS[name]
    gates_tbg, recurrent_hg, state, mask_tb, reset_tb = case(cell)
    outputs, final = gated.unroll(cell, gates_tbg, recurrent_hg, state, mask_tb, reset_tb, reverse, "float32")
    pad = lambda x: jnp.concatenate([x, jnp.zeros((3, *x.shape[1:]), x.dtype)])
    noise = pad(gates_tbg).at[TIME:].set(7.0)
    padded, same = gated.unroll(cell, noise, recurrent_hg, state, pad(mask_tb), pad(reset_tb), reverse, "float32")
    np.testing.assert_array_equal(padded[:TIME], outputs)
    jax.tree.map(np.testing.assert_array_equal, same, final)


def test_padding_gets_no_gradient():
    gates_tbg, recurrent_hg, state, mask_tb, reset_tb = case(CELLS["lstm"])
    value = lambda g: jnp.sum(
        gated.unroll(CELLS["lstm"], g, recurrent_hg, state, mask_tb, reset_tb, False, "float32")[0] ** 2
    )
    gradient = np.asarray(jax.grad(value)(gates_tbg))
    assert (gradient[~np.asarray(mask_tb)] == 0).all()
    assert (np.abs(gradient[np.asarray(mask_tb)]).sum(axis=-1) > 0).all()


@pytest.mark.parametrize("name", ALL_CELLS)
def test_layer_step_equals_layer_unroll(name):
    layer = RecurrentLayer(ALL_CELLS[name], WIDTH, HIDDEN, "float32")
    inputs_tbd = random(4, TIME, BATCH, WIDTH)
    real, none = jnp.ones((TIME, BATCH), bool), jnp.zeros((TIME, BATCH), bool)
    state = zero_state(ALL_CELLS[name], BATCH, HIDDEN)
    variables = layer.init(jax.random.key(0), inputs_tbd, state, real, none, method="unroll")
    outputs, final = layer.apply(variables, inputs_tbd, state, real, none, method="unroll")
    for t in range(TIME):
        state = layer.apply(variables, inputs_tbd[t], state, method="step")
        np.testing.assert_allclose(state.output_bh, outputs[t], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, final)


def test_bfloat16_products_differ_from_float32():
    full, _ = gated.unroll(CELLS["lstm"], *case(CELLS["lstm"]), False, "float32")
    half, _ = gated.unroll(CELLS["lstm"], *case(CELLS["lstm"]), False, "bfloat16")
    assert 0 < np.abs(full - half).max() < 0.05
