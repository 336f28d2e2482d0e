"""What goes wrong in a long run: what it does then, what it says, and that nothing is lost."""

import gc
import logging
import pathlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from etils import epath
from support.configs import tiny_config
from support.programs import run_program
from support.sizes import sized
from support.training import steps_of

from benchmarks import kill
from lm import changed
from lm.config import Config
from lm.data.batches.streams import Streams
from lm.devices.mesh import Fsdp
from lm.errors import Stopped, UserError
from lm.evaluation.evaluator import Evaluator
from lm.runs import log
from lm.runs.run import load
from lm.terminal import signals
from lm.training import console, loop, watch

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def short(sources) -> Config:
    changes = {"training.steps": 16, "training.eval_every": 8, "training.checkpoint_every": 4, "training.log_every": 2}
    return tiny_config("streams", sources["lm"], changes)


def poison(monkeypatch, indices: set[int], seeds: set[int]) -> None:
    """Batches whose loss is not a number, in the data orders of these seeds."""
    healthy = Streams.share

    def poisoned(self, index, rows):
        batch = healthy(self, index, rows)
        bad = index in indices and self.seed in seeds
        return batch._replace(weights_bt=batch.weights_bt * np.float32(np.nan)) if bad else batch

    monkeypatch.setattr(Streams, "share", poisoned)


def records(directory: pathlib.Path) -> list[dict]:
    return [r for r in log.read_metrics(epath.Path(directory)) if r["split"] == "train"]


# ---- loss or gradient not finite --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", sized(["pmap", "fsdp"], lambda mode: mode == "pmap"))
def test_an_update_that_is_not_finite_is_skipped_counted_and_said(mode, short, tmp_path, monkeypatch, capsys):
    if mode == "fsdp":
        monkeypatch.setattr(loop, "devices_for", lambda *_: Fsdp(jax.devices()[:2]))
    config = changed(short, {"training.not_finite": "skip", "training.not_finite_most": 2})
    poison(monkeypatch, {4, 9}, {0})
    loop.train(config, epath.Path(tmp_path / "run"))
    assert [r.get("skipped", 0) for r in records(tmp_path / "run")] == [0, 0, 1, 1, 2, 2, 2, 2]
    rates = [r["learning_rate"] for r in records(tmp_path / "run")]
    # The warm-up, then the line that ends with the run: the rate of each step, skipped ones counted.
    np.testing.assert_allclose(
        rates, [0.03 * min((step + 1) / 5, (16 - step) / 11) for step in range(1, 16, 2)], rtol=1e-5
    )
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "step 5: the loss or its gradient is not finite: update skipped, 1 of at most 2" in capsys.readouterr().out
    run = load(str(tmp_path / "run"), "latest")
    assert run.step == 16 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
    poison(monkeypatch, {4, 9, 13}, {0})
    with pytest.raises(UserError, match="^error: step 14: .* last good checkpoint is 12, 2 updates skipped"):
        loop.train(config, epath.Path(tmp_path / "again"))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_in_which_no_update_is_skipped_is_the_same_whether_one_may_be(accumulate, short, tmp_path):
    config = changed(short, {"training.accumulate": accumulate, "optimizer.ema_decay": 0.9})
    for mode in ("stop", "skip"):
        loop.train(changed(config, {"training.not_finite": mode}), epath.Path(tmp_path / mode))
    assert kill.differences(tmp_path / "skip", tmp_path / "stop") == ["config.json"]


def test_a_skipped_update_leaves_the_state_as_it_was(short, tmp_path, monkeypatch):
    """Each of the last updates is skipped, so the parameters and moments are those before them."""
    config = changed(short, {"training.not_finite": "skip", "training.checkpoint_every": 12, "training.eval_every": 16})
    poison(monkeypatch, {12, 13, 14, 15}, {0})
    loop.train(config, epath.Path(tmp_path / "run"))
    before, after = (kill._leaves(tmp_path / "run" / "checkpoints" / step) for step in ("12", "16"))
    different = {name for name, value in before.items() if isinstance(value, tuple) and value != after[name]}
    assert different == {"rest['step']"}


