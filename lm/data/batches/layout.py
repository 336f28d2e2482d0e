"""What all layouts share: batches by number, and examples end to end in rows. JAX is here for its trees alone."""

import bisect
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm.batch import BOS, EOS, PAD, Batch
from lm.data.batches.corpus import Corpus, Recent
from lm.data.front_ends import end_to_end


def pad_rows(batch: Batch, rows: int) -> Batch:
    """The batch with empty rows added at its end: PAD everywhere, weight 0."""
    fill = rows - batch.inputs_bt.shape[0]
    return jax.tree.map(lambda x: np.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1)), batch)


class Layout:
    """Batches by number. A layout says how many an epoch has and makes one of them."""

    corpus: Corpus
    batch_size: int
    padding: float  # share of positions that hold no token, over the first epoch

    def __init__(self):
        self._plans = Recent(lambda epoch: self.plan(epoch))
        closed = int(np.sum(self.corpus.closed))
        written = [self.corpus.lengths(epoch)[:, 1] for epoch in range(self.corpus.variants)]
        self._tokens = [int(np.sum(each, dtype=np.int64)) + closed for each in written]
        steps = [self.steps(epoch) for epoch in range(self.corpus.variants)]
        self._ends = np.cumsum(steps).tolist()  # of the epochs of one round of variants
        self.steps_per_epoch = -(-self._ends[-1] // len(steps))
        self.tokens_per_epoch = sum(self._tokens) // len(self._tokens)

    def tokens(self, epoch: int) -> int:
        """Target tokens of an epoch, the EOS of each document included."""
        return self._tokens[epoch % self.corpus.variants]

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        raise NotImplementedError

    def plan(self, epoch: int) -> Any:
        """What the batches of an epoch are made from; asked for once."""
        raise NotImplementedError

    def make(self, plan: Any, epoch: int, step: int, rows: range) -> Batch:
        """Rows of a batch of an epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Batch:
        return self.share(index, range(self.batch_size))

    def share(self, index: int, rows: range) -> Batch:
        """Some rows of batch `index`."""
        round_, place = divmod(index, self._ends[-1])
        variant = bisect.bisect_right(self._ends, place)
        step = place - (self._ends[variant - 1] if variant else 0)
        epoch = round_ * self.corpus.variants + variant
        return self.make(self._plans(epoch), epoch, step, rows)


def decoded(texts: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> Batch:
    """A batch without source: the decoder writes the texts of a row one after the other, its state reset at each."""
    targets = end_to_end(texts, row_k, shape)
    inputs = np.empty(shape, np.int32)
    inputs[:, 0], inputs[:, 1:] = EOS, targets[:, :-1]
    real = targets != PAD
    resets = (inputs == EOS) & real
    inputs[resets], inputs[~real] = BOS, PAD
    return Batch(None, inputs, targets, real.astype(np.float32), resets)


def chunks(members: np.ndarray, size: int) -> list[np.ndarray]:
    return [members[i : i + size] for i in range(0, len(members), size)]
