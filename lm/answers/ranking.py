"""Answers that rank the labels of the training data: the parts that both kinds share."""

import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn

from lm.answers import shapes
from lm.answers.contract import Answer, Generation
from lm.batch import EOS, Source
from lm.config.tasks import TASKS
from lm.data import labelling
from lm.data.read.examples import Examples
from lm.data.read.sources import Split
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError


class Ranking(Answer):
    """The likeliest labels; their probabilities sum to one."""

    module: ClassVar[type[nn.Module]]  # the model's class, which is given the ids of the labels

    @classmethod
    def labels_of(cls, examples):
        return labels_of(examples)

    @classmethod
    def model_of(cls, config, tokenizer, labels):
        ids = label_ids(tokenizer, labels)
        return cls.module(config.model, tokenizer.vocab_size, TASKS[config.data.task].source, ids)

    @functools.cached_property
    def tells_apart(self):
        return len({*label_ids(self.tokenizer, self.labels)}) == len(self.labels)

    def log_probs_of(self, params: Any, source: Source) -> np.ndarray:
        """Returns float64 [b, labels]: the log-probability of each label with its EOS, given each source of a batch."""
        raise NotImplementedError

    def rows_at_once(self) -> int:
        """The number of sources that `log_probs_of` reads in one batch."""
        return shapes.BATCH

    def label_log_probs(self, params: Any, sources: Sequence[str]) -> np.ndarray:
        """Returns float64 [sources, labels], as `log_probs_of`; sources of similar length are read in one batch."""
        values = [self.front_end.prompt(source, self.tokenizer) for source in sources]
        order = sorted(range(len(sources)), key=lambda i: len(values[i]))
        found, rows = np.zeros((len(sources), len(self.labels))), self.rows_at_once()
        for at in range(0, len(order), rows):
            chosen = order[at : at + rows]
            count = shapes.power_of_two(len(chosen), 1)
            source = shapes.padded_source([values[i] for i in chosen], count, self.front_end)
            found[chosen] = self.log_probs_of(params, source)[: len(chosen)]
        return found

    def answer(self, params, prompts, options, beside=(), before=MappingProxyType({})):
        self.refuse_constraints(options)
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
    """Returns the different targets of the data, in order; raises `UserError` if there are too many to rank."""
    counts = labelling.counted(examples)
    if counts.different > labelling.MOST_LABELS:
        reason = f"the training data has {counts.different:,} different targets, too many to rank as labels"
        raise UserError("config.data.task", reason, "use config.data.task=seq2seq")
    return tuple(sorted(counts.each))


def check_labels(split: Split, labels: Sequence[str]) -> None:
    """Raises `UserError` for a label that is none of these: its probability is 0."""
    unknown = sorted(set(labels_of(split.examples)) - set(labels))
    if unknown:
        reason = f"the label {labelling.quoted(unknown[0])} is none of the training data's"
        action = "leave it out, or give training examples of it"
        written = [label for label in labels if labelling.written_alike(label) == labelling.written_alike(unknown[0])]
        action = f"write {labelling.quoted(written[0])}, which training has, or {action}" if written else action
        raise UserError(f"config.data.{split.name}", reason, action)
