"""Files as they come: whatever is in them is used correctly or refused with the file and the line, never half read."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm.data.read.examples import Example
from lm.data.read.sources import load_splits
from lm.errors import UserError

CASES = 200  # files of each format

# Text of one field: no tab, no end of line, not blank; what looks like an end of a line and is none is among it.
field = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\0"), min_size=1, max_size=12).filter(
    lambda text: not text.isspace() and "\ufeff" not in text and not text.endswith("\r")
)
field |= st.sampled_from(["a\u2028b", "x\u0085y", "e\u0301", "\u202eabc", "a\rb", "\x0b|\x0c", "<pad>", "ÅÃ©", "𝔘"])
END = st.sampled_from(["\n", "\r\n"])
NUL, LATIN, CUT = b"a\0b", "déjà".encode("latin-1"), "é".encode()[:1]
raw = st.sampled_from([NUL, LATIN, CUT, b"\xff\xfe", b"\xed\xa0\x80"])


def good(made):
    return made.map(lambda pair: (pair[0].encode(), pair[1]))


def bad(texts):
    return texts.map(lambda text: (text if isinstance(text, bytes) else text.encode(), None))


skipped = st.sampled_from(["", "  ", "\t", " \u3000"]).map(lambda text: (text.encode(), ()))
pair = st.tuples(field, field)

TSV = st.lists(
    good(pair.map(lambda p: ("\t".join(p), Example(*p))))
    | skipped
    | bad(field | st.builds("{}\t{}\t{}".format, field, field, field) | raw)
    | bad(field.map(lambda text: f"{text}\t ") | field.map(lambda text: f" \t{text}")),
    min_size=1,
    max_size=8,
)


def written(**record):
    return st.booleans().map(lambda ascii: json.dumps(record, ensure_ascii=ascii))


json_good = pair.flatmap(lambda p: st.tuples(written(source=p[0], target=p[1]), st.just(Example(*p))))
json_good |= pair.flatmap(
    lambda p: st.tuples(written(source=p[0], target=p[1], log_prob=-1.5, other=[1]), st.just(Example(*p, -1.5)))
)
json_bad = st.sampled_from(
    [
        *(
            "{",
            '{"source": "a"}',
            '{"target": "a"}',
            "[]",
            "3",
            "null",
            '"text"',
            '{"source": "a", "target": 3}',
            "{}{}",
        ),
        *(
            '{"source": "a", "target": null}',
            '{"source": " ", "target": "b"}',
            '{"source": "a", "target": ""}',
            "[" * 9999,
        ),
        *('{"source": "a", "target": "\\ud800"}', '{"source": "a" "target": "b"}', "{'source': 'a', 'target': 'b'}"),
        *('{"source": "a", "target": "b", "log_prob": 1}', '{"source": "a", "target": "b", "log_prob": NaN}', "nan"),
        *(
            '{"source": "a", "target": "b", "log_prob": "x"}',
            '{"source": "a", "target": "b\\x"}',
            '{"text": "a"}',
            "1e999",
        ),
    ]
)
JSONL = st.lists(good(json_good) | skipped | bad(json_bad | raw), min_size=1, max_size=8)
# A text does not go with pairs: alone it is fine, beside pairs its line is named.
BOM = st.sampled_from([b"", b"\xef\xbb\xbf"])


def refused_at(path, error):
    """The line that the error names; it is one line of text and says what to do."""
    assert "\n" not in str(error) and error.action
    found = re.fullmatch(re.escape(str(path)) + r"(?::(\d+))?", error.where)
    assert found, error
    return 1 if error.reason == "is UTF-16" else int(found[1]) if found[1] else None


def check(scheme, path, lines, ends, bom, last):
    content = bom + b"".join(line + end.encode() for (line, _), end in zip(lines, ends, strict=True))
    path.write_bytes(
        content if last or not content.endswith(b"\n") else content.removesuffix(b"\n").removesuffix(b"\r")
    )
    wrong = {number for number, (_, example) in enumerate(lines, start=1) if example is None}
    examples = [example for _, example in lines if isinstance(example, Example)]
    try:
        found = list(load_splits(f"{scheme}:{path}", f"{scheme}:{path}", "", ("train",))["train"].examples)
    except UserError as error:
        if error.where == "config.data.train" or "is empty" in str(error):  # nothing but blank lines
            assert not examples and not wrong
        else:
            texts = {n for n, (line, _) in enumerate(lines, start=1) if line.strip() == b'{"text": "a"}'}
            assert refused_at(path, error) in wrong | ({*range(1, len(lines) + 1)} if texts else set())
        return
    only_text = {line for line, example in lines if example is None} == {b'{"text": "a"}'} and not examples
    assert only_text or (not wrong and found == examples)


@pytest.mark.parametrize(("scheme", "strategy"), [("tsv", TSV), ("jsonl", JSONL)])
def test_lines_are_used_or_refused_by_number(scheme, strategy, tmp_path):
    outcomes = set()

    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy, st.lists(END, min_size=8, max_size=8), BOM, st.booleans())
    def files(lines, ends, bom, last):
        check(scheme, tmp_path / "file", lines, ends[: len(lines)], bom, last)
        outcomes.add(any(example is None for _, example in lines))

    files()
    assert outcomes == {True, False}


LINES = st.lists(st.tuples(field | st.just(" "), st.none() | raw), max_size=8)


def test_parallel_files_are_aligned_or_refused_by_number(tmp_path):
    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(LINES, LINES)
    def files(sources, targets):
        paths = tmp_path / "a", tmp_path / "b"
        for path, lines in zip(paths, (sources, targets), strict=True):
            path.write_bytes(b"".join((broken or text.encode()) + b"\n" for text, broken in lines))
        sides = [[text for text, _ in lines] for lines in (sources, targets)]
        broken = any(broken for lines in (sources, targets) for _, broken in lines)
        blank = [[text == " " for text in side] for side in sides]
        spec = f"parallel:{paths[0]},{paths[1]}"
        try:
            found = list(load_splits(spec, spec, "", ("train",))["train"].examples)
        except UserError as error:
            assert "\n" not in str(error) and error.action
            if named := re.fullmatch(re.escape(str(tmp_path)) + r"/([ab]):(\d+)", error.where):
                side, number = "ab".index(named[1]), int(named[2]) - 1
                this, other = (sides[side], blank[side]), blank[1 - side]
                assert (sources, targets)[side][number][1] or (this[1][number] and not other[number])
            else:  # not as many lines, or none, or not text at all
                beginnings = {side[0][1] for side in (sources, targets) if side}
                assert (error.reason == "is UTF-16" and b"\xff\xfe" in beginnings) or (
                    all(map(all, blank)) or not all(sides) or len(sides[0]) != len(sides[1]) or any(map(all, blank))
                )
            return
        assert not broken
        wanted = [Example(*both) for both in zip(*sides, strict=False) if both != (" ", " ")]
        assert found == wanted

    files()


def test_a_line_of_a_hundred_megabytes_is_read_whole(tmp_path):
    side = "word " * 20_000_000
    path = tmp_path / "long.tsv"
    path.write_text(f"a\tb\n{side}\tend\nc\td\n")
    found = list(load_splits(f"tsv:{path}", f"tsv:{path}", "", ("train",))["train"].examples)
    assert [len(example.source) for example in found] == [1, len(side), 1] and found[1].target == "end"
