"""Answers that are one of known labels, chosen by a dense head on the encoder's outputs."""

import jax.numpy as jnp
import numpy as np

from lm.answers.alternatives import IMPOSSIBLE, NOTHING, label_table
from lm.answers.ranking import Ranking
from lm.answers.reading import Reader, Reading, choice_log_probabilities
from lm.layers.dense import Dense
from lm.layers.dropout import dropout


class Classifier(Reader):
    """A dense head over the labels on one vector of the encoder's outputs: their mean or their maximum over the source,
    or the last outputs of every layer and direction."""

    labels: tuple[tuple[int, ...], ...] = ()  # the ids of each, its EOS included

    def setup(self):
        super().setup()
        self.head = Dense(len(self.labels))

    def logits(self, source, keys_b=None):
        values_bsd, summary_bz = self.encode(source, keys_b)
        mask_bs1 = source.mask_bs[..., None]
        if self.config.pool == "last":
            pooled_bd = summary_bz
        elif self.config.pool == "mean":
            pooled_bd = jnp.sum(values_bsd * mask_bs1, axis=1) / jnp.maximum(jnp.sum(mask_bs1, axis=1), 1)
        else:
            pooled_bd = jnp.max(jnp.where(mask_bs1, values_bsd, IMPOSSIBLE), axis=1)
            pooled_bd = jnp.where(mask_bs1.any(axis=1), pooled_bd, 0)
        return self.head(dropout(pooled_bd[None], self.config.dropout, keys_b, place=200)[0])

    def gold(self, batch):
        width = max(batch.targets_bt.shape[1], *map(len, self.labels))
        labels_lt = label_table(self.labels, width)
        targets_bt = jnp.where(batch.weights_bt > 0, batch.targets_bt, NOTHING)
        fill = [(0, 0), (0, width - targets_bt.shape[1])]
        targets_bt = jnp.pad(targets_bt, fill, constant_values=NOTHING)
        return jnp.all(targets_bt[:, None] == labels_lt, axis=-1)


class Choice(Ranking, Reading):
    """The label that the head finds likeliest."""

    kind = "choice"
    module = Classifier

    def log_probs_of(self, params, source):
        return np.asarray(choice_log_probabilities(self.model, params, source), np.float64)
