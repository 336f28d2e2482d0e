"""What a model is fed: every token once, in order, and batch `i` the same whenever it is asked for."""

import functools
import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.batch import BOS, EOS, PAD
from lm.config import DataConfig
from lm.data import feed
from lm.data.batches import objectives
from lm.data.batches.buckets import Buckets, _assign, _shapes, evaluation_buckets, pad_pairs
from lm.data.batches.corpus import Copies, Excerpts, InMemory, Noised, PrefixPairs, Subset
from lm.data.batches.layout import pad_rows
from lm.data.batches.packed import Packed, pack
from lm.data.batches.streams import Streams, evaluation_streams
from lm.data.encoding import Encoded
from lm.data.feed import TrainingData
from lm.data.front_ends import TEXT
from lm.errors import UserError

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)
pair_lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20)
seeds, sizes = st.integers(0, 2**32 - 1), st.integers(1, 6)


def documents(lengths):
    """No id stands twice, so that each is known by it."""
    ends = np.cumsum(lengths)
    return [np.arange(4 + end - n, 4 + end) for n, end in zip(lengths, ends, strict=True)]


def make_pairs(pair_lengths):
    ids = documents(np.ravel(pair_lengths))
    return list(zip(ids[::2], ids[1::2], strict=True))


def texts(lengths):
    return InMemory(documents(lengths))


def corpus(pairs):
    return InMemory([target for _, target in pairs], [source for source, _ in pairs])


LAYOUTS = {
    "streams": lambda corpus: Streams(corpus, 8, 4, 0.2, seed=1),
    "buckets": lambda corpus: Buckets(corpus, 8, 2, seed=1),
    "packed": lambda corpus: Packed(corpus, 8, 12, TEXT, seed=1),
}


def equal(one, other):
    (leaves, structure), (others, same) = jax.tree.flatten(one), jax.tree.flatten(other)
    assert structure == same
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def differ(one, other):
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def epoch_of(data, epoch=0):
    return [data[i] for i in range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch)]


def check_types(batch):
    for name, dtype in (
        ("inputs_bt", np.int32),
        ("targets_bt", np.int32),
        ("weights_bt", np.float32),
        ("resets_bt", bool),
    ):
        assert getattr(batch, name).dtype == dtype and getattr(batch, name).shape == batch.inputs_bt.shape  # fmt: skip


def joined(windows):
    """(inputs, targets, resets) of all windows side by side, and how many are real in each row."""
    for batch in windows:
        check_types(batch)
        assert batch.source is None
    parts = list(zip(*windows, strict=True))[1:-1]
    inputs, targets, weights, resets = (np.concatenate(part, axis=1) for part in parts)
    counts = weights.sum(axis=1).astype(int)
    # Real positions come first; what follows is padding and nothing else.
    np.testing.assert_array_equal(weights, np.arange(weights.shape[1]) < counts[:, None])
    assert (
        (inputs[weights == 0] == PAD).all() and (targets[weights == 0] == PAD).all() and not resets[weights == 0].any()
    )
    return inputs, targets, resets, counts


def check_inputs(windows, reset_rate, window):
    """Each input is the target before it, or BOS, just where the state is reset; a window goes on where the last ended."""
    inputs, targets, resets, counts = joined(windows)
    for row, count in enumerate(counts):
        for t in range(count):
            document_starts = t > 0 and targets[row, t - 1] == EOS
            if t == 0 or document_starts:
                assert resets[row, t]
            elif t % window or reset_rate == 0:
                assert not resets[row, t]
            elif reset_rate == 1:
                assert resets[row, t]
            assert inputs[row, t] == (BOS if resets[row, t] else targets[row, t - 1])
    return np.concatenate([targets[row, :count] for row, count in enumerate(counts)])


