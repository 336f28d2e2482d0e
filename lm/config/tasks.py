"""Tasks: how an example becomes a source and a target, and which kind of answer the model gives."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class AnswerKind:
    """The properties of a kind of answer that configurations and data depend on.

    Its losses and outputs are a class in `lm/answers`.
    """

    among: str = "texts"  # the set over which the probabilities of answers sum to one
    decodes: bool = True  # whether a decoder writes the answer, token by token
    over_vocabulary: bool = True  # whether each token is chosen from the whole vocabulary
    located: bool = False  # whether a target is a span of its own source, by its ids
    needs_attention: bool = False
    how: str = ""  # a phrase for messages: how an answer is chosen; empty: by search


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
    """A task.

    A new task is a line in `TASKS`; if it makes pairs from plain texts, also a line in
    `lm.data.encoding.pretraining_pairs`.
    """

    pairs: bool  # whether examples are pairs of source and target; otherwise they are texts
    source: str  # the front end of the source, a key of FRONT_ENDS and INPUTS; empty: no encoder
    layouts: tuple[str, ...]  # layouts that it allows (lm/data/batches), the default first
    scores: tuple[str, ...]  # names in `lm.evaluation.metrics.SCORES`, computed from the answers
    answer: str = "text"  # a key of ANSWER_KINDS and of ANSWERS
    pooled_answer: str = ""  # the kind of answer with `config.model.pool`; empty: pooling is not possible

    @property
    def has_source(self) -> bool:
        """Whether examples have a source: they are pairs, or an objective makes pairs from texts."""
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
    """Returns the layout of a `DataConfig`: the one that it names, or the default of its task."""
    return data.layout or TASKS[data.task].layouts[0]


def answer_of(config: Any) -> str:
    """Returns the name of the kind of answer that a `Config` asks for."""
    task = TASKS[config.data.task]
    return task.pooled_answer if config.model.pool else task.answer
