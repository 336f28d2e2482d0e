"""python -m lm.pipeline CONFIG [--workdir=runs/NAME] [--seeds=0,1,2] [--tasks=NAME,NAME]

Pretrains, fine-tunes each task from there and from scratch, evaluates, and prints one table with and without pretraining.
CONFIG is a Python file: its `TASKS` name for each task the pretraining that it starts from, as {"questions": "pretrain"}, and
`get_config(STAGE)` is the configuration of either; `CONFIG:STAGE` can be given to train.py too. A task's `optimizer.groups` hold
where it starts from what was pretrained, not from scratch. Every stage is a run in the workdir. A stage that was evaluated is not
run again, one that was interrupted goes on. The table is `table.md` and `table.json`.

Two more names may be in the file. `BEFORE` has for a pretraining the stage that it starts from itself. `WRITES` has for a stage a
source of texts that its run answers greedily once it is trained. What it wrote is `NAME.jsonl` in the workdir, the output as source
and the text as target: back-translation (Sennrich et al., 2016). Another pretraining reads it as `jsonl:{workdir}/NAME.jsonl`;
train.py alone, which knows no pipeline's workdir, is given that file by `--config.data.train`.
"""

import dataclasses
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterable
from typing import Any

import jax
from absl import flags
from etils import epath

from lm import config as configuration
from lm import evaluate
from lm.config import Config
from lm.data.read.examples import blank
from lm.data.read.sources import load_splits
from lm.errors import UserError, nearest
from lm.runs import workdir, writing
from lm.runs.run import Run, load
from lm.search.options import Options
from lm.terminal import output
from lm.terminal.program import program
from lm.training import loop

