"""python -m lm.evaluate --workdir=W [--split=test | --data=SOURCE] [--checkpoint=best|latest|STEP|mean:N]

Scores a split of a run's data, or any source, which is read as the run reads its own data. Prints a table, each figure with its
95 % interval and the interval's kind, and writes `W/evaluations/SPLIT-STEP.json`, or `data-NAME-FINGERPRINT-STEP.json` of a source.

The flags of sample.py for decoding hold here too; an evaluation with other than the usual ones has a file of its own.

python -m lm.evaluate A B compares two runs on the same data: beside both, what B has more than A, with its interval, and
p by the paired bootstrap and by approximate randomisation. Figures whose signatures differ are marked.

A likelihood of targets in which tokens are unknown is one of other texts: UNK stands for any word. How many are unknown is said,
and `bits_per_byte_spelled` has the cost of spelling them out, byte by byte, each byte and the end of each token log 257 nats.
"""

from absl import flags

from lm.errors import UserError
from lm.evaluation import metrics, record, scoring, summary
from lm.runs.run import load
from lm.terminal import evaluation_flags, output
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "the run's directory; two are compared")
DATA = flags.DEFINE_string("data", "", "a source that is scored instead of a split, e.g. tsv:new.tsv")
evaluation_flags.define_flags(metrics.SCORES)


def main() -> None:
    if DATA.value and flags.FLAGS["split"].present:
        raise UserError("--split", "is given with --data", "leave one of them out")
    asked = scoring.Asked(**evaluation_flags.given(), data=DATA.value)
    asked.check()
    if len(WORKDIR.value) > 2:
        raise UserError("--workdir", f"is given {len(WORKDIR.value)} times", "give one run, or two to compare")
    runs = [load(directory, asked.checkpoint) for directory in WORKDIR.value]
    for run in runs:
        asked.check_task(run.config.data.task)
        record.require_writable(run)
    scoring.same_data(runs, asked)
    both = [scoring.evaluate_asked(run, asked) for run in runs]
    paths = [record.write(run, found, asked) for run, found in zip(runs, both, strict=True)]
    for run, found, path in zip(runs, both, paths, strict=True):
        output.say("\n".join([*summary.lines(run, found, asked), f"{'written to':<24} {path}"]))
        output.say("") if len(runs) > 1 else None
    if len(runs) == 2:
        output.say("\n".join(summary.comparison(runs, both)))


if __name__ == "__main__":
    program(main, required=("workdir",), positional="workdir")
