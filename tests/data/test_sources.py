"""Sources: what is read, what is held out, and one line for each mistake."""

import collections
import gzip
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zstandard
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry as fsspec_registry
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config.formats import Formats
from lm.data.read import sources
from lm.data.read.examples import Example
from lm.data.read.sources import load_splits
from lm.data.text.cleaning import cleaner
from lm.errors import UserError


def read(spec: str) -> list[Example]:
    """The examples of a source, all of them."""
    return list(load_splits(spec, spec, "")["train"].examples)


def write(path: pathlib.Path, content: str | bytes) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(train: str, validation: str = "", test: str = "") -> str:
    with pytest.raises(UserError) as caught:
        load_splits(train, validation, test)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("error: ") and message.count(";") >= 1
    return message


# ---- what is read -----------------------------------------------------------------------------------------------


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path):
    for name in ("b1.txt", "a2.txt", "deep/er/c.txt", "other.md"):
        write(tmp_path / name, f"{name}\n text \n\n")
    (tmp_path / "folder.txt").mkdir()
    assert [e.target for e in read(f"text:{tmp_path}/*.txt")] == ["a2.txt\n text \n\n", "b1.txt\n text \n\n"]
    assert [e.target.split("\n")[0] for e in read(f"text:{tmp_path}/**/*.txt")] == ["a2.txt", "b1.txt", "deep/er/c.txt"]
    assert all(e.source is None and e.log_prob is None for e in read(f"text:{tmp_path}/*.txt"))


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path):
    write(tmp_path / "a[1].txt", "text")
    assert [e.target for e in read(f"text:{tmp_path}/a[1].txt")] == ["text"]


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "text")
    assert [e.target for e in read("text:~/*.txt")] == ["text"]


def test_pairs_are_the_same_from_every_format(tmp_path):
    pairs = [("one two", "eins zwei"), (" three ", "三"), ("four\u2028five\x85\x0b\x0c", "vier\rfünf")]
    write(tmp_path / "a.en", "".join(f"{source}\n" for source, _ in pairs) + "\n\n")
    write(tmp_path / "a.de", "\n".join(target for _, target in pairs))
    write(tmp_path / "a.tsv", "".join(f"{source}\t{target}\n" for source, target in pairs) + "\n")
    records = [json.dumps({"target": target, "source": source, "id": 3}) for source, target in pairs]
    write(tmp_path / "a.jsonl", "\n\n".join(records))
    expected = [Example(source, target) for source, target in pairs]
    assert read(f"parallel:{tmp_path}/a.en,{tmp_path}/a.de") == expected
    assert read(f"tsv:{tmp_path}/a.tsv") == expected
    assert read(f"jsonl:{tmp_path}/a.jsonl") == expected


def test_lines_blank_in_both_parallel_files_are_skipped(tmp_path):
    write(tmp_path / "s", "a\n\n \nb\n")
    write(tmp_path / "t", "A\n\t\n\nB\n\n\n")
    assert read(f"parallel:{tmp_path}/s,{tmp_path}/t") == [Example("a", "A"), Example("b", "B")]


@pytest.mark.parametrize(
    "names", [["review", "stars"], ["id", "question", "answer"], ["content"], ["id", "body"], ["a b"]]
)
def test_records_with_other_fields_are_answered_with_a_format_that_reads_them(names, tmp_path):
    spec = f"jsonl:{write(tmp_path / 'a.jsonl', json.dumps({name: f'of {name}' for name in names}))}"
    proposal = re.search(r"'(\|.*)'$", error_of(spec, spec))
    assert (proposal is None) == (names == ["a b"])
    if proposal:
        sides = [name for name in names if name != "id"]
        source, target = (None, *sides)[-2:]
        assert read(f"{spec} {proposal[1]}") == [Example(source and f"of {source}", f"of {target}")]


