"""A run that is asked from Python: one text where a list belongs, and what is no text at all."""

import pathlib
import shutil

import numpy as np
import pytest
from support.directories import reconfigured

import lm
from lm.answers import ANSWERS
from lm.config.tasks import ANSWER_KINDS
from lm.data.read.examples import Example
from lm.errors import UserError

FEW = lm.Options(temperature=0, max_new_tokens=4)


@pytest.fixture(scope="module")
def runs(trained):
    return {layout: lm.load(path) for layout, path in trained.items()}


@pytest.fixture(scope="module")
def talking(trained, configs, tmp_path_factory):
    """A run that keeps conversations, as far as its configuration goes."""
    run = shutil.copytree(trained["buckets"], tmp_path_factory.mktemp("talking") / "run")
    turns = ("U: {turn}", "S: {turn}")
    reconfigured(run, lm.changed(configs["buckets"], {"data.turns": turns}))
    return lm.load(run)


@pytest.mark.parametrize("layout", ["streams", "buckets"])
def test_one_string_is_one_prompt(layout, runs):
    ((one,),) = runs[layout].generate("ant bee", FEW)
    assert runs[layout].generate(["ant bee"], FEW) == [[one]]
    assert runs[layout].generate(iter(["ant bee"]), FEW) == [[one]]
    assert runs[layout].generate(np.array(["ant bee"]), FEW)[0][0].output == one.output
    assert runs[layout].generate([], FEW) == []


def test_one_text_or_example_is_scored_as_a_list_of_one(runs):
    streams, buckets = runs["streams"], runs["buckets"]
    assert streams.score("one two") == streams.score(["one two"]) and len(streams.score("one two")) == 1
    pair = buckets.score([("ant", "bee")])
    assert buckets.score(("ant", "bee")) == pair and len(streams.score(("ant", "bee"))) == 2
    assert buckets.score(Example("ant", "bee")) == buckets.score([["ant", "bee"]]) == pair
    assert buckets.score([]) == []


def test_one_string_is_one_turn(talking):
    assert talking.conversation("hello") == talking.conversation(["hello"]) == "U: hello"


@pytest.mark.parametrize(
    "wrong", [None, 3, b"ant", {"ant": 1}, [None], ["ant", 3], [b"ant"], ["\ud800"], [["ant"]]], ids=repr
)
def test_what_is_no_list_of_texts_is_refused_by_every_question(wrong, runs, talking):
    for ask in (runs["streams"].generate, runs["streams"].score, talking.conversation):
        with pytest.raises(UserError, match=r"(prompts|examples|turns)(\[\d\])?: "):
            ask(wrong)


@pytest.mark.parametrize("wrong", ["ant", ["ant", "bee"], [("ant",)], [("a", "b", "c")], [("ant", None)]], ids=repr)
def test_what_is_no_pair_is_refused_where_pairs_belong(wrong, runs):
    with pytest.raises(UserError, match="examples"):
        runs["buckets"].score(wrong)


def test_what_a_run_cannot_do_is_said_in_a_sentence(runs, talking, trained):
    with pytest.raises(UserError, match=r"without config\.data\.turns"):
        runs["streams"].conversation(["hello"])
    with pytest.raises(UserError, match="turns: is empty"):
        talking.conversation([])
    for wrong in (12, None, b"runs/x", ["runs/x"]):
        with pytest.raises(UserError, match="workdir: .* is a "):
            lm.load(wrong)
    with pytest.raises(UserError, match="options: .* is a dict"):
        runs["streams"].generate(["a"], {"beam_size": 2})
    assert lm.load(pathlib.Path(trained["streams"]), 72).step == 72


def test_constraints_on_answers_that_are_chosen_are_refused(runs):
    """From Python as from the command line; what is about texts that a search writes has no use there."""
    for name, value in {"ban": "x", "stop": "x", "min_new_tokens": 2, "no_repeat_ngram": 1, "force": "x"}.items():
        how = lm.Options(beam_size=2, **{name: value})
        for kind in [kind for kind in ANSWERS if ANSWER_KINDS[kind].how]:
            answer = ANSWERS[kind](runs["buckets"].model, tokenizer=runs["buckets"].tokenizer, labels=("a", "b"))
            with pytest.raises(UserError, match=f"--{name}: the model (ranks|points)"):
                answer.answer(None, [], how)


def test_an_output_says_whether_it_fulfils_its_constraints(runs):
    """Each character may come once, so two of them side by side never do; and what no text can be is refused beforehand."""
    run, how = runs["streams"], {"beam_size": 2, "max_new_tokens": 12}
    for force, size, satisfied in (("oo", 0, True), ("oo", 1, False), ("on", 1, True)):
        ((one,),) = run.generate("one", lm.Options(force=force, no_repeat_ngram=size, **how))
        assert one.satisfied == satisfied == (force in one.output)
    known = run.tokenizer.vocab_size - 4
    for wrong, said in (
        (lm.Options(force="one two three", **how), "--force: takes at least 13 tokens"),
        (lm.Options(min_new_tokens=known + 1, no_repeat_ngram=1), "--min_new_tokens: no "),
        (lm.Options(min_new_tokens=1, ban=run.tokenizer.pieces(range(4, known + 4))), "--ban leaves no token"),
    ):
        with pytest.raises(UserError, match=said):
            run.generate([], wrong)
    ((one,),) = run.generate("one", lm.Options(force="one two three four", beam_size=2))
    assert one.satisfied  # the usual limit makes room for it


@pytest.mark.parametrize("layout", ["streams", "buckets"])
def test_a_stop_string_cuts_the_text_that_would_have_come(layout, runs):
    """Greedily, the same tokens up to there; tokens and log-probability are of those that were generated."""
    run, prompts, cut = runs[layout], ["ant bee", "one two", "cat", "dog eel fox"], 0
    for free, stopped in zip(
        run.generate(prompts, lm.Options(temperature=0, max_new_tokens=12)),
        run.generate(prompts, lm.Options(temperature=0, max_new_tokens=12, stop=("e ", "n"))),
        strict=True,
    ):
        (free,), (stopped,) = free, stopped
        ends = [(free.output.find(stop) + len(stop), stop) for stop in ("e ", "n") if stop in free.output]
        if not ends:
            assert stopped == free
            continue
        end, stop = min(ends)
        assert (stopped.output, stopped.stop, stopped.ended) == (free.output[: end - len(stop)], stop, True)
        assert stopped.tokens <= free.tokens and stopped.log_probability >= free.log_probability - 1e-4
        cut += stopped.tokens < free.tokens
    assert cut
