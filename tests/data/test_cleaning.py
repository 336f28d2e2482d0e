"""Cleaning: each step by itself, what is remembered, the overlap, the report, and steps written wrongly."""

import json
import random
import subprocess
import sys
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm.data.read.examples import Example, blank
from lm.data.read.report import SHOWN, WIDTH, Report
from lm.data.text.cleaning import filters
from lm.data.text.cleaning.changes import control, html, mojibake, nfc, nfkc, whitespace
from lm.data.text.cleaning.cleaner import Cleaner
from lm.data.text.cleaning.duplicates import OVERLAP_LINE
from lm.data.text.cleaning.steps import STEPS, __doc__, parse
from lm.errors import UserError

CHANGES = [name for name, step in STEPS.items() if step.kind == "changes"]
CALLS = {
    "words": "words(2, 6)",
    "characters": "characters(3, 40)",
    "ratio": "ratio(2)",
    "letters": "letters(0.5)",
    "repetition": "repetition(0.5)",
}
ALL = [CALLS.get(name, name) for name in STEPS]

# Arbitrary, and what the steps look for.
PIECES = st.sampled_from(
    "&amp; &lt; &gt; &#38; &#60; & ; < > </ <b> </p> <br/> <!-- --> <script> </script> <user> lt amp Ã© â€™ Ä° é e\u0301 ﬁ "
    "\u1e9b\u0323 \u212b \x00 \x85 \u200b \ufeff \u2028 \xa0 \u3000 \r \r\n \n \t a b".split(" ")
    + [" ", "\n", "  "]
)
TEXTS = st.lists(st.one_of(PIECES, PIECES, st.text(max_size=4)), max_size=12).map("".join)
WORDS = st.lists(st.sampled_from("cat dog sat on the mat a b !! 猫坐在 7".split()), min_size=1, max_size=8).map(
    " ".join
)
EXAMPLES = st.one_of(
    st.builds(Example, st.none(), WORDS),
    st.builds(Example, st.none(), st.lists(WORDS, min_size=1, max_size=4).map("\n".join)),
    st.builds(Example, WORDS, WORDS),
)


def texts(*targets):
    return [Example(None, target) for target in targets]


def cleaned(steps, examples, evaluation=()):
    cleaner = Cleaner(steps, evaluation)
    return [kept for kept in map(cleaner.clean, examples) if kept is not None], cleaner.report


def keeps(step, *sides):
    source, target = (None, *sides) if len(sides) == 1 else sides
    return bool(cleaned([step], [Example(source, target)])[0])


def sentence(rng, words=40):
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(words))


# ---- steps that change ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example("&amp;amp;lt;b&amp;gt;")
@example("<<b>b>")
@example("&" + "#38;" * 50 + "lt;")
@example("<b " * 50 + ">" * 50)
def test_a_changed_text_is_changed_no_more(name, text):
    changed = STEPS[name].function(text)
    assert STEPS[name].function(changed) == changed


@given(TEXTS)
def test_normal_forms_are_those_of_unicode(text):
    assert nfc(text) == unicodedata.normalize("NFC", text)
    assert nfkc(text) == unicodedata.normalize("NFKC", text)


def test_mojibake_is_repaired_and_all_else_stays():
    assert mojibake("cafÃ© â€” schÃ¶n") == "café — schön"
    for text in ("café — schön", "‘ﬁne’ ｆｕｌｌ &amp; \x1b[1m", "e\u0301\r\n", "二只猫", "Ünïcödé"):
        assert mojibake(text) == text


@given(TEXTS)
def test_control_leaves_line_ends_tabs_and_every_other_character(text):
    def is_control(character):
        return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf")

    changed = control(text)
    assert not any(map(is_control, changed))
    assert changed.replace(" ", "") == "".join(c for c in text if not is_control(c)).replace(" ", "")