# ---- streams ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(lengths, sizes, sizes, st.sampled_from([0.0, 0.4, 1.0]), seeds, st.integers(0, 3))
def test_an_epoch_of_streams_is_all_documents_whole_and_once(lengths, batch_size, window, reset_rate, seed, epoch):
    data = Streams(texts(lengths), batch_size, window, reset_rate, seed)
    windows = epoch_of(data, epoch)
    assert all(batch.inputs_bt.shape == (batch_size, window) for batch in windows)
    text = check_inputs(windows, reset_rate, window)
    assert len(text) == data.tokens_per_epoch == sum(lengths) + len(lengths)
    # The text is a ring of documents, cut open somewhere: turned so that it ends with a document, it is all of them.
    text = np.roll(text, -1 - np.flatnonzero(text == EOS)[-1])
    found = [tuple(part[:-1]) for part in np.split(text, np.flatnonzero(text == EOS)[:-1] + 1)]
    assert sorted(found) == sorted(map(tuple, documents(lengths)))


def test_a_share_of_windows_starts_as_a_document_does():
    rate, rows, window = 0.3, 20, 5
    data = Streams(texts([20_000]), rows, window, rate, seed=3)
    firsts = np.array([batch.resets_bt[:, 0] for batch in epoch_of(data)])
    assert firsts[0].all()
    count = firsts[1:].size
    assert abs(firsts[1:].sum() - rate * count) < 5 * (count * rate * (1 - rate)) ** 0.5
    # Each row and each window is drawn for itself.
    assert 0 < firsts[1:].mean(axis=0).std() < 0.1 and 0 < firsts[1:].mean(axis=1).std() < 0.2
    again = np.array([batch.resets_bt[:, 0] for batch in epoch_of(data, 1)])
    assert (firsts != again).any()


@settings(deadline=None, max_examples=30)
@given(lengths, sizes, sizes, seeds, st.randoms(use_true_random=False))
def test_batch_i_of_streams_is_a_function_of_seed_and_i(lengths, batch_size, window, seed, random):
    check_random_access(lambda: Streams(texts(lengths), batch_size, window, 0.4, seed), random)


def check_random_access(make, random):
    """In order, in any order, and alone: the same, over the borders of epochs."""
    data = make()
    indices = list(range(3 * data.steps_per_epoch + 1))
    expected = [data[i] for i in indices]
    random.shuffle(indices)
    other = make()
    for i in indices:
        equal(other[i], expected[i])
    equal(make()[indices[0]], expected[indices[0]])


@settings(deadline=None, max_examples=30)
@given(lengths, st.integers(1, 4), sizes, sizes, seeds)
def test_a_document_in_pieces_is_read_as_the_whole(lengths, longest, batch_size, window, seed):
    pieces = [[ids[i : i + longest] for i in range(0, len(ids), longest)] or [ids] for ids in documents(lengths)]
    cut = InMemory([piece for each in pieces for piece in each])
    cut.closed = np.array([piece is each[-1] for each in pieces for piece in each])
    whole = Streams(texts(lengths), batch_size, window, 0.4, seed)
    data = Streams(cut, batch_size, window, 0.4, seed)
    assert data.tokens_per_epoch == whole.tokens_per_epoch and data.steps_per_epoch == whole.steps_per_epoch
    for i in range(2 * whole.steps_per_epoch):
        equal(data[i], whole[i])
    both = (evaluation_streams(each, batch_size, window) for each in (cut, texts(lengths)))
    for one, other in zip(*both, strict=True):
        equal(one, other)


def test_epochs_and_seeds_of_streams_differ():
    make = lambda seed: Streams(texts([3, 5, 2, 7, 4, 6]), 2, 4, 0.0, seed)
    steps = make(0).steps_per_epoch
    for i in range(3):
        assert differ(make(0)[i], make(1)[i]) and differ(make(0)[i], make(0)[i + steps])
    # One document has no order: the place where the ring is cut open is another.
    alone = Streams(texts([50]), 2, 4, 0.0, seed=0)
    assert differ(alone[0], alone[alone.steps_per_epoch])


