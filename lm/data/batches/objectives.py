"""Objectives: what the encoder reads and the decoder writes of a piece of plain text. Pure functions of ids and a key.

The key is a `numpy.random.Generator`. Ids are int32 and 1-D, without BOS and EOS, which the batches add. Beside each
objective stands how long what it makes can be, as batches are planned before anything is drawn.
"""

import math

import numpy as np

from lm.data.batches.corpus import Pair

# ---- prefix -----------------------------------------------------------------------------------------------------


def cuts(lengths_n: np.ndarray, rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """How many of its ids each text gives the encoder: a share uniform between `least` and `most`, the decoder has the rest;
    of two ids or more, each has one."""
    return rng.integers(*_prefix_range(lengths_n, least, most), endpoint=True)


def prefix_most(length: int, least: float, most: float) -> tuple[int, int]:
    """Most ids of both."""
    low, high = _prefix_range(length, least, most)
    return int(high), length - int(low)


def _prefix_range(lengths, least, most):
    kept = np.minimum(lengths, 1)
    return [
        np.minimum(np.maximum(np.rint(share * lengths).astype(int), kept), lengths - kept) for share in (least, most)
    ]


# ---- span corruption --------------------------------------------------------------------------------------------


def spans(ids: np.ndarray, rng: np.random.Generator, rate: float, mean_span: float, sentinel_ids: np.ndarray) -> Pair:
    """T5's span corruption (Raffel et al., 2020, arXiv:1910.10683).

    A share `rate` of the ids is taken out in spans of `mean_span` ids on average. The source has sentinel k in the
    place of span k; the target is sentinel k and span k, for all k, and one sentinel more. The number of ids taken out
    and of spans depends on the length alone; where they are is uniform over all partitions. The text begins with what
    stays, so a single id stays whole, and the target is then the first sentinel.
    """
    taken, count = _spans(len(ids), rate, mean_span)
    if not count:
        return ids, sentinel_ids[:1]
    kept, out = _partition(len(ids) - taken, count, rng), _partition(taken, count, rng)
    edges = np.zeros(len(ids) + 1, bool)  # of the spans, which never touch
    edges[kept[1:] + out[:-1]] = edges[kept[1:] + out[1:]] = True
    gone = np.logical_xor.accumulate(edges[:-1])
    # One sentinel after each run that stays, and one before each span.
    source = _inserted(ids[~gone], kept[1:], sentinel_ids[:count])
    return source, _inserted(ids[gone], out, sentinel_ids[: count + 1])


def spans_sizes(length: int, rate: float, mean_span: float) -> tuple[int, int, int]:
    """(source ids, target ids, sentinels needed), exactly."""
    taken, count = _spans(length, rate, mean_span)
    return length - taken + count, taken + count + 1, count + 1


def _spans(length, rate, mean_span):
    """Ids taken out, and spans."""
    if length < 2:
        return 0, 0
    taken = min(max(round(length * rate), 1), length - 1)
    return taken, min(max(round(taken / mean_span), 1), taken, length - taken)


def _partition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """0 and the ends of `parts` runs of at least 1 that fill `total`, each way as likely."""
    edges = np.empty(parts + 1, np.int64)
    edges[0], edges[1:-1], edges[-1] = -1, rng.choice(total - 1, parts - 1, replace=False), total - 1
    edges.sort()
    return edges + 1


def _inserted(ids: np.ndarray, before: np.ndarray, new: np.ndarray | int) -> np.ndarray:
    """int32: `new[k]` before the id `before[k]`, ascending. `np.insert` takes several times as long."""
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
    """The noised text, and the text (Lewis et al., 2020, arXiv:1910.13461): sentences permuted, then text infilling, then
    token deletion.

    Args:
        infilling: share of the ids that go in spans; the length of a span is Poisson with mean `mean_span`, and one
            `mask_id` stands in its place, also of a span of no ids.
        deletion: share of the ids that go without a trace.
        permutation: probability that the sentences are put in another order.
        sentence_ends: bool [vocab]; where a sentence ends.
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
        # A span begins after so many of the ids that stay; two may begin at one place, one after the other.
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
    """Most ids of the noised text."""
    return length + _most_masks(length, infilling, mean_span)


def _most_masks(length, infilling, mean_span):
    """A limit that spans hardly ever meet; what is then left of the share stays."""
    budget = round(infilling * length)
    return math.ceil(2 * budget / mean_span) + 2 if budget else 0


def _poisson_spans(budget: int, mean_span: float, rng: np.random.Generator, most: int) -> np.ndarray:
    """Lengths of spans, the last cut short so that they sum to the budget."""
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
