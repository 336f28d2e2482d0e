"""python -m benchmarks.kill [--runs=1] [--kills=10] [--steps=500] [--layout=streams|buckets|both] [--hosts=1]

Trains a small model without a break, and again, `runs` times, killed by SIGKILL at random moments and restarted each
time. Exits with 0 only if every run ends with the same checkpoints (parameters, optimizer, carried state), bit for bit,
and the same metrics.jsonl, times aside. `--workdir=DIR` keeps the runs, `--seed=0` is of the moments.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags
from etils import epath

from lm import config as configuration
from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig
from lm.errors import UserError
from lm.runs.checkpoints import Checkpoints
from lm.runs.log import read_metrics
from lm.terminal.program import program

ROOT = pathlib.Path(__file__).parent.parent
TIMES = {
    "seconds",
    "logged_seconds",
    "waited",
    "logged_waited",
    "saving",
    "tokens_per_second",
    "waiting_for_data",
}  # these may differ between two runs of one configuration
LAYOUTS = ("streams", "buckets")
EVAL_EVERY = 70


def layouts(flag: str) -> tuple[str, ...]:
    """Returns the layouts that a --layout flag names."""
    if flag not in (*LAYOUTS, "both"):
        raise UserError("--layout", f"{flag!r} is unknown", "choose streams, buckets or both")
    return LAYOUTS if flag == "both" else (flag,)


def write_data(layout: str, folder: pathlib.Path) -> str:
    """Text, or pairs to translate, of random words; returns the source."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 1 + i % 7)) for i in range(200)]
    lines = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(4000)]
    path = folder / f"{layout}.txt"
    if layout == "streams":
        path.write_text("\n".join(lines) + "\n")
        return f"text:{path}"
    path.write_text("".join(f"{line}\t{line[::-1]}\n" for line in lines))
    return f"tsv:{path}"


def small_config(layout: str, source: str) -> Config:
    """Half a minute of training on two cores, with a checkpoint about every second and all that is random turned on."""
    streams = layout == "streams"
    return configuration.validated(
        Config(
            seed=1,
            data=DataConfig(
                train=source,
                task="lm" if streams else "seq2seq",
                batch_size=32,
                window=32,
                buckets=2,
                tokenizer=TokenizerConfig("characters") if streams else TokenizerConfig("unigram", 320),
            ),
            model=ModelConfig(embed_dim=16, hidden_dim=64, layers=2, attention="dot", dropout=0.2),
            optimizer=OptimizerConfig(learning_rate=3e-3, warmup=20),
            # The three periods have no common multiple but the end, so a restart falls between them all.
            training=TrainingConfig(
                steps=500, eval_every=EVAL_EVERY, checkpoint_every=19, log_every=7, eval_examples=16
            ),
        )
    )


def command(config: Config, workdir: pathlib.Path) -> list[str]:
    """train.py as a user calls it, each field of the configuration by its flag."""
    leaves = {path: configuration.get(config, path) for path, _, _ in configuration.fields(config)}
    written = lambda value: ",".join(value) if isinstance(value, tuple) else value
    values = [f"--config.{path}={written(value)}" for path, value in leaves.items()]
    return [sys.executable, "train.py", "--config=configs/shakespeare.py", f"--workdir={workdir}", *values]


# ---- killing ----------------------------------------------------------------------------------------------------


