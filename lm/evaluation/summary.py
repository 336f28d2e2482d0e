"""Tables of evaluations, as lines: of one run, and of two beside each other."""

from collections.abc import Sequence
from typing import Any

from lm.evaluation import statistics
from lm.evaluation.scoring import Evaluation
from lm.runs.run import Run

MOST_LABELS = 12  # whose confusion is a table that can be read


def lines(run: Run, found: Evaluation, split: str) -> list[str]:
    """Returns the figures of a run with their intervals, those of each source, and the confusion of labels."""
    recorded = statistics.recorded(found.intervals)
    table = _figures({"split": split, "step": run.step, **found.figures, **recorded})
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
    """Returns a line for each figure."""
    found = []
    for name, value in figures.items():
        if isinstance(value, dict):
            continue
        line = f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}"
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
    a, b = (dict(field.partition(":")[::2] for field in text.split("|")) for text in (a, b))
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def comparison(runs: Sequence[Run], both: Sequence[Evaluation]) -> list[str]:
    """Returns the figures of two runs side by side, with tests where both have the same examples and units."""
    table = [f"{letter}  {run.workdir}, step {run.step}, {run.weights}" for letter, run in zip("AB", runs, strict=True)]
    table.append(f"{'':<18}{'A':>10}{'B':>12}{'B - A':>12}  {'95 % interval':<24}{'p bootstrap':>12}{'p random':>10}")
    notes, methods, a, b = [], [], *(one.measured for one in both)
    for name in [name for name in a if name in b]:
        fields = differing(a[name].signature, b[name].signature)
        values = ["undefined" if value is None else f"{value:.5g}" for value in (a[name].value, b[name].value)]
        line = f"{name + ' *' * bool(fields):<18}{values[0]:>10}{values[1]:>12}"
        if fields:
            notes.append(
                f"* {name}: signatures differ in {', '.join(fields)}: {a[name].signature}  {b[name].signature}"
            )
        # What a byte costs can be compared whatever the tokens; what a token costs cannot.
        of_text = "unit:byte" in a[name].signature and set(fields) == {"tok"}
        tested = len(a[name].stats_ns) == len(b[name].stats_ns) and (not fields or of_text)
        if tested and (found := statistics.compare(a[name], b[name])):
            line += f"{found.difference:>12.4g}  {_between(found.interval.ends):<24}"
            line += f"{found.p_bootstrap:>12.4f}{found.p_randomisation:>10.4f}"
            methods.append(found.interval.method)
        table.append(line)
    return table + notes + _legend(methods)
