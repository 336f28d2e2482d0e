"""The flags of an evaluation, which several programs share."""

from collections.abc import Iterable
from typing import Any

from absl import flags

from lm.terminal import decoding_flags

flags.disclaim_key_flags()  # so that the --help of the program shows them as its own


def define_flags(scores: Iterable[str]) -> None:
    """Defines the flags of an evaluation; `scores` are the names of all scores of generated text."""
    flags.DEFINE_string("split", "test", "split of the run's data: train, validation or test")
    flags.DEFINE_string(
        "checkpoint", "best", "best (by validation loss), latest, a step, or mean:N (mean of the last N checkpoints)"
    )
    flags.DEFINE_list(
        "scores", [], f"scores of generated text, with commas, from {', '.join(scores)}; empty: those of the task"
    )
    flags.DEFINE_bool(
        "lowercase", False, "lower-case text for BLEU, chrF and TER; sacrebleu itself does so for TER alone"
    )
    flags.DEFINE_string("bleu_tokenize", "", "tokenizer of sacrebleu for BLEU; empty: zh for Chinese, else 13a")
    decoding_flags.define_flags("num_samples")


def given() -> dict[str, Any]:
    """Returns the values of the flags by name, with those of decoding that were given under `decoding`."""
    names = ("split", "checkpoint", "lowercase", "bleu_tokenize")
    found = {name: flags.FLAGS[name].value for name in names}
    return found | {"scores": tuple(flags.FLAGS["scores"].value), "decoding": decoding_flags.given()}