def start(command: list[str], environment: dict[str, str], hosts: int, log: pathlib.Path) -> list[subprocess.Popen]:
    """`command` as one process, or as the hosts of one run, each a process; `log` is of the first one's output.

    Of several, each writes its errors to a file beside it.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    begun = []
    for host in range(hosts):
        place = [f"--coordinator=localhost:{port}", f"--processes={hosts}", f"--process={host}"]
        files = [log if host == 0 else os.devnull, log.with_suffix(f".host{host}")][: min(hosts, 2)]
        with contextlib.ExitStack() as stack:
            out, *error = [stack.enter_context(open(file, "wb")) for file in files]
            arguments = [*command, *(place if hosts > 1 else [])]
            error = error[0] if error else None
            begun.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=error))
    return begun


def run(command: list[str], environment: dict[str, str], hosts: int, log: pathlib.Path) -> float:
    """Runs to the end; returns seconds."""
    begun = time.monotonic()
    codes = [process.wait() for process in start(command, environment, hosts, log)]
    if any(codes):
        raise UserError(str(log), f"the run ended with exit codes {codes}", f"read its messages, or {log.stem}.host*")
    return time.monotonic() - begun


class Life:
    """The durations of earlier lives of a run, in seconds. The first life is unknown; it ends during training."""

    startup = 0.0  # until the first line of metrics
    pace = 0.01  # of a step

    def learn(self, lines: list[tuple[float, int]]) -> None:
        """From (moment, step) of its lines of metrics."""
        self.startup = lines[0][0]
        self.pace = (lines[-1][0] - lines[0][0]) / max(lines[-1][1] - lines[0][1], 1) or self.pace


def run_killed(
    command: list[str],
    environment: dict[str, str],
    workdir: pathlib.Path,
    steps: int,
    kills: int,
    seed: int,
    hosts: int = 1,
    life: Life | None = None,
) -> list[str]:
    """Runs to the end, killed `kills` times on the way (one of several hosts); returns the phase of each kill.

    The moment is uniform over the expected time of a life: its start, and twice its share of the remaining steps.
    """
    rng, life = np.random.default_rng(seed), life or Life()
    hits: list[str] = []
    log_path = workdir.parent / f"{workdir.name}.log"
    while len(hits) < kills:
        done = _latest_checkpoint(workdir)
        moment = rng.uniform(0, life.startup + 2 * (steps - done) / (kills - len(hits) + 1) * life.pace)
        target = done + int((moment - life.startup) / life.pace)
        lines: list[tuple[float, int]] = []  # when each step was reported
        processes, begun, hit = start(command, environment, hosts, log_path), time.monotonic(), False
        while all(process.poll() is None for process in processes):
            time.sleep(0.005)
            now, reported = time.monotonic() - begun, _steps_in(log_path)
            if reported and (not lines or lines[-1][1] != reported[-1]):
                lines.append((now, reported[-1]))
            late = moment >= life.startup
            if (not late and now >= moment) or (late and lines and lines[-1][1] >= target):
                # The lines come some steps apart, and with them the evaluations: anywhere in between.
                time.sleep(rng.uniform(0, 10 * life.pace))
                processes[rng.integers(hosts)].kill()
                hit = True
                break
        codes = _all_ended(processes)
        if lines:
            life.learn(lines)
        if not any(codes):  # it was done before its moment came
            continue
        if not hit or -signal.SIGKILL not in codes or {*codes} - {0, 2, -signal.SIGKILL}:
            raise UserError(str(log_path), f"the run ended with exit codes {codes}", "read its messages")
        where = _moment_in(log_path)
        where += ", while a checkpoint was written" if _half_written(workdir) else ""
        hits.append(f"{time.monotonic() - begun:6.2f} s, from step {done}: {where}")
    run(command, environment, hosts, log_path)
    return hits


def _all_ended(processes: list[subprocess.Popen]) -> list[int]:
    """Exit codes; the hosts that were not killed must end by themselves within a minute."""
    try:
        return [process.wait(timeout=60) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        raise UserError(
            "a host", "went on for a minute after another one was killed", "see lm/devices/hosts.py"
        ) from None


def _lines_in(log: pathlib.Path) -> list[tuple[int, str]]:
    """(step, split) of each line of metrics."""
    found = re.findall(r"^step +([\d,]+) .*? (train|validation) ", log.read_text(), re.MULTILINE)
    return [(int(step.replace(",", "")), split) for step, split in found]


def _steps_in(log: pathlib.Path) -> list[int]:
    return [step for step, _ in _lines_in(log)]


def _moment_in(log: pathlib.Path) -> str:
    """Returns the phase of the process when it wrote the last line."""
    if not (lines := _lines_in(log)):
        return "in start-up" + ("" if "\ncompiling" in log.read_text() else ", before the model was there")
    step, split = lines[-1]
    return "in evaluation" if split == "train" and step % EVAL_EVERY == 0 else f"after step {step}"


def _latest_checkpoint(workdir: pathlib.Path) -> int:
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def _half_written(workdir: pathlib.Path) -> bool:
    return any(not path.name.isdigit() for path in workdir.glob("checkpoints/*"))


# ---- comparing --------------------------------------------------------------------------------------------------


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Returns the differences of two runs' directories: configuration, tokenizer, metrics without times, and
    checkpoints.
    """
    found = []
    for pattern in ("config.json", "tokenizer/*"):
        names = {path.relative_to(base) for base in (one, other) for path in base.glob(pattern)}
        found += [str(name) for name in sorted(names) if _content(one / name) != _content(other / name)]
    records, others = ([_timeless(r) for r in read_metrics(epath.Path(base))] for base in (one, other))
    if len(records) != len(others):
        found.append(f"metrics.jsonl: {len(records)} lines against {len(others)}")
    found += [f"metrics.jsonl: {a} against {b}" for a, b in zip(records, others, strict=False) if a != b]
    steps, other_steps = (sorted(int(path.name) for path in (base / "checkpoints").iterdir()) for base in (one, other))
    if steps != other_steps:
        found.append(f"checkpoints: {steps} against {other_steps}")
    for step in sorted({*steps} & {*other_steps}):
        leaves, other_leaves = (_leaves(base / "checkpoints" / str(step)) for base in (one, other))
        found += [
            f"checkpoint {step}: {name}"
            for name in sorted({*leaves} | {*other_leaves})
            if leaves.get(name) != other_leaves.get(name)
        ]
    return found


