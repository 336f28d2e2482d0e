"""python -m benchmarks.tinyworld [--examples=100000] [--difficulty=2] [--prepare]

Draws examples of each config of TinyWorld in one process. Prints seconds, examples per second, the mean lengths of
source and target in characters, and the floor: the mean of -log_prob, in nats per example. With --prepare it also
prints the seconds in which TFDS draws the same number and writes them to disk.
"""

import contextlib
import io
import random
import tempfile
import time

import tensorflow_datasets as tfds
from absl import flags

from lm.errors import UserError
from lm.terminal.program import program
from lm.tinyworld import Tinyworld
from lm.tinyworld.tinyworld import DIFFICULTIES


def draw(name: str, examples: int, difficulty: int) -> str:
    """Returns seconds, examples per second, mean lengths and the floor, as a line."""
    example, started = Tinyworld.builder_configs[name].example, time.perf_counter()
    source = target = floor = 0
    for index in range(examples):
        drawn = example(random.Random(f"benchmark/{name}/{index}"), difficulty)
        source += len(drawn.get("source", ""))
        target += len(drawn["target"] if "target" in drawn else drawn["text"])
        floor -= drawn["log_prob"]
    seconds = time.perf_counter() - started
    means = f"{source / examples:8.1f} {target / examples:8.1f} {floor / examples + 0:8.3f}"
    return f"{seconds:8.1f} {examples / seconds:10,.0f} {means}"


def prepare(name: str, examples: int, difficulty: int) -> str:
    """Seconds until the data set is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"train": examples, "validation": 1, "test": 1}
        builder = Tinyworld(config=name, difficulty=difficulty, data_dir=folder, **sizes)
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS greets
            builder.download_and_prepare()
        return f"{time.perf_counter() - started:8.1f}"


def main() -> None:
    values = flags.FLAGS
    if values.difficulty not in DIFFICULTIES:
        raise UserError("--difficulty", f"{values.difficulty} is unknown", "choose 1, 2 or 3")
    tfds.disable_progress_bar()
    print(f"{'':10} {'seconds':>8} {'examples/s':>10} {'source':>8} {'target':>8} {'floor':>8}", end="")
    print(f" {'prepared':>8}" if values.prepare else "")
    for name in Tinyworld.builder_configs:
        line = f"{name:10} {draw(name, values.examples, values.difficulty)}"
        print(f"{line} {prepare(name, values.examples, values.difficulty)}" if values.prepare else line, flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("examples", 100_000, "of each config", lower_bound=1)
    flags.DEFINE_integer("difficulty", 2, "1, 2 or 3")
    flags.DEFINE_bool("prepare", False, "also time TFDS, which writes them")
    program(main)
