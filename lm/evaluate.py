"""python -m lm.evaluate --workdir=W [--split=test] [--checkpoint=best|latest|STEP|mean:N]: scores a split of a run's data.

Prints a table, each figure with its 95 % interval, and writes `W/evaluations/SPLIT-STEP.json`.

The flags of sample.py for decoding hold here too; an evaluation with other than the usual ones has a file of its own.

python -m lm.evaluate A B compares two runs on the same data: beside both, what B has more than A, with its interval, and
p by the paired bootstrap and by approximate randomisation. Figures whose signatures differ are marked.
"""

from absl import flags

from lm.errors import UserError
from lm.evaluation import metrics, record, scoring, summary
from lm.runs.run import load
from lm.terminal import evaluation_flags, output
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "the run's directory; two are compared")
evaluation_flags.define_flags(metrics.SCORES)


def main() -> None:
    asked = scoring.Asked(**evaluation_flags.given())
    asked.check()
    if len(WORKDIR.value) > 2:
        raise UserError("--workdir", f"is given {len(WORKDIR.value)} times", "give one run, or two to compare")
    runs = [load(directory, asked.checkpoint) for directory in WORKDIR.value]
    for run in runs:
        asked.check_task(run.config.data.task)
        record.require_writable(run)
    scoring.same_data(runs, asked.split)
    both = [scoring.evaluate_asked(run, asked) for run in runs]
    for run, found in zip(runs, both, strict=True):
        path = record.write(run, found, asked)
        output.say("\n".join([*summary.lines(run, found, asked.split), f"{'written to':<24} {path}"]))
        output.say("") if len(runs) > 1 else None
    if len(runs) == 2:
        output.say("\n".join(summary.comparison(runs, both)))


if __name__ == "__main__":
    program(main, required=("workdir",), positional="workdir")
