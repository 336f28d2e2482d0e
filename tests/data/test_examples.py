"""Examples on disk: the same as in memory, in every selection, and after a preparation that was killed."""

import dataclasses
import itertools

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import tree_of

from lm.data.read import examples, sources, store, text_files
from lm.data.read.examples import Chosen, Example, Joined, Listed, Slice
from lm.data.text.cleaning import cleaner


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
others = st.none() | st.lists(text, max_size=2).map(tuple)
example = st.builds(Example, st.none() | text, text, st.none() | st.floats(-9, 0), others=others)
some = st.lists(example, min_size=1, max_size=12)


def check(found, wanted, data):
    """A sequence of examples is a list of them, its table is theirs, and its fingerprint tells it from others."""
    assert len(found) == len(wanted) and list(found) == wanted
    numbers = data.draw(st.lists(st.integers(0, len(wanted) - 1), max_size=5)) if wanted else []
    assert found.read(numbers) == [wanted[number] for number in numbers]
    for number in numbers:
        assert found[number] == found[number - len(wanted)] == wanted[number]
        assert found[number:] == wanted[number:] and list(found.from_number(number)) == wanted[number:]
    assert found.table.tolist() == [list(each.row) for each in wanted]
    same = [a.content == b.content for a, b in itertools.combinations(wanted, 2)]
    assert same == [bool(a == b) for a, b in itertools.combinations(found.hashes, 2)]


def test_examples_with_one_target_are_written_as_before_lists_were_known():
    """So caches, and the fingerprints that runs have noted, stay what they are."""
    one = Example("caf\u00e9", "a b", -1.5)
    assert one.to_bytes() == '["caf\u00e9", "a b", -1.5, false]'.encode() and one.content == b"caf\xc3\xa9\xffa b\xff"
    assert one.row[:3] == (4, 3, 0) and Listed([one]).fingerprint == "932fbffb6ecce3d50b9c7dc0"
    assert Example.from_bytes(b'["x", "y", null, true]') == Example("x", "y", None, True)
    listed = [Example("x", "y"), Example("x", "y", others=()), Example("x", "y", others=("z",))]
    assert len({Listed([each]).fingerprint for each in listed}) == 3
    assert [Example.from_bytes(each.to_bytes()) for each in listed] == listed


@settings(deadline=None, max_examples=50)
@given(some, st.data())
def test_what_is_kept_is_what_was_made(wanted, data):
    key = f"key-{store.key_of([each.to_bytes().decode() for each in wanted])}"
    found = examples.kept(key, lambda finished: iter(wanted), "test")
    check(found, wanted, data)
    assert found.fingerprint == Listed(wanted).fingerprint  # whether on disk or in memory


@settings(deadline=None)
@given(some, some, st.data())
def test_selections_are_those_of_lists(first, second, data):
    both = Joined([Listed(first), Listed(second)])
    check(both, first + second, data)
    numbers = data.draw(st.lists(st.integers(0, len(both) - 1), max_size=9))
    check(Chosen(both, np.array(numbers, int)), [(first + second)[number] for number in numbers], data)
    assert Chosen(both, np.array(numbers, int)).fingerprint != both.fingerprint


@settings(deadline=None)
@given(st.lists(st.tuples(text.filter(bool), st.booleans()), min_size=1, max_size=8), st.data())
def test_parts_of_texts_are_cut_by_characters(given_texts, data):
    given_texts[0] = (given_texts[0][0], False)
    documents = [Example(None, text, continued=continued) for text, continued in given_texts]
    whole = "".join(text for text, _ in given_texts)
    cut = data.draw(st.integers(0, len(whole)))
    for begin, end in ((0, cut), (cut, len(whole))):
        part = Slice(Listed(documents), begin, end)
        assert "".join(each.target for each in part) == whole[begin:end]
        assert all(each.target for each in part) and not any(each.continued for each in part[:1])
        check(part, list(part), data)
        inner = [each for each in part if each in documents]
        assert len(inner) >= len(part) - 2