def test_jsonl_texts_keep_their_newlines_and_their_log_probability(tmp_path):
    rows = [{"text": "a\r\nb\n"}, {"text": "c", "log_prob": -1}, {"text": "d", "log_prob": None}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    expected = [Example(None, "a\r\nb\n"), Example(None, "c", -1.0), Example(None, "d")]
    assert read(f"jsonl:{tmp_path}/a.jsonl") == expected
    assert isinstance(expected[1].log_prob, float)


@pytest.mark.parametrize("scheme", ["text", "tsv", "jsonl"])
def test_byte_order_marks_and_carriage_returns_change_nothing(tmp_path, scheme):
    lines = {"text": "a\nb\n\nc\n", "tsv": "a\tb\nc\td\n", "jsonl": '{"text": "a"}\n{"text": "b"}\n'}[scheme]
    plain = load_splits(f"{scheme}:{write(tmp_path / 'plain', lines)}", "", "")
    content = b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode()
    windows = load_splits(f"{scheme}:{write(tmp_path / 'windows', content)}", "", "")
    for name in ("train", "validation"):
        assert list(plain[name].examples) == list(windows[name].examples)
        assert plain[name].fingerprint == windows[name].fingerprint


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_any_text_survives_jsonl(tmp_path_factory, pairs):
    pairs = [pair for pair in pairs if all(part and not part.isspace() for part in pair)] or [("a", "b")]
    lines = (json.dumps({"source": s, "target": t}, ensure_ascii=False) for s, t in pairs)
    path = write(tmp_path_factory.mktemp("jsonl") / "a.jsonl", "\n".join(lines))
    assert read(f"jsonl:{path}") == [Example(*pair) for pair in pairs]


def compressed(text: str, ending: str) -> bytes:
    """In two members or frames, as `cat` makes of two files."""
    halves = text[:9].encode(), text[9:].encode()
    return b"".join(gzip.compress(half) if ending == ".gz" else zstandard.compress(half) for half in halves)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_are_read_as_they_were(tmp_path, ending):
    lines = "one two\teins zwei\nthree\tdrei é\n"
    plain = load_splits(f"tsv:{write(tmp_path / 'a.tsv', lines)}", "", "")
    packed = load_splits(f"tsv:{write(tmp_path / f'a.tsv{ending}', compressed(lines, ending))}", "", "")
    assert packed["train"].fingerprint == plain["train"].fingerprint
    write(tmp_path / f"b.txt{ending}", compressed(lines, ending))
    assert [e.target for e in read(f"text:{tmp_path}/b.*")] == [lines]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_that_are_damaged_are_refused(tmp_path, ending):
    whole = compressed("one two\teins zwei\n" * 9, ending)
    for content in (whole[:-5], whole[: len(whole) // 3], b"plain\ttext\n", whole + b"more"):
        path = write(tmp_path / f"a.tsv{ending}", content)
        assert f"error: {path}: cannot be decompressed (" in error_of(f"tsv:{path}")
    assert "is empty" in error_of(f"tsv:{write(tmp_path / f'a.tsv{ending}', b'')}")


class Bucket(LocalFileSystem):
    """A folder that answers to gs://."""

    protocol = "gcs"
    root = ""

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).removeprefix("gs://")
        return path if path.startswith(cls.root) else f"{cls.root}/{path}"

    def glob(self, path, **options):
        return [found.removeprefix(f"{self.root}/") for found in super().glob(path, **options)]


def test_buckets_are_read_as_folders_are(tmp_path, monkeypatch):
    monkeypatch.setattr(Bucket, "root", str(tmp_path))
    monkeypatch.setitem(fsspec_registry, "gcs", Bucket)
    Bucket.clear_instance_cache()
    for name in ("bucket/one/a.txt", "bucket/two/a.txt", "bucket/one/b.md"):
        write(tmp_path / name, name)
    assert [e.target for e in read("text:gs://bucket/*/*.txt")] == ["bucket/one/a.txt", "bucket/two/a.txt"]
    assert [e.target for e in read("text:gs://bucket/one/b.md")] == ["bucket/one/b.md"]
    assert "gs://bucket/nothing.tsv: no such file" in error_of("tsv:gs://bucket/nothing.tsv")
    assert "gs://bucket/**/*.txt: ** is not read from a bucket" in error_of("text:gs://bucket/**/*.txt")


@pytest.mark.parametrize("scheme", ["tsv", "jsonl", "parallel"])
def test_patterns_name_several_files_in_the_order_of_their_names(scheme, tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.tsv").write_text(f"s{name}\tt{name}\n")
        (tmp_path / f"{name}.jsonl").write_text(f'{{"source": "s{name}", "target": "t{name}"}}\n')
        (tmp_path / f"{name}.src").write_text(f"s{name}\n")
        (tmp_path / f"{name}.tgt").write_text(f"t{name}\n")
    location = {"parallel": f"{tmp_path}/*.src,{tmp_path}/?.tgt"}.get(scheme, f"{tmp_path}/*.{scheme}")
    found = load_splits(f"{scheme}:{location}", f"tsv:{tmp_path}/a.tsv", "")["train"].examples
    assert list(found) == [Example("sa", "ta"), Example("sb", "tb")]


# ---- mixtures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    for name, count in (("a", 100), ("b", 40), ("c", 7)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{name}{i}\tx\n" for i in range(count)))
    (tmp_path / "text.txt").write_text("text\n" * 50)
    return tmp_path


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 1), (0.5, 0.25, 3), (100, 40, 7)])
def test_a_mixture_has_every_example_and_the_shares_that_the_weights_say(weights, three):
    spec = " + ".join(f"{weight}*tsv:{three}/{name}.tsv" for weight, name in zip(weights, "abc", strict=True))
    split = load_splits(spec, f"tsv:{three}/a.tsv", "")["train"]
    counts = collections.Counter(example.source for example in split.examples)
    assert len(counts) == 147
    of = {name: [n for source, n in counts.items() if source[0] == name] for name in "abc"}
    assert all(max(each) - min(each) <= 1 for each in of.values())
    assert min(min(each) for each in of.values()) == 1 and any(set(each) == {1} for each in of.values())
    for weight, name in zip(weights, "abc", strict=True):
        assert abs(sum(of[name]) - len(split.examples) * weight / sum(weights)) <= 1.5
    assert split.fingerprint == load_splits(spec, f"tsv:{three}/a.tsv", "")["train"].fingerprint


