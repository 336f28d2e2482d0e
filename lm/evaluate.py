"""python -m lm.evaluate --workdir=W [--split=test] [--checkpoint=best|latest|STEP|mean:N]: scores a split of a run's data.

Prints a table, each figure with its 95 % interval, and writes `W/evaluations/SPLIT-STEP.json`.

The flags of sample.py for decoding hold here too; an evaluation with other than the usual ones has a file of its own.

python -m lm.evaluate A B compares two runs on the same data: beside both, what B has more than A, with its interval, and
p by the paired bootstrap and by approximate randomisation. Figures whose signatures differ are marked.
"""

import json
import zlib
from typing import Any, NamedTuple

import jax
import sacrebleu
from absl import flags

from lm.answers.ranking import check_labels
from lm.config.tasks import TASKS
from lm.data import encoding, splits
from lm.data.read.sources import Split
from lm.devices.mesh import Devices
from lm.errors import UserError, nearest
from lm.evaluation import metrics, signature, statistics
from lm.evaluation.evaluator import Evaluator
from lm.evaluation.statistics import Metric
from lm.runs import manifest, writing
from lm.runs.run import Run, load
from lm.search.options import Options
from lm.terminal import decoding_flags, output
from lm.terminal.program import program

WORKDIR = flags.DEFINE_multi_string("workdir", None, "the run's directory; two are compared")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test, as the run's configuration names them")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, a step, or mean:N of the last N"
)
SCORES = flags.DEFINE_list(
    "scores", [], f"what generated text is scored by, of {', '.join(metrics.SCORES)}; empty: what the task says"
)
LOWERCASE = flags.DEFINE_bool("lowercase", False, "BLEU, chrF and TER of lower-cased text")
TOKENIZE = flags.DEFINE_string("bleu_tokenize", "", "sacrebleu's tokenizer for BLEU; empty: zh for Chinese, else 13a")
decoding_flags.define_flags("num_samples")


class Evaluation(NamedTuple):
    """Of a run on a split."""

    figures: dict[str, Any]  # and signatures: NAME_signature; of a mixture `parts`: those of each source
    measured: dict[str, Metric]  # the figures that have an interval
    outputs: list[dict[str, str]]  # of each example its source, reference and output, where the task generates


def split_of(run: Run, split: str) -> Split:
    """The examples, which are those that the run was started with; raises `UserError` where it names no such split."""
    names = ("train", "validation", *(("test",) if run.config.data.test else ()))
    if split not in names:
        raise UserError("--split", f"the run has no {split!r} data", nearest(split, names))
    loaded = splits.load_splits(run.config.data, (split,))[split]
    manifest.check_unchanged(run.workdir, {split: loaded.fingerprint})
    return loaded