# The flags of lm.evaluate hold for the evaluations, --workdir is for the folder of all runs.
CONFIG = flags.DEFINE_multi_string("config", [], "the pipeline, a Python file")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "of the fine-tunings; pretraining has that of its configuration")
CHOSEN = flags.DEFINE_list("tasks", [], "tasks of the pipeline that are run; empty: all")
STARTS = ("scratch", "pretrained")
READS = re.compile(r"\{workdir\}/([^/|]+)\.jsonl")  # in a source: what the stage of that name wrote


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the file names, each by the name of a stage."""

    tasks: dict[str, str]
    before: dict[str, str]
    writes: dict[str, str]


def planned(file: str) -> Plan:
    """Raises `UserError` if the names are not of texts by text."""
    found = configuration.defined(file)
    named = {name: found.get(name, {}) for name in ("TASKS", "BEFORE", "WRITES")}
    for name, value in named.items():
        if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
            raise UserError(file, f"{name} is no dict of texts", 'write e.g. {"questions": "pretrain"}')
    if not named["TASKS"]:
        raise UserError(
            file, "has no TASKS that name what each starts from", 'give e.g. TASKS = {"questions": "pretrain"}'
        )
    return Plan(*named.values())


def pretrainings(file: str, directory: epath.Path, plan: Plan, tasks: Iterable[str]) -> dict[str, Config]:
    """The configuration of each that the tasks need, by name, after those of what it starts from and of what it reads.

    Raises:
        UserError: one comes after itself, or reads what no stage writes.
    """
    found: dict[str, Config] = {}

    def add(name: str, *waiting: str) -> None:
        if name in waiting:
            raise UserError(file, f"{name!r} starts from itself, or reads what comes of it", "mend BEFORE and WRITES")
        if name in found:
            return
        config = configuration.editable(configuration.from_file(f"{file}:{name}"))
        needed = READS.findall(config.data.train)
        for other in needed:
            if other not in plan.writes:
                what = f"{name!r} reads what {other!r} wrote, which is none of WRITES"
                raise UserError(file, what, nearest(other, plan.writes))
        config.data.train = config.data.train.replace("{workdir}", str(directory))
        if before := plan.before.get(name):
            config.training.init_from = str(directory / before)
            needed.append(before)
        for other in needed:
            add(other, name, *waiting)
        found[name] = config

    for task in tasks:
        add(plan.tasks[task])
    return found


def stages(file: str, directory: epath.Path, plan: Plan, tasks: list[str], seeds: list[int]) -> dict[str, Config]:
    """The configuration of each by the name of its run in `directory`, in order: what the tasks need, then the tasks.

    What breaks a rule in any of them is refused before hours of pretraining.
    """
    known = pretrainings(file, directory, plan, plan.tasks)
    for name in (*plan.before, *plan.writes):
        if name not in known:
            raise UserError(file, f"{name!r} of BEFORE or WRITES is nothing that a task needs", nearest(name, known))
    found = pretrainings(file, directory, plan, tasks)
    for task, seed, start in itertools.product(tasks, seeds, STARTS):
        pretrained = directory / plan.tasks[task]
        config = configuration.editable(configuration.from_file(f"{file}:{task}"))
        config.seed = seed
        if start == "pretrained":
            config.training.init_from = str(pretrained)
        else:
            # Nothing is to differ but the parameters, and what is said of those that were learned.
            config.training.init_params, config.training.init_mismatch = (), "refuse"
            config.optimizer.groups, config.model.lora_rank = (), 0
            taken = {
                "kind": str(pretrained / "tokenizer" / "tokenizer.json"),
                "vocab_size": 0,
                "normalization": "identity",
            }
            config.data.tokenizer = dataclasses.replace(config.data.tokenizer, **taken)
        found[f"{task}-{start}-{seed}"] = config
    for name, config in found.items():
        try:
            found[name] = configuration.validated(config)
        except UserError as error:
            raise UserError(f"{file}, {name}: {error.where}", error.what, error.mend) from error
        workdir.check(directory / name, found[name])
    return found


def texts_of(spec: str) -> list[str]:
    """What a stage is to answer."""
    try:
        (split,) = load_splits("", "", spec, ("test",)).values()
    except UserError as error:  # of a file, or of the field that such a source is usually in
        raise UserError(error.where.replace("config.data.test", "WRITES"), error.what, error.mend) from error
    if any(example.source is not None for example in split.examples):
        raise UserError("WRITES", f"{spec} has sources", "give texts alone, e.g. SOURCE | | {target}")
    return [example.target for example in split.examples]


def write(run: Run, texts: list[str], path: epath.Path) -> None:
    """Pairs of the run's greedy answer and the text; one without an answer is left out."""
    begun = time.monotonic()
    answers = [found.output for (found,) in run.generate(texts, Options(temperature=0.0))]
    pairs = [
        {"source": answer, "target": text} for answer, text in zip(answers, texts, strict=True) if not blank(answer)
    ]
    writing.write_whole(path, "".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in pairs))
    output.say(f"{len(pairs):,} pairs written to {path} in {time.monotonic() - begun:.1f} s")


def record_of(directory: epath.Path) -> epath.Path | None:
    """The evaluation of a run on the split, where it is done."""
    found = sorted((directory / "evaluations").glob(f"{evaluate.SPLIT.value}-*.json"), key=str)
    return found[-1] if found else None


def run_stage(directory: epath.Path, config: Config) -> dict[str, Any]:
    """Trains what is left of a run and evaluates it; returns the record of that, as it is written."""
    if record_of(directory) is None:
        loop.train(config, directory)
        run = load(str(directory), evaluate.CHECKPOINT.value)
        evaluate.show(run, evaluate.evaluate_as_asked(run))
        jax.clear_caches()  # programs hold memory maps, of which a process has not many
    return json.loads(record_of(directory).read_text())


# ---- the table --------------------------------------------------------------------------------------------------

ERRORS = {  # of a record: what is less where the model is better
    "error": lambda record: 1 - record["exact_match"] if "exact_match" in record else None,
    "nats above the floor": lambda record: (
        record["nats_per_example"] - record["floor_nats_per_example"] if "nats_per_example" in record else None
    ),
}


