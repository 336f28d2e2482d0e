"""python -m lm.data SPEC [--config.section.field=value ...]: what a configuration's data looks like.

SPEC is a config file (`configs/translate.py`, or `FILE:TEXT` as for train.py), the directory of a run, or a source
(`tsv:pairs.tsv`). Prints how many examples there are, their lengths, what cleaning did, what is unknown, twice there, or in
evaluation data too, how much of the batches is padding, and the first examples as text and as ids. Reads, and writes the
cache of ids; nothing else.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath

from lm import config as configuration
from lm.config import Config
from lm.config.tasks import TASKS, layout_of
from lm.data import encoding, feed
from lm.data.encoding import Encoded
from lm.data.read import sources
from lm.data.splits import formats_of, load_splits
from lm.data.text.tokenizers.saved import load_tokenizer
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.runs import workdir
from lm.terminal.program import program

FIRST = flags.DEFINE_integer("first", 2, "how many examples of each split are shown", lower_bound=0)
BINS = 10


def read_config(spec: str, overrides: Sequence[tuple[str, str]]) -> Config:
    """The configuration that SPEC names, fields replaced."""
    path, name = pathlib.Path(spec).expanduser(), spec.partition(":")[0]
    if (path / "config.json").is_file():
        config = configuration.editable(workdir.read_config(epath.Path(path)))
        configuration.override(config, overrides)
    elif name.endswith(".py"):
        config = configuration.from_file(spec)
        configuration.override(config, overrides)
    elif name in sources.SCHEMES or "*" in spec:
        config = Config()
        config.data.train = spec
        config.data.tokenizer.kind = "characters"
        config.data.max_length = 2**20  # all of it is to be seen
        configuration.override(config, overrides)
        if not any(field == "data.task" for field, _ in overrides):
            config.data.task = _task_of(config)
    else:
        what = f"{spec!r} is no config file, no run and no source"
        raise UserError("SPEC", what, "give e.g. configs/translate.py, runs/de-en or tsv:pairs.tsv")
    return configuration.validated(config)


def _task_of(config: Config) -> str:
    """lm for texts, seq2seq for pairs."""
    formats = formats_of(config.data)
    split = sources.load_splits(config.data.train, config.data.train, "", ("train",), formats)["train"]
    return "lm" if split.examples.table[0, 0] < 0 else "seq2seq"


def show(config: Config, tokenizer: Tokenizer | None, first: int) -> None:
    """Prints all of it."""
    splits = load_splits(config.data)
    tokenizer = tokenizer or encoding.make_tokenizer(config.data, splits["train"])
    print(f"task        {config.data.task}, {layout_of(config.data)}")
    extra = f", {tokenizer.sentinels} sentinels" if tokenizer.sentinels else ""
    print(f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} ids{extra}, {tokenizer.fingerprint}")
    for name, split in splits.items():
        encoded = encoding.encode(split, tokenizer, config.data, config.seed, training=name == "train")
        print(f"\n{name}  {split.spec}")
        if split.note:
            print(f"  {split.note}")
        show_split(encoded, config, tokenizer)
        if split.report:
            print("\n".join(f"  {line}" for line in split.report.lines()))
        if name == "train":
            data = feed.training_data(encoded, config.data, config.seed)
            print(f"  batches     {data.steps_per_epoch:,} an epoch, {data.padding:.1%} of positions are padding")
            if data.left_out:
                print(f"  left out    {data.left_out:,} longer than {config.data.max_length} tokens")
        for number in range(min(first, len(encoded.corpus))):
            show_example(encoded, number, tokenizer)


def show_split(encoded: Encoded, config: Config, tokenizer: Tokenizer) -> None:
    """Counts and lengths."""
    examples, lengths = encoded.split.examples, encoded.corpus.lengths(0)
    tokens = int(lengths.sum())
    twice = len(examples) - len(np.unique(examples.hashes))
    print(f"  examples    {len(examples):,}, {twice:,} of them again what another is; {encoded.split.fingerprint}")
    if examples.table[:, 2].any():
        print(f"              they are pieces of {int(np.sum(examples.table[:, 2] == 0)):,} documents")
    print(f"  tokens      {tokens:,} (without the ends), {encoded.unknown:,} unknown ({encoded.unknown / tokens:.3%})")
    if encoded.unpointed:
        print(f"  left out    {encoded.unpointed:,} whose target is no span of their source")
    print(f"  bytes       {encoded.target_bytes:,} of targets")
    if encoded.floor is not None:
        print(f"  floor       {encoded.floor:.3f} nats an example")
    sides = ("source", "target") if TASKS[config.data.task].has_source else ("text",)
    for side, sizes in zip(sides, lengths.T[-len(sides) :], strict=True):
        median, most = np.percentile(sizes, 50), sizes.max()
        print(f"  {side:<11} {sizes.mean():.1f} tokens on average, median {median:.0f}, most {most:,}")
        counts, edges = np.histogram(sizes, bins=_edges(int(most)))
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            bar = "#" * int(round(40 * count / counts.max()))
            print(f"    {int(low):>8,} to {int(high) - 1:>8,} {count:>10,} {bar}")


def _edges(most: int) -> np.ndarray:
    """At most `BINS` whole bins that hold 0 to `most`."""
    width = -(-(most + 1) // BINS)
    return np.arange(0, most + 1 + width, width)


def show_example(encoded: Encoded, number: int, tokenizer: Tokenizer) -> None:
    """An example as what the model reads and writes: text and ids."""
    for side, ids in zip(("source", "target"), encoded.corpus.take([number], 0)[0], strict=True):
        if len(ids):
            text = tokenizer.decode(ids[:60])
            print(f"  {number} {side}    {text!r}{' ...' if len(ids) > 60 else ''}")
            print(f"             {' '.join(map(str, ids[:20].tolist()))}{' ...' if len(ids) > 20 else ''}")
            print(f"             {' '.join(tokenizer.pieces(ids[:20]))!r}")


def main() -> None:
    config = read_config(SPEC[0], OVERRIDES)
    saved = pathlib.Path(SPEC[0]).expanduser() / "tokenizer"
    show(config, load_tokenizer(saved) if saved.is_dir() else None, FIRST.value)


SPEC: list[str] = []
OVERRIDES: list[tuple[str, str]] = []


def take_arguments(argv: list[str]) -> list[str]:
    """SPEC and the overrides out of the command line; what is left are flags."""
    rest = []
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("--config.") and equals:
            OVERRIDES.append((name.removeprefix("config."), value))
        elif not argument.startswith("-"):
            SPEC.append(argument)
        else:
            rest.append(argument)
    if len(SPEC) != 1 and not {"--help", "--helpfull", "-h"} & set(rest):
        what = "is missing" if not SPEC else f"is given {len(SPEC)} times"
        raise UserError("SPEC", what, "give one config file, run or source, e.g. configs/tinyworld.py")
    return rest


if __name__ == "__main__":
    try:
        sys.argv[1:] = take_arguments(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    program(main)