def evaluate(
    run: Run, split: str, how: Options, lowercase: bool = False, tokenize: str = "", scores: tuple[str, ...] = ()
) -> Evaluation:
    """Loss of the whole split, and its outputs' `scores` (none: the task's)."""
    task = TASKS[run.config.data.task]
    if scores and not task.scores:
        raise UserError("--scores", f"the task {run.config.data.task} has no outputs to score", "leave it out")
    loaded = split_of(run, split)
    devices = Devices(jax.local_devices())
    encoded = encoding.encode(loaded, run.tokenizer, run.config.data, run.config.seed)
    if run.labels:
        check_labels(loaded, run.labels)
    evaluator = Evaluator(run.answer, run.config, devices, encoded)
    measured = evaluator.likelihoods(devices.replicate(run.params))
    sums = measured["loss"].stats_ns.sum(axis=0)
    figures = evaluator.figures(*sums)
    for name, unit in (("loss", "token"), ("perplexity", "token"), ("bits_per_byte", "byte")):
        known = (unit, run.tokenizer, split, loaded.fingerprint, run.weights)
        measured[name] = measured[name]._replace(signature=signature.signature(run.config, *known))
    outputs = []
    if task.scores:
        if run.labels:
            generations, calibrated = evaluator.classes(run.params)
            measured |= calibrated
        else:
            generations = evaluator.generate(run.params, None, how)
        texts = [one.output for one in generations], [example.target for example in loaded.examples]
        measured |= metrics.measure(scores or task.scores, *texts, lowercase, tokenize)
        figures["generated"] = len(generations)
        outputs = [
            {"source": example.source, "reference": example.target, "output": one.output}
            for example, one in zip(loaded.examples, generations, strict=True)
        ]
    figures |= metrics.figures(measured)
    parts = {}
    for name, part in evaluator.parts.items():
        of = slice(part.numbers.start, part.numbers.stop)
        found = {key: metric._replace(stats_ns=metric.stats_ns[of]) for key, metric in measured.items()}
        bits = found["bits_per_byte"]  # whose bytes are shares of the whole's
        share = part.target_bytes / bits.stats_ns[:, 1].sum()
        found["bits_per_byte"] = bits._replace(stats_ns=bits.stats_ns * [1, share])
        if outputs:  # what BLEU takes for a word depends on all of the references
            of_part = [one["output"] for one in outputs[of]], [one["reference"] for one in outputs[of]]
            found |= metrics.measure(scores or task.scores, *of_part, lowercase, tokenize)
        parts[name] = evaluator.figures(*found["loss"].stats_ns.sum(axis=0), part) | metrics.figures(found)
        parts[name] |= {"generated": len(outputs[of])} if outputs else {}
        parts[name]["intervals"] = {key: statistics.interval(metric) for key, metric in found.items()}
    figures |= {"parts": parts} if parts else {}
    return Evaluation(figures, measured, outputs)


def write(run: Run, found: Evaluation, intervals: dict[str, tuple[float, float]]) -> str:
    """The record of an evaluation, into the run's directory; where it lies."""
    # Other options than the usual ones have a file of their own.
    asked = decoding_flags.given() | {
        flag.name: flag.value for flag in (LOWERCASE, TOKENIZE) if flag.value != flag.default
    }
    # Strings may be long, or have what no file's name has.
    short = lambda value: f"{zlib.crc32(repr(value).encode()):08x}" if isinstance(value, list) else value
    unusual = [f"{name}={short(value)}" for name, value in asked.items()]
    unusual += [f"scores={'+'.join(SCORES.value)}"] * bool(SCORES.value) + [
        run.weights.replace(" ", "-")
    ] * run.averaged
    name = "-".join([SPLIT.value, str(run.step), *unusual])
    path = run.workdir / "evaluations" / f"{name}.json"
    record = {"split": SPLIT.value, "step": run.step, **found.figures, "intervals": intervals}
    if found.outputs:
        record["decoding"] = run.answer.described(decoding_flags.from_flags(run.config.data.task))
        if run.labels:
            texts = [one["output"] for one in found.outputs], [one["reference"] for one in found.outputs]
            record["confusion"] = metrics.confusion(run.labels, *texts)
        record["outputs"] = found.outputs
    writing.write_whole(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return str(path)


def show(run: Run, found: Evaluation) -> None:
    """A table, and the record."""
    intervals = {name: statistics.interval(metric) for name, metric in found.measured.items()}
    path = write(run, found, intervals)
    show_figures({"split": SPLIT.value, "step": run.step, **found.figures}, intervals)
    for name, part in found.figures.get("parts", {}).items():
        output.say(f"\n{name}")
        show_figures(part, part["intervals"])
    if found.outputs and 0 < len(run.labels) <= 12:
        texts = [one["output"] for one in found.outputs], [one["reference"] for one in found.outputs]
        width = max(5, *map(len, run.labels))
        output.say(f"{'gold, down; output':<24} {' '.join(f'{label:>{width}}' for label in run.labels)}")
        for label, row in zip(run.labels, metrics.confusion(run.labels, *texts), strict=True):
            output.say(f"  {label:<22} {' '.join(f'{count:>{width}}' for count in row)}")
    output.say(f"{'written to':<24} {path}")


def show_figures(figures: dict[str, Any], intervals: dict[str, tuple[float, float]]) -> None:
    """A line for each."""
    for name, value in figures.items():
        if isinstance(value, dict):
            continue
        line = f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}"
        low, high = intervals.get(name, (None, None))
        output.say(line if low is None else f"{line:<38} [{low:.4g}, {high:.4g}]")


