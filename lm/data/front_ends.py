"""Front ends: how the source of an example becomes values, and the values of a batch become a padded `Source`.

A front end works on the host. The module that turns the values into vectors on the device is the entry of the same name
in `INPUTS` (`lm/models/inputs.py`). A task names its front end (`Task.source`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from lm.batch import EOS, PAD, UNK, Source
from lm.data.text.tokenizers.tokenizer import Tokenizer


class FrontEnd:
    """The contract of a front end. In a batch one position after each source marks its end."""

    def encode(
        self, sources: Sequence[str], tokenizer: Tokenizer, ids: Callable[[list[str]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Returns the values of each source, [length, ...]; `ids` tokenizes texts, in training perhaps by sampling."""
        raise NotImplementedError

    def prompt(self, source: str, tokenizer: Tokenizer) -> np.ndarray:
        """Returns the values of a source that a user typed, [length, ...]."""
        raise NotImplementedError

    def to_bytes(self, values: np.ndarray, dtype: str) -> bytes:
        """Returns the values as the bytes of a record; `dtype` is the type of ids on disk."""
        raise NotImplementedError

    def from_bytes(self, record: bytes, dtype: str) -> np.ndarray:
        """Returns the values of a record; the inverse of `to_bytes`."""
        raise NotImplementedError

    def pad(self, values: Sequence[np.ndarray], row_k: np.ndarray, shape: tuple[int, int]) -> Source:
        """Returns a `Source` of `shape` (sequences, positions), with `values[k]` in sequence `row_k[k]`, in order."""
        raise NotImplementedError

    def unknown(self, values: np.ndarray) -> int:
        """Returns the number of values that mark an unknown part of the source; by default 0."""
        return 0


class Text(FrontEnd):
    """Text as ids. Each source ends with EOS; positions after the last source are PAD."""

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
    """Returns int32 ids of `shape` (sequences, positions), filled with texts, one after the other.

    One assignment fills all sequences, since one assignment per short text would take most of the time.

    Args:
        texts: ids without EOS; each text is followed by EOS, and PAD fills the rest of a sequence.
        row_k: the sequence of each text, ascending.
        shape: the numbers of sequences and of positions.
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
