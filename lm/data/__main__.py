"""python -m lm.data SPEC [--config.section.field=value ...]

Describes the data of a configuration. SPEC is a config (`translate`, `configs/translate.py`, or `FILE:TEXT` as for
train.py), the directory of a run, or a source (`tsv:pairs.tsv`).

Prints for each split the number of examples and duplicates, a histogram of lengths, the number of unknown tokens, and
the first examples as text and as ids. For the training data it also prints the effect of cleaning, the overlap with
evaluation data, and the share of padding in the batches. The program writes nothing but the cache of ids.
"""

import pathlib
import sys
from typing import Any

from absl import flags
from etils import epath

from lm.config import Config, changed, from_file, from_text, named
from lm.config.formats import formats_of
from lm.data.description import described
from lm.data.read import sources
from lm.errors import UserError
from lm.runs import manifest, workdir
from lm.terminal.program import program

FIRST = flags.DEFINE_integer("first", 2, "number of examples of each split to print", lower_bound=0)
# A source that is not in a config is described in full and in characters.
SHOWN = {"data.tokenizer.kind": "characters", "data.max_length": 2**20}
FORMATS = ("data.source_format", "data.target_format", "data.turns", "data.history")


def read_config(spec: str, values: dict[str, Any]) -> Config:
    """Returns the configuration that SPEC names, with `values` at their dotted paths."""
    path, name = pathlib.Path(spec).expanduser(), spec.partition(":")[0]
    if (path / "config.json").is_file():
        config = workdir.read_config(epath.Path(path))
        others = {role for role in ("train", "validation", "test") if f"data.{role}" not in values}
        manifest.require_vouched(epath.Path(path), config.data, others, "name it yourself: --config.data.train=SOURCE")
        return changed(config, values)
    if name.endswith(".py") or name in named():
        return changed(from_file(spec), values)
    if name not in sources.SCHEMES and "*" not in spec:
        reason = f"{spec!r} is not a config, a run or a source"
        raise UserError("SPEC", reason, "give e.g. configs/translate.py, runs/de-en or tsv:pairs.tsv")
    source = {"data.train": spec, **SHOWN}
    if "data.task" not in values:  # the examples decide: lm for texts, seq2seq for pairs
        written = {name: value for name, value in values.items() if name in FORMATS}
        formats = formats_of(changed(Config(), {**source, "data.task": "seq2seq", **written}).data)
        train = values.get("data.train", spec)
        split = sources.load_splits(train, train, "", ("train",), formats)["train"]
        source["data.task"] = "lm" if split.examples.table[0, 0] < 0 else "seq2seq"
    return changed(Config(), source | values)


def take_arguments(argv: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Returns the flags of a command line, its SPECs, and the texts of `--config.PATH=VALUE`."""
    rest, specs, texts = [], [], {}
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("--config.") and equals:
            texts[name.removeprefix("config.")] = value
        else:
            (rest if argument.startswith("-") else specs).append(argument)
    return rest, specs, texts


def main(specs: list[str], texts: dict[str, str]) -> None:
    if len(specs) != 1:
        reason = f"is given {len(specs)} times" if specs else "is missing"
        raise UserError("SPEC", reason, "give one config, run or source, e.g. configs/tinyworld.py")
    run, values = epath.Path(*specs).expanduser(), {path: from_text(path, text) for path, text in texts.items()}
    tokenizer = workdir.read_tokenizer(run) if (run / "tokenizer").is_dir() else None
    print("\n".join(described(read_config(*specs, values), tokenizer, FIRST.value)))


if __name__ == "__main__":
    sys.argv[1:], specs, texts = take_arguments(sys.argv[1:])
    program(lambda: main(specs, texts), has_fields=True)
