"""Shapes of the batches in which prompts and examples are computed: few, so that few programs are compiled."""

from collections.abc import Iterator, Sequence

import numpy as np

from lm.batch import PAD, Batch, Source
from lm.data.batches.buckets import pad_pairs
from lm.data.batches.layout import decoded
from lm.data.front_ends import FrontEnd

BATCH = 64  # sequences side by side
WINDOW = 512  # most tokens of a prompt or target that go through `unroll` at once


def power_of_two(count: int, least: int) -> int:
    """Returns the next power of two, at least `least`."""
    return max(least, 1 << (count - 1).bit_length())


def length_of(longest: int) -> int:
    """Returns the length of sequences with room for `longest` tokens: a power of two, or whole windows."""
    return power_of_two(longest, 16) if longest <= WINDOW else -(-longest // WINDOW) * WINDOW


def padded_ids(rows: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """Returns int32 [count, length], with PAD at empty positions."""
    padded = np.full((count, length_of(max(1, *map(len, rows)))), PAD, np.int32)
    for row, ids in zip(padded, rows, strict=False):
        row[: len(ids)] = ids
    return padded


def padded_source(values: Sequence[np.ndarray], count: int, front_end: FrontEnd) -> Source:
    """Returns a source of `count` sequences."""
    return front_end.pad(values, np.arange(len(values)), (count, length_of(max(map(len, values)) + 1)))


def batch_of(targets: Sequence[np.ndarray], sources: Sequence[np.ndarray] | None, front_end: FrontEnd | None) -> Batch:
    """Returns the batch of these targets (ids without EOS) and sources (values), filled up with empty sequences."""
    count, length = power_of_two(len(targets), 1), length_of(max(map(len, targets)) + 1)
    if sources is None:
        return decoded(targets, np.arange(len(targets)), (count, length))
    width = length_of(max(map(len, sources)) + 1)
    return pad_pairs(list(zip(sources, targets, strict=True)), (width, length), count, front_end)


def batches(order: Sequence[int], lengths: Sequence[int], in_windows: bool) -> Iterator[list[int]]:
    """Yields the numbers in `order` by batches, which are smaller for long targets unless these are read in windows."""
    at = 0
    while at < len(order):
        chosen = list(order[at : at + BATCH])
        longest = max(lengths[i] for i in chosen)
        if not in_windows and longest > WINDOW:
            chosen = chosen[: max(1, BATCH * WINDOW // longest)]
        yield chosen
        at += len(chosen)
