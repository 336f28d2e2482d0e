"""What a model is worth on a split: loss through `unroll`, and text through the loop that samples."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from lm import generation, metrics
from lm.config import Config
from lm.data import batches, pipeline
from lm.data.batches import Batch
from lm.data.pipeline import Encoded
from lm.data.tokenizers import Tokenizer
from lm.generation import Generation, Options
from lm.losses import teacher_forced
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.parallel import AXIS, Devices
from lm.tasks import TASKS


def make_eval_step(model: EncoderDecoder) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array, Any]]:
    """(params, carry, batch) -> (sum of nats, real targets, carry), sums over all devices; no dropout, no smoothing."""

    def eval_step(params, carry, batch):
        total, (count, carry) = teacher_forced(model, params, carry, batch)
        return *lax.psum((total, count), AXIS), carry

    return eval_step


class Evaluator:
    """Scores one split, again and again, with the programs compiled once."""

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer, config: Config, devices: Devices, encoded: Encoded):
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.devices, self.encoded = devices, encoded
        self._step = devices.map(make_eval_step(model))

    def losses(self, params: Any, most_batches: int | None = None) -> tuple[float, float]:
        """(sum of nats, number of target tokens) over the split in one pass; `params` replicated on the devices."""
        found, carry = [], ()
        passed = pipeline.evaluation_batches(self.encoded, self.config.data)
        for batch in itertools.islice(passed, most_batches):
            rows = self.devices.rows(batch.inputs_bt.shape[0])
            if not self.model.has_encoder and not found:
                carry = self.devices.cut(zero_states(self.config.model, rows))
            total, count, carry = self._step(params, carry, self.devices.cut(batches.pad_rows(batch, rows)))
            found.append((total, count))
        sums = np.array([Devices.first(pair) for pair in found], np.float64)
        return tuple(sums.sum(axis=0))

    def generate(self, params: Any, limit: int | None, options: Options) -> list[Generation]:
        """One output for each of the first `limit` sources; `params` on the host or one device."""
        prompts = [example.source for example in self.encoded.split.examples[:limit]]
        return [one for (one,) in generation.generate(self.model, params, self.tokenizer, prompts, options)]

    def rehearse(self, params: Any) -> None:
        """Evaluates one batch and generates one token, so that what is broken breaks before the first update."""
        self.losses(params, most_batches=1)
        if self._scores(self.config.training.eval_examples):
            self.generate(Devices.first(params), 1, Options(temperature=0, max_new_tokens=1))

    def evaluate(self, params: Any, limit: int | None = None) -> dict[str, Any]:
        """The figures of the contract; text of the first `limit` examples is generated greedily and scored."""
        figures = self.figures(*self.losses(params))
        if self._scores(limit):
            generations = self.generate(Devices.first(params), limit, Options(temperature=0))
            figures |= self.scored(generations)
        return figures

    def figures(self, nats: float, tokens: float) -> dict[str, Any]:
        """loss (nats per token), perplexity, bits_per_byte, and the distance to the floor where the data knows it."""
        loss = nats / tokens
        figures = {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "bits_per_byte": nats / math.log(2) / self.encoded.target_bytes,
            "tokens": int(tokens),
        }
        if self.encoded.floor is not None:
            figures["nats_per_example"] = nats / len(self.encoded.corpus)
            figures["floor_nats_per_example"] = self.encoded.floor
        return figures

    def scored(self, generations: list[Generation], lowercase: bool = False, tokenize: str = "") -> dict[str, Any]:
        """The task's scores of outputs for the first examples."""
        references = [example.target for example in self.encoded.split.examples[: len(generations)]]
        outputs = [one.output for one in generations]
        names = TASKS[self.config.data.task].scores
        return metrics.scores(names, outputs, references, lowercase, tokenize) | {"generated": len(outputs)}

    def _scores(self, limit: int | None) -> bool:
        return bool(TASKS[self.config.data.task].scores) and limit != 0
