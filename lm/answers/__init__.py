"""Answers: one file for each kind, with its model, its loss, its likelihood and its outputs."""

from collections.abc import Sequence

from lm.answers.choice import Choice
from lm.answers.contract import Answer
from lm.answers.labels import Labels
from lm.answers.span import Span
from lm.answers.text import Text
from lm.config import Config
from lm.config.tasks import answer_of
from lm.data.text.tokenizers.tokenizer import Tokenizer

ANSWERS: dict[str, type[Answer]] = {"text": Text, "labels": Labels, "choice": Choice, "span": Span}


def build(config: Config, tokenizer: Tokenizer, labels: Sequence[str] = ()) -> Answer:
    """Returns the answer of a configuration's task; `labels` are those that `Answer.labels_of` reads from the training
    data.
    """
    return ANSWERS[answer_of(config)].build(config, tokenizer, labels)


__all__ = ["ANSWERS", "Answer", "build"]
