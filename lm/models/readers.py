"""Encoders without a decoder: what comes out is a choice, of a label or of a span of the source.

A choice is worth the probability of the text that it stands for, so that its loss, in nats of the target, can be compared
with that of a decoder that writes the same text.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.batch import EOS, PAD
from lm.config import ModelConfig
from lm.layers.attention import Attention
from lm.layers.dropout import dropout
from lm.models.encoder import Encoder, take
from lm.models.inputs import Embedding

IMPOSSIBLE = -1e30  # the logit of what is no choice; a finite number, as in `Attention.weights`


class Reader(nn.Module):
    """Pure functions of the parameters. Those of embedding and encoder have the names that they have in an
    `EncoderDecoder`, so either can start from the other."""

    config: ModelConfig
    vocab_size: int

    has_encoder: ClassVar[bool] = True

    def setup(self):
        self.embedding = Embedding(self.config, self.vocab_size)
        self.encoder = Encoder(self.config)

    def choices(
        self, source_bs: jax.Array, targets_bt: jax.Array, keys_b: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """(logits_bc, float32; gold_bc: which choices stand for the target, its EOS included)."""
        return self.logits(source_bs, keys_b), self.gold(source_bs, targets_bt)

    def logits(self, source_bs: jax.Array, keys_b: jax.Array | None = None) -> jax.Array:
        """logits_bc, float32, `IMPOSSIBLE` of what a source has not."""
        raise NotImplementedError

    def gold(self, source_bs: jax.Array, targets_bt: jax.Array) -> jax.Array:
        """bool [b, c]."""
        raise NotImplementedError

    def __call__(self, inputs_bt: jax.Array, source_bs: jax.Array) -> jax.Array:
        """logits_bc; touches every parameter, so `init` uses it. What a decoder would read says nothing here."""
        return self.logits(source_bs)


def label_table(labels: tuple[tuple[int, ...], ...], width: int) -> np.ndarray:
    """labels_lt: the ids of each, filled up with `PAD`."""
    return np.array([[*ids, *[PAD] * (width - len(ids))] for ids in labels])


class Classifier(Reader):
    """A dense head over the labels on one vector of the encoder's outputs: their mean or their maximum over the source,
    or the last outputs of every layer and direction."""

    labels: tuple[tuple[int, ...], ...] = ()  # the ids of each, its EOS included

    def setup(self):
        super().setup()
        self.head = nn.Dense(len(self.labels))

    def logits(self, source_bs, keys_b=None):
        mask_bs = source_bs != PAD
        values_bsd, summary_bz = self.encoder(self.embedding(source_bs), mask_bs, keys_b)
        mask_bs1 = mask_bs[..., None]
        if self.config.pool == "last":
            pooled_bd = summary_bz
        elif self.config.pool == "mean":
            pooled_bd = jnp.sum(values_bsd * mask_bs1, axis=1) / jnp.maximum(jnp.sum(mask_bs1, axis=1), 1)
        else:
            pooled_bd = jnp.max(jnp.where(mask_bs1, values_bsd, IMPOSSIBLE), axis=1)
            pooled_bd = jnp.where(mask_bs1.any(axis=1), pooled_bd, 0)
        return self.head(dropout(pooled_bd[None], self.config.dropout, keys_b, place=200)[0])

    def gold(self, source_bs, targets_bt):
        width = max(targets_bt.shape[1], *map(len, self.labels))
        labels_lt = label_table(self.labels, width)
        targets_bt = jnp.pad(targets_bt, [(0, 0), (0, width - targets_bt.shape[1])])
        return jnp.all(targets_bt[:, None] == labels_lt, axis=-1)


class Extractor(Reader):
    """A pointer to the first and to the last position of a span of the source (Wang and Jiang, 2017, the boundary model).

    The logit of a span is the sum of two scores, those of a query each, which is read from the fixed-length vector;
    their softmax is over all spans of at most `span` positions (Lee et al., 2017, "RaSoR"). A text has the
    probability of all spans that hold its ids (Kadlec et al., 2016). The source's EOS alone is the span without text.

    A choice's number is `first * span + last - first`.
    """

    span: int = 30

    def setup(self):
        super().setup()
        self.queries = nn.Dense(2 * self.config.hidden_dim)
        self.pointer = Attention(self.config, Encoder.value_dim(self.config))

    def logits(self, source_bs, keys_b=None):
        values_bsd, summary_bz = self.encoder(self.embedding(source_bs), source_bs != PAD, keys_b)
        values_bsd = dropout(values_bsd.swapaxes(0, 1), self.config.dropout, keys_b, place=200).swapaxes(0, 1)
        queries_b2h = jnp.tanh(self.queries(summary_bz)).reshape(-1, 2, self.config.hidden_dim)
        scores_b2s = self.pointer.scores(queries_b2h, self.pointer.keys(values_bsd))
        ids_bsn = self._spans(source_bs)
        # The source ends with its EOS: a span that is longer than one position ends before it.
        within_bsn = (ids_bsn != PAD) & ((ids_bsn != EOS) | (jnp.arange(self.span) == 0))
        logits_bsn = scores_b2s[:, 0, :, None] + self._spans(scores_b2s[:, 1])
        return jnp.where(within_bsn, logits_bsn, IMPOSSIBLE).reshape(len(source_bs), -1)

    def gold(self, source_bs, targets_bt):
        targets_bn = jnp.pad(targets_bt, [(0, 0), (0, max(0, self.span - targets_bt.shape[1]))])[:, : self.span]
        count_b = jnp.maximum(jnp.sum(targets_bt != PAD, axis=1) - 1, 1)  # without its EOS, or that alone
        return self._equal(source_bs, targets_bn, count_b)

    def same(self, source_bs: jax.Array, choices_b: jax.Array) -> jax.Array:
        """bool [b, c]: the choices of the same ids as one of them."""
        first_b, more_b = jnp.divmod(choices_b, self.span)
        return self._equal(source_bs, take(self._spans(source_bs), first_b[:, None])[:, 0], more_b + 1)

    def _equal(self, source_bs, ids_bn, count_b):
        same_bsn = jnp.cumprod(self._spans(source_bs) == ids_bn[:, None], axis=-1) > 0
        return (same_bsn & (jnp.arange(1, self.span + 1) == count_b[:, None])[:, None]).reshape(len(source_bs), -1)

    def _spans(self, each_bs):
        """[b, s, n]: what stands at each position and at those after it, 0 beyond the end."""
        padded = jnp.pad(each_bs, [(0, 0), (0, self.span - 1)])
        return padded[:, jnp.arange(each_bs.shape[1])[:, None] + jnp.arange(self.span)]
