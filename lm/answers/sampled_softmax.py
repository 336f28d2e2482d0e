"""Cross-entropy over a sample of the vocabulary, for vocabularies of 100,000 words."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lm.answers.alternatives import IMPOSSIBLE
from lm.answers.cross_entropy import even, in_chunks, positions_at_once
from lm.recurrence.base import dot


class Candidates(NamedTuple):
    """The ids in a sampled softmax, and the logarithm of the number of ids that each represents."""

    ids_c: jax.Array
    log_weights_c: jax.Array


def draw_candidates(key: jax.Array, vocab: int, count: int) -> Candidates:
    """Draws the candidates of a step.

    The first half are the first ids, which are the most frequent words if the tokenizer sorts by frequency. Each of the
    others is drawn from an equal part of the remaining ids, so that every draw has frequent and rare ids.
    """
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
    """Returns `cross_entropy` with a normalizer that is estimated from the target and the candidates (Jean et al.,
    2015).

    The target counts once, and each other candidate as often as the number of ids that it represents (Blanc and Rendle,
    2018, arXiv:1712.00527). So the expectation of the estimated normalizer is the normalizer. The expectation of the
    loss is less than the loss by about half of the estimate's relative variance.

    Beside the logits of a chunk, memory holds the kernel's columns of all candidates and targets, and their gradient.
    """
    kernel_dv, bias_v = head
    features_nd, targets_n = features_btd.reshape(-1, features_btd.shape[-1]), targets_bt.reshape(-1)
    weights_n = weights_bt.reshape(-1).astype(jnp.float32)
    # The columns are read together, as each reading has a gradient that is as large as the kernel.
    taken, count = jnp.concatenate([candidates.ids_c, targets_n]), len(candidates.ids_c)
    (kernel_dc, kernel_dn), (bias_c, bias_n) = (jnp.split(x[..., taken], [count], axis=-1) for x in (kernel_dv, bias_v))
    bias_c = bias_c + candidates.log_weights_c  # log w_c: a candidate counts for w_c ids
    rounded = lambda x: x if dtype == "float32" else x.astype(dtype).astype(x.dtype)  # as `dot` does
    target_logits_n = jnp.sum(rounded(features_nd) * rounded(kernel_dn).T, axis=-1) + bias_n

    @jax.checkpoint  # the logits of one chunk at a time, in the gradient too
    def body(total, chunk):
        features, targets, weights, target_logits = chunk
        logits = dot(features, kernel_dc, dtype) + bias_c
        others = jax.nn.logsumexp(jnp.where(candidates.ids_c == targets[:, None], IMPOSSIBLE, logits), axis=-1)
        # log(exp(target) + sum_c w_c exp(logit_c)) - target
        return total + jnp.sum((jnp.logaddexp(others, target_logits) - target_logits) * weights), None

    rows = even(len(targets_n), positions_at_once(count, len(targets_n)))
    chunks = in_chunks(rows, features_nd, targets_n, weights_n, target_logits_n)
    return lax.scan(body, bias_v.dtype.type(0), chunks)[0], weights_n.sum()