def test_control_keeps_words_apart():
    assert control("a\fb\rc\r\nd\x00\u200be\ufeff\tf") == "a b c\nde\tf"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("one<b>two</b> <A HREF='x'>three</A>", "onetwo three"),
        ("one<br/>two<p class=a>three</p>", "one two three "),
        ("a<!-- <b> \n -->b", "ab"),
        ("a<script type=x>if (1 < 2) {}</script>b<style>p {}</style>c", "a b c"),
        ("<!DOCTYPE html>a", " a"),
        ("a<!-- open <style>p {}</style>b", "a<!-- open  b"),
        ("R&amp;D &eacute;&#233;&#xe9; &amp;lt;", "R&D ééé <"),
        ("x<y and y>z, <user>, a < b, <!-- open, AT&T, ?a=1&copy=2, &nothing;", None),
    ],
)
def test_html(text, expected):
    assert html(text) == (text if expected is None else expected)


@pytest.mark.parametrize("unit", ["<!--", "<script>", "<b ", "&amp", "&#38;", "&#38", "<", "<!--<script>", "</b"])
def test_html_takes_time_in_proportion_to_the_text(unit):
    start = time.perf_counter()
    html(unit * 50_000)
    assert time.perf_counter() - start < 5  # a quadratic one takes minutes


@given(TEXTS)
def test_white_space_is_single_spaces_and_the_same_lines(text):
    changed = whitespace(text)
    assert [line.split() for line in changed.split("\n")] == [line.split() for line in text.split("\n")]
    for line in changed.split("\n"):
        assert line == line.strip() and "  " not in line and not any(c.isspace() and c != " " for c in line)


def test_changes_are_of_both_sides_in_order_and_of_evaluation_data_too():
    cleaner = Cleaner(["html", "nfc", "whitespace", "words(9, 9)"])
    given = Example("<b>e\u0301</b>  a", "&amp;  b ", -1.5)
    assert cleaner.change(given) == Example("é a", "& b")  # the probability was of another text
    assert cleaner.report == Cleaner(["html", "nfc", "whitespace", "words(9, 9)"]).report
    same = Example("a", "b", -1.5)
    assert cleaner.change(same) is same


def test_what_a_change_leaves_blank_is_dropped_by_that_step():
    kept, report = cleaned(["nfc", "html"], [Example("a", "<br>"), Example("<b></b>", "b"), Example("a", "b")])
    assert kept == [Example("a", "b")]
    assert report.steps["html"].dropped == 2 and report.steps["html"].changed == 0 and report.steps["nfc"].dropped == 0


# ---- steps that filter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step, kept, dropped",
    [
        ("words(2, 3)", [("a b",), ("a b c",), ("a b", "a b c")], [("a",), ("a b c d",), ("a", "a b"), ("a b", "a")]),
        ("characters(2, 3)", [("ab",), ("a b",), ("ab", "abc")], [("a",), ("abcd",), ("ab", "a"), ("abcd", "ab")]),
        ("ratio(2.5)", [("ab", "abcde"), ("abcde", "ab"), ("abc",)], [("ab", "abcdef"), ("abcdef", "ab")]),
        ("letters(0.5)", [("a !",), ("क्षि!!!!",), ("猫7 !!",), ("é", "a")], [("a !!",), ("a", "!"), ("猫7!!!",)]),
        (
            "repetition(0.5)",
            [("a b c x y z",), ("!!! 123",), ("the cat sat",), ("aab",)],
            [("a b c a b c",), ("!!!! 123",)],
        ),
        ("repetition(0.6)", [("我喜欢他我喜欢你们她",)], [("我喜欢我喜欢",), ("ok", "ha" * 20), ("a a a a",)]),
    ],
)
def test_filters_at_their_edges(step, kept, dropped):
    assert all(keeps(step, *sides) for sides in kept)
    assert not any(keeps(step, *sides) for sides in dropped)


@given(TEXTS)
def test_repetition_is_a_share(text):
    assert 0 <= filters.repeated(text) <= 1


