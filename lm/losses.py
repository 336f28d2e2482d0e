"""Cross-entropy fused with the dense head: the logits of all positions never exist at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.models.decoder import zero_states
from lm.recurrence.base import dot

CHUNK_BYTES = 64 * 2**20  # of float32 logits held at a time


def cross_entropy(
    features_btd: jax.Array,
    head: tuple[jax.Array, jax.Array],
    targets_bt: jax.Array,
    weights_bt: jax.Array,
    label_smoothing: float = 0.0,
    dtype: str = "float32",
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of weighted nats, sum of weights) over all positions, float32 scalars.

    With `label_smoothing` e the target distribution is `(1 - e) one_hot + e / V` (Szegedy et al., 2016).
    """
    width = features_btd.shape[-1]
    flat = (features_btd.reshape(-1, width), targets_bt.reshape(-1), weights_bt.reshape(-1).astype(jnp.float32))
    return _loss(*head, *flat, label_smoothing, dtype), flat[2].sum()


def teacher_forced(
    model: Any, params: Any, carry: Any, batch: Any, keys_b: jax.Array | None = None, label_smoothing: float = 0.0
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """The loss of a `Batch` under an `EncoderDecoder`: (sum of nats, (number of real targets, state after the batch)).

    `carry` is the decoder's state before the batch; (): what a sequence starts from, read from the source where there is
    one, and then () comes back.
    """
    variables = {"params": params}
    memory, state = None, carry or zero_states(model.config, batch.inputs_bt.shape[0])
    if model.has_encoder:
        memory = model.apply(variables, batch.source_bs, keys_b, batch.source_ends_bk, method="encode")
        state = model.apply(variables, memory, method="initial_state")
    features_btd, state = model.apply(
        variables, batch.inputs_bt, state, memory, batch.resets_bt, keys_b, method="unroll"
    )
    head = model.apply(variables, method="head")
    total, count = cross_entropy(
        features_btd, head, batch.targets_bt, batch.weights_bt, label_smoothing, model.config.dtype
    )
    return total, (count, state if carry else ())


def token_losses(features_btd, head, targets_bt, dtype: str = "float32") -> jax.Array:
    """nats_bt of each target, one batch of logits at a time; for scoring, where positions are looked at singly."""
    kernel_dv, bias_v = head

    def one(args):
        features_td, targets_t = args
        return _nll(dot(features_td, kernel_dv, dtype) + bias_v, targets_t, 0.0)

    return lax.map(one, (features_btd, targets_bt))


def _nll(logits_nv, targets_n, smoothing):
    normalizer_n = jax.nn.logsumexp(logits_nv, axis=-1)
    gold_n = jnp.take_along_axis(logits_nv, targets_n[:, None], axis=-1)[:, 0]
    if smoothing:
        gold_n = (1 - smoothing) * gold_n + smoothing * logits_nv.mean(axis=-1)
    return normalizer_n - gold_n


def _chunks(kernel_dv, features_nd, targets_n, weights_n):
    """The positions in equal chunks; the last is filled with weight 0."""
    positions, vocab = features_nd.shape[0], kernel_dv.shape[1]
    count = -(-positions * vocab * 4 // CHUNK_BYTES)
    size = -(-positions // count)
    fill = count * size - positions

    def cut(array):
        array = jnp.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(count, size, *array.shape[1:])

    return cut(features_nd), cut(targets_n), cut(weights_n)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _loss(kernel_dv, bias_v, features_nd, targets_n, weights_n, smoothing, dtype):
    def body(total, chunk):
        features, targets, weights = chunk
        nll = _nll(dot(features, kernel_dv, dtype) + bias_v, targets, smoothing)
        return total + jnp.sum(nll * weights), None

    return lax.scan(body, bias_v.dtype.type(0), _chunks(kernel_dv, features_nd, targets_n, weights_n))[0]


def _loss_forward(kernel_dv, bias_v, features_nd, targets_n, weights_n, smoothing, dtype):
    """The gradient of a chunk is taken while its logits are there, so nothing is computed twice or kept."""
    vocab = kernel_dv.shape[1]
    transposed_vd = kernel_dv.T

    def body(carry, chunk):
        total, d_kernel, d_bias = carry
        features, targets, weights = chunk
        logits = dot(features, kernel_dv, dtype) + bias_v
        total = total + jnp.sum(_nll(logits, targets, smoothing) * weights)
        gold = jax.nn.one_hot(targets, vocab) * (1 - smoothing) + smoothing / vocab
        d_logits = (jax.nn.softmax(logits) - gold) * weights[:, None]
        d_kernel = d_kernel + dot(features.T, d_logits, dtype)
        return (total, d_kernel, d_bias + d_logits.sum(0)), dot(d_logits, transposed_vd, dtype)

    zeros = (bias_v.dtype.type(0), jnp.zeros_like(kernel_dv), jnp.zeros_like(bias_v))
    chunks = _chunks(kernel_dv, features_nd, targets_n, weights_n)
    (total, d_kernel, d_bias), d_features = lax.scan(body, zeros, chunks)
    d_features = d_features.reshape(-1, features_nd.shape[1])[: features_nd.shape[0]]
    return total, (d_kernel, d_bias, d_features)


def _loss_backward(smoothing, dtype, saved, gradient):
    return *(gradient * each for each in saved), None, None


_loss.defvjp(_loss_forward, _loss_backward)
