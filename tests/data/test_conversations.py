"""Conversations: what the model reads of them in `sample.py --interactive` is what its training data says of them."""

import dataclasses
import json

import pytest
from etils import epath
from support.configs import tiny_config
from support.programs import run_program

from lm.data import splits
from lm.runs.run import load
from lm.training import loop

pytestmark = pytest.mark.usefixtures("quick_training")

TALKS = [
    ["red one", "one red", "two", "red two", "blue three four", "four three blue"][: 2 + 2 * (i % 3)] for i in range(60)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run trained on conversations, whose sources have at most three turns."""
    folder = tmp_path_factory.mktemp("talks")
    (folder / "talks.jsonl").write_text("".join(json.dumps({"turns": turns}) + "\n" for turns in TALKS))
    source = f"jsonl:{folder}/talks.jsonl"
    changes = {"data.turns": ["A: {turn}", "B: {turn}"], "data.history": 3, "data.validation": source}
    changes |= {
        "training.steps": 40,
        "training.eval_every": 40,
        "data.tokenizer.vocab_size": 280,
        "data.max_length": 40,
    }
    loop.train(tiny_config("buckets", source, changes), epath.Path(folder / "run"))
    return folder / "run"


def talk(run, lines: str, *arguments: str) -> list[dict]:
    given = ["--interactive", "--json", "--max_new_tokens=6", *arguments]
    done = run_program("sample.py", f"--workdir={run}", *given, given=lines)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_conversation_is_kept_and_begun_anew_at_an_empty_line(run):
    one, two, three, again, other = talk(run, "red one\ntwo\nblue three four\n\nred one\ntwo\n")
    assert one["prompt"] == "A: red one"
    assert two["prompt"] == f"A: red one\nB: {one['output']}\nA: two"
    assert three["prompt"] == f"A: two\nB: {two['output']}\nA: blue three four"  # three turns, as in training
    assert (again, other) == (one, two)


def test_prompts_are_what_was_said_before(run):
    first, second, anew = talk(run, "blue\nred\n\nblue\n", "--prompt=one red", "--num_samples=2", "--beam_size=2")[::2]
    assert first["prompt"] == "B: one red\nA: blue" == anew["prompt"]
    assert second["prompt"] == f"A: blue\nB: {first['output']}\nA: red"


def test_what_the_model_reads_is_a_source_of_its_training_data(run):
    opened = load(str(run))
    sources = {example.source for example in splits.load_splits(opened.config.data, ("train",))["train"].examples}
    assert {opened.conversation(talk[:at]) for talk in TALKS for at in range(1, len(talk), 2)} == sources


def test_what_is_longer_than_training_pairs_loses_its_oldest_turns(run):
    opened = load(str(run))
    said = ["two", "red", "blue two four two four"]
    length = len(opened.tokenizer.encode("B: red\nA: blue two four two four"))
    for most, kept in ((1, 1), (length, 1), (length + 1, 2), (1000, 3)):
        config = dataclasses.replace(opened.config, data=dataclasses.replace(opened.config.data, max_length=most))
        found = dataclasses.replace(opened, config=config).conversation(said)
        assert found == "\n".join(["A: two", "B: red", "A: blue two four two four"][-kept:])
