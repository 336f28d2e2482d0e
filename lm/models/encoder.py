"""The recurrent encoder: a stack of layers, each in one or both directions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.config import ModelConfig
from lm.layers.dropout import dropout
from lm.layers.recurrent import RecurrentLayer
from lm.recurrence import CELLS


def recurrent_layer(config: ModelConfig, inputs: int, name: str | None = None) -> RecurrentLayer:
    """Returns a recurrent layer as the configuration describes it."""
    cell = CELLS[config.cell]
    how = (config.heads, config.dtype, config.backward, config.driver, config.lora_rank, config.lora_alpha)
    return RecurrentLayer(cell, inputs, config.hidden_dim, *how, name=name)


class Memory(NamedTuple):
    """Everything that the decoder may read of the source; the batch is the leading axis.

    If the decoder reads the source itself (`encoder=decoder`), only the mask and `own` are there.
    """

    values_bsd: jax.Array | None  # the top layer's outputs, float32
    keys_bsk: jax.Array | None  # the keys that attention compares its queries with
    mask_bs: jax.Array  # False on padding
    summary_nz: jax.Array | None  # the final outputs of all layers, [b, z]; for packed sequences [b, k, z]
    segments_bs: jax.Array | None = None  # the example that a position of a packed sequence belongs to; None: unpacked
    ids_bs: jax.Array | None = None  # the source itself, for a decoder that copies
    own: tuple | None = None  # the decoder's state before the source's last token, and that token [b]


class Encoder(nn.Module):
    """The encoder: it maps an embedded source to (values_bsd, summary_nz). Padding freezes the state, so more of it
    changes nothing.

    `ends_bk` holds the last position of each packed example, as `Batch.source_ends_bk` does. Each example is then read
    as if it were alone, and has its own summary. If a sequence has fewer than k examples, the remaining summaries have
    no meaning.
    """

    config: ModelConfig

    @staticmethod
    def directions(config: ModelConfig) -> tuple[str, ...]:
        return ("forward", "backward") if config.encoder == "bidirectional" else ("forward",)

    @classmethod
    def value_dim(cls, config: ModelConfig) -> int:
        return len(cls.directions(config)) * config.hidden_dim

    @nn.compact
    def __call__(
        self, source_bsd: jax.Array, mask_bs: jax.Array, keys_b: jax.Array | None, ends_bk: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        config = self.config
        values_sbd, mask_sb = source_bsd.swapaxes(0, 1), mask_bs.T
        begins_bk = None if ends_bk is None else jnp.pad(ends_bk[:, :-1] + 1, [(0, 0), (1, 0)])
        finals = []
        for depth in range(config.layers):
            values_sbd = dropout(values_sbd, config.dropout, keys_b, place=depth)
            outputs = []
            for direction in self.directions(config):
                layer = recurrent_layer(config, values_sbd.shape[-1], f"layer_{depth}_{direction}")
                start = CELLS[config.cell].zero_state(mask_bs.shape[0], config.hidden_dim, config.heads)
                reverse = direction == "backward"
                first_bk, last_bk = (ends_bk, begins_bk) if reverse else (begins_bk, ends_bk)
                reset_sb = jnp.zeros_like(mask_sb) if first_bk is None else _marks(first_bk, len(mask_sb))
                out_sbh, final = layer.unroll(values_sbd, start, mask_sb, reset_sb, reverse)
                outputs.append(out_sbh)
                finals.append(final.output_bh if last_bk is None else take(out_sbh.swapaxes(0, 1), last_bk))
            values_sbd = jnp.concatenate(outputs, axis=-1)
        return values_sbd.swapaxes(0, 1), jnp.concatenate(finals, axis=-1)


def segments(ends_bk: jax.Array, length: int) -> jax.Array:
    """Returns segments_bs: for each position, the number of examples of its sequence that ended before it."""
    return jnp.sum(ends_bk[:, None] < jnp.arange(length)[:, None], axis=-1)


def take(values_bkd: jax.Array, indices_bn: jax.Array) -> jax.Array:
    """Returns values_bnd, the values of each sequence at its indices; an index outside is clipped."""
    return jnp.take_along_axis(values_bkd, indices_bn[..., None], axis=1, mode="clip")


def _marks(positions_bk, length):
    """Returns bool [s, b], True at the positions."""
    return jnp.any(jnp.arange(length)[:, None, None] == positions_bk, axis=-1)
