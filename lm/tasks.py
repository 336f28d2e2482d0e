"""Tasks: how an example becomes what the encoder reads and what the decoder writes, and what scores it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """A new task is a line in `TASKS`. Streams have no source, and buckets need one."""

    has_source: bool  # whether examples have a source, and the model an encoder
    layout: str  # streams (one continuous text, state carried) or buckets (padded examples)
    scores: tuple[str, ...]  # names in `lm.metrics.SCORES`, computed on generated text


TASKS = {
    "lm": Task(has_source=False, layout="streams", scores=()),
    "seq2seq": Task(has_source=True, layout="buckets", scores=("exact_match", "bleu", "chrf")),
}
