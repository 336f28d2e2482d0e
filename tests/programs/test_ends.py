"""How programs end: by a signal, without their terminal, where JAX has no device and where a cache cannot be written."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from support.configs import tiny_config
from support.programs import ROOT, environment, run_alone
from support.sizes import sized
from support.training import steps_of

from benchmarks import kill
from lm.config import Config
from lm.terminal import output, signals

# What a program does first, once its flags are read: it gets a signal.
SIGNALLED = """
import runpy, signal, sys
from lm.devices import memory
memory.keep = lambda number=int(sys.argv.pop(1)): signal.raise_signal(number)
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def commands(trained, configs, tmp_path_factory) -> dict[str, list[str]]:
    """The arguments of every program."""
    new = tmp_path_factory.mktemp("ends") / "run"
    return {
        "train": kill.command(configs["buckets"], new)[1:],
        "sample": ["sample.py", f"--workdir={trained['buckets']}", "--prompt=ant"],
        "evaluate": ["-m", "lm.evaluate", f"{trained['buckets']}"],
        "pipeline": ["-m", "lm.pipeline", "configs/pipelines/tinyworld.py", f"--workdir={new}"],
        "data": ["-m", "lm.data", configs["buckets"].data.train],
    }


PROGRAMS = ("train", "sample", "evaluate", "pipeline", "data")


@pytest.mark.parametrize(
    ("program", "number"),
    sized(
        [(program, number) for program in PROGRAMS for number in signals.STOPPING],
        lambda program, number: (program, number) == ("sample", signal.SIGHUP),
    ),
)
def test_every_program_ends_with_128_and_the_signal_in_one_line(program, number, commands):
    done = run_alone("-c", SIGNALLED, str(int(number)), *commands[program], stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (128 + number, f"stopped by {number.name}\n")


@pytest.fixture(scope="module")
def short(sources) -> Config:
    changes = {"training.steps": 6, "training.eval_every": 3, "training.checkpoint_every": 3, "training.log_every": 2}
    return tiny_config("streams", sources["lm"], changes)


@pytest.mark.slow
def test_a_signal_while_the_first_programs_are_compiled_ends_training_and_the_next_start_goes_on(short, tmp_path):
    command = kill.command(short, tmp_path / "run")
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=-1, stderr=-1, text=True) as process:
        while not process.stdout.readline().startswith("compiling"):
            pass
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and said.count("\n") == 1 and said.startswith("stopped ")
    assert not list((tmp_path / "run").glob(".*"))
    again = run_alone(*command[1:])
    assert again.returncode == 0, again.stderr


# ---- output that cannot be written ------------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_dropped_once(monkeypatch):
    monkeypatch.setattr(output, "lost", [])
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        stream = output._Outliving(pipe, "standard output")
        stream.write("one\n")
        stream.flush()
        os.close(read)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
        assert output.lost == ["standard output could not be written (Broken pipe); later output was dropped"]
        assert not stream.isatty() and stream.encoding == pipe.encoding
    assert isinstance(stream, output._Outliving) and not isinstance(stream, io.IOBase)


# How the shell starts train.py, by what becomes of its streams; and which of them are said to be lost.
STREAMS = {
    "closed": (">&- 2>&- <&-", 2),
    "full": ("> /dev/full", 1),
    "both full": ("> /dev/full 2>&1", 1),
    "head": ("| head -1", 1),
    "closed error": ("2>&- > /dev/null", 1),
    "usual": ("> /dev/null", 0),
}


@pytest.mark.slow
def test_training_outlives_its_streams_and_notes_it(short, tmp_path):
    for name, (streams, lost) in STREAMS.items():
        run = tmp_path / name
        arguments = [sys.executable, *kill.command(short, run)[1:]]
        script = f'set -o pipefail; "$@" {streams}'
        done = subprocess.run(["bash", "-c", script, "bash", *arguments], cwd=ROOT, env=environment(), timeout=300)
        assert done.returncode == 0, name
        assert steps_of(run) == [3, 6]
        noted = json.loads((run / "manifest.json").read_text())["starts"][-1].get("output", [])
        assert len(noted) == lost, name
        assert kill.differences(run, tmp_path / "closed") == []
        for file in run.rglob("*"):  # no line of output went where a descriptor of the same number was
            assert b"target tokens" not in (file.read_bytes() if file.is_file() else b"")


# ---- devices and caches -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "cppu"])
def test_devices_that_jax_does_not_find_are_named(platforms, commands, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    done = run_alone(*commands["train"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: JAX_PLATFORMS: {platforms!r} is not found on this machine (")
    workdir = next(each for each in commands["train"] if each.startswith("--workdir="))
    assert not pathlib.Path(workdir.removeprefix("--workdir=")).exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/proc/self", "/proc/self/new", "/dev/null"])
def test_a_compilation_cache_that_cannot_be_written_is_said_once_and_done_without(place, short, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", place)
    done = run_alone(*kill.command(short, tmp_path / "run")[1:])
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"the compilation cache {place} fails (")


NO_HOME = """
import os, pwd, runpy, sys
for name in ("HOME", "XDG_CACHE_HOME", "LM_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"):
    os.environ.pop(name, None)
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_user_without_a_home_is_told_where_the_cache_of_data_can_lie(short, tmp_path):
    done = run_alone("-c", NO_HOME, *kill.command(short, tmp_path / "run")[1:])
    first, last = done.stderr.splitlines()
    assert done.returncode == 2 and first == "HOME is not set, so programs are compiled again at each start"
    assert last.startswith("error: HOME: ") and "LM_CACHE_DIR" in last
    assert not (ROOT / "~").exists()
