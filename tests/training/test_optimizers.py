"""Learning rates over time, which parameters decay, and the rules against their textbook form."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.sizes import sized

from lm.config import Config, Group, ModelConfig, OptimizerConfig, TrainingConfig, parse_group
from lm.errors import UserError
from lm.models.names import name_of
from lm.training.optimizers import ALL, LORA, decay_mask, groups_of, joined, optimizer, schedule, split
from lm.training.step import TrainState, make_train_step, parted, whole

PEAK, WARMUP, STEPS = 0.5, 10, 50
NAMES = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")


def rates(name, warmup=WARMUP, steps=STEPS, count=STEPS + 1, **fields):
    config = OptimizerConfig(schedule=name, learning_rate=PEAK, **fields)
    rate = schedule(config, warmup, steps)
    return np.array([float(rate(i)) for i in range(count)])


def params():
    rng = np.random.default_rng(0)
    leaf = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "embedding": {"embedding": leaf(5, 2)},
        "layer": {"kernel": leaf(2, 3), "recurrent_kernel": leaf(3, 3), "bias": leaf(3)},
        "head_kernel": leaf(3, 5),
    }


def grads(seed=1):
    return jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(seed).normal(size=x.shape), jnp.float32), params())


def zeros():
    return jax.tree.map(jnp.zeros_like, params())


def run(gradients, **fields):
    """Parameters after an update with each of `gradients`, at the learning rate 0.1."""
    config = OptimizerConfig(**{"clip_norm": 0.0, **fields})
    rule = optimizer(config, optax.constant_schedule(0.1), params())
    now, state = params(), rule.init(params())
    for gradient in gradients:
        updates, state = rule.update(gradient, state, now)
        now = optax.apply_updates(now, updates)
    return now


def close(found, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), found, expected)


# ---- schedules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_is_a_line_from_one_share_of_the_peak_to_all_of_it(name):
    np.testing.assert_allclose(rates(name)[:WARMUP], PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 2, WARMUP])
@pytest.mark.parametrize("name", SCHEDULES)
def test_after_the_warm_up_the_rate_starts_at_the_peak_and_never_rises(name, warmup):
    found = rates(name, warmup)
    np.testing.assert_allclose(found[warmup], PEAK, rtol=1e-6)
    assert found.max() <= PEAK * (1 + 1e-6) and (found > 0)[:-1].all()
    assert (np.diff(found[warmup:]) <= 1e-7).all() and (np.diff(found[: warmup + 1]) >= -1e-7).all()


@pytest.mark.parametrize("final", [0.0, 0.2])
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_each_schedule_is_its_formula_and_ends_where_it_should(warmup, final):
    share = np.arange(STEPS - warmup + 1) / (STEPS - warmup)
    formulas = {
        "constant": np.ones_like(share),
        "linear": 1 - share * (1 - final),
        "cosine": final + (1 - final) * (1 + np.cos(np.pi * share)) / 2,
        "inverse_sqrt": np.sqrt(max(warmup, 1) / (max(warmup, 1) + np.arange(len(share)))),
    }
    for name, formula in formulas.items():
        found = rates(name, warmup, final_fraction=final)
        np.testing.assert_allclose(found[warmup:], PEAK * formula, rtol=1e-5, atol=1e-7)
        if name in ("linear", "cosine"):
            np.testing.assert_allclose(found[STEPS], PEAK * final, atol=1e-7)


def test_inverse_sqrt_has_no_jump():
    found = rates("inverse_sqrt", warmup=100, steps=1000, count=1001)
    assert np.abs(np.diff(found)).max() <= PEAK / 100 * (1 + 1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_shorter_than_its_warm_up_never_leaves_it(name):
    np.testing.assert_allclose(rates(name, warmup=100)[:STEPS], PEAK * np.arange(1, STEPS + 1) / 100, rtol=1e-5)


# ---- groups -----------------------------------------------------------------------------------------------------


def test_names_are_paths():
    names = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params())}
    assert names == {"embedding/embedding", "layer/kernel", "layer/recurrent_kernel", "layer/bias", "head_kernel"}


@pytest.mark.parametrize("decayed", [OptimizerConfig.decayed, "head_kernel|layer/bias", ".*"])
def test_with_no_gradient_the_decayed_group_shrinks_and_no_other_moves(decayed):
    after = run([zeros()] * 2, name="adamw", weight_decay=0.5, decayed=decayed)
    groups = {
        OptimizerConfig.decayed: {"layer/kernel", "layer/recurrent_kernel", "head_kernel"},
        "head_kernel|layer/bias": {"head_kernel", "layer/bias"},
        ".*": {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params())},
    }

    def check(path, before, now):
        share = (1 - 0.1 * 0.5) ** 2 if name_of(path) in groups[decayed] else 1.0
        np.testing.assert_allclose(now, before * share, rtol=1e-6)

    jax.tree_util.tree_map_with_path(check, params(), after)


def test_a_pattern_that_fits_no_parameter_is_refused_and_the_names_are_listed():
    config = OptimizerConfig(weight_decay=0.1, decayed="kernel")  # matched whole: `layer/kernel` is not `kernel`
    with pytest.raises(UserError, match=r"^error: config.optimizer.decayed: 'kernel' fits no parameter") as caught:
        optimizer(config, optax.constant_schedule(0.1), params())
    assert "layer/recurrent_kernel" in str(caught.value) and "\n" not in str(caught.value)
    without = dataclasses.replace(config, weight_decay=0.0)
    assert not any(jax.tree.leaves(decay_mask(without, params())))


FEW = (Group("embedding/.*", 0.0), Group("layer/.*", 0.25), Group(".*", 1.0))


def updates(groups, gradients, rate=lambda count: 0.1, **fields):
    """What each of `gradients` makes of the parameters that learn, which stay as they are."""
    config = OptimizerConfig(**{"clip_norm": 0.0, **fields})
    rule, (learning, _) = optimizer(config, rate, params(), groups), split(groups, params())
    state, found = rule.init(learning), []
    for gradient in gradients:
        update, state = rule.update(split(groups, gradient)[0], state, learning)
        found.append(update)
    return found, state


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_is_of_the_learning_rate_and_what_is_frozen_has_no_state(name):
    given, decay = [grads(seed) for seed in range(3)], {"weight_decay": 0.0 if name == "adam" else 0.3}
    plain, _ = updates([ALL], given, name=name, **decay)
    grouped, state = updates(FEW, given, name=name, **decay)
    for one, other in zip(grouped, plain, strict=True):
        assert set(one) == {"layer", "head_kernel"}
        close(one["layer"], jax.tree.map(lambda x: 0.25 * x, other["layer"]))
        np.testing.assert_array_equal(one["head_kernel"], other["head_kernel"])
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert params()["embedding"]["embedding"].shape not in shapes and params()["head_kernel"].shape in shapes


@pytest.mark.parametrize("name", NAMES)
def test_a_group_that_begins_later_does_then_what_a_new_optimizer_does_at_the_rate_of_all(name):
    given, rate = [grads(seed) for seed in range(6)], lambda count: 0.1 / (1 + count)
    groups = (Group("layer/.*", 0.5, 2), Group(".*", 1.0))
    found, _ = updates(groups, given, rate, name=name, clip_norm=0.5)
    only = lambda tree, name: {name: tree[name]}
    rest = [{**g, "layer": jax.tree.map(jnp.zeros_like, g["layer"])} for g in given[:2]]
    plain, _ = updates([ALL], [*rest, *given[2:]], rate, name=name, clip_norm=0.5)
    late, _ = updates([ALL], given[2:], lambda count: 0.5 * rate(count + 2), name=name, clip_norm=0.5)
    for i, one in enumerate(found):
        # It counts for nothing in the norm that the others are clipped to.
        close(only(one, "head_kernel"), only(plain[i], "head_kernel"))
        expected = late[i - 2] if i >= 2 else jax.tree.map(jnp.zeros_like, one)
        close(only(one, "layer"), only(expected, "layer"))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(only(found[1], "layer")))


def test_the_first_pattern_that_matches_holds_and_none_may_be_without_a_match():
    learning, frozen = split(FEW, params())
    assert {name_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(frozen)} == {"embedding/embedding"}
    close(joined(learning, frozen), params(), rtol=0)
    for groups, words in (
        ([Group("layer/.*", 1)], "no pattern matches the parameter embedding/embedding; add one"),
        ([Group("layr/.*", 0), ALL], "'layr/.*' matches no parameter that those before it do not; names: embedding/"),
        ([ALL, Group("layer/.*", 0)], "'layer/.*' matches no parameter that those before it do not"),
    ):
        with pytest.raises(UserError, match=re.escape(f"error: config.optimizer.groups: {words}")) as caught:
            split(groups, params())
        assert "\n" not in str(caught.value)


def test_groups_are_those_of_the_configuration_else_all_alike_else_the_adapters():
    texts = ("embedding/.*=>0", "a=>b=>0.5@2.5 epochs", ".*=>1")
    expected = (Group("embedding/.*", 0.0), Group("a=>b", 0.5, "2.5 epochs"), Group(".*", 1.0))
    assert tuple(map(parse_group, texts)) == expected
    adapts = ModelConfig(lora_rank=2)
    assert groups_of(Config(model=adapts, optimizer=OptimizerConfig(groups=texts))) == expected
    assert groups_of(Config()) == (ALL,) and groups_of(Config(model=adapts)) == LORA


# ---- rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_scaled_to_the_norm_and_small_ones_left_alone(name):
    gradient = grads()
    norm = float(optax.global_norm(gradient))
    scaled = jax.tree.map(lambda g: g * 0.5 / norm, gradient)
    small = jax.tree.map(lambda g: g * 0.1, scaled)
    # Rules that divide by the gradient's size show the scale only against a later gradient.
    for given, same in (([gradient, small], [scaled, small]), ([small, scaled], [small, scaled])):
        close(run(given, name=name, clip_norm=0.5), run(same, name=name), rtol=1e-5)
    clipped, free = (run([gradient, small], name=name, clip_norm=c) for c in (0.5, 0.0))
    assert np.abs(clipped["head_kernel"] - free["head_kernel"]).max() > 1e-3


def test_adamw_without_decay_is_adam_and_with_decay_is_not():
    several = [grads(seed) for seed in range(3)]
    close(run(several, name="adamw", weight_decay=0.0), run(several, name="adam"))
    decayed = run(several, name="adamw", weight_decay=0.1)["layer"]["kernel"]
    assert np.abs(decayed - run(several, name="adam")["layer"]["kernel"]).max() > 1e-3


def test_adam_is_its_formula():
    b1, b2, epsilon = 0.7, 0.9, 0.01
    now = np.asarray(params()["head_kernel"], np.float64)
    mean = square = 0
    for t, seed in enumerate(range(3), start=1):
        gradient = np.asarray(grads(seed)["head_kernel"], np.float64)
        mean, square = b1 * mean + (1 - b1) * gradient, b2 * square + (1 - b2) * gradient**2
        now = now - 0.1 * mean / (1 - b1**t) / (np.sqrt(square / (1 - b2**t)) + epsilon)
    found = run([grads(seed) for seed in range(3)], name="adam", b1=b1, b2=b2, epsilon=epsilon)["head_kernel"]
    np.testing.assert_allclose(found, now, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula_with_momentum_and_decay(momentum, decay):
    now, velocity = np.asarray(params()["head_kernel"]), 0
    for seed in range(3):
        velocity = momentum * velocity + np.asarray(grads(seed)["head_kernel"]) + decay * now
        now = now - 0.1 * velocity
    found = run([grads(seed) for seed in range(3)], name="sgd", b1=momentum, weight_decay=decay)["head_kernel"]
    np.testing.assert_allclose(found, now, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_drives_the_rule(name):
    config = OptimizerConfig(name=name, schedule="linear", learning_rate=0.1, clip_norm=0.0, b1=0.0)
    rule = optimizer(config, schedule(config, 2, 6), params())
    state = rule.init(params())
    sizes = []
    for _ in range(6):
        updates, state = rule.update(grads(), state, params())
        sizes.append(float(optax.global_norm(updates)))
    np.testing.assert_allclose(np.array(sizes) / sizes[1], [0.5, 1, 1, 0.75, 0.5, 0.25], rtol=1e-3)


# ---- updates that are skipped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sized(NAMES, lambda name: name == "adamw"))
def test_what_a_skipped_update_moves_is_the_schedule_and_nothing_else(name):
    """Rates and beginnings of groups are those of the run's steps; moments, their bias correction and that of the average
    count the updates that were made. So it is in a run that is resumed."""
    steps, skipped, decay = 14, {0, 3, 4, 7, 9}, 0.9
    made = [step for step in range(steps) if step not in skipped]
    groups = (Group("embedding/.*", 1.0, 6), Group(".*", 1.0))
    own = OptimizerConfig(name=name, learning_rate=PEAK, schedule="linear", ema_decay=decay)
    own.groups = ("embedding/.*=>1@6", ".*=>1")
    config = Config(optimizer=own, training=TrainingConfig(not_finite="skip"))
    rate = schedule(own, 2, steps)

    def gradient(state, batch):
        bad = jnp.isin(state.step, jnp.array([*skipped]))
        return jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), batch), (jnp.float32(1), jnp.float32(1)), ()

    rule = optimizer(own, rate, params(), groups)
    update = jax.jit(make_train_step(gradient, rule, config))
    state = TrainState(jnp.int32(0), params(), rule.init(params()), (), params(), (), jnp.int32(0))
    for step in range(steps):
        state, _ = update(state, grads(step))
        if step == 8:  # resumed
            state = whole(config, groups, *parted(state), skipped=int(state.skipped))
    assert state.skipped == len(skipped)

    begin = len([step for step in made if step < 6])
    alone = optimizer(
        own,
        lambda count: jnp.array([rate(step) for step in made])[count],
        params(),
        (Group("embedding/.*", 1.0, begin), groups[1]),
    )
    now, inner, passed = params(), alone.init(params()), []
    for step in made:
        updates, inner = alone.update(grads(step), inner, now)
        now = optax.apply_updates(now, updates)
        passed.append(now)
    close(state.params, now)
    shares = decay ** np.arange(len(passed))[::-1]
    mean = lambda *leaves: sum(share * np.asarray(leaf, np.float64) for share, leaf in zip(shares, leaves, strict=True))
    close(state.averaged, jax.tree.map(lambda *leaves: mean(*leaves) / shares.sum(), *passed), rtol=1e-5)
