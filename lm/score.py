"""python -m lm.score W [--text=TEXT ... | --input_file=F | --data=SOURCE] [--checkpoint=best|latest|STEP|mean:N] [--json]

Prints the log-probability of each given text under a run, one line each, in the order of the input. Without --text, --input_file
and --data, the texts are the lines of standard input. Where the run has a source, a line is SOURCE<TAB>TARGET, and the
log-probability is that of the target given its source.

A line of output has the log-probability in nats, the tokens and bytes that it is of, and how many of the tokens and bytes are
unknown to the tokenizer, with tabs between them. --json prints an object with these names, and `spelled_log_probability`, in
which each unknown token is spelled out: each of its bytes and its end cost log 257 nats. A log-probability of -inf, an answer
that the run cannot give, is null there. Standard error has the sums.
"""

import sys

from absl import flags

from lm.data.read import examples
from lm.errors import UserError
from lm.terminal import texts
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "the run's directory")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, a step, or mean:N of the last N"
)
TEXT = flags.DEFINE_multi_string("text", [], "a text, or SOURCE<TAB>TARGET; may be given many times")
INPUT_FILE = flags.DEFINE_string("input_file", "", "a file with a text or a pair on each line; - is standard input")
DATA = flags.DEFINE_string("data", "", "a source, e.g. tsv:new.tsv, which is read as the run reads its own data")
JSON = flags.DEFINE_bool("json", False, "one JSON object a line")
CHUNK = 512, 2**20  # texts, and characters of them, that are read, scored and printed together


def main() -> None:
    given = [flag for flag in (TEXT, INPUT_FILE, DATA) if flag.value]
    if len(given) > 1:
        raise UserError(f"--{given[1].name}", f"is given with --{given[0].name}", "leave one of them out")
    if len(WORKDIR.value) > 1:
        raise UserError("--workdir", f"is given {len(WORKDIR.value)} times", "give one run")
    from lm.answers.contract import Score  # after the flags, so that --help and mistakes answer at once
    from lm.evaluation import scoring, summary
    from lm.runs.run import load

    run = load(WORKDIR.value[0], CHECKPOINT.value)
    print(f"{WORKDIR.value[0]}, step {run.step}", file=sys.stderr)
    if DATA.value:
        items = examples.whole_texts(scoring.split_of(run, scoring.DATA, DATA.value).examples)
    else:
        items = texts.read(TEXT.value, INPUT_FILE.value, run.model.has_encoder)
    count, total, spells = 0, Score(0.0, 0, 0), run.answer.among == "texts"
    for chunk in texts.chunks(items, *CHUNK):
        scores = run.score(chunk)
        print("\n".join(summary.score_line(score, JSON.value, spells) for score in scores), flush=True)
        count, total = count + len(scores), Score(*map(sum, zip(total, *scores, strict=True)))
    print(summary.of_scores(count, total, spells), file=sys.stderr)


if __name__ == "__main__":
    program(main, required=("workdir",), positional="workdir")