def test_sources_of_a_mixture_have_formats_of_their_own(three):
    rows = [{"q": f"why {i}?", "a": [f"so {i}"], "target": "T", "log_prob": -i} for i in range(3)]
    write(three / "a.jsonl", "\n".join(map(json.dumps, rows)))
    parts = [
        f"jsonl:{three}/a.jsonl | answer: {{q}} | {{a[0]}}",
        f"tsv:{three}/c.tsv | + {{source}}",
        f"jsonl:{three}/a.jsonl | ask: {{q}}",
        f"tsv:{three}/c.tsv",
        f"jsonl:{three}/a.jsonl | {{q}} | say: {{target}}",
    ]
    for role in ("train", "validation"):
        split = load_splits(" + ".join(parts), " + ".join(parts), "", (role,))[role]
        found = list(split.examples)
        assert found[:3] == [Example(f"answer: why {i}?", f"so {i}") for i in range(3)]
        assert found[3:10] == [Example(f"+ c{i}", "x") for i in range(7)]
        # What a target is worth is known only where the target is the record's own, with more words or without.
        assert found[10:13] == [Example(f"ask: why {i}?", "T", -float(i)) for i in range(3)]
        assert found[13:20] == [Example(f"c{i}", "x") for i in range(7)]
        assert found[20:] == [Example(f"why {i}?", "say: T", -float(i)) for i in range(3)]
    ranges = range(3), range(3, 10), range(10, 13), range(13, 20), range(20, 23)
    assert split.ranges == dict(zip(parts, ranges, strict=True))
    weighted = " + ".join(f"{i + 1}*{part}" for i, part in enumerate(parts))
    again = load_splits(weighted, weighted, "", ("validation",))["validation"]
    assert (again.fingerprint, again.ranges) == (split.fingerprint, split.ranges)  # weights are of training alone
    (only,) = load_splits(parts[0], parts[0], "", ("validation",)).values()
    assert list(only.examples) == found[:3] and only.ranges == {}


def test_what_a_mixture_holds_out_is_of_every_source_and_once(three):
    spec = f"1*tsv:{three}/a.tsv + 9*tsv:{three}/b.tsv"
    splits = load_splits(spec, "", "")
    held = [example.source for example in splits["validation"].examples]
    assert {source[0] for source in held} == {"a", "b"} and len(held) == len(set(held))
    assert not set(held) & {example.source for example in splits["train"].examples}


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("1*tsv:{0}/a.tsv + tsv:{0}/b.tsv", "is not a valid mixture"),
        ("1*tsv:{0}/a.tsv + 0*tsv:{0}/b.tsv", "is not a valid mixture"),
        ("1*tsv:{0}/a.tsv + 1*text:{0}/text.txt", "mixes texts with pairs"),
        ("1*tsv:{0}/a.tsv + 1*tsv:{0}/d.tsv", "no such file"),
        ("1*tsv:{0}/a.tsv + 1*csv:{0}/b.tsv", "did you mean tsv"),
        ("1*tsv:{0}/a.tsv + 100000*tsv:{0}/c.tsv", "repeats tsv:.* times in an epoch"),
        ("tsv:{0}/a.tsv + 1*tsv:{0}/b.tsv", "is not a valid mixture"),
        ("1.2.3*tsv:{0}/a.tsv + 1*tsv:{0}/b.tsv", "is not a valid mixture"),
        ("tsv:{0}/a.tsv | {{source}} | {{target}} | {{log_prob}}", "has 3 formats"),
        ("tsv:{0}/a.tsv | answer", "'answer' names no field"),
        ("tsv:{0}/a.tsv | {{question}}", "question.*is missing .fields are source, target"),
        ("tsv:{0}/a.tsv + tsv:{0}/a.tsv | | {{source}}", "mixes texts with pairs"),
    ],
)
def test_mixtures_that_cannot_be_read(spec, what, three):
    with pytest.raises(UserError, match=what):
        load_splits(spec.format(three), "", "")


def test_a_source_may_be_the_same_for_all_beside_a_target(three):
    examples = read(f"tsv:{three}/a.tsv | Go on: | {{target}}")
    assert {example.source for example in examples} == {"Go on:"}
    assert [example.target for example in examples] == [example.target for example in read(f"tsv:{three}/a.tsv")]


# ---- conversations ----------------------------------------------------------------------------------------------

TURNS = ("you: {turn}", "me: {turn}")


def conversations(path: pathlib.Path, *records: dict, **formats) -> list[Example]:
    write(path / "a.jsonl", "\n".join(map(json.dumps, records)))
    spec = f"jsonl:{path}/a.jsonl"
    return list(load_splits(spec, spec, "", ("train",), Formats(turns=TURNS, **formats))["train"].examples)


