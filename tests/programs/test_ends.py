"""How programs end by a signal."""

import signal
import subprocess

import pytest
from support.configs import tiny_config
from support.programs import ROOT, environment, run_alone
from support.sizes import sized

from benchmarks import kill
from lm.config import Config
from lm.terminal import signals

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
