"""The recurrent encoder: a stack of layers, each in one or both directions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig
from lm.models.embedding import dropout
from lm.recurrence import CELLS, RecurrentLayer, zero_state


class Memory(NamedTuple):
    """All that the decoder may know of the source; leading axis batch."""

    values_bsd: jax.Array  # the top layer's outputs, float32
    keys_bsk: jax.Array  # what attention matches its queries with
    mask_bs: jax.Array  # False on padding
    summary_bz: jax.Array  # the fixed-length vector: every layer's final outputs


class Encoder(nn.Module):
    """Embedded source -> (values_bsd, summary_bz). Padding freezes the state, so more of it changes nothing."""

    config: ModelConfig

    @staticmethod
    def directions(config: ModelConfig) -> tuple[str, ...]:
        return ("forward", "backward") if config.encoder == "bidirectional" else ("forward",)

    @classmethod
    def value_dim(cls, config: ModelConfig) -> int:
        return len(cls.directions(config)) * config.hidden_dim

    @nn.compact
    def __call__(
        self, source_bsd: jax.Array, mask_bs: jax.Array, keys_b: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        config = self.config
        values_sbd, mask_sb = source_bsd.swapaxes(0, 1), mask_bs.T
        reset_sb = jnp.zeros_like(mask_sb)
        finals = []
        for depth in range(config.layers):
            values_sbd = dropout(values_sbd, config.dropout, keys_b, place=depth)
            outputs = []
            for direction in self.directions(config):
                layer = RecurrentLayer(
                    CELLS[config.cell],
                    values_sbd.shape[-1],
                    config.hidden_dim,
                    config.dtype,
                    name=f"layer_{depth}_{direction}",
                )
                start = zero_state(CELLS[config.cell], mask_bs.shape[0], config.hidden_dim)
                out_sbh, final = layer.unroll(values_sbd, start, mask_sb, reset_sb, direction == "backward")
                outputs.append(out_sbh)
                finals.append(final.output_bh)
            values_sbd = jnp.concatenate(outputs, axis=-1)
        return values_sbd.swapaxes(0, 1), jnp.concatenate(finals, axis=-1)
