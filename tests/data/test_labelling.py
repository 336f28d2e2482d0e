"""Labels: how JSON's values are spelled, which labels there are, and what is said of those that look like a mistake."""

import json

import pytest

from lm.config import Config, changed
from lm.data import labelling
from lm.data import splits as data_splits
from lm.data.description import described
from lm.data.labelling import Counts
from lm.data.read.examples import Example, Listed
from lm.data.read.sources import load_splits
from lm.data.text.tokenizers.vocabulary import Bytes, Vocabulary
from lm.errors import UserError
from lm.training.prepare import read_inputs

# ---- values of JSON ---------------------------------------------------------------------------------------------

SPELLED = ["1", "1.0", "-0", "1e2", "1E+2", "1e400", "9" * 400, "0.1000", "true", "false"]


def labels_of(path, *values: str) -> list[str]:
    path.write_text("".join(f'{{"t": "text", "y": {value}}}\n' for value in values))
    spec = f"jsonl:{path} | {{t}} | {{y}}"
    return [example.target for example in load_splits(spec, spec, "", ("train",))["train"].examples]


def test_values_keep_the_spelling_of_json(tmp_path):
    assert labels_of(tmp_path / "a.jsonl", *SPELLED) == SPELLED
    assert labels_of(tmp_path / "a.jsonl", '"a"', '"\\u00e9"', '" b"') == ["a", "é", " b"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("NaN", "has NaN, which is not JSON"),
        ("Infinity", "has Infinity, which is not JSON"),
        ("-Infinity", "has -Infinity, which is not JSON"),
        ("null", "{y} is null, not text"),
        ('""', "'target' is blank"),
        ('" "', "'target' is blank"),
        ('"a", "y": null', "{y} is null, not text"),
        ('"a"}\n{"t": "text"', "{y} is missing"),
        ("[[1]]", "{y} is list, not text"),
        ("[null]", "{y} is null, not text"),
    ],
)
def test_a_missing_value_is_refused_by_line(value, what, tmp_path):
    with pytest.raises(UserError) as caught:
        labels_of(tmp_path / "a.jsonl", '"good"', value)
    assert f"error: {tmp_path}/a.jsonl:{2 + value.count(chr(10))}: {what}" in str(caught.value)


@pytest.mark.parametrize("value", ["[]", '[""]', '[" "]'])
def test_a_label_is_never_empty(value, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"t": "a", "y": "b"}}\n{{"t": "a", "y": {value}}}\n')
    spec = f"jsonl:{tmp_path}/a.jsonl | {{t}} | {{y}}"
    config = changed(
        Config(), {"data.train": spec, "data.validation": spec, "data.task": "classify", "data.tokenizer.kind": "bytes"}
    )
    with pytest.raises(UserError, match="config.data.train: example 2 has an empty label"):
        data_splits.load_splits(config.data)


# ---- what is said -----------------------------------------------------------------------------------------------


def counts(**each: int) -> Counts:
    return Counts(sum(each.values()), len(each), each)


def said(train: list[str], validation: list[str] = (), tokenizer=None) -> list[str]:
    splits = {"train": train, "validation": validation or train}
    found = {
        name: labelling.counted(Listed(Example(f"text {i}", label) for i, label in enumerate(labels)))
        for name, labels in splits.items()
    }
    return labelling.warnings(found, tokenizer or Bytes())


@pytest.mark.parametrize(
    "labels",
    [
        ["good", "Good"],
        ["good", "good "],
        ["very good", "very  good", "VERY\u00a0GOOD"],
        ["caf\u00e9", "cafe\u0301"],
        ["１", "1"],
        ["1", "1.0", "1e0"],
        ["good", "go\u200bod"],
        ["stra\u00dfe", "STRASSE"],
        ["true", "True"],
    ],
)
def test_labels_that_are_written_alike_are_said(labels):
    (line,) = said([*labels, "another"] * 5)
    assert line.startswith("labels that differ only in their spelling: ")
    assert len({*line.removeprefix("labels that differ only in their spelling: ").split(", ")}) == len(labels)


@pytest.mark.parametrize(
    "labels", [["good", "bad"], ["1", "10", "1.5"], ["a b", "ab"], ["12345678901234567890", "12345678901234567891"]]
)
def test_of_labels_that_are_as_they_should_be_nothing_is_said(labels):
    assert said(labels * 5) == []


def test_what_looks_like_a_mistake_is_said():
    assert said(["a"] * 9) == ["every training example has the label 'a', so there is nothing to learn"]
    assert said(["a", "b"] * 9 + ["c"]) == ["labels with one training example: 'c'"]
    assert said(["a", "b"] * 9, ["a", "c"]) == [
        "labels that train has and validation lacks: 'b'",
        "labels that validation has and train lacks: 'c'",
    ]
    assert said(["a", "nan", "NULL"] * 9) == ["labels that usually mean a missing value: 'NULL', 'nan'"]
    assert said(["1", "-1", "0"] * 9) == []
    assert said(["yes", "-1", "no"] * 9) == ["labels that usually mean a missing value: '-1'"]
    (line,) = said([f"a long text {i}" for i in range(30)])
    assert line.startswith("30 labels for 30 training examples look like texts: check which side is the label")
    known = Vocabulary("words", ("a",))
    assert said(["a", "one", "two"] * 9, tokenizer=known) == [
        "labels with the same ids, which a model cannot distinguish: 'one', 'two'"
    ]


