"""A run that is opened to generate and to score: `run = lm.load(workdir)`. It may still be training."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import linen as nn

from lm import answers, files
from lm.answers import chunks
from lm.answers.alignment import Alignment, alignment
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
    """A trained model, as a run's directory holds it. Nothing is read from the corpus."""

    workdir: epath.Path
    step: int
    config: Config
    answer: Answer  # the model, the tokenizer and the kind of answer
    params: Any
    weights: str = "one step"  # or a description of the mean that the parameters are

    @property
    def averaged(self) -> bool:
        """Whether the parameters are the mean of several checkpoints."""
        return self.weights.startswith("mean")

    @property
    def model(self) -> nn.Module:
        """The model, a Flax module."""
        return self.answer.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run."""
        return self.answer.tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels from which answers are chosen; () if the task has no labels."""
        return self.answer.labels

    def generate(self, prompts: Sequence[str], options: Options | None = None) -> list[list[Generation]]:
        """Returns the outputs for each prompt.

        Args:
            prompts: beginnings of texts for a language model, sources for other tasks. One string is one prompt.
            options: the options of decoding; None means the defaults.

        Raises:
            UserError: a prompt is not a text, or the options do not apply to the task.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if options is not None and not isinstance(options, Options):
            raise UserError("options", f"{options!r} is a {type(options).__name__}", "give lm.Options(...)")
        return generate_together([self], _texts(prompts, "prompts"), options or Options())

    def conversation(self, said: Sequence[str]) -> str:
        """Returns the source for the reply to the turns `said`, in the form that training data have.

        The last turn is the user's. The oldest turns are left out if there are more than `data.history`, or if the
        source would have more tokens than training pairs may have. One string is one turn.

        Raises:
            UserError: the run was not trained on conversations, or there is no turn.
        """
        data, said = self.config.data, _texts([said] if isinstance(said, str) else said, "turns")
        if not data.turns:
            reason = "was trained without config.data.turns, so it has no conversations"
            raise UserError(str(self.workdir), reason, "call generate with prompts")
        if not said:
            raise UserError("turns", "is empty", "give at least one turn to reply to")
        for first in range(len(said)):
            source = formats_of(data).conversation(said[first:])
            if len(self.tokenizer.encode(source)) < data.max_length:
                break
        return source

    def score(self, examples: Sequence[Example | str | tuple[str, str]]) -> list[Score]:
        """Returns the log-probabilities of texts, or of targets given their sources.

        Args:
            examples: a list of strings, of `Example` objects, or of tuples (source, target). One string or `Example`
                counts as a list of one; so does a tuple of two strings if the task has sources. Runs of `prefix` and
                `denoise` score pairs.

        Raises:
            UserError: an example is neither a text nor a pair, or has the wrong form for the task.
        """
        pair = isinstance(examples, tuple) and len(examples) == 2 and all(isinstance(text, str) for text in examples)
        if isinstance(examples, (str, Example)) or pair and self.model.has_encoder:
            examples = [examples]
        made = [_example(one) for one in _listed(examples, "examples")]
        check_examples(Listed(made), self.config.data.task, "examples", self.model.has_encoder)
        return self.answer.score(self.params, made)

    def alignment(self, source: str, target: str) -> Alignment:
        """Returns the attention weights with which the model predicts each token of the target.

        Raises:
            UserError: the model has no attention to a source, or an argument is not a text.
        """
        return alignment(self.answer, self.params, _example((source, target)))


def _listed(given: Any, where: str) -> list[Any]:
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise UserError(where, f"{given!r} is a {type(given).__name__}", "give a list of texts")
    return list(given)


def _texts(given: Any, where: str) -> list[str]:
    """Returns a list of texts; raises `UserError` for anything else, and for a text that cannot be UTF-8."""
    texts = _listed(given, where)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{where}[{number}]", f"{text!r} is a {type(text).__name__}", "give a text")
        if not files.encodable(text):
            raise UserError(f"{where}[{number}]", "is not UTF-8", "give a text without surrogates")
    return texts


def _example(given: Any) -> Example:
    example = Example(None, given) if isinstance(given, str) else given
    if not isinstance(example, Example) and isinstance(example, (tuple, list)) and len(example) == 2:
        example = Example(*example)
    if not isinstance(example, Example):
        raise UserError("examples", f"{given!r} is neither a text nor a pair", "give texts, or pairs (source, target)")
    _texts([example.target] if example.source is None else [example.source, example.target], "examples")
    return example


def _labels(directory: epath.Path, config: Config) -> tuple[str, ...]:
    if ANSWER_KINDS[answer_of(config)].among != "labels":
        return ()
    if (directory / "labels.json").exists():
        return workdir.read_labels(directory)
    if not manifest.vouches(directory, "train"):
        reason = (
            f"has no labels.json, and no manifest with a fingerprint of the data with its labels ({config.data.train})"
        )
        raise UserError(str(directory), reason, "restore labels.json or manifest.json from a copy of the run")
    from lm.data.splits import load_splits  # here, as it imports reading and cleaning, which other runs do not need

    train = load_splits(config.data, ("train",))["train"]
    manifest.check_unchanged(directory, {"train": train.fingerprint})
    return labels_of(train.examples)


def generate_together(runs: Sequence[Run], prompts: Sequence[str], options: Options) -> list[list[Generation]]:
    """Returns the outputs of several runs together, from the mean of their probabilities at each token.

    Arguments and result are those of `Run.generate`.

    Raises:
        UserError: the runs differ in tokenizer or kind of task.
    """
    (answer, params), *beside = _members(runs)
    return answer.answer(params, prompts, options, beside)


def generate_in_order(
    runs: Sequence[Run], prompts: Sequence[str], options: Options, done: int = 0
) -> Iterator[list[Generation]]:
    """Yields the items of `generate_together` as they are finished, without those of the first `done` prompts."""
    return chunks.answered(_members(runs), prompts, options, done)


def _members(runs: Sequence[Run]) -> list[tuple[Answer, Any]]:
    first, *others = runs
    for run in others:
        if run.answer.in_common() != first.answer.in_common():
            reason = f"has another tokenizer or kind of task than {first.workdir}"
            raise UserError(str(run.workdir), reason, "give runs with the same tokenizer, e.g. with different seeds")
    return [(run.answer, run.params) for run in runs]


def load(directory: str | os.PathLike[str], checkpoint: str | int = "best") -> Run:
    """Returns a run, opened from its directory.

    Args:
        directory: the `--workdir` of `train.py`.
        checkpoint: `best` (by validation loss), `latest`, a step, or `mean:N`, which averages the parameters of the
            last N checkpoints that are kept.

    Raises:
        UserError: the directory holds no run, or the checkpoint is missing or cannot be read.
    """
    if not isinstance(directory, (str, os.PathLike)):
        raise UserError(
            "workdir", f"{directory!r} is a {type(directory).__name__}", "give the path of a run's directory"
        )
    path = epath.Path(directory).expanduser()
    config = workdir.read_config(path)
    checkpoint = str(checkpoint)
    if not checkpoints.any_in(path / "checkpoints"):
        chosen.read(path, checkpoint, lambda saved, step: None)
    tokenizer = workdir.read_tokenizer(path)
    answer = answers.build(config, tokenizer, _labels(path, config))
    shapes = jax.eval_shape(lambda: initial_params(answer.model, config.seed))
    steps, weights, params = chosen.read(path, checkpoint, lambda saved, step: saved.restore(step, shapes)[0])
    if decay := config.optimizer.ema_decay:
        weights = f"EMA {decay:g}" if weights == "one step" else f"{weights} of EMA {decay:g}"
    return Run(path, steps[-1], config, answer, params, weights)