@settings(deadline=None)
@given(lengths, st.integers(1, 20), sizes)
def test_evaluation_reads_every_token_once_and_in_order_however_many_streams(lengths, streams, window):
    windows = list(evaluation_streams(texts(lengths), streams, window))
    text = check_inputs(windows, 0, window)
    np.testing.assert_array_equal(text, np.concatenate([[*ids, EOS] for ids in documents(lengths)]))
    rows = {batch.inputs_bt.shape for batch in windows}
    assert len(rows) == 1 and rows.pop()[0] <= streams


@settings(deadline=None)
@given(lengths, st.integers(1, 6))
def test_an_evaluation_stream_starts_with_the_document_that_is_near(lengths, streams):
    *_, counts = joined(list(evaluation_streams(texts(lengths), streams, 8)))
    begins, starts = np.cumsum([0, *counts[:-1]]), np.cumsum([0, *(n + 1 for n in lengths)])[:-1]
    part = counts.sum() / streams
    assert max(counts) <= 2 * part + 1
    for begin in begins:
        if begin not in starts:
            assert (np.abs(starts - begin) >= part / 2 - 1).all()


def test_one_evaluation_stream_resets_at_documents_only():
    windows = list(evaluation_streams(texts([30, 3, 7]), 1, 4))
    resets = np.concatenate([batch.resets_bt for batch in windows], axis=1)
    assert resets.shape[0] == 1 and np.flatnonzero(resets).tolist() == [0, 31, 35]


# ---- buckets ----------------------------------------------------------------------------------------------------


def check_rows(batch, pairs):
    """The rows are the pairs, then empty ones; weights are 0 just on padding."""
    check_types(batch)
    assert len(batch.source.values) == len(batch.inputs_bt) and batch.source.values.dtype == np.int32
    assert not batch.resets_bt.any()
    for row in range(len(batch.source.values)):
        source, target = ([*ids, EOS] for ids in pairs[row]) if row < len(pairs) else ([], [])
        inputs = [BOS, *target[:-1]] if target else []
        for found, wanted in ((batch.source.values, source), (batch.inputs_bt, inputs), (batch.targets_bt, target)):
            assert found[row].tolist() == wanted + [PAD] * (found.shape[1] - len(wanted))
        np.testing.assert_array_equal(batch.weights_bt[row], np.arange(batch.targets_bt.shape[1]) < len(target))


def rows_of(batch, pairs):
    """Indices of the pairs in a batch, by their first source id."""
    known = {int(source[0]): i for i, (source, _) in enumerate(pairs)}
    return [known[int(first)] for first in batch.source.values[:, 0] if first != PAD]


@settings(deadline=None)
@given(pair_lengths, sizes, sizes, seeds, st.integers(0, 3))
def test_an_epoch_of_buckets_is_every_pair_once(pair_lengths, batch_size, buckets, seed, epoch):
    pairs = make_pairs(pair_lengths)
    data = Buckets(corpus(pairs), batch_size, buckets, seed)
    seen, shapes, held = [], set(), 0
    for batch in epoch_of(data, epoch):
        rows = rows_of(batch, pairs)
        assert rows and len(batch.source.values) == batch_size
        check_rows(batch, [pairs[i] for i in rows])
        seen += rows
        shapes.add((batch.source.values.shape[1], batch.targets_bt.shape[1]))
        held += batch.source.values.size + batch.targets_bt.size
    assert sorted(seen) == list(range(len(pairs)))
    assert len(shapes) <= buckets and shapes <= set(data.shapes)
    assert data.tokens_per_epoch == sum(target + 1 for _, target in pair_lengths)
    np.testing.assert_allclose(data.padding, 1 - (np.sum(pair_lengths) + 2 * len(pairs)) / held)


@settings(deadline=None, max_examples=30)
@given(pair_lengths, sizes, sizes, seeds, st.randoms(use_true_random=False))
def test_batch_i_of_buckets_is_a_function_of_seed_and_i(pair_lengths, batch_size, buckets, seed, random):
    check_random_access(lambda: Buckets(corpus(make_pairs(pair_lengths)), batch_size, buckets, seed), random)


