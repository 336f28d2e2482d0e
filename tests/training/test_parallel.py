"""Many devices: `pmap` and `fsdp` are the same update, cut otherwise; and what each of them moves between devices."""

import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from support.configs import tiny_config
from support.programs import tree_of
from support.sizes import sized
from support.training import LAYOUTS, SPECS, Setup, devices_of, steps_of

from benchmarks import kill
from lm import changed
from lm.devices.mesh import Devices, axis_of, devices_for
from lm.errors import UserError
from lm.training import loop, step

pytestmark = pytest.mark.usefixtures("quick_training")

LEARNS = {"model.dropout": 0.3, "data.buckets": 1, "optimizer.learning_rate": 0.01}


@pytest.fixture(scope="module")
def setups(sources) -> dict[str, Setup]:
    return {layout: Setup(tiny_config(layout, sources[SPECS[layout]], LEARNS)) for layout in LAYOUTS}


@pytest.mark.parametrize(
    "layout, cuts",
    sized(
        [("streams", [(8, 0)]), ("buckets", [(1, 0), (2, 0), (4, 2), (8, 0)])],
        lambda layout, cuts: layout == "streams",
    ),
    ids=LAYOUTS,
)
def test_fsdp_gives_the_losses_of_pmap_on_1_2_4_and_8_devices(layout, cuts, setups):
    setup = setups[layout]
    given = [setup.data.batches[i] for i in range(20)]
    metrics, state = setup.updates(devices_of("pmap", 1), given)
    losses = np.array([one.loss_sum / one.tokens for one in metrics])
    for count, shards in cuts:
        devices = devices_of("fsdp", count, shards)
        metrics, cut = setup.updates(devices, given)
        np.testing.assert_allclose([one.loss_sum / one.tokens for one in metrics], losses, rtol=1e-5)
        for (path, one), other in zip(
            jax.tree_util.tree_leaves_with_path(devices_of("pmap", 1).saved(state)),
            jax.tree.leaves(devices.saved(cut)),
            strict=True,
        ):
            other = np.asarray(other)
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def large() -> dict[str, object]:
    """Widths that divide by 8, as a model has that is worth cutting; a vocabulary that does not."""
    changes = {"model.embed_dim": 64, "model.hidden_dim": 64, "data.buckets": 1, "data.tokenizer.vocab_size": 0}
    return changes | {"data.tokenizer.kind": "bytes", "data.window": 8}


@pytest.mark.parametrize("layout", sized(LAYOUTS, lambda layout: layout == "buckets"))
def test_a_device_holds_an_eighth_of_parameters_and_optimizer(layout, sources, large):
    setup = Setup(tiny_config(layout, sources[SPECS[layout]], large))
    devices = devices_of("fsdp", 8)
    _, state = setup.updates(devices, [setup.data.batches[0]])
    kept = state._replace(carry=())
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(kept))
    on_device = [
        sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(kept)
            for shard in leaf.addressable_shards
            if shard.device == d
        )
        for d in devices.devices
    ]
    assert max(on_device) <= whole / 8 * 1.05
    # Two copies of four parts each: a quarter.
    _, halves = setup.updates(devices_of("fsdp", 8, shards=4), [setup.data.batches[0]])
    parts = [leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(halves._replace(carry=()))]
    assert whole / 4 <= sum(parts) <= whole / 4 * 1.05


def compiled_step(setup: Setup, devices: Devices) -> tuple[str, step.TrainState]:
    """The text of the compiled step, and a state that it takes."""
    state = step.initial_state(setup.answer, setup.optimizer(), setup.config, setup.params)
    state = devices.place(jax.device_get(state))
    lowered = setup.compiled(devices).lower(state, devices.put(setup.data.batches[0]))
    return lowered.compile().as_text(), state


@pytest.mark.parametrize("mode", ["pmap", "fsdp"])
def test_the_optimizer_writes_where_it_read(mode, setups):
    """Or a step would copy all of its moments first."""
    text, state = compiled_step(setups["streams"], devices_of(mode, 1))
    # Arguments are named by their number or by their path.
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    moments = {i for i, name in enumerate(names) if re.search(r"\.(mu|nu)\b", name)}
    numbered = dict(re.findall(r"%(\S+) = \S+ parameter\((\d+)\)", text[text.index("\nENTRY") :]))
    assert len(moments) > 10 and {*map(str, moments)} <= {*numbered.values()}
    copied = {int(numbered[name]) for name in re.findall(r" copy\(%(\S+)\)", text) if name in numbered}
    assert not copied & moments