def test_each_reply_of_a_conversation_is_an_example_with_all_that_was_said_before(tmp_path):
    four, three = {"turns": ["a", "b", "c", "d"]}, {"turns": ["b", "c", "d"], "id": 3}
    plain = {"source": "me: b\nyou: c", "target": "d", "log_prob": -1}
    found = conversations(tmp_path, four, three, plain)
    first, last = Example("you: a", "b"), Example("you: a\nme: b\nyou: c", "d")
    assert found == [first, last, Example("me: b\nyou: c", "d"), Example("me: b\nyou: c", "d", -1.0)]
    cut = conversations(tmp_path, four, history=2)
    assert cut == [first, Example("me: b\nyou: c", "d")]
    named = conversations(tmp_path, {"talk": ["a", "b"]}, plain | {"talk": "c"}, source="{talk}")
    assert named == [first, Example("c", "d", -1.0)]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"turns": ["a"]}, "is a conversation without a reply"),
        ({"turns": []}, "is a conversation without a reply"),
        ({"turns": ["a", " "]}, "'target' is blank"),
        ({"turns": ["a", 3]}, "'target' is 3, not a string"),
        ({"turns": [["a"], "b"]}, "{turn} is list, not text"),
        ({"turns": "a"}, "has the keys turns"),
    ],
)
def test_conversations_that_are_none(record, what, tmp_path):
    with pytest.raises(UserError, match=f"a.jsonl:1: .*{what}"):
        conversations(tmp_path, record)


def test_a_conversation_is_not_divided_between_training_and_validation(tmp_path):
    write(tmp_path / "a.jsonl", json.dumps({"turns": ["a", "b", "c", "d"]}))
    with pytest.raises(UserError, match="config.data.validation: .* one conversation would be on both sides"):
        load_splits(f"jsonl:{tmp_path}/a.jsonl", "", "", formats=Formats(turns=TURNS))


# ---- held out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[10], [1, 2], [95, 5], [90, 10], [5, 95], [3, 4, 5, 60, 1, 1, 1]])
def test_the_last_tenth_of_text_is_held_out_by_characters(tmp_path, lengths):
    documents = [chr(ord("a") + i) * (n - 1) + "é" for i, n in enumerate(lengths)]
    for i, document in enumerate(documents):
        write(tmp_path / f"{i}.txt", document)
    splits = load_splits(f"text:{tmp_path}/*.txt", "", "")
    train, validation = ([e.target for e in splits[name].examples] for name in ("train", "validation"))
    whole = "".join(documents)
    assert "".join(train) == whole[: int(0.9 * len(whole))]
    assert "".join(validation) == whole[int(0.9 * len(whole)) :]
    assert all(train) and all(validation)
    # Documents stay apart, and one is divided at most.
    assert len(train) + len(validation) - len(documents) in (0, 1)
    for part in (*train, *validation):
        assert any(part in document for document in documents)
    assert splits["validation"].note == (
        f"validation is the last tenth of text:{tmp_path}/*.txt (by characters), held out of training"
    )


def test_a_twentieth_of_the_examples_is_held_out_whatever_their_order(tmp_path):
    lines = [f"source {i}\ttarget {i % 7}" for i in range(4000)]
    splits = load_splits(f"tsv:{write(tmp_path / 'a', chr(10).join(lines))}", "", "")
    train, held = splits["train"].examples, splits["validation"].examples
    assert len(train) + len(held) == 4000 and 150 < len(held) < 250
    assert splits["validation"].note == (
        f"validation is {len(held)} of the 4,000 examples of tsv:{tmp_path}/a, chosen by hash and held out of training"
    )
    # Another order, duplicates and half as many again move no example to the other side.
    more = [*reversed(lines), *lines, *(f"other {i}\ttarget" for i in range(2000))]
    again = load_splits(f"tsv:{write(tmp_path / 'b', chr(10).join(more))}", "", "")
    assert set(held) <= set(again["validation"].examples) and set(train) <= set(again["train"].examples)
    assert not set(again["train"].examples) & set(again["validation"].examples)
    assert len(again["train"].examples) + len(again["validation"].examples) == len(more)


def test_the_held_out_are_the_same_on_every_machine(tmp_path):
    lines = "".join(f"{i}\t{i}\n" for i in range(100))
    held = load_splits(f"tsv:{write(tmp_path / 'a', lines)}", "", "")["validation"]
    assert [e.source for e in held.examples] == ["27", "54", "61", "82", "85", "86"]
    assert held.fingerprint == "f5d518a0280b5306"


def test_of_few_examples_one_is_held_out(tmp_path):
    for count in range(2, 8):
        path = write(tmp_path / str(count), "".join(f"{i}\t{i}\n" for i in range(count)))
        splits = load_splits(f"tsv:{path}", "", "")
        assert len(splits["validation"].examples) >= 1 and len(splits["train"].examples) >= 1


