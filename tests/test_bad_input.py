"""What a user can mend: one line on standard error, exit code 2, and nothing lost."""

import json
import pathlib
import re
import resource
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from conftest import changed, run_program, run_programs, tree_of

from benchmarks import kill
from lm.config import to_json
from lm.run import load


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line, `error: WHERE: WHAT; HOW TO MEND`, that has these words; exit code 2; no traceback."""
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    line = done.stderr.strip()
    assert line.startswith("error: ") and line.count(": ") >= 2 and "; " in line, line
    for word in words:
        assert word in line, line


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sources) -> pathlib.Path:
    """Files that are not what they should be."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text(" \n\t\n\n")
    (folder / "binary.txt").write_bytes(b"some text\nand\x00then\xffbytes")
    (folder / "latin1.txt").write_bytes("d\u00e9j\u00e0 vu\n".encode("latin-1") * 20)
    (folder / "short.txt").write_text("a\nb\n")
    (folder / "long.txt").write_text("a\nb\nc\n")
    (folder / "no_tab.tsv").write_text("source\ttarget\nno tab here\n")
    (folder / "blank.tsv").write_text("source\ttarget\n\ttarget\n")
    (folder / "half.jsonl").write_text('{"source": "a", "target": "b"}\n{"source": "a"}\n')
    (folder / "broken.jsonl").write_text('{"source": "a", "target": "b"}\n{"source": "a", "tar\n')
    (folder / "text.jsonl").write_text("".join(f'{{"text": "{i}"}}\n' for i in range(40)))
    (folder / "not_python.py").write_text("def get_config(:\n")
    (folder / "no_function.py").write_text("x = 1\n")
    (folder / "raises.py").write_text("def get_config():\n    raise KeyError('steps')\n")
    (folder / "imports.py").write_text("import no_such_module\n")
    (folder / "other_type.py").write_text("def get_config():\n    return {}\n")
    (folder / "file").write_text("no directory")
    (folder / "notes").mkdir()
    (folder / "notes" / "diary.txt").write_text("dear diary")
    return folder


# ---- train.py, before it writes anything ------------------------------------------------------------------------

