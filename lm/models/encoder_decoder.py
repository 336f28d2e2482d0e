"""The whole model: embedding, encoder (if the task has a source), decoder, dense head."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.batch import BOS, Source
from lm.config import ModelConfig
from lm.layers.recurrent import adaptable
from lm.models.decoder import Decoder, DecoderState, Features, log_mixture, zero_states
from lm.models.encoder import Encoder, Memory, segments
from lm.models.inputs import INPUTS, Embedding, text_before_target, text_mask
from lm.recurrence import initial
from lm.recurrence.base import dot


class EncoderDecoder(nn.Module):
    """An encoder-decoder, or a language model without an encoder.

    Its methods are pure functions of the parameters: `encode`, `initial_state`, `unroll`, `step`, `head`, `logits`.
    They take `keys_b`, one dropout key per example, or None for no dropout; there is no other mode. Ids are int32.
    `PAD` in the inputs leaves the state unchanged, and so does a False in the mask of a source.
    """

    config: ModelConfig
    vocab_size: int
    source: str = ""  # a key of INPUTS, the kind of source; empty: a language model, which has none

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads a source."""
        return self.source != ""

    def setup(self):
        self.embedding = Embedding(self.config, self.vocab_size)
        own_encoder = self.has_encoder and self.config.encoder != "decoder"
        if own_encoder:
            self.source_input = INPUTS[self.source](self.embedding)
            self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config, has_memory=own_encoder)
        if not self.config.tied:
            # The decoder's features are as wide as a recurrent layer.
            shape = (self.config.hidden_dim, self.vocab_size)
            head_kernel = self.param("head_kernel", initial.lecun_normal, shape)
            self.head_kernel = adaptable(
                self, "head_kernel", head_kernel, self.config.lora_rank, self.config.lora_alpha
            )
        self.head_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,))

    def encode(
        self, source: Source, keys_b: jax.Array | None = None, source_ends_bk: jax.Array | None = None
    ) -> Memory:
        """Returns the memory of a source; with `source_ends_bk` (see `Batch`) its sequences are packed.

        With `encoder=decoder` the memory is the state before the last token of the source, and this token. `unroll` and
        `step` read the token in place of BOS, as source and target are one text.
        """
        if self.config.encoder == "decoder":
            before_bs, last_b = text_before_target(source)
            _, state = self.unroll(before_bs, zero_states(self.config, len(before_bs)), keys_b=keys_b)
            return Memory(None, None, source.mask_bs, None, own=(state, last_b))
        values_bsd, summary_nz = self.encoder(self.source_input(source), source.mask_bs, keys_b, source_ends_bk)
        segments_bs = None if source_ends_bk is None else segments(source_ends_bk, source.mask_bs.shape[1])
        keys_bsk, ids_bs = self.decoder.keys(values_bsd), source.values if self.config.copy else None
        return Memory(values_bsd, keys_bsk, source.mask_bs, summary_nz, segments_bs, ids_bs)

    def initial_state(self, memory: Memory) -> DecoderState:
        """Returns the state before the first token, [b, h], or of each packed example, [b, k, h].

        Without an encoder it is `zero_states`.
        """
        return self.decoder.initial_state(memory) if memory.own is None else memory.own[0]

    def unroll(
        self,
        inputs_bt: jax.Array,
        state: DecoderState,
        memory: Memory | None = None,
        reset_bt: jax.Array | None = None,
        keys_b: jax.Array | None = None,
    ) -> tuple[Features, DecoderState]:
        """Returns the features of all inputs and the final state.

        `reset_bt` is True where a document starts, and clears the state. If the sequences of `memory` are packed, the
        k-th reset of a sequence starts its k-th example: from its own `initial_state`, and with attention only to its
        own source.
        """
        reset_bt = jnp.zeros_like(inputs_bt, bool) if reset_bt is None else reset_bt
        embedded_btd = self.embedding(self._continued(inputs_bt, memory))
        return self.decoder.unroll(embedded_btd, state, memory, text_mask(inputs_bt), reset_bt, keys_b)

    def step(
        self, ids_b: jax.Array, state: DecoderState, memory: Memory | None = None
    ) -> tuple[Features, DecoderState]:
        """Returns the features of one token and the state after it; `logits` of the features belong to the token after
        `ids_b`.
        """
        return self.decoder.step(self.embedding(self._continued(ids_b, memory)), state, memory)

    @staticmethod
    def _continued(ids, memory):
        """Returns the ids with the last token of the source in place of BOS, if the decoder reads the source itself."""
        if memory is None or memory.own is None:
            return ids
        last_b = memory.own[1]
        return jnp.where(ids == BOS, last_b.reshape(-1, *[1] * (ids.ndim - 1)), ids)

    def head(self) -> tuple[jax.Array, jax.Array]:
        """Returns kernel_dv and bias_v."""
        kernel_dv = self.embedding.table().T if self.config.tied else self.head_kernel
        return kernel_dv, self.head_bias

    def logits(self, features: Features, memory: Memory | None = None) -> jax.Array:
        """Returns logits_btv, float32, or logits_bv of one step.

        For a model that copies they are the logarithms of the mixture's probabilities. It copies ids, the pieces or
        bytes of the source, so no word is outside its vocabulary.
        """
        kernel_dv, bias_v = self.head()
        logits = dot(features.values_btd, kernel_dv, self.config.dtype) + bias_v
        if features.gate_bt is None:
            return logits
        scatter = lambda weights, ids_s: jnp.zeros(weights.shape[:-1] + bias_v.shape).at[..., ids_s].add(weights)
        copied = jax.vmap(scatter)(features.attention_bts, memory.ids_bs)
        return log_mixture(features.gate_bt[..., None], jax.nn.log_softmax(logits), copied)

    def __call__(self, inputs_bt: jax.Array, source: Source | None = None) -> jax.Array:
        """Returns logits_btv under teacher forcing, from the initial state. `init` uses it, as it reads every
        parameter.
        """
        memory, state = None, zero_states(self.config, inputs_bt.shape[0])
        if self.has_encoder:
            memory = self.encode(source)
            state = self.initial_state(memory)
        features, _ = self.unroll(inputs_bt, state, memory)
        return self.logits(features, memory)
