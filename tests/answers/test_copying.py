"""A decoder that copies: one mixture of distributions, in training, in scoring and in search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from support.answers import answer_of, loss_of, text_source
from support.configs import tiny_config
from support.losses import case as plain_case
from support.losses import close
from support.models import VOCAB, batch_of, built, compiled, config, encode, forced, packed, pairs_of, unroll
from support.training import Setup

from lm import changed
from lm.answers import copying
from lm.answers import cross_entropy as head
from lm.answers.cross_entropy import cross_entropy
from lm.answers.labels import Ranker
from lm.answers.ranking import label_ids
from lm.batch import EOS, PAD
from lm.data.read.examples import Example
from lm.data.text.tokenizers.vocabulary import Bytes
from lm.devices.mesh import Devices, Fsdp
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.inputs import factor
from lm.search.options import Options

pytestmark = pytest.mark.usefixtures("quick_training")

SHAPE = ("dot", "bidirectional", 2, False, "lstm", True)


@pytest.fixture
def model():
    return built(config(*SHAPE), True)


# ---- the distribution -------------------------------------------------------------------------------------------


@compiled
def features_of(model, params, batch):
    memory = model.apply({"params": params}, batch.source, None, batch.source_ends_bk, method="encode")
    state = model.apply({"params": params}, memory, method="initial_state")
    given = (batch.inputs_bt, state, memory, batch.resets_bt)
    return model.apply({"params": params}, *given, method="unroll")[0], memory.ids_bs


def test_it_is_the_mixture_of_what_the_head_writes_and_of_the_attended_sources_ids(model):
    batch = batch_of()
    features, _ = features_of(*model, batch)
    found = np.exp(forced(*model, batch)[2])
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    bare, params = built(config(*SHAPE[:5]), True)  # the same model, but for the gate
    params = {**model[1], "decoder": {n: p for n, p in model[1]["decoder"].items() if n != "gate"}}
    memory, state = encode(bare, params, batch.source.values)
    written = jax.nn.softmax(unroll(bare, params, batch.inputs_bt, state, memory, batch.resets_bt)[2])
    p_btv = jax.nn.sigmoid(features.gate_bt)[..., None]
    one_hot = jax.nn.one_hot(batch.source.values, VOCAB) * (batch.source.values != PAD)[..., None]
    copied = jnp.einsum("bts,bsv->btv", features.attention_bts, one_hot)
    np.testing.assert_allclose(found, p_btv * written + (1 - p_btv) * copied, atol=1e-6)
    assert 0.02 < p_btv[batch.weights_bt > 0].min() < p_btv[batch.weights_bt > 0].max() < 0.98


@pytest.mark.parametrize("packs", [False, True])
def test_the_loss_is_of_the_logits(packs, model):
    """The one is made of the target's probability alone, the others of all that stands in the source."""
    pairs = pairs_of(3)
    batch = packed([pairs[:2], pairs[2:]]) if packs else batch_of()
    log_prob_btv = jax.nn.log_softmax(forced(*model, batch)[2])
    nats_bt = -np.take_along_axis(np.asarray(log_prob_btv), batch.targets_bt[..., None], axis=-1)[..., 0]
    total, (count, _) = loss_of(*model, (), batch)
    np.testing.assert_allclose(total, np.sum(nats_bt * batch.weights_bt), rtol=1e-5)
    assert count == batch.weights_bt.sum()


# ---- the fused loss ---------------------------------------------------------------------------------------------


def case(dtype=jnp.float32):
    """As that of support.losses, and the gate and the probability of copying of each position; some are 0, some 1."""
    rng = np.random.default_rng(1)
    features, kernel, bias, targets, weights = plain_case(dtype)
    gate, copied = rng.normal(size=targets.shape) * 2, rng.random(targets.shape) * rng.integers(0, 2, targets.shape)
    copied[0, 0] = 1
    return (features, kernel, bias, jnp.asarray(gate, dtype), jnp.asarray(copied, dtype)), targets, weights


