"""Cross-entropy fused with the dense head: the logits of all positions are never in memory at once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lm.models.decoder import log_mixture
from lm.recurrence.base import dot

BOUND = 64 * 2**20  # most bytes of temporary memory that the loss and its gradient use on a CPU


def cross_entropy(
    features_btd: jax.Array,
    head: tuple[jax.Array, jax.Array],
    targets_bt: jax.Array,
    weights_bt: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    dtype: str = "float32",
    copying: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of weighted nats, sum of weights) over all positions, float32 scalars.

    With `label_smoothing` e the target distribution is `(1 - e) one_hot + e / V` (Szegedy et al., 2016). With `z_loss`
    z each position costs another `z log(Z)^2`, where Z is the normalizer of its softmax (Chowdhery et al., 2022,
    "PaLM").

    With `copying`, from `copying_of`, the probability of a target is that of the mixture. Only the target's own
    probability of being copied is needed, so this uses no more memory. Smoothing then applies to the softmax alone.
    """
    width = features_btd.shape[-1]
    flat = (features_btd.reshape(-1, width), targets_bt.reshape(-1), weights_bt.reshape(-1).astype(jnp.float32))
    copying = jax.tree.map(jnp.ravel, copying)
    return _loss(*head, *flat, copying, label_smoothing, z_loss, dtype), flat[2].sum()


