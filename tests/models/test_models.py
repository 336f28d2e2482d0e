"""The model is a pure function of parameters and ids: of those that it may see, and of no others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.answers import loss_of, text_source
from support.models import (
    HIDDEN,
    LENGTHS,
    LONGEST,
    PAIRS,
    ROWS,
    SHAPES,
    VOCAB,
    batch_of,
    built,
    compiled,
    config,
    encode,
    forced,
    packed,
    pairs_of,
    unroll,
)
from support.sizes import sized

from lm.batch import BOS, PAD
from lm.config import ModelConfig
from lm.data.batches.buckets import pad_pairs
from lm.data.batches.layout import pad_rows
from lm.layers.attention import Attention, SelfAttention
from lm.layers.dropout import dropout
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder

# Each choice at least once.
FAST = [SHAPES[i] for i in (0, 3, 5, 7, 8, 10, 11, 15, 17)]


def logits(model, params, batch, keys_b=None):
    return np.asarray(forced(model, params, batch, keys_b)[2])


@compiled
def loss_and_gradient(model, params, batch):
    carry = () if model.has_encoder else zero_states(model.config, batch.inputs_bt.shape[0])
    scalar = lambda params: loss_of(model, params, carry, batch, None, 0.1)
    (loss, (count, _)), gradient = jax.value_and_grad(scalar, has_aux=True)(params)
    return loss, count, gradient


def close(found, expected, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), found, expected)


def named(shape) -> str:
    return "-".join(map(str, shape))


@pytest.fixture(params=sized([(shape,) for shape in SHAPES], lambda shape: shape in FAST), ids=named)
def each(request):
    """(model, parameters) of each shape."""
    return built(config(*request.param), request.param[1] is not None)


@pytest.fixture(params=[SHAPES[i] for i in (3, 4, 6, 11, 13, 15, 17)], ids=named)
def some(request):
    """(model, parameters) of a few shapes: gradients take long to compile."""
    return built(config(*request.param), request.param[1] is not None)


# ---- at the start -----------------------------------------------------------------------------------------------


def test_at_the_start_a_source_is_heard_through_two_layers():
    wide = ModelConfig(embed_dim=64, hidden_dim=64, layers=2, attention="dot", tied=True)
    model = EncoderDecoder(wide, 50, "text")
    source_bs = jax.random.randint(jax.random.key(1), (8, 12), 3, 50)
    params = compiled(lambda model, ids: model.init(jax.random.key(0), ids, text_source(ids)))(model, source_bs)[
        "params"
    ]
    vectors_bsd = model.apply({"params": params}, source_bs, method=lambda model, ids: model.embedding(ids))
    assert 0.9 < vectors_bsd.std() < 1.1
    assert 0.9 < (vectors_bsd @ params["encoder"]["layer_0_forward"]["kernel"]).std() < 1.1
    memory, _ = encode(model, params, source_bs)
    assert memory.values_bsd.std(axis=0).mean() > 0.1  # between sources
    # Nothing is likely yet.
    logits_btv = forced(model, params, batch_of()._replace(source=text_source(source_bs[:3])))[2]
    assert jax.nn.softmax(logits_btv).max() < 0.3


# ---- one model, two ways to run it ------------------------------------------------------------------------------


@compiled
def step(model, params, ids_b, state, memory):
    """(features, logits, state)"""
    features, state = model.apply({"params": params}, ids_b, state, memory, method="step")
    return features, model.apply({"params": params}, features, memory, method="logits"), state


@compiled
def features_of(model, params, batch, state, memory):
    return model.apply({"params": params}, batch.inputs_bt, state, memory, method="unroll")[0]


def test_unroll_equals_a_loop_over_step(each):
    """In logits, in the final state, and in all that a step says besides: attention, and the gate of a copy."""
    model, params = each
    batch = batch_of(has_encoder=model.has_encoder)
    memory, state = None, zero_states(model.config, 3)
    if model.has_encoder:
        memory, state = encode(model, params, batch.source.values)
    _, final, expected = forced(model, params, batch)
    features = features_of(model, params, batch, state, memory)
    for t in range(batch.inputs_bt.shape[1]):
        given, found, after = step(model, params, batch.inputs_bt[:, t], state, memory)
        real = batch.inputs_bt[:, t] != PAD
        np.testing.assert_allclose(found[real], expected[real, t], atol=1e-5)
        now = lambda x, real=real, t=t: x[real, t]
        close(jax.tree.map(lambda x, real=real: x[real], given), jax.tree.map(now, features))
        # A row that has ended waits, as `unroll` lets it.
        wait = lambda new, old, real=real: np.where(real.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        state = jax.tree.map(wait, after, state)
    close(state, final)


def test_a_call_is_teacher_forcing_from_the_initial_state(some):
    model, params = some
    batch = batch_of(has_encoder=model.has_encoder)
    call = compiled(lambda model, params, batch: model.apply({"params": params}, batch.inputs_bt, batch.source))
    np.testing.assert_allclose(call(model, params, batch), logits(model, params, batch), atol=1e-5)


def test_a_language_model_has_no_parameters_of_an_encoder_and_goes_on_where_it_stopped():
    model, params = built(config("additive", "bidirectional", 2), False)  # attention to nothing is none
    assert set(params) == {"embedding", "decoder", "head_kernel", "head_bias"}
    assert set(params["decoder"]) == {"layers_0", "layers_1"}
    inputs = np.random.default_rng(2).integers(3, VOCAB, (3, 8)).astype(np.int32)
    zeros = zero_states(model.config, 3)
    whole, final, _ = unroll(model, params, inputs, zeros)
    first, state, _ = unroll(model, params, inputs[:, :4], zeros)
    second, end, _ = unroll(model, params, inputs[:, 4:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    close(end, final, atol=1e-6)
    fresh, *_ = unroll(model, params, inputs[:, 4:], zeros)
    assert np.abs(fresh - second).max() > 1e-2


# ---- what a logit may depend on ---------------------------------------------------------------------------------


def test_a_gold_token_changes_the_logits_after_it_and_none_up_to_it(each):
    model, params = each
    batch = batch_of(has_encoder=model.has_encoder)
    plain = logits(model, params, batch)
    row, count = 1, LENGTHS[1][1]
    for t in range(count):
        # Gold token t is the target at t, and what is read at t + 1.
        inputs = batch.inputs_bt.copy()
        inputs[row, t + 1] = 3 + (inputs[row, t + 1] - 3 + 1) % (VOCAB - 3)
        moved = np.abs(logits(model, params, batch._replace(inputs_bt=inputs)) - plain).max(axis=-1)
        assert (moved[row, : t + 1] == 0).all() and (moved[row, t + 1 : count + 1] > 1e-5).all()
        assert (np.delete(moved, row, axis=0) == 0).all()


def test_a_row_among_empty_ones_is_the_row_in_a_batch(each):
    model, params = each
    batch = batch_of(has_encoder=model.has_encoder)
    together = forced(model, params, batch)
    for row in range(3):
        one = jax.tree.map(lambda a, row=row: a[row : row + 1], batch)
        alone = forced(model, params, pad_rows(one, 3))
        first, same = (jax.tree.map(lambda x, i=i: x[i], tree) for tree, i in ((alone, 0), (together, row)))
        close(first, same)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(alone))


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1]], ids=named)
def test_every_source_token_changes_every_logit_of_its_row_and_of_no_other(shape):
    model, params = built(config(*shape), True)
    batch = batch_of()
    plain = logits(model, params, batch)
    row, (sources, targets) = 0, LENGTHS[0]
    for s in range(sources):
        source = batch.source.values.copy()
        source[row, s] = 3 + (source[row, s] - 3 + 1) % (VOCAB - 3)
        moved = np.abs(logits(model, params, batch._replace(source=text_source(source))) - plain).max(axis=-1)
        assert (moved[row, : targets + 1] > 1e-7).all() and (np.delete(moved, row, axis=0) == 0).all()


def test_more_padding_and_empty_rows_change_no_logit_and_no_state(each):
    model, params = each
    batch = batch_of(has_encoder=model.has_encoder)
    _, state, expected = forced(model, params, batch)
    _, end, found = forced(model, params, batch_of((10, 9), 5, model.has_encoder))
    real = batch.weights_bt == 1
    np.testing.assert_allclose(found[:3, :7][real], expected[real], atol=1e-5)
    close(jax.tree.map(lambda x: x[:3], end), state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, end)))


def test_more_padding_and_empty_rows_change_no_loss_and_no_gradient(some):
    model, params = some
    batch, longer = (batch_of(*size, model.has_encoder) for size in (((6, 7), 3), ((10, 9), 5)))
    close(loss_and_gradient(model, params, longer), loss_and_gradient(model, params, batch))


def test_every_parameter_gets_a_gradient(some):
    model, params = some
    _, count, gradient = loss_and_gradient(model, params, batch_of(has_encoder=model.has_encoder))
    assert count == sum(target + 1 for _, target in LENGTHS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)


def test_after_a_reset_nothing_before_it_counts():
    model, params = built(config(layers=2), False)
    rng = np.random.default_rng(3)
    inputs = rng.integers(3, VOCAB, (2, 8)).astype(np.int32)
    reset = np.zeros((2, 8), bool)
    reset[0, 5] = True
    run = lambda ids, state, reset: unroll(model, params, ids, state, None, reset)[:2]
    found, state = run(inputs, zero_states(model.config, 2), reset)
    other = inputs.copy()
    other[:, :5] = 3 + (other[:, :5] - 2) % (VOCAB - 3)
    begin = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), zero_states(model.config, 2))
    changed, end = run(other, begin, reset)
    moved = np.abs(changed - found).max(axis=-1)
    assert (moved[0, 5:] == 0).all() and (moved[0, :5] > 1e-5).all() and (moved[1] > 1e-7).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), end, state)
    alone, _ = run(inputs[:, 5:], zero_states(model.config, 2), reset[:, 5:])
    np.testing.assert_allclose(alone[0], found[0, 5:], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES[-2:], ids=named)
def test_a_decoder_that_reads_the_source_is_a_language_model_that_goes_on(shape):
    model, params = built(config(*shape), True)
    alone, own = built(config(*shape), False)
    jax.tree.map(np.testing.assert_array_equal, params, own)
    batch = batch_of()
    found = logits(model, params, batch)
    for row, (source, target) in enumerate(LENGTHS):
        text = np.concatenate([[BOS], batch.source.values[row, :source], batch.targets_bt[row, :target]])[None]
        *_, expected = unroll(alone, own, text, zero_states(alone.config, 1))
        np.testing.assert_allclose(found[row, : target + 1], expected[0, source:], atol=1e-5)


# ---- encoder and attention --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["unidirectional", "bidirectional"])
def test_the_summary_is_as_long_for_any_source_and_tells_sources_apart(encoder):
    model, params = built(config("none", encoder, 2), True)
    width = 2 * HIDDEN * (2 if encoder == "bidirectional" else 1)
    sources = np.random.default_rng(4).integers(3, VOCAB, (2, 9)).astype(np.int32)
    for length in (1, 4, 9):
        memory, _ = encode(model, params, sources[:, :length])
        assert memory.summary_nz.shape == (2, width) and memory.summary_nz.dtype == jnp.float32
        assert memory.values_bsd.shape == (2, length, width // 2) and memory.mask_bs.all()
        assert np.abs(memory.summary_nz[0] - memory.summary_nz[1]).max() > 1e-3
        # The top layer's final outputs: the last ones of the forward direction, the first of the backward one.
        top = memory.summary_nz[:, width // 2 :]
        np.testing.assert_array_equal(top[:, :HIDDEN], memory.values_bsd[:, -1, :HIDDEN])
        np.testing.assert_array_equal(top[:, HIDDEN:], memory.values_bsd[:, 0, HIDDEN:])


def test_a_backward_direction_sees_what_follows():
    batch = batch_of()
    last = batch.source.values.copy()
    last[0, 4] = 3 + (last[0, 4] - 2) % (VOCAB - 3)
    for encoder, sees in (("unidirectional", False), ("bidirectional", True)):
        model, params = built(config("dot", encoder, 1), True)
        (memory, _), (other, _) = (encode(model, params, source) for source in (batch.source.values, last))
        moved = np.abs(other.values_bsd - memory.values_bsd).max(axis=-1)
        assert (moved[0, :4] > 1e-6).all() == sees and (moved[0, 4:] > 1e-6).all()


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_attention_gives_padding_no_weight(kind):
    attention = Attention(config(kind), memory_dim=5)
    rng = np.random.default_rng(5)
    random = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    queries, values = random(3, 4, HIDDEN), random(3, 6, 5)
    mask = jnp.arange(6) < jnp.array([6, 3, 1])[:, None]

    def contexts(module, values, mask):
        weights_bts = module.weights(queries.swapaxes(0, 1), module.keys(values), mask[:, None])
        return module.contexts(weights_bts, values).swapaxes(0, 1)

    params = attention.init(jax.random.key(0), values, mask, method=contexts)
    run = lambda values, mask=mask: attention.apply(params, values, mask, method=contexts)
    found = run(values)
    assert found.shape == (3, 4, 5) and found.dtype == jnp.float32
    noise = jnp.where(mask[..., None], values, 1e3 * random(3, 6, 5))
    np.testing.assert_array_equal(run(noise), found)
    gradient = jax.grad(lambda values: jnp.sum(run(values) ** 2))(values)
    assert (np.asarray(gradient)[~np.asarray(mask)] == 0).all()
    assert (np.abs(np.asarray(gradient)[np.asarray(mask)]).max(axis=-1) > 0).all()
    # A mean of values with weights that sum to one: of one value it is the value; no mean lies outside.
    np.testing.assert_allclose(found[2], jnp.broadcast_to(values[2, 0], (4, 5)), rtol=1e-6)
    assert (found <= values.max(axis=1, keepdims=True) + 1e-6).all()
    # Different queries look at different places, and where they look depends on the keys.
    assert np.abs(found[0] - found[0].mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_the_decoder_attends(kind):
    """Equal summaries and other values give other features: the features see more than the fixed-length vector."""
    model, params = built(config(kind, "bidirectional", 2), True)
    memory, state = encode(model, params, batch_of().source.values)
    turned = memory._replace(values_bsd=memory.values_bsd[..., ::-1])
    found, other = (unroll(model, params, batch_of().inputs_bt, state, each)[0] for each in (memory, turned))
    assert (np.abs(other - found).max(axis=-1)[:, 0] > 1e-3).all()


def test_a_decoder_attends_to_its_last_real_outputs_of_the_text_and_to_nothing_else():
    rng, window, shape = np.random.default_rng(3), 3, (4, 12, 5)
    values, mask, reset = (
        rng.normal(size=shape).astype(np.float32),
        rng.random(shape[:2]) < 0.8,
        rng.random(shape[:2]) < 0.2,
    )
    model = SelfAttention(window, shape[2], "float32")
    nothing = SelfAttention.none_yet(shape[:1], window, shape[2])
    run = jax.jit(functools.partial(model.apply, method="unroll"))
    variables = jax.jit(functools.partial(model.init, method="unroll"))(jax.random.key(0), values, nothing, mask, reset)
    found, past = run(variables, values, nothing, mask, reset)
    params = variables["params"]
    query = values @ params["query"]["kernel"] * shape[2] ** -0.5
    for row in range(shape[0]):
        seen = []
        for t in range(shape[1]):
            seen = [] if reset[row, t] else seen
            if mask[row, t]:
                weights = np.exp([query[row, t] @ value for value in seen])
                context = sum((w * value for w, value in zip(weights, seen, strict=True)), np.zeros(shape[2]))
                joined = np.concatenate([values[row, t], context / (1 + weights.sum())])
                combined = np.tanh(joined @ params["combine"]["kernel"] + params["combine"]["bias"])
                np.testing.assert_allclose(found[row, t], combined, atol=1e-5)
                seen = [*seen, values[row, t]][-window:]
        np.testing.assert_array_equal(past.real_bm[row], np.arange(window) >= window - len(seen))
        np.testing.assert_array_equal(past.values_bmh[row][past.real_bm[row]], np.reshape(seen, (-1, shape[2])))
    first, between = run(variables, values[:, :5], nothing, mask[:, :5], reset[:, :5])
    second, end = run(variables, values[:, 5:], between, mask[:, 5:], reset[:, 5:])
    close(jnp.concatenate([first, second], axis=1)[mask], found[mask])
    close((end.values_bmh[end.real_bm], end.real_bm), (past.values_bmh[past.real_bm], past.real_bm))


# ---- packed pairs -----------------------------------------------------------------------------------------------

PACKED = [
    ("none", "bidirectional", 2, False, "lstm"),
    ("dot", "unidirectional", 2, False, "lstm"),
    ("dot", "bidirectional", 2, False, "elman", False, 3),
    ("additive", "bidirectional", 2, False, "lstm"),
    ("dot", "bidirectional", 2, False, "lstm", True),
    ("none", "unidirectional", 1, False, "mingru"),
]


@pytest.fixture(params=sized([(shape,) for shape in PACKED], lambda shape: shape in PACKED[2:5]), ids=named)
def packs(request):
    """(model, parameters) of the shapes of a model with which pairs are packed."""
    return built(config(*request.param), True)


def test_packed_pairs_have_the_loss_and_the_gradient_that_each_has_alone(packs):
    for seed in range(4):
        pairs = pairs_of(seed)
        cuts = [[], [3], [1, 3], [2, 3, 4]][seed]  # from all pairs in one row to four rows
        rows = [pairs[i:j] for i, j in zip([0, *cuts], [*cuts, PAIRS], strict=True)]
        alone = pad_pairs(pairs, (LONGEST, LONGEST), PAIRS)
        close(loss_and_gradient(*packs, packed(rows)), loss_and_gradient(*packs, alone))


def test_a_pair_of_a_packed_row_changes_the_logits_of_no_other(packs):
    pairs = [(source, [*target, 3]) for source, target in pairs_of(5)]
    batch = packed([pairs[:3], pairs[3:]])
    plain = logits(*packs, batch)
    example_bt = batch.resets_bt.cumsum(axis=1) - 1
    for changed in range(3):
        turn = lambda ids: 3 + (np.asarray(ids) - 2) % (VOCAB - 3)
        other = [(turn(s), turn(t)) if i == changed else (s, t) for i, (s, t) in enumerate(pairs)]
        moved = np.abs(logits(*packs, packed([other[:3], other[3:]])) - plain).max(axis=-1)
        own = (example_bt == changed) & (batch.weights_bt == 1) & (np.arange(ROWS) == 0)[:, None]
        assert (moved[(batch.weights_bt == 1) & ~own] == 0).all() and (moved[own] > 1e-6).any()


def test_packed_rows_without_examples_have_no_loss_and_no_gradient(packs):
    empty = jax.tree.map(np.zeros_like, packed([pairs_of(0)]))
    for ends in (0, PAIRS * LONGEST):
        found = loss_and_gradient(*packs, empty._replace(source_ends_bk=np.full_like(empty.source_ends_bk, ends)))
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))


# ---- dropout ----------------------------------------------------------------------------------------------------


def test_dropout_scales_what_it_keeps_by_a_mask_that_is_one_for_all_times():
    values, rate = jnp.ones((5, 2000, 8)), 0.3
    keys_b = jax.random.split(jax.random.key(0), 2000)
    found = np.asarray(dropout(values, rate, keys_b, place=1))
    assert (found == found[:1]).all()
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.7], rtol=1e-6)
    # The expectation is the value: five standard errors of a mean over 16,000 draws.
    assert abs(found[0].mean() - 1) < 5 * (rate / (1 - rate) / 16_000) ** 0.5
    assert (np.abs(found[0].mean(axis=0) - 1) < 5 * (rate / (1 - rate) / 2000) ** 0.5).all()
    assert (found != dropout(values, rate, keys_b, place=2)).any()
    assert len(np.unique(found[0], axis=0)) > 100
    assert dropout(values, rate, None, place=1) is values and dropout(values, 0.0, keys_b, place=1) is values


@pytest.mark.parametrize("has_encoder", [True, False])
def test_a_mask_depends_on_the_key_of_the_row_and_not_on_its_place(has_encoder):
    model, params = built(config("additive", "bidirectional", 2, dropout=0.4), has_encoder)
    batch = batch_of(has_encoder=has_encoder)
    keys_b = jax.random.split(jax.random.key(1), 3)
    order = np.array([2, 0, 1])
    permuted = jax.tree.map(lambda a: a[order], batch)
    found, state, _ = forced(model, params, batch, keys_b)
    again, *_ = forced(model, params, batch, keys_b)
    np.testing.assert_array_equal(again, found)
    moved, end, _ = forced(model, params, permuted, keys_b[order])
    np.testing.assert_allclose(moved, found[order], atol=1e-6)
    close(end, jax.tree.map(lambda x: x[order], state), atol=1e-6)
    other, *_ = forced(model, params, batch, jax.random.split(jax.random.key(2), 3))
    assert (np.abs(other - found).max(axis=(1, 2)) > 1e-3).all()
    # The last mask is on the features themselves: it drops the same units at all times.
    dropped = np.asarray(found) == 0
    assert (dropped == dropped[:, :1]).all() and dropped.any() and not dropped.all()


@pytest.mark.parametrize("has_encoder", [True, False])
def test_without_keys_there_is_no_dropout(has_encoder):
    batch = batch_of(has_encoder=has_encoder)
    with_rate = built(config("additive", "bidirectional", 2, dropout=0.4), has_encoder)
    without = built(config("additive", "bidirectional", 2), has_encoder)
    plain = logits(*without, batch)
    np.testing.assert_array_equal(logits(*with_rate, batch), plain)
    keys_b = jax.random.split(jax.random.key(1), 3)
    np.testing.assert_array_equal(logits(*without, batch, keys_b), plain)
    assert (np.abs(logits(*with_rate, batch, keys_b) - plain).max(axis=(1, 2)) > 1e-3).all()


def test_dropout_is_in_the_encoder_too():
    model, params = built(config("additive", "bidirectional", 2, dropout=0.4), True)
    keys_b = jax.random.split(jax.random.key(1), 3)
    summary = lambda keys_b: encode(model, params, batch_of().source.values, keys_b)[0].summary_nz
    moved = np.abs(summary(keys_b) - summary(None))
    bottom, top = np.split(moved, 2, axis=-1)
    assert (bottom.max(axis=-1) > 1e-3).all() and (top.max(axis=-1) > 1e-3).all()


# ---- types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", sized([(SHAPES[2],), (SHAPES[4],)], lambda shape: shape == SHAPES[2]), ids=named)
def test_bfloat16_is_the_type_of_products_only(shape):
    batch = batch_of()
    model, params = built(config(*shape, dtype="bfloat16"), True)
    memory, state = encode(model, params, batch.source.values)
    stepped = jax.eval_shape(functools.partial(step.__wrapped__, model), params, batch.inputs_bt[:, 0], state, memory)
    learnt = jax.eval_shape(functools.partial(loss_and_gradient.__wrapped__, model), params, batch)
    found = forced(model, params, batch)
    memory = memory.values_bsd, memory.summary_nz  # its keys are of the products, as nothing else reads them
    for leaf in jax.tree.leaves((params, memory, state, stepped, learnt, found)):
        assert leaf.dtype == jnp.float32
    exact = forced(*built(config(*shape), True), batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert 0 < np.abs(a - b).max() < 0.1
