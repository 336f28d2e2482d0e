"""The base of all layouts: batches by number, and texts end to end in sequences. JAX is used for its trees alone."""

import bisect
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm.batch import BOS, EOS, PAD, Batch
from lm.data.batches.corpus import Corpus, Recent
from lm.data.front_ends import end_to_end


def pad_rows(batch: Batch, rows: int) -> Batch:
    """Returns the batch with empty examples (PAD, weight 0) added at its end, so that it has `rows` examples."""
    fill = rows - batch.inputs_bt.shape[0]
    return jax.tree.map(lambda x: np.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1)), batch)


class Layout:
    """Training batches by number. Subclasses define the number of batches in an epoch, and create one of them."""

    corpus: Corpus
    batch_size: int
    padding: float  # the share of positions in the first epoch that are padding

    def __init__(self):
        self._plans = Recent(lambda epoch: self.plan(epoch))
        closed = int(np.sum(self.corpus.closed))
        written = [self.corpus.lengths(epoch)[:, 1] for epoch in range(self.corpus.variants)]
        self._tokens = [int(np.sum(each, dtype=np.int64)) + closed for each in written]
        steps = [self.steps(epoch) for epoch in range(self.corpus.variants)]
        self._ends = np.cumsum(steps).tolist()  # the last batch + 1 of each epoch in a round of variants
        self.steps_per_epoch = -(-self._ends[-1] // len(steps))
        self.tokens_per_epoch = sum(self._tokens) // len(self._tokens)

    def tokens(self, epoch: int) -> int:
        """Returns the number of target tokens of an epoch, the EOS of each document included."""
        return self._tokens[epoch % self.corpus.variants]

    def steps(self, epoch: int) -> int:
        """Returns the number of batches of an epoch."""
        raise NotImplementedError

    def plan(self, epoch: int) -> Any:
        """Returns the plan that the batches of an epoch are created from; it is computed once per epoch."""
        raise NotImplementedError

    def make(self, plan: Any, epoch: int, step: int, rows: range) -> Batch:
        """Returns the examples `rows` of batch `step` of an epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Batch:
        return self.share(index, range(self.batch_size))

    def share(self, index: int, rows: range) -> Batch:
        """Returns the examples `rows` of batch `index`, counted over all epochs."""
        round_, place = divmod(index, self._ends[-1])
        variant = bisect.bisect_right(self._ends, place)
        step = place - (self._ends[variant - 1] if variant else 0)
        epoch = round_ * self.corpus.variants + variant
        return self.make(self._plans(epoch), epoch, step, rows)


def decoded(texts: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> Batch:
    """Returns a batch without a source, in which the decoder writes the texts of a sequence one after the other.

    The state is reset at the start of each text, where the input is BOS.

    Args:
        texts: target ids without EOS.
        row_k: the sequence of each text, ascending.
        shape: the numbers of sequences and of positions.
    """
    targets = end_to_end(texts, row_k, shape)
    inputs = np.empty(shape, np.int32)
    inputs[:, 0], inputs[:, 1:] = EOS, targets[:, :-1]
    real = targets != PAD
    resets = (inputs == EOS) & real
    inputs[resets], inputs[~real] = BOS, PAD
    return Batch(None, inputs, targets, real.astype(np.float32), resets)


def chunks(members: np.ndarray, size: int) -> list[np.ndarray]:
    return [members[i : i + size] for i in range(0, len(members), size)]