# What is changed of a good command line -> what the line must say. {bad} is the folder, {good} a good source.
WRONG_FLAGS = {
    "unknown config file": (["--config=configs/shakespear.py"], ["--config", "configs/shakespeare.py"]),
    "config file is a directory": (["--config=configs"], ["--config"]),
    "config file is not Python": (["--config={bad}/not_python.py"], ["not_python.py"]),
    "config file without get_config": (["--config={bad}/no_function.py"], ["no_function.py", "get_config"]),
    "get_config raises": (["--config={bad}/raises.py"], ["raises.py", "steps"]),
    "config file imports what is not there": (["--config={bad}/imports.py"], ["imports.py", "no_such_module"]),
    "get_config returns something else, and a field is given": (
        ["--config={bad}/other_type.py", "--config.seed=1"],
        ["other_type.py", "get_config() returned dict"],
    ),
    "get_config returns something else": (["--config={bad}/other_type.py"], ["Config"]),
    "unknown section": (["--config.modle.cell=lstm"], ["--config.modle.cell", "model.cell"]),
    "unknown field": (["--config.model.hiden_dim=3"], ["--config.model.hiden_dim", "did you mean model.hidden_dim?"]),
    "a section is no field": (["--config.model=3"], ["--config.model"]),
    "unknown value": (["--config.model.attention=dott"], ["config.model.attention", "did you mean dot?"]),
    "unknown tokenizer": (["--config.data.tokenizer.kind=unigrm"], ["kind", "did you mean unigram?"]),
    "value out of range": (["--config.model.dropout=1.5"], ["config.model.dropout", "1.5"]),
    "text for a number": (["--config.model.hidden_dim=wide"], ["hidden_dim", "wide"]),
    "a fraction for a whole number": (["--config.model.layers=1.5"], ["layers", "1.5"]),
    "a bad duration": (["--config.training.steps=5 parsecs"], ["config.training.steps", "parsecs"]),
    "unknown flag": (["--wrkdir=x"], ["wrkdir"]),
    "an argument that is no flag": (["workdir"], ["workdir"]),
    "no source": (["--config.data.train="], ["config.data.train"]),
    "unknown scheme": (["--config.data.train=csv:{bad}/file"], ["config.data.train", "tsv"]),
    "missing file": (["--config.data.train=tsv:{bad}/missing.tsv"], ["missing.tsv", "no such file"]),
    "missing validation file": (["--config.data.validation=tsv:{bad}/missing.tsv"], ["missing.tsv", "no such file"]),
    "glob without a match": (["--config.data.train=text:{bad}/*.none"], ["config.data.train", "*.none"]),
    "a directory for a file": (["--config.data.train=tsv:{bad}"], ["is a directory"]),
    "empty file": (["--config.data.train=tsv:{bad}/empty.txt"], ["empty.txt", "is empty"]),
    "blank file": (["--config.data.train=tsv:{bad}/blank.txt"], ["blank.txt", "is empty"]),
    "binary file": (["--config.data.train=tsv:{bad}/binary.txt"], ["binary.txt:2", "binary"]),
    "wrong encoding": (["--config.data.train=tsv:{bad}/latin1.txt"], ["latin1.txt:1", "is not UTF-8"]),
    "misaligned files": (
        ["--config.data.train=parallel:{bad}/short.txt,{bad}/long.txt"],
        ["short.txt", "2 lines", "3"],
    ),
    "a line without a tab": (["--config.data.train=tsv:{bad}/no_tab.tsv"], ["no_tab.tsv:2"]),
    "a blank source": (["--config.data.train=tsv:{bad}/blank.tsv"], ["blank.tsv:2", "source"]),
    "JSON without target": (["--config.data.train=jsonl:{bad}/half.jsonl"], ["half.jsonl:2", "source"]),
    "broken JSON": (["--config.data.train=jsonl:{bad}/broken.jsonl"], ["broken.jsonl:2", "JSON"]),
    "text for a task with sources": (["--config.data.train=jsonl:{bad}/text.jsonl"], ["config.data.train", "seq2seq"]),
    "unknown data set": (["--config.data.train=tfds:tinywrld/translate"], ["config.data.train", "tinyworld"]),
    "vocabulary too large": (["--config.data.tokenizer.vocab_size=9000"], ["vocab_size", "9000"]),
    "vocabulary too small": (["--config.data.tokenizer.vocab_size=100"], ["vocab_size", "100"]),
    "no such tokenizer": (["--config.data.tokenizer.kind={bad}/none.model"], ["none.model"]),
    "all pairs are too long": (["--config.data.max_length=1"], ["config.data.max_length"]),
    "decay of no parameter": (["--config.optimizer.decayed=x", "--config.optimizer.weight_decay=0.1"], ["decayed"]),
    "workdir is a file": (["--workdir={bad}/file"], ["file", "is a file"]),
    "workdir below a file": (["--workdir={bad}/file/run"], ["{bad}/file"]),
    "workdir that is no run": (["--workdir={bad}/notes"], ["notes", "'diary.txt'"]),
    "workdir that cannot be made": (["--workdir=/proc/run"], ["/proc/run"]),
    "workdir of another run": (["--workdir={streams}"], ["{streams}", "data.task: 'lm' -> 'seq2seq'"]),
    "start from no run": (["--config.training.init_from={bad}/notes"], ["notes", "is not a run"]),
    "start from no checkpoint": (["--config.training.init_from={buckets}:7"], ["'7'"]),
    "start from other widths": (["--config.training.init_from={buckets}", "--config.model.hidden_dim=24"], ["shape"]),
}


@pytest.fixture(scope="module")
def places(folder, trained) -> dict[str, str]:
    return {"bad": str(folder), **{layout: str(path) for layout, path in trained.items()}}


