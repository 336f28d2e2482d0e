"""Evaluation of a run on a split: its likelihoods, its outputs and their scores, of all examples and of each source."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from lm.answers import chunks
from lm.answers.contract import Generation
from lm.answers.ranking import check_labels
from lm.config import changed
from lm.config.tasks import TASKS
from lm.data import encoding, splits
from lm.data.read.sources import SCHEMES, Split
from lm.data.text.tokenizers.unknown import Unknown
from lm.devices.mesh import Devices
from lm.errors import UserError, nearest
from lm.evaluation import metrics, signature, statistics
from lm.evaluation.evaluator import Evaluator
from lm.evaluation.statistics import Metric
from lm.runs import manifest
from lm.runs.run import Run
from lm.search.options import Options
from lm.search.task_options import for_task
from lm.terminal import bar


@dataclasses.dataclass(frozen=True)
class Asked:
    """The request for an evaluation, which its record repeats."""

    split: str = "test"  # a split of the run, or DATA
    checkpoint: str = "best"
    decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options other than the task's own
    scores: tuple[str, ...] = ()  # empty: the task's
    lowercase: bool = False
    bleu_tokenize: str = ""
    data: str = ""  # a source that is evaluated instead of a split

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
    """The result of an evaluation of a run on a split."""

    figures: dict[str, Any]  # values by name, with NAME_signature; for a mixture `parts` has the values of each source
    measured: dict[str, Metric]  # the metrics with an interval
    # If the task generates: source, reference and output of each example, and `references` if it has a list of them.
    outputs: list[dict[str, Any]]
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)  # how the outputs were chosen
    confusion: list[list[int]] | None = None  # counts, a row per gold label and a column per output
    fingerprint: str = ""  # of the examples

    @functools.cached_property
    def intervals(self) -> dict[str, statistics.Interval]:
        """The 95 % interval of each measured metric."""
        return {name: statistics.interval(metric) for name, metric in self.measured.items()}


DATA = "data"  # the name of examples that are no split of the run


def split_of(run: Run, split: str, data: str = "") -> Split:
    """Returns the examples of a split with which the run was started, or those of the source `data`.

    Raises:
        UserError: the run names no such split, or its data has changed.
    """
    if data:
        return _given(run, data)
    names = ("train", "validation", *(("test",) if run.config.data.test else ()))
    if split.partition(":")[0] in SCHEMES:
        raise UserError("--split", f"{split!r} is a source, not a split", f"use lm.evaluate --data={split}")
    if split not in names:
        raise UserError("--split", f"the run has no {split!r} data", nearest(split, names))
    read = names if split == "train" else (split,)  # cleaning the training data may depend on the others
    manifest.require_vouched(run.workdir, run.config.data, read, "name the data yourself: --data=SOURCE")
    loaded = splits.load_splits(run.config.data, (split,))[split]
    manifest.check_unchanged(run.workdir, {split: loaded.fingerprint})
    return loaded


def _given(run: Run, data: str) -> Split:
    """Returns the examples of a source as the run reads them: with its formats, its cleaning and its task."""
    with _about_data(run):
        config = changed(run.config, {"data.test": data}).data
        return dataclasses.replace(splits.load_splits(config, ("test",))["test"], name=DATA)


@contextlib.contextmanager
def _about_data(run: Run) -> Iterator[None]:
    """Makes errors about a given source name the flag, and not a field of the run."""
    try:
        yield
    except UserError as error:
        where = re.sub(r"^config\.data\.(test|data)$", "--data", error.where)
        of_task = "config.data.task" in error.action
        action = f"give a source for the run's task, {run.config.data.task}" if of_task else error.action
        raise UserError(where, error.reason, action) from error


def evaluate_asked(run: Run, asked: Asked) -> Evaluation:
    """Returns the evaluation of a run that is asked for."""
    options = for_task(run.config.data.task, asked.decoding)
    with _about_data(run) if asked.data else contextlib.nullcontext():
        return evaluate(run, asked.split, options, asked.lowercase, asked.bleu_tokenize, asked.scores, asked.data)


def evaluate(
    run: Run,
    split: str,
    options: Options,
    lowercase: bool = False,
    tokenize: str = "",
    scores: tuple[str, ...] = (),
    data: str = "",
) -> Evaluation:
    """Returns the evaluation of a split, or of the source `data`, with these `scores` (none: those of the task)."""
    task = TASKS[run.config.data.task]
    if scores and not task.scores:
        raise UserError("--scores", f"the task {run.config.data.task} has no outputs to score", "leave it out")
    run.answer.answer(run.params, [], options)  # without prompts it only checks that they fit
    loaded = split_of(run, split, data)
    evaluator = _evaluator(run, loaded)
    measured = evaluator.likelihoods(evaluator.devices.replicate(run.params))
    measured = _signed(run, measured, loaded, evaluator.whole.lost)
    figures = evaluator.figures(*measured["loss"].stats_ns.sum(axis=0))
    how = functools.partial(metrics.measure, scores or task.scores, lowercase=lowercase, tokenize=tokenize)
    outputs: list[dict[str, Any]] = []
    if task.scores:
        generated, calibrated = _generated(run, evaluator, options)
        outputs = [
            {"source": example.source, "reference": example.target, "output": one.output}
            | ({} if example.others is None else {"references": example.references})
            for example, one in zip(loaded.examples, generated, strict=True)
        ]
        measured |= calibrated | how(*_texts(outputs))
        figures["generated"] = len(outputs)
        if options.constrains:
            figures["unsatisfied"] = sum(not one.satisfied for one in generated)
    figures = metrics.joined(figures, metrics.figures(measured))
    parts = {}
    for name, part in evaluator.parts.items():
        of = slice(part.numbers.start, part.numbers.stop)
        rows = dict.fromkeys(UNITS, evaluator.rows_of(part.numbers))
        found = {key: each._replace(stats_ns=each.stats_ns[rows.get(key, of)]) for key, each in measured.items()}
        found |= _signed(run, {key: found[key] for key in UNITS if key in found}, loaded, part.lost)
        share = statistics.quotient(part.target_bytes, found["bits_per_byte"].stats_ns[:, 1].sum())
        for key in [key for key in found if UNITS.get(key) == "byte"]:  # a part has its share of the bytes
            found[key] = found[key]._replace(stats_ns=found[key].stats_ns * [1, share])
        if outputs:  # BLEU's tokenizer depends on all references
            found |= how(*_texts(outputs[of]))
        likelihoods = evaluator.figures(*found["loss"].stats_ns.sum(axis=0), part)
        parts[name] = metrics.joined(likelihoods, metrics.figures(found))
        parts[name] |= {"generated": len(outputs[of])} if outputs else {}
        parts[name] |= statistics.recorded({key: statistics.interval(metric) for key, metric in found.items()})
    figures |= {"parts": parts} if parts else {}
    decoding = run.answer.described(options) if outputs else {}
    confusion = metrics.confusion(run.labels, *_texts(outputs)) if outputs and run.labels else None
    return Evaluation(figures, measured, outputs, decoding, confusion, loaded.fingerprint)


def _evaluator(run: Run, loaded: Split) -> Evaluator:
    encoded = encoding.encode(loaded, run.tokenizer, run.config.data, run.config.seed)
    if run.labels:
        check_labels(loaded, run.labels)
    return Evaluator(run.answer, run.config, Devices(jax.local_devices()), encoded)


# The unit of each likelihood.
UNITS = {"loss": "token", "perplexity": "token", "bits_per_byte": "byte", "bits_per_byte_spelled": "byte"}


def _signed(run: Run, measured: dict[str, Metric], loaded: Split, lost: Unknown) -> dict[str, Metric]:
    """Returns likelihoods with their signatures."""

    def signed(name: str) -> str:
        known = (UNITS[name], run.tokenizer, loaded.name, loaded.fingerprint, run.weights)
        return signature.signature(run.config, *known, lost, spelled=name.endswith("_spelled"))

    return {name: metric._replace(signature=signed(name)) for name, metric in measured.items()}


def _generated(run: Run, evaluator: Evaluator, options: Options) -> tuple[list[Generation], dict[str, Metric]]:
    """Returns an output for each example, and metrics of the calibration of labels."""
    if run.labels:
        return evaluator.classes(run.params)
    prompts = [example.source for example in evaluator.encoded.split.examples]
    found = chunks.answered([(run.answer, run.params)], prompts, options)
    return [one for (one,) in bar.counted(found, len(prompts), "output")], {}


def _texts(outputs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str | tuple[str, ...]]]:
    return [one["output"] for one in outputs], [one.get("references", one["reference"]) for one in outputs]


def same_data(runs: Sequence[Run], asked: Asked) -> None:
    """Raises `UserError` if two runs are evaluated on different data."""
    if len(runs) == 2 and len({split_of(run, asked.split, asked.data).fingerprint for run in runs}) > 1:
        reason = f"its {asked.split} data is not that of {runs[0].workdir}"
        if asked.data:
            reason = f"its formats or its cleaning make other examples of {asked.data} than those of {runs[0].workdir}"
        raise UserError(str(runs[1].workdir), reason, "give runs that are evaluated on the same data")
