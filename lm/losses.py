"""Cross-entropy fused with the dense head: the logits of all positions never exist at once."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lm.models.decoder import Features, log_mixture, zero_states
from lm.models.encoder import Memory
from lm.models.ranker import Ranker
from lm.models.readers import IMPOSSIBLE, Reader
from lm.recurrence.base import dot

BOUND = 64 * 2**20  # bytes that the loss and its gradient hold at a time on a CPU, beside their operands and results


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

    With `label_smoothing` e the target distribution is `(1 - e) one_hot + e / V` (Szegedy et al., 2016). With `z_loss` z each
    position costs `z log(Z)^2` more, Z the normaliser of its softmax (Chowdhery et al., 2022, "PaLM").

    With `copying`, as `copying_of` has it, a target's probability is that of the mixture. Of what is copied only the
    target's own probability is needed, so no more is held than without; smoothing is then of the softmax alone.
    """
    width = features_btd.shape[-1]
    flat = (features_btd.reshape(-1, width), targets_bt.reshape(-1), weights_bt.reshape(-1).astype(jnp.float32))
    copying = jax.tree.map(jnp.ravel, copying)
    return _loss(*head, *flat, copying, label_smoothing, z_loss, dtype), flat[2].sum()


class Candidates(NamedTuple):
    """The ids that a sampled softmax is over, and the logarithm of how many ids each stands for."""

    ids_c: jax.Array
    log_weights_c: jax.Array


def draw_candidates(key: jax.Array, vocab: int, count: int) -> Candidates:
    """The first half of them are the first ids, for a tokenizer that sorts words by frequency the most frequent; each of
    the others is one of an equal part of the rest, so that frequent and rare ids are there at every draw."""
    first = count // 2
    drawn = count - first
    stands_for = (vocab - first) / drawn
    places = (jnp.arange(drawn) + jax.random.uniform(key, (drawn,))) * stands_for
    ids = jnp.minimum(first + places.astype(jnp.int32), vocab - 1)
    ids_c = jnp.concatenate([jnp.arange(first, dtype=jnp.int32), ids])
    return Candidates(ids_c, jnp.where(jnp.arange(count) < first, 0.0, math.log(stands_for)))


