"""Training: the update, exact resume, what is kept, and what a run refuses."""

import contextlib
import itertools
import json
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from etils import epath
from support.configs import tiny_config
from support.programs import environment, tree_of
from support.sizes import sized
from support.training import FROZEN, LAYOUTS, SPECS, Setup, parameters, steps_of

from benchmarks import kill
from lm import changed
from lm.config import Config
from lm.config.tasks import ANSWER_KINDS, TASKS
from lm.data import encoding
from lm.data.batches.buckets import Buckets
from lm.data.batches.streams import Streams
from lm.data.read.examples import Example, Listed
from lm.data.read.sources import Split
from lm.data.splits import load_splits
from lm.devices.mesh import Devices
from lm.errors import Stopped, UserError
from lm.evaluation.evaluator import Evaluator
from lm.models import names
from lm.models.parameters import initial_params
from lm.runs import log, manifest, workdir
from lm.runs.run import load
from lm.training import console, loop
from lm.training.schedule import Schedule
from lm.training.step import TrainState, initial_state

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def short(tmp_path_factory, sources, story_text, pairs) -> dict[str, Config]:
    """Short trainings whose validation data is unlike their training data, so that the best checkpoint is not the last.

    Evaluations, checkpoints and lines of metrics fall together at the end only.
    """
    folder = tmp_path_factory.mktemp("unlike")
    (folder / "story.txt").write_text("xxvwg " * 100)
    (folder / "pairs.tsv").write_text("".join(f"{source}\tQQQ {i}\n" for i, (source, _) in enumerate(pairs[:60])))
    validation = {"streams": f"text:{folder}/story.txt", "buckets": f"tsv:{folder}/pairs.tsv"}
    changes = {"training.steps": 24, "training.eval_every": 6, "training.checkpoint_every": 4, "training.log_every": 5}
    changes |= {"optimizer.learning_rate": 0.01, "data.buckets": 2}
    return {
        layout: tiny_config(layout, sources[SPECS[layout]], changes | {"data.validation": validation[layout]})
        for layout in LAYOUTS
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, short) -> dict[str, pathlib.Path]:
    """A finished run of each, in a relative directory, as most users give it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with contextlib.chdir(folder):
        for layout, config in short.items():
            loop.train(config, epath.Path(layout))
    return {layout: folder / layout for layout in LAYOUTS}


def changed_parameters(setup: Setup, devices: Devices, state: TrainState) -> dict[str, np.ndarray]:
    """By how much each parameter differs from its initial value, by name."""
    params = devices.saved(state).params
    named = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: a - np.asarray(b), params, setup.params))
    return {names.name_of(path): leaf for path, leaf in named}


def stop_in_step(monkeypatch, step: int) -> None:
    """SIGTERM arrives while update `step` is computed."""
    update = console.Bar.update

    def update_and_stop(self, fetched, *rest):
        update(self, fetched, *rest)  # of the step before: metrics are fetched one step late
        if fetched == step - 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(console.Bar, "update", update_and_stop)


# ---- the update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sized(LAYOUTS, lambda layout: layout == "buckets"))
def test_1_2_4_and_8_devices_give_the_same_losses(layout, short):
    config = changed(short[layout], {"model.dropout": 0.3, "data.buckets": 1})
    setup = Setup(config)
    one = setup.first_losses(1, steps=20)
    for count in (2, 4, 8):
        np.testing.assert_allclose(setup.first_losses(count, steps=20), one, rtol=1e-5)
    # Dropout is on: from the same parameters and batches, another seed gives other losses.
    setup.config = changed(config, {"seed": 1})
    assert np.abs(setup.first_losses(1, steps=5) / one[:5] - 1).max() > 1e-4


def test_every_seed_has_the_same_program(short):
    """Or else each of a series of runs would be compiled anew."""
    texts = set()
    for seed in (0, 1, 2**32 - 1):
        setup = Setup(changed(short["streams"], {"seed": seed}))
        devices = Devices(jax.devices()[:1])
        state = initial_state(setup.answer, setup.optimizer(), setup.config, setup.params)
        assert state.seed == seed
        given = devices.place(jax.device_get(state)), devices.put(setup.data.batches[0])
        texts.add(setup.compiled(devices).lower(*given).as_text())
    assert len(texts) == 1


@pytest.mark.parametrize("layout", sized(LAYOUTS, lambda layout: layout == "buckets"))
def test_micro_batches_with_unequal_token_counts_equal_one_batch(layout, short):
    # Plain gradient descent, so that the update shows the gradient and its scale.
    changes = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0, "optimizer.learning_rate": 1.0, "optimizer.b1": 0.0}
    updates, counts = {}, {}
    for parts in (1, 2, 4):
        setup = Setup(changed(short[layout], changes | {"data.buckets": 1, "training.accumulate": parts}))
        # The last window of an epoch, where streams end at different places.
        batch = setup.data.batches[setup.data.steps_per_epoch - 1]
        counts[parts] = batch.weights_bt.reshape(2, parts, -1).sum(axis=2)
        devices = Devices(jax.devices()[:2])
        metrics, state = setup.updates(devices, [batch])
        assert metrics[0].tokens == counts[parts].sum()
        updates[parts] = changed_parameters(setup, devices, state)
    assert max(np.abs(update).max() for update in updates[1].values()) > 1e-3
    for parts in (2, 4):
        assert len(set(counts[parts].flat)) > 1
        for name, update in updates[1].items():
            np.testing.assert_allclose(updates[parts][name], update, rtol=1e-4, atol=1e-7, err_msg=name)


def test_a_sampled_softmax_is_the_same_on_many_devices_and_in_parts_and_learns(short):
    sampled = {"training.sampled_softmax": 16, "model.dropout": 0.0, "data.buckets": 1}
    setup = Setup(changed(short["buckets"], sampled))
    one = setup.first_losses(1, steps=20)
    assert one[-5:].mean() < 0.9 * one[:5].mean()
    for count, parts in ((1, 2), (2, 2), (8, 1)):
        setup.config = changed(short["buckets"], sampled | {"training.accumulate": parts})
        np.testing.assert_allclose(setup.first_losses(count, steps=20), one, rtol=1e-5)
    # Each step has candidates of its own: with the same batch and parameters another one gives another loss.
    still = Setup(changed(short["buckets"], sampled | {"optimizer.learning_rate": 0.0}))
    batch = still.data.batches[0]
    found, _ = still.updates(Devices(jax.devices()[:1]), [batch] * 3)
    assert len({float(metrics.loss_sum) for metrics in found}) == 3


def test_a_sampled_softmax_over_more_than_the_vocabulary_is_refused(short, tmp_path):
    with pytest.raises(UserError, match="^error: config.training.sampled_softmax: 5000 of a vocabulary of "):
        loop.train(changed(short["streams"], {"training.sampled_softmax": 5000}), epath.Path(tmp_path / "run"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_line_of_training_metrics_is_nats_over_tokens_of_its_steps(layout, short, uninterrupted):
    setup = Setup(short[layout])
    metrics, _ = setup.updates(Devices(jax.devices()[:2]), [setup.data.batches[i] for i in range(5)])
    line = log.read_metrics(epath.Path(uninterrupted[layout]))[0]
    assert (line["step"], line["split"]) == (5, "train")
    if layout == "buckets":
        assert len({float(one.tokens) for one in metrics}) > 1  # or else a mean of means would do
    total, tokens = sum(one.loss_sum for one in metrics), sum(one.tokens for one in metrics)
    assert line["loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert line["tokens_per_second"] == pytest.approx(tokens / line["seconds"], rel=1e-2, abs=0.1)


def test_metrics_are_fetched_when_the_next_update_is_under_way_and_before_what_is_due():
    happened = []

    def update(state, batch):
        happened.append(f"update {state + 1} by {batch}")
        return state + 1, f"metrics {state + 1}"

    def fetch(metrics):
        happened.append(f"fetch {metrics}")
        return metrics

    due_after = {3: "an evaluation"}.get
    found = []
    for one in loop.updates(update, 0, "abcd", 1, due_after, fetch):
        happened.append(f"see {one[0]}")
        found.append(one)
    assert found == [
        (1, None, "metrics 1", None),
        (2, None, "metrics 2", None),
        (3, 3, "metrics 3", "an evaluation"),
        (4, 4, "metrics 4", None),
    ]
    expected = (
        "update 1 by a|update 2 by b|fetch metrics 1|see 1|update 3 by c|fetch metrics 2|see 2|fetch metrics 3|see 3"
    )
    assert happened == [*expected.split("|"), "update 4 by d", "fetch metrics 4", "see 4"]


# ---- stopping and resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stop_and_resume_equals_uninterrupted_bit_for_bit(layout, short, uninterrupted, tmp_path, monkeypatch):
    config, directory = short[layout], tmp_path / "run"
    for step in (11, 14):  # boundaries of nothing, nor the step before; the second within a resumed life
        with monkeypatch.context() as patch:
            stop_in_step(patch, step)
            with pytest.raises(Stopped, match=f"at step {step} of 24") as stopped:
                loop.train(config, epath.Path(directory))
        assert stopped.value.number == signal.SIGTERM
        assert steps_of(directory)[-1] == step
        assert kill.differences(directory, uninterrupted[layout])
        if step == 11:
            shutil.copytree(directory, tmp_path / "forgetful")
    loop.train(config, epath.Path(directory))
    assert kill.differences(directory, uninterrupted[layout]) == []

    if layout == "streams":  # the carried state is part of what a checkpoint keeps: without it the numbers are others
        place = Devices.place
        forget = lambda self, state: place(self, state._replace(carry=jax.tree.map(np.zeros_like, state.carry)))
        monkeypatch.setattr(Devices, "place", forget)
        loop.train(config, epath.Path(tmp_path / "forgetful"))
        found = "\n".join(kill.differences(tmp_path / "forgetful", uninterrupted[layout]))
        assert "checkpoint 24: params" in found and "metrics.jsonl: {'step': 12" in found


def test_a_run_killed_and_restarted_equals_one_that_was_not(configs, trained, tmp_path):
    """That of a language model, which has a state to keep; `benchmarks.kill` kills both layouts many times."""
    command = kill.command(configs["streams"], tmp_path / "killed")
    hits = kill.run_killed(command, environment(), tmp_path / "killed", steps=80, kills=2, seed=7)
    assert len(hits) == 2 and "after step" in hits[0], hits
    assert kill.differences(tmp_path / "killed", trained["streams"]) == []


def test_what_a_kill_left_of_old_checkpoints_is_removed_by_the_next_start(short, uninterrupted, tmp_path):
    """A kill after the last save and before, or in, the removal of what it supersedes."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted["streams"], run)
    for step in (8, 16):
        shutil.copytree(run / "checkpoints" / "20", run / "checkpoints" / str(step))
    shutil.rmtree(run / "checkpoints" / "16" / "params")
    loop.train(short["streams"], epath.Path(run))
    assert kill.differences(run, uninterrupted["streams"]) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(
    layout, short, uninterrupted, tmp_path, monkeypatch
):
    kind = {"streams": Streams, "buckets": Buckets}[layout]
    healthy = kind.share

    def poisoned(self, index, rows):
        batch = healthy(self, index, rows)
        return batch._replace(weights_bt=batch.weights_bt * np.float32(np.nan)) if index >= 9 else batch

    with monkeypatch.context() as patch:
        patch.setattr(kind, "share", poisoned)
        with pytest.raises(UserError, match="^error: step 10: .* not finite .* checkpoint is 8"):
            loop.train(short[layout], epath.Path(tmp_path / "run"))
    run = load(str(tmp_path / "run"), "latest")
    assert run.step == 8 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    loop.train(short[layout], epath.Path(tmp_path / "run"))  # the cause is mended
    assert kill.differences(tmp_path / "run", uninterrupted[layout]) == []


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of a learning rate that float32 has not
def test_parameters_that_are_not_finite_are_never_the_last_checkpoint(short, tmp_path):
    """The first loss and its gradient are finite, what the update makes of them is not."""
    changes = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0, "optimizer.schedule": "constant"}
    changes |= {"optimizer.learning_rate": 1e300, "optimizer.warmup": 0}
    changes |= {"training.checkpoint_every": 1, "training.eval_every": 1}
    with pytest.raises(UserError, match="^error: step 1: .* not finite"):
        loop.train(changed(short["streams"], changes), epath.Path(tmp_path / "run"))
    assert steps_of(tmp_path / "run") == []
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


