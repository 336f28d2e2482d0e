"""Answers that are one of the known labels, written by a decoder that can write nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lm.answers import shapes
from lm.answers.alternatives import IMPOSSIBLE, NOTHING, alternative_nats, label_table
from lm.answers.ranking import Ranking, label_ids
from lm.answers.written import Written, encode
from lm.data.batches.layout import decoded
from lm.models.decoder import Features, log_mixture
from lm.models.encoder import Memory
from lm.models.encoder_decoder import EncoderDecoder
from lm.recurrence.base import dot
from lm.search.beam import tile_beams


class Ranker(EncoderDecoder):
    """An encoder-decoder whose softmax covers only tokens that continue a label, so the labels' probabilities sum to
    one.

    With a softmax over the whole vocabulary, the first steps mostly teach the decoder that it writes labels at all.
    This makes its features independent of the source, and they stay so: on TinyWorld's sentiment the ranking then stays
    at chance.
    """

    labels: tuple[tuple[int, ...], ...] = ()  # the ids of each, its EOS included

    def continuations(
        self, features: Features, memory: Memory | None, targets_bt: jax.Array, resets_bt: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (logits_btu, gold_btu) of the tokens that may follow the targets before each position.

        logits_btu, float32, are those of the different tokens of all labels, `IMPOSSIBLE` if no label continues with
        the token. gold_btu marks the target among them. A label starts at each reset and at the first position.
        """
        tokens_u = np.unique([token for label in self.labels for token in label])
        kernel_dv, bias_v = self.head()
        logits_btu = dot(features.values_btd, kernel_dv[:, tokens_u], self.config.dtype) + bias_v[tokens_u]
        allowed_btu = self._allowed(tokens_u, targets_bt, resets_bt)
        logits_btu = jnp.where(allowed_btu, logits_btu, IMPOSSIBLE)
        if features.gate_bt is not None:
            same_bsu = (memory.ids_bs[..., None] == tokens_u).astype(jnp.float32)
            copied_btu = jnp.einsum("bts,bsu->btu", features.attention_bts, same_bsu)
            mixed_btu = log_mixture(features.gate_bt[..., None], jax.nn.log_softmax(logits_btu), copied_btu)
            logits_btu = jnp.where(allowed_btu, mixed_btu, IMPOSSIBLE)
        return logits_btu, allowed_btu & (targets_bt[..., None] == tokens_u)

    def _allowed(self, tokens_u, targets_bt, resets_bt):
        """Returns bool [b, t, u]: whether some label with the targets so far continues with the token."""
        width, batch = max(map(len, self.labels)), len(targets_bt)
        labels_wl = label_table(self.labels, width).T
        places_wl = np.where(labels_wl == NOTHING, len(tokens_u), np.searchsorted(tokens_u, labels_wl))
        at = lambda table_wl, place_b: jnp.take(table_wl, place_b, axis=0, mode="clip")

        def body(carry, now):
            fits_bl, place_b = carry  # labels that have the targets so far; how many these are
            target_b, reset_b = now
            fits_bl, place_b = fits_bl | reset_b[:, None], jnp.where(reset_b, 0, place_b)
            counts_bu = jnp.zeros((batch, len(tokens_u)), jnp.int32)
            counts_bu = counts_bu.at[jnp.arange(batch)[:, None], at(places_wl, place_b)].add(fits_bl, mode="drop")
            return (fits_bl & (at(labels_wl, place_b) == target_b[:, None]), place_b + 1), counts_bu > 0

        start = jnp.ones((batch, len(self.labels)), bool), jnp.zeros(batch, jnp.int32)
        return lax.scan(body, start, (targets_bt.T, resets_bt.T))[1].swapaxes(0, 1)


class Labels(Ranking, Written):
    """The label that the decoder finds likeliest."""

    kind = "labels"
    module = Ranker

    def cost(self, params, features, memory, batch, noise):
        nats_bt = self._nats(params, features, memory, batch, self.objective.label_smoothing, self.objective.z_loss)
        total = jnp.sum(jnp.where(batch.weights_bt > 0, nats_bt * batch.weights_bt, 0))
        return total, jnp.sum(batch.weights_bt)

    def position_nats(self, params, features, memory, batch):
        return self._nats(params, features, memory, batch)

    def _nats(self, params, features, memory, batch, label_smoothing=0.0, z_loss=0.0):
        given = (features, memory, batch.targets_bt, batch.resets_bt)
        found = self.model.apply({"params": params}, *given, method="continuations")
        return alternative_nats(*found, label_smoothing, z_loss)

    def rows_at_once(self):
        return max(1, shapes.BATCH // len(self.labels))  # each source with all labels

    def log_probs_of(self, params, source):
        targets = [np.array(ids[:-1], np.int32) for ids in label_ids(self.tokenizer, self.labels)]
        memory, state = tile_beams(encode(self.model, params, source), len(targets))
        count = len(source.mask_bs)
        shape = count * len(targets), shapes.length_of(max(map(len, targets)) + 1)
        batch = decoded(targets * count, np.arange(shape[0]), shape)
        # A reset would clear the state that was read from the source.
        batch = batch._replace(resets_bt=np.zeros(shape, bool))
        nats_bt = _nats_after(self, params, memory, state, batch)
        return -np.asarray(nats_bt, np.float64).sum(axis=1).reshape(count, len(targets))


@functools.partial(jax.jit, static_argnums=0)
def _nats_after(answer, params, memory, state, batch):
    return answer.nats_after(params, memory, state, batch)[0]
