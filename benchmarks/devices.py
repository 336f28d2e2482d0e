"""python -m benchmarks.devices [--steps=50] [--layout=streams|buckets|both] [--workdir=DIR]

Trains the same small model, dropout on, on 1, 2, 4 and 8 simulated devices, by `pmap` and `fsdp`, in 1, 2 and 4
processes. Prints the largest relative difference of any loss to one device. Then it resumes from a checkpoint of each
setting in another one. Exits with 0 only if no loss differs by more than 1e-5.
"""

import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags
from etils import epath

from benchmarks import kill
from lm.config import changed
from lm.runs.log import read_metrics
from lm.terminal.program import program

# (mode, processes, devices of each)
SETTINGS = [
    *((mode, 1, devices) for mode in ("pmap", "fsdp") for devices in (1, 2, 4, 8)),
    *((mode, processes, devices) for mode in ("pmap", "fsdp") for processes, devices in ((2, 1), (2, 2), (4, 1))),
]
MOST = 1e-5


def run(command: list[str], processes: int, devices: int, log: pathlib.Path) -> None:
    """Runs `command` in so many processes, each with so many simulated devices; raises `UserError` if one fails."""
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    kill.run(command, {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}, processes, log.with_suffix(".log"))


def losses(workdir: pathlib.Path) -> dict[tuple[int, str], float]:
    records = read_metrics(epath.Path(workdir))
    return {(record["step"], record["split"]): record["loss"] for record in records}


def main() -> None:
    values = flags.FLAGS
    layouts = kill.layouts(values.layout)
    base = pathlib.Path(values.workdir or tempfile.mkdtemp(prefix="devices-")).absolute()
    base.mkdir(parents=True, exist_ok=True)
    worst = 0.0
    for layout in layouts:
        often = {"training.steps": values.steps, "training.log_every": 1, "training.checkpoint_every": 20}
        config = changed(kill.small_config(layout, kill.write_data(layout, base)), often)
        expected: dict[tuple[int, str], float] = {}
        before: pathlib.Path | None = None
        for mode, processes, devices in SETTINGS:
            name = f"{layout}-{mode}-{processes}x{devices}"
            here = changed(config, {"training.parallel": mode})
            run(kill.command(here, base / name), processes, devices, base / name)
            found = losses(base / name)
            expected = expected or found
            apart = max(abs(found[key] / expected[key] - 1) for key in expected)
            # On from a checkpoint that the setting before wrote.
            read = 0.0
            if before:
                shutil.copytree(before, base / "read")
                latest = max((base / "read" / "checkpoints").iterdir(), key=lambda path: int(path.name))
                shutil.rmtree(latest)
                run(kill.command(here, base / "read"), processes, devices, base / "read")
                found = losses(base / "read")
                read = max(abs(found[key] / expected[key] - 1) for key in expected)
                shutil.rmtree(base / "read")
            before, worst = base / name, max(worst, apart, read)
            text = f"{layout:<8} {mode}  {processes} x {devices} devices: losses within {apart:.1e} of one device's"
            print(text + (f"; from the checkpoint of the line above, {read:.1e}" if read else ""), flush=True)
    print(f"{'within' if worst <= MOST else 'NOT WITHIN'} {MOST:.0e}: {worst:.1e}")
    if worst > MOST:
        sys.exit(1)
    if not values.workdir:
        shutil.rmtree(base)


if __name__ == "__main__":
    flags.DEFINE_integer("steps", 50, "updates of each run")
    flags.DEFINE_string("layout", "both", "streams, buckets or both")
    flags.DEFINE_string("workdir", "", "where the runs go, and stay; empty: a directory that is removed at the end")
    program(main)
