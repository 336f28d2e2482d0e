"""Objectives: nothing is lost, sizes are as promised, and the key decides all that is drawn."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data.batches import objectives

SENTINELS = np.arange(10_000, 10_600, dtype=np.int32)
MASK = 10_000
texts = st.lists(st.integers(4, 50), min_size=1, max_size=80).map(lambda ids: np.array(ids, np.int32))
rates, seeds = st.floats(0.01, 0.9), st.integers(0, 2**32)
long = np.random.default_rng(0).integers(4, 200, 1000).astype(np.int32)
no_ends = np.zeros(20_000, bool)


def key(seed):
    return np.random.default_rng(seed)


@settings(deadline=None)
@given(st.lists(st.integers(0, 80), min_size=1), st.floats(0, 1), st.floats(0, 1), seeds)
def test_a_cut_leaves_something_on_both_sides_and_is_within_its_shares(lengths, one, other, seed):
    least, most = sorted((one, other))
    for length, cut in zip(lengths, objectives.cuts(np.array(lengths), key(seed), least, most), strict=True):
        assert 0 < cut < length if length > 1 else cut == 0
        if length > 1:
            assert round(least * length) - 1 <= cut <= round(most * length) + 1
        sizes = objectives.prefix_most(length, least, most)
        assert cut <= sizes[0] and length - cut <= sizes[1]


def restored(source, target):
    """The text, by putting back in the place of each sentinel what the target says of it."""
    said, last = collections.defaultdict(list), None
    for i in target.tolist():
        if i >= MASK:
            last = i
        else:
            said[last].append(i)
    return [i for each in source.tolist() for i in (said[each] if each >= MASK else [each])]


@settings(deadline=None)
@given(texts, rates, st.floats(1, 9), seeds)
def test_span_corruption_loses_nothing_and_is_as_long_as_it_says(ids, rate, mean_span, seed):
    source, target = objectives.spans(ids, key(seed), rate, mean_span, SENTINELS)
    assert restored(source, target) == ids.tolist()
    found = (len(source), len(target), len(target[target >= MASK]))
    assert found == objectives.spans_sizes(len(ids), rate, mean_span)
    count = found[2] - 1
    assert source[source >= MASK].tolist() == SENTINELS[:count].tolist()
    assert target[target >= MASK].tolist() == SENTINELS[: count + 1].tolist() and target[-1] == SENTINELS[count]
    if len(ids) > 1:
        assert source[0] == ids[0]  # it begins with what stays
        taken = len(target) - count - 1
        assert taken == min(max(round(rate * len(ids)), 1), len(ids) - 1)
        assert not ((source[1:] >= MASK) & (source[:-1] >= MASK)).any()  # spans do not touch
    assert source.dtype == target.dtype == np.int32


def test_spans_lie_anywhere():
    taken = np.zeros(40)
    for seed in range(4000):
        source, _ = objectives.spans(np.arange(40, dtype=np.int32), key(seed), 0.25, 2.0, SENTINELS)
        taken[np.setdiff1d(np.arange(40), source)] += 1
    assert taken[0] == 0 and (np.abs(taken[5:35] / 4000 - 0.25) < 0.06).all()


def bart(ids, seed, infilling=0.0, deletion=0.0, permutation=0.0, mean_span=3.0, ends=no_ends):
    source, target = objectives.bart(ids, key(seed), infilling, deletion, permutation, mean_span, MASK, ends)
    np.testing.assert_array_equal(target, ids)
    assert len(source) <= objectives.bart_most(len(ids), infilling, deletion, mean_span)
    return source.tolist()


@settings(deadline=None)
@given(texts, st.floats(0, 0.9), seeds)
def test_deletion_takes_the_share_and_keeps_the_order(ids, rate, seed):
    source = iter(ids.tolist())
    found = bart(ids, seed, deletion=rate)
    assert len(found) == len(ids) - round(rate * len(ids))
    assert all(any(i == other for other in source) for i in found)


@settings(deadline=None)
@given(texts, st.floats(0, 0.9), st.floats(1, 6), seeds)
def test_infilling_leaves_the_rest_in_order(ids, rate, mean_span, seed):
    numbered = np.arange(len(ids), dtype=np.int32)
    found = bart(numbered, seed, infilling=rate, mean_span=mean_span)
    kept = [i for i in found if i != MASK]
    assert kept == sorted(kept) and len(kept) >= len(ids) - round(rate * len(ids))
    assert (MASK in found) == (round(rate * len(ids)) > 0)


def test_infilling_takes_the_share_in_spans_of_poisson_lengths():
    numbered = np.arange(3000, dtype=np.int32)
    found = bart(numbered, 0, infilling=0.3)
    assert len([i for i in found if i != MASK]) == 2100
    assert abs(found.count(MASK) - 300) < 60
    touching = sum(a == b == MASK for a, b in zip(found, found[1:], strict=False))
    assert touching  # some spans are of no ids, or meet


@settings(deadline=None)
@given(texts, seeds)
def test_permutation_keeps_the_sentences_whole(ids, seed):
    ends = np.zeros(60, bool)
    ends[[7, 9]] = True
    cut = lambda ids: [tuple(part) for part in np.split(np.array(ids), np.flatnonzero(ends[ids])[:] + 1) if len(part)]
    found = bart(ids, seed, permutation=1.0, ends=ends)
    assert sorted(found) == sorted(ids.tolist())
    if ends[ids[-1]]:  # else the last, open sentence may come to stand before another
        assert sorted(cut(found)) == sorted(cut(ids.tolist()))


@given(texts, seeds)
def test_without_noise_the_text_stays(ids, seed):
    assert bart(ids, seed) == ids.tolist()


@pytest.mark.parametrize(
    "objective",
    [
        lambda rng: [objectives.cuts(long, rng, 0.2, 0.8)],
        lambda rng: objectives.spans(long, rng, 0.15, 3.0, SENTINELS),
        lambda rng: objectives.bart(long, rng, 0.3, 0.1, 1.0, 3.0, MASK, np.arange(20_000) % 11 == 0),
    ],
    ids=["prefix", "spans", "bart"],
)
def test_the_key_decides_all(objective):
    before = long.copy()
    one, again, other = (objective(key(seed))[0].tolist() for seed in (1, 1, 2))
    assert one == again != other
    np.testing.assert_array_equal(long, before)