def test_given_splits_are_whole_and_have_no_note(tmp_path):
    paths = [write(tmp_path / name, f"{name}\tx\n" * 3) for name in ("train", "validation", "test")]
    splits = load_splits(*(f"tsv:{path}" for path in paths))
    assert list(splits) == ["train", "validation", "test"]
    for name, split in splits.items():
        assert split.name == name and split.spec == f"tsv:{tmp_path}/{name}" and split.note == ""
        assert list(split.examples) == [Example(name, "x")] * 3
    assert list(load_splits(f"tsv:{paths[0]}", f"tsv:{paths[1]}", "")) == ["train", "validation"]


def test_fingerprints_tell_contents_and_their_order_apart(tmp_path):
    contents = ["a\tb\nc\td\n", "c\td\na\tb\n", "a\tbc\nc\td\n", "ab\tc\nc\td\n", "a\tb\n"]
    jsonl = ['{"text": "a"}\n{"text": "b"}', '{"text": "ab"}', '{"source": "a", "target": "b"}']
    specs = [f"tsv:{write(tmp_path / f'{i}.tsv', content)}" for i, content in enumerate(contents)]
    specs += [f"jsonl:{write(tmp_path / f'{i}.jsonl', content)}" for i, content in enumerate(jsonl)]
    fingerprints = [load_splits(spec, spec, "")["train"].fingerprint for spec in specs]
    assert fingerprints[4] == fingerprints.pop()  # the same pair, from another file
    assert len(set(fingerprints)) == len(fingerprints)
    assert all(len(fingerprint) == 16 for fingerprint in fingerprints)


# ---- mistakes ---------------------------------------------------------------------------------------------------


def test_unknown_schemes_name_the_nearest():
    assert "config.data.train: 'txt:a' has no known scheme; write scheme:location; did you mean text?" in error_of(
        "txt:a"
    )
    assert "config.data.test: 'corpus.txt' has no known scheme" in error_of("text:" + __file__, "", "corpus.txt")
    assert "config.data.train: '' has no known scheme" in error_of("")
    assert "config.data.train: 'text:' names nothing to read" in error_of("text:")


def test_files_that_are_not_there_or_are_folders(tmp_path):
    assert f"config.data.train: text:{tmp_path}/*.txt matches no file" in error_of(f"text:{tmp_path}/*.txt")
    assert f"{tmp_path}: is a directory; name its files, e.g. text:{tmp_path}/*.txt" in error_of(f"text:{tmp_path}")
    for scheme in ("tsv", "jsonl"):
        assert f"{tmp_path}/a: no such file" in error_of(f"{scheme}:{tmp_path}/a")
        assert f"{tmp_path}: is a directory" in error_of(f"{scheme}:{tmp_path}")
    present = write(tmp_path / "s", "a\n")
    assert f"{tmp_path}/t: no such file" in error_of(f"parallel:{present},{tmp_path}/t")
    assert "config.data.train: parallel:a does not name two files" in error_of("parallel:a")
    assert "config.data.train: parallel:a, does not name two files" in error_of("parallel:a,")


@pytest.mark.parametrize("scheme", ["text", "tsv", "jsonl"])
@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"", "", "is empty"),
        (b"\xef\xbb\xbf\r\n \n", "", "is empty"),
        (b"a\tb\nc\0d\n", ":2", "looks binary: byte 5 is NUL"),
        (b"a\tb\n\n\xe4b\n", ":3", "is not UTF-8: byte 5 is 0xe4"),
        (b"\xff\xfea\nb\n", "", "is UTF-16; convert it"),
        (b"\xfea\nb\n", ":1", "is not UTF-8: byte 0 is 0xfe"),
        (b"\nc\xc3", ":2", "is not UTF-8: byte 2 is 0xc3"),
    ],
)
def test_files_that_are_not_text(tmp_path, scheme, content, where, what):
    path = write(tmp_path / "a", content)
    assert f"error: {path}{where}: {what}" in error_of(f"{scheme}:{path}")


