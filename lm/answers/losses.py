"""The training loss of each kind of model."""

from typing import Any

import jax
import jax.numpy as jnp

from lm.answers.copying import copying_of, coverage_loss
from lm.answers.head import cross_entropy
from lm.answers.sampled import Candidates, sampled_cross_entropy
from lm.models.decoder import Features, zero_states
from lm.models.encoder import Memory
from lm.models.ranker import Ranker
from lm.models.readers import IMPOSSIBLE, Reader


def teacher_forced(
    model: Any,
    params: Any,
    carry: Any,
    batch: Any,
    keys_b: jax.Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    coverage: float = 0.0,
    candidates: Candidates | None = None,
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """The loss of a `Batch` under an `EncoderDecoder` or a `Reader`: (sum of nats, (number of real targets, state after
    the batch)).

    `carry` is the decoder's state before the batch; (): what a sequence starts from, read from the source where there is
    one, and then () comes back. `coverage` is the weight of the `coverage_loss` that is added, of a model with attention.
    With `candidates` the loss is a `sampled_cross_entropy`.
    """
    variables = {"params": params}
    if isinstance(model, Reader):
        nats_b = choice_losses(model, params, batch.source_bs, batch.targets_bt, keys_b, label_smoothing, z_loss)
        return jnp.sum(jnp.where(batch.weights_bt[:, 0] > 0, nats_b, 0)), (jnp.sum(batch.weights_bt), ())
    memory, state = None, carry or zero_states(model.config, batch.inputs_bt.shape[0])
    if model.has_encoder:
        memory = model.apply(variables, batch.source_bs, keys_b, batch.source_ends_bk, method="encode")
        state = model.apply(variables, memory, method="initial_state")
    features, state = model.apply(variables, batch.inputs_bt, state, memory, batch.resets_bt, keys_b, method="unroll")
    if isinstance(model, Ranker):
        given = (features, memory, batch.targets_bt, batch.resets_bt)
        nats_bt = label_losses(model, params, *given, label_smoothing, z_loss)
        total = jnp.sum(jnp.where(batch.weights_bt > 0, nats_bt * batch.weights_bt, 0))
        count = jnp.sum(batch.weights_bt)
    else:
        head, copying = model.apply(variables, method="head"), copying_of(features, memory, batch.targets_bt)
        given = (features.values_btd, head, batch.targets_bt, batch.weights_bt)
        if candidates is None:
            total, count = cross_entropy(*given, label_smoothing, z_loss, model.config.dtype, copying)
        else:
            total, count = sampled_cross_entropy(*given, candidates, model.config.dtype)
    if coverage:
        total += coverage * coverage_loss(features.attention_bts, batch.weights_bt)
    return total, (count, state if carry else ())


def choice_losses(
    model: Reader,
    params: Any,
    source_bs: jax.Array,
    targets_bt: jax.Array,
    keys_b: jax.Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """nats_b of the choices that stand for the target, all of them together; infinite where none does.

    Smoothing is over the choices that a row has, `z_loss` of their normaliser; see `cross_entropy`.
    """
    logits_bc, gold_bc = model.apply({"params": params}, source_bs, targets_bt, keys_b, method="choices")
    return _choice_nats(logits_bc, gold_bc, label_smoothing, z_loss)


def label_losses(
    model: Ranker,
    params: Any,
    features: Features,
    memory: Memory | None,
    targets_bt: jax.Array,
    resets_bt: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """nats_bt of each target among the tokens that go on with a label; infinite where it is none, as on padding."""
    given = (features, memory, targets_bt, resets_bt)
    return _choice_nats(*model.apply({"params": params}, *given, method="continuations"), label_smoothing, z_loss)


def _choice_nats(logits, gold, smoothing, z):
    """Over the last axis; what is `IMPOSSIBLE` is no choice."""
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A finite number, or the gradient of what has no choice (padding of the batch) would be NaN.
    nats = normalizer - jax.nn.logsumexp(jnp.where(gold, logits, IMPOSSIBLE), axis=-1)
    if smoothing:
        possible = logits > IMPOSSIBLE
        spread = normalizer - jnp.mean(logits, axis=-1, where=possible | ~possible.any(-1, keepdims=True))
        nats = (1 - smoothing) * nats + smoothing * spread
    nats = nats + z * normalizer**2 if z else nats
    return jnp.where(gold.any(axis=-1), nats, jnp.inf)
