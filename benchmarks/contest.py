"""Contestants side by side, each in its own process and measured in turns, so that a busy moment affects all of them.

Results are medians, ratios of medians, a table, and JSON with versions and device.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from lm.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent

flags.DEFINE_string("as_contestant", "", "internal: the contestant that this process runs")
flags.DEFINE_string("case", "{}", "internal: its case, as JSON")
flags.DEFINE_string("peers", sys.executable, "an interpreter with lm and the other libraries")
flags.DEFINE_string("json", "", "a file for the results; empty: none")
flags.DEFINE_integer("rounds", 11, "measurements of each contestant")
flags.DEFINE_list("only", [], "these contestants alone")
flags.DEFINE_enum("allocator", "kept", ["kept", "system"], "ours: memory kept, as in training, or as glibc does it")


def race(module: str, contestants: Sequence[str], case: dict[str, Any], repeats: int = 1) -> dict[str, list[float]]:
    """Seconds of each measurement of each contestant; a measurement is `repeats` calls, divided by them.

    One that cannot start (a peer that is not installed) is left out, and said so.
    """
    values, environment = flags.FLAGS, {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # contestants share a GPU
    # Peers run as their users run them, without what `lm.errors.program` asks of glibc; this is glibc's own default.
    theirs = environment | {"MALLOC_ARENA_TEST": "8"}
    running, seconds = {}, {}
    for name in contestants:
        if values.only and name not in values.only:
            continue
        python = sys.executable if name.startswith(("lm", "flax", "optax")) else values.peers
        command = [python, "-m", module, f"--as_contestant={name}", f"--case={json.dumps(case)}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        ours = name.startswith("lm") and values.allocator == "kept"
        running[name] = subprocess.Popen(command, cwd=ROOT, env=environment if ours else theirs, **pipes)
    try:
        for name, process in running.items():
            if process.stdout.readline().strip() == "ready":
                seconds[name] = []
            else:
                if name.startswith("lm"):
                    raise UserError(name, "did not start", "what it said is above")
                print(f"{name}: did not start", file=sys.stderr)
        for _ in range(values.rounds):
            for name in seconds:
                running[name].stdin.write(f"{repeats}\n")
                running[name].stdin.flush()
                seconds[name].append(float(running[name].stdout.readline()))
    finally:
        for process in running.values():
            process.stdin.close()
            process.wait()
    return seconds


def serve(call: Callable[[], Any]) -> None:
    """A contestant: warms up, then answers each line of standard input, a number of calls, with seconds a call.

    `call` returns when its work is done.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    call()
    call()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            call()
        print((time.perf_counter() - begun) / int(line), file=answers, flush=True)


def report(title: str, results: dict[str, dict[str, list[float]]], unit: float = 1e3, name: str = "ms") -> dict:
    """Prints a table, a line a case: medians, and beside each how many times ours it takes; returns the figures."""
    figures = {
        case: {who: statistics.median(each) for who, each in seconds.items()} for case, seconds in results.items()
    }
    columns = list(dict.fromkeys(who for each in figures.values() for who in each))
    print(f"\n{title}: median {name} (times the first)")
    print(f"{'':26}" + "".join(f"{who:>22}" for who in columns))
    for case, medians in figures.items():
        first = next(iter(medians.values()))
        cells = [f"{medians[w] * unit:.2f} ({medians[w] / first:.2f})" if w in medians else "" for w in columns]
        print(f"{case:26}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    return figures


def write(found: dict[str, Any]) -> None:
    """The figures as JSON, with what they were found on, where `--json` says."""
    if flags.FLAGS.json:
        script = (
            "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
        theirs = json.loads(subprocess.run([flags.FLAGS.peers, "-c", script], capture_output=True, text=True).stdout)
        import jax  # only now: contestants may have needed all of a device

        about = {
            "command": sys.argv,
            "device": jax.devices()[0].device_kind,
            "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "optax", "numpy")},
            "peers": {p: theirs[p] for p in ("torch", "keras", "tensorflow-cpu", "tensorflow") if p in theirs},
            "python": platform.python_version(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        }
        pathlib.Path(flags.FLAGS.json).write_text(json.dumps(about | found, indent=1) + "\n")


def _processor():
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