def collectives(setup: Setup, devices: Devices) -> dict[str, int]:
    """How many of each kind the compiled step holds."""
    text, _ = compiled_step(setup, devices)
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    return {kind: len(re.findall(rf"^ *\S+ = .* {kind}(?:-start)?\(", text, re.MULTILINE)) for kind in kinds}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pmap_sums_all_gradients_in_one_collective(layout, setups):
    found = collectives(setups[layout], devices_of("pmap", 8))
    assert found == {"all-reduce": 1, "all-gather": 0, "reduce-scatter": 0, "all-to-all": 0, "collective-permute": 0}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shards", [8, 4])
def test_fsdp_gathers_and_scatters_each_parameter_once_and_nothing_else(layout, shards, setups):
    setup, devices = setups[layout], devices_of("fsdp", 8, shards)
    cut = [axis_of(spec) for spec in jax.tree.leaves(devices.specs(setup.params))]
    cut = sum(axis is not None for axis in cut)
    assert cut > len(jax.tree.leaves(setup.params)) / 2
    found = collectives(setup, devices)
    assert found["all-gather"] == found["reduce-scatter"] == cut
    # What is not cut, with loss and tokens; the norm of the gradient; and over `data` the sum of what was scattered.
    assert found["all-reduce"] <= 2 + (shards < 8)
    assert found["all-to-all"] == found["collective-permute"] == 0


def test_every_kind_of_parameter_is_cut_by_its_rule():
    devices = devices_of("fsdp", 8)
    shapes = {
        "embedding": {"embedding": (64, 24)},
        "decoder": {"layers_0": {"kernel": (24, 96), "recurrent_kernel": (24, 96), "bias": (96,)}},
        "head_kernel": (24, 300),  # 300 does not divide by 8
        "head_bias": (300,),
    }
    tree = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, "float32"), shapes, is_leaf=lambda s: isinstance(s, tuple))
    axes = jax.tree.map(axis_of, devices.specs({"mu": tree}))["mu"]
    assert axes == {
        "embedding": {"embedding": 0},
        "decoder": {"layers_0": {"kernel": 1, "recurrent_kernel": 1, "bias": 0}},
        "head_kernel": 0,
        "head_bias": None,
    }


# ---- checkpoints and programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, second",
    sized(
        [(("fsdp", 8), ("pmap", 1)), (("pmap", 4), ("fsdp", 2))],
        lambda first, second: first == ("pmap", 4),
    ),
    ids=["fsdp-pmap", "pmap-fsdp"],
)
def test_a_checkpoint_of_n_devices_in_one_mode_is_read_on_m_in_the_other(first, second, sources, tmp_path, monkeypatch):
    """A language model's, whose carried state is cut too."""
    changes = LEARNS | {"training.steps": 8, "training.eval_every": 4, "training.checkpoint_every": 4}
    config = tiny_config("streams", sources["lm"], changes | {"training.log_every": 1})

    def train(mode: str, count: int) -> None:
        monkeypatch.setattr(loop, "devices_for", lambda *_: devices_of(mode, count))
        loop.train(changed(config, {"training.parallel": mode}), epath.Path(tmp_path / "run"))

    train("pmap", 2)
    (tmp_path / "run").rename(tmp_path / "whole")
    train(*first)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    before = tree_of(tmp_path / "run" / "checkpoints" / "4")
    train(*second)
    assert tree_of(tmp_path / "run" / "checkpoints" / "4") == before and steps_of(tmp_path / "run")[-1] == 8
    found, expected = (kill._leaves(tmp_path / name / "checkpoints" / "8") for name in ("run", "whole"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, tuple):
            kind, shape, data = found[name]
            assert (kind, shape) == value[:2], name
            one, other = (np.frombuffer(each, kind) for each in (data, value[2]))
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_devices_cannot_share_is_refused_by_name():
    with pytest.raises(UserError, match="config.data.batch_size: 12 is not divisible by 8 devices .* use 16"):
        devices_for(12, 1, "pmap")
    with pytest.raises(UserError, match="config.training.shards: 3 does not divide 8 devices"):
        devices_for(16, 1, "fsdp", 3)
    with pytest.raises(UserError, match="config.training.shards: is above 0, and pmap"):
        devices_for(16, 1, "pmap", 2)
    assert devices_for(16, 1, "fsdp", 2).mesh.shape == {"data": 4, "model": 2}