@pytest.fixture(scope="module")
def refusals(places, configs, tmp_path_factory) -> dict[str, tuple[subprocess.CompletedProcess, pathlib.Path]]:
    """What train.py answers to each, and the directory that it was given."""
    base = tmp_path_factory.mktemp("refused")
    calls, workdirs = [], []
    for i, (flags, _) in enumerate(WRONG_FLAGS.values()):
        workdirs.append(base / f"run{i}")
        good = kill.command(configs["buckets"], workdirs[-1])[1:]
        flags = [flag.format(**places) for flag in flags]
        # The config file is read before the other flags, which say its fields anew: without them it shows.
        if flags[0].startswith("--config="):
            good = [good[0], f"--workdir={workdirs[-1]}"]
        calls.append(([*good, *flags], ""))
    before = {name: tree_of(pathlib.Path(place)) for name, place in places.items()}
    found = dict(zip(WRONG_FLAGS, zip(run_programs(*calls), workdirs, strict=True), strict=True))
    assert {name: tree_of(pathlib.Path(place)) for name, place in places.items()} == before
    return found


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_training_refuses_in_one_line_and_writes_nothing(name, refusals, places):
    done, workdir = refusals[name]
    assert_refused(done, *(word.format(**places) for word in WRONG_FLAGS[name][1]))
    assert not workdir.exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(configs, tmp_path):
    done = run_program(*kill.command(configs["buckets"], tmp_path / "run")[1:], devices=3)
    assert_refused(done, "config.data.batch_size", "8 is not divisible by 3 devices", "use 9")
    assert done.stdout == "" and not (tmp_path / "run").exists()


# ---- a run that is damaged, and programs that read one ----------------------------------------------------------


def copy_of(run: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    shutil.copytree(run, to)
    return to


def damaged_checkpoints(run: pathlib.Path, step: int) -> None:
    """Only this checkpoint is left, and of each of its files the first half."""
    for path in (run / "checkpoints").iterdir():
        if path.name != str(step):
            shutil.rmtree(path)
    for path in (run / "checkpoints" / str(step)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def broken(trained, configs, tmp_path_factory) -> dict[str, pathlib.Path]:
    """Runs that were whole once."""
    base = tmp_path_factory.mktemp("broken")
    runs = {"no checkpoint": base / "no checkpoint", "unfinished": base / "unfinished"}
    for name in runs:
        shutil.copytree(trained["streams"], runs[name], ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(
        trained["streams"] / "checkpoints" / "80", runs["unfinished"] / "checkpoints" / "80.orbax-checkpoint-tmp-7"
    )
    for name in ("truncated", "no parameters", "foreign", "text config", "broken config", "no tokenizer", "tokenizer"):
        runs[name] = copy_of(trained["streams"], base / name)
    damaged_checkpoints(runs["truncated"], 80)
    shutil.rmtree(runs["no parameters"] / "checkpoints" / "80" / "params")
    # The checkpoints are of a model with 16 units.
    (runs["foreign"] / "config.json").write_text(to_json(changed(configs["streams"], {"model.hidden_dim": 24})))
    (runs["text config"] / "config.json").write_text("cell = lstm")
    config = (runs["broken config"] / "config.json").read_text()
    (runs["broken config"] / "config.json").write_text(config.replace('"hidden_dim"', '"hiden_dim"'))
    shutil.rmtree(runs["no tokenizer"] / "tokenizer")
    runs["best is gone"] = copy_of(trained["buckets"], base / "best is gone")
    progress = runs["best is gone"] / "checkpoints" / "80" / "progress" / "metadata"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"best_step": 24}))
    runs["changed data"] = copy_of(trained["buckets"], base / "changed data")
    (base / "other.tsv").write_text("ant\tant\nbee\tbee\n")
    config = changed(configs["buckets"], {"data.test": f"tsv:{base}/other.tsv"})
    (runs["changed data"] / "config.json").write_text(to_json(config))
    path = runs["tokenizer"] / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"e"', '"E"'))
    return runs


