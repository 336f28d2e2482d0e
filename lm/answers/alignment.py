"""The alignment of a target with its source: where a decoder attends to while it reads the target."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.answers import shapes
from lm.answers.contract import Answer
from lm.answers.written import Written
from lm.batch import EOS, Batch
from lm.data.read.examples import Example
from lm.errors import UserError


class Alignment(NamedTuple):
    """The attention weights of one pair of texts. The last token of each side is its end."""

    source: list[str]  # the tokens of the source
    target: list[str]  # the tokens of the target
    weights_ts: np.ndarray  # float32; row t holds the weights with which token t was predicted, and sums to 1


def alignment(answer: Answer, params: Any, example: Example) -> Alignment:
    """Returns the attention weights under teacher forcing, from the decoder's initial state.

    Raises:
        UserError: the model has no attention to a source.
    """
    attends = isinstance(answer, Written) and answer.model.has_encoder and answer.model.config.attention != "none"
    if not attends:
        reason = "the model has no decoder that attends to a source"
        raise UserError("alignment", reason, "train one with e.g. config.model.attention=dot")
    (target,), (values,) = answer.target_ids([example]), answer.source_values([example.source])
    batch = shapes.batch_of([target], [values], answer.front_end)
    weights_ts = np.asarray(_attention(answer, params, batch)[0])[: len(target) + 1, : len(values) + 1]
    pieces = answer.tokenizer.pieces
    is_text = values.ndim == 1
    source = pieces([*values, EOS]) if is_text else [str(position) for position in range(len(values) + 1)]
    return Alignment(source, pieces([*target, EOS]), weights_ts)


@functools.partial(jax.jit, static_argnums=0)
def _attention(answer: Written, params: Any, batch: Batch) -> jax.Array:
    return answer.attention(params, batch)
