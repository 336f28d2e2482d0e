"""How what the encoder or the decoder reads becomes vectors."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig


class Embedding(nn.Module):
    """ids of any shape -> vectors, float32; `table` transposed is the tied head's kernel.

    A vector is a row of the table times sqrt(embed_dim) (Vaswani et al., 2017, section 3.4). So its numbers have variance 1 at
    first, as the layer above wants, and the row has norm 1, as the head wants. Rows without the factor are so small that
    almost nothing of the source comes through an encoder of several layers before thousands of updates.
    """

    config: ModelConfig
    vocab_size: int

    def setup(self):
        scale = nn.initializers.normal(self.config.embed_dim**-0.5)
        self.embedding = self.param("embedding", scale, (self.vocab_size, self.config.embed_dim))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding, ids, axis=0) * factor(self.config.embed_dim)

    def table(self) -> jax.Array:
        """[vocab, embed]."""
        return self.embedding


def factor(embed_dim: int) -> float:
    """By which a vector is larger than its row of the table."""
    return embed_dim**0.5
