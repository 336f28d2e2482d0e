"""python -m lm.evaluate --workdir=W [--split=test] [--checkpoint=best|latest|STEP]: scores a split of a run's data.

Prints a table and writes `W/evaluations/SPLIT-STEP.json`.
"""

import json

import jax
import sacrebleu
from absl import flags

from lm import console, workdir
from lm.data import pipeline
from lm.errors import UserError, nearest, program
from lm.evaluation import Evaluator
from lm.generation import Options
from lm.parallel import Devices
from lm.run import Run, load
from lm.tasks import TASKS

WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test, as the run's configuration names them")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step")
LOWERCASE = flags.DEFINE_bool("lowercase", False, "BLEU and chrF of lower-cased text")
TOKENIZE = flags.DEFINE_string("bleu_tokenize", "", "sacrebleu's tokenizer for BLEU; empty: zh for Chinese, else 13a")
BEAM_SIZE = flags.DEFINE_integer("beam_size", 0, "beam search with so many beams; 0: greedy")
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 0.0, "of the beam's scores; 0 ranks by log-probability")


def evaluate(
    run: Run, split: str, options: Options, lowercase: bool = False, tokenize: str = ""
) -> tuple[dict[str, object], list[dict[str, str]]]:
    """The figures of a split, and each example's source, reference and output where the task generates."""
    names = ("train", "validation", *(("test",) if run.config.data.test else ()))
    if split not in names:
        raise UserError("--split", f"the run has no {split!r} data", nearest(split, names))
    loaded = pipeline.load_splits(run.config.data, (split,))[split]
    workdir.check_unchanged(run.workdir, {split: loaded.fingerprint})
    devices = Devices(jax.local_devices())
    encoded = pipeline.encode(loaded, run.tokenizer, run.config.data, run.config.seed)
    evaluator = Evaluator(run.model, run.tokenizer, run.config, devices, encoded)
    figures = evaluator.figures(*evaluator.losses(devices.replicate(run.params)))
    outputs = []
    if TASKS[run.config.data.task].scores:
        generations = evaluator.generate(run.params, None, options)
        figures |= evaluator.scored(generations, lowercase, tokenize)
        outputs = [
            {"source": example.source, "reference": example.target, "output": one.output}
            for example, one in zip(loaded.examples, generations, strict=True)
        ]
    return figures, outputs


def main() -> None:
    if TOKENIZE.value and TOKENIZE.value not in sacrebleu.BLEU.TOKENIZERS:
        mend = nearest(TOKENIZE.value, sacrebleu.BLEU.TOKENIZERS)
        raise UserError("--bleu_tokenize", f"{TOKENIZE.value!r} is unknown", mend)
    run = load(WORKDIR.value, CHECKPOINT.value)
    options = Options(temperature=0, beam_size=BEAM_SIZE.value, length_penalty=LENGTH_PENALTY.value)
    figures, outputs = evaluate(run, SPLIT.value, options, LOWERCASE.value, TOKENIZE.value)
    # Other options than the usual ones have a file of their own.
    unusual = [flag for flag in (BEAM_SIZE, LENGTH_PENALTY, LOWERCASE, TOKENIZE) if flag.value != flag.default]
    name = "-".join([SPLIT.value, str(run.step), *(f"{flag.name}={flag.value}" for flag in unusual)])
    path = run.workdir / "evaluations" / f"{name}.json"
    decoding = {"beam_size": options.beam_size, "length_penalty": options.length_penalty}
    record = {"split": SPLIT.value, "step": run.step, **figures, "decoding": decoding if outputs else {}}
    workdir.write_whole(path, json.dumps(record | {"outputs": outputs}, indent=2, ensure_ascii=False) + "\n")
    for name, value in record.items():
        if value != {}:
            console.say(f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}")
    console.say(f"{'written to':<24} {path}")


if __name__ == "__main__":
    program(main, required=("workdir",))
