"""python sample.py --workdir=W [--prompt=TEXT ...] [--input_file=F] [--interactive] [--json]

Generates text from a run, or from several together. For a language model a prompt is the beginning of the text, for an encoder-decoder it is the
source. Without --prompt and --input_file, prompts are the lines of standard input, or one empty prompt if there are
none. Standard output carries the text and nothing else.

--interactive answers line by line. Where the run was trained on conversations (`data.turns`), lines and replies are kept,
and the model reads all of them; each --prompt is a turn that every conversation begins with, and an empty line
begins a new one.
"""

import json
import sys

from absl import flags
from etils import epath

from lm.errors import UserError, program

WORKDIR = flags.DEFINE_multi_string(
    "workdir", None, "the run's directory; given many times, the mean of the runs' probabilities, with one tokenizer"
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step")
PROMPT = flags.DEFINE_multi_string("prompt", [], "a prompt; may be given many times")
INPUT_FILE = flags.DEFINE_string("input_file", None, "a file with a prompt on each line; - is standard input")
INTERACTIVE = flags.DEFINE_bool("interactive", False, "answer each line of standard input at once; keep conversations")
JSON = flags.DEFINE_bool("json", False, "one JSON object a line: prompt, output, log_probability (nats), ...")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "outputs for each prompt; with a beam, its n best")
MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 0, "most tokens of an output; 0: 256 for a language model, else twice the source and 32 more"
)
MIN_NEW_TOKENS = flags.DEFINE_integer("min_new_tokens", 0, "tokens before the text may end")
TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "logits are divided by it; 0 is greedy; default 1 for a language model, else 0"
)
TOP_K = flags.DEFINE_integer("top_k", 0, "draw among the k most probable tokens; 0: all")
TOP_P = flags.DEFINE_float("top_p", 1.0, "draw among the fewest tokens whose probabilities reach p; 1: all")
MIN_P = flags.DEFINE_float("min_p", 0.0, "draw among tokens at least so many times as probable as the best; 0: all")
TYPICAL_P = flags.DEFINE_float(
    "typical_p", 1.0, "draw among the fewest tokens, nearest to the expected surprise first, that reach p; 1: all"
)
REPETITION_PENALTY = flags.DEFINE_float(
    "repetition_penalty", 1.0, "what a token's logit is divided by (if negative: times) once it was generated; 1: none"
)
NO_REPEAT_NGRAM = flags.DEFINE_integer("no_repeat_ngram", 0, "n: the output has no n tokens twice; 0: it may")
BAN = flags.DEFINE_multi_string("ban", [], "a string that no output holds, however it is cut; may be given many times")
FORCE = flags.DEFINE_multi_string("force", [], "beam: a string that the output holds; may be given many times")
GREEDY = flags.DEFINE_bool("greedy", False, "always the most probable token")
MBR_SAMPLES = flags.DEFINE_integer(
    "mbr_samples", 0, "draw so many outputs, give the one most like all of them (chrF, minimum Bayes risk); 0: none"
)
BEAM_SIZE = flags.DEFINE_integer("beam_size", 0, "beam search with so many beams; 0: none")
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 0.0, "of the beam's scores; 0 ranks by log-probability")
COVERAGE_PENALTY = flags.DEFINE_float(
    "coverage_penalty", 0.0, "beam, with attention: weight of the sources that got less attention than 1 in all"
)
BEAM_GROUPS = flags.DEFINE_integer("beam_groups", 1, "diverse beam search: groups that share --beam_size")
DIVERSITY_PENALTY = flags.DEFINE_float(
    "diversity_penalty", 0.0, "nats that a token costs for each group before that took it at this step"
)
SEED = flags.DEFINE_integer("seed", 0, "of what is drawn; the same seed and prompt give the same text")
# What a task that chooses its output has no use for.
HOW = (
    "max_new_tokens min_new_tokens temperature top_k top_p min_p typical_p repetition_penalty no_repeat_ngram ban force "
    "greedy mbr_samples beam_size length_penalty coverage_penalty beam_groups diversity_penalty seed"
).split()


def options(task: str):
    """The flags as `generation.Options`; raises `UserError` where two of them contradict each other."""
    from lm.generation import Options
    from lm.tasks import TASKS

    if TASKS[task].chooses:
        unused = [f"--{name}" for name in HOW if flags.FLAGS[name].value != flags.FLAGS[name].default]
        if unused:
            raise UserError(unused[0], f"the task {task} {TASKS[task].chooses}", "leave it out")
        return Options(num_samples=NUM_SAMPLES.value)
    has_encoder = TASKS[task].has_source

    filters = (TOP_K, TOP_P, MIN_P, TYPICAL_P, MBR_SAMPLES)
    drawing = TEMPERATURE.value is not None or any(flag.value != flag.default for flag in filters)
    if GREEDY.value and (drawing or BEAM_SIZE.value):
        raise UserError("--greedy", "contradicts the other flags for drawing or beams", "give one of them")
    if BEAM_SIZE.value and drawing:
        raise UserError("--beam_size", "contradicts the flags for drawing", "give one of them")
    temperature = TEMPERATURE.value
    if temperature is None:
        temperature = 0.0 if GREEDY.value or (has_encoder and not drawing) else 1.0
    return Options(
        num_samples=NUM_SAMPLES.value,
        max_new_tokens=MAX_NEW_TOKENS.value,
        min_new_tokens=MIN_NEW_TOKENS.value,
        temperature=temperature,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        typical_p=TYPICAL_P.value,
        repetition_penalty=REPETITION_PENALTY.value,
        no_repeat_ngram=NO_REPEAT_NGRAM.value,
        ban=tuple(BAN.value),
        force=tuple(FORCE.value),
        beam_size=BEAM_SIZE.value,
        length_penalty=LENGTH_PENALTY.value,
        coverage_penalty=COVERAGE_PENALTY.value,
        beam_groups=BEAM_GROUPS.value,
        diversity_penalty=DIVERSITY_PENALTY.value,
        mbr_samples=MBR_SAMPLES.value,
        seed=SEED.value,
    )


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
    from lm.run import generate_together

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
    from lm.run import generate_together, load

    if INTERACTIVE.value and INPUT_FILE.value:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --input_file")
    runs = [load(directory, CHECKPOINT.value) for directory in WORKDIR.value]
    keeps = bool(runs[0].config.data.turns)
    if INTERACTIVE.value and PROMPT.value and not keeps:
        raise UserError("--interactive", "reads prompts from standard input", "leave out --prompt")
    how = options(runs[0].config.data.task)
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
