"""The parts that all written answers share: teacher forcing, and the state that is carried."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lm.answers.contract import NO_NOISE, Answer, Noise
from lm.answers.copying import coverage_loss
from lm.batch import Batch, Source
from lm.models.decoder import DecoderState, Features, zero_states
from lm.models.encoder import Memory
from lm.models.encoder_decoder import EncoderDecoder


class Written(Answer):
    """The answer of an `EncoderDecoder`. A kind defines the cost of a position in training and its nats."""

    def cost(
        self, params: Any, features: Features, memory: Memory | None, batch: Batch, noise: Noise
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (sum of nats with the terms of the objective, number of real targets)."""
        raise NotImplementedError

    def position_nats(self, params: Any, features: Features, memory: Memory | None, batch: Batch) -> jax.Array:
        """Returns nats_bt of each target; values at positions without a target have no meaning."""
        raise NotImplementedError

    def first_carry(self, rows):
        return () if self.model.has_encoder else zero_states(self.model.config, rows)

    def loss(self, params, carry, batch, noise=NO_NOISE):
        memory, state = self._start(params, carry, batch, noise.keys_b)
        features, state = self._unroll(params, memory, state, batch, noise.keys_b)
        total, count = self.cost(params, features, memory, batch, noise)
        if self.objective.coverage:
            total += self.objective.coverage * coverage_loss(features.attention_bts, batch.weights_bt)
        return total, (count, state if carry else ())

    def nats(self, params, carry, batch):
        memory, state = self._start(params, carry, batch)
        nats_bt, state = self.nats_after(params, memory, state, batch)
        return nats_bt, state if carry else ()

    def nats_after(
        self, params: Any, memory: Memory | None, state: DecoderState, batch: Batch
    ) -> tuple[jax.Array, DecoderState]:
        """Returns the result of `nats` for targets whose source was read before."""
        features, state = self._unroll(params, memory, state, batch)
        nats_bt = self.position_nats(params, features, memory, batch)
        return jnp.where(batch.weights_bt > 0, nats_bt * batch.weights_bt, 0), state

    def attention(self, params: Any, batch: Batch) -> jax.Array:
        """Returns weights_bts, the attention to the source with which each target is predicted."""
        memory, state = self._start(params, (), batch)
        return self._unroll(params, memory, state, batch)[0].attention_bts

    def _start(self, params, carry, batch, keys_b=None):
        """Returns the memory of the source, and the state before the targets."""
        if not self.model.has_encoder:
            return None, carry or zero_states(self.model.config, batch.inputs_bt.shape[0])
        variables = {"params": params}
        memory = self.model.apply(variables, batch.source, keys_b, batch.source_ends_bk, method="encode")
        return memory, self.model.apply(variables, memory, method="initial_state")

    def _unroll(self, params, memory, state, batch, keys_b=None):
        """Returns the features of the gold tokens (teacher forcing), and the state after them."""
        given = (batch.inputs_bt, state, memory, batch.resets_bt, keys_b)
        return self.model.apply({"params": params}, *given, method="unroll")


@functools.partial(jax.jit, static_argnums=0)
def encode(model: EncoderDecoder, params: Any, source: Source) -> tuple[Memory, DecoderState]:
    """Returns (memory of the source, the decoder's state before a target), as one program."""
    memory = model.apply({"params": params}, source, method="encode")
    return memory, model.apply({"params": params}, memory, method="initial_state")
