"""Unknown tokens: how much of a text they stand for, and the cost of spelling that out."""

import math
from typing import NamedTuple, Self

import numpy as np

from lm.batch import UNK
from lm.data.text.tokenizers.tokenizer import Tokenizer

# The nats of one symbol of a spelling, which is uniform over the 256 bytes and an end: a distribution over all byte strings.
SYMBOL = math.log(257)
SPELLING = "spelled-uniform-257"  # its name in a signature


class Unknown(NamedTuple):
    """The unknown tokens of targets: text of which a likelihood says no more than that it is unknown."""

    tokens: int = 0  # ids that are UNK
    bytes: int = 0  # UTF-8 bytes of text that these stand for
    altered: int = 0  # texts that the tokenizer gives back otherwise for another reason: its normalisation

    @classmethod
    def total(cls, lost_n3: np.ndarray) -> Self:
        """Returns the sum over rows of these fields."""
        return cls(*lost_n3.sum(axis=0, dtype=np.int64).tolist())

    @property
    def nats(self) -> float:
        """The nats of spelling each unknown token out, byte by byte and with an end.

        Added to the nats of the ids, in which UNK says that a spelling follows, they give a probability of the text itself,
        whatever the vocabulary; over all texts such probabilities sum to at most 1.
        """
        return (self.bytes + self.tokens) * SYMBOL


def unknown_of(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Unknown:
    """Returns the unknown tokens of a text with these ids."""
    count = int(np.sum(ids == UNK))
    return Unknown(count, tokenizer.unknown_bytes(text) if count else 0, int(tokenizer.alters(text)))