def differing(a: str, b: str) -> list[str]:
    """The fields in which two signatures differ."""
    a, b = (dict(field.partition(":")[::2] for field in text.split("|")) for text in (a, b))
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def show_comparison(runs: list[Run], both: list[Evaluation]) -> None:
    """Both figures side by side; tests where both have the same examples and units."""
    for letter, run in zip("AB", runs, strict=True):
        output.say(f"{letter}  {run.workdir}, step {run.step}, {run.weights}")
    output.say(f"{'':<18}{'A':>10}{'B':>12}{'B - A':>12}  {'95 % interval':<24}{'p bootstrap':>12}{'p random':>10}")
    notes, a, b = [], *(one.measured for one in both)
    for name in [name for name in a if name in b]:
        fields = differing(a[name].signature, b[name].signature)
        line = f"{name + ' *' * bool(fields):<18}{a[name].value:>10.5g}{b[name].value:>12.5g}"
        if fields:
            notes.append(
                f"* {name}: signatures differ in {', '.join(fields)}: {a[name].signature}  {b[name].signature}"
            )
        # What a byte costs can be compared whatever the tokens; what a token costs cannot.
        of_text = "unit:byte" in a[name].signature and set(fields) == {"tok"}
        if len(a[name].stats_ns) == len(b[name].stats_ns) and (not fields or of_text):
            found = statistics.compare(a[name], b[name])
            between = f"[{found.low:.4g}, {found.high:.4g}]"
            line += f"{found.difference:>12.4g}  {between:<24}{found.p_bootstrap:>12.4f}{found.p_randomisation:>10.4f}"
        output.say(line)
    for note in notes:
        output.say(note)


def evaluate_as_asked(run: Run) -> Evaluation:
    """As the flags say."""
    how = decoding_flags.from_flags(run.config.data.task)
    return evaluate(run, SPLIT.value, how, LOWERCASE.value, TOKENIZE.value, tuple(SCORES.value))


def main() -> None:
    if TOKENIZE.value and TOKENIZE.value not in sacrebleu.BLEU.TOKENIZERS:
        mend = nearest(TOKENIZE.value, sacrebleu.BLEU.TOKENIZERS)
        raise UserError("--bleu_tokenize", f"{TOKENIZE.value!r} is unknown", mend)
    try:
        sacrebleu.BLEU(tokenize=TOKENIZE.value or None)
    except (RuntimeError, ImportError) as error:  # some need a package more
        what = " ".join(str(error).split())
        raise UserError("--bleu_tokenize", f"{TOKENIZE.value!r} cannot be had ({what})", "install it") from None
    for name in SCORES.value:
        if name not in metrics.SCORES:
            raise UserError("--scores", f"{name!r} is unknown", nearest(name, metrics.SCORES))
    if len(WORKDIR.value) > 2:
        raise UserError("--workdir", f"is given {len(WORKDIR.value)} times", "give one run, or two to compare")
    runs = [load(directory, CHECKPOINT.value) for directory in WORKDIR.value]
    for run in runs:
        decoding_flags.from_flags(task := run.config.data.task)
        if decoding_flags.given() and not TASKS[task].scores:
            raise UserError(
                f"--{next(iter(decoding_flags.given()))}", f"the task {task} has no outputs to score", "leave it out"
            )
    if len(runs) == 2 and len({split_of(run, SPLIT.value).fingerprint for run in runs}) > 1:
        what = f"its {SPLIT.value} data is not that of {runs[0].workdir}"
        raise UserError(str(runs[1].workdir), what, "give runs that are evaluated on the same data")
    both = [evaluate_as_asked(run) for run in runs]
    for run, found in zip(runs, both, strict=True):
        show(run, found)
        output.say("") if len(runs) > 1 else None
    if len(runs) == 2:
        show_comparison(runs, both)


if __name__ == "__main__":
    program(main, required=("workdir",), positional="workdir")
