"""python sample.py RUN [--prompt=TEXT ...] [--input_file=F] [--output_file=F] [--interactive] [--json]

Generates text from a run, or from several runs together. For a language model a prompt is the beginning of the text;
for an encoder-decoder it is the source. Without --prompt and --input_file, each line of standard input is a prompt; if
there are none, one empty prompt is used. Standard output holds nothing but the text.

A prompt from a file or from standard input gets as many lines of output as --num_samples. In such lines a line break is
written as \\n or \\r and a backslash as \\\\; --output_file has the same form. Other outputs are printed as they are.

--interactive answers line by line. If the run was trained on conversations (`data.turns`), the model reads all earlier
lines and replies. Each --prompt is then a turn with which every conversation begins; an empty line starts a new one.
"""

from absl import flags

from lm.errors import UserError
from lm.terminal import bar, decoding_flags, output, prompts
from lm.terminal.program import program

MANY = "a run's directory; several: the mean of their probabilities (they share one tokenizer)"
WORKDIR = flags.DEFINE_multi_string("workdir", None, MANY)
STEPS = "best (by validation loss), latest, a step, or mean:N, the mean of the last N"
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", STEPS)
PROMPT = flags.DEFINE_multi_string("prompt", [], "a prompt; may be repeated")
INPUT_FILE = flags.DEFINE_string("input_file", None, "a file with one prompt per line; - is standard input")
KEPT = "a file for the output; if it exists, the same command resumes after its last complete line"
OUTPUT_FILE = flags.DEFINE_string("output_file", None, KEPT)
INTERACTIVE = flags.DEFINE_bool("interactive", False, "answer standard input line by line; keep the conversation")
JSON = flags.DEFINE_bool("json", False, "one JSON object per line: prompt, output, log_probability (nats), ...")
decoding_flags.define_flags()


def answer_all(runs, given: list[str], how, shown, file) -> None:
    """Prints the outputs of all prompts in order, or writes those that the file lacks."""
    from lm.runs.run import generate_in_order

    done = file.done if file else 0
    if done:
        output.note(f"{file.path} already holds the outputs of {done:,} of {len(given):,} prompts")
    found = bar.counted(generate_in_order(runs, given, how, done), len(given), "prompt", done)
    for prompt, outputs in zip(given[done:], found, strict=True):
        lines = shown.lines(prompt, outputs)
        file.write(lines) if file else output.say("\n".join(lines))


def main() -> None:
    from lm.runs import conversation, transcript  # imported late, so that --help and mistakes answer at once
    from lm.runs.run import generate_together, load

    for name in ("input_file", "output_file"):
        if INTERACTIVE.value and flags.FLAGS[name].value:
            raise UserError("--interactive", "reads standard input and answers at once", f"leave out --{name}")
    runs = [load(directory, CHECKPOINT.value) for directory in WORKDIR.value]
    if INTERACTIVE.value and PROMPT.value and not runs[0].config.data.turns:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --prompt")
    how = decoding_flags.from_flags(runs[0].config.data.task)
    given = prompts.read(PROMPT.value, INPUT_FILE.value) if PROMPT.value or not INTERACTIVE.value else []
    by_line = prompts.by_line(PROMPT.value, INPUT_FILE.value, INTERACTIVE.value, given) or bool(OUTPUT_FILE.value)
    given = given if given or INTERACTIVE.value or INPUT_FILE.value else [""]
    shown = transcript.Transcript(how, JSON.value, by_line, not runs[0].model.has_encoder)
    generate_together(runs, [], how)  # without prompts it only checks that the runs and options fit
    file = transcript.opened(OUTPUT_FILE.value, runs, given, how, JSON.value) if OUTPUT_FILE.value else None
    for directory, run in zip(WORKDIR.value, runs, strict=True):
        output.note(f"{directory}, step {run.step}")
    try:
        if INTERACTIVE.value:
            for lines in conversation.replies(runs, how, shown, given, prompts.next_line):
                output.say("\n".join(lines))
        else:
            answer_all(runs, given, how, shown, file)
    finally:  # also after a signal, about the outputs printed so far
        output.note("\n".join(shown.remarks())) if shown.remarks() else None


def start() -> None:
    program(main, required=("workdir",), positional="workdir")


if __name__ == "__main__":
    start()