# ---- what is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_latest_checkpoints_and_the_best_by_validation_loss_are_kept(layout, uninterrupted):
    directory = epath.Path(uninterrupted[layout])
    found = {r["step"]: r["loss"] for r in log.read_metrics(directory) if r["split"] == "validation"}
    assert sorted(found) == [6, 12, 18, 24]
    best = min(found, key=found.get)
    assert best not in (20, 24)  # or else it would be kept as one of the latest
    assert steps_of(directory) == [best, 20, 24]
    assert load(str(directory)).step == best
    assert load(str(directory), "latest").step == 24
    assert load(str(directory), "20").step == 20
    assert kill._leaves(uninterrupted[layout] / "checkpoints" / "24")["best_loss"] == found[best]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_configuration_is_refused_and_nothing_is_changed(layout, short, uninterrupted):
    before = tree_of(uninterrupted[layout])
    other = changed(short[layout], {"model.hidden_dim": 24, "optimizer.learning_rate": 0.5})
    with pytest.raises(UserError) as refused:
        loop.train(other, epath.Path(uninterrupted[layout]))
    assert "model.hidden_dim: 16 -> 24" in str(refused.value)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in str(refused.value)
    assert str(refused.value).count("->") == 2
    assert tree_of(uninterrupted[layout]) == before


