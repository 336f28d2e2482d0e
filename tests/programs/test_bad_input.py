"""What a user can mend: one line on standard error, exit code 2, and nothing lost."""

import contextlib
import gzip
import json
import pathlib
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from support.directories import edit, reconfigured
from support.programs import run_alone, run_program, run_programs, tree_of
from support.sizes import sized

import lm
from benchmarks import kill
from lm import changed
from lm.runs.run import load


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line, `error: WHERE: WHAT; HOW TO FIX`, that has these words; exit code 2; no traceback."""
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
    (folder / "args.py").write_text("def get_config(a, b):\n    return None\n")
    (folder / "stages.py").write_text("TASKS = {'a': 'b'}\ndef get_config(stage):\n    raise ValueError(stage)\n")
    (folder / "three.tsv").write_text("a\tb\nc\td\te\n")
    (folder / "list.jsonl").write_text("[1, 2]\n")
    (folder / "fake.tsv.gz").write_text("a\tb\n")
    (folder / "cut.tsv.gz").write_bytes(gzip.compress(b"a\tb\n" * 9999)[:60])
    (folder / "fake.tsv.zst").write_text("a\tb\n")
    (folder / "labels.tsv").write_text("ant\tugly\n" * 5)
    (folder / "text.model").write_text("no model at all\n")
    (folder / "empty.model").write_text("")
    (folder / "narrow.vec").write_text("ant 0.1 0.2\nbee 0.1 0.3\n")
    (folder / "strange.vec").write_text(f"zebra{' 1' * 8}\n")
    (folder / "words.vec").write_text(f"ant{' x' * 8}\n")
    (folder / "field.flags").write_text("--config.model.hiden_dim=8\n")
    (folder / "binary.flags").write_bytes(b"\xff\xfe\x00")
    (folder / "file").write_text("no directory")
    (folder / "notes").mkdir()
    (folder / "notes" / "diary.txt").write_text("dear diary")
    return folder


# ---- train.py, before it writes anything ------------------------------------------------------------------------

# What is changed of a good command line -> what the line must say. {bad} is the folder, {good} a good source.
WRONG_FLAGS = {
    "unknown config file": (["--config=configs/shakespear.py"], ["--config", "configs/shakespeare.py"]),
    "config file is a directory": (["--config=configs"], ["configs", "is a directory"]),
    "config file is not Python": (["--config={bad}/not_python.py"], ["not_python.py"]),
    "config file without get_config": (["--config={bad}/no_function.py"], ["no_function.py", "get_config"]),
    "get_config raises": (["--config={bad}/raises.py"], ["raises.py", "steps"]),
    "config file imports what is not there": (["--config={bad}/imports.py"], ["imports.py", "no_such_module"]),
    "get_config returns something else, and a field is given": (
        ["--config={bad}/other_type.py", "--config.seed=1"],
        ["other_type.py", "get_config() returned dict"],
    ),
    "get_config returns something else": (["--config={bad}/other_type.py"], ["Config"]),
    "no flagfile there": (["--flagfile={bad}/none.flags"], ["flagfile", "none.flags"]),
    "flagfile is a directory": (["--flagfile={bad}"], ["flagfile", "{bad}"]),
    "unknown field in a flagfile": (["--flagfile={bad}/field.flags"], ["--config.model.hiden_dim", "model.hidden_dim"]),
    "flagfile is not text": (["--flagfile={bad}/binary.flags"], ["--flagfile", "binary.flags", "is UTF-16"]),
    "unknown section": (["--config.modle.cell=lstm"], ["--config.modle.cell", "model.cell"]),
    "unknown field": (
        ["--config.model.hiden_dim=3"],
        ["--config.model.hiden_dim", "did you mean --config.model.hidden_dim?"],
    ),
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
    "no such tokenizer of a run": (["--config.data.tokenizer.kind={bad}/tokenizer.json"], ["{bad}/tokenizer.json"]),
    "noise without its signs": (
        [
            *("--config.data.task=denoise", "--config.training.init_from={buckets}"),
            *("--config.data.train=jsonl:{bad}/text.jsonl", "--config.data.validation=jsonl:{bad}/text.jsonl"),
            "--config.data.test=",
        ],
        ["config.data.noise", "the tokenizer has 0", "config.data.tokenizer.sentinels="],
    ),
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
    "config file wants arguments": (["--config={bad}/args.py"], ["args.py", "get_config"]),
    "config file that takes no stage": (["--config=configs/shakespeare.py:x"], ["shakespeare.py"]),
    "config file without a name": (["--config="], ["--config"]),
    "seed below zero": (["--config.seed=-1"], ["config.seed", "-1"]),
    "seed too large": (["--config.seed=99999999999999999999"], ["config.seed"]),
    "no seed": (["--config.seed="], ["seed"]),
    "no rows": (["--config.data.batch_size=0"], ["config.data.batch_size", "0"]),
    "too many rows": (["--config.data.batch_size=1000000000"], ["config.data.batch_size", "give 1 to 1048576"]),
    "parts that do not divide": (["--config.training.accumulate=3"], ["config.training.accumulate", "batch size 8"]),
    "unknown mode of devices": (["--config.training.parallel=ddp"], ["config.training.parallel", "fsdp"]),
    "shards of pmap": (["--config.training.shards=2"], ["config.training.shards", "fsdp"]),
    "unknown cell": (["--config.model.cell=lstn"], ["config.model.cell", "did you mean lstm?"]),
    "heads that do not divide": (["--config.model.heads=5"], ["config.model.heads", "16"]),
    "unknown type": (["--config.model.dtype=float8"], ["config.model.dtype", "bfloat16"]),
    "a model of many petabytes": (["--config.model.hidden_dim=100000000"], ["config.model", "GiB", "this machine has"]),
    "an embedding of many terabytes": (["--config.model.embed_dim=1000000000"], ["config.model", "GiB"]),
    "too many layers": (["--config.model.layers=1000000"], ["config.model.layers", "give 1 to 1000"]),
    "unknown optimizer": (["--config.optimizer.name=adamx"], ["config.optimizer.name", "adam"]),
    "a learning rate that is no number": (["--config.optimizer.learning_rate=nan"], ["config.optimizer.learning_rate"]),
    "a group that is no expression": (["--config.optimizer.groups=(=>0"], ["config.optimizer.groups", "'(' is not"]),
    "a group without parameters": (["--config.optimizer.groups=nothing/.*=>0,.*=>1"], ["nothing/.*", "names: "]),
    "no steps": (["--config.training.steps=0"], ["config.training.steps", "zero"]),
    "too many steps": (["--config.training.steps=1e30"], ["config.training.steps", "2147483648"]),
    "unknown cleaning": (["--config.data.cleaning=nfcc"], ["config.data.cleaning", "did you mean nfc?"]),
    "cleaning without its end": (["--config.data.cleaning=words(1"], ["config.data.cleaning"]),
    "cleaning by words for numbers": (["--config.data.cleaning=words(a,b)"], ["config.data.cleaning"]),
    "cleaning upside down": (["--config.data.cleaning=words(5,1)"], ["config.data.cleaning"]),
    "cleaning that leaves nothing": (["--config.data.cleaning=words(100,200)"], ["config.data.cleaning"]),
    "a format with another field": (["--config.data.source_format={{question}}"], ["question", "source, target"]),
    "a format without its end": (["--config.data.source_format={{question"], ["config.data.source_format"]),
    "a weight of nothing": (["--config.data.train=0*tsv:{bad}/short.txt"], ["config.data.train", "0"]),
    "a weight that is no number": (["--config.data.train=x*tsv:{bad}/short.txt"], ["config.data.train", "x*tsv"]),
    "three formats": (["--config.data.train=tsv:{bad}/short.txt | a | b | c"], ["config.data.train", "3 formats"]),
    "one of two files": (["--config.data.train=parallel:{bad}/short.txt"], ["does not name two files"]),
    "a scheme alone": (["--config.data.train=tsv:"], ["names nothing to read"]),
    "a path without a scheme": (["--config.data.train=pairs.tsv"], ["has no known scheme"]),
    "two tabs": (["--config.data.train=tsv:{bad}/three.tsv"], ["three.tsv:2", "2 tabs"]),
    "two tabs in validation": (["--config.data.validation=tsv:{bad}/three.tsv"], ["three.tsv:2", "2 tabs"]),
    "a list for a record": (["--config.data.train=jsonl:{bad}/list.jsonl"], ["list.jsonl:1", "not a JSON object"]),
    "what is not compressed": (["--config.data.train=tsv:{bad}/fake.tsv.gz"], ["fake.tsv.gz", "decompressed"]),
    "what was cut": (["--config.data.train=tsv:{bad}/cut.tsv.gz"], ["cut.tsv.gz", "cannot be decompressed"]),
    "what is no Zstandard": (["--config.data.train=tsv:{bad}/fake.tsv.zst"], ["fake.tsv.zst", "decompressed"]),
    "a device": (["--config.data.train=tsv:/dev/zero"], ["/dev/zero", "is a device"]),
    "a bucket without its package": (["--config.data.train=tsv:gs://b/x.tsv"], ["gs://b/x.tsv"]),
    "unknown split": (["--config.data.train=tfds:tinyworld/translate:trian"], ["did you mean train?"]),
    "unknown config of a data set": (["--config.data.train=tfds:tinyworld/translat"], ["did you mean translate?"]),
    "a data set of no examples": (["--config.data.train=tfds:tinyworld/translate/train=-1"], ["at least 1"]),
    "a data set too hard": (["--config.data.train=tfds:tinyworld/translate/difficulty=9"], ["difficulty is 9"]),
    "a tokenizer of text": (["--config.data.tokenizer.kind={bad}/text.model"], ["is not a SentencePiece model"]),
    "an empty tokenizer": (["--config.data.tokenizer.kind={bad}/empty.model"], ["is not a SentencePiece model"]),
    "a directory for a tokenizer": (["--config.data.tokenizer.kind={bad}/notes"], ["notes", ".model"]),
    "a piece twice": (["--config.data.tokenizer.pieces=<a>,<a>"], ["config.data.tokenizer.pieces", "twice"]),
    "a piece of the tokenizer's own": (["--config.data.tokenizer.pieces=<pad>"], ["config.data.tokenizer.pieces"]),
    "unknown task": (["--config.data.task=clasify"], ["config.data.task", "did you mean classify?"]),
    "a layout of another task": (["--config.data.layout=streams"], ["config.data.layout", "seq2seq"]),
    "no answer in any source": (["--config.data.task=extract"], ["config.data", "span"]),
    "a label that training has not": (
        ["--config.data.task=classify", "--config.data.validation=tsv:{bad}/labels.tsv"],
        ["config.data.validation", "'ugly'"],
    ),
    "start from a mean of too many": (["--config.training.init_from={buckets}:mean:9"], ["'mean:9'"]),
    "vectors of another width": (["--config.training.word_vectors={bad}/narrow.vec"], ["2 numbers", "embed_dim is 8"]),
    "vectors of no word": (["--config.training.word_vectors={bad}/strange.vec"], ["has no word of the vocabulary"]),
    "vectors of words": (["--config.training.word_vectors={bad}/words.vec"], ["words.vec"]),
    "no checkpoint kept": (["--config.training.keep_checkpoints=0"], ["config.training.keep_checkpoints"]),
    "unknown answer to what is not finite": (["--config.training.not_finite=ignore"], ["not_finite", "rewind"]),
    "a workdir with too long a name": (["--workdir={bad}/" + "a" * 300], ["File name too long"]),
    "a workdir in a bucket without its package": (["--workdir=gs://bucket/run"], ["gs://bucket/run"]),
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
    for name in (
        *("truncated", "no parameters", "foreign", "text config", "broken config", "no tokenizer", "tokenizer"),
        *("config directory", "half tokenizer", "checkpoints file", "broken progress", "no progress", "empty progress"),
        *("no shapes", "broken manifest", "strange manifest", "older", "binary metrics", "strange metrics"),
    ):
        runs[name] = copy_of(trained["streams"], base / name)
    (runs["config directory"] / "config.json").unlink()
    (runs["config directory"] / "config.json").mkdir()
    (runs["half tokenizer"] / "tokenizer" / "tokenizer.json").write_text("{")
    shutil.rmtree(runs["checkpoints file"] / "checkpoints")
    (runs["checkpoints file"] / "checkpoints").write_text("x")
    for step in ("72", "80"):  # the best of this run, and the last
        (runs["broken progress"] / "checkpoints" / step / "progress" / "metadata").write_text("{")
        shutil.rmtree(runs["no progress"] / "checkpoints" / step / "progress")
        (runs["empty progress"] / "checkpoints" / step / "progress" / "metadata").write_text("{}")
        (runs["no shapes"] / "checkpoints" / step / "params" / "_METADATA").write_text("[")
    (runs["broken manifest"] / "manifest.json").write_text("{")
    (runs["strange manifest"] / "manifest.json").write_text("[]")
    manifest = (runs["older"] / "manifest.json").read_text()
    (runs["older"] / "manifest.json").write_text(manifest.replace(f'"lm": "{lm.__version__}"', '"lm": "0.1.7"'))
    (runs["binary metrics"] / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    (runs["strange metrics"] / "metrics.jsonl").write_text('{"step": 4}\n3\n')
    labels = changed(configs["buckets"], {"data.task": "classify"})
    for name, text in {"broken labels": "[", "strange labels": "3", "no labels": "[]"}.items():
        runs[name] = copy_of(trained["buckets"], base / name)
        reconfigured(runs[name], labels)
        (runs[name] / "labels.json").write_text(text)
    runs["half model"] = copy_of(trained["buckets"], base / "half model")
    (model,) = (runs["half model"] / "tokenizer").glob("*.model")
    model.write_bytes(model.read_bytes()[:99])
    damaged_checkpoints(runs["truncated"], 80)
    shutil.rmtree(runs["no parameters"] / "checkpoints" / "80" / "params")
    # The checkpoints are of a model with 16 units.
    reconfigured(runs["foreign"], changed(configs["streams"], {"model.hidden_dim": 24}))
    (runs["text config"] / "config.json").write_text("cell = lstm")
    config = (runs["broken config"] / "config.json").read_text()
    (runs["broken config"] / "config.json").write_text(config.replace('"hidden_dim"', '"hiden_dim"'))
    shutil.rmtree(runs["no tokenizer"] / "tokenizer")
    runs["best is gone"] = copy_of(trained["buckets"], base / "best is gone")
    progress = runs["best is gone"] / "checkpoints" / "80" / "progress" / "metadata"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"best_step": 24}))
    edit(progress.parents[1] / "_CHECKPOINT_METADATA", lambda tree: tree["custom_metadata"]["digests"].pop("progress"))
    runs["changed data"] = copy_of(trained["buckets"], base / "changed data")
    (base / "other.tsv").write_text("ant\tant\nbee\tbee\n")
    reconfigured(runs["changed data"], changed(configs["buckets"], {"data.test": f"tsv:{base}/other.tsv"}))
    runs["no manifest"] = copy_of(trained["buckets"], base / "no manifest")
    (runs["no manifest"] / "manifest.json").unlink()
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
    "sample force too long": (
        "sample.py",
        ["--workdir={streams}", "--force=one two", "--beam_size=2", "--max_new_tokens=5"],
        ["--force", "at least 7 tokens", "--max_new_tokens"],
    ),
    "sample force and stop": (
        "sample.py",
        ["--workdir={streams}", "--force=one", "--stop=n", "--beam_size=2"],
        ["--force", "'one'", "--stop"],
    ),
    "sample stop nothing": ("sample.py", ["--workdir={streams}", "--stop="], ["--stop"]),
    "sample into a directory": (
        "sample.py",
        ["{streams}", "--output_file={bad}/notes"],
        ["notes", "not a regular file"],
    ),
    "sample over a file": ("sample.py", ["{streams}", "--output_file={bad}/file"], ["{bad}/file", "move it away"]),
    "sample interactive into a file": (
        "sample.py",
        ["{streams}", "--interactive", "--output_file=x"],
        ["--interactive"],
    ),
    "evaluate force too long": (
        "lm.evaluate",
        ["--workdir={buckets}", "--force=ant bee cat", "--beam_size=2", "--max_new_tokens=2"],
        ["--force", "tokens", "--max_new_tokens"],
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
    "sample best is gone": (
        "sample.py",
        ["--workdir={best is gone}"],
        ["is the best checkpoint and is missing", "latest"],
    ),
    "evaluate changed data": ("lm.evaluate", ["--workdir={changed data}"], ["was started with other test data"]),
    "sample none": ("sample.py", ["--workdir={streams}", "--num_samples=0"], ["--num_samples"]),
    "sample word for number": ("sample.py", ["--workdir={streams}", "--top_k=some"], ["top_k", "some"]),
    "evaluate no run": ("lm.evaluate", ["--workdir={bad}/notes"], ["notes", "is not a run"]),
    "evaluate split": ("lm.evaluate", ["--workdir={streams}", "--split=tset"], ["--split", "did you mean test?"]),
    "evaluate truncated": ("lm.evaluate", ["--workdir={truncated}"], ["checkpoints/80"]),
    "evaluate step": ("lm.evaluate", ["--workdir={streams}", "--checkpoint=999"], ["--checkpoint", "'999'"]),
    "evaluate tokenize": ("lm.evaluate", ["--workdir={buckets}", "--bleu_tokenize=14a"], ["bleu_tokenize", "13a"]),
    "evaluate nothing": ("lm.evaluate", [], ["workdir"]),
    "evaluate three": ("lm.evaluate", ["{streams}", "{buckets}", "{streams}"], ["workdir"]),
    "evaluate two tasks": ("lm.evaluate", ["{streams}", "{buckets}"], ["{buckets}"]),
    "evaluate score": ("lm.evaluate", ["--workdir={buckets}", "--scores=blue"], ["--scores", "did you mean bleu?"]),
    "evaluate scores of text": ("lm.evaluate", ["--workdir={streams}", "--scores=bleu"], ["--scores"]),
    "evaluate beam of text": ("lm.evaluate", ["--workdir={streams}", "--beam_size=2"], ["--beam_size", "no outputs"]),
    "evaluate drawn": ("lm.evaluate", ["--workdir={buckets}", "--top_k=3", "--beam_size=2"], ["--beam_size"]),
    "evaluate beam": ("lm.evaluate", ["--workdir={buckets}", "--beam_size=-1"], ["--beam_size"]),
    "evaluate penalty": ("lm.evaluate", ["--workdir={buckets}", "--length_penalty=1"], ["--length_penalty"]),
    "evaluate mean": ("lm.evaluate", ["--workdir={buckets}", "--checkpoint=mean:99"], ["'mean:99'"]),
    "evaluate broken manifest": (
        "lm.evaluate",
        ["--workdir={broken manifest}"],
        ["manifest.json", "is not valid JSON"],
    ),
    "evaluate strange manifest": (
        "lm.evaluate",
        ["--workdir={strange manifest}"],
        ["manifest.json", "is not an object"],
    ),
    "evaluate no manifest": (
        "lm.evaluate",
        ["--workdir={no manifest}", "--split=validation"],
        ["no manifest with a fingerprint of its validation data", "--data=SOURCE"],
    ),
    "data no manifest": (
        "lm.data",
        ["{no manifest}"],
        ["no manifest with a fingerprint", "--config.data.train=SOURCE"],
    ),
    "sample superscript": (
        "sample.py",
        ["--workdir={streams}", "--checkpoint=\u00b2"],
        ["--checkpoint", "is not a checkpoint of this run"],
    ),
    "sample older": ("sample.py", ["--workdir={older}"], ["older", "of lm 0.1.7"]),
    "sample config directory": ("sample.py", ["--workdir={config directory}"], ["config.json"]),
    "sample half tokenizer": ("sample.py", ["--workdir={half tokenizer}"], ["tokenizer.json", "is damaged"]),
    "sample half model": ("sample.py", ["--workdir={half model}"], ["is not a SentencePiece model"]),
    "sample checkpoints file": ("sample.py", ["--workdir={checkpoints file}"], ["checkpoints"]),
    "sample broken progress": ("sample.py", ["--workdir={broken progress}"], ["checkpoints/80", "cannot be read"]),
    "sample no progress": ("sample.py", ["--workdir={no progress}"], ["checkpoints/80", "cannot be read"]),
    "sample empty progress": ("sample.py", ["--workdir={empty progress}"], ["checkpoints/80", "cannot be read"]),
    "sample no shapes": ("sample.py", ["--workdir={no shapes}", "--checkpoint=latest"], ["80", "cannot be read"]),
    "sample broken labels": ("sample.py", ["--workdir={broken labels}"], ["labels.json"]),
    "sample strange labels": ("sample.py", ["--workdir={strange labels}"], ["labels.json", "is not a list"]),
    "sample no labels": ("sample.py", ["--workdir={no labels}"], ["labels.json", "is empty"]),
    "sample bucket": ("sample.py", ["--workdir=gs://bucket/run"], ["gs://bucket/run", "package"]),
    "sample bytes": ("sample.py", ["--workdir={streams}", "--prompt=a\udcff"], ["--prompt", "is not UTF-8"]),
    "sample input directory": ("sample.py", ["--workdir={streams}", "--input_file={bad}/notes"], ["notes"]),
    "sample min_p": ("sample.py", ["--workdir={streams}", "--min_p=2"], ["--min_p"]),
    "sample no beams": ("sample.py", ["--workdir={streams}", "--beam_size=-1"], ["--beam_size"]),
    "sample many beams": ("sample.py", ["--workdir={streams}", "--beam_size=100000000"], ["--beam_size", "10000"]),
    "sample many": ("sample.py", ["--workdir={streams}", "--num_samples=100000000"], ["--num_samples", "100000"]),
    "sample top_k": ("sample.py", ["--workdir={streams}", "--top_k=-1"], ["--top_k"]),
    "sample seed": ("sample.py", ["--workdir={streams}", "--seed=-1"], ["--seed"]),
    "sample no groups": ("sample.py", ["--workdir={streams}", "--beam_groups=0"], ["--beam_groups"]),
    "sample long penalty": (
        "sample.py",
        ["--workdir={streams}", "--length_penalty=nan", "--beam_size=2"],
        ["--length_penalty"],
    ),
    "sample no tokens": ("sample.py", ["--workdir={streams}", "--max_new_tokens=-1"], ["--max_new_tokens"]),
    "sample mean of none": ("sample.py", ["--workdir={streams}", "--checkpoint=mean:0"], ["--checkpoint", "mean:0"]),
    "sample hot": ("sample.py", ["--workdir={streams}", "--temperature=inf"], ["--temperature"]),
    "sample surprise": ("sample.py", ["--workdir={streams}", "--typical_p=nan"], ["--typical_p"]),
    "sample a flag of two words": ("sample.py", ["--workdir={streams}", "--json=5"], ["json", "5"]),
    "sample without a value": ("sample.py", ["--workdir={streams}", "--prompt"], ["prompt"]),
    "data nothing": ("lm.data", [], ["SPEC: is missing"]),
    "data no config": ("lm.data", ["configs/shakespear.py"], ["shakespear.py"]),
    "data scheme": ("lm.data", ["csv:x"], ["csv"]),
    "data no file": ("lm.data", ["tsv:{bad}/missing.tsv"], ["missing.tsv", "no such file"]),
    "data two tabs": ("lm.data", ["tsv:{bad}/three.tsv"], ["three.tsv:2"]),
    "data first": ("lm.data", ["--first=-1", "configs/translate.py"], ["first"]),
    "data two configs": ("lm.data", ["configs/translate.py", "configs/stories.py"], ["SPEC: is given 2 times"]),
    "pipeline nothing": ("lm.pipeline", [], ["needs one pipeline file"]),
    "pipeline no config": ("lm.pipeline", ["configs/none.py"], ["none.py"]),
    "pipeline no tasks": ("lm.pipeline", ["configs/shakespeare.py"], ["shakespeare.py", "TASKS"]),
    "pipeline stage": ("lm.pipeline", ["{bad}/stages.py"], ["stages.py:3", "ValueError: b"]),
    "pipeline seeds": ("lm.pipeline", ["configs/pipelines/tinyworld.py", "--seeds=x"], ["--seeds"]),
    "pipeline task": ("lm.pipeline", ["configs/pipelines/tinyworld.py", "--tasks=stori"], ["--tasks", "stories"]),
}


def test_there_are_at_least_150_cases():
    assert len(WRONG_FLAGS) + len(WRONG_RUNS) >= 150


@pytest.fixture(scope="module")
def run_refusals(places, broken) -> dict[str, subprocess.CompletedProcess]:
    where = places | {name: str(path) for name, path in broken.items()}
    calls = [
        ([*(["-m"] if program.startswith("lm.") else []), program, *(flag.format(**where) for flag in flags)], "one")
        for program, flags, _ in WRONG_RUNS.values()
    ]
    before = {name: tree_of(pathlib.Path(place)) for name, place in where.items()}
    found = dict(zip(WRONG_RUNS, run_programs(*calls), strict=True))
    assert {name: tree_of(pathlib.Path(place)) for name, place in where.items()} == before
    return found


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_programs_that_read_a_run_refuse_in_one_line(name, run_refusals, places):
    assert_refused(run_refusals[name], *(word.format(**places) for word in WRONG_RUNS[name][2]))
    assert run_refusals[name].stdout == ""


def test_a_run_goes_on_only_from_a_checkpoint_that_is_whole_and_its_own(trained, configs, broken, tmp_path):
    """Where no other is left a damaged one is refused, and so is that of another model; nothing is moved."""
    flags = kill.command(configs["streams"], "WORKDIR")[1:]
    words = {"truncated": "cannot be read", "foreign": "shape", "broken manifest": "manifest.json: is not valid JSON"}
    words |= {"binary metrics": "metrics.jsonl:1: is not a line", "strange metrics": "metrics.jsonl:1: is not a line"}
    words |= {
        "older": "of lm 0.1.7",
        "half tokenizer": "is damaged",
        "checkpoints file": "checkpoints",
        "config directory": "config.json",
    }
    runs = {name: copy_of(broken[name], tmp_path / name) for name in words}
    files = {name: tree_of(run) for name, run in runs.items()}
    calls = {name: [flag.replace("WORKDIR", str(run)) for flag in flags] for name, run in runs.items()}
    calls["foreign"].append("--config.model.hidden_dim=24")
    for name, done in zip(calls, run_programs(*((call, "") for call in calls.values())), strict=True):
        assert_refused(done, words[name])
        after = tree_of(runs[name])
        for starts in (files[name], after):  # what may have been added to
            starts.pop("manifest.json")
        assert after == files[name]


@pytest.mark.parametrize(
    "damage",
    sized(
        ["half of each file", "no parameters", "no progress", "not even a directory"],
        lambda damage: damage.startswith(("half", "no pro")),
    ),
)
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
    done = run_program(*kill.command(configs["streams"], run)[1:])
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
    again = run_program(*kill.command(configs["streams"], run)[1:])
    assert (again.returncode, again.stderr) == (0, "")
    assert kill.differences(run, trained["streams"]) == []


# ---- a disk that is full ----------------------------------------------------------------------------------------


def full_disk(size: int) -> str:
    """No file of the program grows beyond `size` bytes: writes fail then, as on a full disk. (Python ignores SIGXFSZ.)"""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@pytest.mark.parametrize("size", sized([100, 30_000], lambda size: size > 100))
def test_a_full_disk_stops_a_run_and_leaves_its_last_checkpoint(size, trained, configs, tmp_path):
    """The smallest leaves no room for a line of metrics, the largest none for a checkpoint."""
    run = copy_of(trained["buckets"], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "80")
    before = tree_of(run / "checkpoints" / "72")
    command = kill.command(configs["buckets"], run)[1:]
    done = run_alone(*command, before=full_disk(size))
    assert_refused(done, str(run))
    assert tree_of(run / "checkpoints" / "72") == before
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load(str(run), "latest").params))
    again = run_program(*command)  # room was made
    assert again.returncode == 0, again.stderr
    assert kill.differences(run, trained["buckets"]) == []


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_is_refused(configs, tmp_path):
    command = kill.command(configs["streams"], tmp_path / "run")[1:]
    run_program(*command, "--config.training.steps=1")  # so that the ids are cached, which are written first
    shutil.rmtree(tmp_path / "run")
    assert_refused(run_alone(*command, before=full_disk(100)), str(tmp_path / "run"))


def test_a_cache_that_cannot_be_written_is_named(configs, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path / "cache"))
    command = kill.command(configs["streams"], tmp_path / "run")[1:]
    done = run_alone(*command, before=full_disk(100))
    assert_refused(done, str(tmp_path / "cache"), "cannot be written", "LM_CACHE_DIR")
    assert not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob("*/*.json"))


def test_an_error_shows_its_traceback_when_asked_for():
    done = run_program("sample.py", "--workdir=/nowhere", "--debug")
    assert done.returncode not in (0, 2) and "Traceback" in done.stderr and "UserError" in done.stderr


# ---- rights -----------------------------------------------------------------------------------------------------


# root keeps to the rights of files as other users do: the program has no capability to pass over them.
NO_RIGHTS_BEYOND_THE_FILES = """
import ctypes, os
if os.geteuid() == 0:
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        if ctypes.CDLL(None).prctl(24, capability):  # PR_CAPBSET_DROP
            raise OSError("no right to give up rights")
