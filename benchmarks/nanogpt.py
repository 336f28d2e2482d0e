"""python -m benchmarks.nanogpt --checkout=DIR --text=FILE [--python=PYTHON] [--runs=3]

Characters of tiny Shakespeare: nanoGPT with its README's settings for a CPU to its end, then configs/shakespeare.py
until its validation loss is as low as nanoGPT's lowest, one after the other, several times. Prints seconds of training,
compilation included and evaluation not, and the ratio of the medians.

The two are not scored alike: ours reads the whole validation text, its state carried; nanoGPT takes the mean of 20
batches of 12 windows of 64 characters, drawn at random, each without what came before it.

DIR is a checkout of github.com/karpathy/nanoGPT whose data/shakespeare_char/prepare.py has been run on FILE; PYTHON is
an interpreter with torch.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from absl import flags

from lm.errors import UserError
from lm.terminal.program import program

ROOT = pathlib.Path(__file__).parent.parent
EVERY = 50  # steps between two evaluations, for both
NANOGPT = """
config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64
--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0
""".split()


def lines(command: list[str], folder: pathlib.Path, **environment: str) -> Iterator[str]:
    """Standard output of a program, which ends when it is no longer read."""
    environment = {**os.environ, **environment}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield from process.stdout
        finally:
            process.kill()


def nanogpt(checkout: str, python: str) -> tuple[float, float]:
    """(seconds until the lowest loss on validation data, that loss)."""
    best, reached = float("inf"), 0
    updates = []  # seconds of each; None where an evaluation would be included
    for line in lines([python, "-u", "train.py", *NANOGPT, f"--eval_interval={EVERY}"], pathlib.Path(checkout)):
        if found := re.match(r"iter (\d+): .* time ([\d.]+)ms", line):
            updates.append(float(found[2]) / 1000 if int(found[1]) % EVERY else None)
        elif (found := re.match(r"step \d+: .* val loss ([\d.]+)", line)) and float(found[1]) < best:
            best, reached = float(found[1]), len(updates)
    if not reached:
        raise UserError(checkout, "nanoGPT did not run", "read its messages above")
    usual = statistics.median(each for each in updates if each)
    return sum(each or usual for each in updates[:reached]), best


def ours(text: str, mark: float) -> tuple[float, float]:
    """(seconds, loss) of the first evaluation that reaches the mark."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-u", "train.py", "--config=configs/shakespeare.py", f"--workdir={workdir}/run"]
        command += [f"--config.data.train=text:{text}", f"--config.training.eval_every={EVERY}"]
        for line in lines(command, ROOT, JAX_COMPILATION_CACHE_DIR=f"{workdir}/compiled"):  # nothing compiled before
            found = re.match(r"step .* ([\d.]+) s +validation +loss ([\d.]+)", line)
            if found and float(found[2]) <= mark:
                return float(found[1]), float(found[2])
    raise UserError("configs/shakespeare.py", f"did not reach {mark}", "read its messages above")


def main() -> None:
    values = flags.FLAGS
    seconds: dict[str, list[float]] = {"nanoGPT": [], "lm": []}
    for _ in range(values.runs):
        theirs = nanogpt(values.checkout, values.python)
        for name, found in (
            ("nanoGPT", theirs),
            ("lm", ours(str(pathlib.Path(values.text).absolute()), theirs[1])),
        ):
            seconds[name].append(found[0])
            print(f"{name:<8} {found[0]:7.1f} s  loss {found[1]:.4f}", flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"nanoGPT over lm, medians of {values.runs}: {medians['nanoGPT'] / medians['lm']:.2f}")


if __name__ == "__main__":
    flags.DEFINE_string("checkout", None, "nanoGPT, its data prepared")
    flags.DEFINE_string("text", None, "tiny Shakespeare, input.txt")
    flags.DEFINE_string("python", sys.executable, "an interpreter with torch")
    flags.DEFINE_integer("runs", 3, "of each")
    program(main, required=("checkout", "text"))
