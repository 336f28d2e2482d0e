"""python -m benchmarks.corpus [--megabytes=100,1000] [--json=FILE]: the cost of a corpus that does not fit in memory.

Writes lines of random words of random syllables, and takes each text through all stages in a process of its own:
reading, division into pieces, holding out a tenth, counting overlap, tokenization with 16,000 unigram pieces, caching,
and 200 batches of 64 x 256 tokens. For each size it prints the peak memory of the process, and megabytes of text per
second for reading into the cache and for tokenization. The temporary directory needs about five times the text.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks.words import words
from lm.config import Config, DataConfig, TokenizerConfig, validated
from lm.data import encoding, feed
from lm.data.splits import load_splits
from lm.data.text.tokenizers.learning import train_tokenizer
from lm.data.text.tokenizers.saved import load_tokenizer, save_tokenizer
from lm.terminal.program import program

MEGABYTES = flags.DEFINE_list("megabytes", ["100", "1000"], "sizes of the text")
JSON = flags.DEFINE_string("json", "", "a file for the figures")
FOLDER = flags.DEFINE_string("folder", "", "where text and tokenizer are: measure them in this process")


def write(path: pathlib.Path, lines: list[str], megabytes: int) -> None:
    """The lines again and again, each time in another order."""
    rng, size = np.random.default_rng(0), 0
    with path.open("w") as file:
        while size < megabytes * 10**6:
            size += file.write("\n".join(lines[i] for i in rng.permutation(len(lines))) + "\n")


def measure(folder: pathlib.Path) -> dict[str, float]:
    """The way from text to batches."""
    text = folder / "text.txt"
    data = DataConfig(train=f"text:{text}", task="lm", batch_size=64, window=256)
    data.tokenizer = TokenizerConfig("bytes")  # not read: the tokenizer is there
    data = validated(Config(data=data)).data
    tokenizer = load_tokenizer(folder / "tokenizer")
    begun = time.perf_counter()
    splits = load_splits(data)
    read = time.perf_counter()
    encoded = {
        name: encoding.encode(split, tokenizer, data, training=name == "train") for name, split in splits.items()
    }
    cached = time.perf_counter()
    made = feed.training_data(encoded["train"], data, seed=0)
    for batch in made.iterate(0, 200, lambda batch: batch):
        assert batch.weights_bt.shape == (64, 256)
    size = text.stat().st_size / 1e6
    return {
        "megabytes": size,
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "read into the cache, MB/s": size / (read - begun),
        "tokenized and cached, MB/s": size / (cached - read),
    }


def main() -> None:
    if FOLDER.value:
        print(json.dumps(measure(pathlib.Path(FOLDER.value))))
        return
    lines, figures = words(), []
    tokenizer = train_tokenizer(TokenizerConfig("unigram", 16_000), lines[:120_000])
    for megabytes in map(int, MEGABYTES.value):
        with tempfile.TemporaryDirectory(prefix="lm-corpus-") as name:
            folder = pathlib.Path(name)
            write(folder / "text.txt", lines, megabytes)
            save_tokenizer(tokenizer, folder / "tokenizer")
            command = [sys.executable, "-m", "benchmarks.corpus", f"--folder={folder}"]
            environment = {**os.environ, "LM_CACHE_DIR": str(folder / "cache")}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        figures.append(json.loads(done.stdout))
        print(", ".join(f"{name} {value:,.1f}" for name, value in figures[-1].items()), flush=True)
    print(f"peak memory, last to first: {figures[-1]['peak memory, MB'] / figures[0]['peak memory, MB']:.2f}")
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    program(main)
