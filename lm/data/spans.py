"""Where an answer stands in its source: a text as a span of the source's ids."""

from collections.abc import Sequence

import numpy as np

from lm.data.tokenizers import UNK


def span(source_ids: np.ndarray, answer_ids: np.ndarray, surfaces: Sequence[bytes]) -> np.ndarray:
    """The source's own ids of the answer: where they first hold its text and nothing else, but for white space around it.
    Of no ids where they never do: the answer is not there, some of it is unknown, or its ends are within ids.

    Args:
        source_ids, answer_ids: of one tokenizer, which may cut a word in two ways, alone and after a space.
        surfaces: the bytes of each id.
    """
    if UNK in answer_ids:
        return source_ids[:0]
    pieces = [surfaces[i] if i != UNK else b"\xff" for i in source_ids.tolist()]  # of no text
    text, wanted = b"".join(pieces), b"".join(surfaces[i] for i in answer_ids.tolist()).strip()
    ends = np.cumsum([len(piece) for piece in pieces])
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        first, last = np.searchsorted(ends, [at, at + len(wanted) - 1], side="right")
        if b"".join(pieces[first : last + 1]).strip() == wanted:
            return source_ids[first : last + 1]
        at = text.find(wanted, at + 1)
    return source_ids[:0]