@pytest.mark.parametrize(
    "text, share", [("a b c a b c a b c d", 0.9), ("a a a a", 1), ("x y a b c a b c", 0.75), ("", 0)]
)
def test_repetition_is_the_share_that_the_most_frequent_triple_covers(text, share):
    assert filters.repeated(text) == pytest.approx(share)


# ---- steps that remember ----------------------------------------------------------------------------------------


@given(st.lists(EXAMPLES.filter(lambda e: "\n" not in e.target), max_size=30))
def test_duplicates_are_kept_once_in_order(examples):
    kept, report = cleaned(["duplicates"], examples)
    assert kept == list(dict.fromkeys(examples))
    assert report.steps["duplicates"].dropped == len(examples) - len(kept)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=12), st.lists(st.integers(1, 4), min_size=12, max_size=12))
def test_the_same_lines_are_kept_however_they_are_cut_into_texts(lines, sizes):
    steps, documents, rest = ["words(2, 6)", "duplicates", "near_duplicates(0.5)"], [], lines
    for size in sizes:
        documents, rest = documents + ["\n".join(rest[:size])] * bool(rest), rest[size:]
    kept = ["\n".join(e.target for e in cleaned(steps, texts(*given))[0]) for given in (lines, documents)]
    assert kept[0] == kept[1]


def test_a_pair_is_not_the_duplicate_of_another_pair_or_of_a_text():
    examples = [Example("a", "b"), Example("b", "a"), Example(None, "b"), Example("", "b"), Example("a", "c")]
    assert cleaned(["duplicates"], examples)[0] == examples


def near(rng, text, changed):
    """The text with that many words in a row changed."""
    words = text.split()
    return " ".join(words[: len(words) - changed] + [f"x{rng.randrange(10**6)}" for _ in range(changed)])


