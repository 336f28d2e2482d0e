"""python -m benchmarks.start [--config=configs/tinyworld.py] [--rounds=3]

Measures the time from the start of `train.py` to its first step, in a new run each time: once with an empty compilation
cache, then with a filled one. The data is prepared before. Prints medians, in seconds.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks.kill import ROOT
from lm.errors import UserError
from lm.terminal.program import program


def start(config: str, workdir: pathlib.Path, cache: pathlib.Path) -> float:
    """Seconds to the first update; the process is stopped then, which saves a checkpoint."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    begun, seconds, said = time.monotonic(), 0.0, []
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        for line in process.stdout:
            said.append(line)
            if not seconds and "; first step " in line:
                seconds = time.monotonic() - begun
                process.send_signal(signal.SIGTERM)
    if process.returncode != 128 + signal.SIGTERM:
        last = said[-1].strip() if said else "nothing"
        raise UserError(str(workdir), f"the run ended with exit code {process.returncode}: {last}", "see train.py")
    return seconds


def main() -> None:
    values = flags.FLAGS
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        base = pathlib.Path(folder)
        start(values.config, base / "data", base / "prepared")  # makes the data where it is not there yet
        cold = start(values.config, base / "cold", base / "compiled")
        warm = [start(values.config, base / f"warm{i}", base / "compiled") for i in range(values.rounds)]
    print(f"{values.config}: from the start to the first update {cold:.1f} s with an empty compilation cache")
    print(f"and {statistics.median(warm):.1f} s with a filled one ({', '.join(f'{each:.1f}' for each in warm)})")


if __name__ == "__main__":
    flags.DEFINE_string("config", "configs/tinyworld.py", "what is trained, a Python file")
    flags.DEFINE_integer("rounds", 3, "starts with a filled cache", lower_bound=1)
    program(main)
