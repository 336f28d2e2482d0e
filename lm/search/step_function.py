"""The contract of all searches: `step_fn(ids, state) -> (logits, state)`.

Nothing here depends on the model. `step_fn` takes the last token of each row, int32 of shape (b,), and a `state`, any
pytree whose leaves have a leading batch axis. It returns the next token's logits, float32 of shape (b, v), and the new
state. Both searches are called inside the caller's `jit`, and stop when every row has stopped. The result of a row does
not depend on the other rows of its batch.

Arguments of both searches:

- ids_b: the last known token of each row (BOS, or the last of the prompt), which `step_fn` has not read yet.
- state: the state of `step_fn` before `ids_b`.
- length: static; the width l of the buffers of generated ids.
- limits_b: int32, the most tokens that each row may generate, EOS counted, at most `length`.
- eos_id: the token that ends a sequence.
- forbidden: ids that are never generated (PAD, BOS, UNK). Some other id must have a finite logit.
- constraints: see `Constraints`; they apply to generated tokens, not to the prompt.

Log-probabilities are nats under the model's own distribution: the softmax of its logits, without filters, penalties or
temperature. They equal the log-probabilities under teacher forcing.

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
    """Returns one step of several models, with the mean of their probabilities; its state is the tuple of their
    states.
    """

    def step_fn(ids_b, states):
        stepped = [checked_step(step, ids_b, state) for step, state in zip(step_fns, states, strict=True)]
        if len(stepped) == 1:
            return stepped[0][0], (stepped[0][1],)
        log_prob_mbv = jnp.stack([jax.nn.log_softmax(logits_bv) for logits_bv, _ in stepped])
        # Of their sum: a softmax makes a mean of it.
        return jax.nn.logsumexp(log_prob_mbv, axis=0), tuple(state for _, state in stepped)

    return step_fn
