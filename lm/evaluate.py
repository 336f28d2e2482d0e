"""python -m lm.evaluate --workdir=W [--split=test | --data=SOURCE] [--checkpoint=best|latest|STEP|mean:N]

Evaluates a run on a split of its data, or on any source in the formats of its configuration. Prints a table of scores,
each with its 95 % interval and the kind of the interval. Writes them with all outputs to
`W/evaluations/SPLIT-STEP.json`, or for a source to `W/evaluations/data-NAME-FINGERPRINT-STEP.json`.

The decoding flags of sample.py are available here too. An evaluation with other than the default flags has a file of
its own.

python -m lm.evaluate A B compares two runs on the same data. The table has the scores of both, the difference B - A
with its interval, and p-values of the paired bootstrap and of approximate randomization. Scores whose signatures differ
are marked, as they are not comparable.

If the tokenizer does not know a token of a target, the likelihood is that of another text, in which UNK may be any
word. The table has the number of unknown tokens. `bits_per_byte_spelled` includes the cost of spelling them out: each
byte and the end of each unknown token cost log 257 nats.
"""

from absl import flags

from lm.errors import UserError
from lm.evaluation import metrics, record, scoring, summary
from lm.runs.run import load
from lm.terminal import evaluation_flags, output
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "directory of the run; give two to compare them")
DATA = flags.DEFINE_string("data", "", "source to evaluate instead of a split, e.g. tsv:new.tsv")
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
