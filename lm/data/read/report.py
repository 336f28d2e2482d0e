"""What cleaning did to the training data."""

import dataclasses
import os
from typing import Any

from lm.data.read.examples import Example

SHOWN, WIDTH = 3, 100  # examples of each step in a report, and characters of each


@dataclasses.dataclass
class StepReport:
    changed: int = 0  # examples
    dropped: int = 0  # examples; those that a change left blank too
    lines: int = 0  # dropped lines of texts, whether the text stayed or not
    shown: list[list[str]] = dataclasses.field(default_factory=list)  # [before, after], or [before] if dropped

    def show(self, before: Example, after: Example | None) -> None:
        drops = sum(len(pair) == 1 for pair in self.shown)
        if (drops if after is None else len(self.shown) - drops) < SHOWN:
            self.shown.append(excerpt(before, after))


@dataclasses.dataclass
class Report:
    steps: dict[str, StepReport]  # by the step as it is written, in order
    examples_in: int = 0
    examples_out: int = 0  # examples_in less all that steps dropped
    evaluation: int = 0  # examples of validation and test; of texts of several lines, the lines that are long enough
    overlap: int = 0  # those of them that are also, exactly, in the training data that was kept
    overlap_shown: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Of what JSON has."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Report":
        return cls(**fields | {"steps": {name: StepReport(**step) for name, step in fields["steps"].items()}})

    def lines(self) -> list[str]:
        """For printing."""
        lines = [f"cleaning: {self.examples_in:,} training examples in, {self.examples_out:,} out"]
        for name, step in self.steps.items():
            counts = [f"{step.changed:,} changed"] * bool(step.changed) + [f"{step.dropped:,} dropped"] * bool(
                step.dropped
            )
            counts += [f"{step.lines:,} lines dropped"] * bool(step.lines)
            lines.append(f"  {name}: {', '.join(counts) or 'nothing to do'}")
            lines += [f"    {' -> '.join(map(repr, pair))}" for pair in step.shown]
        share = f" ({self.overlap / self.evaluation:.1%})" if self.evaluation else ""
        lines.append(
            f"  overlap: {self.overlap:,} of {self.evaluation:,} evaluation examples{share} are in training too"
        )
        return lines + [f"    {text!r}" for text in self.overlap_shown]


def excerpt(before: Example, after: Example | None) -> list[str]:
    """From shortly before the first difference."""
    texts = ["\t".join(example.sides) for example in (before, after) if example is not None]
    start = max(0, len(os.path.commonprefix(texts)) - WIDTH // 4) if after is not None else 0
    cut = [("…" if start else "") + text[start:] for text in texts]
    return [text if len(text) <= WIDTH else text[: WIDTH - 1] + "…" for text in cut]