def fused(features, kernel, bias, gate, copied, targets, weights, smoothing=0.0, z=0.0):
    head, how = (kernel, bias), (smoothing, z, "float32", (gate, copied))
    return cross_entropy(features, head, targets, weights, *how)[0]


def plain(features, kernel, bias, gate, copied, targets, weights, smoothing=0.0, z=0.0):
    """The definition, with all probabilities written out."""
    log_written = jax.nn.log_softmax(features @ kernel + bias)
    own = jnp.take_along_axis(jnp.exp(log_written), targets[..., None], axis=-1)[..., 0]
    p = jax.nn.sigmoid(gate)
    nats = (1 - smoothing) * -jnp.log(p * own + (1 - p) * copied) - smoothing * log_written.mean(axis=-1)
    return jnp.sum((nats + z * jax.nn.logsumexp(features @ kernel + bias, axis=-1) ** 2) * weights)


@pytest.mark.parametrize("smoothing, z", [(0.0, 0.0), (0.1, 0.3)])
@pytest.mark.parametrize("plan", [(15, 7, False), (4, 3, False), (4, 3, True)])
def test_it_equals_the_definition_in_value_and_gradient_however_it_is_cut(plan, smoothing, z, monkeypatch):
    monkeypatch.setattr(head, "_plan", lambda *_: head._Plan(*plan))
    given, *rest = case()
    found, expected = (
        jax.value_and_grad(lambda *g, loss=loss: loss(*g, *rest, smoothing, z), argnums=range(5))(*given)
        for loss in (fused, plain)
    )
    close(found, expected)
    assert np.abs(found[1][4]).max() > 1e-2


def test_the_gradient_is_of_the_value_by_finite_differences_in_float64():
    with jax.enable_x64(True):
        given, *rest = case(jnp.float64)
        given = (*given[:4], 0.1 + 0.8 * given[4])  # away from the ends
        check_grads(lambda *g: fused(*g, *rest, 0.1), given, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_what_cannot_be_copied_and_is_hardly_written_makes_no_nan():
    (features, kernel, bias, gate, copied), *rest = case()
    for scale, shift in ((1e4, 0.0), (1.0, 200.0), (1.0, -200.0)):
        given = (features * scale, kernel, bias, gate + shift, jnp.zeros_like(copied))
        found = jax.value_and_grad(lambda *g: fused(*g, *rest), argnums=range(5))(*given)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# ---- coverage ---------------------------------------------------------------------------------------------------


def test_coverage_is_the_attention_that_is_paid_again():
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(4), size=(2, 5))
    weights, expected = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0.0]]), 0.0
    for b in range(2):
        paid = np.zeros(4)
        for t in range(5):
            expected += weights[b, t] * np.minimum(attention[b, t], paid).sum()
            paid += attention[b, t]
    found = copying.coverage_loss(jnp.asarray(attention, jnp.float32), jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # To look at another place each time costs nothing, to stay costs 1 a step after the first.
    np.testing.assert_allclose(copying.coverage_loss(jnp.eye(4)[None], jnp.ones((1, 4))), 0)
    np.testing.assert_allclose(copying.coverage_loss(jnp.eye(4)[None, [1, 1, 1]], jnp.ones((1, 3))), 2)


def test_coverage_is_added_to_the_loss_and_is_the_same_for_packed_pairs(model):
    def loss(params, batch, weight):
        return loss_of(model[0], params, (), batch, None, 0.0, 0.0, weight)[0]

    lightly = {"xla_backend_optimization_level": 0}
    both = jax.jit(jax.value_and_grad(loss), static_argnums=2, compiler_options=lightly)
    pairs = pairs_of(0)
    alone, together = packed([[pair] for pair in pairs[:4]]), packed([pairs[:1], pairs[1:4]])
    added = both(model[1], alone, 2.0)[0] - both(model[1], alone, 0.0)[0]
    features, _ = features_of(*model, alone)
    np.testing.assert_allclose(added, 2 * copying.coverage_loss(features.attention_bts, alone.weights_bt), rtol=1e-4)
    assert added > 0.1
    close(both(model[1], together, 2.0), both(model[1], alone, 2.0), rtol=1e-4)


# ---- search and scores ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_model():
    """A pointer-generator over bytes, its parameters random and large, so that copies and their ends are drawn."""
    tokenizer = Bytes()
    made = EncoderDecoder(config("additive", copy=True), tokenizer.vocab_size, "text")
    ids = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0), ids, text_source(ids)))["params"]
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    params["embedding"]["embedding"] /= factor(made.config.embed_dim)
    params["decoder"]["gate"]["bias"] -= 2  # it copies more than it writes, so most of it is text
    params["head_bias"] = params["head_bias"].at[EOS].add(4)
    return answer_of(made, tokenizer=tokenizer), params


