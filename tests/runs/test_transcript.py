"""The lines of outputs, the file that holds them, and prompts that are answered in chunks."""

import collections
import contextlib
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lm
from lm.answers import chunks
from lm.answers.contract import Generation
from lm.errors import UserError
from lm.runs import transcript
from lm.runs.run import generate_in_order
from lm.search.options import Options

BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
texts = st.text(st.sampled_from("ab\\n\tür" + BREAKS), max_size=6) | st.text(max_size=4)


def generations(prompt, outputs):
    return [Generation(prompt, text, -1.0, 2, True) for text in outputs]


def read_back(line):
    r"""What an escaped line stands for: \\, \n, \r, \v, \f, \xNN and \uNNNN."""
    signs = {"n": "\n", "r": "\r", "v": "\v", "f": "\f", "\\": "\\"}
    escape = r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|(.))"
    return re.sub(escape, lambda found: signs[found[3]] if found[3] else chr(int(found[1] or found[2], 16)), line)


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=3)), max_size=4))
def test_each_prompt_has_as_many_lines_as_were_asked_for_and_no_text_is_lost(answers):
    """Lines by any reader's count: of `wc -l`, and of one that takes every separator of Unicode for an end."""
    how, whole = Options(num_samples=3), []
    shown, encoded = transcript.Transcript(how, False, True, False), transcript.Transcript(how, True, True, False)
    for prompt, outputs in answers:
        whole += shown.lines(prompt, generations(prompt, outputs))
        objects = encoded.lines(prompt, generations(prompt, outputs))
        assert all(len(line.splitlines()) == 1 for line in objects) and len(objects) == 3
        found = [json.loads(line) for line in objects]
        assert {one["prompt"] for one in found} == {prompt}
        assert [one["output"] for one in found] == [*outputs, *[None] * (3 - len(outputs))]
    assert len(whole) == 3 * len(answers) and all(len(line.splitlines()) <= 1 for line in whole)
    assert "".join(f"{line}\n" for line in whole).splitlines() == whole
    expected = [text for _, outputs in answers for text in [*outputs, *[""] * (3 - len(outputs))]]
    assert [read_back(line) for line in whole] == expected
    changed = sum(any(sign in text for sign in BREAKS + "\\") for _, outputs in answers for text in outputs)
    fewer = sum(len(outputs) < 3 for _, outputs in answers)
    assert sum("line breaks" in remark for remark in shown.remarks()) == bool(changed)
    assert sum("--num_samples=3" in remark for remark in shown.remarks()) == bool(fewer)


def test_an_answer_to_one_prompt_is_printed_as_it_is_and_several_say_where_they_have_several_lines():
    for prompts, said in (["a"], False), (["a", "b"], True):
        shown = transcript.Transcript(Options(), False, False, True)
        for prompt in prompts:
            assert shown.lines(prompt, generations(prompt, ["x\ny\\"])) == [f"{prompt}x\ny\\"]
        assert any("several lines" in remark for remark in shown.remarks()) == said


def test_what_is_not_satisfied_is_said_where_a_constraint_was_asked_for():
    for how, names in ((Options(), set()), (Options(force="x", beam_size=2, stop="."), {"stop", "satisfied"})):
        shown = transcript.Transcript(how, True, False, False)
        (line,) = shown.lines("a", [Generation("a", "b", -1.0, 2, False, "", not names)])
        assert set(json.loads(line)) == {*transcript.SHOWN, *names}
        assert (["1 of 1 outputs do not meet --force" in remark for remark in shown.remarks()] == [True]) == bool(names)


# ---- a file of outputs ------------------------------------------------------------------------------------------


def record_of(prompts=4, **changes):
    return {
        "runs": ["runs/some, step 3"],
        "parameters": ["00"],
        "options": {"beam_size": 4, "seed": 0},
        "format": "text",
        "prompts": prompts,
        "input": "11",
    } | changes


def finish(path, lines_each):
    """Writes what is missing, as a second start does; returns how many prompts were there."""
    file = transcript.OutputFile(str(path), record_of(), lines_each)
    for number in range(file.done, 4):
        file.write([f"ü{number}.{k}" for k in range(lines_each)])
    return file.done


@settings(deadline=None)
@given(cut=st.integers(0, 50), lines_each=st.integers(1, 2))
def test_a_file_that_was_cut_anywhere_is_completed_after_its_last_whole_prompt(cut, lines_each, tmp_path_factory):
    path = tmp_path_factory.mktemp("outputs") / "new" / "out.txt"
    assert finish(path, lines_each) == 0
    whole = path.read_bytes()
    assert len(whole.decode().splitlines()) == 4 * lines_each
    path.write_bytes(whole[:cut])
    assert finish(path, lines_each) == whole[:cut].count(b"\n") // lines_each
    assert path.read_bytes() == whole
    assert finish(path, lines_each) == 4 and path.read_bytes() == whole


