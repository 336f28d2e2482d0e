"""python -m lm.pipeline CONFIG [--workdir=runs/NAME] [--seeds=0,1,2] [--tasks=NAME,NAME]

Pretrains a model, fine-tunes it on each task, trains each task from scratch too, evaluates all runs, and prints one
table with the scores with and without pretraining. The table is written to `table.md` and `table.json`.

CONFIG is a Python file that defines two names. `TASKS` maps each task to the pretraining that it starts from, e.g.
{"questions": "pretrain"}. `get_config(STAGE)` returns the configuration of a task or of a pretraining; train.py accepts
the same stage as --config=CONFIG:STAGE. `optimizer.groups` of a task apply to its fine-tuning, not to training from
scratch.

Every stage is a run in the workdir. If the program is started again, stages that were evaluated are skipped, and an
interrupted stage resumes.

CONFIG may define two more names. `BEFORE` maps a pretraining to the stage that it starts from. `WRITES` maps a stage to
a source of texts, which the trained run answers by greedy decoding. The result is `NAME.jsonl` in the workdir, with the
output as source and the text as target, for back-translation (Sennrich et al., 2016). Another pretraining reads it as
`jsonl:{workdir}/NAME.jsonl`. train.py does not know the workdir of a pipeline, so it needs that file as
--config.data.train.
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
WORKDIR = flags.DEFINE_multi_string("workdir", None, "directory of all runs; default: runs/NAME-pipeline for NAME.py")
SEEDS = flags.DEFINE_list(
    "seeds", ["0", "1", "2"], "seeds of the fine-tunings; pretraining uses the seed of its configuration"
)
CHOSEN = flags.DEFINE_list("tasks", [], "tasks to run, with commas; empty: all tasks of the pipeline")
evaluation_flags.define_flags(metrics.SCORES)


def main() -> None:
    if len(CONFIG.value) != 1 or len(WORKDIR.value or [""]) != 1:
        raise UserError("command line", "needs one pipeline file and at most one workdir", "give CONFIG --workdir=W")
    (file,) = CONFIG.value
    plan = pretraining.planned(file)
    for task in CHOSEN.value:
        if task not in plan.tasks:
            raise UserError("--tasks", f"{task!r} is not a task of {file}", nearest(task, plan.tasks))
    seeds = list(dict.fromkeys(map(whole, SEEDS.value)))
    if not seeds or None in seeds:
        raise UserError("--seeds", f"{','.join(SEEDS.value)[:80]!r} is not a list of seeds", "give numbers, e.g. 0,1,2")
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
