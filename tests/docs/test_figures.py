"""The numbers of the README: those of its tables are in the pages of results, its header's are those of the code."""

import re

import jax
import numpy as np
from support.programs import ROOT

from lm.config import from_file, validated
from lm.config.tasks import TASKS
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.parameters import initial_params

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("results.md", "performance.md")]


def measured(text: str) -> list[str]:
    """Returns the numbers with a decimal point in the tables of a page, without code and links."""
    rows = [re.sub(r"`[^`]*`|\]\([^)]*\)", "", line) for line in text.split("\n") if line.startswith("|")]
    return [number for row in rows for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", row)]


def test_each_measured_number_of_the_readme_is_in_the_pages_of_results():
    numbers = measured(README)
    assert len(numbers) > 15
    known = {number for text in RESULTS for number in re.findall(r"\d+\.\d+", text)}
    assert [number for number in numbers if number not in known] == []


def test_numbers_of_tables_are_found():
    assert measured("| a | 1.50 | `0.1` | 80.0 % |\n1.7\n| [b](c-0.2.md) | 2.1 to 3.25, |") == [
        "1.50",
        "80.0",
        "2.1",
        "3.25",
    ]


def test_the_parameters_in_the_readme_are_those_of_the_default_model():
    config = validated(from_file("tinyworld"))
    model = EncoderDecoder(config.model, config.data.tokenizer.vocab_size, TASKS[config.data.task].source)
    shapes = jax.eval_shape(lambda: initial_params(model, config.seed))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    pages = [README, (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")]
    assert [re.findall(r"^parameters  ([\d,]+)", page, re.M) for page in pages] == [[f"{count:,}"]] * 2
