"""The signature of a likelihood: everything that it depends on beside the model."""

import lm
from lm.config import Config
from lm.config.tasks import ANSWER_KINDS, TASKS, answer_of
from lm.data.text.tokenizers.tokenizer import Tokenizer


def signature(
    config: Config, unit: str, tokenizer: Tokenizer, split: str, fingerprint: str, weights: str = "one step"
) -> str:
    """What a likelihood depends on beside the model, as sacrebleu's signature says it of BLEU.

    Two figures with the same one can be compared; `tok` does not matter to the units byte and example.
    """
    task, data = TASKS[config.data.task], config.data
    paired = task.has_source
    return "|".join(
        [
            f"unit:{unit}",
            f"tok:{tokenizer.kind}.{tokenizer.fingerprint[:8]}",
            f"data:{fingerprint[:8]}",
            f"split:{split}",
            f"task:{data.task}",
            f"among:{ANSWER_KINDS[answer_of(config)].among}",  # whose probabilities sum to one
            f"state:{'reset' if paired else 'carried'}",
            f"batch:{'pairs' if paired else f'{data.evaluation_streams}x{data.window}'}",
            f"weights:{weights.replace(' ', '-')}",
            f"version:{lm.__version__}",
        ]
    )