def close(one: pathlib.Path, other: pathlib.Path, tolerance: float) -> list[str]:
    """Returns the `differences` of runs whose devices add in another order: losses may differ by the tolerance."""
    records, others = ([_timeless(r) for r in read_metrics(epath.Path(base))] for base in (one, other))
    lines = [[(record["step"], record["split"]) for record in each] for each in (records, others)]
    if lines[0] != lines[1]:
        return [f"metrics.jsonl: {lines[0]} against {lines[1]}"]
    return [
        f"metrics.jsonl: {a} against {b}"
        for a, b in zip(records, others, strict=True)
        if abs(a["loss"] - b["loss"]) > tolerance * abs(b["loss"])
    ]


def _content(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _timeless(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMES}


def _leaves(checkpoint: pathlib.Path) -> dict[str, object]:
    """Returns everything that a checkpoint keeps, by name: arrays as (type, shape, bytes), and counters."""
    found: dict[str, object] = dict(_timeless(json.loads((checkpoint / "progress" / "metadata").read_text())))
    saved = Checkpoints(epath.Path(checkpoint.parent))
    for item in ("params", "rest"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved.arrays(int(checkpoint.name), item)):
            array = np.asarray(leaf)
            found[item + jax.tree_util.keystr(path)] = (str(array.dtype), array.shape, array.tobytes())
    return found


def main() -> None:
    values = flags.FLAGS
    chosen = layouts(values.layout)
    base = pathlib.Path(values.workdir or tempfile.mkdtemp(prefix="kill-"))
    # That the numbers are the same to the last bit is promised on a CPU.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    equal: dict[str, int] = {}
    for layout in chosen:
        folder = (base / layout).absolute()
        if folder.exists() and any(folder.iterdir()):
            raise UserError(str(folder), "is not empty", "choose another --workdir")
        folder.mkdir(parents=True, exist_ok=True)
        config = configuration.changed(
            small_config(layout, write_data(layout, folder)), {"training.steps": values.steps}
        )
        seconds = run(
            command(config, folder / "uninterrupted"), environment, values.hosts, folder / "uninterrupted.log"
        )
        print(f"{layout}: {values.steps} steps without a break in {seconds:.1f} s", flush=True)
        equal[layout], life = 0, Life()
        for number in range(1, values.runs + 1):
            killed, seed = folder / f"killed{number}", values.seed + number - 1
            hits = run_killed(
                command(config, killed), environment, killed, values.steps, values.kills, seed, values.hosts, life
            )
            for hit in hits:
                print(f"  run {number:3d}, killed at {hit}", flush=True)
            different = differences(folder / "uninterrupted", killed)
            for difference in different:
                print(f"  run {number:3d} differs: {difference}", flush=True)
            equal[layout] += not different
            if not different and not values.workdir:
                shutil.rmtree(killed)
        hosts = f"{values.hosts} host{'s' * (values.hosts > 1)}"
        found = f"{equal[layout]} of {values.runs} runs equal, bit for bit"
        print(f"{layout:<8} {hosts}, {values.kills} kills a run: {found}", flush=True)
    if any(count < values.runs for count in equal.values()):
        sys.exit(1)
    if not values.workdir:
        shutil.rmtree(base)


if __name__ == "__main__":
    flags.DEFINE_integer("runs", 1, "how many runs of each layout are killed", lower_bound=1)
    flags.DEFINE_integer("kills", 10, "how often each run is killed", lower_bound=0)
    flags.DEFINE_integer("steps", 500, "updates of each run", lower_bound=1)
    flags.DEFINE_integer("hosts", 1, "processes of each run; a kill is of one of them", lower_bound=1)
    flags.DEFINE_string("layout", "both", "streams, buckets or both")
    flags.DEFINE_string(
        "workdir", "", "where the runs go, and stay; empty: a directory that is removed if all is equal"
    )
    flags.DEFINE_integer("seed", 0, "of the moments")
    program(main)