SOURCES = ["ab", "bbcd", "", "a"]


@pytest.mark.parametrize("how", [{"beam_size": 4, "num_samples": 4}, {"temperature": 0.0}, {"num_samples": 3}], ids=str)
def test_the_score_of_what_is_generated_is_its_score_under_unroll(how, random_model):
    found = random_model[0].answer(random_model[1], SOURCES, Options(max_new_tokens=8, **how))
    compared = 0
    for outputs in found:
        scores = random_model[0].score(random_model[1], [Example(one.prompt, one.output) for one in outputs])
        for one, expected in zip(outputs, scores, strict=True):
            if one.ended and one.tokens == expected.tokens:  # the same ids: bytes that are no UTF-8 are lost in a text
                np.testing.assert_allclose(one.log_probability, expected.log_probability, atol=1e-4)
                compared += 1
    assert compared >= (2 if how.get("temperature") == 0 else 4)


def test_a_beam_of_one_is_greedy_and_a_row_alone_is_the_row_in_a_batch(random_model):
    answer, params = random_model
    greedy = answer.answer(params, SOURCES, Options(max_new_tokens=8, temperature=0.0))
    beam = answer.answer(params, SOURCES, Options(max_new_tokens=8, beam_size=1))
    assert [one.output for (one,) in beam] == [one.output for (one,) in greedy]
    for source, (one,) in zip(SOURCES, greedy, strict=True):
        ((alone,),) = answer.answer(params, [source], Options(max_new_tokens=8, temperature=0.0))
        assert alone.output == one.output
        np.testing.assert_allclose(alone.log_probability, one.log_probability, rtol=1e-4)


def test_labels_are_ranked_by_the_mixture(random_model):
    (text, params), labels = random_model, ("ab", "c")
    ids = label_ids(text.tokenizer, labels)
    ranker = Ranker(text.model.config, text.model.vocab_size, "text", ids)
    answer = answer_of(ranker, tokenizer=text.tokenizer, labels=labels)
    nats = answer.label_log_probs(params, SOURCES)
    scores = answer.score(params, [Example(source, label) for source in SOURCES for label in labels])
    np.testing.assert_allclose(nats.ravel(), [one.log_probability for one in scores], rtol=1e-4)


def test_devices_modes_and_micro_batches_give_the_same_updates(sources):
    changes = {"model.copy": True, "model.coverage": 0.5, "model.dropout": 0.3, "data.layout": "packed"}
    setup = Setup(tiny_config("buckets", sources["seq2seq"], changes | {"training.label_smoothing": 0.1}))
    given = [setup.data.batches[i] for i in range(6)]
    expected, _ = setup.updates(Devices(jax.devices()[:1]), given)
    setup.config = changed(setup.config, {"training.accumulate": 2})
    found, _ = setup.updates(Fsdp(jax.devices()[:4]), given)
    np.testing.assert_allclose([one.loss_sum for one in found], [one.loss_sum for one in expected], rtol=1e-4)
