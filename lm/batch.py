"""A batch, its source, and the ids that all tokenizers share."""

from typing import Any, NamedTuple

import numpy as np

PAD, BOS, EOS, UNK = 0, 1, 2, 3


class Source(NamedTuple):
    """The values that the encoder reads, of any kind, and their mask; the batch is the leading axis."""

    values: Any  # [b, s] ids of text, or [b, s, features] frames; values without mask have no meaning
    mask_bs: Any  # bool, False at positions without a value


class Batch(NamedTuple):
    """The int32 ids of a training step, `PAD` at empty positions; the batch is the leading axis."""

    source: Source | None  # None without encoder
    inputs_bt: np.ndarray  # the token before each target; BOS at a document's start
    targets_bt: np.ndarray  # the ids that the decoder must write, the last is EOS
    weights_bt: np.ndarray  # float32, 1 on real targets and 0 on padding
    resets_bt: np.ndarray  # bool, True where a document starts: the state is cleared, or computed from the source
    # Packed pairs: the last position of each example in its source, ascending, and the width of the source for missing
    # examples. The k-th reset of a sequence starts its k-th example. None: each sequence is one example.
    source_ends_bk: np.ndarray | None = None
