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

import json

from absl import flags
from etils import epath

from lm.errors import UserError, nearest
from lm.evaluation import metrics
from lm.evaluation.scoring import Asked
from lm.lab import pretraining, tables
from lm.numbers import whole
from lm.runs import workdir, writing
from lm.terminal import evaluation_flags, output
from lm.terminal.program import program

CONFIG = flags.DEFINE_multi_string("config", [], "the pipeline, a Python file")
WORKDIR = flags.DEFINE_multi_string("workdir", None, "the folder of all runs; default runs/NAME-pipeline of NAME.py")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "of the fine-tunings; pretraining has that of its configuration")
CHOSEN = flags.DEFINE_list("tasks", [], "tasks of the pipeline that are run; empty: all")
evaluation_flags.define_flags(metrics.SCORES)  # of the evaluations


def main() -> None:
    if len(CONFIG.value) != 1 or len(WORKDIR.value or [""]) != 1:
        raise UserError("command line", "a pipeline is one file and one workdir", "give CONFIG --workdir=W")
    (file,) = CONFIG.value
    plan = pretraining.planned(file)
    for task in CHOSEN.value:
        if task not in plan.tasks:
            raise UserError("--tasks", f"{task!r} is no task of {file}", nearest(task, plan.tasks))
    seeds = list(dict.fromkeys(map(whole, SEEDS.value)))
    if not seeds or None in seeds:
        raise UserError("--seeds", f"{','.join(SEEDS.value)[:80]!r} are no seeds", "give numbers, e.g. 0,1,2")
    directory = epath.Path((WORKDIR.value or [workdir.usual(f"{file}:pipeline")])[0]).expanduser()
    tasks = list(dict.fromkeys(CHOSEN.value or plan.tasks))

    asked = Asked(**evaluation_flags.given())
    asked.check()
    configs = pretraining.stages(plan, directory, tasks, seeds)
    rows = tables.compared(pretraining.run_stages(plan, directory, configs, asked), tasks, seeds)
    text = "\n".join(tables.markdown(rows, asked.split, seeds)) + "\n"
    writing.write_whole(directory / "table.md", text)
    writing.write_whole(directory / "table.json", json.dumps({"seeds": seeds, "rows": rows}, indent=2) + "\n")
    output.say(f"\n{text}\nwritten to {directory / 'table.md'} and {directory / 'table.json'}")


if __name__ == "__main__":
    program(main, positional="config", outlives=True)
