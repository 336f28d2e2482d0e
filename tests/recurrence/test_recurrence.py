"""For every cell: the unrolled engine equals a loop over one step, and its gradients equal autodiff's."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads
from support.drivers import WAYS, compiled
from support.sizes import sized

from lm.layers.recurrent import RecurrentLayer
from lm.recurrence import BACKWARD, CELLS, Execution, GatedCell, State, Weights, linear, matrix
from lm.recurrence.gated import drivers, engine, pallas_kernel, reference

TIME, BATCH, WIDTH, HIDDEN = 5, 4, 3, 4


class NewCell(GatedCell):
    """What a user writes: a cell with two gates and an inner state, in ten lines."""

    gates = 2

    @staticmethod
    def pointwise(gates, state, own):
        keep, value = gates
        inner = state.inner + (1 - jax.nn.sigmoid(keep)) * (jnp.tanh(value) - state.inner)
        return State(jnp.sin(inner), inner)

    @classmethod
    def initial_inner(cls, batch, hidden):
        return jnp.full((batch, hidden), 0.3)


ALL_CELLS = {**CELLS, "new": NewCell}
GATED = {name: cell for name, cell in ALL_CELLS.items() if issubclass(cell, GatedCell)}
every_cell = pytest.mark.parametrize("name", ALL_CELLS)
WITH_ALL_OR_NONE = pytest.mark.parametrize(
    "heads, starts, reverse",
    sized([(1, False, False), (2, True, True)], lambda heads, starts, reverse: reverse),
    ids=["forward", "reversed"],
)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reversed"])


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """So that these sequences have several, the last one not full."""
    monkeypatch.setattr(linear, "CHUNK", 2)
    monkeypatch.setattr(matrix, "CHUNK", 2)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def random(seed, *shape, dtype=jnp.float32, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def layer_of(cell, heads=1, dtype="float32", backward="keep"):
    return RecurrentLayer(cell, WIDTH, HIDDEN, heads, dtype, backward)


def weights_of(cell, heads=1, dtype=jnp.float32) -> Weights:
    """As a layer has them, but random and none of them 0."""
    layer, ids = layer_of(cell, heads), jnp.zeros((BATCH, WIDTH))
    given = ids, cell.zero_state(BATCH, HIDDEN, heads)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), *given, method="step"))["params"]
    params = {n: random(i, *s.shape, dtype=dtype, scale=0.7) for i, (n, s) in enumerate(sorted(shapes.items()))}
    known = {name: params.pop(name, None) for name in ("kernel", "bias", "recurrent_kernel")}
    return Weights(**known, own=params)


@functools.cache  # the same programs serve many tests
def step_of(cell, run):
    return compiled(functools.partial(cell.step, run))


def case(cell, heads=1, starts=False, dtype=jnp.float32, time=TIME):
    """(weights, inputs, state, mask, reset, starts) of `unroll`: ragged masks and resets, the state one that a step leaves."""
    weights = weights_of(cell, heads, dtype)
    zero = jax.tree.map(lambda x: np.asarray(x, dtype), cell.zero_state(BATCH, HIDDEN, heads))
    state = step_of(cell, Execution(heads))(weights, random(21, BATCH, WIDTH, dtype=dtype), zero)
    mask_tb = jnp.asarray(np.arange(time)[:, None] < np.array([time, time - 2, 1, time - 1]))
    reset_tb = np.zeros((time, BATCH), bool)
    reset_tb[[2, 3, 0, time - 1], [0, 1, 2, 1]] = True  # the last one is where the mask is False
    reset_tb = jnp.asarray(reset_tb)
    starts_tbz = random(23, time, BATCH, cell.start_blocks() * HIDDEN, dtype=dtype) if starts else None
    return weights, random(22, time, BATCH, WIDTH, dtype=dtype), state, mask_tb, reset_tb, starts_tbz


def loop(cell, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
    """The definition: one step after the other, differentiated by JAX."""
    where = lambda chosen_b, new, old: jnp.where(chosen_b.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def one(state, given):
        inputs_bd, mask_b, reset_b, starts_bz = given
        fresh = cell.zero_state(BATCH, HIDDEN, run.heads) if starts_bz is None else cell.start(starts_bz, run.heads)
        state = jax.tree.map(functools.partial(where, reset_b), fresh, state)
        new = cell.step(run, weights, inputs_bd, state)
        state = jax.tree.map(functools.partial(where, mask_b), new, state)
        return state, state.output_bh

    final, outputs = lax.scan(one, state, (inputs_tbd, mask_tb, reset_tb, starts_tbz), reverse=run.reverse)
    return outputs, final


@functools.cache  # the same programs serve several tests
def unroll_of(cell, run):
    return compiled(functools.partial(cell.unroll, run))


def close(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


@pytest.mark.parametrize(
    "heads, starts, dtype, reverse",
    sized(
        [
            (1, False, "float32", False),
            (2, True, "float32", True),
            (2, True, "bfloat16", False),
            (1, False, "bfloat16", True),
        ],
        lambda heads, starts, dtype, reverse: reverse == (dtype == "float32"),
    ),
    ids=["forward", "reversed", "bfloat16", "bfloat16-reversed"],
)
@every_cell
def test_unroll_equals_a_loop_over_step(name, heads, starts, dtype, reverse):
    cell, run = ALL_CELLS[name], Execution(heads, dtype, "keep", reverse)
    given = case(cell, heads, starts)
    found, expected = unroll_of(cell, run)(*given), compiled(functools.partial(loop, cell, run))(*given)
    # A product's operand on the edge of two bfloat16 numbers may go either way.
    close(found, expected, rtol=1e-5, atol=1e-5 if dtype == "float32" else 2e-2)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def gradients(cell, run, given, unroll=None):
    """By `unroll` and by autodiff of the loop, of all that `unroll` is a function of."""
    weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz = given
    wanted = jax.eval_shape(functools.partial(loop, cell, run), *given)
    directions = jax.tree.map(lambda x: random(3, *x.shape, dtype=jnp.float64), wanted)

    def of(which):
        def value(weights, inputs_tbd, state, starts_tbz):
            found = which(run, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz)
            return sum(jax.tree.leaves(jax.tree.map(lambda a, d: jnp.sum(jnp.sin(a) * d), found, directions)))

        return compiled(jax.grad(value, argnums=(0, 1, 2, 3)))(weights, inputs_tbd, state, starts_tbz)

    return of(unroll or cell.unroll), of(functools.partial(loop, cell))


@WITH_ALL_OR_NONE
@every_cell
def test_gradient_equals_autodiff_in_float64(name, heads, starts, reverse, float64):
    given = case(ALL_CELLS[name], heads, starts, jnp.float64)
    # Either choice of what is kept is tried with each cell.
    run = Execution(heads, "float32", "recompute" if starts else "keep", reverse)
    ours, theirs = gradients(ALL_CELLS[name], run, given)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(ours))
    close(ours, theirs, rtol=1e-9, atol=1e-12)
    of_inputs_tbd, mask_tb = np.asarray(ours[1]), np.asarray(given[3])
    assert (of_inputs_tbd[~mask_tb] == 0).all()  # padding gets none
    assert (np.abs(of_inputs_tbd[mask_tb]).sum(axis=-1) > 0).all()


# ---- every way to run a gated cell, against the reference -------------------------------------------------------


def by_autodiff(unroll, *given):
    """(outputs, final state), and a function of its gradient by weights, inputs, first state and starts."""
    weights, inputs_tbd, state, mask_tb, reset_tb, starts = given
    of = lambda weights, inputs_tbd, state, starts: unroll(weights, inputs_tbd, state, mask_tb, reset_tb, starts)
    return jax.vjp(of, weights, inputs_tbd, state, starts)


def all_of(way, *given):
    """(outputs, final state, gradients), in one program."""

    def run(*given):
        found, gradient = way(*given)
        directions = jax.tree.map(lambda x: random(3, *x.shape, dtype=jnp.float64), found)
        return found, gradient(directions)

    return compiled(run)(*given)


def with_starts(cell, run, given):
    """`given` with starts as states, as the reference has them."""
    *rest, starts_tbz = given
    return *rest, None if starts_tbz is None else cell.start(starts_tbz, run.heads)


def reference_case(name, heads, reverse, starts):
    """(cell, run, arguments, what the reference makes of them)."""
    cell, run = GATED[name], Execution(heads, reverse=reverse)
    given = with_starts(cell, run, case(cell, heads, starts, jnp.float64))

    def way(weights, inputs_tbd, *rest):
        found, saved = reference.forward(cell, run, weights, inputs_tbd, *rest)
        return found, lambda d: reference.gradient(cell, run, weights, inputs_tbd, saved, *d)

    (found, gradients) = all_of(way, *given)
    return cell, run, given, (found, gradients if starts else (*gradients[:3], None))


# Each cell in one way, and each way with the cell whose derivative is its own.
@pytest.mark.parametrize(
    "name, way",
    sized(itertools.product(GATED, WAYS), lambda name, way: name == "layernorm" or way == "feature-major in the loop"),
)
def test_every_driver_computes_what_the_reference_does_in_float64(name, way, float64, interpreted, monkeypatch):
    driver, backward, *shape = WAYS[way]
    cell, run, given, expected = reference_case(name, *shape)
    monkeypatch.setattr(drivers, "choices", lambda *_: {"default": driver})
    unroll = functools.partial(engine.unroll, cell, run._replace(backward=backward))
    found = all_of(functools.partial(by_autodiff, unroll), *given)
    close(found, expected, rtol=1e-9, atol=1e-12)
    assert len(interpreted) == 2 * way.startswith("kernel")  # forward and backward


@WITH_ALL_OR_NONE
@pytest.mark.parametrize("name", GATED)
def test_the_gradient_of_the_reference_is_autodiff_of_its_forward_pass_in_float64(
    name, heads, reverse, starts, float64
):
    cell, run, given, expected = reference_case(name, heads, reverse, starts)
    forward = lambda *given: reference.forward(cell, run, *given)[0]
    close(all_of(functools.partial(by_autodiff, forward), *given), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", GATED)
def test_a_single_step_is_one_step_of_the_reference_in_float64(name, heads, float64):
    cell, run = GATED[name], Execution(heads)
    weights, inputs_tbd, state, *_ = case(cell, heads, dtype=jnp.float64)
    real, none = jnp.ones((1, BATCH), bool), jnp.zeros((1, BATCH), bool)

    def of_reference(weights, inputs_tbd, state):
        (_, final), saved = reference.forward(cell, run, weights, inputs_tbd, state, real, none, None)
        nothing = jnp.zeros((1, BATCH, HIDDEN))
        return final, lambda d: reference.gradient(cell, run, weights, inputs_tbd, saved, nothing, d)[:3]

    step = lambda *given: jax.vjp(lambda weights, x, state: cell.step(run, weights, x[0], state), *given)
    given = weights, inputs_tbd[:1], state
    close(all_of(step, *given), all_of(of_reference, *given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name, heads", [("gru", 2), ("peephole", 1)])  # a block apart; parameters that have no batch
def test_a_layer_on_a_gpu_is_by_default_a_kernel_for_each_head_and_tile(name, heads, float64, interpreted, monkeypatch):
    on_a_gpu = lambda *given, default, cpu=None, cuda=None: (cuda or default)(*given)
    monkeypatch.setattr(lax, "platform_dependent", on_a_gpu)
    cell, batch, hidden, time = ALL_CELLS[name], 2 * pallas_kernel.TILE, 16 * heads, 3
    layer = RecurrentLayer(cell, WIDTH, hidden, heads)
    inputs, state = random(1, time, batch, WIDTH), cell.zero_state(batch, hidden, heads)
    mask, reset = (jnp.asarray(np.random.default_rng(i).random((time, batch)) < 0.7) for i in (2, 3))
    variables = layer.init(jax.random.key(0), inputs, state, mask, reset, method="unroll")

    def value(variables, inputs, layer):
        return jnp.sum(jnp.sin(layer.apply(variables, inputs, state, mask, reset, method="unroll")[0]))

    gradient = compiled(jax.value_and_grad(value, (0, 1)), static_argnums=2)
    found = gradient(variables, inputs, layer)
    assert interpreted == 3 * ["gpu"]  # forward, and forward and backward again
    close(found, gradient(variables, inputs, layer.clone(driver="xla")), rtol=1e-9, atol=1e-12)
    assert interpreted == 3 * ["gpu"]


@pytest.mark.parametrize("name", ["lstm", "layernorm"])  # the second one has a derivative of its own
def test_gradient_by_finite_differences(name, float64):
    weights, inputs_tbd, state, *rest = case(CELLS[name], dtype=jnp.float64)
    value = lambda *given: CELLS[name].unroll(Execution(), *given, *rest)
    check_grads(value, (weights, inputs_tbd, state), order=1, modes=["rev"])


class Unstabilised(GatedCell):
    """An sLSTM as the paper first has it: no stabiliser."""

    gates = 4

    @staticmethod
    def pointwise(gates, state, own):
        i, f, g, o = gates
        cell, normaliser = state.inner
        forget, write = jax.nn.sigmoid(f), jnp.exp(i)
        cell, normaliser = forget * cell + write * jnp.tanh(g), forget * normaliser + write
        return State(jax.nn.sigmoid(o) * cell / normaliser, (cell, normaliser))

    @classmethod
    def initial_inner(cls, batch, hidden):
        return jnp.zeros((batch, hidden)), jnp.ones((batch, hidden))


@pytest.mark.parametrize("name", CELLS)
def test_the_docstring_of_a_cell_names_its_paper(name):
    assert re.search(r"[A-Z]\w+.*,? \(?(19|20)\d\d\b", CELLS[name].__doc__ or ""), name


def test_a_first_output_of_slstm_is_about_half_of_its_authors_as_its_docstring_says():
    """Theirs is o tanh(g): a normaliser that starts at 0 cancels the input gate."""
    hidden, cell = 256, CELLS["slstm"]
    gates = np.asarray(random(5, 4, hidden, BATCH, scale=0.3)) + np.asarray(cell.initial_bias(hidden, 1)).reshape(
        4, -1, 1
    )
    zero = jax.tree.map(jnp.transpose, cell.zero_state(BATCH, hidden))
    ours = np.asarray(cell.pointwise(tuple(gates), zero, {}).output_bh)
    i, f, g, o = gates
    theirs = np.tanh(g) / (1 + np.exp(-o))
    np.testing.assert_allclose(ours / theirs, np.exp(i) / (1 / (1 + np.exp(-f)) + np.exp(i)), rtol=1e-4)
    assert abs(np.mean(ours / theirs) - 0.54) < 0.02


def test_the_stabiliser_of_slstm_changes_neither_output_nor_gradient(float64):
    weights, inputs_tbd, _, mask_tb, reset_tb, _ = case(CELLS["slstm"], dtype=jnp.float64)

    def found(cell):
        state = jax.tree.map(lambda x: x.astype(jnp.float64), cell.zero_state(BATCH, HIDDEN))
        outputs = lambda weights, inputs_tbd: cell.unroll(Execution(), weights, inputs_tbd, state, mask_tb, reset_tb)[0]
        value = lambda *given: jnp.sum(jnp.sin(outputs(*given)))
        return compiled(lambda *given: (outputs(*given), jax.grad(value, (0, 1))(*given)))(weights, inputs_tbd)

    close(found(CELLS["slstm"]), found(Unstabilised), rtol=1e-9, atol=1e-12)


@both_ways
@every_cell
def test_more_padding_changes_nothing(name, reverse):
    cell, run = ALL_CELLS[name], Execution(reverse=reverse)
    weights, inputs_tbd, state, mask_tb, reset_tb, _ = case(cell)
    unroll = unroll_of(cell, run)
    outputs, final = unroll(weights, inputs_tbd, state, mask_tb, reset_tb, None)
    pad = lambda x, value: np.concatenate([x, np.full((3, *x.shape[1:]), value, x.dtype)])
    padded, same = unroll(weights, pad(inputs_tbd, 7), state, pad(mask_tb, False), pad(reset_tb, False), None)
    close((padded[:TIME], same), (outputs, final), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name, rows",
    sized(
        [
            (name, rows)
            for name, cell in ALL_CELLS.items()
            for rows in (False, True)
            if issubclass(cell, GatedCell) >= rows
        ],
        lambda name, rows: not rows or name == "layernorm",
    ),
)
def test_a_batch_is_its_rows_however_many_and_however_they_are_held(name, rows, monkeypatch):
    """A wide batch, a narrow one, and one alone take other paths on a CPU, in either layout of gated cells."""
    cell = ALL_CELLS[name]
    monkeypatch.setattr(cell, "batch_major", rows, raising=False)
    weights, inputs_tbd, state, mask_tb, reset_tb, _ = case(cell)
    narrow = (inputs_tbd, state, mask_tb, reset_tb)
    axes = (1, 0, 1, 1)  # of the batch
    of_each = lambda change: tuple(
        jax.tree.map(functools.partial(change, axis), each) for each, axis in zip(narrow, axes, strict=True)
    )
    wide = of_each(lambda axis, x: np.concatenate([x] * 6, axis))
    value = lambda weights, *given: (lambda f: (jnp.sum(f[0] ** 2), f))(cell.unroll(Execution(), weights, *given))
    step = compiled(jax.value_and_grad(value, has_aux=True))
    ((_, (outputs, final)), gradient), ((_, found), six) = step(weights, *narrow), step(weights, *wide)
    expected = np.concatenate([outputs] * 6, 1), jax.tree.map(lambda x: np.concatenate([x] * 6), final)
    close(found, expected, rtol=1e-5, atol=1e-5)
    close(six, jax.tree.map(lambda x: 6 * np.asarray(x), gradient), rtol=1e-4, atol=1e-4)
    alone = [step(weights, *of_each(lambda axis, x, i=i: np.take(x, [i], axis))) for i in range(BATCH)]
    close(np.concatenate([outputs for (_, (outputs, _)), _ in alone], 1), outputs, rtol=1e-5, atol=1e-5)
    close(
        jax.tree.map(lambda *x: sum(map(np.asarray, x)), *[each for _, each in alone]), gradient, rtol=1e-4, atol=1e-4
    )


def test_what_a_head_of_mlstm_reads_has_mean_0_and_variance_1():
    cell, heads = ALL_CELLS["mlstm"], 2
    weights, inputs = weights_of(cell, heads), random(3, BATCH, WIDTH)
    state = cell.step(Execution(heads), weights, inputs, cell.zero_state(BATCH, HIDDEN, heads))
    gate = matrix._gates(Execution(heads), weights, inputs)[3]
    read_bki = np.asarray(state.output_bh / gate / weights.own["scale"]).reshape(BATCH, heads, -1)
    np.testing.assert_allclose(read_bki.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(read_bki.std(-1), 1, atol=1e-2)


@both_ways
@pytest.mark.parametrize("time", [1, 4, 7])
def test_chunked_states_equal_sequential_ones(time, reverse):
    a, b, first = random(1, time, BATCH, HIDDEN), random(2, time, BATCH, HIDDEN), random(3, BATCH, HIDDEN)
    found, expected = (which(a, b, first, reverse) for which in (linear.chunked, linear.sequential))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    begin = -1 if reverse else 0
    np.testing.assert_allclose(found[begin], a[begin] * first + b[begin], rtol=1e-5)


# ---- layers -----------------------------------------------------------------------------------------------------


@every_cell
def test_layer_step_equals_layer_unroll(name):
    layer = layer_of(ALL_CELLS[name], heads=2)
    inputs_tbd = random(4, TIME, BATCH, WIDTH)
    real, none = jnp.ones((TIME, BATCH), bool), jnp.zeros((TIME, BATCH), bool)
    state = ALL_CELLS[name].zero_state(BATCH, HIDDEN, 2)
    initialise = functools.partial(layer.init, method="unroll")
    variables = compiled(initialise)(jax.random.key(0), inputs_tbd, state, real, none)
    outputs, final = compiled(functools.partial(layer.apply, method="unroll"))(variables, inputs_tbd, state, real, none)
    step = compiled(functools.partial(layer.apply, method="step"))
    for t in range(TIME):
        state = step(variables, inputs_tbd[t], state)
        np.testing.assert_allclose(state.output_bh, outputs[t], rtol=1e-5, atol=1e-5)
    close(state, final, rtol=1e-5, atol=1e-5)


def unroll_by(backward):
    """`unroll` of a layer, as a function of its weights."""

    def unroll(cell, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz):
        layer = layer_of(cell, run.heads, run.dtype, backward)
        params = {**weights._asdict(), **weights.own}
        params = {name: value for name, value in params.items() if name != "own" and value is not None}
        given = inputs_tbd, state, mask_tb, reset_tb, run.reverse, starts_tbz
        return layer.apply({"params": params}, *given, method="unroll")

    return unroll


@both_ways
@pytest.mark.parametrize("time", [5, 7, 9])
def test_segments_change_no_output_and_no_gradient(time, reverse, float64):
    cell, run = CELLS["gru"], Execution(reverse=reverse)
    given = case(cell, 1, True, jnp.float64, time)
    close(*gradients(cell, run, given, functools.partial(unroll_by("segments"), cell)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sized(["lstm", "rglru"], lambda name: name == "lstm"))
def test_what_is_kept_for_the_gradient_is_what_the_choice_says(name):
    """Float32 numbers of temporary memory, by the compiler's own account; of four layers, for those of one must be there."""
    time, batch, hidden = 256, 4, 32
    cell, peaks = CELLS[name], {}
    sequence = jnp.zeros((time, batch, hidden))
    mask_tb, reset_tb = jnp.ones((time, batch), bool), jnp.zeros((time, batch), bool)
    for backward in BACKWARD:
        layer = RecurrentLayer(cell, hidden, hidden, backward=backward)
        given = cell.zero_state(batch, hidden), mask_tb, reset_tb
        variables = jax.eval_shape(
            lambda layer=layer, given=given: layer.init(jax.random.key(0), sequence, *given, method="unroll")
        )

        def value(variables, layer=layer, given=given):
            outputs = sequence
            for _ in range(4):
                outputs, _ = layer.apply(variables, outputs, *given, method="unroll")
            return jnp.sum(outputs**2)

        memory = jax.jit(jax.grad(value)).lower(variables).compile().memory_analysis()
        peaks[backward] = memory.temp_size_in_bytes / (4 * time * batch * hidden)
    assert peaks["segments"] < peaks["recompute"] < peaks["keep"], peaks


def test_bfloat16_products_differ_from_float32():
    cell = CELLS["lstm"]
    full, _ = cell.unroll(Execution(), *case(cell))
    half, _ = cell.unroll(Execution(dtype="bfloat16"), *case(cell))
    assert 0 < np.abs(full - half).max() < 0.05


@every_cell
def test_a_gradient_in_bfloat16_is_near_that_in_float32(name):
    """And every product of it exists on this platform."""
    cell, found = ALL_CELLS[name], {}
    weights, *given = case(cell, 2, True)
    for dtype in ("float32", "bfloat16"):
        unroll = functools.partial(cell.unroll, Execution(2, dtype))
        value = lambda weights, unroll=unroll: jnp.sum(jnp.sin(unroll(weights, *given)[0]))
        gradient = jax.jit(jax.grad(value))(weights)
        found[dtype] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    distance = np.linalg.norm(found["bfloat16"] - found["float32"])
    assert 0 < distance < 0.05 * np.linalg.norm(found["float32"])
