"""The splits of a configuration: examples that are read, cleaned and checked."""

import dataclasses
from collections.abc import Collection

from lm.config import DataConfig
from lm.config.formats import formats_of
from lm.data.read import sources
from lm.data.read.examples import Joined, check_examples
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
