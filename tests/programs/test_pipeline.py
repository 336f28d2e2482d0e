"""The whole pipeline on tiny data: its stages meet in the run directories, and each is run once."""

import json
import re

import pytest
from etils import epath
from support.programs import ROOT, run_program, run_programs, tree_of

from lm.lab import pretraining, tables

FILE = """
from lm.config import *
TASKS = {{"reverse": "back", "tell": "pretrain"}}
BEFORE = {{"restore": "pretrain", "back": "pretrain"}}
WRITES = {{"restore": "tsv:{0}/pairs.tsv | | {{target}}"}}

def get_config(stage="pretrain"):
    pairs, texts = "tsv:{0}/pairs.tsv", "tsv:{0}/pairs.tsv | | {{source}}"
    task = {{"pretrain": "denoise", "tell": "lm"}}.get(stage, "seq2seq")
    source = pairs if task == "seq2seq" else texts
    return Config(
        data=DataConfig(train="jsonl:{{workdir}}/restore.jsonl" if stage == "back" else source, validation=source, test=source,
            task=task, batch_size=8, buckets=1, window=16, noise=NoiseConfig(rate=0.5),
            tokenizer=TokenizerConfig("unigram", 280, pieces=Names(["<ant>"] if stage == "reverse" else []),
                sampling=0.1 * (stage == "reverse"))),
        model=ModelConfig(embed_dim=16, hidden_dim=16, layers=1, attention="dot", tied=True),
        optimizer=OptimizerConfig(groups=("embedding/.*=>0.5", ".*=>1") if stage in TASKS else ()),
        training=TrainingConfig(steps=8, eval_every=4, checkpoint_every=4, eval_examples=0,
            init_params=("embedding/.*", "decoder/layers_.*") if stage == "tell" else ()),
    )
"""
STARTS_FROM = {"reverse": "back", "tell": "pretrain"}
PRETRAINED = ("pretrain", "restore", "back")
# Of one task with two seeds, of the other with one.
SEEDS = {"reverse": (0, 3), "tell": (3,)}
RUNS = [f"{task}-{start}-{seed}" for task, seeds in SEEDS.items() for seed in seeds for start in pretraining.STARTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pairs):
    """The files of a pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs[:40]))
    (folder / "tiny.py").write_text(FILE.format(folder))
    return folder


@pytest.fixture(scope="module")
def done(folder):
    """A pipeline that ran to its end, first with one seed of each task: its folder, the arguments and what it printed."""
    arguments = ["-m", "lm.pipeline", f"{folder}/tiny.py", f"--workdir={folder}/runs"]
    first = run_program(*arguments, "--seeds=3")
    assert first.returncode == 0, first.stderr
    arguments += ["--seeds=0,3", "--tasks=reverse"]
    more = run_program(*arguments)
    assert more.returncode == 0, more.stderr
    return folder, arguments, first.stdout + more.stdout


@pytest.mark.slow
def test_every_stage_is_a_run_and_the_table_is_of_their_records(done):
    folder, _, printed = done
    assert {path.name for path in (folder / "runs").iterdir()} == {
        *PRETRAINED,
        *RUNS,
        "restore.jsonl",
        "table.md",
        "table.json",
    }
    records = {name: json.loads(next((folder / "runs" / name / "evaluations").iterdir()).read_text()) for name in RUNS}
    found = json.loads((folder / "runs" / "table.json").read_text())
    (row,) = found["rows"]  # no floor is known, and a language model has no outputs
    assert (row["task"], row["what"]) == ("reverse", "error")
    for start in pretraining.STARTS:
        assert row[start]["values"] == [1 - records[f"reverse-{start}-{seed}"]["exact_match"] for seed in (0, 3)]
    assert (folder / "runs" / "table.md").read_text() in printed


@pytest.mark.slow
def test_pretraining_is_all_that_differs(done):
    folder, _, printed = done
    for task, seeds in SEEDS.items():
        for seed in seeds:
            scratch, pretrained = (
                json.loads((folder / "runs" / f"{task}-{start}-{seed}" / "config.json").read_text())
                for start in pretraining.STARTS
            )
            assert scratch["seed"] == pretrained["seed"] == seed
            assert pretrained["training"].pop("init_from") == f"{folder}/runs/{STARTS_FROM[task]}"
            assert scratch["training"].pop("init_from") == "" and scratch["training"].pop("init_params") == []
            pretrained["training"].pop("init_params")
            assert pretrained["optimizer"].pop("groups") and scratch["optimizer"].pop("groups") == []
            kinds = [config["data"]["tokenizer"].pop("kind") for config in (scratch, pretrained)]
            assert [config["data"]["tokenizer"].pop("vocab_size") for config in (scratch, pretrained)] == [0, 280]
            assert kinds == [f"{folder}/runs/{STARTS_FROM[task]}/tokenizer/tokenizer.json", "unigram"]
            assert scratch == pretrained
            saved = [
                folder / "runs" / f"{task}-{start}-{seed}" / "tokenizer/tokenizer.json" for start in pretraining.STARTS
            ]
            assert saved[0].read_bytes() == saved[1].read_bytes()
            assert json.loads(saved[0].read_text()).get("added", []) == (["<ant>"] if task == "reverse" else [])
    assert [printed.count(f"from {folder}/runs/{name}: ") for name in PRETRAINED] == [3, 0, 2]


@pytest.mark.slow
def test_what_a_stage_writes_is_what_it_answers_and_another_one_reads(done):
    folder, _, printed = done
    assert re.findall(r"==== \d of 7: (\w+), after", printed) == [*PRETRAINED, *PRETRAINED]  # of both commands
    pairs = [json.loads(line) for line in (folder / "runs" / "restore.jsonl").read_text().splitlines()]
    texts = [line.split("\t")[1] for line in (folder / "pairs.tsv").read_text().splitlines()]
    answered = run_program(
        "sample.py", f"--workdir={folder}/runs/restore", "--greedy", "--json", given="\n".join(texts)
    )
    answers = [json.loads(line)["output"] for line in answered.stdout.splitlines()]
    expected = [{"source": answer, "target": text} for answer, text in zip(answers, texts, strict=True)]
    assert pairs == [pair for pair in expected if pair["source"].strip()]
    assert len(pairs) > 10
    back = json.loads((folder / "runs" / "back" / "config.json").read_text())
    assert back["data"]["train"] == f"jsonl:{folder}/runs/restore.jsonl"
    assert back["training"]["init_from"] == f"{folder}/runs/pretrain"


@pytest.mark.slow
def test_what_is_done_is_not_run_again_and_what_is_not_is(done):
    folder, arguments, _ = done
    before = tree_of(folder)
    again = run_program(*arguments)
    assert again.returncode == 0 and tree_of(folder) == before
    (record,) = (folder / "runs" / RUNS[0] / "evaluations").iterdir()
    content = json.loads(record.read_text())
    record.unlink()
    again = run_program(*arguments)
    assert again.returncode == 0 and json.loads(record.read_text()) == content
    changed = {name for name, bytes_ in tree_of(folder).items() if before.get(name) != bytes_}
    assert all(name.startswith(f"runs/{RUNS[0]}/") for name in changed)


@pytest.mark.slow
def test_from_pretraining_to_samples_and_on_from_the_result(done):
    """Pretrained, two tasks fine-tuned and evaluated: that was the pipeline."""
    folder, _, _ = done
    sampled, told, trained = run_programs(
        (["sample.py", f"--workdir={folder}/runs/reverse-pretrained-0", "--prompt=ant bee", "--max_new_tokens=8"], ""),
        (["sample.py", f"--workdir={folder}/runs/tell-pretrained-3", "--prompt=ant", "--max_new_tokens=8"], ""),
        (
            [
                "train.py",
                f"--config={folder}/tiny.py:reverse",
                f"--workdir={folder}/again",
                f"--config.training.init_from={folder}/runs/reverse-pretrained-0:best",
            ],
            "",
        ),
    )
    assert sampled.returncode == told.returncode == trained.returncode == 0, trained.stderr
    assert told.stdout.startswith("ant") and sampled.stdout.endswith("\n")
    loaded = trained.stdout.split(f"from {folder}/runs/reverse-pretrained-0:best: ")[1]
    assert " new: " not in loaded.split("\n\n")[0] and "skipped: " not in loaded.split("\n\n")[0]


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "pipelines").glob("*.py")), ids=lambda file: file.stem)
def test_the_stages_of_a_pipeline_file_are_valid(file, tmp_path):
    plan = pretraining.planned(str(file))
    found = pretraining.stages(plan, epath.Path(tmp_path), list(plan.tasks), [0, 1])
    pretrained = {*plan.tasks.values(), *plan.before, *plan.before.values(), *plan.writes}
    assert set(list(found)[: len(pretrained)]) == pretrained and len(found) == len(pretrained) + 4 * len(plan.tasks)


def test_what_cannot_be_is_refused_in_one_line_before_anything_is_trained(folder):
    (folder / "last.py").write_text(
        FILE.format(folder).replace("embed_dim=16,", 'embed_dim=16 - 17 * (stage == "tell"),')
    )
    refused = run_program("-m", "lm.pipeline", f"{folder}/last.py", f"--workdir={folder}/never")
    assert refused.returncode == 2 and not (folder / "never").exists()
    assert "last.py, tell-scratch-0: config.model.embed_dim: " in refused.stderr
    for old, new, what in (
        ('"restore": "pretrain"', '"restore": "back"', "'back' starts from itself"),
        ("/restore.jsonl", "/restored.jsonl", "'restored' wrote, which is none of WRITES; did you mean restore?"),
        ('WRITES = {{"restore"', 'WRITES = {{"tell"', "none of WRITES"),
        (
            'BEFORE = {{"restore"',
            'BEFORE = {{"restored"',
            "'restored' of BEFORE or WRITES is nothing that a task needs",
        ),
        ("| | {{target}}", "", "has sources; give texts alone"),
        ("pairs.tsv | | {{target}}", "none.tsv | | {{target}}", "none.tsv: no such file"),
        ('WRITES = {{"restore": "tsv:', 'WRITES = {{"restore": "tvs:', "error: WRITES: "),
        ('BEFORE = {{"restore": "pretrain"', 'BEFORE = {{"restore": 1', "BEFORE is no dict of texts"),
    ):
        assert old in FILE
        (folder / "last.py").write_text(FILE.replace(old, new).format(folder))
        refused = run_program("-m", "lm.pipeline", f"{folder}/last.py", f"--workdir={folder}/never")
        assert refused.returncode == 2 and not (folder / "never").exists()
        assert len(refused.stderr.splitlines()) == 1 and what in refused.stderr
    for more, words in (
        (["--tasks=revers"], ["--tasks", "did you mean reverse?"]),
        (["--seeds=a"], ["--seeds", "'a'"]),
        (["--seeds="], ["--seeds"]),
        ([f"{folder}/none.py"], ["needs one pipeline file"]),
    ):
        refused = run_program("-m", "lm.pipeline", f"{folder}/tiny.py", f"--workdir={folder}/never", *more)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
        assert not (folder / "never").exists()
        assert all(word in refused.stderr for word in words), refused.stderr


def test_one_seed_has_no_deviation_and_what_is_not_defined_is_not_left_out():
    records = {
        "a-scratch-0": {"exact_match": 0.5, "nats_per_example": None, "floor_nats_per_example": 1.0},
        "a-pretrained-0": {"exact_match": 0.75, "nats_per_example": 3.0, "floor_nats_per_example": 1.0},
    }
    rows = tables.compared(records, ["a"], [0])
    text = tables.markdown(rows, "test", [0])
    assert "| a | error | 50.0 % | 25.0 % | 0.50 |" in text
    assert "| a | nats above the floor | undefined | 2.00 | - |" in text
    assert "seed 0 alone, which has no standard deviation" in text[-1] and "\u00b1" not in "\n".join(text)
    assert rows[0]["scratch"]["deviation"] is None and rows[1]["scratch"]["mean"] is None
    json.dumps(rows, allow_nan=False)
