"""Tables of evaluations, as lines: of one run, and of two side by side."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from lm.answers.contract import Score
from lm.evaluation import statistics
from lm.evaluation.scoring import Asked, Evaluation
from lm.evaluation.signature import fields, of_whole_texts
from lm.evaluation.statistics import Metric
from lm.runs.run import Run

MOST_LABELS = 12  # with more labels, the table of the confusion is not printed


def lines(run: Run, found: Evaluation, asked: Asked) -> list[str]:
    """Returns the metrics of a run with their intervals, those of each source, and the confusion of labels."""
    about = {"data": asked.data} if asked.data else {"split": asked.split}
    recorded = statistics.recorded(found.intervals)
    table = _figures({**about, "step": run.step, **found.figures, **recorded})
    methods = [*recorded["interval_methods"].values()]
    for name, part in found.figures.get("parts", {}).items():
        table += ["", name, *_figures(part)]
        methods += part["interval_methods"].values()
    unit = "examples" if run.answer.model.has_encoder else "stretches of the evaluation streams"
    table += [f"* intervals are of 95 %, over {unit}", *_legend(methods)]
    if any(one.get("references", ())[1:] for one in found.outputs):
        table.append("* of several references scores take the best one, likelihoods the first")
    if found.confusion is not None and len(run.labels) <= MOST_LABELS:
        width = max(5, *map(len, run.labels))
        table.append(f"{'gold, down; output':<24} {' '.join(f'{label:>{width}}' for label in run.labels)}")
        for label, row in zip(run.labels, found.confusion, strict=True):
            table.append(f"  {label:<22} {' '.join(f'{count:>{width}}' for count in row)}")
    return table


def _figures(figures: dict[str, Any]) -> list[str]:
    """Returns a line for each metric."""
    found = []
    for name, value in figures.items():
        if isinstance(value, dict):
            continue
        shown = f"{value:.6g}" if isinstance(value, float) else value
        line = f"{name:<24} {shown}" if len(name) < 24 else f"{name}  {shown}"
        if value is None:
            line = f"{name:<24} undefined: {figures['undefined'][name]}"
        elif name in figures["intervals"]:
            method = figures["interval_methods"][name]
            line = f"{line:<38} {_between(figures['intervals'][name])} {method}"
        found.append(line)
    return found


def _between(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"[{ends[0]:.4g}, {ends[1]:.4g}]"


def _legend(methods: Sequence[str]) -> list[str]:
    """Returns a line on each kind of interval that a table has."""
    return [f"* {name}: {how}" for name, how in statistics.METHODS.items() if name in methods]


def differing(a: str, b: str) -> list[str]:
    """The fields in which two signatures differ."""
    a, b = map(fields, (a, b))
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def comparison(runs: Sequence[Run], both: Sequence[Evaluation]) -> list[str]:
    """Returns the metrics of two runs side by side, with tests if both have the same examples and units.

    A metric is marked if its signatures differ, or if it is a likelihood of texts that are not fully known.
    """
    table = [f"{letter}  {run.workdir}, step {run.step}, {run.weights}" for letter, run in zip("AB", runs, strict=True)]
    table.append(f"{'':<24}{'A':>10}{'B':>12}{'B - A':>12}  {'95 % interval':<24}{'p bootstrap':>12}{'p random':>10}")
    notes, methods, (a, b) = [], [], map(_measured, both)
    spelled = "bits_per_byte_spelled" in {*both[0].measured, *both[1].measured}
    for name in [name for name in a if name in b and (spelled or name != "bits_per_byte_spelled")]:
        signatures = a[name].signature, b[name].signature
        differ, whole = differing(*signatures), all(map(of_whole_texts, signatures))
        values = a[name].value, b[name].value
        shown = ["undefined" if value is None else f"{value:.5g}" for value in values]
        line = f"{name + ' *' * (bool(differ) or not whole):<24}{shown[0]:>10}{shown[1]:>12}"
        if differ:
            notes.append(f"* {name}: signatures differ in {', '.join(differ)}: {'  '.join(signatures)}")
        # Likelihoods of whole texts, given for bytes, can be compared whatever the tokens; others cannot.
        of_text = "unit:byte" in signatures[0] and {*differ} <= {"tok", "unk"} and whole
        if (not differ or of_text) and None not in values:
            line += f"{values[1] - values[0]:>12.4g}"
            tested = len(a[name].stats_ns) == len(b[name].stats_ns)
            if tested and (found := statistics.compare(a[name], b[name])):
                line += f"  {_between(found.interval.ends):<24}{found.p_bootstrap:>12.4f}{found.p_randomisation:>10.4f}"
                methods.append(found.interval.method)
        table.append(line)
    lost = [note for letter, one in zip("AB", both, strict=True) for note in _lost(letter, one)]
    return table + notes + lost + _legend(methods)


def _measured(one: Evaluation) -> dict[str, Metric]:
    """Returns the metrics; without unknown tokens, bits_per_byte also serves as bits_per_byte_spelled."""
    if "bits_per_byte" not in one.measured:
        return one.measured
    found = {}
    for name, metric in one.measured.items():
        found[name] = metric
        if name == "bits_per_byte":
            found["bits_per_byte_spelled"] = metric  # until its own comes
    return found


def _lost(letter: str, one: Evaluation) -> Iterator[str]:
    """Yields lines about the parts of the targets that a run's tokenizer does not represent."""
    figures = one.figures
    if unknown := figures.get("unknown_tokens"):
        share = f"{unknown:,} of {figures['tokens']:,} target tokens are unknown, {figures['unknown_bytes']:,} bytes"
        yield f"* {letter}: {share}; its likelihoods are of the targets with any other words in their place"
    if altered := figures.get("altered_texts"):
        yield f"* {letter}: its tokenizer alters {altered:,} targets; its likelihoods cover all texts that become equal"


def of_scores(count: int, total: Score, spells: bool) -> str:
    """Returns the sums of the scores of `count` texts in a line."""
    line = f"{count:,} texts, {total.log_probability:.6g} nats, {total.tokens:,} tokens, {total.bytes:,} bytes"
    if total.unknown_tokens:
        line += f"; {total.unknown_tokens:,} of the tokens unknown ({total.unknown_bytes:,} bytes)"
        line += f", {total.spelled_log_probability:.6g} nats with them spelled out" * spells
    return line


def score_line(score: Score, as_json: bool, spells: bool) -> str:
    """Returns a score in a line: its fields with tabs between them, or an object in which -inf is null."""
    if not as_json:
        return "\t".join([f"{score.log_probability:.6f}", *map(str, score[1:])])
    found = score._asdict() | ({"spelled_log_probability": score.spelled_log_probability} if spells else {})
    return json.dumps({name: value if math.isfinite(value) else None for name, value in found.items()})
