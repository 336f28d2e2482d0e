"""The report of cleaning: the numbers of examples that each step changed and dropped, with a few of them."""

import dataclasses
import os
from typing import Any

from lm.data.read.examples import Example

SHOWN, WIDTH = 3, 100  # most changed and most dropped examples of a step in a report, and characters of each


@dataclasses.dataclass
class StepReport:
    """The effect of one cleaning step."""

    changed: int = 0  # number of changed examples
    dropped: int = 0  # number of dropped examples, including those that a change left blank
    lines: int = 0  # number of dropped lines, in texts that were kept or dropped
    shown: list[list[str]] = dataclasses.field(default_factory=list)  # [before, after], or [before] if dropped

    def show(self, before: Example, after: Example | None) -> None:
        """Adds a changed or (`after` is None) dropped example to `shown`, unless it has enough of them."""
        drops = sum(len(pair) == 1 for pair in self.shown)
        if (drops if after is None else len(self.shown) - drops) < SHOWN:
            self.shown.append(excerpt(before, after))


@dataclasses.dataclass
class Report:
    """The effect of all cleaning steps on the training data, and its overlap with evaluation data."""

    steps: dict[str, StepReport]  # by the step as it is written in the configuration, in order
    examples_in: int = 0
    examples_out: int = 0  # examples_in minus all dropped examples
    evaluation: int = 0  # validation and test examples; of texts of several lines, the lines that are long enough
    overlap: int = 0  # the number of these that also occur, unchanged, in the cleaned training data
    overlap_shown: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report in types of JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Report":
        """Returns the report of such a dict; the inverse of `as_dict`."""
        return cls(**fields | {"steps": {name: StepReport(**step) for name, step in fields["steps"].items()}})

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        lines = [f"cleaning: {self.examples_in:,} training examples in, {self.examples_out:,} out"]
        for name, step in self.steps.items():
            counts = [f"{step.changed:,} changed"] * bool(step.changed) + [f"{step.dropped:,} dropped"] * bool(
                step.dropped
            )
            counts += [f"{step.lines:,} lines dropped"] * bool(step.lines)
            lines.append(f"  {name}: {', '.join(counts) or 'nothing to do'}")
            lines += [f"    {' -> '.join(map(repr, pair))}" for pair in step.shown]
        if not self.evaluation:
            return [*lines, "  overlap: not checked, as no line of the evaluation texts is long enough"]
        share = self.overlap / self.evaluation
        lines.append(
            f"  overlap: {self.overlap:,} of {self.evaluation:,} evaluation examples ({share:.1%}) are in training too"
        )
        return lines + [f"    {text!r}" for text in self.overlap_shown]


def excerpt(before: Example, after: Example | None) -> list[str]:
    """Returns an excerpt of an example before and after a step, which starts shortly before the first difference."""
    texts = ["\t".join(example.sides) for example in (before, after) if example is not None]
    start = max(0, len(os.path.commonprefix(texts)) - WIDTH // 4) if after is not None else 0
    cut = [("…" if start else "") + text[start:] for text in texts]
    return [text if len(text) <= WIDTH else text[: WIDTH - 1] + "…" for text in cut]
