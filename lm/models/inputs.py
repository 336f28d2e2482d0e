"""Inputs: the way in which the values of a source, or ids, become vectors on the device.

An entry of `INPUTS` is the second half of the front end with the same name (`lm/data/front_ends.py`). Only `Text` knows
the ids of text; nothing else in a model compares with `PAD`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.batch import BOS, EOS, PAD, Source
from lm.config import ModelConfig
from lm.recurrence import initial


class Embedding(nn.Module):
    """The embedding: it maps ids of any shape to vectors, float32. `table` transposed is the kernel of a tied head.

    A vector is a row of the table times sqrt(embed_dim) (Vaswani et al., 2017, section 3.4). Then the numbers of a
    vector have variance 1 at first, as the layer above expects, and a row has norm 1, as the head expects. Without the
    factor the vectors are so small that an encoder of several layers passes on almost nothing of the source for
    thousands of steps.
    """

    config: ModelConfig
    vocab_size: int

    def setup(self):
        scale = initial.normal(self.config.embed_dim**-0.5)
        self.embedding = self.param("embedding", scale, (self.vocab_size, self.config.embed_dim))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding, ids, axis=0) * factor(self.config.embed_dim)

    def table(self) -> jax.Array:
        """Returns the table, [vocab, embed]."""
        return self.embedding


def factor(embed_dim: int) -> float:
    """Returns the ratio of a vector to its row of the table."""
    return embed_dim**0.5


def text_mask(ids: jax.Array) -> jax.Array:
    """Returns a mask that is True for ids of text and False for padding."""
    return ids != PAD


def text_before_target(source: Source) -> tuple[jax.Array, jax.Array]:
    """Returns (before_bs, last_b): the text that a decoder reads before a target if it reads the source itself.

    The text is BOS and the source without its EOS. Its last token is the first input of the target, and is not in
    `before_bs`.
    """
    source_bs = jnp.where(source.mask_bs & (source.values != EOS), source.values, PAD)
    text_bs = jnp.pad(source_bs, [(0, 0), (1, 0)], constant_values=BOS)
    places_s = jnp.arange(text_bs.shape[1])
    last_b1 = jnp.max(jnp.where(text_mask(text_bs), places_s, 0), axis=1, keepdims=True)
    before_bs = jnp.where(places_s == last_b1, PAD, text_bs)
    return before_bs, jnp.take_along_axis(text_bs, last_b1, axis=1)[:, 0]


class Text(nn.Module):
    """The embeddings of a source's ids; the decoder shares the table."""

    embedding: Embedding

    def __call__(self, source: Source) -> jax.Array:
        """Returns vectors_bsd, float32."""
        return self.embedding(source.values)

    @staticmethod
    def smallest() -> Source:
        """Returns the smallest source that there is, for the shapes of parameters."""
        return Source(jnp.ones((1, 1), jnp.int32), jnp.ones((1, 1), bool))


# By the name of a front end: a module like `Text`, which is given the embedding of the decoder's ids. It may have
# parameters of its own; `embedding.config` is the model's configuration.
INPUTS: dict[str, type[nn.Module]] = {"text": Text}
