"""Tasks: how an example becomes what the encoder reads and what the decoder writes, and what scores it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A new task is a line in `TASKS`, and a line in `lm.data.pipeline.pieces` if it makes pairs of texts."""

    pairs: bool  # whether examples are pairs of source and target; else they are texts
    has_source: bool  # whether the model has an encoder: for pairs, and for pairs that an objective makes of texts
    layouts: tuple[str, ...]  # how its examples can be laid out (lm/data/batches.py, packing.py); its own first
    scores: tuple[str, ...]  # names in `lm.metrics.SCORES`, computed on generated text
    ranks: bool = False  # whether the output is the most likely of the targets seen in training, and nothing else
    points: bool = False  # whether the output is a span of the source, and nothing else

    @property
    def chooses(self) -> str:
        """How an output is chosen where it is not decoded; empty where it is."""
        return (
            "ranks its labels by likelihood" if self.ranks else "points at spans of the source" if self.points else ""
        )


TASKS = {
    "lm": Task(pairs=False, has_source=False, layouts=("streams", "packed"), scores=()),
    "prefix": Task(pairs=False, has_source=True, layouts=("buckets", "packed"), scores=()),
    "denoise": Task(pairs=False, has_source=True, layouts=("buckets", "packed"), scores=()),
    "seq2seq": Task(True, True, layouts=("buckets", "packed"), scores=("exact_match", "bleu", "chrf")),
    "extract": Task(True, True, layouts=("buckets",), scores=("exact_match", "squad"), points=True),
    "classify": Task(True, True, ("buckets", "packed"), scores=("exact_match", "accuracy", "macro_f1"), ranks=True),
}


def layout_of(data: Any) -> str:
    """The layout that a `DataConfig` means: the one that it names, or the task's own."""
    return data.layout or TASKS[data.task].layouts[0]
