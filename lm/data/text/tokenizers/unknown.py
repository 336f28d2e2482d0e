"""Unknown tokens: the number of bytes that they replace in a text, and the cost of spelling these out."""

import math
from typing import NamedTuple, Self

import numpy as np

from lm.batch import UNK
from lm.data.text.tokenizers.tokenizer import Tokenizer

# The nats of one symbol of a spelling. Symbols are uniform over the 256 bytes and an end symbol, which gives a
# distribution over all byte strings.
SYMBOL = math.log(257)
SPELLING = "spelled-uniform-257"  # its name in a signature of scores


class Unknown(NamedTuple):
    """The counts of unknown tokens in targets, i.e. of text that a likelihood of ids does not cover."""

    tokens: int = 0  # number of UNK ids
    bytes: int = 0  # UTF-8 bytes of the text that they replace
    altered: int = 0  # texts that the normalization of the tokenizer changes

    @classmethod
    def total(cls, lost_n3: np.ndarray) -> Self:
        """Returns the sums over int [n, 3], whose columns are these fields."""
        return cls(*lost_n3.sum(axis=0, dtype=np.int64).tolist())

    @property
    def nats(self) -> float:
        """The nats of spelling out each unknown token, byte by byte and with an end symbol.

        With the nats of the ids, in which an UNK announces a spelling, they give the probability of the text itself for
        any vocabulary. The sum of these probabilities over all texts is at most 1.
        """
        return (self.bytes + self.tokens) * SYMBOL


def unknown_of(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Unknown:
    """Returns the counts of unknown tokens in a text, given its ids."""
    count = int(np.sum(ids == UNK))
    return Unknown(count, tokenizer.unknown_bytes(text) if count else 0, int(tokenizer.alters(text)))
