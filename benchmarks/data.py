"""python -m benchmarks.data [--text=SPEC] [--pairs=SPEC] [--json=FILE]: the cost of batches from cached ids.

Prints, and writes with --json, the tokens per second that one core makes into batches, for each layout, of both sides
and of targets alone, and the share of positions that are padding. Batches are of TinyWorld by default;
`--pairs=parallel:train.de,train.en --pieces=5000` measures other pairs. `corpus.py` measures the cost of caching ids.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time

import numpy as np
from absl import flags

from lm.config import Config, DataConfig, TokenizerConfig, validated
from lm.config.tasks import TASKS, layout_of
from lm.data import encoding, feed, splits
from lm.terminal.program import program

TEXT = flags.DEFINE_string("text", "tfds:tinyworld/stories", "a source of texts")
PAIRS = flags.DEFINE_string("pairs", "tfds:tinyworld/translate", "a source of pairs")
PIECES = flags.DEFINE_integer("pieces", 900, "ids of the tokenizer of the pairs; of the texts 400")
JSON = flags.DEFINE_string("json", "", "a file for the figures")
REPEATS = 5


def configuration(source: str, task: str, layout: str) -> DataConfig:
    tokenizer = TokenizerConfig("unigram", 400 if source == TEXT.value else PIECES.value)
    data = DataConfig(train=source, validation=source, task=task, layout=layout, tokenizer=tokenizer)
    data.batch_size, data.window, data.max_length = 64, 256 if task == "lm" else 128, 128
    return validated(Config(data=data)).data


def batches(data: feed.TrainingData) -> tuple[float, float]:
    """(Source and target tokens, target tokens) a second of processor time, epochs after the first included."""
    index = 0

    def measure():
        nonlocal index
        spent, sources, targets = 0.0, 0, 0.0
        while spent < 0.5:
            begun = time.process_time()
            batch = data.batches[index]
            spent += time.process_time() - begun
            sources += 0 if batch.source is None else np.count_nonzero(batch.source.mask_bs)
            targets += batch.weights_bt.sum()
            index += 1
        return (sources + targets) / spent, targets / spent

    both, target = np.median([measure() for _ in range(REPEATS)], axis=0)
    return float(both), float(target)


def main() -> None:
    os.environ["LM_CACHE_DIR"] = tempfile.mkdtemp(prefix="lm-data-")
    figures = {}
    for source, task, layout in (
        (TEXT.value, "lm", "streams"),
        (TEXT.value, "lm", "packed"),
        (TEXT.value, "denoise", "buckets"),
        (PAIRS.value, "seq2seq", "buckets"),
        (PAIRS.value, "seq2seq", "packed"),
    ):
        config = configuration(source, task, layout)
        split = splits.load_splits(config, ("train",))["train"]
        tokenizer = encoding.make_tokenizer(config, split)
        encoded = encoding.encode(split, tokenizer, config, training=True)
        data = feed.training_data(encoded, config, seed=0)
        name = f"{task}, {layout_of(config)}"
        both, target = batches(data)
        if TASKS[task].has_source:
            figures[f"{name}: source and target tokens/s of one core"] = both
        figures[f"{name}: target tokens/s of one core"] = target
        figures[f"{name}: padding"] = data.padding
    for name, value in figures.items():
        print(f"{name:<60} {value:,.4g}" if value < 100 else f"{name:<60} {value:,.0f}")
    if JSON.value:
        versions = {name: importlib.metadata.version(name) for name in ("numpy", "array_record", "sentencepiece")}
        record = {"figures": figures, "versions": versions, "machine": platform.machine(), "cores": os.cpu_count()}
        with open(JSON.value, "w") as file:
            json.dump(record, file, indent=2)


if __name__ == "__main__":
    program(main)
