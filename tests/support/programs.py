"""The functions that start the programs of the project as a user starts them, and that read the files they leave."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys

# Nothing but the standard library, as this is imported before JAX starts.

ROOT = pathlib.Path(__file__).parent.parent.parent
# Tests compile more than they compute: this takes a fifth of the time.
UNOPTIMIZED = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def environment(devices: int = 1) -> dict[str, str]:
    """Of a program's process; it has a number of simulated devices of its own."""
    flags = f"--xla_force_host_platform_device_count={devices} {UNOPTIMIZED}"
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run_alone(*arguments: str, before: str = "", **options) -> subprocess.CompletedProcess:
    """Python with these arguments, in a process of its own, from the repository's root.

    `before` is Python that the process runs first, e.g. to lose a right, before it becomes the program. (What
    `subprocess` calls between fork and exec is run beside JAX's threads, which may hold a lock then.)
    """
    become = f"{before}\nimport os, sys\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, *(["-c", become] if before else []), *arguments]
    caught = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=ROOT, env=environment(), **caught, **options)


@functools.cache
def _forks() -> subprocess.Popen:
    """The process that starts all others; see forked.py."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # With -P no program finds the modules of this folder where it looks for its own.
    command = [sys.executable, "-P", "tests/support/forked.py"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment(), **streams)
    atexit.register(server.kill)
    return server


def run_programs(*calls: tuple[list[str], str], devices: int = 1) -> list[subprocess.CompletedProcess]:
    """Programs of the project as a user starts them, from the repository's root; each call is of arguments and the text of
    standard input. As many run at once as there are cores."""
    server = _forks()
    print(json.dumps([calls, environment(devices)]), file=server.stdin, flush=True)
    answers = json.loads(server.stdout.readline())
    return [subprocess.CompletedProcess(call[0], *answer) for call, answer in zip(calls, answers, strict=True)]


def run_program(*arguments: str, given: str = "", devices: int = 1) -> subprocess.CompletedProcess:
    """As `run_programs`, one of them."""
    (done,) = run_programs((list(arguments), given), devices=devices)
    return done


def tree_of(directory: pathlib.Path) -> dict[str, bytes]:
    """All files of a directory, and what is in them."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
