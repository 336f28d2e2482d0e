"""The contract of all searches: `step_fn(ids, state) -> (logits, state)`.

Nothing here knows the model. `step_fn` takes the last token of each row, int32 of shape (b,), and a `state`,
any pytree whose leaves have a leading batch axis; it returns the next token's logits, float32 of shape
(b, v), and the new state. Both searches are meant to be called inside the caller's `jit` and stop as soon as
every row has; a row's result does not depend on the other rows of its batch.

Arguments that both share:
    ids_b: the last token already known of each row (BOS, or the last of the prompt), not yet consumed.
    state: what `step_fn` carries, having consumed all that comes before `ids_b`.
    length: static; the width l of the buffers of generated ids.
    limits_b: int32, the most tokens each row may generate, EOS counted; what exceeds `length` is cut to it.
    eos_id: the token that ends a sequence.
    forbidden: ids that are never generated (PAD, BOS, UNK). Some other id must have a finite logit.

    constraints: see `Constraints`; they hold of what is generated, and know nothing of the prompt.

Log-probabilities are nats under the model's own distribution: the softmax of its logits as they are, with
nothing forbidden, filtered, penalised or tempered. So they equal what teacher forcing of the sequence gives.

Shape letters: b batch, k beam, n rows of a step, l generated time, v vocabulary, p automata, s their states.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

StepFn = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


def checked_step(step_fn: StepFn, ids_b: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    logits_bv, state = step_fn(ids_b, state)
    if logits_bv.ndim != 2 or logits_bv.shape[0] != ids_b.shape[0] or logits_bv.dtype != jnp.float32:
        raise ValueError(
            f"step_fn must return float32 logits of shape ({ids_b.shape[0]}, v) for ids of shape "
            f"{ids_b.shape}, got {logits_bv.dtype} of shape {logits_bv.shape}"
        )
    return logits_bv, state


def ensemble(*step_fns: StepFn) -> StepFn:
    """One step of several models: the mean of their probabilities; the state is a tuple of theirs."""

    def step_fn(ids_b, states):
        stepped = [checked_step(step, ids_b, state) for step, state in zip(step_fns, states, strict=True)]
        if len(stepped) == 1:
            return stepped[0][0], (stepped[0][1],)
        log_prob_mbv = jnp.stack([jax.nn.log_softmax(logits_bv) for logits_bv, _ in stepped])
        # Of their sum: a softmax makes a mean of it.
        return jax.nn.logsumexp(log_prob_mbv, axis=0), tuple(state for _, state in stepped)

    return step_fn
