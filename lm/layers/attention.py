"""Attention over the encoder's outputs and over the decoder's own past.

The kinds are `dot` (Luong et al., 2015, "general") and `additive` (Bahdanau et al., 2015).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig
from lm.layers.dense import Dense
from lm.recurrence import initial


class Attention(nn.Module):
    """Computes scores, weights and contexts of queries, time first. `keys` are computed once per sequence.

    The scores of `dot` are divided by the root of the memory's dimension, as in Vaswani et al. (2017); Luong et al. do
    not divide. The query is the output of the step, as in Luong et al.; Bahdanau et al. use the state before the step.
    """

    config: ModelConfig
    memory_dim: int

    def setup(self):
        dense = lambda width, bias: Dense(width, use_bias=bias, dtype=self.config.dtype)
        if self.config.attention == "dot":
            self.query = dense(self.memory_dim, False)
        else:
            self.query, self.key = dense(self.config.hidden_dim, True), dense(self.config.hidden_dim, False)
            self.energy = self.param("energy", initial.normal(self.config.hidden_dim**-0.5), (self.config.hidden_dim,))

    def keys(self, values_bsd: jax.Array) -> jax.Array:
        """Returns keys_bsk; for `dot` they are the values."""
        return values_bsd if self.config.attention == "dot" else self.key(values_bsd)

    def scores(self, queries_tbh: jax.Array, keys_bsk: jax.Array) -> jax.Array:
        """Returns scores_bts, float32, of each query and each position, without a mask."""
        queries = self.query(queries_tbh)  # W q_t
        if self.config.attention == "dot":
            scores_bts = jnp.einsum("tbk,bsk->bts", queries, keys_bsk.astype(queries.dtype))
            return scores_bts.astype(jnp.float32) * self.memory_dim**-0.5  # (W q_t) . k_s / sqrt(d)
        mixed = jnp.tanh(queries[:, :, None] + keys_bsk).astype(jnp.float32)
        return jnp.einsum("tbsk,k->bts", mixed, self.energy)  # v . tanh(W q_t + U k_s)

    def weights(self, queries_tbh: jax.Array, keys_bsk: jax.Array, mask_bts: jax.Array) -> jax.Array:
        """Returns weights_bts, float32, with sum 1, and 0 where the mask is False. A mask of one `t` serves all."""
        # The number is finite: with -inf, a sequence without any source (padding of the batch) would give NaN.
        return jax.nn.softmax(jnp.where(mask_bts, self.scores(queries_tbh, keys_bsk), -1e30))

    def contexts(self, weights_bts: jax.Array, values_bsd: jax.Array) -> jax.Array:
        """Returns contexts_tbd, float32: the sums of the values, weighted by the attention."""
        dtype = self.config.dtype
        contexts = jnp.einsum("bts,bsd->tbd", weights_bts.astype(dtype), values_bsd.astype(dtype))
        return contexts.astype(jnp.float32)


class Past(NamedTuple):
    """The last outputs of a decoder's lowest layer, oldest first. It is part of the decoder's state."""

    values_bmh: jax.Array
    real_bm: jax.Array  # False for positions before the start of the text


class SelfAttention(nn.Module):
    """Attention of a recurrent decoder to its own last outputs (after Cheng et al., 2016, and Daniluk et al., 2017).

    It reads the `window` outputs before. An output becomes `tanh(dense([output; context]))`. The context is a weighted
    sum of the outputs before it. Daniluk et al. divide an output into key and value; here it serves as both, and the
    query is `dense(output)`, as in `dot`. One more position with score 0 and value 0 can be attended to; it is all that
    the first token of a text can read. The state has constant size, and the cost grows with the window, not with the
    text.
    """

    window: int
    dim: int
    dtype: str

    def setup(self):
        self.query = Dense(self.dim, use_bias=False, dtype=self.dtype)
        self.combine = Dense(self.dim, dtype=self.dtype)

    @staticmethod
    def none_yet(shape: tuple[int, ...], window: int, dim: int) -> Past:
        """Returns the past at the start of a text, for sequences of this shape."""
        return Past(jnp.zeros((*shape, window, dim)), jnp.zeros((*shape, window), bool))

    def unroll(
        self, values_bth: jax.Array, past: Past, mask_bt: jax.Array, reset_bt: jax.Array
    ) -> tuple[jax.Array, Past]:
        """Returns the combined outputs, and the past after them.

        Positions where the mask is False have no output. A text starts where `reset_bt` is True.
        """
        window = self.window
        all_bsh = jnp.concatenate([past.values_bmh, values_bth], axis=1)
        real_bs = jnp.concatenate([past.real_bm, mask_bt], axis=1)
        text_bs = jnp.concatenate([jnp.zeros_like(past.real_bm, int), jnp.cumsum(reset_bt, axis=1)], axis=1)
        # A position without an output does not count for the window.
        places_bs = jnp.concatenate([jnp.ones_like(past.real_bm), mask_bt], axis=1)
        rank_bs = jnp.cumsum(places_bs, axis=1)
        rank_bt, text_bt = rank_bs[:, window:, None], text_bs[:, window:, None]
        sees_bts = (rank_bs[:, None] < rank_bt) & (rank_bs[:, None] >= rank_bt - window)
        sees_bts &= real_bs[:, None] & (text_bs[:, None] == text_bt)
        combined_bth = self._combined(values_bth, all_bsh, sees_bts)
        # The last `window` positions with an output, in order.
        order_bs = jnp.argsort(~places_bs, axis=1, stable=True)
        last_bm = jnp.take_along_axis(order_bs, jnp.sum(mask_bt, axis=1)[:, None] + jnp.arange(window), axis=1)
        taken = lambda x: jnp.take_along_axis(x, last_bm, axis=1)
        values_bmh = jnp.take_along_axis(all_bsh, last_bm[..., None], axis=1)
        return combined_bth, Past(values_bmh, taken(real_bs) & (taken(text_bs) == text_bs[:, -1:]))

    def step(self, values_bh: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Returns the combined output of one step, and the past after it."""
        combined_b1h = self._combined(values_bh[:, None], past.values_bmh, past.real_bm[:, None])
        shifted = lambda old, new: jnp.concatenate([old[:, 1:], new[:, None]], axis=1)
        real_b = jnp.ones(values_bh.shape[:1], bool)
        return combined_b1h[:, 0], Past(shifted(past.values_bmh, values_bh), shifted(past.real_bm, real_b))

    def _combined(self, outputs_bth, values_bsh, sees_bts):
        queries, values = self.query(outputs_bth), values_bsh.astype(self.dtype)
        scores_bts = jnp.einsum("bth,bsh->bts", queries, values).astype(jnp.float32) * self.dim**-0.5
        scores_bts = jnp.where(sees_bts, scores_bts, -1e30)  # finite, as in `Attention.weights`
        weights_bts = jax.nn.softmax(jnp.pad(scores_bts, [(0, 0), (0, 0), (0, 1)]))[..., :-1]  # with the score 0
        contexts_bth = jnp.einsum("bts,bsh->bth", weights_bts.astype(self.dtype), values).astype(jnp.float32)
        return jnp.tanh(self.combine(jnp.concatenate([outputs_bth, contexts_bth], axis=-1))).astype(jnp.float32)