def compared(records: dict[str, dict[str, Any]], tasks: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """For each task and each of `ERRORS` that all its records have: values by seed, their mean and standard deviation, from
    scratch and pretrained, and the ratio of the means."""
    rows = []
    for task in tasks:
        for name, error in ERRORS.items():
            row: dict[str, Any] = {"task": task, "what": name}
            for start in STARTS:
                values = [error(records[f"{task}-{start}-{seed}"]) for seed in seeds]
                if None not in values:
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    row[start] = {"values": values, "mean": statistics.mean(values), "deviation": spread}
            if all(start in row for start in STARTS):
                scratch, pretrained = (row[start]["mean"] for start in STARTS)
                rows.append(row | {"ratio": pretrained / scratch if scratch > 0 else None})
    return rows


def table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """In Markdown."""

    def cell(found: dict[str, Any], percent: bool) -> str:
        scale, digits, unit = (100, 1, " %") if percent else (1, 2, "")
        return f"{scale * found['mean']:.{digits}f} ± {scale * found['deviation']:.{digits}f}{unit}"

    lines = [f"| task | {evaluate.SPLIT.value} | from scratch | pretrained | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [cell(row[start], row["what"] == "error") for start in STARTS]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {row['task']} | {row['what']} | {' | '.join(cells)} | {ratio} |")
    lines.append("")
    for name in ERRORS:
        of_it = [row for row in rows if row["what"] == name]
        halved = sum(row["ratio"] is not None and row["ratio"] <= 0.5 for row in of_it)
        lines.append(f"{name}: pretraining at least halves it on {halved} of {len(of_it)} tasks")
    count = f"mean ± standard deviation of seeds {', '.join(map(str, seeds))}"
    lines.append(f"{count}; error is the share of outputs that are not exactly the reference")
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(CONFIG.value) != 1 or len(evaluate.WORKDIR.value or [""]) != 1:
        raise UserError("command line", "a pipeline is one file and one workdir", "give CONFIG --workdir=W")
    (file,) = CONFIG.value
    plan = planned(file)
    for task in CHOSEN.value:
        if task not in plan.tasks:
            raise UserError("--tasks", f"{task!r} is no task of {file}", nearest(task, plan.tasks))
    if not SEEDS.value or not all(seed.isdecimal() for seed in SEEDS.value):
        raise UserError("--seeds", f"{','.join(SEEDS.value)!r} are no seeds", "give numbers, e.g. 0,1,2")
    seeds = list(dict.fromkeys(map(int, SEEDS.value)))
    directory = epath.Path((evaluate.WORKDIR.value or [workdir.usual(f"{file}:pipeline")])[0]).expanduser()

    tasks = list(dict.fromkeys(CHOSEN.value or plan.tasks))
    begun, records, configs = time.monotonic(), {}, stages(file, directory, plan, tasks, seeds)
    answered = {name: texts_of(spec) for name, spec in plan.writes.items() if name in configs}
    for number, (name, config) in enumerate(configs.items(), 1):
        minutes = (time.monotonic() - begun) / 60
        output.say(f"\n==== {number} of {len(configs)}: {name}, after {minutes:.1f} minutes\n")
        records[name] = run_stage(directory / name, config)
        if name in answered and not (path := directory / f"{name}.jsonl").exists():
            write(load(str(directory / name), evaluate.CHECKPOINT.value), answered[name], path)
    rows = compared(records, tasks, seeds)
    text = table(rows, seeds)
    writing.write_whole(directory / "table.md", text)
    writing.write_whole(directory / "table.json", json.dumps({"seeds": seeds, "rows": rows}, indent=2) + "\n")
    output.say(f"\n{text}\nwritten to {directory / 'table.md'} and {directory / 'table.json'}")


if __name__ == "__main__":
    program(main, positional="config")
