"""The flags of an evaluation, which several programs share."""

from collections.abc import Iterable
from typing import Any

from absl import flags

from lm.terminal import decoding_flags

flags.disclaim_key_flags()  # they are the program's, whose --help shows them


def define_flags(scores: Iterable[str]) -> None:
    """Defines a flag for everything that an evaluation is asked for; `scores` are the names of those there are."""
    flags.DEFINE_string("split", "test", "train, validation or test, as the run's configuration names them")
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, a step, or mean:N of the last N")
    flags.DEFINE_list(
        "scores", [], f"what generated text is scored by, of {', '.join(scores)}; empty: what the task says"
    )
    flags.DEFINE_bool("lowercase", False, "BLEU, chrF and TER of lower-cased text, as sacrebleu's own TER is")
    flags.DEFINE_string("bleu_tokenize", "", "sacrebleu's tokenizer for BLEU; empty: zh for Chinese, else 13a")
    decoding_flags.define_flags("num_samples")


def given() -> dict[str, Any]:
    """Returns the values of the flags, by name, and those of decoding that were given as `decoding`."""
    names = ("split", "checkpoint", "lowercase", "bleu_tokenize")
    found = {name: flags.FLAGS[name].value for name in names}
    return found | {"scores": tuple(flags.FLAGS["scores"].value), "decoding": decoding_flags.given()}
