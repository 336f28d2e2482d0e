"""The models: pure functions of their parameters."""

from collections.abc import Sequence

from lm.config import Config
from lm.config.tasks import TASKS
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.ranker import Ranker
from lm.models.readers import Classifier, Extractor, Reader


def build(config: Config, vocab_size: int, labels: Sequence[Sequence[int]] = ()) -> EncoderDecoder | Reader:
    """The model of a configuration's task; `labels` are the ids, EOS included, of those that a task ranks."""
    task = TASKS[config.data.task]
    if task.points:
        return Extractor(config.model, vocab_size, config.data.span)
    if task.ranks:
        ids = tuple(tuple(map(int, each)) for each in labels)
        if config.model.pool:
            return Classifier(config.model, vocab_size, ids)
        return Ranker(config.model, vocab_size, task.has_source, ids)
    return EncoderDecoder(config.model, vocab_size, task.has_source)
