"""A finished (or running) run, opened to generate and to score: `run = lm.load(workdir)`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from flax import linen as nn

from lm import answers
from lm.answers.contract import Answer, Generation, Score
from lm.answers.ranking import labels_of
from lm.config import Config
from lm.config.formats import formats_of
from lm.config.tasks import ANSWER_KINDS, answer_of
from lm.data.read.examples import Example, Listed, check_examples
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.models.parameters import initial_params
from lm.runs import checkpoints, chosen, manifest, workdir
from lm.search.options import Options


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run's directory says of its model; nothing is read from the corpus."""

    workdir: epath.Path
    step: int
    config: Config
    answer: Answer  # the model, the tokenizer, and what is answered
    params: Any
    weights: str = "one step"  # or whatever mean of steps or checkpoints the parameters are

    @property
    def averaged(self) -> bool:
        """Whether the parameters are a mean of several checkpoints'."""
        return self.weights.startswith("mean")

    @property
    def model(self) -> nn.Module:
        """The Flax module."""
        return self.answer.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which the run keeps."""
        return self.answer.tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that answers are chosen from; () where they are not chosen from a list."""
        return self.answer.labels

    def generate(self, prompts: Sequence[str], options: Options | None = None) -> list[list[Generation]]:
        """Outputs for each prompt: the beginning of a text for a language model, else the source."""
        return generate_together([self], prompts, options or Options())

    def conversation(self, said: Sequence[str]) -> str:
        """The source of the reply to `said`, turns of which the last is the user's, as training data has it: without the
        oldest turns, where there are more than `data.history` or, in all, more tokens than training pairs have."""
        data = self.config.data
        for first in range(len(said)):
            source = formats_of(data).conversation(said[first:])
            if len(self.tokenizer.encode(source)) < data.max_length:
                break
        return source

    def score(self, examples: Sequence[Example | str | tuple[str, str]]) -> list[Score]:
        """Log-probabilities of texts, or of targets given sources, as `Example`s, strings or (source, target)."""

        def example(given):
            if isinstance(given, str):
                return Example(None, given)
            return given if isinstance(given, Example) else Example(*given)

        made = [example(given) for given in examples]
        check_examples(Listed(made), self.config.data.task, "examples")
        return self.answer.score(self.params, made)


def _labels(directory: epath.Path, config: Config) -> tuple[str, ...]:
    if ANSWER_KINDS[answer_of(config)].among != "labels":
        return ()
    if (directory / "labels.json").exists():
        return workdir.read_labels(directory)
    if not manifest.vouches(directory, "train"):
        what = (
            f"has no labels.json, and no manifest vouches for the data that it would be read from ({config.data.train})"
        )
        raise UserError(str(directory), what, "put labels.json or manifest.json back from a copy of the run")
    from lm.data.splits import load_splits  # all that reads and cleans, of which other runs have no use

    train = load_splits(config.data, ("train",))["train"]
    manifest.check_unchanged(directory, {"train": train.fingerprint})
    return labels_of(train.examples)


def generate_together(runs: Sequence[Run], prompts: Sequence[str], options: Options) -> list[list[Generation]]:
    """As `Run.generate`, of several runs: the mean of their probabilities at each token.

    Raises:
        UserError: they do not share a tokenizer, or have tasks of other kinds.
    """
    first, *others = runs
    for run in others:
        if run.answer.in_common() != first.answer.in_common():
            what = f"has another tokenizer or kind of task than {first.workdir}"
            raise UserError(str(run.workdir), what, "give runs of one tokenizer, e.g. with other seeds")
    return first.answer.answer(first.params, prompts, options, [(run.answer, run.params) for run in others])


def load(directory: str, checkpoint: str = "best") -> Run:
    """Opens a run.

    Args:
        directory: what `train.py` was given as `--workdir`.
        checkpoint: best (by validation loss), latest, a step, or mean:N, the mean of the parameters of the last N
            checkpoints that are kept.

    Raises:
        UserError: no run there, no such checkpoint, or one that cannot be read.
    """
    path = epath.Path(directory).expanduser()
    config = workdir.read_config(path)
    if not checkpoints.any_in(path / "checkpoints"):
        chosen.read(path, checkpoint, lambda saved, step: None)
    tokenizer = workdir.read_tokenizer(path)
    answer = answers.build(config, tokenizer, _labels(path, config))
    shapes = jax.eval_shape(lambda: initial_params(answer.model, config.seed))
    steps, weights, params = chosen.read(path, checkpoint, lambda saved, step: saved.restore(step, shapes)[0])
    if decay := config.optimizer.ema_decay:
        weights = f"EMA {decay:g}" if weights == "one step" else f"{weights} of EMA {decay:g}"
    return Run(path, steps[-1], config, answer, params, weights)