"""


@contextlib.contextmanager
def forbidden(path: pathlib.Path, mode: int):
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.slow
def test_what_may_not_be_written_stops_a_run_and_leaves_its_last_checkpoint(trained, configs, tmp_path):
    """The directory of checkpoints, then a new run's parent; with the right given back, the run goes on."""
    run = copy_of(trained["buckets"], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "80")
    before = tree_of(run / "checkpoints")
    command = kill.command(configs["buckets"], run)[1:]
    with forbidden(run / "checkpoints", 0o500):
        done = run_alone(*command, before=NO_RIGHTS_BEYOND_THE_FILES)
    assert_refused(done, str(run / "checkpoints"), "Permission denied")
    assert tree_of(run / "checkpoints") == before
    again = run_alone(*command, before=NO_RIGHTS_BEYOND_THE_FILES)
    assert again.returncode == 0, again.stderr
    assert kill.differences(run, trained["buckets"]) == []
    parent = tmp_path / "parent"
    parent.mkdir()
    with forbidden(parent, 0o500):
        command = kill.command(configs["buckets"], parent / "run")[1:]
        assert_refused(run_alone(*command, before=NO_RIGHTS_BEYOND_THE_FILES), str(parent), "Permission denied")
    assert not list(parent.iterdir())


def test_what_may_not_be_read_is_named(trained, configs, sources, tmp_path):
    run = copy_of(trained["streams"], tmp_path / "run")
    data = tmp_path / "data.tsv"
    data.write_text("a\tb\n" * 30)
    command = kill.command(configs["buckets"], tmp_path / "new")[1:]
    with forbidden(data, 0o000):
        done = run_alone(*command, f"--config.data.train=tsv:{data}", before=NO_RIGHTS_BEYOND_THE_FILES)
        assert_refused(done, str(data), "Permission denied")
    for name in ("config.json", "tokenizer/tokenizer.json", "checkpoints"):
        with forbidden(run / name, 0o000):
            done = run_alone("sample.py", f"--workdir={run}", input="", before=NO_RIGHTS_BEYOND_THE_FILES)
            assert_refused(done, str(run / name), "Permission denied")
    assert tree_of(run) == tree_of(trained["streams"])
