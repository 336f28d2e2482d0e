"""The splits of a configuration: examples that are read, cleaned and checked."""

import dataclasses
from collections.abc import Collection

import numpy as np

from lm.config import DataConfig
from lm.config.formats import Formats
from lm.config.tasks import TASKS
from lm.data.read import sources
from lm.data.read.examples import Examples, Joined
from lm.data.read.sources import Split
from lm.data.text.cleaning import cleaner, steps
from lm.errors import UserError


def load_splits(config: DataConfig, wanted: Collection[str] = ("train", "validation", "test")) -> dict[str, Split]:
    """The wanted splits of a configuration, cleaned; every example must fit the task."""
    steps.parse(config.cleaning)
    formats = formats_of(config)
    # What is dropped of the training data may depend on the others.
    read = ("train", "validation", "test") if "train" in wanted else wanted
    splits = sources.load_splits(config.train, config.validation, config.test, read, formats)
    for split in splits.values():
        check_examples(split.examples, config.task, f"config.data.{split.name}")
    if config.cleaning:
        for name in splits.keys() - {"train"}:
            changed = cleaner.changed(splits[name].examples, config.cleaning)
            splits[name] = dataclasses.replace(splits[name], examples=changed)
    if "train" in splits:
        evaluation = Joined([split.examples for name, split in splits.items() if name != "train"])
        kept, report = cleaner.cleaned(splits["train"].examples, config.cleaning, evaluation)
        if not len(kept):
            raise UserError("config.data.cleaning", "drops every training example", "take a step out of it")
        splits["train"] = dataclasses.replace(splits["train"], examples=kept, report=report)
    return {name: split for name, split in splits.items() if name in wanted}


def formats_of(config: DataConfig) -> Formats:
    """How the records of a configuration's sources become examples."""
    return Formats(config.source_format, config.target_format, tuple(config.turns), config.history)


def check_examples(examples: Examples, task: str, where: str) -> None:
    """Raises `UserError` if an example has no source and the task needs one, or the other way round."""
    wants = TASKS[task].pairs
    wrong = np.flatnonzero((examples.table[:, 0] >= 0) != wants)
    if len(wrong):
        has, needs = ("text", "source and target") if wants else ("source and target", "text")
        other = "lm" if wants else "seq2seq"
        what = f"example {wrong[0] + 1} is {has}, the task {task!r} needs {needs}"
        raise UserError(where, what, f"use other data, or config.data.task={other}")
