"""The TFDS builder of TinyWorld. After `import lm.tinyworld`, use e.g. `tfds.builder("tinyworld/translate")`."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lm.tinyworld import dialogue, questions, sentiment, stories, summaries, translate
from lm.tinyworld.grammar import sample

LOG_PROB = tfds.features.Scalar(dtype=np.float32, doc="nats, exact up to rounding")


SIZES = {"train": 20_000, "validation": 1_000, "test": 1_000}
DIFFICULTIES = {1: "easy", 2: "the default", 3: "hard"}


@dataclasses.dataclass(eq=False, kw_only=True)
class TinyworldConfig(tfds.core.BuilderConfig):
    """A config of TinyWorld. A new one needs a function `example` and an entry in `BUILDER_CONFIGS`."""

    example: Callable[[random.Random, int], dict[str, Any]]  # maps (generator, difficulty) to an example
    features: dict[str, Any]
    sizes: dict[str, int]  # number of examples of each split
    difficulty: int = 2
    seed: str = ""  # seed of all draws, with split and index; empty: the name

    def changed(self, difficulty: int | None, **sizes: int | None) -> "TinyworldConfig":
        """Returns this config with the given parameters, which become parts of its name, and so of its directory.

        The examples depend on the difficulty, but not on the sizes: a smaller split is the beginning of a larger one.

        Args:
            difficulty: a key of `DIFFICULTIES`; None: unchanged.
            sizes: numbers of examples by split; None: unchanged.

        Raises:
            ValueError: a parameter has an invalid value; the message names it.
        """
        changes = {split: size for split, size in sizes.items() if size is not None}
        for split, size in changes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"tinyworld: {split} is {size!r}; give the number of examples, at least 1")
        if difficulty is not None and (type(difficulty) is not int or difficulty not in DIFFICULTIES):
            choices = ", ".join(f"{level} ({meaning})" for level, meaning in DIFFICULTIES.items())
            raise ValueError(f"tinyworld: difficulty is {difficulty!r}; choose {choices}")
        difficulty = self.difficulty if difficulty is None else difficulty
        sizes = self.sizes | changes
        if difficulty == self.difficulty and sizes == self.sizes:
            return self
        seed = self.seed or self.name
        seed += f"-difficulty{difficulty}" * (difficulty != self.difficulty)
        name = seed + "".join(f"-{split}{size}" for split, size in sizes.items() if size != self.sizes.get(split))
        return dataclasses.replace(self, name=name, seed=seed, sizes=sizes, difficulty=difficulty)


def story(rng: random.Random, difficulty: int = 2) -> dict[str, Any]:
    """Returns one text; `log_prob` is the log-probability of the whole text, its end included."""
    world = stories.WORLDS[difficulty]
    phrases, log_prob = sample(lambda choose: list(stories.story(world, choose)), rng)
    return {"text": " ".join(phrases), "log_prob": log_prob}


def pair(ask: Callable, reply: Callable, worlds: dict, rng: random.Random, difficulty: int = 2) -> dict[str, Any]:
    """Returns a source from `ask` and a target from `reply`; `log_prob` is that of the target given the source."""
    (source, due), _ = sample(partial(ask, worlds[difficulty]), rng)
    target, log_prob = sample(partial(reply, due), rng)
    return {"source": source, "target": target, "log_prob": log_prob}


translation = partial(pair, translate.pair, translate.render, translate.WORLDS)


def _config(name: str, description: str, example: Callable, train: int = SIZES["train"]) -> TinyworldConfig:
    texts = ("text",) if example is story else ("source", "target")
    features = {text: tfds.features.Text() for text in texts} | {"log_prob": LOG_PROB}
    sizes = SIZES | {"train": train}
    return TinyworldConfig(name=name, description=description, example=example, features=features, sizes=sizes)


class Tinyworld(tfds.core.GeneratorBasedBuilder):
    """Independent examples from seeded grammars, each with its exact log-probability.

    The mean of the negative log-probabilities is the entropy of the generating process, called the floor: the lowest
    mean loss that any model can reach.

    Parameters are a part of the name, e.g. `tfds.builder("tinyworld/questions/train=500,difficulty=3")`, or keywords:
    `train`, `validation` and `test` are numbers of examples; `difficulty` is 1 (easy), 2 (the default) or 3 (hard).
    """

    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [
        _config("stories", "Short stories whose later sentences follow from the earlier ones.", story),
        _config("translate", "English sentences and their Chinese translations.", translation, train=30_000),
        _config(
            "sentiment",
            "Short reviews, and whether they are positive or negative.",
            partial(pair, sentiment.review, sentiment.label, sentiment.WORLDS),
        ),
        _config(
            "questions",
            "Facts with a question, and the answer that follows from them.",
            partial(pair, questions.question, questions.answer, questions.WORLDS),
        ),
        _config(
            "summaries",
            "Short stories, and what they come to.",
            partial(pair, summaries.story, summaries.summary, summaries.WORLDS),
        ),
        _config(
            "dialogue",
            "Conversations at a market stall, and the seller's next reply.",
            partial(pair, dialogue.conversation, dialogue.reply, dialogue.WORLDS),
        ),
    ]

    def __init__(
        self,
        *,
        train: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        difficulty: int | None = None,
        file_format: str | None = "array_record",  # the default of TFDS, tfrecord, needs TensorFlow
        **kwargs: Any,
    ):
        self._parameters = {"train": train, "validation": validation, "test": test, "difficulty": difficulty}
        super().__init__(file_format=file_format, **kwargs)
        self._original_state |= self._parameters  # the arguments that TFDS pickles

    def _create_builder_config(self, builder_config: Any, version: Any) -> TinyworldConfig:
        return super()._create_builder_config(builder_config, version).changed(**self._parameters)

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
        config = self.builder_config
        for index in range(config.sizes[split]):
            # A seed that is a string is hashed by SHA-512: equal in all processes, and unrelated between examples.
            rng = random.Random(f"{self.name}/{config.seed or config.name}/{split}/{index}")
            yield index, config.example(rng, config.difficulty)
