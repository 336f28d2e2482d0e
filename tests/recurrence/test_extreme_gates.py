"""For every cell: gates far beyond where float32's exponential ends leave outputs, states and gradients finite and right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drivers import WAYS, compiled
from support.sizes import sized

from lm.layers.recurrent import RecurrentLayer
from lm.recurrence import CELLS, Execution, GatedCell, Weights, linear, matrix
from lm.recurrence.gated import drivers, engine, reference

TIME, BATCH, HIDDEN = 7, 64, 8
EXTREMES = [sign * size for size in (30, 88, 1e3, 1e4) for sign in (1, -1)]
GATED = [name for name, cell in CELLS.items() if issubclass(cell, GatedCell)]


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(linear, "CHUNK", 3)
    monkeypatch.setattr(matrix, "CHUNK", 3)


def case(cell, heads, starts, dtype, signs=True):
    """The arguments of `unroll`, whose inputs are the pre-activations: of each block an extreme or an ordinary number.

    In half of the rows all steps have the same ones. Without `signs`, queries and keys of mLSTM are positive. Else their products
    may be 0, or as good as, and rounding leaves any sign.
    """
    random, width = np.random.default_rng(len(cell.__name__)), cell.width(HIDDEN, heads)
    numbers = random.choice(EXTREMES, (TIME, BATCH, width))
    numbers = np.where(random.random(numbers.shape) < 0.3, random.normal(size=numbers.shape), numbers)
    numbers[:, : BATCH // 2] = numbers[0, : BATCH // 2]
    # All gates of a row alike: its heads read almost nothing, or remember without end.
    numbers[:, : len(EXTREMES), -2 * heads :] = np.array(EXTREMES)[:, None]
    if issubclass(cell, matrix.MLSTM) and not signs:
        numbers[..., : 2 * HIDDEN] = abs(numbers[..., : 2 * HIDDEN])
    state = jax.tree.map(lambda x: np.asarray(x, dtype), cell.zero_state(BATCH, HIDDEN, heads))
    layer = RecurrentLayer(cell, width, HIDDEN, heads)
    initial = functools.partial(layer.init, method="step")
    shapes = jax.eval_shape(lambda: initial(jax.random.key(0), jnp.zeros((BATCH, width)), state))["params"]
    params = {name: jnp.asarray(random.normal(size=x.shape), dtype) for name, x in sorted(shapes.items())}
    params |= {"kernel": jnp.eye(width, dtype=dtype), "bias": jnp.zeros(width, dtype)}
    weights = Weights(**{name: params.pop(name, None) for name in Weights._fields[:3]}, own=params)
    mask, reset = (jnp.asarray(random.random((TIME, BATCH)) < share) for share in (0.8, 0.2))
    begun = np.tanh(random.normal(size=(TIME, BATCH, cell.start_blocks() * HIDDEN)))
    return weights, jnp.asarray(numbers, dtype), state, mask, reset, jnp.asarray(begun, dtype) if starts else None


def outputs_and_gradients(run):
    """Outputs and states of `run`, and their gradients by all that is no mark, as a function of a case."""

    def all_of(weights, inputs, state, mask, reset, starts):
        of = lambda weights, x, s, z: run(weights, x, s, mask, reset, z)
        found, pullback = jax.vjp(of, weights, inputs, state, starts)
        directions = np.random.default_rng(1)
        direction = lambda x: jnp.asarray(directions.normal(size=x.shape), x.dtype)
        return found, pullback(jax.tree.map(direction, found))

    return compiled(all_of)


def finite(found):
    for path, one in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(one).all(), jax.tree_util.keystr(path)


def near(found, expected):
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        assert np.linalg.norm(one - other) <= 0.03 * (1 + np.linalg.norm(other)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    "name, heads, starts, reverse, dtype",
    sized(
        [
            (name, *how)
            for name in CELLS
            for how in [(1, False, False, "float32"), (2, True, True, "float32"), (2, True, False, "bfloat16")]
        ],
        lambda name, heads, starts, reverse, dtype: name == "mlstm" and reverse,
    ),
)
def test_extreme_gates_leave_all_finite_and_give_what_float64_gives(name, heads, starts, reverse, dtype):
    cell, how = CELLS[name], Execution(heads, dtype, "recompute" if starts else "keep", reverse)

    def run(how, weights, inputs, state, *rest):
        return cell.unroll(how, weights, inputs, state, *rest), cell.step(how, weights, inputs[0], state)

    of_cell = outputs_and_gradients(functools.partial(run, how))
    finite(of_cell(*case(cell, heads, starts, jnp.float32)))
    found = of_cell(*case(cell, heads, starts, jnp.float32, signs=False))
    with jax.enable_x64(True):
        in_full = outputs_and_gradients(functools.partial(run, how._replace(dtype="float32")))
        near(found, in_full(*case(cell, heads, starts, jnp.float64, signs=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED)
def test_every_driver_of_a_gated_cell_gives_with_extreme_gates_what_float64_gives(name, interpreted, monkeypatch):
    cell = CELLS[name]

    def through_reference(weights, inputs, state, mask, reset, starts, how):
        begun = None if starts is None else cell.start(starts, how.heads)
        return reference.forward(cell, how, weights, inputs, state, mask, reset, begun)[0]

    def through_engine(weights, inputs, state, mask, reset, starts, how):
        begun = None if starts is None else cell.start(starts, how.heads)
        return engine.unroll(cell, how, weights, inputs, state, mask, reset, begun)

    for driver, backward, heads, reverse, starts in WAYS.values():
        how = Execution(heads, "float32", backward, reverse)
        with jax.enable_x64(True):
            in_full = outputs_and_gradients(functools.partial(through_reference, how=how))
            expected = in_full(*case(cell, heads, starts, jnp.float64))
        monkeypatch.setattr(drivers, "choices", lambda *_, driver=driver: {"default": driver})
        for run in (through_reference, through_engine):
            found = outputs_and_gradients(functools.partial(run, how=how))(*case(cell, heads, starts, jnp.float32))
            finite(found)
            near(found, expected)
