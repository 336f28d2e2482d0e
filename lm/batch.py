"""A batch, and the ids that are the same for every tokenizer."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """int32 ids, `PAD` where there is nothing; leading axis batch."""

    source_bs: np.ndarray | None  # what the encoder reads, ended by EOS; None without encoder
    inputs_bt: np.ndarray  # the token before each target; BOS at a document's start
    targets_bt: np.ndarray  # what the decoder must write, ended by EOS
    weights_bt: np.ndarray  # float32, 1 on real targets and 0 on padding
    resets_bt: np.ndarray  # bool, True where a document starts: the state is cleared, or read from the source anew
    # Packed pairs: the position in source_bs of the EOS of each example of the row, ascending, and the width of source_bs
    # where a row has fewer; the k-th reset of a row starts the k-th example. None: a row is one example.
    source_ends_bk: np.ndarray | None = None


PAD, BOS, EOS, UNK = 0, 1, 2, 3
