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
from etils import epath

from lm.errors import UserError
from lm.terminal import decoding_flags
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string(
    "workdir", None, "the run's directory; given many times, the mean of the runs' probabilities, with one tokenizer"
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, a step, or mean:N of the last N"
)
PROMPT = flags.DEFINE_multi_string("prompt", [], "a prompt; may be given many times")
INPUT_FILE = flags.DEFINE_string("input_file", None, "a file with a prompt on each line; - is standard input")
INTERACTIVE = flags.DEFINE_bool("interactive", False, "answer each line of standard input at once; keep conversations")
JSON = flags.DEFINE_bool("json", False, "one JSON object a line: prompt, output, log_probability (nats), ...")
decoding_flags.define_flags()


def prompts() -> list[str]:
    """All prompts, from the flags, the file and standard input in this order."""
    for prompt in PROMPT.value:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError("--prompt", "is not UTF-8", "give it in a file: --input_file")
    if INPUT_FILE.value is None:
        if PROMPT.value:
            return PROMPT.value
        return [] if sys.stdin is None or sys.stdin.isatty() else lines(sys.stdin.buffer.read(), "standard input")
    if INPUT_FILE.value == "-":
        return PROMPT.value + lines(sys.stdin.buffer.read(), "standard input")
    return PROMPT.value + lines(epath.Path(INPUT_FILE.value).read_bytes(), INPUT_FILE.value)


def lines(content: bytes, where: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}:{line}", f"is not UTF-8 (byte {error.start})", "convert it to UTF-8") from None
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def show(runs, prompt_list: list[str], how) -> list:
    """Generates and prints, in the order of the prompts; returns what was generated."""
    from lm.runs.run import generate_together

    found = generate_together(runs, prompt_list, how)
    for outputs in found:
        for one in outputs:
            if JSON.value:
                fields = {
                    "prompt": one.prompt,
                    "output": one.output,
                    "log_probability": one.log_probability,
                    "tokens": one.tokens,
                    "ended": one.ended,
                }
                print(json.dumps(fields, ensure_ascii=False), flush=True)
            else:
                print(one.output if runs[0].model.has_encoder else one.prompt + one.output, flush=True)
    return found


def asked() -> str | None:
    """The next line of standard input; None at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.buffer.readline()
    return (lines(line, "standard input") or [""])[0] if line else None


def converse(runs, how) -> None:
    """Replies to each line, with all that was said; an empty line begins a new conversation."""
    opening = prompts() if PROMPT.value else []
    said = [*opening]
    while (line := asked()) is not None:
        if not line:
            said = [*opening]
            print("a new conversation", file=sys.stderr)
            continue
        said.append(line)
        ((first, *_),) = show(runs, [runs[0].conversation(said)], how)
        said.append(first.output)


def main() -> None:
    from lm.runs.run import generate_together, load

    if INTERACTIVE.value and INPUT_FILE.value:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --input_file")
    runs = [load(directory, CHECKPOINT.value) for directory in WORKDIR.value]
    keeps = bool(runs[0].config.data.turns)
    if INTERACTIVE.value and PROMPT.value and not keeps:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --prompt")
    how = decoding_flags.from_flags(runs[0].config.data.task)
    given = [] if INTERACTIVE.value else prompts() or [""]
    generate_together(runs, [], how)  # without prompts it only says what does not fit
    for directory, run in zip(WORKDIR.value, runs, strict=True):
        print(f"{directory}, step {run.step}", file=sys.stderr)
    if not INTERACTIVE.value:
        show(runs, given, how)
        return
    if keeps:
        converse(runs, how)
        return
    while (line := asked()) is not None:
        show(runs, [line], how)


if __name__ == "__main__":
    program(main, required=("workdir",))
