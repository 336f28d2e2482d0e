"""Evaluates a run on a split: its likelihoods, its outputs and their scores, of all examples and of each source."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lm.answers.ranking import check_labels
from lm.config.tasks import TASKS
from lm.data import encoding, splits
from lm.data.read.sources import Split
from lm.devices.mesh import Devices
from lm.errors import UserError, nearest
from lm.evaluation import metrics, signature, statistics
from lm.evaluation.evaluator import Evaluator
from lm.evaluation.statistics import Metric
from lm.runs import manifest
from lm.runs.run import Run
from lm.search.options import Options
from lm.search.task_options import for_task


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation is asked for, which its record names."""

    split: str = "test"
    checkpoint: str = "best"
    decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options other than the task's own
    scores: tuple[str, ...] = ()  # empty: the task's
    lowercase: bool = False
    bleu_tokenize: str = ""

    def check(self) -> None:
        """Raises `UserError` for a score or a tokenizer that there is not."""
        metrics.check_tokenizer(self.bleu_tokenize)
        for name in self.scores:
            if name not in metrics.SCORES:
                raise UserError("--scores", f"{name!r} is unknown", nearest(name, metrics.SCORES))

    def check_task(self, task: str) -> None:
        """Raises `UserError` for options of decoding that contradict each other or have no use for the task."""
        for_task(task, self.decoding)
        if self.decoding and not TASKS[task].scores:
            raise UserError(
                f"--{next(iter(self.decoding))}", f"the task {task} has no outputs to score", "leave it out"
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Of a run on a split."""

    figures: dict[str, Any]  # and signatures: NAME_signature; of a mixture `parts`: those of each source
    measured: dict[str, Metric]  # the figures that have an interval
    outputs: list[dict[str, str]]  # of each example its source, reference and output, where the task generates
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)  # how the outputs were chosen
    confusion: list[list[int]] | None = None  # of labels: a row for each gold one, a column for each output

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each figure that was measured."""
        return {name: statistics.interval(metric) for name, metric in self.measured.items()}


def split_of(run: Run, split: str) -> Split:
    """The examples, which are those that the run was started with; raises `UserError` where it names no such split."""
    names = ("train", "validation", *(("test",) if run.config.data.test else ()))
    if split not in names:
        raise UserError("--split", f"the run has no {split!r} data", nearest(split, names))
    read = names if split == "train" else (split,)  # what is dropped of the training data may depend on the others
    manifest.require_vouched(run.workdir, run.config.data, read, "name the data yourself: --data=SOURCE")
    loaded = splits.load_splits(run.config.data, (split,))[split]
    manifest.check_unchanged(run.workdir, {split: loaded.fingerprint})
    return loaded


def evaluate_asked(run: Run, asked: Asked) -> Evaluation:
    """Returns the evaluation of a run that is asked for."""
    options = for_task(run.config.data.task, asked.decoding)
    return evaluate(run, asked.split, options, asked.lowercase, asked.bleu_tokenize, asked.scores)


def evaluate(
    run: Run, split: str, options: Options, lowercase: bool = False, tokenize: str = "", scores: tuple[str, ...] = ()
) -> Evaluation:
    """Loss of the whole split, and its outputs' `scores` (none: the task's)."""
    task = TASKS[run.config.data.task]
    if scores and not task.scores:
        raise UserError("--scores", f"the task {run.config.data.task} has no outputs to score", "leave it out")
    loaded = split_of(run, split)
    evaluator = _evaluator(run, loaded)
    measured = _likelihoods(run, evaluator, split, loaded)
    figures = evaluator.figures(*measured["loss"].stats_ns.sum(axis=0))
    how = functools.partial(metrics.measure, scores or task.scores, lowercase=lowercase, tokenize=tokenize)
    outputs: list[dict[str, str]] = []
    if task.scores:
        generated, calibrated = _generated(run, evaluator, options)
        outputs = [
            {"source": example.source, "reference": example.target, "output": output}
            for example, output in zip(loaded.examples, generated, strict=True)
        ]
        measured |= calibrated | how(*_texts(outputs))
        figures["generated"] = len(outputs)
    figures |= metrics.figures(measured)
    parts = {}
    for name, part in evaluator.parts.items():
        of = slice(part.numbers.start, part.numbers.stop)
        found = {key: metric._replace(stats_ns=metric.stats_ns[of]) for key, metric in measured.items()}
        bits = found["bits_per_byte"]  # whose bytes are shares of the whole's
        share = part.target_bytes / bits.stats_ns[:, 1].sum()
        found["bits_per_byte"] = bits._replace(stats_ns=bits.stats_ns * [1, share])
        if outputs:  # what BLEU takes for a word depends on all of the references
            found |= how(*_texts(outputs[of]))
        parts[name] = evaluator.figures(*found["loss"].stats_ns.sum(axis=0), part) | metrics.figures(found)
        parts[name] |= {"generated": len(outputs[of])} if outputs else {}
        parts[name]["intervals"] = {key: statistics.interval(metric) for key, metric in found.items()}
    figures |= {"parts": parts} if parts else {}
    decoding = run.answer.described(options) if outputs else {}
    confusion = metrics.confusion(run.labels, *_texts(outputs)) if outputs and run.labels else None
    return Evaluation(figures, measured, outputs, decoding, confusion)


def _evaluator(run: Run, loaded: Split) -> Evaluator:
    encoded = encoding.encode(loaded, run.tokenizer, run.config.data, run.config.seed)
    if run.labels:
        check_labels(loaded, run.labels)
    return Evaluator(run.answer, run.config, Devices(jax.local_devices()), encoded)


def _likelihoods(run: Run, evaluator: Evaluator, split: str, loaded: Split) -> dict[str, Metric]:
    """Returns loss, perplexity and bits per byte with their signatures."""
    measured = evaluator.likelihoods(evaluator.devices.replicate(run.params))
    for name, unit in (("loss", "token"), ("perplexity", "token"), ("bits_per_byte", "byte")):
        known = (unit, run.tokenizer, split, loaded.fingerprint, run.weights)
        measured[name] = measured[name]._replace(signature=signature.signature(run.config, *known))
    return measured


def _generated(run: Run, evaluator: Evaluator, options: Options) -> tuple[list[str], dict[str, Metric]]:
    """Returns an output for each example, and what the probabilities of labels are calibrated like."""
    if run.labels:
        generations, calibrated = evaluator.classes(run.params)
    else:
        generations, calibrated = evaluator.generate(run.params, None, options), {}
    return [one.output for one in generations], calibrated


def _texts(outputs: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    return [one["output"] for one in outputs], [one["reference"] for one in outputs]


def same_data(runs: Sequence[Run], split: str) -> None:
    """Raises `UserError` where two runs are evaluated on different data."""
    if len(runs) == 2 and len({split_of(run, split).fingerprint for run in runs}) > 1:
        what = f"its {split} data is not that of {runs[0].workdir}"
        raise UserError(str(runs[1].workdir), what, "give runs that are evaluated on the same data")
