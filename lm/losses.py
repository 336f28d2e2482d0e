"""Cross-entropy fused with the dense head: the logits of all positions never exist at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.models.decoder import zero_states
from lm.recurrence.base import dot

BOUND = 64 * 2**20  # bytes that the loss and its gradient hold at a time, beside their operands and results


def cross_entropy(
    features_btd: jax.Array,
    head: tuple[jax.Array, jax.Array],
    targets_bt: jax.Array,
    weights_bt: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    dtype: str = "float32",
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of weighted nats, sum of weights) over all positions, float32 scalars.

    With `label_smoothing` e the target distribution is `(1 - e) one_hot + e / V` (Szegedy et al., 2016). With `z_loss` z each
    position costs `z log(Z)^2` more, Z the normaliser of its softmax (Chowdhery et al., 2022, "PaLM").
    """
    width = features_btd.shape[-1]
    flat = (features_btd.reshape(-1, width), targets_bt.reshape(-1), weights_bt.reshape(-1).astype(jnp.float32))
    return _loss(*head, *flat, label_smoothing, z_loss, dtype), flat[2].sum()


def teacher_forced(
    model: Any,
    params: Any,
    carry: Any,
    batch: Any,
    keys_b: jax.Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
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
        features_btd, head, batch.targets_bt, batch.weights_bt, label_smoothing, z_loss, model.config.dtype
    )
    return total, (count, state if carry else ())


def token_losses(features_btd, head, targets_bt, dtype: str = "float32") -> jax.Array:
    """nats_bt of each target, one batch of logits at a time; for scoring, where positions are looked at singly."""
    kernel_dv, bias_v = head

    def one(args):
        features_td, targets_t = args
        return _nll(dot(features_td, kernel_dv, dtype) + bias_v, targets_t, 0.0, 0.0)[0]

    return lax.map(one, (features_btd, targets_bt))


def _nll(logits_nv, targets_n, smoothing, z):
    """(loss of each position, log of its softmax's normaliser)."""
    normalizer_n = jax.nn.logsumexp(logits_nv, axis=-1)
    gold_n = jnp.take_along_axis(logits_nv, targets_n[:, None], axis=-1)[:, 0]
    if smoothing:
        gold_n = (1 - smoothing) * gold_n + smoothing * logits_nv.mean(axis=-1)
    loss_n = normalizer_n - gold_n
    return loss_n + z * normalizer_n**2 if z else loss_n, normalizer_n


def _chunks(kernel_dv, features_nd, targets_n, weights_n):
    """The positions in equal chunks; the last is filled with weight 0."""
    positions, vocab = features_nd.shape[0], kernel_dv.shape[1]
    # Logits and their gradient, float32, and a quarter of the bound for all else.
    count = min(positions, -(-positions * vocab * 8 // (BOUND * 3 // 4)))
    size = -(-positions // count)
    fill = -positions % size

    def cut(array):
        array = jnp.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(-1, size, *array.shape[1:])

    return cut(features_nd), cut(targets_n), cut(weights_n)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _loss(kernel_dv, bias_v, features_nd, targets_n, weights_n, smoothing, z, dtype):
    def body(total, chunk):
        features, targets, weights = chunk
        loss, _ = _nll(dot(features, kernel_dv, dtype) + bias_v, targets, smoothing, z)
        return total + jnp.sum(loss * weights), None

    return lax.scan(body, bias_v.dtype.type(0), _chunks(kernel_dv, features_nd, targets_n, weights_n))[0]


def _loss_forward(kernel_dv, bias_v, features_nd, targets_n, weights_n, smoothing, z, dtype):
    """The gradient of a chunk is taken while its logits are there, so nothing is computed twice or kept."""
    vocab = kernel_dv.shape[1]

    def body(carry, chunk):
        total, d_kernel, d_bias = carry
        features, targets, weights = chunk
        logits = dot(features, kernel_dv, dtype) + bias_v
        loss, normalizer = _nll(logits, targets, smoothing, z)
        total = total + jnp.sum(loss * weights)
        gold = (targets[:, None] == jnp.arange(vocab)) * (1 - smoothing) + smoothing / vocab
        share = jnp.exp(logits - normalizer[:, None])
        share = share * (1 + 2 * z * normalizer)[:, None] if z else share
        d_logits = (share - gold) * weights[:, None]
        d_kernel = _add_product(d_kernel, features, d_logits, dtype)
        return (total, d_kernel, d_bias + d_logits.sum(0)), dot(d_logits, kernel_dv.T, dtype)

    zeros = (bias_v.dtype.type(0), jnp.zeros_like(kernel_dv), jnp.zeros_like(bias_v))
    chunks = _chunks(kernel_dv, features_nd, targets_n, weights_n)
    (total, d_kernel, d_bias), d_features = lax.scan(body, zeros, chunks)
    d_features = d_features.reshape(-1, features_nd.shape[1])[: features_nd.shape[0]]
    return total, (d_kernel, d_bias, d_features)


def _add_product(sum_dv, features_nd, d_logits_nv, dtype):
    """`sum + features^T d_logits`, a block of the vocabulary at a time: a large kernel's gradient is not held twice."""
    width, vocab = sum_dv.shape
    block = max(1, BOUND // 8 // (4 * width))
    if vocab <= block:
        return sum_dv + dot(features_nd.T, d_logits_nv, dtype)

    def body(i, sum_dv):
        begin = jnp.minimum(i * block, vocab - block)  # the last block overlaps the one before
        piece = lax.dynamic_slice_in_dim(d_logits_nv, begin, block, axis=1)
        piece = jnp.where(begin + jnp.arange(block) >= i * block, piece, 0)
        old = lax.dynamic_slice_in_dim(sum_dv, begin, block, axis=1)
        return lax.dynamic_update_slice_in_dim(sum_dv, old + dot(features_nd.T, piece, dtype), begin, axis=1)

    return lax.fori_loop(0, -(-vocab // block), body, sum_dv)


def _loss_backward(smoothing, z, dtype, saved, gradient):
    return *(gradient * each for each in saved), None, None


_loss.defvjp(_loss_forward, _loss_backward)