def test_epochs_and_seeds_of_buckets_differ_in_rows_and_in_order():
    pairs = make_pairs([(n, n) for n in range(1, 9) for _ in range(6)])
    make = lambda seed: Buckets(corpus(pairs), 4, 2, seed)
    plan = lambda data, epoch: [tuple(rows_of(batch, pairs)) for batch in epoch_of(data, epoch)]
    for one, other in ((plan(make(0), 0), plan(make(0), 1)), (plan(make(0), 0), plan(make(1), 0))):
        assert set(map(frozenset, one)) != set(map(frozenset, other))
        assert [max(rows) for rows in one] != sorted(max(rows) for rows in one)  # short and long ones are mixed
        assert [max(rows) // 24 for rows in one] != [max(rows) // 24 for rows in other]


def held_by(shapes, members):
    return sum(sum(shape) * len(m) for shape, m in zip(shapes, members, strict=True))


kinds = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9)


@settings(deadline=None)
@given(kinds, st.integers(1, 5))
def test_no_shape_could_leave_less_padding_elsewhere(kinds, buckets):
    lengths = np.array(kinds)
    shapes = _shapes(lengths, buckets)
    members = _assign(lengths, shapes)
    assert sorted(np.concatenate(members)) == list(range(len(lengths))) and len(shapes) <= buckets
    for shape, m in zip(shapes, members, strict=True):
        assert tuple(lengths[m].max(axis=0)) == shape
    least = held_by(shapes, members)
    for k, place in itertools.product(range(buckets), itertools.product(range(1, 10), repeat=2)):
        others = sorted([*shapes[:k], *shapes[k + 1 :], place], key=sum)
        moved = _assign(lengths, others)
        if sum(map(len, moved)) == len(lengths):
            assert held_by(others, moved) >= least


@settings(deadline=None)
@given(kinds, st.integers(0, 3))
def test_a_bucket_for_each_kind_of_pair_leaves_no_padding(kinds, more):
    lengths = np.repeat(kinds, 3, axis=0)
    shapes = _shapes(lengths, len(set(kinds)) + more)
    assert sorted(shapes) == sorted(set(kinds))


def test_shapes_are_nearly_the_best_where_those_are_known():
    """Sides of equal length, where a dynamic programme over the lengths finds the best; and more lengths than levels."""
    rng = np.random.default_rng(0)
    for longest in (60, 2000):
        sides = np.minimum(rng.lognormal(np.log(longest / 5), 0.5, 1000).astype(int) + 2, longest)
        lengths, held = np.unique(sides), np.array([np.sum(sides <= n) for n in np.unique(sides)])
        best = lengths * held  # of one bucket, that ends with each length
        for buckets in range(2, 9):
            taken = np.where(lengths > lengths[:, None], lengths * (held - held[:, None]), 2**40)
            best = np.minimum((best[:, None] + taken).min(axis=0), best)
            pairs = np.stack([sides, sides], axis=1)
            shapes = _shapes(pairs, buckets)
            assert held_by(shapes, _assign(pairs, shapes)) < 1.02 * 2 * best[-1]


@settings(deadline=None)
@given(pair_lengths, sizes, sizes)
def test_evaluation_covers_every_pair_once_and_says_which(pair_lengths, batch_size, buckets):
    pairs = make_pairs(pair_lengths)
    seen = []
    for chosen, batch in evaluation_buckets(corpus(pairs), batch_size, buckets):
        assert 0 < len(chosen) <= batch_size == len(batch.source.values)
        check_rows(batch, [pairs[i] for i in chosen])
        seen += list(chosen)
    assert sorted(seen) == list(range(len(pairs)))


@pytest.mark.parametrize("rows", [3, 5])
def test_rows_that_fill_up_have_weight_0(rows):
    pairs = make_pairs([(2, 3), (4, 1), (1, 1)])
    batch = pad_rows(pad_pairs(pairs, (5, 4), 3), rows)
    check_rows(batch, pairs)
    assert len(batch.source.values) == rows
    window = Streams(texts([9]), 3, 4, 0.0, 0)[0]
    filled = pad_rows(window, rows)
    assert filled.source is None and filled.inputs_bt.shape == (rows, 4)
    equal(filled._replace(**{n: getattr(filled, n)[:3] for n in filled._fields[1:-1]}), window)
    assert not any(getattr(filled, name)[3:].any() for name in filled._fields[1:-1])


