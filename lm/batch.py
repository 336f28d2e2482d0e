"""A batch, its source, and the ids that are the same for every tokenizer."""

from typing import Any, NamedTuple

import numpy as np

PAD, BOS, EOS, UNK = 0, 1, 2, 3


class Source(NamedTuple):
    """What the encoder reads: values of any kind, and where they are. Leading axis batch."""

    values: Any  # [b, s] ids of text, or [b, s, features] frames; what stands where the mask is False means nothing
    mask_bs: Any  # bool, False where there is nothing


class Batch(NamedTuple):
    """int32 ids, `PAD` where there is nothing; leading axis batch."""

    source: Source | None  # None without encoder
    inputs_bt: np.ndarray  # the token before each target; BOS at a document's start
    targets_bt: np.ndarray  # what the decoder must write, ended by EOS
    weights_bt: np.ndarray  # float32, 1 on real targets and 0 on padding
    resets_bt: np.ndarray  # bool, True where a document starts: the state is cleared, or read from the source anew
    # Packed pairs: the last position in the source of each example of the row, ascending, and the width of the source
    # where a row has fewer; the k-th reset of a row starts the k-th example. None: a row is one example.
    source_ends_bk: np.ndarray | None = None