# Program, flags -> what the line must say.
WRONG_RUNS = {
    "sample no workdir": ("sample.py", [], ["--workdir", "missing"]),
    "sample missing": ("sample.py", ["--workdir={bad}/nowhere"], ["nowhere", "is not a run"]),
    "sample no run": ("sample.py", ["--workdir={bad}/notes"], ["notes", "is not a run"]),
    "sample before any checkpoint": ("sample.py", ["--workdir={no checkpoint}"], ["holds no checkpoint yet"]),
    "sample unfinished": ("sample.py", ["--workdir={unfinished}"], ["holds no checkpoint yet"]),
    "sample truncated": ("sample.py", ["--workdir={truncated}"], ["checkpoints/80", "cannot be read"]),
    "sample latest truncated": ("sample.py", ["--workdir={truncated}", "--checkpoint=latest"], ["checkpoints/80"]),
    "sample no parameters": ("sample.py", ["--workdir={no parameters}", "--checkpoint=80"], ["checkpoints/80"]),
    "sample foreign": ("sample.py", ["--workdir={foreign}"], ["shape"]),
    "sample text config": ("sample.py", ["--workdir={text config}"], ["config.json", "is not valid JSON"]),
    "sample broken config": ("sample.py", ["--workdir={broken config}"], ["hiden_dim", "hidden_dim"]),
    "sample no tokenizer": ("sample.py", ["--workdir={no tokenizer}"], ["tokenizer.json"]),
    "sample other tokenizer": ("sample.py", ["--workdir={tokenizer}"], ["tokenizer", "fingerprint"]),
    "sample step": ("sample.py", ["--workdir={streams}", "--checkpoint=999"], ["--checkpoint", "'999'", "80"]),
    "sample word": ("sample.py", ["--workdir={streams}", "--checkpoint=bst"], ["--checkpoint", "'bst'", "best"]),
    "sample input": ("sample.py", ["--workdir={streams}", "--input_file={bad}/none.txt"], ["none.txt"]),
    "sample encoding": (
        "sample.py",
        ["--workdir={streams}", "--input_file={bad}/latin1.txt"],
        ["latin1.txt:1", "UTF-8"],
    ),
    "sample greedy beam": ("sample.py", ["--workdir={streams}", "--greedy", "--beam_size=2"], ["--greedy"]),
    "sample greedy hot": ("sample.py", ["--workdir={streams}", "--greedy", "--temperature=2"], ["--greedy"]),
    "sample beam hot": ("sample.py", ["--workdir={streams}", "--beam_size=2", "--top_k=2"], ["--beam_size"]),
    "sample n best": ("sample.py", ["--workdir={streams}", "--beam_size=2", "--num_samples=3"], ["--num_samples"]),
    "sample cold": ("sample.py", ["--workdir={streams}", "--temperature=-1"], ["--temperature", "-1"]),
    "sample nan": ("sample.py", ["--workdir={streams}", "--temperature=nan"], ["--temperature"]),
    "sample top_p": ("sample.py", ["--workdir={streams}", "--top_p=0"], ["--top_p"]),
    "sample greedy twice": (
        "sample.py",
        ["--workdir={buckets}", "--num_samples=2"],
        ["--num_samples", "--temperature"],
    ),
    "sample penalty": ("sample.py", ["--workdir={streams}", "--length_penalty=1"], ["--length_penalty", "--beam_size"]),
    "sample typical": ("sample.py", ["--workdir={streams}", "--typical_p=0"], ["--typical_p"]),
    "sample free": ("sample.py", ["--workdir={streams}", "--repetition_penalty=0"], ["--repetition_penalty"]),
    "sample penalised beam": (
        "sample.py",
        ["--workdir={streams}", "--repetition_penalty=2", "--beam_size=2"],
        ["--repetition_penalty", "--no_repeat_ngram"],
    ),
    "sample n-gram": ("sample.py", ["--workdir={streams}", "--no_repeat_ngram=-1"], ["--no_repeat_ngram"]),
    "sample short": (
        "sample.py",
        ["--workdir={streams}", "--min_new_tokens=5", "--max_new_tokens=5"],
        ["--min_new_tokens"],
    ),
    "sample ban nothing": ("sample.py", ["--workdir={streams}", "--ban="], ["--ban"]),
    "sample force": ("sample.py", ["--workdir={streams}", "--force=a"], ["--force", "--beam_size"]),
    "sample force and ban": (
        "sample.py",
        ["--workdir={streams}", "--force=one", "--ban=on", "--beam_size=2"],
        ["--force", "'one'", "--ban"],
    ),
    "sample force unknown": (
        "sample.py",
        ["--workdir={streams}", "--force=\u4f60", "--beam_size=2"],
        ["--force", "cannot write"],
    ),
    "sample coverage": (
        "sample.py",
        ["--workdir={streams}", "--coverage_penalty=1", "--beam_size=2"],
        ["--coverage_penalty", "attention"],
    ),
    "sample groups": (
        "sample.py",
        ["--workdir={streams}", "--beam_groups=2", "--beam_size=3"],
        ["--beam_groups", "beam of 3"],
    ),
    "sample diversity": ("sample.py", ["--workdir={streams}", "--diversity_penalty=1"], ["--beam_groups"]),
    "sample mbr greedy": ("sample.py", ["--workdir={streams}", "--mbr_samples=4", "--greedy"], ["--greedy"]),
    "sample mbr beam": ("sample.py", ["--workdir={streams}", "--mbr_samples=4", "--beam_size=2"], ["--beam_size"]),
    "sample mbr best": (
        "sample.py",
        ["--workdir={streams}", "--mbr_samples=4", "--num_samples=5"],
        ["--num_samples", "--mbr_samples"],
    ),
    "sample two tokenizers": (
        "sample.py",
        ["--workdir={streams}", "--workdir={buckets}"],
        ["has another tokenizer"],
    ),
    "sample very long": ("sample.py", ["--workdir={streams}", "--max_new_tokens=3000000000"], ["--max_new_tokens"]),
    "sample two kinds of prompt": (
        "sample.py",
        ["--workdir={streams}", "--interactive", "--prompt=a"],
        ["--interactive"],
    ),
    "sample best is gone": ("sample.py", ["--workdir={best is gone}"], ["the best checkpoint is gone", "latest"]),
    "evaluate changed data": ("lm.evaluate", ["--workdir={changed data}"], ["the test data is not what this run was"]),
    "sample none": ("sample.py", ["--workdir={streams}", "--num_samples=0"], ["--num_samples"]),
    "sample word for number": ("sample.py", ["--workdir={streams}", "--top_k=some"], ["top_k", "some"]),
    "evaluate no run": ("lm.evaluate", ["--workdir={bad}/notes"], ["notes", "is not a run"]),
    "evaluate split": ("lm.evaluate", ["--workdir={streams}", "--split=tset"], ["--split", "did you mean test?"]),
    "evaluate truncated": ("lm.evaluate", ["--workdir={truncated}"], ["checkpoints/80"]),
    "evaluate step": ("lm.evaluate", ["--workdir={streams}", "--checkpoint=999"], ["--checkpoint", "'999'"]),
    "evaluate tokenize": ("lm.evaluate", ["--workdir={buckets}", "--bleu_tokenize=14a"], ["bleu_tokenize", "13a"]),
}


