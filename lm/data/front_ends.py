"""Front ends: how the source of an example becomes values, and the values of a batch become a padded `Source`.

A front end here works on the host. Its other half, which makes vectors of the values on the device, is the entry of the same
name in `INPUTS` (`lm/models/inputs.py`). A task names its front end (`Task.source`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from lm.batch import EOS, PAD, UNK, Source
from lm.data.text.tokenizers.tokenizer import Tokenizer


class FrontEnd:
    """The contract of a front end. In a batch each source is followed by one more position, which ends it."""

    def encode(
        self, sources: Sequence[str], tokenizer: Tokenizer, ids: Callable[[list[str]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Returns the values of each source, [length, ...]; `ids` makes ids of texts as training data has them."""
        raise NotImplementedError

    def prompt(self, source: str, tokenizer: Tokenizer) -> np.ndarray:
        """Returns the values of a source that a user typed."""
        raise NotImplementedError

    def to_bytes(self, values: np.ndarray, dtype: str) -> bytes:
        """Returns the values as a record holds them; `dtype` is that of ids on disk."""
        raise NotImplementedError

    def from_bytes(self, record: bytes, dtype: str) -> np.ndarray:
        """The inverse of `to_bytes`."""
        raise NotImplementedError

    def pad(self, values: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> Source:
        """Returns a source of `shape` (rows, positions): example k stands in row `row_k[k]`, after those before it."""
        raise NotImplementedError

    def unknown(self, values: np.ndarray) -> int:
        """Returns how many of the values stand for something that the tokenizer does not know."""
        return 0


class Text(FrontEnd):
    """Text as ids. EOS ends each source, and `PAD` is where there is nothing."""

    def encode(self, sources, tokenizer, ids):
        return ids(list(sources))

    def prompt(self, source, tokenizer):
        return tokenizer.encode_marked(source)

    def to_bytes(self, values, dtype):
        return values.astype(dtype).tobytes()

    def from_bytes(self, record, dtype):
        return np.frombuffer(record, dtype).astype(np.int32)

    def pad(self, values, row_k, shape):
        ids_bs = end_to_end(values, row_k, shape)
        return Source(ids_bs, ids_bs != PAD)

    def unknown(self, values):
        return int(np.sum(values == UNK))


def end_to_end(texts: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns int32 `shape`: the texts, each ended by EOS, one after the other in the rows `row_k`, ascending.

    All at once, as an assignment for each short text takes longer than all else.
    """
    size_k = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    end_k = np.cumsum(size_k)
    inside = np.ones(size_k.sum(), bool)
    inside[end_k - 1] = False
    flat = np.full(len(inside), EOS, np.int32)
    flat[inside] = np.concatenate([flat[:0], *texts])
    used_b = np.bincount(row_k, size_k, shape[0])
    ids = np.full(shape, PAD, np.int32)
    ids[np.arange(shape[1]) < used_b[:, None]] = flat
    return ids


TEXT = Text()
FRONT_ENDS: dict[str, FrontEnd] = {"text": TEXT}