def sampled_cross_entropy(
    features_btd: jax.Array,
    head: tuple[jax.Array, jax.Array],
    targets_bt: jax.Array,
    weights_bt: jax.Array,
    candidates: Candidates,
    dtype: str = "float32",
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` whose normaliser is estimated from the target and the candidates (Jean et al., 2015, arXiv:1412.2007).

    Each candidate but the target counts as often as it stands for, the target once (Blanc and Rendle, 2018,
    arXiv:1712.00527). So the expectation of the normaliser is the normaliser, and that of the loss a little less than the
    loss: by about half of the estimate's relative variance.

    Beside the logits of a chunk it holds the kernel's columns of all candidates and targets, and their gradient.
    """
    kernel_dv, bias_v = head
    features_nd, targets_n = features_btd.reshape(-1, features_btd.shape[-1]), targets_bt.reshape(-1)
    weights_n = weights_bt.reshape(-1).astype(jnp.float32)
    # Taken together, for the gradient of what is taken is as large as the kernel.
    taken, count = jnp.concatenate([candidates.ids_c, targets_n]), len(candidates.ids_c)
    (kernel_dc, kernel_dn), (bias_c, bias_n) = (jnp.split(x[..., taken], [count], axis=-1) for x in (kernel_dv, bias_v))
    bias_c = bias_c + candidates.log_weights_c
    rounded = lambda x: x if dtype == "float32" else x.astype(dtype).astype(x.dtype)  # as `dot` does
    target_logits_n = jnp.sum(rounded(features_nd) * rounded(kernel_dn).T, axis=-1) + bias_n

    @jax.checkpoint  # the logits of one chunk at a time, in the gradient too
    def body(total, chunk):
        features, targets, weights, target_logits = chunk
        logits = dot(features, kernel_dc, dtype) + bias_c
        others = jax.nn.logsumexp(jnp.where(candidates.ids_c == targets[:, None], IMPOSSIBLE, logits), axis=-1)
        return total + jnp.sum((jnp.logaddexp(others, target_logits) - target_logits) * weights), None

    rows = _even(len(targets_n), _rows(count, len(targets_n)))
    chunks = _chunks(rows, features_nd, targets_n, weights_n, target_logits_n)
    return lax.scan(body, bias_v.dtype.type(0), chunks)[0], weights_n.sum()


def copying_of(features: Features, memory: Memory | None, targets_bt: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """(gate, probability that copying writes the target), both [b, t]: the attention paid to it wherever it stands in
    the source; None of a model that does not copy."""
    if features.gate_bt is None:
        return None
    same_bts = memory.ids_bs[:, None] == targets_bt[..., None]
    return features.gate_bt, jnp.sum(features.attention_bts * same_bts, axis=-1)


def coverage_loss(attention_bts: jax.Array, weights_bt: jax.Array) -> jax.Array:
    """The attention that is paid again: the weighted sum of sum_s min(a_ts, what steps before t paid to s).

    See et al. (2017), equation 12. The examples of a packed row attend to their own sources, so they do not mix.
    """
    paid_bts = jnp.pad(jnp.cumsum(attention_bts, axis=1)[:, :-1], [(0, 0), (1, 0), (0, 0)])
    return jnp.sum(jnp.minimum(attention_bts, paid_bts).sum(axis=-1) * weights_bt)


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


def token_losses(features_btd, head, targets_bt, dtype: str = "float32", copying=None) -> jax.Array:
    """nats_bt of each target, one batch of logits at a time; for scoring, where positions are looked at singly."""
    kernel_dv, bias_v = head

    def one(args):
        features_td, targets_t, copying = args
        logits_tv = dot(features_td, kernel_dv, dtype) + bias_v
        return _nll(_softmax(logits_tv, targets_t), copying, 0.0, 0.0)[0]

    return lax.map(one, (features_btd, targets_bt, copying))


class _Softmax(NamedTuple):
    """Of each position, all that the loss must know of its logits."""

    normalizer_n: jax.Array  # logarithm
    gold_n: jax.Array  # the target's logit
    mean_n: jax.Array


def _softmax(logits_nv, targets_n):
    gold_n = jnp.take_along_axis(logits_nv, targets_n[:, None], axis=-1)[:, 0]
    return _Softmax(jax.nn.logsumexp(logits_nv, axis=-1), gold_n, logits_nv.mean(axis=-1))


def _nll(softmax, copying, smoothing, z):
    """(loss of each position, what the gradient needs of the mixture: how much of the target's probability is the
    softmax's, and the derivative of its logarithm by the probability of copying)."""
    normalizer_n = softmax.normalizer_n
    loss_n = normalizer_n - softmax.gold_n
    written_n, slope_n = jnp.ones_like(loss_n), None
    if copying is not None:
        gate_n, copied_n = copying
        log_written_n = jax.nn.log_sigmoid(gate_n) - loss_n
        loss_n = -log_mixture(gate_n, -loss_n, copied_n)
        written_n = jnp.exp(log_written_n + loss_n)
        slope_n = jnp.exp(jnp.minimum(jax.nn.log_sigmoid(-gate_n) + loss_n, 80))  # finite
    if smoothing:
        loss_n = (1 - smoothing) * loss_n + smoothing * (normalizer_n - softmax.mean_n)
    return loss_n + z * normalizer_n**2 if z else loss_n, (written_n, slope_n)


def _bound():
    """On a GPU or a TPU a sixteenth of its memory: it is slow where products are narrow."""
    if jax.default_backend() == "cpu":
        return BOUND
    return max(BOUND, (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0) // 16)


ROWS = 128  # of fewer positions at a time a product costs less than reading and writing the kernel's gradient


class _Plan(NamedTuple):
    """`rows` positions at a time, and products with the kernel's gradient for `columns` of the vocabulary at a time.

    `again`: logits, too, are there for so many columns alone, and computed twice: for the normaliser and then for the
    gradient. So there can be more rows.
    """

    rows: int
    columns: int
    again: bool


def _plan(kernel_dv, positions):
    width, vocab = kernel_dv.shape
    # A block of the kernel's gradient, or of features, takes an eighth of the bound: a large one is not held twice.
    block = max(1, _bound() // 8 // (4 * width))
    rows = _rows(vocab, positions)
    if rows >= min(ROWS, positions):
        return _Plan(_even(positions, rows), _even(vocab, block), again=False)
    columns = _even(vocab, min(block, _room() // ROWS))
    return _Plan(_even(positions, min(_rows(columns, positions), block)), columns, again=True)


def _room():
    """How many logits there may be at a time: with their gradient, float32, and a quarter of the bound for all else."""
    return _bound() * 3 // 4 // 8


def _rows(columns, positions):
    """How many positions of so many logits each there may be at a time."""
    return max(1, min(positions, _room() // columns))


def _even(total, most):
    """The size of the fewest parts of at most `most`, all but alike."""
    return -(-total // -(-total // most))


def _chunks(rows, features_nd, *of_positions):
    """Features, and what else there is of each position, in equal chunks; the last is filled with 0, so with weight 0."""
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
        """Block `i` of an array whose last axis is the vocabulary."""
        return lax.dynamic_slice_in_dim(array, self.start(i), self.columns, axis=-1)

    def added(self, array, i, block):
        return lax.dynamic_update_slice_in_dim(array, self.cut(array, i) + block, self.start(i), axis=-1)

    def block(self, i):
        """(ids_c, bool_c where no block before had them, logits_nc)."""
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
    plan = _plan(kernel_dv, len(features_nd))

    def body(total, chunk):
        features, targets, weights, copying = chunk
        softmax = _Head.of(kernel_dv, bias_v, features, plan, dtype).softmax(targets)
        return total + jnp.sum(_nll(softmax, copying, smoothing, z)[0] * weights), None

    return lax.scan(body, bias_v.dtype.type(0), _chunks(plan.rows, features_nd, targets_n, weights_n, copying))[0]


def _loss_forward(kernel_dv, bias_v, features_nd, targets_n, weights_n, copying, smoothing, z, dtype):
    """The gradient of a chunk is taken while its logits are there, so nothing is kept."""
    plan, (width, vocab) = _plan(kernel_dv, len(features_nd)), kernel_dv.shape

    def body(carry, chunk):
        total, d_kernel, d_bias = carry
        features, targets, weights, copying = chunk
        head = _Head.of(kernel_dv, bias_v, features, plan, dtype)
        softmax = head.softmax(targets)
        loss, (written, slope) = _nll(softmax, copying, smoothing, z)
        total = total + jnp.sum(loss * weights)
        # With copying the target's softmax is answerable for its part of the mixture alone.
        written = (1 - smoothing) * written
        shared = (written + smoothing + 2 * z * softmax.normalizer_n)[:, None]
        features_dn = features.T
        if vocab > width:  # transposed for itself: on a CPU a product that does so is slower by a quarter
            features_dn = lax.optimization_barrier(features_dn)

        def add(i, sums):
            d_kernel, d_bias, d_features = sums
            ids, new, logits = head.block(i)
            gold = (targets[:, None] == ids) * written[:, None] + smoothing / vocab
            share = jnp.exp(logits - softmax.normalizer_n[:, None]) * shared
            d_logits = jnp.where(new, (share - gold) * weights[:, None], 0)
            d_kernel = head.added(d_kernel, i, dot(features_dn, d_logits, dtype))
            d_bias = head.added(d_bias, i, d_logits.sum(0))
            return d_kernel, d_bias, d_features + dot(d_logits, head.cut(kernel_dv, i).T, dtype)

        zeros = jnp.zeros(features.shape, softmax.normalizer_n.dtype)
        d_kernel, d_bias, d_features = head.over_blocks(add, (d_kernel, d_bias, zeros))
        d_copying = None
        if copying is not None:
            scale = weights * (1 - smoothing)
            d_copying = scale * jax.nn.sigmoid(copying[0]) - weights * written, -scale * slope
        return (total, d_kernel, d_bias), (d_features, d_copying)

    zeros = (bias_v.dtype.type(0), jnp.zeros_like(kernel_dv), jnp.zeros_like(bias_v))
    chunks = _chunks(plan.rows, features_nd, targets_n, weights_n, copying)
    (total, d_kernel, d_bias), cut = lax.scan(body, zeros, chunks)
    whole = lambda x: x.reshape(-1, *x.shape[2:])[: features_nd.shape[0]]
    d_features, d_copying = jax.tree.map(whole, cut)
    return total, (d_kernel, d_bias, d_features, d_copying)


def _loss_backward(smoothing, z, dtype, saved, gradient):
    d_kernel, d_bias, d_features, d_copying = jax.tree.map(lambda each: gradient * each, saved)
    return d_kernel, d_bias, d_features, None, None, d_copying


_loss.defvjp(_loss_forward, _loss_backward)
