"""python sample.py --workdir=W [--prompt=TEXT ...] [--input_file=F] [--interactive] [--json]

Generates text from a run, or from several together. For a language model a prompt is the beginning of the text, for an
encoder-decoder it is the source. Without --prompt and --input_file, prompts are the lines of standard input, or one empty
prompt if there are none. Standard output carries the text and nothing else.

--interactive answers line by line. Where the run was trained on conversations (`data.turns`), lines and replies are kept,
and the model reads all of them; each --prompt is a turn that every conversation begins with, and an empty line
begins a new one.
"""

import json
import sys

from absl import flags

from lm.errors import UserError
from lm.terminal import decoding_flags, prompts
from lm.terminal.program import program

MANY = "the run's directory; given many times, the mean of the runs' probabilities, with one tokenizer"
WORKDIR = flags.DEFINE_multi_string("workdir", None, MANY)
STEPS = "best (by validation loss), latest, a step, or mean:N of the last N"
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", STEPS)
PROMPT = flags.DEFINE_multi_string("prompt", [], "a prompt; may be given many times")
INPUT_FILE = flags.DEFINE_string("input_file", None, "a file with a prompt on each line; - is standard input")
INTERACTIVE = flags.DEFINE_bool("interactive", False, "answer each line of standard input at once; keep conversations")
JSON = flags.DEFINE_bool("json", False, "one JSON object a line: prompt, output, log_probability (nats), ...")
decoding_flags.define_flags()
SHOWN = ("prompt", "output", "log_probability", "tokens", "ended")


def show(runs, given: list[str], how) -> list:
    """Generates and prints, in the order of the prompts; returns what was generated."""
    from lm.runs.run import generate_together

    found = generate_together(runs, given, how)
    for one in [one for outputs in found for one in outputs]:
        text = one.output if runs[0].model.has_encoder else one.prompt + one.output
        print(json.dumps({name: getattr(one, name) for name in SHOWN}, ensure_ascii=False) if JSON.value else text)
        sys.stdout.flush()
    return found


def converse(runs, how) -> None:
    """Replies to each line: with all that was said, where the run keeps conversations; an empty line begins a new one."""
    keeps = bool(runs[0].config.data.turns)
    opening = prompts.read(PROMPT.value, None) if PROMPT.value else []
    said = [*opening]
    while (line := prompts.next_line()) is not None:
        if not keeps:
            show(runs, [line], how)
        elif not line:
            said = [*opening]
            print("a new conversation", file=sys.stderr)
        else:
            said.append(line)
            ((first, *_),) = show(runs, [runs[0].conversation(said)], how)
            said.append(first.output)


def main() -> None:
    from lm.runs.run import generate_together, load  # after the flags, so that --help and mistakes answer at once

    if INTERACTIVE.value and INPUT_FILE.value:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --input_file")
    runs = [load(directory, CHECKPOINT.value) for directory in WORKDIR.value]
    if INTERACTIVE.value and PROMPT.value and not runs[0].config.data.turns:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --prompt")
    how = decoding_flags.from_flags(runs[0].config.data.task)
    given = [] if INTERACTIVE.value else prompts.read(PROMPT.value, INPUT_FILE.value) or [""]
    generate_together(runs, [], how)  # without prompts it only says what does not fit
    for directory, run in zip(WORKDIR.value, runs, strict=True):
        print(f"{directory}, step {run.step}", file=sys.stderr)
    converse(runs, how) if INTERACTIVE.value else show(runs, given, how)


if __name__ == "__main__":
    program(main, required=("workdir",))
