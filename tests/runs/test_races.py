"""Two processes and one directory: which of them trains, and that reading a run that trains gives a checkpoint that is whole."""

import errno
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
from etils import epath
from support.configs import tiny_config
from support.programs import ROOT, environment
from support.training import steps_of

from benchmarks import kill
from lm import changed
from lm.errors import UserError
from lm.runs import arrays, checkpoint_writer, chosen
from lm.runs.checkpoints import Checkpoints, any_in
from lm.runs.run import load
from lm.training import loop

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def short(sources):
    changes = {"training.steps": 8, "training.eval_every": 4, "training.checkpoint_every": 4, "training.log_every": 2}
    return tiny_config("streams", sources["lm"], changes)


@pytest.fixture(scope="module")
def alone(short, tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("alone") / "run"
    loop.train(short, epath.Path(directory))
    return directory


def held_up(monkeypatch, meanwhile) -> list:
    """`meanwhile` happens when a process has prepared and has no lock yet; once."""
    prepare, times = loop.prepare, []

    def prepared(*given):
        setup = prepare(*given)
        times.append(setup.inputs.resumed)
        if len(times) == 1:
            meanwhile()
        return setup

    monkeypatch.setattr(loop, "prepare", prepared)
    return times


def test_another_configuration_that_trained_meanwhile_is_not_gone_on_with(short, alone, tmp_path, monkeypatch):
    run = tmp_path / "run"
    held_up(monkeypatch, lambda: loop.train(short, epath.Path(run)))
    with pytest.raises(UserError, match="holds a run with another configuration .seed: 0 -> 1."):
        loop.train(changed(short, {"seed": 1}), epath.Path(run))
    assert kill.differences(run, alone) == []
    assert len(json.loads((run / "manifest.json").read_text())["starts"]) == 1


def test_the_same_configuration_that_trained_meanwhile_is_gone_on_with(short, alone, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    times = held_up(monkeypatch, lambda: loop.train(short, epath.Path(run)))
    loop.train(short, epath.Path(run))
    assert times == [False, False, True]  # ours, the other's, and ours again, which finds a run
    assert "resumed after step 8" in capsys.readouterr().out
    assert kill.differences(run, alone) == []


def test_a_checkpoint_that_is_removed_while_it_is_read_gives_way_to_the_newest(alone, tmp_path, monkeypatch):
    run, read = tmp_path / "run", arrays.read
    shutil.copytree(alone, run)
    newer = tmp_path / "12"
    shutil.copytree(run / "checkpoints" / "8", newer)
    edited = json.loads((newer / "_CHECKPOINT_METADATA").read_text())
    edited["custom_metadata"]["step"] = 12
    (newer / "_CHECKPOINT_METADATA").write_text(json.dumps(edited))

    def read_late(opened):
        if newer.exists():
            for step in (4, 8):
                shutil.rmtree(run / "checkpoints" / str(step))
            newer.rename(run / "checkpoints" / "12")
        return read(opened)

    monkeypatch.setattr(arrays, "read", read_late)
    assert load(str(run), "latest").step == 12


@pytest.mark.parametrize("which", ["latest", "best", "mean:1"])
def test_a_list_that_is_empty_for_a_moment_is_asked_for_again(which, alone, monkeypatch):
    steps, calls = Checkpoints.steps, []
    monkeypatch.setattr(Checkpoints, "steps", lambda self: calls.append(1) or ([] if len(calls) == 1 else steps(self)))
    files = chosen._files
    monkeypatch.setattr(chosen, "_files", lambda directory: [*files(directory), str(len(calls))])
    assert load(str(alone), which).step == 8 and len(calls) > 1


def test_what_cannot_be_read_though_nothing_changes_is_damaged(alone, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    (run / "checkpoints" / "8" / "params" / "_METADATA").unlink()
    monkeypatch.setattr(chosen, "PAUSE", 0)
    with pytest.raises(UserError, match="checkpoints/8: cannot be read .*move it away"):
        load(str(run), "latest")


def test_a_save_that_fails_later_is_named_by_its_own_step(short, tmp_path, monkeypatch):
    """The save at step 4 is finished, that at step 8 fails in its thread, and the one at step 12 would be the next."""
    commit, run = checkpoint_writer.ocp.CheckpointManager.wait_until_finished, tmp_path / "run"

    def full(self):
        commit(self)
        if self.latest_step() == 8:
            shutil.rmtree(run / "checkpoints" / "8")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_writer.ocp.CheckpointManager, "wait_until_finished", full)
    with pytest.raises(UserError, match="checkpoints/8: could not be written .*No space left") as failed:
        loop.train(changed(short, {"training.steps": 16, "training.eval_every": 16}), epath.Path(run))
    assert "\n" not in str(failed.value) and steps_of(run) == [4] and load(str(run), "latest").step == 4


# ---- with real processes ----------------------------------------------------------------------------------------

SLOW_TO_PREPARE = """
import sys, time, runpy
import lm.training.loop as loop
prepare = loop.prepare
def late(*given):
    setup = prepare(*given)
    print("prepared", flush=True)
    sys.stdin.readline()
    return setup
loop.prepare = late
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
def test_a_process_that_was_held_up_finds_what_another_one_trained(same, short, tmp_path):
    run = tmp_path / "run"
    other = short if same else changed(short, {"seed": 1, "training.steps": 12})
    command = [sys.executable, "-c", SLOW_TO_PREPARE, *kill.command(other, run)[1:]]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    late = subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, **pipes)
    while "prepared" not in (line := late.stdout.readline()):
        assert line, late.stderr.read()
    subprocess.run(kill.command(short, run), cwd=ROOT, env=environment(), check=True, capture_output=True)
    shutil.copytree(run, tmp_path / "first")
    out, error = late.communicate("\n" * 3, timeout=300)
    if same:
        assert late.returncode == 0 and "resumed after step 8" in out, error
    else:
        assert late.returncode == 2 and "holds a run with another configuration" in error and error.count("\n") == 1
    assert json.loads((run / "config.json").read_text())["seed"] == 0
    assert kill.differences(run, tmp_path / "first") == []


@pytest.mark.slow
def test_a_run_is_read_while_it_trains_and_removes_its_checkpoints(short, tmp_path):
    run, found, steps, errors = tmp_path / "run", [], [], []
    changes = {"training.steps": 100_000, "training.checkpoint_every": 2, "training.keep_checkpoints": 1}
    config = changed(short, changes | {"training.eval_every": 7, "training.eval_examples": 1})
    with open(tmp_path / "log", "wb") as log_file:
        training = subprocess.Popen(
            kill.command(config, run), cwd=ROOT, env=environment(), stdout=log_file, stderr=log_file
        )
        try:
            while not any_in(epath.Path(run / "checkpoints")):
                assert training.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)

            def read(which):
                until = time.monotonic() + 120  # the machine may be busy
                while found.count(which) < 15 or (len({*steps}) < 4 and time.monotonic() < until):
                    found.append(which)
                    try:
                        steps.append(load(str(run), which).step)
                    except BaseException as error:
                        errors.append(error)

            readers = [threading.Thread(target=read, args=(which,)) for which in ("latest", "best", "mean:1")]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            assert training.poll() is None, (tmp_path / "log").read_text()
        finally:
            training.kill()
            training.wait()
    assert not errors and len(steps) >= 45, errors
    assert len(set(steps)) > 3
