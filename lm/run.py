"""A finished (or running) run, opened to generate and to score: `run = lm.load(workdir)`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from lm import checkpoints, generation, workdir
from lm.config import Config
from lm.data import pipeline, tokenizers
from lm.data.examples import Example, Listed
from lm.data.tokenizers import Tokenizer
from lm.errors import UserError
from lm.generation import Generation, Options, Score
from lm.models.encoder_decoder import EncoderDecoder
from lm.tasks import TASKS
from lm.training import initial_params


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run's directory says of its model; nothing is read from the corpus."""

    workdir: epath.Path
    step: int
    config: Config
    tokenizer: Tokenizer
    model: EncoderDecoder
    params: Any

    def generate(self, prompts: Sequence[str], options: Options | None = None) -> list[list[Generation]]:
        """Outputs for each prompt: the beginning of a text for a language model, else the source."""
        return generation.generate(self.model, self.params, self.tokenizer, prompts, options or Options())

    def score(self, examples: Sequence[Example | str | tuple[str, str]]) -> list[Score]:
        """Log-probabilities of texts, or of targets given sources, as `Example`s, strings or (source, target)."""

        def example(given):
            if isinstance(given, str):
                return Example(None, given)
            return given if isinstance(given, Example) else Example(*given)

        made = [example(given) for given in examples]
        pipeline.check_examples(Listed(made), self.config.data.task, "examples")
        return generation.score(self.model, self.params, self.tokenizer, made)


def generate_together(runs: Sequence[Run], prompts: Sequence[str], options: Options) -> list[list[Generation]]:
    """As `Run.generate`, of several runs: the mean of their probabilities at each token.

    Raises:
        UserError: they do not share a tokenizer, or some have an encoder and some have none.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.tokenizer.fingerprint != first.tokenizer.fingerprint or run.model.has_encoder != first.model.has_encoder:
            what = f"has another tokenizer or kind of task than {first.workdir}"
            raise UserError(str(run.workdir), what, "give runs of one tokenizer, e.g. with other seeds")
    members = [(run.model, run.params) for run in runs]
    return generation.generate_together(members, first.tokenizer, prompts, options)


def load(directory: str, checkpoint: str = "best") -> Run:
    """Opens a run.

    Args:
        directory: what `train.py` was given as `--workdir`.
        checkpoint: best (by validation loss), latest, or a step.

    Raises:
        UserError: no run there, no such checkpoint, or one that cannot be read.
    """
    path = epath.Path(directory).expanduser()
    config = workdir.read_config(path)
    saved = checkpoints.open_to_read(path / "checkpoints")
    step = checkpoints.resolve(saved, checkpoint)
    tokenizer = tokenizers.load_tokenizer(path / "tokenizer")
    model = EncoderDecoder(config.model, tokenizer.vocab_size, TASKS[config.data.task].has_source)
    shapes = jax.eval_shape(lambda: initial_params(model, config.seed))
    params, _, _ = saved.restore(step, shapes)
    saved.close()
    return Run(path, step, config, tokenizer, model, params)
