"""Pretraining as an experiment: the stages that tasks need, and their runs.

The plan is a Python file. Its `TASKS` names the pretraining that each task starts from. `BEFORE` names the stage that a
pretraining starts from. `WRITES` names, for a stage, a source of texts that its run answers.
"""

import dataclasses
import itertools
import json
import re
import time
from collections.abc import Iterable
from typing import Any

import jax
from etils import epath

from lm import config as configuration
from lm.config import Config, changed
from lm.data.read.examples import blank
from lm.data.read.sources import load_splits
from lm.errors import UserError, nearest
from lm.evaluation import record, scoring, summary
from lm.evaluation.scoring import Asked
from lm.runs import workdir, writing
from lm.runs.run import Run, load
from lm.search.options import Options
from lm.terminal import output
from lm.training import loop

STARTS = ("scratch", "pretrained")
READS = re.compile(r"\{workdir\}/([^/|]+)\.jsonl")  # in a source: the file that the stage of that name writes


@dataclasses.dataclass(frozen=True)
class Plan:
    """The names of the file; stages are keys and values."""

    file: str
    tasks: dict[str, str]
    before: dict[str, str]
    writes: dict[str, str]


def planned(file: str) -> Plan:
    """Returns the plan of a file; raises `UserError` if its names do not map texts to texts."""
    found = configuration.defined(file)
    named = {name: found.get(name, {}) for name in ("TASKS", "BEFORE", "WRITES")}
    for name, value in named.items():
        if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
            raise UserError(file, f"{name} is no dict of texts", 'write e.g. {"questions": "pretrain"}')
    if not named["TASKS"]:
        raise UserError(
            file, "has no TASKS that name what each starts from", 'give e.g. TASKS = {"questions": "pretrain"}'
        )
    return Plan(file, *named.values())


def _pretrainings(plan: Plan, directory: epath.Path, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the pretrainings that the tasks need, each after those that it depends on, with the fields that differ.

    Raises:
        UserError: one depends on itself, or reads a file that no stage writes.
    """
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, *waiting: str) -> None:
        if name in waiting:
            reason = f"{name!r} starts from itself, or reads what comes of it"
            raise UserError(plan.file, reason, "take that out of BEFORE or WRITES")
        if name in found:
            return
        source = configuration.from_file(f"{plan.file}:{name}").data.train
        needed = READS.findall(source)
        for other in needed:
            if other not in plan.writes:
                reason = f"{name!r} reads what {other!r} wrote, which is none of WRITES"
                raise UserError(plan.file, reason, nearest(other, plan.writes))
        place = re.sub(r"(?<=\s)([|+])(?=\s)", r"\\\1", str(directory))  # these separate the parts of a source
        changes = {"data.train": source.replace("{workdir}", place)}
        if before := plan.before.get(name):
            changes["training.init_from"] = str(directory / before)
            needed.append(before)
        for other in needed:
            add(other, name, *waiting)
        found[name] = changes

    for task in tasks:
        add(plan.tasks[task])
    return found


def _scratch(pretrained: epath.Path) -> dict[str, Any]:
    """Returns the fields that differ without pretraining: none but those about the learned parameters."""
    return {
        "training.init_params": (),
        "training.init_mismatch": "refuse",
        "optimizer.groups": (),
        "model.lora_rank": 0,
        "data.tokenizer.kind": str(pretrained / "tokenizer" / "tokenizer.json"),
        "data.tokenizer.vocab_size": 0,
        "data.tokenizer.normalization": "identity",
    }


def stages(plan: Plan, directory: epath.Path, tasks: list[str], seeds: list[int]) -> dict[str, Config]:
    """Returns the configuration of each run by its name in `directory`: first the pretrainings, then the tasks.

    A broken rule in any of them is found here, before hours of pretraining.
    """
    known = _pretrainings(plan, directory, plan.tasks)
    for name in (*plan.before, *plan.writes):
        if name not in known:
            reason = f"{name!r} of BEFORE or WRITES is nothing that a task needs"
            raise UserError(plan.file, reason, nearest(name, known))
    # For each run, by name: its stage in the file, and the fields that differ from it.
    given = {name: (name, changes) for name, changes in _pretrainings(plan, directory, tasks).items()}
    for task, seed, start in itertools.product(tasks, seeds, STARTS):
        pretrained = directory / plan.tasks[task]
        begun = {"training.init_from": str(pretrained)} if start == "pretrained" else _scratch(pretrained)
        given[f"{task}-{start}-{seed}"] = task, {"seed": seed, **begun}
    found = {}
    for name, (stage, changes) in given.items():
        config = configuration.from_file(f"{plan.file}:{stage}")
        try:
            found[name] = changed(config, changes)
        except UserError as error:
            raise UserError(f"{plan.file}, {name}: {error.where}", error.reason, error.action) from error
        workdir.check(directory / name, found[name])
    return found


def texts_of(spec: str) -> list[str]:
    """Returns the texts that a stage answers."""
    try:
        (split,) = load_splits("", "", spec, ("test",)).values()
    except UserError as error:  # of a file, or of the field that such a source is usually in
        raise UserError(error.where.replace("config.data.test", "WRITES"), error.reason, error.action) from error
    if any(example.source is not None for example in split.examples):
        raise UserError("WRITES", f"{spec} has sources", "give texts alone, e.g. SOURCE | | {target}")
    return [example.target for example in split.examples]


def write(run: Run, texts: list[str], path: epath.Path) -> None:
    """Writes pairs of the run's greedy answer and the text; a text without an answer is left out."""
    begun = time.monotonic()
    answers = [found.output for (found,) in run.generate(texts, Options(temperature=0.0))]
    pairs = [
        {"source": answer, "target": text} for answer, text in zip(answers, texts, strict=True) if not blank(answer)
    ]
    writing.write_whole(path, "".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in pairs))
    output.say(f"{len(pairs):,} pairs written to {path} in {time.monotonic() - begun:.1f} s")


def run_stage(directory: epath.Path, config: Config, asked: Asked) -> dict[str, Any]:
    """Trains the rest of a run and evaluates it; returns the record of the evaluation."""
    if record.latest(directory, asked.split) is None:
        loop.train(config, directory)
        run = load(str(directory), asked.checkpoint)
        found = scoring.evaluate_asked(run, asked)
        path = record.write(run, found, asked)
        output.say("\n".join([*summary.lines(run, found, asked), f"{'written to':<24} {path}"]))
        jax.clear_caches()  # programs hold memory maps, of which a process has not many
    return record.latest(directory, asked.split)


def run_stages(
    plan: Plan, directory: epath.Path, configs: dict[str, Config], asked: Asked
) -> dict[str, dict[str, Any]]:
    """Runs the rest of all stages in order, and returns their records by name."""
    answered = {name: texts_of(spec) for name, spec in plan.writes.items() if name in configs}
    begun, records = time.monotonic(), {}
    for number, (name, config) in enumerate(configs.items(), 1):
        minutes = (time.monotonic() - begun) / 60
        output.say(f"\n==== {number} of {len(configs)}: {name}, after {minutes:.1f} minutes\n")
        records[name] = run_stage(directory / name, config, asked)
        if name in answered and not (path := directory / f"{name}.jsonl").exists():
            write(load(str(directory / name), asked.checkpoint), answered[name], path)
    return records
