"""A finished (or running) run, opened to generate and to score: `run = lm.load(workdir)`."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from lm import models
from lm.answers import generation, label_sets
from lm.answers.generation import Generation, Score
from lm.config import Config
from lm.config.formats import formats_of
from lm.config.tasks import TASKS
from lm.data.read.examples import Example, Listed, check_examples
from lm.data.text.tokenizers.saved import load_tokenizer
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.parameters import initial_params
from lm.models.readers import Reader
from lm.runs import checkpoints, workdir
from lm.search.options import Options


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run's directory says of its model; nothing is read from the corpus."""

    workdir: epath.Path
    step: int
    config: Config
    tokenizer: Tokenizer
    model: EncoderDecoder | Reader
    params: Any
    weights: str = "one step"  # or whatever mean of steps or checkpoints the parameters are

    @property
    def averaged(self) -> bool:
        """Whether the parameters are a mean of several checkpoints'."""
        return self.weights.startswith("mean")

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """What a task that ranks chooses from."""
        return _labels(self.workdir, self.config)

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
        return generation.score(self.model, self.params, self.tokenizer, made)


def _labels(directory: epath.Path, config: Config) -> tuple[str, ...]:
    path = directory / "labels.json"
    if not path.exists():  # a run of before it was written
        from lm.data.splits import load_splits  # all that reads and cleans, of which other runs have no use

        return label_sets.labels_of(load_splits(config.data, ("train",))["train"].examples)
    try:
        labels = json.loads(path.read_text())
        if isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels):
            return tuple(labels)
    except ValueError:
        pass
    raise UserError(str(path), "is no JSON list of labels", "move it away: they are read from the training data then")


def _kind(run: Run) -> tuple:
    """What runs that generate together have in common."""
    task, data = TASKS[run.config.data.task], run.config.data
    chosen = (data.span,) if task.points else run.labels if task.ranks else ()
    return run.tokenizer.fingerprint, run.model.has_encoder, task.chooses, chosen


def generate_together(runs: Sequence[Run], prompts: Sequence[str], options: Options) -> list[list[Generation]]:
    """As `Run.generate`, of several runs: the mean of their probabilities at each token.

    Raises:
        UserError: they do not share a tokenizer, or have tasks of other kinds.
    """
    first = runs[0]
    for run in runs[1:]:
        if _kind(run) != _kind(first):
            what = f"has another tokenizer or kind of task than {first.workdir}"
            raise UserError(str(run.workdir), what, "give runs of one tokenizer, e.g. with other seeds")
    members = [(run.model, run.params) for run in runs]
    labels = first.labels if TASKS[first.config.data.task].ranks else ()
    return generation.generate_together(members, first.tokenizer, prompts, options, labels)


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
    saved = checkpoints.open_to_read(path / "checkpoints")
    steps, weights = checkpoints.steps_of(saved, checkpoint)
    if decay := config.optimizer.ema_decay:
        weights = f"EMA {decay:g}" if weights == "one step" else f"{weights} of EMA {decay:g}"
    tokenizer = load_tokenizer(path / "tokenizer")
    labels = _labels(path, config) if TASKS[config.data.task].ranks else ()
    model = models.build(config, tokenizer.vocab_size, generation.label_ids(tokenizer, labels))
    shapes = jax.eval_shape(lambda: initial_params(model, config.seed))
    params = checkpoints.mean([saved.restore(step, shapes)[0] for step in steps])
    return Run(path, steps[-1], config, tokenizer, model, params, weights)
