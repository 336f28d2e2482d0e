"""python -m lm.score W [--text=TEXT ... | --input_file=F | --data=SOURCE] [--json]
    [--checkpoint=best|latest|STEP|mean:N]

Prints the log-probability of each text under a run, one line per text, in the order of the input. Without --text,
--input_file and --data, the texts are the lines of standard input. If the run's task has sources, a text is
SOURCE<TAB>TARGET, and its log-probability is that of the target given the source.

A line of output has five numbers with tabs between them: the log-probability in nats, the number of tokens, the number
of bytes, and how many of the tokens and of the bytes are unknown to the tokenizer. Sums are printed on standard error.

With --json a line is an object with these numbers by name. If answers are texts, it also has `spelled_log_probability`,
in which unknown tokens are spelled out: each byte and the end of each unknown token cost log 257 nats. If the run
cannot give an answer, its log-probability is -inf, which is null in JSON.
"""

import sys

from absl import flags

from lm.data.read import examples
from lm.errors import UserError
from lm.terminal import texts
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "directory of the run")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, a step, or mean:N (mean of the last N checkpoints)"
)
TEXT = flags.DEFINE_multi_string("text", [], "text, or SOURCE<TAB>TARGET; may be given several times")
INPUT_FILE = flags.DEFINE_string("input_file", "", "file with a text or a pair on each line; - is standard input")
DATA = flags.DEFINE_string("data", "", "source, e.g. tsv:new.tsv, in the formats of the run's configuration")
JSON = flags.DEFINE_bool("json", False, "print one JSON object per line")
CHUNK = 512, 2**20  # most texts, and about as many characters, that are scored and printed together


def main() -> None:
    given = [flag for flag in (TEXT, INPUT_FILE, DATA) if flag.value]
    if len(given) > 1:
        raise UserError(f"--{given[1].name}", f"is given with --{given[0].name}", "leave one of them out")
    if len(WORKDIR.value) > 1:
        raise UserError("--workdir", f"is given {len(WORKDIR.value)} times", "give one run")
    from lm.answers.contract import Score  # after the flags, so that --help and errors in flags are fast
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
