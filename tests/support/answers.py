"""The answer that belongs to each class of model, for tests that build a model by hand."""

from typing import Any

import jax
import jax.numpy as jnp

from lm.answers.choice import Choice, Classifier
from lm.answers.contract import Answer, Noise, Objective
from lm.answers.labels import Labels, Ranker
from lm.answers.span import Extractor, Span
from lm.answers.text import Text
from lm.batch import PAD, Batch, Source
from lm.models.encoder_decoder import EncoderDecoder

KINDS = {EncoderDecoder: Text, Ranker: Labels, Classifier: Choice, Extractor: Span}


def answer_of(model: Any, *objective: float, tokenizer: Any = None, labels: tuple[str, ...] = ()) -> Answer:
    """Returns the answer that a model gives; `objective` is label smoothing, z-loss and coverage."""
    return KINDS[type(model)](model, Objective(*objective), tokenizer, labels)


def loss_of(model: Any, params: Any, carry: Any, batch: Batch, keys_b: jax.Array | None = None, *objective: float):
    """Returns (sum of the training loss, (number of targets, carry)) of a model."""
    return answer_of(model, *objective).loss(params, carry, batch, Noise(keys_b))


def text_source(ids_bs: Any) -> Source:
    """Returns a source of text."""
    return Source(ids_bs, jnp.asarray(ids_bs) != PAD)
