"""The signature of a likelihood: everything that it depends on beside the model."""

import lm
from lm.config import Config
from lm.config.tasks import ANSWER_KINDS, TASKS, answer_of
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.data.text.tokenizers.unknown import SPELLING, Unknown


def signature(
    config: Config,
    unit: str,
    tokenizer: Tokenizer,
    split: str,
    fingerprint: str,
    weights: str = "one step",
    lost: Unknown | None = None,
    spelled: bool = False,
) -> str:
    """Returns the signature of a likelihood, in the form of sacrebleu's signatures of BLEU.

    Two likelihoods with the same signature can be compared. For the units byte and example, `tok` may differ if no text
    is altered, and if `unk` is 0 or all unknown tokens are spelled out. Otherwise they are likelihoods of different
    texts.
    """
    task, data = TASKS[config.data.task], config.data
    paired, lost = task.has_source, lost or Unknown()
    return "|".join(
        [
            f"unit:{unit}",
            f"tok:{tokenizer.kind}.{tokenizer.fingerprint[:8]}",
            f"data:{fingerprint[:8]}",
            f"split:{split}",
            f"task:{data.task}",
            f"among:{ANSWER_KINDS[answer_of(config)].among}",  # the set over which probabilities sum to one
            f"state:{'reset' if paired else 'carried'}",
            f"batch:{'pairs' if paired else f'{data.evaluation_streams}x{data.window}'}",
            f"weights:{weights.replace(' ', '-')}",
            f"unk:{SPELLING if spelled else lost.tokens}",
            *([f"altered:{lost.altered}"] if lost.altered else []),
            f"version:{lm.__version__}",
        ]
    )


def fields(text: str) -> dict[str, str]:
    """Returns the fields of a signature by name."""
    return dict(field.partition(":")[::2] for field in text.split("|"))


def of_whole_texts(text: str) -> bool:
    """Whether a likelihood with this signature is of the texts themselves: nothing in them is unknown or altered."""
    found = fields(text)
    return found.get("unk", "0") in ("0", SPELLING) and "altered" not in found