def test_a_run_goes_back_to_its_last_checkpoint_and_on_with_another_data_order(short, tmp_path, monkeypatch, capsys):
    config = changed(short, {"training.not_finite": "rewind", "training.not_finite_most": 1})
    poison(monkeypatch, {9}, {0})
    loop.train(config, epath.Path(tmp_path / "run"))
    out = capsys.readouterr().out
    assert "step 10: the loss or its gradient is not finite: back to step 8 with another data order, rewind 1" in out
    assert [(r["step"], r.get("rewinds", 0)) for r in records(tmp_path / "run")] == [
        *((step, 0) for step in (2, 4, 6, 8)),
        *((step, 1) for step in (10, 12, 14, 16)),
    ]
    # Stopped after that, a run goes on in the order that it had.
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    for step in steps_of(tmp_path / "run")[1:]:
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(step))
    loop.train(config, epath.Path(tmp_path / "resumed"))
    assert kill.differences(tmp_path / "resumed", tmp_path / "run") == []
    poison(monkeypatch, {9}, {0, 1})
    with pytest.raises(UserError, match="^error: step 10: .* last good checkpoint is 8, 1 rewinds"):
        loop.train(config, epath.Path(tmp_path / "again"))


def test_a_run_without_a_checkpoint_goes_back_to_its_start(short, tmp_path, monkeypatch):
    config = changed(short, {"training.not_finite": "rewind"})
    poison(monkeypatch, {1}, {0, 1})
    loop.train(config, epath.Path(tmp_path / "run"))
    assert [r["rewinds"] for r in records(tmp_path / "run")] == [2] * 8


def test_a_loss_that_rises_and_stays_is_said_once():
    falling, risen = [4 - 0.02 * i for i in range(100)], [5.0] * 30
    seen = watch.Divergence()
    said = [seen.seen(loss) for loss in [*falling, *risen, *falling[50:], *risen]]
    assert [bool(text) for text in said].count(True) == 2
    first = next(i for i, text in enumerate(said) if text)
    assert 100 <= first < 120 and "training diverges" in said[first]
    rng = np.random.default_rng(0)
    shaky = watch.Divergence()
    said = [shaky.seen(loss) for loss in [*(3 + rng.normal(0, 0.2, 500)), *(5 + rng.normal(0, 0.2, 5000))]]
    assert [bool(text) for text in said].count(True) == 1
    for losses in (
        3 + rng.normal(0, 0.5, 1000),
        rng.choice([0.2, 0.4, 0.6, 1.5, 2.5], 1000),
    ):  # noisy; of several lengths
        steady = watch.Divergence()
        assert not any(steady.seen(loss) for loss in losses)


def test_signals_to_stop_are_remembered_and_a_second_urgent_one_meets_what_it_would_without_us():
    before = {each: signal.getsignal(each) for each in signals.STOPPING}
    for first in signals.STOPPING:
        with watch.StopSignal() as stop:
            assert all(signal.getsignal(each) != was for each, was in before.items())
            signal.raise_signal(first)  # is remembered, and that is all
            for again in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
                signal.raise_signal(again)  # the end of a terminal sends more than one
            assert stop.number == first
            given_back = {each for each in before if signal.getsignal(each) == before[each]}
            assert given_back == ({*signals.URGENT} if first in signals.URGENT else set())
        assert {each: signal.getsignal(each) for each in before} == before


def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with watch.StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.number and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_last_step_ends_the_program_too(short, tmp_path, monkeypatch):
    """Or else a pipeline would begin with its next stage."""
    evaluate = Evaluator.evaluate

    def evaluate_and_stop(self, *given):
        signal.raise_signal(signal.SIGHUP)
        return evaluate(self, *given)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate_and_stop)
    with pytest.raises(Stopped, match="after the last step, 6; all is saved") as stopped:
        loop.train(changed(short, {"training.steps": 6}), epath.Path(tmp_path / "run"))
    assert stopped.value.number == signal.SIGHUP and steps_of(tmp_path / "run")[-1] == 6


# ---- data that fails --------------------------------------------------------------------------------------------


ERRORS = [UserError("pairs", "are gone", "bring them back"), OSError(5, "Input/output error")]


@pytest.mark.parametrize("error", sized(ERRORS, lambda error: error is ERRORS[0]))
def test_data_that_fails_ends_a_run_when_it_is_saved(error, short, tmp_path, monkeypatch):
    healthy = Streams.share

    def failing(self, index, rows):
        if index == 10:
            raise error
        return healthy(self, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Streams, "share", failing)
        with pytest.raises(type(error), match="are gone; training is saved after step 10; bring|Input/output error"):
            loop.train(short, epath.Path(tmp_path / "run"))
        assert steps_of(tmp_path / "run")[-1] == 10
        with pytest.raises(type(error)):
            loop.train(short, epath.Path(tmp_path / "run"))  # nothing was trained, and nothing is lost
    loop.train(short, epath.Path(tmp_path / "run"))
    loop.train(short, epath.Path(tmp_path / "steady"))
    assert kill.differences(tmp_path / "run", tmp_path / "steady") == []