def test_lists_are_cut_and_say_how_much_is_left(tmp_path):
    many = counts(**{f"label {i}": 100 - i for i in range(99)})
    line = labelling.listing(many)
    assert line.startswith("99: 'label 0' 100, 'label 1' 99, ") and line.endswith(" and 79 more") and len(line) < 500
    assert len(labelling.listing(counts(**{"x" * 1000: 3}))) < 60
    (line,) = said([f"{i}" for i in range(99)] * 4 + [f"once {i}" for i in range(30)])
    assert line.startswith("labels with one training example: 'once 0', ") and line.endswith(" and 25 more")


# ---- where it is said -------------------------------------------------------------------------------------------


def classifier(path, pool: str, text: str) -> Config:
    path.write_text(text)
    source = f"tsv:{path}"
    values = {"data.train": source, "data.validation": source, "data.task": "classify", "model.pool": pool}
    return changed(Config(), values | {"data.tokenizer.kind": "characters"})


TABLE = "text\tlabel\n" + "".join(f"text {i}\t{label}\n" for i in range(4) for label in ("good", "bad", "Good"))
LISTED = "4: 'Good' 4, 'bad' 4, 'good' 4, 'label' 1"
WARNED = (
    "labels with one training example: 'label'",
    "labels that differ only in their spelling: 'Good', 'good'",
    "its first row looks like a header ('text', 'label'); delete it if it is one",
)


@pytest.mark.parametrize("pool", ["", "mean"])
def test_labels_are_listed_and_warned_of_for_every_kind_of_answer_that_has_them(pool, tmp_path):
    lines = [*described(classifier(tmp_path / "a.tsv", pool, TABLE), None, 0)]
    assert sum(line == f"  labels      {LISTED}" for line in lines) == 2  # of both splits
    for text in WARNED:
        assert [line for line in lines if line.strip().startswith("warning ") and text in line]


def test_only_labels_are_listed(tmp_path):
    config = changed(classifier(tmp_path / "a.tsv", "", TABLE), {"data.task": "seq2seq"})
    text = "\n".join(described(config, None, 0))
    assert " labels  " not in text and WARNED[2] in text  # a header is none of a translation's pairs either


def test_a_label_that_training_writes_otherwise_is_named_beside_it(tmp_path):
    config = classifier(tmp_path / "a.tsv", "", "x\tgood\ny\tbad\n" * 3)
    (tmp_path / "b.tsv").write_text("x\tGood\n")
    config = changed(config, {"data.validation": f"tsv:{tmp_path}/b.tsv"})
    with pytest.raises(
        UserError, match="the label 'Good' is none of the training data's; write 'good', which training has"
    ):
        read_inputs(config, tmp_path / "run")


# ---- headers ----------------------------------------------------------------------------------------------------

ROWS = [f"some text {i}\t{'pos' if i % 2 else 'neg'}" for i in range(20)]
PAIRS = [f"some text {i}\tein Text {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        *(
            (header, ROWS)
            for header in ("text\tlabel", "Sentence\tsentiment", "comment_text\ttoxic", "reviewText\tstars")
        ),
        *((header, ROWS) for header in ("tweet\tis_funny", "v1\tcategory")),
        *((header, PAIRS) for header in ("source\ttarget", "en\tde", "English\tGerman", "src_text\ttgt_text")),
    ],
)
def test_a_first_row_that_looks_like_a_header_is_said_and_still_read(header, rows, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("\n".join([header, *rows]) + "\n")
    sides = tuple(header.split("\t"))
    for _ in range(2):  # read, and from the cache
        split = load_splits(f"tsv:{path}", f"tsv:{path}", "", ("train",))["train"]
        assert len(split.examples) == 21
        assert split.warnings == (f"{path}: its first row looks like a header {sides!r}; delete it if it is one",)
    path = path.rename(tmp_path / "elsewhere.tsv")
    assert str(path) in load_splits(f"tsv:{path}", f"tsv:{path}", "", ("train",))["train"].warnings[0]
    for side, name in enumerate(("a.en", "a.de")):
        (tmp_path / name).write_text("".join(row.split("\t")[side] + "\n" for row in [header, *rows]))
    spec = f"parallel:{tmp_path}/a.en,{tmp_path}/a.de"
    assert len(load_splits(spec, spec, "", ("train",))["train"].warnings) == 1


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        PAIRS,
        ["text\tpos", *ROWS],  # a label that comes again
        ["the answer\tdie Antwort", *PAIRS],
        ["a good review of a long text\tneutral", *ROWS],
        [f"{letter} text\tanswer {letter}" for letter in "abcdefghij"],  # all of them are like names of columns
    ],
)
def test_a_first_row_like_the_others_is_no_header(rows, tmp_path):
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    spec = f"tsv:{tmp_path}/a.tsv"
    assert load_splits(spec, spec, "", ("train",))["train"].warnings == ()


def test_headers_of_many_files_are_said_in_few_lines(tmp_path):
    for number in range(9):  # no two files are equal
        (tmp_path / f"{number}.tsv").write_text("\n".join(["text\tlabel", f"some text of {number}\tpos", *ROWS]) + "\n")
    spec = f"tsv:{tmp_path}/*.tsv"
    warnings = load_splits(spec, spec, "", ("train",))["train"].warnings
    assert len(warnings) == 4 and warnings[-1] == "6 more files start with such a row"


def test_json_that_holds_a_million_digits_is_read_in_no_time(tmp_path):
    assert labels_of(tmp_path / "a.jsonl", "1" * 10**6) == ["1" * 10**6]
    record = json.dumps({"text": "a", "log_prob": "x"}).replace('"x"', "-" + "1" * 10**6)
    (tmp_path / "b.jsonl").write_text(record)
    with pytest.raises(UserError, match="'log_prob' is -1111"):
        load_splits(f"jsonl:{tmp_path}/b.jsonl", "", "", ("train",))
