"""A decoder over known labels: a distribution over them, whatever their ids, alone and in packed rows."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.answers import loss_of, text_source

from lm.answers.labels import Ranker
from lm.batch import BOS, EOS, PAD, Batch
from lm.config import Config, DataConfig, ModelConfig, TokenizerConfig, validated
from lm.models.parameters import initial_params

pytestmark = pytest.mark.usefixtures("quick_training")

LABELS = ((5, EOS), (5, 6, EOS), (5, 6, 7, EOS), (8, 5, EOS), (EOS,))  # each a beginning of another, or of none
WIDTH = max(map(len, LABELS))
SOURCES = np.array([[9, 4, 7, EOS], [6, EOS, PAD, PAD], [3, 3, EOS, PAD]], np.int32)


@pytest.fixture(scope="module", params=[False, True], ids=["written", "copied"])
def ranker(request):
    """A model of random parameters, large enough that the labels are far from equal."""
    model_config = ModelConfig(embed_dim=8, hidden_dim=8, layers=1, attention="dot", copy=request.param)
    data_config = DataConfig(train="tsv:f", task="classify", tokenizer=TokenizerConfig("bytes"))
    config = validated(Config(data=data_config, model=model_config))
    model = Ranker(config.model, 12, "text", LABELS)
    return model, jax.tree.map(lambda x: 4 * x + 0.1, initial_params(model, 0))


def padded(ids, width=WIDTH):
    return [*ids, *[PAD] * (width - len(ids))]


def batch_of(sources_bs, labels) -> Batch:
    targets = np.array([padded(label) for label in labels], np.int32)
    inputs = np.array([padded([BOS, *label[:-1]]) for label in labels], np.int32)
    return Batch(
        text_source(sources_bs), inputs, targets, (targets != PAD).astype(np.float32), np.zeros_like(targets, bool)
    )


@functools.partial(jax.jit, static_argnums=0)
def nats_of(model, params, batch):
    """Of each row."""
    alone = lambda row: loss_of(model, params, (), jax.tree.map(lambda x: x[None], row))[0]
    return jax.vmap(alone)(batch)


def test_the_probabilities_of_the_labels_sum_to_one_and_are_those_of_their_tokens_among_what_may_follow(ranker):
    model, params = ranker
    forward = jax.jit(lambda params, ids, source: model.apply({"params": params}, ids, text_source(source)))
    for source in SOURCES:
        nats = nats_of(model, params, batch_of(np.tile(source, (len(LABELS), 1)), LABELS))
        assert np.ptp(nats) > 0.1
        assert np.exp(-nats).sum() == pytest.approx(1, rel=1e-5)
        if model.config.copy:
            continue
        for label, found in zip(LABELS, nats, strict=True):
            logits_tv = forward(params, np.array([padded([BOS, *label[:-1]])], np.int32), source[None])[0]
            expected = 0.0
            for place, token in enumerate(label):
                may = sorted(
                    {other[place] for other in LABELS if other[:place] == label[:place] and len(other) > place}
                )
                expected -= jax.nn.log_softmax(logits_tv[place, jnp.array(may)])[may.index(token)]
            assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


def test_what_is_no_label_is_impossible_and_no_other_word_learns_anything(ranker):
    model, params = ranker
    batch = batch_of(SOURCES, [LABELS[1], (5, 7, EOS), (9, EOS)])
    assert np.isinf(nats_of(model, params, batch)).tolist() == [False, True, True]
    good = batch_of(SOURCES, [LABELS[1], LABELS[3], LABELS[0]])
    gradient = jax.jit(jax.grad(lambda params: loss_of(model, params, (), good)[0]))(params)
    learns = np.abs(gradient["head_kernel"]).sum(axis=0) > 0
    assert np.flatnonzero(learns).tolist() == [EOS, 5, 6, 7, 8]
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(gradient))


def test_rows_of_padding_weigh_nothing(ranker):
    model, params = ranker
    batch = batch_of(SOURCES, [LABELS[1], LABELS[2], LABELS[4]])
    more = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), batch)
    grad = jax.jit(jax.value_and_grad(lambda p, b: loss_of(model, p, (), b, None, 0.1, 1e-3)[0]))
    (alone, expected), (padded_, found) = grad(params, batch), grad(params, more)
    assert padded_ == pytest.approx(float(alone), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_labels_in_packed_rows_are_each_their_own(ranker):
    model, params = ranker
    for labels in itertools.islice(itertools.permutations(LABELS, 2), 0, 20, 3):
        sources = [[9, 4, EOS], [6, EOS]]
        alone = nats_of(model, params, batch_of(np.array([padded(each, 4) for each in sources], np.int32), labels))
        row = lambda *ids: np.array([padded(sum(ids, ()), 2 * WIDTH)], np.int32)
        inputs, targets = row((BOS, *labels[0][:-1]), (BOS, *labels[1][:-1])), row(*labels)
        resets = np.zeros(targets.shape, bool)
        resets[0, [0, len(labels[0])]] = True
        weights, source, ends = (targets != PAD).astype(np.float32), row(*map(tuple, sources)), np.array([[2, 4]])
        packed = Batch(text_source(source), inputs, targets, weights, resets, ends.astype(np.int32))
        assert nats_of(model, params, packed)[0] == pytest.approx(float(alone.sum()), rel=1e-4)