# ---- checkpoints ------------------------------------------------------------------------------------------------


def test_checkpoints_are_also_kept_by_minutes_and_their_cost_is_said(short, tmp_path, capsys):
    config = changed(short, {"training.checkpoint_every": 1000, "training.eval_every": 1000, "training.steps": 6})
    loop.train(config, epath.Path(tmp_path / "steps"))
    assert steps_of(tmp_path / "steps") == [6]
    loop.train(changed(config, {"training.checkpoint_minutes": 1e-9}), epath.Path(tmp_path / "minutes"))
    assert steps_of(tmp_path / "minutes") == [5, 6]
    out = capsys.readouterr().out
    assert out.count("Writing checkpoints took") == 2 and "programs compiled in" in out


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # Orbax's, of a write that it gives up
def test_a_clock_that_is_moved_changes_nothing(short, tmp_path, monkeypatch):
    loop.train(short, epath.Path(tmp_path / "steady"))
    real, calls = time.time, iter(range(2**62))
    monkeypatch.setattr(time, "time", lambda: real() - 86400 * (next(calls) > 100))  # put back, once
    loop.train(short, epath.Path(tmp_path / "moved"))
    assert next(calls) > 300
    assert kill.differences(tmp_path / "moved", tmp_path / "steady") == []
    # Put forward while Orbax waits for a write, which reads the same clock: the run ends, and goes on.
    monkeypatch.setattr(logging.getLogger("absl"), "disabled", True)  # a record would keep what a thread raised
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * (next(calls) % 3))
    with pytest.raises(UserError, match="could not be written .TimeoutError.*start again"):
        loop.train(short, epath.Path(tmp_path / "forward"))
    # Put forward once more, so that those of Orbax's threads that still wait for that write give up.
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * 3)
    loop.train(short, epath.Path(tmp_path / "forward"))
    assert kill.differences(tmp_path / "forward", tmp_path / "steady") == []
    gc.collect()  # or the warnings of what they have not awaited would come in another test


def test_a_directory_that_is_removed_while_training_goes_on_is_named(short, tmp_path, monkeypatch):
    update = console.Bar.update

    def update_and_remove(self, fetched, *rest):
        update(self, fetched, *rest)
        if fetched == 6:
            while not (tmp_path / "run" / "checkpoints" / "4").exists():  # it is being written
                time.sleep(0.01)
            shutil.move(tmp_path / "run", tmp_path / "elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(console.Bar, "update", update_and_remove)
        with pytest.raises(UserError, match="run: has lost its config.json.*put it back"):
            loop.train(short, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints" / "8").exists()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.move(tmp_path / "elsewhere", tmp_path / "run")  # the mend
    loop.train(short, epath.Path(tmp_path / "run"))
    loop.train(short, epath.Path(tmp_path / "steady"))
    assert kill.differences(tmp_path / "run", tmp_path / "steady") == []


# ---- looking into it --------------------------------------------------------------------------------------------


def test_a_trace_of_the_steps_asked_for_is_written(short, tmp_path, capsys):
    loop.train(changed(short, {"training.steps": 5}), epath.Path(tmp_path / "run"), profile=(3, 4))
    said = capsys.readouterr().out
    assert f"steps 3 to 4 are traced in {tmp_path}/run/profile" in said
    # And what a device holds, by module: of Adam two moments beside each parameter.
    rows = [line.split() for line in said[said.index("MiB per device") :].splitlines()]
    held = {row[0]: [float(cell) for cell in row[1:4]] for row in rows if len(row) == 4 and row[0] != "MiB"}
    params = load(str(tmp_path / "run"), "latest").params
    assert set(params) < set(held)
    assert held["all"][0] == pytest.approx(sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20, abs=1e-3)
    assert held["decoder"][1] == pytest.approx(2 * held["decoder"][0], abs=2e-3) and held["decoder"][0] > 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    loop.train(changed(short, {"training.steps": 5}), epath.Path(tmp_path / "run"))  # is still a run


def test_debug_shows_the_operation_that_made_the_first_nan(short, tmp_path):
    changes = {"optimizer.learning_rate": 1e300, "optimizer.warmup": 0, "optimizer.clip_norm": 0.0}
    config = changed(short, changes | {"optimizer.name": "sgd", "training.eval_every": 100})
    done = run_program(*kill.command(config, tmp_path / "run")[1:], "--debug", devices=2)
    assert done.returncode not in (0, 2) and "Traceback" in done.stderr
    assert "FloatingPointError" in done.stderr, done.stderr
