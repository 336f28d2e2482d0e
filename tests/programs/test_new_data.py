"""Data that came after training: lm.evaluate --data and lm.score, of runs whose own data is gone."""

import io
import json
import math
import pathlib
import shutil
import types

import pytest
from support.programs import run_programs, tree_of

import lm
from lm.answers.contract import Score
from lm.data.read.examples import Example, whole_texts
from lm.errors import UserError
from lm.evaluation import record, scoring, summary
from lm.evaluation.scoring import Asked
from lm.terminal import texts

PAIRS = [
    ("ant bee", "bee ant"),
    ("cat", "cat"),
    ("hen gnu fox", "fox gnu hen"),
    ("zebra \u20ac", "\u20ac zebra"),
    ("a", ""),
]
LINES = ["one two three", "", " seven\tzebra \u4f60", "one two three " * 50]


@pytest.fixture(scope="module")
def folder(trained, sources, tmp_path_factory) -> pathlib.Path:
    """New data, and runs that were moved away from theirs."""
    folder = tmp_path_factory.mktemp("new")
    for layout, run in trained.items():
        shutil.copytree(run, folder / layout)
        path = folder / layout / "config.json"
        path.write_text(path.read_text().replace(sources["lm" if layout == "streams" else "seq2seq"], "tsv:/gone.tsv"))
    (folder / "new pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS[:-1]))
    (folder / "lines.txt").write_text("\ufeff" + "".join(f"{line}\r\n" for line in LINES))
    return folder


@pytest.fixture(scope="module")
def done(folder):
    calls = {
        "compare": (["-m", "lm.evaluate", "{0}/buckets", "{0}/buckets", "--data=tsv:{0}/new pairs.tsv"], ""),
        "pairs": (["-m", "lm.score", "{0}/buckets"], "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
        "texts": (["-m", "lm.score", "--workdir={0}/streams", "--input_file={0}/lines.txt", "--json"], ""),
        "both": (["-m", "lm.evaluate", "{0}/buckets", "--split=test", "--data=tsv:{0}/new pairs.tsv"], ""),
        "two": (["-m", "lm.score", "{0}/buckets", "--text=a", "--data=tsv:{0}/new pairs.tsv"], ""),
        "no pair": (["-m", "lm.score", "{0}/buckets"], "a\tb\na b\n"),
    }
    given = [([argument.format(folder) for argument in arguments], text) for arguments, text in calls.values()]
    return dict(zip(calls, run_programs(*given), strict=True))


def test_a_source_is_evaluated_as_a_split_is_and_has_a_record_of_its_own(done, folder, trained):
    answer = done["compare"]
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"data                     tsv:{folder}/new pairs.tsv" in answer.stdout
    assert answer.stdout.count("written to") == 2 and "p bootstrap" in answer.stdout
    before = tree_of(trained["buckets"])
    (name,) = {name for name in tree_of(folder / "buckets") if name.startswith("evaluations/data-")} - {*before}
    found = json.loads((folder / "buckets" / name).read_text())
    assert name == f"evaluations/data-new-pairs-{found['fingerprint'][:8]}-{found['step']}.json"
    assert found["split"] == "data" and found["data"] == found["options"]["data"] == f"tsv:{folder}/new pairs.tsv"
    assert f"|data:{found['fingerprint'][:8]}|split:data|" in found["loss_signature"]
    assert [one["reference"] for one in found["outputs"]] == [target for _, target in PAIRS[:-1]]
    low, high = found["intervals"]["loss"]
    scores = lm.load(str(folder / "buckets")).score(PAIRS[:-1])
    loss = -sum(score.log_probability for score in scores) / sum(score.tokens for score in scores)
    assert found["loss"] == pytest.approx(loss, rel=1e-4) and low <= loss <= high


def test_scores_are_printed_in_the_order_of_the_input_as_run_score_gives_them(done, folder):
    assert done["pairs"].returncode == done["texts"].returncode == 0, done["pairs"].stderr + done["texts"].stderr
    scores = lm.load(str(folder / "buckets")).score(PAIRS)
    rows = [line.split("\t") for line in done["pairs"].stdout.splitlines()]
    assert [[*map(int, row[1:])] for row in rows] == [list(score[1:]) for score in scores]
    assert [float(row[0]) for row in rows] == pytest.approx([score.log_probability for score in scores], rel=1e-4)
    assert f"5 texts, {sum(score.log_probability for score in scores):.3f}"[:14] in done["pairs"].stderr
    scores = lm.load(str(folder / "streams")).score(LINES)
    objects = [json.loads(line) for line in done["texts"].stdout.splitlines()]
    assert scores[2].unknown_tokens > 0
    for found, score in zip(objects, scores, strict=True):
        assert found.pop("spelled_log_probability") == pytest.approx(score.spelled_log_probability, rel=1e-4)
        assert found == pytest.approx(score._asdict(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "both": ["--split: is given with --data"],
        "two": ["--data: is given with --text"],
        "no pair": ["standard input:2: has 0 tabs", "SOURCE<TAB>TARGET"],
    }.items(),
)
def test_what_cannot_be_scored_is_refused_in_one_line(name, words, done):
    error = done[name].stderr.splitlines()[-1]
    assert done[name].returncode == 2 and error.startswith("error: ") and "Traceback" not in done[name].stderr
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("layout", "asked", "words"),
    [
        ("buckets", {"split": "tsv:{}/new pairs.tsv"}, ["--split", "is a source", "--data=tsv:"]),
        ("buckets", {"split": "tets"}, ["--split", "did you mean test?"]),
        ("buckets", {"data": "text:{}/lines.txt"}, ["--data: example 1 is text", "the run's task, seq2seq"]),
        ("streams", {"data": "tsv:{}/new pairs.tsv"}, ["--data: example 1 is source and target", "task, lm"]),
        ("buckets", {"data": "{}/new pairs.tsv"}, ["--data: ", "no known scheme"]),
        ("buckets", {"data": "tsv:{}/none.tsv"}, ["none.tsv: no such file"]),
        ("buckets", {"data": "text:{}/none*"}, ["--data: text:", "matches no file"]),
    ],
)
def test_a_source_that_is_none_of_the_runs_is_refused_by_the_name_of_its_flag(layout, asked, words, folder):
    run = lm.load(str(folder / layout))
    asked = {name: text.format(folder) for name, text in asked.items()}
    with pytest.raises(UserError) as caught:
        scoring.evaluate_asked(run, Asked(**asked))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_record_of_a_source_has_no_name_of_a_splits_record():
    run = types.SimpleNamespace(step=7, averaged=False)
    names = [
        record._name(run, Asked(data=data), "0123456789")
        for data in (
            "tsv:a/test.tsv",
            "parallel:x/de.gz,x/en.gz | {source}",
            "2*text:d/**/*.txt + 1*tsv:b",
            "tfds:imdb:test[:9]",
        )
    ]
    assert names == ["data-test-01234567-7", "data-de-01234567-7", "data-01234567-7", "data-imdb-test-9-01234567-7"]


def test_lines_are_read_as_they_are_asked_for_and_named_by_number(tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\tb\r\nc\td\ne\t\xff"))
    monkeypatch.setattr("sys.stdin", stream)
    read = texts.read([], "-", paired=True)
    assert [next(read), next(read)] == [Example("a", "b"), Example("c", "d")]
    with pytest.raises(UserError, match="standard input:3: is not UTF-8"):
        next(read)
    with pytest.raises(UserError, match="--text:2: has 2 tabs"):
        list(texts.read(["a\tb", "a\tb\tc"], "", paired=True))
    (tmp_path / "bad.txt").write_bytes(b"a\nb\n\xff\n")
    with pytest.raises(UserError, match="bad.txt:3: is not UTF-8"):
        list(texts.read([], str(tmp_path / "bad.txt"), paired=False))
    made = [Example(None, text) for text in ("a", "b", "cdef", "g", "h", "i", "j")]
    parts = [[one.target for one in chunk] for chunk in texts.chunks(iter(made), 3, 4)]
    assert parts == [["a", "b", "cdef"], ["g", "h", "i"], ["j"]]
    assert [len(chunk) for chunk in texts.chunks(iter(made), 9, 4)] == [3, 4]


def test_a_document_in_pieces_is_scored_whole():
    pieces = [
        Example(None, "a"),
        Example(None, "b", continued=True),
        Example(None, "c"),
        Example(None, "d", continued=True),
    ]
    assert [one.target for one in whole_texts(pieces)] == ["ab", "cd"]
    pairs = [Example("a", "b", -1.0), Example("c", "d")]
    assert list(whole_texts(pairs)) == pairs and list(whole_texts([])) == []


def test_a_probability_of_none_is_null_in_json():
    score = Score(-math.inf, 2, 3)
    assert json.loads(summary.score_line(score, as_json=True, spells=False))["log_probability"] is None
    assert summary.score_line(score, as_json=False, spells=False) == "-inf\t2\t3\t0\t0"
