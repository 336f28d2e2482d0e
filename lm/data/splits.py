"""The splits of a configuration: reads, checks and cleans their examples."""

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
    """Returns the wanted splits of a configuration by name, cleaned.

    Validation and test data keep all their examples; cleaning only changes their texts.

    Raises:
        UserError: a source cannot be read, an example does not fit the task, or cleaning drops all training examples.
    """
    steps.parse(config.cleaning)
    formats = formats_of(config)
    # Cleaning the training data may need the other splits, e.g. to drop examples that they contain.
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
            raise UserError("config.data.cleaning", "drops every training example", "remove a step from it")
        splits["train"] = dataclasses.replace(splits["train"], examples=kept, report=report)
    return {name: split for name, split in splits.items() if name in wanted}
