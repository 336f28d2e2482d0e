"""The recurrent decoder with a dense head; without an encoder it is a language model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig
from lm.layers.attention import Attention, Past, SelfAttention
from lm.layers.dense import Dense
from lm.layers.dropout import dropout
from lm.models.encoder import Encoder, Memory, recurrent_layer, take
from lm.recurrence import CELLS, State

DecoderState = tuple[State | Past, ...]  # one `State` per layer, then the `Past` if the decoder attends to it


def zero_states(config: ModelConfig, batch: int) -> DecoderState:
    """Returns the state in which a language model starts."""
    cell = CELLS[config.cell]
    states = tuple(cell.zero_state(batch, config.hidden_dim, config.heads) for _ in range(config.layers))
    return states + _no_past(config, (batch,))


def _no_past(config: ModelConfig, shape: tuple[int, ...]) -> tuple[Past, ...]:
    window = config.self_attention
    return (SelfAttention.none_yet(shape, window, config.hidden_dim),) if window else ()


class Features(NamedTuple):
    """The outputs of the decoder at each position, float32. Those of one step have no axis t."""

    values_btd: jax.Array  # the input of the head
    attention_bts: jax.Array | None = None  # weights over the positions of the source; None without attention
    gate_bt: jax.Array | None = None  # log-odds of writing a token against copying one; None if the model cannot copy


def log_mixture(gate: jax.Array, log_written: jax.Array, copied: jax.Array) -> jax.Array:
    """Returns log(p written + (1 - p) copied), where p is the sigmoid of the gate (See et al., 2017, equation 9)."""
    log_copied = jnp.log(jnp.maximum(copied, jnp.finfo(copied.dtype).tiny))  # of 0 the gradient would be NaN
    return jnp.logaddexp(jax.nn.log_sigmoid(gate) + log_written, jax.nn.log_sigmoid(-gate) + log_copied)


class Decoder(nn.Module):
    """The decoder: it maps embedded inputs to features for the head.

    With attention, the outputs of the lowest layer are the queries. Every layer above and the features read the
    context, the latter as `tanh(dense([output; context]))` (Luong et al., 2015). The lowest layer reads no context, so
    attention over a whole sequence is one product for all time steps. With `self_attention`, the outputs of the lowest
    layer first pass through `SelfAttention`.

    With `copy`, the decoder also computes, from output, context and input, the probability that the head writes the
    next token. Otherwise the token is copied from the attended position of the source (pointer-generator, See et al.,
    2017, equation 8). Attention does not read its own past as theirs does, since the time steps would then have to run
    one by one. Coverage is only a loss.
    """

    config: ModelConfig
    has_memory: bool

    def setup(self):
        config, self.attends = self.config, self.has_memory and self.config.attention != "none"
        value_dim = Encoder.value_dim(config)
        context = value_dim if self.attends else 0
        self.layers = [
            recurrent_layer(config, config.hidden_dim + context if depth else config.embed_dim)
            for depth in range(config.layers)
        ]
        if self.has_memory:
            width = CELLS[config.cell].start_blocks() * config.hidden_dim
            self.bridge = [Dense(width) for _ in range(config.layers)]
        if self.attends:
            self.attention = Attention(config, value_dim)
            self.combine = Dense(config.embed_dim if config.tied else config.hidden_dim, dtype=config.dtype)
            if config.copy:
                self.gate = Dense(1)
        if config.self_attention:
            self.self_attention = SelfAttention(config.self_attention, config.hidden_dim, config.dtype)

    def initial_state(self, memory: Memory) -> DecoderState:
        """Returns the state before the first token: for each layer, the cell's `start` of `tanh(dense(summary))`."""
        states = tuple(CELLS[self.config.cell].start(each, self.config.heads) for each in self._starts(memory))
        return states + _no_past(self.config, memory.summary_nz.shape[:-1])

    def keys(self, values_bsd: jax.Array) -> jax.Array:
        """Returns the keys that attention compares its queries with."""
        return self.attention.keys(values_bsd) if self.attends else values_bsd

    def unroll(
        self,
        inputs_btd: jax.Array,
        state: DecoderState,
        memory: Memory | None,
        mask_bt: jax.Array,
        reset_bt: jax.Array,
        keys_b: jax.Array | None,
    ) -> tuple[Features, DecoderState]:
        """The features and the final state. Feeding the gold tokens is teacher forcing."""
        rate, finals, context_tbd, weights_bts, gate_tb = self.config.dropout, [], None, None, None
        starts_tbz, example_bt = [None] * self.config.layers, None
        if memory is not None and memory.segments_bs is not None:
            example_bt = jnp.cumsum(reset_bt, axis=1) - 1
            starts_tbz = [take(each_bkz, example_bt).swapaxes(0, 1) for each_bkz in self._starts(memory)]
            state = jax.tree.map(lambda each_bkh: each_bkh[:, 0], state)
        values_tbd = inputs_tbd = inputs_btd.swapaxes(0, 1)
        states, past = self._split(state)
        for depth, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            values_tbd = dropout(values_tbd, rate, keys_b, place=100 + depth)
            if context_tbd is not None:
                values_tbd = jnp.concatenate([values_tbd, context_tbd], axis=-1)
            values_tbd, final = layer.unroll(values_tbd, before, mask_bt.T, reset_bt.T, starts_tbz=starts_tbz[depth])
            finals.append(final)
            if depth == 0 and past:
                values_btd, after = self.self_attention.unroll(values_tbd.swapaxes(0, 1), *past, mask_bt, reset_bt)
                values_tbd, past = values_btd.swapaxes(0, 1), (after,)
            if depth == 0 and self.attends:
                weights_bts = self._attend(values_tbd, memory, example_bt)
                context_tbd = self.attention.contexts(weights_bts, memory.values_bsd)
        if context_tbd is not None:
            gate_tb = self._gate(values_tbd, context_tbd, inputs_tbd)
            values_tbd = self._combine(values_tbd, context_tbd)
        values_tbd = dropout(values_tbd, rate, keys_b, place=200)
        features = Features(values_tbd.swapaxes(0, 1), weights_bts, None if gate_tb is None else gate_tb.T)
        return features, (*finals, *past)

    def step(self, inputs_bd: jax.Array, state: DecoderState, memory: Memory | None) -> tuple[Features, DecoderState]:
        """The features of one token and the state after it."""
        values_bd, context_bd, weights_bs, gate_b, after = inputs_bd, None, None, None, []
        states, past = self._split(state)
        for depth, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            if context_bd is not None:
                values_bd = jnp.concatenate([values_bd, context_bd], axis=-1)
            after.append(layer.step(values_bd, before))
            values_bd = after[-1].output_bh
            if depth == 0 and past:
                values_bd, *past = self.self_attention.step(values_bd, *past)
            if depth == 0 and self.attends:
                weights_b1s = self._attend(values_bd[None], memory)
                context_bd = self.attention.contexts(weights_b1s, memory.values_bsd)[0]
                weights_bs = weights_b1s[:, 0]
        if context_bd is not None:
            gate_b = self._gate(values_bd, context_bd, inputs_bd)
            values_bd = self._combine(values_bd, context_bd)
        return Features(values_bd, weights_bs, gate_b), (*after, *past)

    def _split(self, state):
        """Returns the states of the layers, and (past,), or () without a past."""
        return state[: self.config.layers], state[self.config.layers :]

    def _starts(self, memory):
        return [jnp.tanh(bridge(memory.summary_nz)) for bridge in self.bridge]

    def _attend(self, queries_tbh, memory, example_bt=None):
        mask_bts = memory.mask_bs[:, None]
        if example_bt is not None:
            mask_bts = mask_bts & (memory.segments_bs[:, None] == example_bt[..., None])
        return self.attention.weights(queries_tbh, memory.keys_bsk, mask_bts)

    def _gate(self, values, context, inputs):
        if not self.config.copy:
            return None
        return self.gate(jnp.concatenate([values, context, inputs], axis=-1))[..., 0]

    def _combine(self, values, context):
        return jnp.tanh(self.combine(jnp.concatenate([values, context], axis=-1))).astype(jnp.float32)