@pytest.fixture(scope="module")
def run_refusals(places, broken) -> dict[str, subprocess.CompletedProcess]:
    where = places | {name: str(path) for name, path in broken.items()}
    calls = [
        ([*(["-m"] if program == "lm.evaluate" else []), program, *(flag.format(**where) for flag in flags)], "one")
        for program, flags, _ in WRONG_RUNS.values()
    ]
    before = {name: tree_of(pathlib.Path(place)) for name, place in where.items()}
    found = dict(zip(WRONG_RUNS, run_programs(*calls), strict=True))
    assert {name: tree_of(pathlib.Path(place)) for name, place in where.items()} == before
    return found


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_programs_that_read_a_run_refuse_in_one_line(name, run_refusals):
    assert_refused(run_refusals[name], *WRONG_RUNS[name][2])
    assert run_refusals[name].stdout == ""


def test_a_run_goes_on_only_from_a_checkpoint_that_is_whole_and_its_own(trained, configs, broken, tmp_path):
    """Where no other is left a damaged one is refused, and so is that of another model; nothing is moved."""
    flags = kill.command(configs["streams"], "WORKDIR")[1:]
    words = {"truncated": "cannot be read", "foreign": "shape"}
    runs = {name: copy_of(broken[name], tmp_path / name) for name in words}
    calls = {name: [flag.replace("WORKDIR", str(run)) for flag in flags] for name, run in runs.items()}
    calls["foreign"].append("--config.model.hidden_dim=24")
    before = {name: tree_of(run / "checkpoints") for name, run in runs.items()}
    for name, done in zip(calls, run_programs(*((call, "") for call in calls.values())), strict=True):
        assert_refused(done, words[name])
        assert tree_of(runs[name] / "checkpoints") == before[name]
        assert (runs[name] / "metrics.jsonl").read_bytes() == (trained["streams"] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("damage", ["half of each file", "no parameters", "no progress", "not even a directory"])
def test_a_damaged_newest_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(
    damage, trained, configs, tmp_path
):
    run = copy_of(trained["streams"], tmp_path / "run")
    newest = run / "checkpoints" / "80"
    if damage == "half of each file":
        for path in newest.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "not even a directory":
        shutil.rmtree(newest)
        newest.mkdir()
    else:
        shutil.rmtree(newest / {"no parameters": "params", "no progress": "progress"}[damage])
    before = tree_of(newest)
    (done,) = run_programs((kill.command(configs["streams"], run)[1:], ""))
    assert (done.returncode, done.stderr) == (0, "")
    assert "resumed after step 72" in done.stdout
    assert re.search(rf"{newest}: cannot be read .* moved to {run}/damaged/80", done.stdout), done.stdout
    assert tree_of(run / "damaged" / "80") == before
    assert kill.differences(run, trained["streams"]) == []


def test_what_was_half_written_when_a_run_was_killed_is_passed_over(trained, configs, tmp_path):
    run = copy_of(trained["streams"], tmp_path / "run")
    shutil.move(run / "checkpoints" / "80", run / "checkpoints" / "80.orbax-checkpoint-tmp-1")
    (run / "checkpoints" / "80.orbax-checkpoint-tmp-1" / "_CHECKPOINT_METADATA").write_text("")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 80, "split": "trai')
    assert load(str(run), "latest").step == 72
    (again,) = run_programs((kill.command(configs["streams"], run)[1:], ""))
    assert (again.returncode, again.stderr) == (0, "")
    assert kill.differences(run, trained["streams"]) == []


# ---- a disk that is full ----------------------------------------------------------------------------------------


def full_disk(size: int):
    """No file of the child grows beyond `size` bytes: writes fail then, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [100, 30_000])
def test_a_full_disk_stops_a_run_and_leaves_its_last_checkpoint(size, trained, configs, tmp_path):
    """The smallest leaves no room for a line of metrics, the largest none for a checkpoint."""
    run = copy_of(trained["buckets"], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "80")
    before = tree_of(run / "checkpoints" / "72")
    command = kill.command(configs["buckets"], run)[1:]
    done = run_program(*command, preexec_fn=full_disk(size))
    assert_refused(done, str(run))
    assert tree_of(run / "checkpoints" / "72") == before
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load(str(run), "latest").params))
    again = run_program(*command)  # room was made
    assert again.returncode == 0, again.stderr
    assert kill.differences(run, trained["buckets"]) == []


def test_a_disk_that_is_full_from_the_start_is_refused(configs, tmp_path):
    command = kill.command(configs["streams"], tmp_path / "run")[1:]
    run_program(*command, "--config.training.steps=1")  # so that the ids are cached, which are written first
    shutil.rmtree(tmp_path / "run")
    assert_refused(run_program(*command, preexec_fn=full_disk(100)), str(tmp_path / "run"))


def test_a_cache_that_cannot_be_written_is_named(configs, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path / "cache"))
    command = kill.command(configs["streams"], tmp_path / "run")[1:]
    done = run_program(*command, preexec_fn=full_disk(100))
    assert_refused(done, str(tmp_path / "cache"), "cannot be written", "LM_CACHE_DIR")
    assert not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob("*/*.json"))


def test_an_error_shows_its_traceback_when_asked_for():
    done = run_program("sample.py", "--workdir=/nowhere", "--debug")
    assert done.returncode not in (0, 2) and "Traceback" in done.stderr and "UserError" in done.stderr