# ---- on the way to the device -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["streams", "buckets"])
def test_a_run_gets_the_batches_from_start_to_stop_in_order(layout):
    made = {
        "streams": Streams(texts([3, 5, 2, 7, 4]), 2, 4, 0.2, seed=1),
        "buckets": Buckets(corpus(make_pairs([(n, 2 * n) for n in range(1, 9)])), 2, 2, seed=1),
    }[layout]
    data, count = TrainingData(made, 0), 3 * made.steps_per_epoch
    put = lambda batch: batch._replace(inputs_bt=batch.inputs_bt + 100)
    whole = list(data.iterate(0, count, put))
    assert len(whole) == count
    for i, batch in enumerate(whole):
        equal(batch, put(made[i]))
    for start in (1, made.steps_per_epoch, count - 1, count):
        resumed = list(data.iterate(start, count, put))
        assert len(resumed) == count - start
        for i, batch in enumerate(resumed, start=start):
            equal(batch, whole[i])


def test_training_leaves_out_pairs_that_are_too_long_and_counts_them_evaluation_does_not():
    pairs = make_pairs([(2, 2), (3, 2), (2, 3), (4, 1), (1, 4), (9, 9)])
    encoded = Encoded(None, corpus(pairs), 0, 0)
    config = DataConfig(task="seq2seq", batch_size=2, max_length=4, buckets=1)  # the EOS counts
    data = feed.training_data(encoded, config, seed=0)
    assert data.left_out == 3 and data.steps_per_epoch == 2
    assert Counter(i for batch in epoch_of(data.batches) for i in rows_of(batch, pairs)) == Counter([0, 1, 2])
    scored = Counter(i for batch in feed.evaluation_batches(encoded, config) for i in rows_of(batch, pairs))
    assert scored == Counter(range(6))
    with pytest.raises(UserError, match="^error: config.data.max_length: is 2, and every training pair is longer"):
        feed.training_data(encoded, DataConfig(task="seq2seq", max_length=2), seed=0)


# ---- packed -----------------------------------------------------------------------------------------------------


def examples_of(batch, has_source):
    """(source ids, target ids) of every example in a packed batch, and that nothing else is in it."""
    check_types(batch)
    found = []
    for row in range(len(batch.inputs_bt)):
        starts = np.flatnonzero(batch.resets_bt[row])
        real = int(batch.weights_bt[row].sum())
        assert (batch.weights_bt[row] == (np.arange(batch.weights_bt.shape[1]) < real)).all()
        ends = batch.source_ends_bk[row].tolist() if has_source else []
        assert len(ends) >= len(starts) or not has_source
        if has_source:
            assert all(end == batch.source.values.shape[1] for end in ends[len(starts) :])
        for k, (start, stop) in enumerate(zip(starts, [*starts[1:], real], strict=False)):
            inputs, targets = batch.inputs_bt[row, start:stop], batch.targets_bt[row, start:stop]
            assert inputs[0] == BOS and targets[-1] == EOS and (inputs[1:] == targets[:-1]).all()
            source = []
            if has_source:
                begin = ends[k - 1] + 1 if k else 0
                assert batch.source.values[row, ends[k]] == EOS
                source = batch.source.values[row, begin : ends[k]].tolist()
            found.append((source, targets[:-1].tolist()))
        if has_source:
            last = ends[len(starts) - 1] + 1 if len(starts) else 0
            assert (batch.source.values[row, last:] == PAD).all()
        assert (batch.inputs_bt[row, real:] == PAD).all() and (batch.targets_bt[row, real:] == PAD).all()
    return found


