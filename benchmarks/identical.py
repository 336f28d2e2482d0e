"""python -m benchmarks.identical BEFORE AFTER [--folder=F]

Shows whether two checkouts compute the same, bit for bit. In each it trains five short runs, one for each kind of task,
samples from them and evaluates them. It compares `config.json`, the tokenizer, every array of every checkpoint,
`metrics.jsonl` and the evaluation without times, and the samples. Runs that are in F are not run again, so a changed
checkout needs another F.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags

from lm.errors import UserError
from lm.terminal.program import program

SHORT = ["steps=24", "eval_every=12", "checkpoint_every=12", "log_every=4", "eval_examples=16"]
CONFIGS = {  # fields that are another than the file's, and the arguments of sample.py
    "tinyworld": (
        ["model.dropout=0.1", "model.heads=2", "data.batch_size=16"],
        ["--prompt=the red fox sees a dog", "--prompt=", "--seed=3"],
    ),
    "stories": (
        ["model.dropout=0.1", "data.batch_size=8", "data.window=48"],
        ["--prompt=Anna", "--prompt=", "--seed=3"],
    ),
    "sentiment": (["data.batch_size=16", "optimizer.ema_decay=0.9"], ["--prompt=a good film"]),
    "questions_extract": (["data.batch_size=16", "model.layers=1"], ["--prompt=yes no . is Anna in the house ?"]),
    "pretrain": (
        ["data.batch_size=16", "model.cell=gru", "model.copy=true", "training.accumulate=2"],
        ["--prompt=Anna has", "--prompt=", "--seed=3"],
    ),
}
TIMED = ("seconds", "tokens_per_second", "waiting_for_data")  # and the version, which a signature ends in


def run(checkout: pathlib.Path, folder: pathlib.Path, name: str) -> pathlib.Path:
    """The directory of the run of a configuration, trained and evaluated; its samples are `samples.jsonl` there."""
    changes, sampling = CONFIGS[name]
    directory = (folder / name).absolute()
    changes = [*changes, *(f"training.{each}" for each in SHORT)]
    commands = {
        "train": ["train.py", f"--config=configs/{name}.py", *(f"--config.{each}" for each in changes)],
        "samples": ["sample.py", "--json", *sampling],
        "evaluate": ["-m", "lm.evaluate", "--split=validation", "--checkpoint=latest"],
    }
    for step, command in commands.items():
        if not (directory / f"{step}.jsonl").exists():
            command = [sys.executable, *command, f"--workdir={directory}"]
            found = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
            if found.returncode:
                sys.exit(f"{checkout}, {name}: {found.stderr.strip()}")
            (directory / f"{step}.jsonl").write_text(found.stdout)
    return directory


def contents(directory: pathlib.Path) -> dict[str, object]:
    """Returns everything of a run that is compared, by name."""
    found: dict[str, object] = {"samples": (directory / "samples.jsonl").read_text()}
    for path in (directory / "config.json", *sorted((directory / "tokenizer").iterdir())):
        found[path.name] = path.read_bytes()
    for number, line in enumerate((directory / "metrics.jsonl").read_text().splitlines()):
        found[f"metrics.jsonl:{number + 1}"] = {k: v for k, v in json.loads(line).items() if k not in TIMED}
    for path in sorted((directory / "evaluations").iterdir()):
        record = json.loads(path.read_text())
        # Older checkouts record less of what was asked for.
        found[path.name] = {k: v for k, v in record.items() if not k.endswith("_signature") and k != "options"}
    for step in sorted((directory / "checkpoints").iterdir()):
        for item in ("params", "rest"):
            arrays = ocp.StandardCheckpointer().restore(step / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
                leaf = np.asarray(leaf)
                where = f"{step.name}/{item}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
                found[where] = (str(leaf.dtype), leaf.shape, leaf.tobytes())
    return found


def apart(old: dict[str, object], new: dict[str, object], names: list[str]) -> float:
    """The largest difference between two arrays that differ, relative to the largest number of the array."""
    values = lambda found: np.frombuffer(found[2], found[0])
    both = [(old[name], new[name]) for name in names if isinstance(old.get(name), tuple) and name in new]
    sizes = [np.abs(values(a) - values(b)).max() / np.abs(values(a)).max() for a, b in both if a[:2] == b[:2]]
    return float(max(sizes, default=0))


def main() -> None:
    if len(flags.FLAGS.checkout) != 2:
        raise UserError("command line", f"names {len(flags.FLAGS.checkout)} checkouts", "give BEFORE and AFTER")
    before, after = map(pathlib.Path, flags.FLAGS.checkout)
    folder = pathlib.Path(flags.FLAGS.folder or tempfile.mkdtemp(prefix="identical-"))
    different = 0
    for name in CONFIGS:
        old, new = (contents(run(each, folder / label, name)) for each, label in ((before, "before"), (after, "after")))
        names = [*old, *(new.keys() - old.keys())]
        other = [each for each in names if old.get(each) != new.get(each)]
        different += len(other)
        arrays = sum(isinstance(value, tuple) for value in old.values())
        said = (
            f"{len(other)} different: {', '.join(other[:8])} ..., arrays by {apart(old, new, other):.1e}"
            if other
            else "the same"
        )
        print(f"{name:<20} {len(names)} things compared, {arrays} of them arrays of checkpoints: {said}", flush=True)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    flags.DEFINE_string("folder", "", "where the runs of both lie; empty: nowhere afterwards")
    flags.DEFINE_multi_string(
        "checkout", [], "a checkout of the project, the first one before a change, the second after it"
    )
    program(main, positional="checkout")