def test_parallel_files_that_do_not_belong_together(tmp_path):
    write(tmp_path / "s", "a\nb\nc\n")
    write(tmp_path / "t", "A\nB\n")
    spec = f"parallel:{tmp_path}/s,{tmp_path}/t"
    assert f"{tmp_path}/s: has 3 lines, and {tmp_path}/t has 2; align" in error_of(spec)
    write(tmp_path / "t", "A\n\nC\n")
    assert f"{tmp_path}/t:2: is a blank line, and line 2 of {tmp_path}/s is not" in error_of(spec)
    write(tmp_path / "t", "A\nB\nC")
    write(tmp_path / "s", " \nb\nc")
    assert f"{tmp_path}/s:1: is a blank line, and line 1 of {tmp_path}/t is not" in error_of(spec)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("no tab", "has 0 tabs instead of one"),
        ("a\tb\tc", "has 2 tabs instead of one"),
        ("\tb", "has a blank source"),
        ("a\t ", "has a blank target"),
    ],
)
def test_tsv_lines_that_are_no_pair(tmp_path, line, what):
    path = write(tmp_path / "a", f"a\tb\n\n{line}\na\tb\n")
    assert f"error: {path}:3: {what}" in error_of(f"tsv:{path}")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "a"', "is not valid JSON (Expecting ',' delimiter at column 13)"),
        ("[" * 100_000, "is not valid JSON (maximum recursion depth"),
        ('["text"]', "is not a JSON object but '[\"text\"]'"),
        ('{"txt": "a", "id": 1}', "has the keys txt, id;"),
        ("{}", "has the keys (none);"),
        ('{"target": "a"}', "has the keys target;"),
        ('{"text": "a", "source": "b", "target": "c"}', "has the keys text, source, target;"),
        ('{"text": 3}', "'text' is 3, not a string"),
        ('{"source": "a", "target": null}', "'target' is null, not a string"),
        ('{"source": "a", "target": " "}', "'target' is blank"),
        ('{"text": "a\\ud800"}', "'text' has half of a surrogate pair"),
        ('{"text": "a", "log_prob": "-1"}', "'log_prob' is \"-1\""),
        ('{"text": "a", "log_prob": false}', "'log_prob' is false"),
        ('{"text": "a", "log_prob": NaN}', "has NaN, which is not JSON"),
        ('{"text": "a", "log_prob": 0.5}', "'log_prob' is 0.5"),
        ('{"source": "a", "target": "b"}', "mixes texts and source-target pairs in one source"),
    ],
)
def test_jsonl_lines_that_are_no_example(tmp_path, line, what):
    path = write(tmp_path / "a", '{"text": "a"}\n\n' + line + "\n")
    assert f"error: {path}:3: {what}" in error_of(f"jsonl:{path}")


def test_too_little_to_hold_out_of(tmp_path):
    expected = "is too small to hold out a part of it; name a source"
    assert expected in error_of(f"text:{write(tmp_path / 'a', 'a')}")
    same = write(tmp_path / "b", "a\tb\n" * 100)  # equal examples fall on the same side
    expected = f"tsv:{same} has 100 examples, which are all equal, so none can be held out; name"
    assert expected in error_of(f"tsv:{same}")
    one = write(tmp_path / "c", "a\tb\n")
    assert f"tsv:{one} has one example, so none can be held out" in error_of(f"tsv:{one}")


def test_of_two_different_examples_one_is_held_out_wherever_their_hashes_fall(tmp_path):
    rows = [f"a{i}\tb\n" for i in range(2000)]
    path = write(tmp_path / "all", "".join(rows))
    low = load_splits(f"tsv:{path}", "", "")["validation"].examples[:2]  # both are in the lowest twentieth
    path = write(tmp_path / "two", "".join(f"{example.source}\t{example.target}\n" for example in low))
    splits = load_splits(f"tsv:{path}", "", "")
    assert {*splits["train"].examples, *splits["validation"].examples} == {*low}
    assert len(splits["train"].examples) == len(splits["validation"].examples) == 1


def test_the_field_at_fault_is_named(tmp_path):
    good = f"text:{write(tmp_path / 'a', 'text')}"
    assert "config.data.validation: text:none matches no file" in error_of(good, "text:none")
    assert "config.data.test: text:none matches no file" in error_of(good, good, "text:none")


# ---- TensorFlow Datasets ----------------------------------------------------------------------------------------

PAIRS = [(f"source {i} é", f"target {i}") for i in range(60)]


