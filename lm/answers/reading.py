"""Answers that an encoder gives without a decoder: one of several choices, a label or a span of the source.

The probability of a choice is that of its text. So its loss, in nats per target, can be compared with the loss of a
decoder that writes the same text.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.answers.alternatives import alternative_nats
from lm.answers.contract import NO_NOISE, Answer
from lm.batch import Batch, Source
from lm.config import ModelConfig
from lm.models.encoder import Encoder
from lm.models.inputs import INPUTS, Embedding


class Reader(nn.Module):
    """A model without a decoder: pure functions of the parameters.

    The parameters of embedding and encoder have the same names as in an `EncoderDecoder`, so each can start from the
    other.
    """

    config: ModelConfig
    vocab_size: int
    source: str = "text"  # a key of INPUTS

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads a source, as every reader does."""
        return True

    def setup(self):
        self.embedding = Embedding(self.config, self.vocab_size)
        self.source_input = INPUTS[self.source](self.embedding)
        self.encoder = Encoder(self.config)

    def encode(self, source: Source, keys_b: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns (values_bsd, summary_bz) of the encoder."""
        return self.encoder(self.source_input(source), source.mask_bs, keys_b)

    def choices(self, batch: Batch, keys_b: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns logits_bc, float32, and gold_bc, which marks the choices that mean the target, its EOS included."""
        return self.logits(batch.source, keys_b), self.gold(batch)

    def logits(self, source: Source, keys_b: jax.Array | None = None) -> jax.Array:
        """Returns logits_bc, float32, `IMPOSSIBLE` for choices that a source does not have."""
        raise NotImplementedError

    def gold(self, batch: Batch) -> jax.Array:
        """Returns bool [b, c]."""
        raise NotImplementedError

    def __call__(self, inputs_bt: jax.Array, source: Source) -> jax.Array:
        """Returns logits_bc. `init` uses it, as it touches every parameter. The inputs of a decoder have no effect."""
        return self.logits(source)


class Reading(Answer):
    """The answer of a `Reader`: its target is one decision, whose nats are at the first position."""

    def loss(self, params, carry, batch, noise=NO_NOISE):
        nats_b = self._nats(params, batch, noise.keys_b, self.objective.label_smoothing, self.objective.z_loss)
        return jnp.sum(jnp.where(batch.weights_bt[:, 0] > 0, nats_b, 0)), (jnp.sum(batch.weights_bt), ())

    def nats(self, params, carry, batch):
        nats_b = self._nats(params, batch)
        first_bt = (jnp.arange(batch.targets_bt.shape[1]) == 0) & (batch.weights_bt > 0)
        return jnp.where(first_bt, nats_b[:, None], 0), ()

    def _nats(self, params, batch, keys_b=None, label_smoothing=0.0, z_loss=0.0):
        found = self.model.apply({"params": params}, batch, keys_b, method="choices")
        return alternative_nats(*found, label_smoothing, z_loss)


@functools.partial(jax.jit, static_argnums=0)
def choice_log_probabilities(model: Reader, params: Any, source: Source) -> jax.Array:
    """Returns log_prob_bc, nats, of each choice of a `Reader`, as one program."""
    return jax.nn.log_softmax(model.apply({"params": params}, source, method="logits"))