def position_nats(
    features_btd: jax.Array,
    head: tuple[jax.Array, jax.Array],
    targets_bt: jax.Array,
    dtype: str = "float32",
    copying: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Returns nats_bt, float32: the cross-entropy of each position, without smoothing; see `cross_entropy`."""
    flat = features_btd.reshape(-1, features_btd.shape[-1]), targets_bt.reshape(-1), jax.tree.map(jnp.ravel, copying)
    return _nats(*head, *flat, 0.0, 0.0, dtype).reshape(targets_bt.shape)


class _Softmax(NamedTuple):
    """The properties of each position's logits that the loss reads."""

    normalizer_n: jax.Array  # logarithm
    gold_n: jax.Array  # the target's logit
    mean_n: jax.Array


def _softmax(logits_nv, targets_n):
    gold_n = jnp.take_along_axis(logits_nv, targets_n[:, None], axis=-1)[:, 0]
    return _Softmax(jax.nn.logsumexp(logits_nv, axis=-1), gold_n, logits_nv.mean(axis=-1))


def _nll(softmax, copying, smoothing, z):
    """Returns the loss of each position, and (written_n, slope_n) for the gradient of the mixture.

    written_n is the share of the target's probability that the softmax contributes. slope_n is the derivative of its
    logarithm with respect to the probability of copying.
    """
    normalizer_n = softmax.normalizer_n  # log Z
    loss_n = normalizer_n - softmax.gold_n  # -log softmax of the target
    written_n, slope_n = jnp.ones_like(loss_n), None
    if copying is not None:
        gate_n, copied_n = copying
        log_written_n = jax.nn.log_sigmoid(gate_n) - loss_n  # log(p written)
        loss_n = -log_mixture(gate_n, -loss_n, copied_n)  # -log(p written + (1 - p) copied)
        written_n = jnp.exp(log_written_n + loss_n)  # p written / mixture
        slope_n = jnp.exp(jnp.minimum(jax.nn.log_sigmoid(-gate_n) + loss_n, 80))  # (1 - p) / mixture, kept finite
    if smoothing:
        loss_n = (1 - smoothing) * loss_n + smoothing * (normalizer_n - softmax.mean_n)  # + e times the uniform part
    return loss_n + z * normalizer_n**2 if z else loss_n, (written_n, slope_n)  # + z log(Z)^2


def _bound():
    """Returns the bound of memory: on a GPU or a TPU a sixteenth of it all, as narrow products are slow there."""
    if jax.default_backend() == "cpu":
        return BOUND
    return max(BOUND, (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0) // 16)


FEW = 128  # with fewer positions, a product costs less than reading and writing the kernel's gradient


class _Plan(NamedTuple):
    """The sizes of chunks: `rows` positions at a time, and `columns` of the vocabulary in products with the kernel's
    gradient.

    With `again`, logits are also computed for only so many columns at a time, once for the normalizer and once for the
    gradient. This allows more rows.
    """

    rows: int
    columns: int
    again: bool


def _plan(kernel_dv, positions):
    width, vocab = kernel_dv.shape
    # A block of the kernel's gradient, or of features, uses an eighth of the bound: XLA does not hold a large one
    # twice.
    block = max(1, _bound() // 8 // (4 * width))
    rows = positions_at_once(vocab, positions)
    if rows >= min(FEW, positions):
        return _Plan(even(positions, rows), even(vocab, block), again=False)
    columns = even(vocab, min(block, _room() // FEW))
    return _Plan(even(positions, min(positions_at_once(columns, positions), block)), columns, again=True)


def _room():
    """Returns the most logits at a time: with their gradient, float32, they leave a quarter of the bound for the
    rest.
    """
    return _bound() * 3 // 4 // 8


def positions_at_once(columns, positions):
    """Returns the most positions at a time, each with `columns` logits."""
    return max(1, min(positions, _room() // columns))


def even(total, most):
    """Returns the size of nearly equal parts, the fewest of at most `most`."""
    return -(-total // -(-total // most))


def in_chunks(rows, features_nd, *of_positions):
    """Returns features and other arrays of positions in equal chunks; the last one is filled with 0, so with weight
    0.
    """
    fill = -len(features_nd) % rows

    def cut(array):
        array = jnp.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(-1, rows, *array.shape[1:])

    return jax.tree.map(cut, (features_nd, *of_positions))


class _Head(NamedTuple):
    """The logits of a chunk of positions, by blocks of the vocabulary. The last of them overlaps the one before."""

    kernel_dv: jax.Array
    bias_v: jax.Array
    features_nd: jax.Array
    logits_nv: jax.Array | None  # None: a block's are computed when they are asked for
    columns: int
    dtype: str

    @classmethod
    def of(cls, kernel_dv, bias_v, features_nd, plan, dtype):
        logits_nv = None if plan.again else dot(features_nd, kernel_dv, dtype) + bias_v
        return cls(kernel_dv, bias_v, features_nd, logits_nv, plan.columns, dtype)

    def over_blocks(self, add, sums):
        return lax.fori_loop(0, -(-len(self.bias_v) // self.columns), add, sums)

    def start(self, i):
        return jnp.minimum(i * self.columns, len(self.bias_v) - self.columns)

    def cut(self, array, i):
        """Returns block `i` of an array whose last axis is the vocabulary."""
        return lax.dynamic_slice_in_dim(array, self.start(i), self.columns, axis=-1)

    def added(self, array, i, block):
        return lax.dynamic_update_slice_in_dim(array, self.cut(array, i) + block, self.start(i), axis=-1)

    def block(self, i):
        """Returns the ids of block `i`, a mask of those that no block before had, and the logits: ids_c, bool_c,
        logits_nc.
        """
        ids_c = self.start(i) + jnp.arange(self.columns)
        if self.logits_nv is None:
            logits_nc = dot(self.features_nd, self.cut(self.kernel_dv, i), self.dtype) + self.cut(self.bias_v, i)
        else:
            logits_nc = self.cut(self.logits_nv, i)
        return ids_c, ids_c >= i * self.columns, logits_nc

    def softmax(self, targets_n):
        if self.logits_nv is not None:
            return _softmax(self.logits_nv, targets_n)

        def add(i, softmax):
            ids_c, new_c, logits_nc = self.block(i)
            normalizer_n = jax.nn.logsumexp(jnp.where(new_c, logits_nc, -jnp.inf), axis=-1)
            sums = lambda condition: jnp.sum(jnp.where(new_c & condition, logits_nc, 0), axis=-1)
            return _Softmax(
                jnp.logaddexp(softmax.normalizer_n, normalizer_n),
                softmax.gold_n + sums(ids_c == targets_n[:, None]),
                softmax.mean_n + sums(True) / len(self.bias_v),
            )

        zeros_n = jnp.zeros(len(targets_n), self.bias_v.dtype)
        return self.over_blocks(add, _Softmax(zeros_n - jnp.inf, zeros_n, zeros_n))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _loss(kernel_dv, bias_v, features_nd, targets_n, weights_n, copying, smoothing, z, dtype):
    nats_n = _nats(kernel_dv, bias_v, features_nd, targets_n, copying, smoothing, z, dtype)
    return jnp.sum(nats_n * weights_n)


def _nats(kernel_dv, bias_v, features_nd, targets_n, copying, smoothing, z, dtype):
    """Returns the loss of each position, computed one chunk of positions at a time."""
    plan = _plan(kernel_dv, len(features_nd))

    def body(_, chunk):
        features, targets, copying = chunk
        softmax = _Head.of(kernel_dv, bias_v, features, plan, dtype).softmax(targets)
        return None, _nll(softmax, copying, smoothing, z)[0]

    nats_cn = lax.scan(body, None, in_chunks(plan.rows, features_nd, targets_n, copying))[1]
    return nats_cn.reshape(-1)[: len(features_nd)]


def _loss_forward(kernel_dv, bias_v, features_nd, targets_n, weights_n, copying, smoothing, z, dtype):
    """Computes the loss and its gradient together, chunk by chunk, so that no logits are kept."""
    plan, (width, vocab) = _plan(kernel_dv, len(features_nd)), kernel_dv.shape

    def body(carry, chunk):
        total, d_kernel, d_bias = carry
        features, targets, weights, copying = chunk
        head = _Head.of(kernel_dv, bias_v, features, plan, dtype)
        softmax = head.softmax(targets)
        loss, (written, slope) = _nll(softmax, copying, smoothing, z)
        total = total + jnp.sum(loss * weights)
        # With copying, only the written part of the mixture reaches the softmax of the target.
        written = (1 - smoothing) * written
        shared = (written + smoothing + 2 * z * softmax.normalizer_n)[:, None]
        features_dn = features.T
        if vocab > width:  # transposed separately: on a CPU, a product that also transposes is slower by a quarter
            features_dn = lax.optimization_barrier(features_dn)

        def add(i, sums):
            d_kernel, d_bias, d_features = sums
            ids, new, logits = head.block(i)
            gold = (targets[:, None] == ids) * written[:, None] + smoothing / vocab
            share = jnp.exp(logits - softmax.normalizer_n[:, None]) * shared  # softmax, with the slope of z log(Z)^2
            d_logits = jnp.where(new, (share - gold) * weights[:, None], 0)  # softmax - target distribution
            d_kernel = head.added(d_kernel, i, dot(features_dn, d_logits, dtype))  # sum_n x_n^T d_logits_n
            d_bias = head.added(d_bias, i, d_logits.sum(0))  # sum_n d_logits_n
            return d_kernel, d_bias, d_features + dot(d_logits, head.cut(kernel_dv, i).T, dtype)  # d_logits W^T

        zeros = jnp.zeros(features.shape, softmax.normalizer_n.dtype)
        d_kernel, d_bias, d_features = head.over_blocks(add, (d_kernel, d_bias, zeros))
        d_copying = None
        if copying is not None:
            scale = weights * (1 - smoothing)
            # With respect to the gate: p - p written / mixture. With respect to the copied part: -(1 - p) / mixture.
            d_copying = scale * jax.nn.sigmoid(copying[0]) - weights * written, -scale * slope
        return (total, d_kernel, d_bias), (d_features, d_copying)

    zeros = (bias_v.dtype.type(0), jnp.zeros_like(kernel_dv), jnp.zeros_like(bias_v))
    chunks = in_chunks(plan.rows, features_nd, targets_n, weights_n, copying)
    (total, d_kernel, d_bias), cut = lax.scan(body, zeros, chunks)
    whole = lambda x: x.reshape(-1, *x.shape[2:])[: features_nd.shape[0]]
    d_features, d_copying = jax.tree.map(whole, cut)
    return total, (d_kernel, d_bias, d_features, d_copying)


def _loss_backward(smoothing, z, dtype, saved, gradient):
    d_kernel, d_bias, d_features, d_copying = jax.tree.map(lambda each: gradient * each, saved)
    return d_kernel, d_bias, d_features, None, None, d_copying


_loss.defvjp(_loss_forward, _loss_backward)