@settings(deadline=None)
@given(pair_lengths, sizes, st.integers(10, 40), st.booleans(), seeds, st.integers(0, 3))
def test_an_epoch_of_packed_rows_is_every_example_once_and_whole(pair_lengths, rows, width, has_source, seed, epoch):
    pairs = make_pairs(pair_lengths)
    data = Packed(
        corpus(pairs) if has_source else texts([t for _, t in pair_lengths]),
        rows,
        width,
        TEXT if has_source else None,
        seed,
    )
    made = epoch_of(data, epoch)
    found = [example for batch in made for example in examples_of(batch, has_source)]
    wanted = [(source.tolist(), target.tolist()) for source, target in pairs]
    if not has_source:
        wanted = [([], target.tolist()) for target in documents([t for _, t in pair_lengths])]
    assert sorted(found) == sorted(wanted)
    assert {batch.inputs_bt.shape for batch in made} == {(rows, data.shape[1])} and max(data.shape) <= max(width, 10)
    held = sum(batch.inputs_bt.size + (batch.source.values.size if has_source else 0) for batch in made)
    real = sum(len(s) + has_source + len(t) + 1 for s, t in found)
    np.testing.assert_allclose(data.padding, 1 - real / held)


@settings(deadline=None, max_examples=30)
@given(pair_lengths, sizes, seeds, st.randoms(use_true_random=False))
def test_packed_batch_i_is_a_function_of_seed_and_i(pair_lengths, rows, seed, random):
    check_random_access(lambda: Packed(corpus(make_pairs(pair_lengths)), rows, 20, TEXT, seed), random)


def test_packed_rows_are_nearly_full():
    rng = np.random.default_rng(0)
    lengths = np.maximum(rng.normal(14, 4, (4000, 1)) + rng.normal(0, 2, (4000, 2)), 2).astype(int)
    rows = pack(lengths, (128, 128), seed=0)
    assert sorted(number for row in rows for number in row) == list(range(4000))
    assert all((lengths[row].sum(axis=0) <= 128).all() for row in rows)
    assert lengths.sum() / (len(rows) * 256) > 0.95


