"""Many hosts, as processes of this machine: one run, and an end for all when one of them ends."""

import contextlib
import re
import signal
import socket
import subprocess
import time

import pytest
from support.configs import tiny_config
from support.directories import reconfigured
from support.programs import ROOT, environment, run_program, run_programs

from benchmarks import kill
from lm import changed
from lm.devices import hosts

SHORT = {"training.steps": 8, "training.eval_every": 4, "training.checkpoint_every": 4, "training.log_every": 2}


def start(command: list[str], hosts: int, devices: int = 1) -> list[subprocess.Popen]:
    """The same command on every host."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [*command, f"--coordinator=localhost:{port}", f"--processes={hosts}", f"--process={host}"],
            cwd=ROOT,
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(hosts)
    ]


def finish(processes: list[subprocess.Popen], seconds: float) -> list[tuple[int, str, str]]:
    """Exit code, standard output and error of each; all are gone afterwards."""
    until = time.monotonic() + seconds
    try:
        found = []
        for process in processes:
            out, error = process.communicate(timeout=max(until - time.monotonic(), 0.1))
            found.append((process.returncode, out, error))
        return found
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def test_two_hosts_make_the_run_of_one(sources, tmp_path):
    config = tiny_config("streams", sources["lm"], SHORT)
    alone = run_program(*kill.command(config, tmp_path / "alone")[1:], devices=2)
    assert alone.returncode == 0, alone.stderr
    done = finish(start(kill.command(config, tmp_path / "two"), 2), 300)
    assert [code for code, _, _ in done] == [0, 0], done
    assert "on 2 hosts" in done[0][1] and "step" not in done[1][1]  # the first host alone says what goes on
    assert kill.close(tmp_path / "two", tmp_path / "alone", 1e-5) == []


@pytest.mark.slow
def test_hosts_that_a_signal_to_one_of_them_stopped_save_one_step_and_one_host_goes_on_in_the_other_mode(
    sources, tmp_path
):
    config = tiny_config("streams", sources["lm"], SHORT)
    more = changed(config, {"training.steps": 5000, "training.parallel": "fsdp"})
    processes = start(kill.command(more, tmp_path / "stopped"), 2)
    while not (tmp_path / "stopped" / "checkpoints" / "4").exists() and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    done = finish(processes, 120)
    assert [code for code, _, _ in done] == [128 + signal.SIGTERM] * 2, done
    said = {error.strip().splitlines()[-1] for _, _, error in done}
    assert len(said) == 1 and "stopped at step" in said.pop()
    last = max(int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir())
    on = changed(more, {"training.steps": last + 2, "training.parallel": "pmap"})
    reconfigured(tmp_path / "stopped", on)  # for a shorter end
    again = run_program(*kill.command(on, tmp_path / "stopped")[1:])
    assert again.returncode == 0 and f"resumed after step {last:,}" in again.stdout, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_is_killed_ends_the_other_within_a_minute(victim, sources, tmp_path):
    config = tiny_config("streams", sources["lm"], SHORT | {"training.steps": 100_000})
    processes = start(kill.command(config, tmp_path / "run"), 2)
    while not (tmp_path / "run" / "checkpoints" / "4").exists() and processes[0].poll() is None:
        time.sleep(0.1)
    processes[victim].kill()
    code, _, error = finish([processes[1 - victim], processes[victim]], 60)[0]
    assert code == 2 and "error: host" in error and "they resume from the last checkpoint" in error, (code, error)


def test_a_host_with_another_configuration_ends_both_with_its_name(sources, tmp_path):
    config = tiny_config("streams", sources["lm"], SHORT)
    one, other = (kill.command(changed(config, {"seed": seed}), tmp_path / "run") for seed in (0, 1))
    first = start(one, 2)
    first[1].kill()
    first[1].wait()
    arguments = first[0].args[-3:-1]
    second = subprocess.Popen(
        [*other, *arguments, "--process=1"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for code, _, error in finish([first[0], second], 120):
        assert code == 2 and "has another configuration than the first host" in error, error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_host_that_never_comes_is_waited_for_less_than_a_minute(sources, tmp_path):
    assert hosts.GATHERING < 60
    config = tiny_config("streams", sources["lm"], SHORT)
    python, program, *flags = kill.command(config, tmp_path / "run")
    sooner = f"import runpy; from lm.devices import hosts; hosts.GATHERING = 8; runpy.run_path({program!r}, run_name='__main__')"
    processes = start([python, "-c", sooner, *flags], 2)
    processes[1].kill()
    code, _, error = finish(processes, 60)[0]
    assert (
        code == 2
        and "after 8 s" in error
        and re.fullmatch("error: --coordinator: .* not all hosts .*", error.strip().splitlines()[-1])
    )
    assert not (tmp_path / "run").exists()


WRONG = {
    "--coordinator=nowhere": "--coordinator: 'nowhere' is not an address",
    "--coordinator=a:b --processes=2 --process=0": "--coordinator: 'a:b' is not an address",
    "--coordinator=a:1 --processes=2": "--process: is missing",
    "--coordinator=a:1 --process=1": "--processes: is missing",
    "--coordinator=a:1 --processes=2 --process=2": "--process: 2 is not less than --processes=2",
    "--process=0": "--process: needs the address",
    "--processes=x": "processes",
    "--coordinator=none --processes=2": "--processes: needs the address",
    "--profile=3": "--profile: '3' is not START:STOP",
    "--profile=5:4": "--profile: '5:4' is not START:STOP",
    "--profile=0:4": "--profile: '0:4' is not START:STOP",
    "--profile=-1:4": "--profile: '-1:4' is not START:STOP",
    "--profile=4:900": "--profile: step 900 is after the end of training, step 8",
}


def test_flags_that_place_no_host_or_trace_no_step_are_refused(sources, tmp_path):
    config = tiny_config("streams", sources["lm"], SHORT)
    command = kill.command(config, tmp_path / "run")[1:]
    answers = run_programs(*(([*command, *flags.split()], "") for flags in WRONG))
    for (flags, says), done in zip(WRONG.items(), answers, strict=True):
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (flags, done.stderr)
        assert says in done.stderr, (flags, done.stderr)
    assert not (tmp_path / "run").exists()
