"""Objectives: functions that turn a piece of plain text into a source for the encoder and a target for the decoder.

An objective is a pure function of ids and a `numpy.random.Generator`. Ids are int32 [length], without BOS and EOS,
which the batches add. A second function gives the lengths of its results, as batches are planned before the noise is
drawn.
"""

import math

import numpy as np

from lm.data.batches.corpus import Pair

# ---- prefix -----------------------------------------------------------------------------------------------------


def cuts(lengths_n: np.ndarray, rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Returns int [n]: the number of ids of each text that are its source; the rest is its target.

    The number is uniform between the shares `least` and `most` of the text. If a text has two ids or more, its source
    and its target have at least one each.
    """
    return rng.integers(*_prefix_range(lengths_n, least, most), endpoint=True)


def prefix_most(length: int, least: float, most: float) -> tuple[int, int]:
    """Returns the most ids of the source and of the target of a text of `length` ids."""
    low, high = _prefix_range(length, least, most)
    return int(high), length - int(low)


def _prefix_range(lengths, least, most):
    kept = np.minimum(lengths, 1)
    return [
        np.minimum(np.maximum(np.rint(share * lengths).astype(int), kept), lengths - kept) for share in (least, most)
    ]


# ---- span corruption --------------------------------------------------------------------------------------------


def spans(ids: np.ndarray, rng: np.random.Generator, rate: float, mean_span: float, sentinel_ids: np.ndarray) -> Pair:
    """Returns the pair of T5's span corruption of a text (Raffel et al., 2020, arXiv:1910.10683).

    For example, if the spans "b" and "d e" are removed from the text "a b c d e", the source is "a <0> c <1>" and the
    target is "<0> b <1> d e <2>". In the source, a sentinel replaces each span. The target has each span after its
    sentinel, and one final sentinel.

    A share `rate` of the ids is removed, in spans of `mean_span` ids on average. The numbers of removed ids and of
    spans depend on the length alone; the positions are uniform over all partitions. A text begins with a kept id and
    ends with a span. A text of one id is left whole, and its target is the first sentinel.

    Args:
        ids: the text, int32 [length].
        rng: draws the positions.
        rate: the share of the ids that are removed.
        mean_span: the mean length of a span, in ids.
        sentinel_ids: the ids of the sentinels, at least as many as `spans_sizes` returns.

    Returns:
        (source ids, target ids).
    """
    taken, count = _spans(len(ids), rate, mean_span)
    if not count:
        return ids, sentinel_ids[:1]
    kept, out = _partition(len(ids) - taken, count, rng), _partition(taken, count, rng)
    edges = np.zeros(len(ids) + 1, bool)  # where a span starts or ends; spans never touch
    edges[kept[1:] + out[:-1]] = edges[kept[1:] + out[1:]] = True
    gone = np.logical_xor.accumulate(edges[:-1])
    # A sentinel follows each kept run in the source, and precedes each span in the target.
    source = _inserted(ids[~gone], kept[1:], sentinel_ids[:count])
    return source, _inserted(ids[gone], out, sentinel_ids[: count + 1])


def spans_sizes(length: int, rate: float, mean_span: float) -> tuple[int, int, int]:
    """Returns the exact numbers of source ids, target ids and sentinels for a text of `length` ids."""
    taken, count = _spans(length, rate, mean_span)
    return length - taken + count, taken + count + 1, count + 1


def _spans(length, rate, mean_span):
    """Returns the numbers of removed ids and of spans."""
    if length < 2:
        return 0, 0
    taken = min(max(round(length * rate), 1), length - 1)
    return taken, min(max(round(taken / mean_span), 1), taken, length - taken)


def _partition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Returns 0 and the ends of `parts` runs of 1 or more that fill `total`; all partitions are equally likely."""
    edges = np.empty(parts + 1, np.int64)
    edges[0], edges[1:-1], edges[-1] = -1, rng.choice(total - 1, parts - 1, replace=False), total - 1
    edges.sort()
    return edges + 1


def _inserted(ids: np.ndarray, before: np.ndarray, new: np.ndarray | int) -> np.ndarray:
    """Returns int32 ids with `new[k]` inserted before `ids[before[k]]`, `before` ascending; faster than `np.insert`."""
    places = before + np.arange(len(before))
    made = np.empty(len(ids) + len(before), np.int32)
    old = np.ones(made.shape, bool)
    old[places] = False
    made[old], made[places] = ids, new
    return made


# ---- BART's noise -----------------------------------------------------------------------------------------------


def bart(
    ids: np.ndarray,
    rng: np.random.Generator,
    infilling: float,
    deletion: float,
    permutation: float,
    mean_span: float,
    mask_id: int,
    sentence_ends: np.ndarray,
) -> Pair:
    """Returns a text with BART's noise, and the text itself (Lewis et al., 2020, arXiv:1910.13461).

    The sentences are permuted, then spans are infilled, then ids are deleted.

    Args:
        ids: the text, int32 [length].
        rng: draws the noise.
        infilling: the share of the ids that are removed in spans. A span is replaced by one `mask_id`, even if it is
            empty.
        deletion: the share of the ids that are deleted without a trace.
        permutation: the probability that the sentences are shuffled.
        mean_span: the mean of the Poisson distribution of span lengths, in ids.
        mask_id: the id that replaces a span.
        sentence_ends: bool [vocab], whether an id ends a sentence.

    Returns:
        (noised ids, the ids of the text).
    """
    noised = ids
    if rng.random() < permutation:
        sentences = np.split(ids, np.flatnonzero(sentence_ends[ids][:-1]) + 1)
        noised = np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])
    lengths = _poisson_spans(
        round(infilling * len(ids)), mean_span, rng, most=_most_masks(len(ids), infilling, mean_span)
    )
    if len(lengths):
        kept = len(noised) - int(lengths.sum())
        # The number of kept ids before each span. Two spans may be adjacent, with no kept id between them.
        before = np.sort(rng.integers(0, kept + 1, len(lengths)))
        ends = before + np.cumsum(lengths)
        edges = np.bincount(ends - lengths, minlength=len(noised) + 1) - np.bincount(ends, minlength=len(noised) + 1)
        noised = _inserted(noised[np.cumsum(edges[:-1]) == 0], before, mask_id)
    gone = round(deletion * len(ids))
    if gone:
        able = np.flatnonzero(noised != mask_id)
        left = np.ones(len(noised), bool)
        left[rng.choice(able, min(gone, len(able)), replace=False)] = False
        noised = noised[left]
    return noised.astype(np.int32), ids


def bart_most(length: int, infilling: float, deletion: float, mean_span: float) -> int:
    """Returns the most ids of the noised text, for a text of `length` ids."""
    return length + _most_masks(length, infilling, mean_span)


def _most_masks(length, infilling, mean_span):
    """Returns a limit on the number of spans, which is hardly ever reached; if it is, fewer ids are removed."""
    budget = round(infilling * length)
    return math.ceil(2 * budget / mean_span) + 2 if budget else 0


def _poisson_spans(budget: int, mean_span: float, rng: np.random.Generator, most: int) -> np.ndarray:
    """Returns the lengths of the spans; the last one is shortened so that they sum to `budget`."""
    if not budget:
        return np.zeros(0, np.int64)
    lengths = rng.poisson(mean_span, most)
    sums = np.cumsum(lengths)
    count = int(np.searchsorted(sums, budget)) + 1
    if count > most:
        return lengths
    lengths = lengths[:count]
    lengths[-1] -= sums[count - 1] - budget
    return lengths
