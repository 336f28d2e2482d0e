"""python -m benchmarks.soak [--minutes=120] [--seconds=60] [--layout=streams|buckets|both] [--workdir=DIR]

Trains a small model of each layout for hours, with an evaluation every 500 steps and a checkpoint every `seconds`, and
looks at the process from outside: resident memory, open files, threads. Exits with 0 only if after the first ten
minutes (the first twelfth of a shorter run) no memory is more than 2 % above what it was then, and there are no more
files and threads; then each run is stopped by SIGTERM, which must end it with 143. Of many saves a minute Orbax keeps
some memory, about 30 KiB each.
"""

import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time
from typing import NamedTuple

from absl import flags

from benchmarks import kill
from lm.config import changed
from lm.errors import UserError
from lm.terminal.program import program

MOST = 1.02  # of the memory after the first ten minutes
EVERY = 5  # seconds between two looks


class Look(NamedTuple):
    minute: float
    mebibytes: float  # resident
    files: int
    threads: int


def look(pid: int, minute: float) -> Look:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    value = lambda name: int(status.split(f"{name}:")[1].split()[0])
    return Look(minute, value("VmRSS") / 1024, len(os.listdir(f"/proc/{pid}/fd")), value("Threads"))


def part(looks: list[Look], begin: float, end: float) -> Look:
    """Of the looks in [begin, end) minutes: median memory, and the fewest files and threads: a save opens some for a
    moment, and a leak raises the fewest."""
    inside = [each for each in looks if begin <= each.minute < end]
    return Look(
        begin,
        statistics.median(each.mebibytes for each in inside),
        min(each.files for each in inside),
        min(each.threads for each in inside),
    )


def main() -> None:
    values = flags.FLAGS
    layouts = kill.layouts(values.layout)
    base = pathlib.Path(values.workdir or tempfile.mkdtemp(prefix="soak-")).absolute()
    base.mkdir(parents=True, exist_ok=True)
    processes, looks = {}, {}
    for layout in layouts:
        endless = {"steps": 10**8, "log_every": 100, "eval_every": 500, "checkpoint_every": 10**8}
        endless["checkpoint_minutes"] = values.seconds / 60
        changes = {f"training.{name}": value for name, value in endless.items()}
        command = kill.command(
            changed(kill.small_config(layout, kill.write_data(layout, base)), changes), base / layout
        )
        processes[layout] = kill.start(command, dict(os.environ), 1, base / f"{layout}.log")[0]
        looks[layout] = []
    begun = time.monotonic()
    every = min(10.0, values.minutes / 12)  # minutes of a line of the table
    print(f"{'minutes':>9}  layout    memory  files  threads")
    lines = 0
    while (minute := (time.monotonic() - begun) / 60) < values.minutes:
        time.sleep(EVERY)
        for layout, process in processes.items():
            if process.poll() is not None:
                reason = f"the run ended with exit code {process.returncode}"
                raise UserError(str(base / f"{layout}.log"), reason, "read its messages")
            looks[layout].append(look(process.pid, minute))
        if minute >= (lines + 1) * every:
            for layout, found in looks.items():
                seen = part(found, lines * every, (lines + 1) * every)
                span = f"{lines * every:.3g}-{(lines + 1) * every:.3g}"
                print(f"{span:>9}  {layout:<8} {seen.mebibytes:7.1f} {seen.files:6d} {seen.threads:8d}", flush=True)
            lines += 1
    leaks = []
    for layout, process in processes.items():
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(timeout=600)) != 128 + signal.SIGTERM:
            leaks.append(f"{layout}: SIGTERM ended it with {code}")
        first = part(looks[layout], every, 2 * every)
        last = part(looks[layout], values.minutes - every, values.minutes + every)
        evaluations = (base / layout / "metrics.jsonl").read_text().count('"split": "validation"')
        saved = max(int(path.name) for path in (base / layout / "checkpoints").iterdir())
        growth = last.mebibytes / first.mebibytes
        print(f"{layout:<8} {saved:,} steps, {evaluations:,} evaluations: memory {growth:.4f} of what it was")
        if growth > MOST:
            leaks.append(f"{layout}: memory grew from {first.mebibytes:.1f} to {last.mebibytes:.1f} MiB")
        if last.files > first.files or last.threads > first.threads:
            leaks.append(f"{layout}: from {first} to {last}")
    for leak in leaks:
        print(leak)
    if leaks:
        sys.exit(1)
    if not values.workdir:
        shutil.rmtree(base)


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 120, "how long", lower_bound=1)
    flags.DEFINE_float("seconds", 60, "between two checkpoints", lower_bound=0.1)
    flags.DEFINE_string("layout", "both", "streams, buckets or both")
    flags.DEFINE_string("workdir", "", "where the runs go, and stay; empty: a directory that is removed if all is flat")
    program(main)