# ---- what a corpus is made into ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(lengths, st.integers(1, 7))
def test_pieces_are_the_documents_cut_evenly(lengths, longest):
    pieces = Excerpts(texts(lengths), longest)
    found = [target.tolist() for _, target in pieces.take(range(len(pieces)), 0)]
    assert [i for piece in found for i in piece] == np.concatenate(documents(lengths)).tolist()
    assert [len(piece) for piece in found] == pieces.lengths(0)[:, 1].tolist()
    assert len(pieces) == sum(-(-n // longest) for n in lengths) and max(map(len, found)) <= longest
    for n in lengths:  # no piece of a document is more than one longer than another
        sizes, found = [], [*found]
        while sum(sizes) < n:
            sizes.append(len(found.pop(0)))
        assert max(sizes) - min(sizes) <= 1


def test_noise_is_of_the_seed_the_epoch_and_the_piece():
    objective = lambda ids, rng: (ids[rng.random(len(ids)) < 0.5], ids)
    make = lambda seed: Noised(texts([40, 40]), 10, objective, lambda n: (n, n), seed)
    drawn = lambda seed, epoch: [source.tolist() for source, _ in make(seed).take(range(8), epoch)]
    assert drawn(0, 0) == drawn(0, 0) and drawn(0, 0) != drawn(1, 0) and drawn(0, 0) != drawn(0, 1)
    assert make(0).take([5], 0)[0][0].tolist() == drawn(0, 0)[5]


@settings(deadline=None)
@given(lengths, st.integers(2, 7), seeds)
def test_pieces_that_are_cut_are_whole_once_an_epoch_and_as_long_as_planned(lengths, longest, seed):
    cuts = functools.partial(objectives.cuts, least=0.0, most=1.0)
    uncut = Excerpts(texts(lengths), longest)
    whole = sorted(target.tolist() for _, target in uncut.take(range(len(uncut)), 0))
    pieces = PrefixPairs(texts(lengths), longest, cuts, seed)
    for epoch in (0, 1, 2, 1):
        found = pieces.take(range(len(pieces)), epoch)
        assert sorted([*source, *target] for source, target in found) == whole
        assert [[len(source), len(target)] for source, target in found] == pieces.lengths(epoch).tolist()


def test_a_piece_is_cut_elsewhere_in_another_epoch():
    cuts = functools.partial(objectives.cuts, least=0.0, most=1.0)
    make = lambda: PrefixPairs(texts([20] * 60), 20, cuts, 0)
    cut = lambda epoch: {target[-1]: len(source) for source, target in make().take(range(60), epoch)}
    assert cut(0) == cut(0) and cut(1) == cut(1)
    assert len({tuple(sorted(cut(epoch).items())) for epoch in range(4)}) == 4
    assert sorted(cut(3).values()) == sorted(cut(0).values())
    assert np.mean([cut(0)[text] == cut(1)[text] for text in cut(0)]) < 0.2


def test_epochs_read_the_versions_of_a_corpus_in_turn():
    versions = [texts([3, 5]), texts([4, 4, 1]), texts([20, 2])]
    for layout in (
        lambda c: Streams(c, 2, 4, 0.0, 0),
        lambda c: Buckets(c, 2, 1, 0),
        lambda c: Packed(c, 2, 24, None, 0),
    ):
        data, start = layout(Copies([versions[0], versions[2]])), 0
        for epoch in range(5):
            steps = data.steps(epoch)
            read = [data[i].targets_bt for i in range(start, start + steps)]
            real = sorted(int(i) for batch in read for i in batch[(batch != PAD) & (batch != EOS)])
            assert real == sorted(np.concatenate(documents([(3, 5), (20, 2)][epoch % 2])).tolist())
            start += steps


@pytest.mark.parametrize("layout", ["streams", "buckets", "packed"])
def test_an_epoch_is_planned_once_though_batches_of_the_one_before_are_still_asked_for(layout):
    data = LAYOUTS[layout](corpus(make_pairs([(1 + n % 4, 1 + n % 5) for n in range(60)])))
    planned, plan = [], data.plan
    data.plan = lambda epoch: planned.append(epoch) or plan(epoch)
    steps = data.steps_per_epoch
    for i in range(2 * steps):
        for index in (i, i + steps):
            data[index]
    assert planned == [0, 1, 2]
    assert len(data._plans._made) == 2  # and old ones are let go


# ---- shares of a batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("layout", ["streams", "buckets", "packed"])
def test_the_shares_of_hosts_make_up_the_batch_and_each_reads_its_own(layout, hosts):
    made = LAYOUTS[layout]
    pairs = make_pairs([(1 + n % 4, 1 + n % 5) for n in range(150)])

    class Counting(InMemory):
        read = 0

        def take(self, numbers, epoch):
            self.read += len(numbers)
            return super().take(numbers, epoch)

    whole, reads = list(TrainingData(made(corpus(pairs)), 0).iterate(0, 9, lambda b: b)), []
    shares = []
    for host in range(hosts):
        counting = Counting([t for _, t in pairs], [s for s, _ in pairs])
        shares.append(list(TrainingData(made(counting), 0).iterate(0, 9, lambda b: b, host, hosts)))
        reads.append(counting.read)
    for i, batch in enumerate(whole):
        parts = [share[i] for share in shares]
        joined = jax.tree.map(lambda *each: np.concatenate(each), *parts)
        equal(joined, batch)
    counting = Counting([t for _, t in pairs], [s for s, _ in pairs])
    list(TrainingData(made(counting), 0).iterate(0, 9, lambda b: b))
    # A document that goes over from one share into the next is read by both.
    assert max(reads) < 0.8 * counting.read


def test_batches_are_the_same_from_worker_processes():
    data = Buckets(Subset(corpus(make_pairs([(1 + n % 4, 1 + n % 5) for n in range(40)])), np.arange(30)), 4, 2, seed=1)
    alone, helped = (list(TrainingData(data, 0, workers).iterate(3, 12, tuple)) for workers in (0, 2))
    assert len(alone) == len(helped) == 9
    for one, other in zip(alone, helped, strict=True):
        equal(one, other)
