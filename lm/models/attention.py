"""Attention over the encoder's outputs: `dot` (Luong et al., 2015, "general") and `additive` (Bahdanau et al., 2015)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig


class Attention(nn.Module):
    """`keys` prepares what queries are matched with, once a sequence; the call gives a context for each query."""

    config: ModelConfig
    memory_dim: int

    def setup(self):
        dense = lambda width, bias: nn.Dense(width, use_bias=bias, dtype=self.config.dtype)
        if self.config.attention == "dot":
            self.query = dense(self.memory_dim, False)
        else:
            self.query, self.key = dense(self.config.hidden_dim, True), dense(self.config.hidden_dim, False)
            self.energy = self.param(
                "energy", nn.initializers.normal(self.config.hidden_dim**-0.5), (self.config.hidden_dim,)
            )

    def keys(self, values_bsd: jax.Array) -> jax.Array:
        """keys_bsk; the values themselves for `dot`."""
        return values_bsd if self.config.attention == "dot" else self.key(values_bsd)

    def __call__(
        self, queries_bth: jax.Array, keys_bsk: jax.Array, values_bsd: jax.Array, mask_bts: jax.Array
    ) -> jax.Array:
        """contexts_btd, float32, by the `weights` of the positions."""
        return self.contexts(self.weights(queries_bth, keys_bsk, mask_bts), values_bsd)

    def scores(self, queries_bth: jax.Array, keys_bsk: jax.Array) -> jax.Array:
        """scores_bts, float32: how well each position matches, before any mask."""
        queries = self.query(queries_bth)
        if self.config.attention == "dot":
            scores_bts = jnp.einsum("btk,bsk->bts", queries, keys_bsk.astype(queries.dtype))
            return scores_bts.astype(jnp.float32) * self.memory_dim**-0.5
        mixed = jnp.tanh(queries[:, :, None] + keys_bsk[:, None]).astype(jnp.float32)
        return jnp.einsum("btsk,k->bts", mixed, self.energy)

    def weights(self, queries_bth: jax.Array, keys_bsk: jax.Array, mask_bts: jax.Array) -> jax.Array:
        """weights_bts, float32, of sum 1; none where the mask is False. A mask of one `t` holds for all."""
        # A finite number, not -inf: a row without any source (padding of the batch) must not become NaN.
        return jax.nn.softmax(jnp.where(mask_bts, self.scores(queries_bth, keys_bsk), -1e30))

    def contexts(self, weights_bts: jax.Array, values_bsd: jax.Array) -> jax.Array:
        """contexts_btd, float32."""
        dtype = self.config.dtype
        contexts = jnp.einsum("bts,bsd->btd", weights_bts.astype(dtype), values_bsd.astype(dtype))
        return contexts.astype(jnp.float32)