def left_at_20(run: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """A copy of a run that was stopped after step 20."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "24")
    return copy


# For each field that a start may have its own way another value. (`parallel` and `shards` change the order of sums.)
OTHER_WAYS = {
    "training.log_every": 3,
    "training.eval_every": 5,
    "training.checkpoint_every": 3,
    "training.checkpoint_minutes": 1e-9,
    "training.keep_checkpoints": 1,
    "data.workers": 2,
}


@pytest.mark.parametrize("path", sized(OTHER_WAYS, lambda path: path == "training.eval_every"))
def test_fields_that_change_no_number_may_change_when_a_run_goes_on(path, short, uninterrupted, tmp_path):
    assert {*OTHER_WAYS} == {*workdir.MAY_DIFFER} - {"training.parallel", "training.shards"}
    copy = left_at_20(uninterrupted["streams"], tmp_path / "run")
    other = changed(short["streams"], {path: OTHER_WAYS[path]})
    loop.train(other, epath.Path(copy))
    known, found = (parameters_and_state(run / "checkpoints" / "24") for run in (uninterrupted["streams"], copy))
    assert found == known
    assert json.loads((copy / "manifest.json").read_text())["starts"][-1]["changed"] == {
        path: [kill.configuration.get(short["streams"], path), OTHER_WAYS[path]]
    }
    assert (copy / "config.json").read_text() == kill.configuration.to_json(other)


def parameters_and_state(checkpoint: pathlib.Path) -> dict[str, object]:
    """All arrays of a checkpoint, bit for bit."""
    return {name: value for name, value in kill._leaves(checkpoint).items() if isinstance(value, tuple)}


@pytest.mark.parametrize("layout", sized(LAYOUTS, lambda layout: layout == "buckets"))
def test_data_that_was_moved_is_the_same_data_and_other_bytes_are_refused(layout, short, uninterrupted, tmp_path):
    copy, places = left_at_20(uninterrupted[layout], tmp_path / "run"), {}
    for path in workdir.DATA:
        scheme, _, file = kill.configuration.get(short[layout], path).partition(":")
        target = tmp_path / f"{path}{pathlib.Path(file).suffix}"
        shutil.copy(file, target)
        places[path] = f"{scheme}:{target}"
    moved = changed(short[layout], places)
    loop.train(moved, epath.Path(copy))
    different = kill.differences(copy, uninterrupted[layout])
    assert different == ["config.json"]
    assert (copy / "config.json").read_text() == kill.configuration.to_json(moved)  # where evaluations find the data
    assert set(json.loads((copy / "manifest.json").read_text())["starts"][-1]["changed"]) == {*workdir.DATA}
    before = tree_of(copy)
    for path in workdir.DATA:
        file = pathlib.Path(places[path].partition(":")[2])
        known = file.read_text()
        file.write_text(known.replace(known[0], "Z", 1))
        for config in (moved, changed(moved, {path: short[layout].data.train + " + " + places[path]})):
            with pytest.raises(UserError, match="was started with other .* data; give the same .* data"):
                loop.train(config, epath.Path(copy))
        file.write_text(known)
    with pytest.raises(UserError, match="another configuration .data.test: "):
        loop.train(changed(moved, {"data.test": ""}), epath.Path(copy))
    assert tree_of(copy) == before


@pytest.mark.slow
def test_a_run_goes_on_where_what_it_began_with_was_moved(short, uninterrupted, tmp_path):
    """Parameters, word vectors and a tokenizer are read at its start alone; their fingerprints are known from there."""
    origin, vectors = tmp_path / "origin", tmp_path / "vectors.txt"
    shutil.copytree(uninterrupted["streams"], origin)
    vectors.write_text("".join(f"{letter} " + " ".join(["0.5"] * 8) + "\n" for letter in "onetwhrfuivsxg"))
    kind = origin / "tokenizer" / "tokenizer.json"
    begun = {
        "training.init_from": {"training.init_from": f"{origin}:20"},
        "training.word_vectors": {"training.word_vectors": str(vectors)},
        "data.tokenizer.kind": {"data.tokenizer.kind": str(kind)},
    }
    elsewhere = {
        "training.init_from": (f"{tmp_path}/moved:20", f"{tmp_path}/moved:24"),
        "training.word_vectors": (f"{tmp_path}/moved.txt", f"{tmp_path}/other.txt"),
        "data.tokenizer.kind": (
            f"{tmp_path}/moved/tokenizer/tokenizer.json",
            f"{uninterrupted['buckets']}/tokenizer/tokenizer.json",
        ),
    }
    assert {*begun} == {*workdir.BEGINNINGS}
    configs = {path: changed(short["streams"], FROZEN | given) for path, given in begun.items()}
    for path, config in configs.items():
        loop.train(config, epath.Path(tmp_path / path))
    shutil.move(origin, tmp_path / "moved")
    (tmp_path / "other.txt").write_text(vectors.read_text().replace("0.5", "0.25"))
    shutil.move(vectors, tmp_path / "moved.txt")
    for path, (same, other) in elsewhere.items():
        loop.train(configs[path], epath.Path(tmp_path / path))  # named as before, it is not read
        loop.train(changed(configs[path], {path: same}), epath.Path(tmp_path / path))
        with pytest.raises(UserError, match="not known to be that of .*keep the old value"):
            loop.train(changed(configs[path], {path: other}), epath.Path(tmp_path / path))
        shutil.rmtree(tmp_path / path / "checkpoints")  # then it would be read
        if path != "data.tokenizer.kind":
            with pytest.raises(UserError, match="another configuration"):
                loop.train(configs[path], epath.Path(tmp_path / path))


def test_a_start_on_other_cores_says_so(short, uninterrupted, tmp_path, monkeypatch, capsys):
    copy = left_at_20(uninterrupted["buckets"], tmp_path / "run")
    loop.train(short["buckets"], epath.Path(copy))
    assert "bits may differ" not in capsys.readouterr().out
    start = json.loads((copy / "manifest.json").read_text())["starts"][-1]
    assert start["cores"] == manifest.cores() and {"processor", "XLA_FLAGS"} <= {*start}
    monkeypatch.setenv("NPROC", "77")  # as XLA reads it
    loop.train(short["buckets"], epath.Path(copy))
    said = f"bits may differ from those of the start before: cores 77 (before: {start['cores']})"
    assert said in capsys.readouterr().out


def test_what_lies_beyond_the_end_is_said_in_one_line(short):
    data = Setup(short["buckets"]).data
    for path, text in {
        "optimizer.warmup": "warmup (48 steps: the learning rate ends at 50.0% of its peak)",
        "training.log_every": "log_every (48 steps: once, at the end)",
        "training.eval_every": "eval_every (48 steps: once, at the end)",
        "training.checkpoint_every": "checkpoint_every (48 steps: once, at the end)",
    }.items():
        within, beyond = (changed(short["buckets"], {path: steps}) for steps in (24, 48))
        assert Schedule(within, data).beyond_the_end() == ""
        assert Schedule(beyond, data).beyond_the_end() == f"beyond the end, step 24: {text}"


@pytest.mark.parametrize(
    "text, beginning",
    [
        ("It was a bright cold day in April", "It was a bright cold"),
        ("It was a bright colder day", "It was a bright"),
        ("short\nsecond line", "short"),
        ("x" * 30, "x" * 20),
        ("", ""),
    ],
)
def test_a_proposed_prompt_ends_between_words(text, beginning):
    assert console.beginning(text) == beginning


def test_changed_data_is_refused(short, uninterrupted, tmp_path):
    copy, data = tmp_path / "run", tmp_path / "story.txt"
    shutil.copytree(uninterrupted["streams"], copy)
    data.write_text(pathlib.Path(short["streams"].data.train.removeprefix("text:")).read_text() + "one more line\n")
    moved = changed(short["streams"], {"data.train": f"text:{data}"})
    with pytest.raises(UserError, match="was started with other train data"):
        loop.train(moved, epath.Path(copy))
    assert (copy / "config.json").read_text() == kill.configuration.to_json(short["streams"])


def test_a_second_process_is_refused_and_readers_leave_what_is_being_written(short, uninterrupted, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted["streams"], copy)
    writing = copy / "checkpoints" / "28.orbax-checkpoint-tmp"
    writing.mkdir()
    before = tree_of(copy)
    with workdir._held(epath.Path(copy)):
        assert load(str(copy), "latest").step == 24
        with pytest.raises(UserError, match="is in use by another training process"):
            loop.train(short["streams"], epath.Path(copy))
    assert tree_of(copy) == before and writing.exists()


# ---- evaluation -------------------------------------------------------------------------------------------------


def figures(run, encoded: encoding.Encoded, changes: dict[str, object], count: int) -> dict[str, object]:
    config = changed(run.config, changes)
    devices = Devices(jax.devices()[:count])
    evaluator = Evaluator(run.answer, config, devices, encoded)
    return evaluator.evaluate(devices.replicate(run.params), limit=5)


def test_neither_batch_size_nor_devices_nor_buckets_change_an_evaluation(uninterrupted, pairs):
    run = load(str(uninterrupted["buckets"]))
    examples = [Example(*pair) for pair in pairs[:43]]
    encoded = encoding.encode(Split("validation", "", Listed(examples)), run.tokenizer, run.config.data)
    scores = run.score(examples)
    expected = {"loss": -sum(s.log_probability for s in scores) / sum(s.tokens for s in scores)}
    for rows, buckets, count in ((8, 2, 1), (3, 2, 1), (64, 1, 8)):
        found = figures(run, encoded, {"data.batch_size": rows, "data.buckets": buckets}, count)
        expected = found | expected
        assert found.pop("bleu_signature") == expected.pop("bleu_signature")
        assert found.pop("chrf_signature") == expected.pop("chrf_signature")
        assert found == pytest.approx(expected, rel=1e-5), (rows, buckets, count)


def test_the_evaluation_of_texts_equals_their_scores_however_they_are_cut(uninterrupted):
    run = load(str(uninterrupted["streams"]))
    texts = [
        " ".join(["one two three four five six seven".split()[(i * k) % 7] for k in range(1 + i % 6)])
        for i in range(11)
    ]
    examples = [Example(None, text) for text in texts]
    encoded = encoding.encode(Split("validation", "", Listed(examples)), run.tokenizer, run.config.data)
    scores = run.score(texts)
    nats, tokens = -sum(score.log_probability for score in scores), sum(score.tokens for score in scores)
    assert [score.bytes for score in scores] == [len(text) for text in texts]
    for streams, window, count in ((1, 16, 1), (4, 16, 1), (3, 7, 8)):
        found = figures(run, encoded, {"data.evaluation_streams": streams, "data.window": window}, count)
        assert found["loss"] == pytest.approx(nats / tokens, rel=1e-5), (streams, window, count)
        assert found["perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-5)
        assert found["bits_per_byte"] == pytest.approx(nats / np.log(2) / sum(map(len, texts)), rel=1e-5)
        assert found["tokens"] == tokens


# ---- from another run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin, layout", sized(itertools.product(LAYOUTS, LAYOUTS), lambda origin, layout: origin != layout)
)
def test_a_run_starts_from_the_parameters_and_the_tokenizer_of_another(origin, layout, short, uninterrupted, tmp_path):
    where, which = uninterrupted[origin], "20" if origin == layout else "best"
    config = changed(short[layout], FROZEN | {"training.init_from": f"{where}:{which}".removesuffix(":best")})
    loop.train(config, epath.Path(tmp_path / "tuned"))
    theirs, ours = parameters(where, which), parameters(tmp_path / "tuned")
    for name in set(theirs) & set(ours):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert {"embedding/embedding", "head_kernel", "head_bias"} <= set(theirs) & set(ours)
    assert (set(theirs) == set(ours)) == (origin == layout)
    assert tree_of(tmp_path / "tuned" / "tokenizer") == tree_of(where / "tokenizer")


def test_other_widths_than_the_origins_are_refused_by_name(short, uninterrupted, tmp_path):
    changes = FROZEN | {"training.init_from": str(uninterrupted["streams"])}
    with pytest.raises(UserError, match=r": decoder/layers_0/bias has shape \(64,\) there and \(96,\) here"):
        loop.train(changed(short["streams"], changes | {"model.hidden_dim": 24}), epath.Path(tmp_path / "run"))
    # What was refused has not taken the directory.
    loop.train(changed(short["streams"], changes), epath.Path(tmp_path / "run"))


def test_parameters_are_loaded_by_regular_expressions_and_all_are_named(short, uninterrupted, tmp_path, capsys):
    """A language model's stack read forward by an encoder, its embedding kept, all else new."""
    rules = [r"encoder/layer_(\d)_forward/(.*)=>decoder/layers_\1/\2", "embedding/.*"]
    changes = FROZEN | {"training.init_from": f"{uninterrupted['streams']}:latest", "training.init_params": rules}
    config = changed(short["buckets"], changes)
    loop.train(config, epath.Path(tmp_path / "tuned"))
    theirs, ours = parameters(uninterrupted["streams"]), parameters(tmp_path / "tuned")
    begun = initial_params(load(str(tmp_path / "tuned")).model, config.seed)
    fresh = {names.name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(begun)}
    loaded = {name.replace("decoder/layers_0", "encoder/layer_0_forward"): name for name in theirs}
    loaded = {ours: there for ours, there in loaded.items() if ours.startswith(("encoder/", "embedding/"))}
    assert len(loaded) > 3
    for name, value in ours.items():
        expected = theirs[loaded[name]] if name in loaded else fresh[name]
        np.testing.assert_array_equal(value, np.asarray(expected), err_msg=name)
    said = capsys.readouterr().out
    lines = {
        kind: re.search(rf"^  {kind}: (.*)$", said, re.MULTILINE)[1].split(", ")
        for kind in ("loaded", "new", "skipped")
    }
    assert {name.split(" (from")[0] for name in lines["loaded"]} == set(loaded)
    assert set(lines["new"]) == set(ours) - set(loaded)
    assert set(lines["skipped"]) == set(theirs) - set(loaded.values())


def test_a_rule_that_finds_nothing_is_refused(short, uninterrupted, tmp_path):
    for rules, words in (
        (["embedding/.*", "encodr/.*"], "'encodr/.*' loads no parameter.*names there: "),
        ([r"encoder/(.*)=>decoder/\2"], r"is not a name \(invalid group reference"),
    ):
        changes = FROZEN | {"training.init_from": str(uninterrupted["streams"]), "training.init_params": rules}
        with pytest.raises(UserError, match=words):
            loop.train(changed(short["buckets"], changes), epath.Path(tmp_path / "run"))
    with pytest.raises(UserError, match="init_params: needs a run"):
        loop.train(changed(short["streams"], {"training.init_params": [".*"]}), epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_other_widths_are_skipped_where_that_is_asked_for(short, uninterrupted, tmp_path, capsys):
    changes = FROZEN | {"training.init_from": str(uninterrupted["streams"]), "training.init_mismatch": "skip"}
    config = changed(short["streams"], changes | {"model.hidden_dim": 24})
    loop.train(config, epath.Path(tmp_path / "run"))
    theirs, ours = parameters(uninterrupted["streams"], "best"), parameters(tmp_path / "run")
    same = {name for name in ours if ours[name].shape == theirs[name].shape}
    assert {"embedding/embedding", "head_bias"} <= same < set(ours)
    for name in same:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert "decoder/layers_0/bias has shape (64,) there and (96,) here" in capsys.readouterr().out


def test_the_mean_of_checkpoints_is_that_of_their_parameters(short, uninterrupted, tmp_path):
    directory = uninterrupted["streams"]
    steps = sorted(int(path.name) for path in (directory / "checkpoints").iterdir())
    each = [parameters(directory, str(step)) for step in steps]
    run = load(str(directory), f"mean:{len(steps)}")
    assert run.step == steps[-1] and run.averaged and run.weights == f"mean of {'+'.join(map(str, steps))}"
    averaged = parameters(directory, f"mean:{len(steps)}")
    for name, value in averaged.items():
        np.testing.assert_allclose(
            value, np.mean([one[name] for one in each], axis=0, dtype=np.float64), rtol=1e-6, err_msg=name
        )
        assert value.dtype == np.float32
    for name, value in parameters(directory, "mean:1").items():
        np.testing.assert_array_equal(value, each[-1][name])
    assert any((averaged[name] != each[-1][name]).any() for name in averaged)
    config = changed(short["streams"], FROZEN | {"training.init_from": f"{directory}:mean:2"})
    loop.train(config, epath.Path(tmp_path / "tuned"))
    for name, value in parameters(tmp_path / "tuned").items():
        np.testing.assert_array_equal(value, parameters(directory, "mean:2")[name])
    for which in ("mean:0", "mean:99", "mean:", "mean:x"):
        with pytest.raises(UserError, match=r"--checkpoint: .* is not a mean"):
            load(str(directory), which)


def test_an_origin_that_is_no_run_is_refused(short, tmp_path):
    config = changed(short["streams"], {"training.init_from": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere: is not a run"):
        loop.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_what_cleaning_did_and_trains_on_what_is_left(configs, sources, tmp_path):
    cleaned = changed(configs["buckets"], {"data.cleaning": ["words(1, 3)", "duplicates"], "training.steps": 2})
    loop.train(cleaned, epath.Path(tmp_path))
    report = json.loads((tmp_path / "cleaning.json").read_text())
    dropped = sum(step["dropped"] for step in report["steps"].values())
    assert list(report["steps"]) == ["words(1, 3)", "duplicates"] and dropped > 0
    splits = load_splits(cleaned.data)
    assert len(splits["train"].examples) == report["examples_out"] == report["examples_in"] - dropped
    assert splits["train"].fingerprint != load_splits(configs["buckets"].data)["train"].fingerprint
    assert max(len(example.source.split()) for example in splits["train"].examples) == 3
    assert max(len(example.source.split()) for example in splits["validation"].examples) > 3  # never made easier


TASKS_AND_LAYOUTS = [("lm", "packed"), ("prefix", "buckets"), ("denoise", "packed"), ("classify", "packed")]


@pytest.mark.parametrize(("task", "layout"), TASKS_AND_LAYOUTS)
def test_a_run_of_every_task_and_layout_resumes_exactly(task, layout, sources, tmp_path):
    pairs = TASKS[task].pairs
    values = {"data.task": task, "data.layout": layout, "data.max_length": 32, "data.window": 32, "training.steps": 6}
    values |= {"training.eval_every": 6, "training.checkpoint_every": 3, "training.log_every": 1, "data.test": ""}
    source = sources["seq2seq" if pairs else "lm"]
    if ANSWER_KINDS[TASKS[task].answer].among == "labels":  # every label must be one of training
        values["data.validation"] = source
    config = tiny_config("buckets" if pairs else "streams", source, values)
    loop.train(config, epath.Path(tmp_path / "whole"))
    records = log.read_metrics(epath.Path(tmp_path / "whole"))
    assert records[0]["loss"] > records[5]["loss"] and 0 <= records[0]["waiting_for_data"] <= 1
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
    loop.train(config, epath.Path(tmp_path / "resumed"))
    assert kill.differences(tmp_path / "whole", tmp_path / "resumed") == []