# What differs from the command that began the file -> what the line says.
OTHER = {
    "options": ({"options": {"beam_size": 2, "seed": 0}}, "--beam_size (4 -> 2)"),
    "an option more": ({"options": {"beam_size": 4, "seed": 0, "stop": ["."]}}, "--stop"),
    "parameters": ({"parameters": ["01"]}, "parameters"),
    "input": ({"input": "12"}, "input"),
    "format": ({"format": "json"}, "format"),
}


@pytest.mark.parametrize("name", OTHER)
def test_the_file_of_another_command_is_refused_and_left_as_it_is(name, tmp_path):
    path = tmp_path / "out.txt"
    finish(path, 1)
    path.write_bytes(path.read_bytes()[:9])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match=re.escape(OTHER[name][1])):
        transcript.OutputFile(str(path), record_of(**OTHER[name][0]), 1)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    transcript.OutputFile(str(path), record_of(runs=["elsewhere/some, step 3"]), 1)  # a run may have moved


def test_a_file_that_is_no_output_is_refused_and_left_as_it_is(tmp_path):
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my notes\n")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("notes.txt", "no notes.txt.json"),
        ("folder", "not a regular file"),
        ("gs://b/out", "regular file"),
    ):
        with pytest.raises(UserError, match=said):
            transcript.OutputFile(name if "://" in name else str(tmp_path / name), record_of(), 1)
    for text in ("", "{", "[]", '{"options": 3}', "[" * 10**5):
        (tmp_path / "out.txt.json").write_text(text)
        with pytest.raises(UserError, match="out.txt.json: "):
            transcript.OutputFile(str(tmp_path / "out.txt"), record_of(), 1)
    assert foreign.read_text() == "my notes\n" and not (tmp_path / "out.txt").exists()
    (tmp_path / "empty").touch()  # as mktemp makes it
    held = transcript.OutputFile(str(tmp_path / "empty"), record_of(), 1)
    with pytest.raises(UserError, match="another process"):
        transcript.OutputFile(str(tmp_path / "empty"), record_of(), 1)
    assert held.done == 0


# ---- chunks -----------------------------------------------------------------------------------------------------


class Counting:
    """Answers with the prompt and which time it is given, and notes how many prompts were asked at once."""

    def __init__(self):
        self.asked = []

    def answer(self, params, prompts, options, beside, before):
        self.asked.append(len(prompts))
        seen = collections.Counter(before)
        for prompt in prompts:
            seen[prompt] += 1
            yield [(prompt, seen[prompt])]


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(0, 40), st.integers(1, 5))
def test_chunks_answer_as_one_list_does_and_begin_small(prompts, done, size):
    done, whole = min(done, len(prompts)), Counting()
    expected = list(whole.answer(None, prompts, None, (), {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "BATCH", size)
        patch.setattr(chunks, "MOST", 4 * size)
        found = Counting()
        assert list(chunks.answered([(found, None)], prompts, Options(), done)) == expected[done:]
        asked = [min(size * 2**n, 4 * size) for n in range(len(found.asked))]
        assert found.asked[:-1] == asked[:-1]
        first = chunks.answered([(later := Counting(), None)], prompts, Options(), done)
        with contextlib.suppress(StopIteration):
            next(first)
        assert later.asked == found.asked[:1]  # nothing after the first chunk was begun


def test_chunks_of_a_run_draw_what_one_call_draws(trained, monkeypatch):
    run = lm.load(trained["buckets"])
    prompts = ["ant bee", "cat", "ant bee", "dog eel fox", "cat", "ant bee", "gnu"]
    how = Options(num_samples=2, max_new_tokens=9, seed=3)
    expected = run.generate(prompts, how)
    assert len({one.output for each in (expected[0], expected[2], expected[5]) for one in each}) > 2
    monkeypatch.setattr(chunks, "BATCH", 2)
    for done in (0, 1, 4):
        found = list(generate_in_order([run], prompts, how, done))
        for one, other in zip(itertools.chain(*found), itertools.chain(*expected[done:]), strict=True):
            assert one.output == other.output and one.tokens == other.tokens
            np.testing.assert_allclose(one.log_probability, other.log_probability, rtol=1e-4)