class LmSourcesTest(tfds.core.GeneratorBasedBuilder):
    """Pairs, texts, and what is neither."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("pairs", "texts", "labels", "nested", "offline")]

    def _info(self):
        text = tfds.features.Text()
        features = {
            "pairs": {"source": text, "target": text, "log_prob": np.float64},
            "texts": {"text": text},
            "labels": {"text": text, "label": tfds.features.ClassLabel(num_classes=2)},
            "nested": {
                "question": text,
                "answers": tfds.features.Sequence({"text": text, "start": np.int32}),
                "label": tfds.features.ClassLabel(names=["no", "yes"]),
            },
            "offline": {"text": text},
        }[self.builder_config.name]
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        print("noise")
        if self.builder_config.name == "offline":
            raise OSError("Name or service not known\nand more")
        return {"train": self._generate_examples(0, 50), "validation": self._generate_examples(50, 60)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            text = PAIRS[i][1] if i % 10 else " "
            yield (
                i,
                {
                    "pairs": {"source": PAIRS[i][0], "target": PAIRS[i][1], "log_prob": -i / 4},
                    "labels": {"text": text, "label": i % 2},
                    "nested": {
                        "question": f"why {i}?",
                        "answers": [{"text": PAIRS[i][1], "start": i}, {"text": "other", "start": 0}],
                        "label": i % 3 - 1,
                    },
                }.get(self.builder_config.name, {"text": text}),
            )


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        yield folder


def test_tfds_prepares_reads_and_maps_by_feature_names(capfd):
    splits = load_splits("tfds:lm_sources_test/pairs", "tfds:lm_sources_test/pairs", "")
    assert capfd.readouterr().out == ""  # standard output is the program's
    expected = {Example(*pair, -i / 4) for i, pair in enumerate(PAIRS)}
    train, validation = (set(splits[name].examples) for name in ("train", "validation"))
    assert len(train) == 50 and len(validation) == 10 and train | validation == expected
    again = load_splits("tfds:lm_sources_test/pairs:train", "tfds:lm_sources_test/pairs:1.0.0:validation", "")
    assert [split.fingerprint for split in again.values()] == [split.fingerprint for split in splits.values()]
    assert len(read("tfds:lm_sources_test/pairs:train[:10%]")) == 5


def formatted(spec: str, source: str, target: str) -> list[Example]:
    return list(load_splits(spec, spec, "", ("train",), Formats(source, target))["train"].examples)


def test_tfds_records_become_examples_by_format():
    examples = formatted("tfds:lm_sources_test/nested", "{question} at {answers[start][0]}", "{answers[text][0]}")
    assert set(examples) == {Example(f"why {i}? at {i}", PAIRS[i][1]) for i in range(50)}
    labels = [example.target for example in formatted("tfds:lm_sources_test/nested", "{question}", "it is: {label}")]
    assert set(labels) == {"it is: no", "it is: yes", "it is: -1"}  # by name; -1 is what a test set hides
    assert len(formatted("tfds:lm_sources_test/nested:train[:10%]", "", "{question}")) == 5
    assert formatted("tfds:lm_sources_test/nested", "", "{question}")[0].source is None


def test_tfds_features_beside_the_text_are_left_alone():
    assert len(read("tfds:lm_sources_test/labels:train")) == 45


def test_formats_that_do_not_fit_name_the_example_and_what_it_has():
    for target, what in (
        ("{answer}", "{answer} is missing (fields are question, answers, label)"),
        ("{answers[text][2]}", "{answers[text][2]} is missing (it is not a list of that length)"),
        ("{answers}", "{answers} is dict, not text"),
        ("{answers[text]} {answers[start]}", "{answers[text]} and {answers[start]} are lists"),
        ("{question[text]}", "{question[text]} is missing (it is not a list of that length)"),
        (
            "{question[0]}",
            "{question[0]} is missing (it is not a list of that length)",
        ),  # a text is no list of characters
    ):
        with pytest.raises(UserError) as caught:
            formatted("tfds:lm_sources_test/nested", "{question}", target)
        message = str(caught.value)
        assert message.startswith("error: tfds:lm_sources_test/nested, example 0: ") and what in message


def test_jsonl_records_become_examples_by_format(tmp_path):
    rows = [
        {"q": "why?", "a": {"texts": ["so", "no"], "score": 3}},
        {"q": "how?", "a": {"texts": ["thus"], "score": 2}},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = formatted(f"jsonl:{path}", "{q} ({a[score]})", "{a[texts][0]}")
    assert found == [Example("why? (3)", "so"), Example("how? (2)", "thus")]
    with pytest.raises(UserError, match=rf"{path}:2: {{a\[texts\]\[1\]}} is missing"):
        formatted(f"jsonl:{path}", "{q}", "{a[texts][1]}")
    with pytest.raises(UserError, match="text: has no fields"):
        formatted(f"text:{path}", "", "{text}")


def test_tfds_blank_examples_are_left_out_and_counted():
    splits = load_splits("tfds:lm_sources_test/texts", "tfds:lm_sources_test/texts", "")
    assert len(splits["train"].examples) == 45 and splits["train"].examples[0].source is None
    assert splits["train"].note == "5 blank examples of tfds:lm_sources_test/texts are left out"


def test_names_of_hugging_face_are_those_of_tfds_and_their_failures_one_line(monkeypatch):
    builder, asked = tfds.builder, []

    def opened(name):
        asked.append(name)
        if name == "huggingface:away":
            raise ConnectionError("Name or service not known\nand more")
        return builder(name.removeprefix("huggingface:"))

    monkeypatch.setattr(tfds, "builder", opened)
    spec = "tfds:huggingface:lm_sources_test/texts:train[:20%]"
    assert len(load_splits(spec, spec, "", ("train",))["train"].examples) == 9  # one of the ten is blank
    assert set(asked) == {"huggingface:lm_sources_test/texts"}
    assert "cannot be opened (Name or service not known); check" in error_of("tfds:huggingface:away:train")


def test_tfds_without_validation_holds_out_by_hash():
    splits = load_splits("tfds:lm_sources_test/pairs", "", "")
    assert len(splits["train"].examples) + len(splits["validation"].examples) == 50
    assert "chosen by hash" in splits["validation"].note


def test_tfds_that_another_process_prepares_meanwhile(monkeypatch, tmp_path):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    split_generators = LmSourcesTest._split_generators

    def meanwhile(self, dl_manager):
        monkeypatch.setattr(LmSourcesTest, "_split_generators", split_generators)
        tfds.builder("lm_sources_test/texts").download_and_prepare(file_format="array_record")
        return split_generators(self, dl_manager)

    monkeypatch.setattr(LmSourcesTest, "_split_generators", meanwhile)
    assert len(read("tfds:lm_sources_test/texts:train")) == 45


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("lm_source_test/pairs", "tfds:lm_source_test/pairs is not a data set of TFDS; did you mean lm_sources_test?"),
        ("lm_sources_test/pears", "has no config 'pears'; did you mean pairs?"),
        (
            "lm_sources_test/pairs:trian",
            "has no split 'trian'; write tfds:lm_sources_test/pairs:SPLIT, did you mean train?",
        ),
        ("lm_sources_test/pairs:train[:x]", "has no split 'train[:x]'"),
        ("lm_sources_test/pairs:9.9.9", "cannot be opened (Dataset lm_sources_test cannot be loaded at version 9.9.9"),
        ("lm_sources_test/pairs/more", "has no config 'pairs/more'; did you mean pairs?"),
        ("lm_sources_test/nested", "has the features answers, label, question instead of text, or source and target"),
        ("lm_sources_test/offline", "cannot be prepared (Name or service not known); check network and disk"),
        ("squad", "question, title instead of text, or source and target"),
        ("wmt16_translate/de-en", "has the features de, en instead of"),
    ],
)
def test_tfds_mistakes(spec, what):
    assert f"error: config.data.train: tfds:{spec.partition(':')[0]}" in (message := error_of(f"tfds:{spec}"))
    assert what in message


def test_tfds_split_of_the_role_must_exist():
    message = error_of("tfds:lm_sources_test/pairs", "", "tfds:lm_sources_test/pairs")
    assert "config.data.test: tfds:lm_sources_test/pairs has no split 'test'" in message


def test_tfds_prepared_in_a_format_without_random_access_is_refused(data_dir):
    read("tfds:lm_sources_test/texts:train")
    info = data_dir / "lm_sources_test/texts/1.0.0/dataset_info.json"
    before = info.read_text()
    info.write_text(before.replace("array_record", "tfrecord"))
    try:
        assert "is prepared in a format that cannot be read at random" in error_of("tfds:lm_sources_test/texts")
    finally:
        info.write_text(before)


def test_schemes_are_those_of_the_contract():
    assert list(sources.SCHEMES) == ["tfds", "text", "parallel", "jsonl", "tsv"]


# ---- several targets --------------------------------------------------------------------------------------------

LISTED = [
    ({"source": "who?", "target": ["ann", "Ann B.", "ann"]}, Example("who?", "ann", others=("Ann B.", "ann"))),
    ({"source": "where?", "target": ["here"]}, Example("where?", "here", others=())),
    ({"source": "why?", "target": []}, Example("why?", "", others=())),  # there is no answer
    ({"source": "how?", "target": ["", " "]}, Example("how?", "", others=("",))),
    ({"source": "when?", "target": "now"}, Example("when?", "now")),
]


def test_a_list_of_targets_is_all_that_is_right(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(record) for record, _ in LISTED))
    split = load_splits("", "", f"jsonl:{path}", ("test",))["test"]
    assert list(split.examples) == [example for _, example in LISTED]
    assert split.note == "2 of 5 have several targets: scores use all, training and loss the first"
    assert load_splits("", "", f"jsonl:{path}", ("test",))["test"].note == split.note  # from the cache
    fields = [{"q": record["source"], "a": {"texts": record["target"]}} for record, _ in LISTED[:4]]
    path = write(tmp_path / "b.jsonl", "\n".join(map(json.dumps, fields)))
    found = formatted(f"jsonl:{path}", "{q}", "it is {a[texts]}!")
    assert found[0] == Example("who?", "it is ann!", others=("it is Ann B.!", "it is ann!"))
    assert found[2] == Example("why?", "", others=())


def test_features_of_tfds_that_are_lists_are_several_targets():
    (first, *_) = sorted(formatted("tfds:lm_sources_test/nested", "{question}", "{answers[text]}"), key=str)
    number = int(first.source.split()[1].strip("?"))
    assert first.references == (PAIRS[number][1], "other")


@pytest.mark.parametrize(
    "record, what",
    {
        '{"source": "a", "target": ["x", 3]}': "'target' is 3, not a string",
        '{"source": "a", "target": [["x"]]}': "'target' is [\"x\"], not a string",
        '{"source": ["a"], "target": "x"}': "'source' is [\"a\"], not a string",
        '{"source": "a", "target": ""}': "'target' is blank; fill it, or delete the line, or write []",
        '{"text": ["a"]}': "'text' is [\"a\"], not a string",
        '{"source": "a", "target": ["\\ud800"]}': "half of a surrogate pair",
    }.items(),
)
def test_lists_that_are_none_of_texts_are_refused(record, what, tmp_path):
    assert what in error_of(f"jsonl:{write(tmp_path / 'a.jsonl', record)}")


def test_cleaning_changes_all_targets():
    step = cleaner.Cleaner(["whitespace"])
    assert step.change(Example("a  b", "c  d", others=("e  f",))) == Example("a b", "c d", others=("e f",))
    assert step.clean(Example("a  b", "", others=())) == Example(
        "a b", "", others=()
    )  # to say nothing is no blank side
    assert step.clean(Example("a", "c", others=("e  f",))).others == ("e f",)