def test_a_text_does_not_go_on_from_one_that_was_not_chosen():
    pieces = Listed([Example(None, "a"), Example(None, "b", continued=True), Example(None, "c", continued=True)])
    goes_on = lambda *numbers: [each.continued for each in Chosen(pieces, np.array(numbers))]
    assert goes_on(0, 1, 2) == [False, True, True]
    assert goes_on(0, 2) == goes_on(1, 0) == [False, False] and goes_on(1, 2) == [False, True]


@pytest.mark.parametrize("unit", ["line\n", "é\n" * 3 + "x" * 9, "x", "\r\n\n"])
def test_a_long_document_is_cut_into_pieces_at_line_ends(unit, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST", 100)
    monkeypatch.setattr(text_files, "CHUNK", 7)
    content = "begin\n" + unit * (1000 // len(unit)) + "end"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    (tmp_path / "b.txt").write_bytes(b"short")
    *pieces, short = text_files.documents([epath.Path(tmp_path / name) for name in ("a.txt", "b.txt")])
    assert short == Example(None, "short")
    assert "".join(piece.target for piece in pieces) == content.replace("\r\n", "\n")
    assert [piece.continued for piece in pieces] == [False] + [True] * (len(pieces) - 1) and len(pieces) > 5
    for piece in pieces[:-1]:
        assert 0 < len(piece.target) <= 100
        assert piece.target.endswith("\n") or "\n" not in piece.target


# ---- prepared in one go, or not ---------------------------------------------------------------------------------


class Killed(BaseException):
    pass


STEPS = ["whitespace", "words(2, 9)", "duplicates", "near_duplicates(0.8)", "near_evaluation_overlap(0.8)"]


@pytest.mark.parametrize("killed_after", [0, 1, 37, 110, 219])
def test_a_killed_cleaning_goes_on_and_is_the_same(killed_after, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_RECORDS", 20)
    rng = np.random.default_rng(0)
    words = "ant bee cat dog eel fox gnu hen".split()
    lines = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(220)]
    lines = [line.title() if rng.random() < 0.5 else line for line in lines]  # nearly the same
    (tmp_path / "pairs.tsv").write_text("".join(f"{line} \tx  {line}\n" for line in lines))
    spec = f"tsv:{tmp_path}/pairs.tsv"

    def prepare():
        splits = sources.load_splits(spec, "", "")
        evaluation = cleaner.changed(splits["validation"].examples, STEPS)
        return cleaner.cleaned(splits["train"].examples, STEPS, evaluation)

    monkeypatch.setenv("LM_CACHE_DIR", str(cache / "whole"))
    kept, report = prepare()
    monkeypatch.setenv("LM_CACHE_DIR", str(cache / "killed"))
    left = killed_after

    def counting(function):
        def counted(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return function(*arguments)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(cleaner.Cleaner, "clean", counting(cleaner.Cleaner.clean))
        try:
            prepare()
        except Killed:
            assert killed_after
    again, other = prepare()
    assert list(again) == list(kept) and 20 < len(kept) < 200 and other == report
    assert all(report.steps[step].dropped or report.steps[step].changed for step in STEPS[:4])
    assert tree_of(cache / "killed") == tree_of(cache / "whole")


def test_an_empty_source_of_validation_is_not_needed_to_hold_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b", "log_prob": -1}\n{"text": "c d"}\n{"text": "e"}\n')
    splits = sources.load_splits(f"jsonl:{tmp_path}/a.jsonl", "", "")
    found = sorted(each.target for split in splits.values() for each in split.examples)
    assert found == ["a b", "c d", "e"]
    changed = dataclasses.replace(Example(None, "a b", -1.0), log_prob=-2.0)
    assert Listed([changed]).fingerprint != Listed([Example(None, "a b", -1.0)]).fingerprint