@pytest.mark.parametrize("step", ["near_duplicates", "near_evaluation_overlap"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_near_duplicates_are_found_and_far_ones_kept(step, threshold):
    # Of n shingles, k other words at the end change k: the similarity is (n - k) / (n + k).
    rng, n = random.Random(0), 100
    for _ in range(20):
        text = sentence(rng, n + 4)
        for distance in (-0.13, 0.13):  # four standard errors of the estimate at the worst
            similarity = min(threshold + distance, 1)
            other = near(rng, text, round(n * (1 - similarity) / (1 + similarity))).title()
            first, evaluation = (texts(text), ()) if step == "near_duplicates" else ((), texts(text))
            kept, _ = cleaned([f"{step}({threshold})"], [*first, *texts(other)], evaluation)
            assert kept == [*first, *(texts(other) if distance < 0 else ())]


def test_near_duplicates_of_text_without_spaces_and_of_pairs():
    chinese = "在一个很远很远的地方住着一只会说话的猫，它每天早上都到河边去钓鱼，晚上才回家吃饭睡觉。"
    examples = texts(chinese, chinese[:-1] + "！", chinese[::-1])
    assert cleaned(["near_duplicates(0.8)"], examples)[0] == [examples[0], examples[2]]
    text, other = sentence(random.Random(1)), sentence(random.Random(2))
    pairs = [Example(text, other), Example(text, other + " x"), Example(other, text), Example(text, text)]
    assert cleaned(["near_duplicates(0.8)"], pairs)[0] == [pairs[0], *pairs[2:]]


@pytest.mark.parametrize("step", ["near_duplicates", "near_evaluation_overlap"])
def test_every_example_is_compared_with_all_that_could_be_similar(step):
    # b resembles a, and c resembles b alone: it is near evaluation data, but no near duplicate of what was kept.
    rng = random.Random(0)
    words = sentence(rng, 130).split()
    a, b, c = (" ".join(words[start : start + 100]) for start in (0, 15, 30))
    if step == "near_duplicates":
        assert cleaned([f"{step}(0.65)"], texts(a, b, c))[0] == texts(a, c)
    else:
        assert cleaned([f"{step}(0.65)"], texts(c), texts(a, b))[0] == []


def test_overlap_is_reported_without_any_step_and_dropped_with_one():
    evaluation = [Example("a", "b"), Example("c", "d"), Example("c", "d"), Example("e", "f")]
    train = [Example("c", "d"), Example("c", "d"), Example("a", "x"), Example("e", "f")]
    kept, report = cleaned([], train, evaluation)
    assert kept == train and (report.overlap, report.evaluation) == (3, 4)
    assert report.overlap_shown == ["c\td", "e\tf"]
    assert any("3 of 4 evaluation examples" in line for line in report.lines())
    kept, report = cleaned(["evaluation_overlap"], train, evaluation)
    assert kept == [Example("a", "x")] and (report.overlap, report.evaluation) == (0, 4)
    assert report.steps["evaluation_overlap"].dropped == 3


def test_overlap_is_of_what_was_kept_as_it_was_changed():
    evaluation = texts("a b", "c")
    assert cleaned(["whitespace", "words(2, 9)"], texts("a   b", "c"), evaluation)[1].overlap == 1


def test_overlap_of_texts_is_over_their_long_lines():
    long, longer, short = "x" * OVERLAP_LINE, "y" * 2 * OVERLAP_LINE, "z" * (OVERLAP_LINE - 1)
    evaluation, train = texts(f"{long}\n{short}\n\n{longer}\n"), texts(f"{short}\n{long}\nother", "single")
    kept, report = cleaned([], train, evaluation)
    assert (report.overlap, report.evaluation) == (1, 2) and kept == train
    kept, report = cleaned(["evaluation_overlap"], train, evaluation)
    assert kept == texts(f"{short}\nother", "single") and report.overlap == 0
    assert cleaned([], texts("short\n"), texts("short"))[1].overlap == 1  # a text of one line is an example


# ---- texts of several lines -------------------------------------------------------------------------------------


def test_a_text_loses_the_lines_that_are_dropped_and_keeps_the_others():
    kept, report = cleaned(
        ["words(2, 9)"], [Example(None, "a b\n\nc\nd e\n", -1.0), Example(None, "a\nb\n"), *texts("c")]
    )
    assert kept == texts("a b\n\nd e\n")
    assert report.steps["words(2, 9)"].dropped == 2 and report.steps["words(2, 9)"].lines == 3
    same = Example(None, "a b\nc d", -1.0)
    assert cleaned(["words(2, 9)"], [same])[0] == [same]
    assert cleaned(["duplicates"], texts("a\nb\na", "b\nc"))[0] == texts("a\nb", "c")


def test_a_piece_does_not_go_on_from_one_that_was_dropped():
    pieces = [Example(None, text, None, continued) for text, continued in [("a b", False), ("c", True), ("d e", True)]]
    pieces.append(Example(None, "f g", None, True))
    kept, _ = cleaned(["words(2, 9)"], pieces)
    assert [(e.target, e.continued) for e in kept] == [("a b", False), ("d e", False), ("f g", True)]


# ---- the report -------------------------------------------------------------------------------------------------


def check_report(report, given, kept):
    assert (report.examples_in, report.examples_out) == (len(given), len(kept))
    assert report.examples_in == report.examples_out + sum(step.dropped for step in report.steps.values())
    for step in report.steps.values():
        changes, drops = ([pair for pair in step.shown if len(pair) == size] for size in (2, 1))
        assert len(changes) == min(step.changed, SHOWN)
        assert len(drops) <= SHOWN and bool(drops) == bool(step.dropped or step.lines)
        assert all(len(text) <= WIDTH for pair in step.shown for text in pair)
        assert all(before != after for before, after in changes)
    assert Report.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    assert all("\n" not in line for line in report.lines())
    assert all(any(name in line for line in report.lines()) for name in report.steps)


@settings(deadline=None)
@given(st.lists(EXAMPLES, max_size=12), st.lists(EXAMPLES, max_size=5), st.permutations(ALL), st.integers(0, len(ALL)))
def test_counts_add_up_whatever_the_steps(examples, evaluation, steps, length):
    kept, report = cleaned(steps[:length], examples, evaluation)
    check_report(report, examples, kept)
    assert list(report.steps) == steps[:length]
    assert not any(blank(e.target) for e in kept)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=8))
