"""Answers that rank a list of labels, which training data had: what the two kinds of them share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm.answers.contract import Answer, Generation
from lm.batch import EOS
from lm.data.read import store
from lm.data.read.examples import Examples
from lm.data.read.sources import Split
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError

MOST_LABELS = 1000  # that a task may rank


class Ranking(Answer):
    """The likeliest labels; their probabilities sum to one."""

    @classmethod
    def labels_of(cls, examples):
        return labels_of(examples)

    def label_log_probs(self, params: Any, sources: Sequence[str]) -> np.ndarray:
        """Returns float64 [sources, labels]: nats of each label, EOS included, given each source."""
        raise NotImplementedError

    def answer(self, params, prompts, options, beside=()):
        if options.num_samples > len(self.labels):
            raise UserError("--num_samples", f"there are {len(self.labels)} labels", "lower it")
        each = [answer.label_log_probs(own, prompts) for answer, own in ((self, params), *beside)]
        nats_nl = np.logaddexp.reduce(each, axis=0) - np.log(len(each))
        tokens = [len(self.tokenizer.encode(label)) + 1 for label in self.labels]
        found = []
        for prompt, nats_l in zip(prompts, nats_nl, strict=True):
            best = np.argsort(-nats_l, kind="stable")[: options.num_samples]
            found.append([Generation(prompt, self.labels[i], float(nats_l[i]), tokens[i], True) for i in best])
        return found


def label_ids(tokenizer: Tokenizer, labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Returns the ids of each label, its EOS included."""
    return tuple((*tokenizer.encode(label).tolist(), EOS) for label in labels)


def labels_of(examples: Examples) -> tuple[str, ...]:
    """Returns the targets of data, each once, in order; raises `UserError` where there are too many to rank."""

    def found() -> list[str]:
        labels = sorted({example.target for example in examples})
        if len(labels) > MOST_LABELS:
            what = f"the training data has {len(labels):,} different targets, too many to rank as labels"
            raise UserError("config.data.task", what, "use config.data.task=seq2seq")
        return labels

    # All of the text is read for it, so not at every start.
    return tuple(store.remembered(store.key_of("labels", examples.fingerprint), found))


def check_labels(split: Split, labels: Sequence[str]) -> None:
    """Raises `UserError` for a label that is none of these: its probability is 0."""
    unknown = sorted(set(labels_of(split.examples)) - set(labels))
    if unknown:
        what = f"the label {unknown[0]!r} is none of the training data's"
        raise UserError(f"config.data.{split.name}", what, "leave it out, or give training examples of it")
