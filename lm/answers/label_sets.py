"""The labels that a classification task chooses from."""

from collections.abc import Sequence

from lm.data.read import store
from lm.data.read.examples import Examples
from lm.data.read.sources import Split
from lm.errors import UserError

MOST_LABELS = 1000  # that a task may rank


def labels_of(examples: Examples) -> tuple[str, ...]:
    """The targets of training data, each once, in order; raises `UserError` where there are too many to rank."""

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