def test_counts_add_up_whatever_the_text(given):
    examples = texts(*given)
    kept, report = cleaned(CHANGES, examples)
    check_report(report, examples, kept)


def test_a_report_shows_the_place_that_changed():
    _, report = cleaned(["nfc"], texts("x" * 500 + " e\u0301 " + "y" * 500))
    before, after = report.steps["nfc"].shown[0]
    assert "e\u0301" in before and "é" in after and len(before) == len(after) == WIDTH


# ---- steps as they are written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_every_step_does_something_and_says_so(name):
    telling = {
        "nfc": "e\u0301",
        "nfkc": "ﬁ",
        "mojibake": "cafÃ©",
        "control": "a\x00",
        "html": "<b>a</b>",
        "whitespace": "a  b",
        "words": "a",
        "characters": "a",
        "letters": "!",
        "repetition": "!!!!",
    }
    held_out = texts(sentence(random.Random(0)))
    given = [Example("a", "b" * 9)] if name == "ratio" else texts(telling[name]) if name in telling else held_out * 2
    kept, report = cleaned([CALLS.get(name, name)], given, held_out)
    step = report.steps[CALLS.get(name, name)]
    assert step.changed or step.dropped and kept != given


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_in_the_documentation_and_takes_only_its_numbers(name):
    assert name in __doc__
    most = len(STEPS[name].arguments)
    for wrong in (
        f"{name}({', '.join(['1'] * (most + 1))})",
        f"{name}({', '.join(['-1'] * most)}" + ("x)" if most else "1)"),
    ):
        with pytest.raises(UserError, match=name):
            parse([wrong])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("nfd", "did you mean nf"),
        ("duplicate", "did you mean duplicates"),
        ("near_dups(0.8)", "did you mean near_duplicates"),
        ("words", "has 0 numbers; words takes"),
        ("words(1)", "has 1 numbers"),
        ("words(1.5, 2)", "whole number"),
        ("words(3, 2)", "smaller number first"),
        ("ratio(0.5)", "number from 1"),
        ("ratio(nan)", "is not in range"),
        ("letters(1.1)", "from 0 to 1"),
        ("near_duplicates(0)", "from 0.1 to 1"),
        ("nfc(1)", "write nfc"),
        ("words(1, 2", "is not written as a step"),
        ("", "is not written as a step"),
    ],
)
def test_steps_written_wrongly(wrong, message):
    with pytest.raises(UserError, match=r"config\.data\.cleaning") as error:
        parse(["nfc", wrong])
    assert message in str(error.value)


def test_numbers_of_steps():
    assert [call.numbers for call in parse(["near_duplicates", "near_duplicates(0.5)", " words( 3,1e2 ) ", "nfc()"])] == [
        (0.8,), (0.5,), (3, 100), ()
    ]  # fmt: skip


# ---- determinism ------------------------------------------------------------------------------------------------

PROGRAM = """
import json, random
from lm.data.read.examples import Example
from lm.data.text.cleaning.cleaner import Cleaner
rng = random.Random(0)
words = [" ".join(rng.choices("abcdef", k=12)) for _ in range(200)]
cleaner = Cleaner(["duplicates", "near_duplicates(0.3)", "near_evaluation_overlap(0.3)"], [Example(None, words[0])])
print([bool(cleaner.clean(Example(None, text))) for text in words], json.dumps(cleaner.report.as_dict()))
"""


def test_no_seed_of_a_hash_changes_the_result():
    def run(seed):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert run("1") == run("2") and "true" in run("3").lower() and "False" in run("3")


def test_overlap_is_a_share_only_if_something_was_compared():
    assert (
        Report({}, evaluation=8, overlap=2)
        .lines()[-1]
        .endswith("2 of 8 evaluation examples (25.0%) are in training too")
    )
    assert Report({}).lines()[-1].startswith("  overlap: not checked")
