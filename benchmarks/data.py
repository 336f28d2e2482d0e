"""python -m benchmarks.data [--text=SPEC] [--pairs=SPEC] [--json=FILE]: what batches cost, once their ids are cached.

Prints, and with --json writes: target tokens that one core makes into ready batches in each layout, and the share of
positions that are padding. Batches are of TinyWorld by default; `--pairs=parallel:train.de,train.en --pieces=5000`
measures other pairs. What it costs to cache ids: see `corpus.py`.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from lm.config import Config, DataConfig, TokenizerConfig, validated
from lm.data import pipeline
from lm.errors import program
from lm.tasks import layout_of

TEXT = flags.DEFINE_string("text", "tfds:tinyworld/stories", "a source of texts")
PAIRS = flags.DEFINE_string("pairs", "tfds:tinyworld/translate", "a source of pairs")
PIECES = flags.DEFINE_integer("pieces", 900, "ids of the tokenizer of the pairs; of the texts 400")
JSON = flags.DEFINE_string("json", "", "a file for the figures")
REPEATS = 5


def configuration(source: str, task: str, layout: str) -> DataConfig:
    tokenizer = TokenizerConfig("unigram", 400 if source == TEXT.value else PIECES.value)
    data = DataConfig(train=source, validation=source, task=task, layout=layout, tokenizer=tokenizer)
    data.batch_size, data.window, data.max_length, data.buckets = 64, 256 if task == "lm" else 128, 128, 8
    return validated(Config(data=data)).data


def median(measure: Callable[[], float]) -> float:
    return float(np.median([measure() for _ in range(REPEATS)]))


def batches(data: pipeline.TrainingData) -> float:
    """Target tokens a second of processor time, epochs after the first included."""
    index = 0

    def measure():
        nonlocal index
        begun, tokens = time.process_time(), 0.0
        while time.process_time() - begun < 0.5:
            tokens += data.batches[index].weights_bt.sum()
            index += 1
        return tokens / (time.process_time() - begun)

    return median(measure)


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
        split = pipeline.load_splits(config, ("train",))["train"]
        tokenizer = pipeline.make_tokenizer(config, split)
        encoded = pipeline.encode(split, tokenizer, config, training=True)
        data = pipeline.training_data(encoded, config, seed=0)
        name = f"{task}, {layout_of(config)}"
        figures[f"{name}: target tokens/s of one core"] = batches(data)
        figures[f"{name}: padding"] = data.padding
    for name, value in figures.items():
        print(f"{name:<50} {value:,.4g}" if value < 100 else f"{name:<50} {value:,.0f}")
    if JSON.value:
        versions = {name: importlib.metadata.version(name) for name in ("numpy", "array_record", "sentencepiece")}
        record = {"figures": figures, "versions": versions, "machine": platform.machine(), "cores": os.cpu_count()}
        with open(JSON.value, "w") as file:
            json.dump(record, file, indent=2)


if __name__ == "__main__":
    program(main)
