"""The TFDS builder: `tfds.builder("tinyworld/translate")` once `lm.data.tinyworld` is imported."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lm.data.tinyworld import stories, translate
from lm.data.tinyworld.grammar import sample

LOG_PROB = tfds.features.Scalar(dtype=np.float32, doc="nats, exact up to rounding")


@dataclasses.dataclass(eq=False, kw_only=True)
class TinyworldConfig(tfds.core.BuilderConfig):
    """A new config is a function from a random generator to an example, and an entry in `BUILDER_CONFIGS`."""

    example: Callable[[random.Random], dict[str, Any]]
    features: dict[str, Any]
    sizes: dict[str, int]  # examples of each split


def story(rng: random.Random) -> dict[str, Any]:
    """One text; `log_prob` is the text's own, its end included."""
    phrases, log_prob = sample(lambda choose: list(stories.story(STORIES, choose)), rng)
    return {"text": " ".join(phrases), "log_prob": log_prob}


def translation(rng: random.Random) -> dict[str, Any]:
    """One pair; `log_prob` is the target's, given the source."""
    (source, chinese), _ = sample(partial(translate.pair, TRANSLATE), rng)
    target, log_prob = sample(partial(translate.render, chinese), rng)
    return {"source": source, "target": target, "log_prob": log_prob}


STORIES, TRANSLATE = stories.World(), translate.World()


class Tinyworld(tfds.core.GeneratorBasedBuilder):
    """Independent draws from seeded grammars, each with its exact log-probability: the floor of any model's loss."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        TinyworldConfig(
            name="stories",
            description="Short stories whose later sentences follow from the earlier ones.",
            example=story,
            features={"text": tfds.features.Text(), "log_prob": LOG_PROB},
            sizes={"train": 20_000, "validation": 1_000, "test": 1_000},
        ),
        TinyworldConfig(
            name="translate",
            description="English sentences and their Chinese translations.",
            example=translation,
            features={"source": tfds.features.Text(), "target": tfds.features.Text(), "log_prob": LOG_PROB},
            sizes={"train": 30_000, "validation": 1_000, "test": 1_000},
        ),
    ]

    def __init__(self, *, file_format: str | None = "array_record", **kwargs: Any):
        # The default of TFDS is tfrecord, which needs TensorFlow.
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "TinyWorld: text drawn from small, unambiguous, seeded grammars. Every example carries its exact "
                "log-probability, so the mean of -log_prob is the entropy, which no model's loss can pass."
            ),
            features=tfds.features.FeaturesDict(self.builder_config.features),
            license="Apache-2.0",
            disable_shuffling=True,  # the draws are independent
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.builder_config.sizes}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(self.builder_config.sizes[split]):
            # A string seeds through SHA-512: the same in every process, and unrelated between examples.
            rng = random.Random(f"{self.name}/{self.builder_config.name}/{split}/{index}")
            yield index, self.builder_config.example(rng)
