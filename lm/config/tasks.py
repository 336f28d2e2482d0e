"""Tasks: how an example becomes a source and a target, and what kind of answer a model gives."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class AnswerKind:
    """What configurations and data must know of a kind of answer. Its losses and outputs are a class in `lm/answers`."""

    among: str = "texts"  # what the answers' probabilities are of, and sum to one over
    decodes: bool = True  # whether a decoder writes the answer, token by token
    over_vocabulary: bool = True  # whether each token is one of the whole vocabulary
    located: bool = False  # whether a target is a span of its own source, and stands there in its ids
    needs_attention: bool = False
    how: str = ""  # how an answer is chosen where it is not searched for, as the end of a sentence; empty: by search


ANSWER_KINDS = {
    "text": AnswerKind(),
    "labels": AnswerKind(among="labels", over_vocabulary=False, how="ranks its labels by likelihood"),
    "choice": AnswerKind(among="labels", decodes=False, over_vocabulary=False, how="ranks its labels by likelihood"),
    "span": AnswerKind(
        among="spans",
        decodes=False,
        over_vocabulary=False,
        located=True,
        needs_attention=True,
        how="points at spans of the source",
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A new task is a line in `TASKS`, and a line in `lm.data.encoding.pretraining_pairs` if it makes pairs of texts."""

    pairs: bool  # whether examples are pairs of source and target; else they are texts
    source: str  # the front end of what the encoder reads, in FRONT_ENDS and INPUTS; empty: there is no encoder
    layouts: tuple[str, ...]  # how its examples can be laid out (lm/data/batches); its own first
    scores: tuple[str, ...]  # names in `lm.evaluation.metrics.SCORES`, computed on the answers
    answer: str = "text"  # a key of ANSWER_KINDS and of ANSWERS
    pooled_answer: str = ""  # the kind of answer with `config.model.pool`; empty: there is none

    @property
    def has_source(self) -> bool:
        """Whether the model has an encoder: for pairs, and for pairs that an objective makes of texts."""
        return self.source != ""


TASKS = {
    "lm": Task(pairs=False, source="", layouts=("streams", "packed"), scores=()),
    "prefix": Task(pairs=False, source="text", layouts=("buckets", "packed"), scores=()),
    "denoise": Task(pairs=False, source="text", layouts=("buckets", "packed"), scores=()),
    "seq2seq": Task(True, "text", layouts=("buckets", "packed"), scores=("exact_match", "bleu", "chrf")),
    "extract": Task(True, "text", layouts=("buckets",), scores=("exact_match", "squad"), answer="span"),
    "classify": Task(
        True,
        "text",
        layouts=("buckets", "packed"),
        scores=("exact_match", "accuracy", "macro_f1"),
        answer="labels",
        pooled_answer="choice",
    ),
}


def layout_of(data: Any) -> str:
    """Returns the layout that a `DataConfig` means: the one that it names, or the task's own."""
    return data.layout or TASKS[data.task].layouts[0]


def answer_of(config: Any) -> str:
    """Returns the name of the kind of answer that a `Config` asks for."""
    task = TASKS[config.data.task]
    return task.pooled_answer if config.model.pool else task.answer
