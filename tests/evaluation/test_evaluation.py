"""Likelihoods, labels and comparisons: what lm.evaluate says of runs."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath
from support.configs import tiny_config
from support.directories import reconfigured
from support.programs import run_programs
from support.sizes import sized

from lm import changed
from lm.answers import ranking
from lm.data import encoding, splits
from lm.data.read.examples import Example, Listed
from lm.data.read.sources import Split
from lm.data.text.tokenizers.unknown import Unknown
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.evaluation import metrics, record, statistics
from lm.evaluation.evaluator import Evaluator
from lm.evaluation.scoring import Asked, Evaluation, evaluate
from lm.evaluation.signature import signature
from lm.evaluation.summary import comparison, differing, lines
from lm.runs import manifest, workdir
from lm.runs.run import load
from lm.search.options import Options
from lm.training import console, loop, progress

pytestmark = pytest.mark.usefixtures("quick_training")

LABELS = ("bad", "good", "so so")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sources, story_text) -> dict[str, pathlib.Path]:
    """A short run of each kind, trained here."""
    folder = tmp_path_factory.mktemp("evaluated")
    words = "ant bee cat dog eel fox gnu hen".split()
    lines = [f"{words[i % 8]} {words[(i * 3 + 1) % 8]}\t{LABELS[(i % 8) % 3]}\n" for i in range(120)]
    (folder / "labels.tsv").write_text("".join(lines))
    steps = {"training.steps": 30, "training.eval_every": 10, "training.checkpoint_every": 10, "training.log_every": 30}
    given = {"streams": sources["lm"], "buckets": sources["seq2seq"], "classes": f"tsv:{folder}/labels.tsv"}
    for name, source in given.items():
        task = {"data.task": "classify", "training.steps": 150} if name == "classes" else {}
        layout = "streams" if name == "streams" else "buckets"
        task |= {"training.eval_examples": 8} if name == "buckets" else {}
        loop.train(tiny_config(layout, source, steps | task), epath.Path(folder / name))
    parts = f"1*tsv:{folder}/few.tsv | classify: {{source}} + 1*jsonl:{folder}/reverse.jsonl | reverse: {{source}}"
    (folder / "few.tsv").write_text("".join(lines[:40]))
    pairs = [(" ".join(words[i % 8 :][:3]), " ".join(reversed(words[i % 8 :][:3]))) for i in range(90)]
    records = [{"source": source, "target": target, "log_prob": -i / 90} for i, (source, target) in enumerate(pairs)]
    (folder / "reverse.jsonl").write_text("\n".join(map(json.dumps, records)))
    both = {
        "data.tokenizer.vocab_size": 290,
        "data.train": parts,
        "data.validation": parts,
        "data.test": parts,
        "training.eval_examples": 8,
    }
    loop.train(tiny_config("buckets", parts, steps | both), epath.Path(folder / "several"))
    return {name: folder / name for name in (*given, "several")}


# ---- during training --------------------------------------------------------------------------------------------


def test_the_rehearsal_compiles_what_evaluations_run_and_the_last_ones_outputs_are_shown(runs, monkeypatch):
    run, devices = load(str(runs["buckets"])), Devices(jax.devices()[:2])
    split = splits.load_splits(run.config.data)["validation"]
    encoded = encoding.encode(split, run.tokenizer, run.config.data)
    evaluator = Evaluator(run.answer, run.config, devices, encoded)
    params, compiled = devices.replicate(run.params), progress.compilation()
    jax.clear_caches()
    compiled.reset()
    evaluator.rehearse(params)
    assert compiled.programs > 0
    compiled.reset()
    evaluator.evaluate(params, run.config.training.eval_examples)
    assert compiled.programs == 0
    expected = evaluator.generate(run.params, 4, Options(temperature=0))
    monkeypatch.setattr(evaluator, "generate", None)
    examples, outputs = evaluator.shown(run.params, 4)
    assert [one.output for one in outputs] == [one.output for one in expected]
    assert [one.prompt for one in outputs] == [one.source for one in examples] and len(examples) == 4


# ---- likelihoods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", sized([1, 8], lambda count: count == 8))
def test_the_parts_of_a_likelihood_sum_to_the_whole_and_are_each_examples_own(count, runs, pairs):
    for name in ("buckets", "streams"):
        run, devices = load(str(runs[name])), Devices(jax.devices()[:count])
        examples = [Example(*pair) if name == "buckets" else Example(None, " ".join(pair)) for pair in pairs[:27]]
        encoded = encoding.encode(Split("test", "", Listed(examples)), run.tokenizer, run.config.data)
        evaluator = Evaluator(run.answer, run.config, devices, encoded)
        params = devices.replicate(run.params)
        found, whole = evaluator.likelihoods(params), evaluator.figures(*evaluator.losses(params))
        for figure, metric in found.items():
            assert metric.value == pytest.approx(whole[figure], rel=1e-5), figure
        if name == "buckets":  # in the order of the examples
            scores = run.score(examples)
            expected = [(-score.log_probability, score.tokens) for score in scores]
            np.testing.assert_allclose(found["loss"].stats_ns, expected, rtol=1e-4)
            expected = [score.bytes for score in scores]
            np.testing.assert_allclose(found["bits_per_byte"].stats_ns[:, 1], expected, rtol=0.02)
        else:
            assert found["loss"].stats_ns[:, 1].sum() == whole["tokens"] and len(found["loss"].stats_ns) > 3


def test_each_source_of_a_mixture_has_the_figures_that_it_has_alone(runs, monkeypatch):
    monkeypatch.setattr(manifest, "check_unchanged", lambda *_: None)  # each is a part of the run's data
    run, options = load(str(runs["several"])), Options(temperature=0)
    both = evaluate(run, "test", options)
    classes, reverse = both.figures["parts"].values()
    names = list(both.figures["parts"])
    assert [name.split(" | ")[1] for name in names] == ["classify: {source}", "reverse: {source}"]
    for name, part, floor in zip(names, (classes, reverse), (False, True), strict=True):
        config = changed(run.config, {"data.test": name})
        alone = evaluate(dataclasses.replace(run, config=config), "test", options).figures
        assert ("floor_nats_per_example" in part) == floor
        assert set(alone) == set(part) - {"intervals", "interval_methods"}
        for figure, value in alone.items():
            assert part[figure] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value) or (
                figure.endswith("_signature")
            ), figure
        low, high = part["intervals"]["exact_match"]
        assert low <= part["exact_match"] <= high
    assert both.figures["tokens"] == classes["tokens"] + reverse["tokens"]
    assert both.figures["generated"] == classes["generated"] + reverse["generated"] == 130
    together = (40 * classes["exact_match"] + 90 * reverse["exact_match"]) / 130
    assert both.figures["exact_match"] == pytest.approx(together)
    assert "parts" not in alone


def test_training_scores_as_many_outputs_of_each_source_of_a_mixture(runs):
    records = [json.loads(line) for line in (runs["several"] / "metrics.jsonl").read_text().splitlines()]
    (*_, last) = [record for record in records if record["split"] == "validation"]
    assert [part["generated"] for part in last["parts"].values()] == [4, 4] and last["generated"] == 8
    run, devices = load(str(runs["several"]), "latest"), Devices(jax.devices()[:1])
    split = splits.load_splits(run.config.data, ("validation",))["validation"]
    encoded = encoding.encode(split, run.tokenizer, run.config.data)
    evaluator = Evaluator(run.answer, run.config, devices, encoded)
    whole = evaluator.figures(*evaluator.losses(devices.replicate(run.params)))
    assert last["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    tokens = sum(part["tokens"] for part in last["parts"].values())
    nats = sum(part["loss"] * part["tokens"] for part in last["parts"].values())
    assert tokens == last["tokens"] and nats / tokens == pytest.approx(last["loss"], rel=1e-5)
    assert evaluator.chosen(8) == [0, 1, 2, 3, 40, 41, 42, 43] and evaluator.chosen(None) == list(range(130))


def test_a_signature_says_what_a_likelihood_depends_on(runs):
    run = load(str(runs["streams"]))
    plain = (run.config, "token", run.tokenizer, "test", "0123456789", "one step")
    fields = dict(field.split(":") for field in signature(*plain).split("|"))
    assert fields | {"version": ""} == {
        "unit": "token",
        "tok": f"characters.{run.tokenizer.fingerprint[:8]}",
        "data": "01234567",
        "split": "test",
        "task": "lm",
        "among": "texts",
        "state": "carried",
        "batch": "3x16",
        "weights": "one-step",
        "unk": "0",
        "version": "",
    }
    other = load(str(runs["buckets"]))
    others = {
        ("unit",): (run.config, "byte", *plain[2:]),
        ("tok",): (*plain[:2], other.tokenizer, *plain[3:]),
        ("split",): (*plain[:3], "validation", *plain[4:]),
        ("data",): (*plain[:4], "9876543210", "one step"),
        ("weights",): (*plain[:5], "mean of 10+20"),
        ("unk",): (*plain, Unknown(3, 20)),
        ("unk", "altered"): (*plain, Unknown(3, 20, 1)),
        ("batch",): (changed(run.config, {"data.evaluation_streams": 4}), *plain[1:]),
        ("task", "state", "batch"): (other.config, *plain[1:]),
        ("task", "among", "state", "batch"): (load(str(runs["classes"])).config, *plain[1:]),
    }
    for names, arguments in others.items():
        assert tuple(differing(signature(*plain), signature(*arguments))) == names


# ---- several references, and figures that are not defined --------------------------------------------------------

RECORDS = [
    {"source": "ant bee", "target": ["one red cup", "bee ant", "bee"]},
    {"source": "cat", "target": []},
    {"source": "dog eel", "target": "eel dog"},
]


def of_records(runs, folder, records):
    """The run of pairs, to be evaluated on these records, which keeps its evaluations elsewhere."""
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, records)))
    run = load(str(runs["buckets"]))
    config = changed(run.config, {"data.test": f"jsonl:{folder}/new.jsonl"})
    return dataclasses.replace(run, config=config, workdir=epath.Path(folder))


def recorded(run, found):
    """What the evaluation's file says, which must be JSON."""
    text = record.write(run, found, Asked()).read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_outputs_are_scored_over_all_references_and_likelihoods_over_the_first(runs, tmp_path):
    run = of_records(runs, tmp_path, RECORDS)
    how = {"scores": ("bleu", "exact_match", "squad"), "data": run.config.data.test}
    found = evaluate(run, "data", Options(temperature=0), **how)
    written = recorded(run, found)
    assert [one.get("references") for one in written["outputs"]] == [RECORDS[0]["target"], [""], None]
    assert [one["reference"] for one in written["outputs"]] == ["one red cup", "", "eel dog"]
    assert written["exact_match_signature"] == "refs:1-3" and "|" in written["loss_signature"]
    scores = run.score([("ant bee", "one red cup"), ("cat", ""), ("dog eel", "eel dog")])
    nats, tokens = -sum(one.log_probability for one in scores), sum(one.tokens for one in scores)
    assert written["loss"] == pytest.approx(nats / tokens, rel=1e-4)
    table = lines(run, found, Asked())
    assert "* of several references scores take the best one, likelihoods the first" in table
    assert "* intervals are of 95 %, over examples" in table
    assert (written["bleu"], written["undefined"]) == (None, {"bleu": "no reference has 4 words"})
    assert any(re.fullmatch("bleu +undefined: no reference has 4 words", line) for line in table)
    assert written["intervals"]["bleu"] is None and len(written["intervals"]["exact_match"]) == 2
    assert written["interval_methods"]["exact_match"] == "wilson" and written["interval_methods"]["loss"] == "hall"
    assert [line.split()[1] for line in table if line.startswith("*")][1:3] == ["wilson:", "hall:"]
    line = comparison([run, run], [found, found])[3 + list(found.measured).index("bleu")]
    assert line.split() == ["bleu", "undefined", "undefined"]


def test_without_a_byte_of_targets_there_are_no_bits_per_byte(runs, tmp_path):
    run = of_records(runs, tmp_path, [{"source": "ant", "target": []}, {"source": "bee cat", "target": []}])
    found = evaluate(run, "data", Options(temperature=0), data=run.config.data.test)
    written = recorded(run, found)
    reasons = {"bits_per_byte": "the targets have no bytes", "chrf": "every reference is empty"}
    assert reasons.items() <= written["undefined"].items() and written["bits_per_byte"] is None
    assert written["loss"] > 0 and found.measured["bits_per_byte"].value is None
    evaluator = Evaluator(
        run.answer,
        run.config,
        Devices(jax.devices()[:1]),
        encoding.encode(splits.load_splits(run.config.data, ("test",))["test"], run.tokenizer, run.config.data),
    )
    during = evaluator.evaluate(evaluator.devices.replicate(run.params), 2)
    assert during["undefined"] == {name: written["undefined"][name] for name in during["undefined"]}
    said = console.figures({"split": "validation", **during})
    assert "undefined bits/byte" in said and "BLEU undefined" in said and f"loss {during['loss']:.4f}" in said


def test_figures_beyond_all_floats_are_not_defined(runs):
    evaluator = Evaluator(
        load(str(runs["buckets"])).answer,
        None,
        Devices(jax.devices()[:1]),
        types.SimpleNamespace(corpus=[1], target_bytes=9, floor=0.5, unpointed=0, lost_n3=np.zeros((1, 3), int)),
    )
    for nats, undefined in (
        (8000.0, {"perplexity": "its exponential is no float"}),
        (
            math.inf,
            dict.fromkeys(("loss", "perplexity", "bits_per_byte", "nats_per_example"), "an example has probability 0"),
        ),
    ):
        found = evaluator.figures(nats, 10)
        assert found["undefined"] == undefined
        assert all((value is None) == (name in undefined) for name, value in found.items())
        json.dumps(found, allow_nan=False)
    assert evaluator.figures(0.0, 0)["undefined"]["loss"] == "there is no target"


def test_the_best_evaluation_is_one_that_has_a_loss(capsys):
    known = {"split": "validation", "perplexity": None, "bits_per_byte": 1.0}
    console.best(
        [known | {"step": 1, "loss": None}, known | {"step": 2, "loss": 3.0}, known | {"step": 3, "loss": 4.0}]
    )
    assert "step 2, loss 3.0000, perplexity undefined" in capsys.readouterr().out


# ---- labels -----------------------------------------------------------------------------------------------------


def test_the_output_is_the_likeliest_label_and_no_other_text(runs):
    run = load(str(runs["classes"]))
    assert json.loads((runs["classes"] / "labels.json").read_text()) == list(LABELS) == list(run.labels)
    sources = ["ant bee", "", "\u4f60 zzz", "cat " * 40, "ant bee", "hen fox gnu"]
    found = run.generate(sources, Options(num_samples=3))
    for source, outputs in zip(sources, found, strict=True):
        assert sorted(one.output for one in outputs) == sorted(LABELS)
        scores = run.score([(source, label) for label in LABELS])
        nats = {label: score.log_probability for label, score in zip(LABELS, scores, strict=True)}
        assert [one.output for one in outputs] == sorted(LABELS, key=lambda label: -nats[label])
        for one in outputs:
            assert one.log_probability == pytest.approx(nats[one.output], rel=1e-4)
        ((alone, *_),) = run.generate([source])  # the prompt alone equals the prompt in a batch
        assert alone.output == outputs[0].output
        assert alone.log_probability == pytest.approx(outputs[0].log_probability, rel=1e-5)
    with pytest.raises(UserError, match="--num_samples: there are 3 labels"):
        run.generate(["ant"], Options(num_samples=4))


def test_labels_of_a_run_that_has_no_list_are_those_of_its_training_data(runs, tmp_path):
    shutil.copytree(runs["classes"], tmp_path / "run")
    (tmp_path / "run" / "labels.json").unlink()
    assert load(str(tmp_path / "run")).labels == LABELS
    with pytest.raises(UserError, match="1,001 different targets"):
        ranking.labels_of(Listed([Example("a", str(i)) for i in range(1001)]))


def test_classification_has_its_figures(runs):
    run = load(str(runs["classes"]))
    found = evaluate(run, "test", Options(temperature=0))
    gold, outputs = ([one[name] for one in found.outputs] for name in ("reference", "output"))
    assert set(outputs) <= set(LABELS) and len(set(outputs)) > 1
    right = np.mean([a == b for a, b in zip(gold, outputs, strict=True)])
    assert found.figures["accuracy"] == found.figures["exact_match"] == right
    expected = metrics.measure(("macro_f1",), outputs, gold)["macro_f1"].value
    assert found.figures["macro_f1"] == expected
    nats = np.array(
        [[s.log_probability for s in run.score([(o["source"], label) for label in LABELS])] for o in found.outputs[:9]]
    )
    p_nl = np.exp(nats) / np.exp(nats).sum(axis=1, keepdims=True)
    brier = ((p_nl - (np.array(gold[:9])[:, None] == np.array(LABELS))) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.measured["brier"].stats_ns[:9, 0], brier, rtol=1e-3)
    assert 0 <= found.figures["ece"] <= 1


# ---- the program ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    for name in runs:
        shutil.copytree(runs[name], folder / name)
        saved = folder / name / "checkpoints"
        shutil.rmtree(saved / str(max(int(path.name) for path in saved.iterdir())))
    other = changed(workdir.read_config(epath.Path(folder / "streams")), {"data.evaluation_streams": 5})
    reconfigured(folder / "streams", other)
    a, b = ({name: str(place / name) for name in runs} for place in (runs["streams"].parent, folder))
    latest = ["--checkpoint=latest"]
    every = "--scores=bleu,chrf,ter,rouge,squad,exact_match"
    calls = {
        "pairs": ["-m", "lm.evaluate", a["buckets"], b["buckets"], *latest, every],
        "itself": ["-m", "lm.evaluate", "--split", "test", a["buckets"], a["buckets"]],
        "streams": ["-m", "lm.evaluate", a["streams"], b["streams"], *latest],
        "classes": ["-m", "lm.evaluate", f"--workdir={a['classes']}"],
        "mean": ["-m", "lm.evaluate", f"--workdir={a['streams']}", "--checkpoint=mean:2"],
        "sample classes": ["sample.py", f"--workdir={a['classes']}", "--prompt=ant", "--prompt=zzz"],
        "other data": ["-m", "lm.evaluate", a["buckets"], a["classes"]],
        "three": ["-m", "lm.evaluate", a["buckets"], a["buckets"], a["buckets"]],
        "unknown score": ["-m", "lm.evaluate", a["buckets"], "--scores=blue"],
        "score of a language model": ["-m", "lm.evaluate", a["streams"], "--scores=bleu"],
        "mean of many": ["-m", "lm.evaluate", a["streams"], "--checkpoint=mean:9"],
        "drawn label": ["sample.py", f"--workdir={a['classes']}", "--prompt=ant", "--temperature=1"],
        "beam of labels": ["-m", "lm.evaluate", a["classes"], "--beam_size=3"],
    }
    return dict(zip(calls, run_programs(*((call, "") for call in calls.values())), strict=True))


def table(answer) -> dict[str, list[str]]:
    """The comparison's rows by name; a mark is the first cell."""
    lines = answer.stdout.split("\nA  ")[1].splitlines()[3:]
    return {line.split()[0]: re.findall(r"\[.*?\]|\S+", line)[1:] for line in lines if not line.startswith("*")}


def test_two_runs_are_compared_figure_by_figure(answers, runs):
    assert (answers["pairs"].returncode, answers["pairs"].stderr) == (0, "")
    rows = table(answers["pairs"])
    names = "loss perplexity bits_per_byte bleu chrf ter rouge1 rouge2 rougeL squad_exact_match squad_f1 exact_match"
    assert list(rows) == names.split()
    for name, (a, b, difference, between, p_bootstrap, p_random) in rows.items():
        assert float(difference) == pytest.approx(float(b) - float(a), abs=2e-3 * max(1, abs(float(a)))), name
        low, high = map(float, between.strip("[]").split(",")) if between != "-" else (-1e9, 1e9)
        assert low <= float(difference) <= high
        assert 0 < float(p_bootstrap) <= 1 and 0 < float(p_random) <= 1
    assert float(rows["loss"][2]) > 0 and float(rows["loss"][5]) < 0.05  # trained for longer
    found = [json.loads(p.read_text()) for p in (runs["buckets"] / "evaluations").glob("test-30-scores=*.json")]
    assert found[0]["rouge1_signature"].startswith("f-measure") and set(found[0]["intervals"]) >= set(rows)
    for cells in table(answers["itself"]).values():
        assert float(cells[2]) == 0 and cells[4:] == ["1.0000", "1.0000"]


def test_figures_of_other_signatures_are_marked_and_not_tested(answers):
    assert answers["streams"].returncode == 0, answers["streams"].stderr
    rows = table(answers["streams"])
    assert {name: cells[0] for name, cells in rows.items()} == dict.fromkeys(
        ("loss", "perplexity", "bits_per_byte"), "*"
    )
    assert all(len(cells) == 3 for cells in rows.values())
    assert "* loss: signatures differ in batch: unit:token|" in answers["streams"].stdout
    assert "batch:3x16" in answers["streams"].stdout and "batch:5x16" in answers["streams"].stdout


def test_what_a_token_costs_is_tested_under_one_signature_and_a_byte_under_any_tokenizer():
    def evaluated(signature, shift):
        metric = statistics.ratio(np.arange(9.0) + shift * np.arange(9) ** 2, signature=signature)
        return Evaluation({}, {"figure": metric}, [])

    run = types.SimpleNamespace(workdir="w", step=1, weights="one step")
    one, other = "unit:{}|tok:a|weights:one-step", "unit:{}|tok:b|weights:one-step"
    for first, second, marked, tested in (
        (one.format("token"), one.format("token"), False, True),
        (one.format("token"), other.format("token"), True, False),
        (one.format("byte"), other.format("byte"), True, True),
        (one.format("byte"), one.format("byte").replace("one", "mean"), True, False),
    ):
        line, *notes = comparison([run, run], [evaluated(first, 0), evaluated(second, 1)])[3:]
        notes = [note for note in notes if "signatures" in note]
        assert ("*" in line) == bool(notes) == marked and ("[" in line) == tested, line


def test_labels_are_scored_and_written_with_their_confusion(answers, runs):
    assert answers["classes"].returncode == 0, answers["classes"].stderr
    (path,) = (runs["classes"] / "evaluations").iterdir()
    record = json.loads(path.read_text())
    assert record["decoding"] == {"labels": list(LABELS)}
    assert {"accuracy", "macro_f1", "ece", "brier", "loss", "bits_per_byte"} <= set(record["intervals"])
    assert np.sum(record["confusion"]) == len(record["outputs"]) == record["generated"]
    assert np.trace(record["confusion"]) == pytest.approx(record["accuracy"] * record["generated"])
    shown = answers["classes"].stdout.split("gold, down; output")[1].splitlines()
    assert [list(map(int, line.split()[-3:])) for line in shown[1:4]] == record["confusion"]
    assert all(line in LABELS for line in answers["sample classes"].stdout.splitlines())


def test_the_mean_of_checkpoints_has_a_record_and_a_signature_of_its_own(answers, runs):
    assert answers["mean"].returncode == 0, answers["mean"].stderr
    (path,) = (runs["streams"] / "evaluations").glob("test-30-mean*.json")
    assert "weights:mean-of-20+30" in json.loads(path.read_text())["loss_signature"]


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "other data": ["its test data is not that of"],
        "three": ["--workdir", "3 times"],
        "unknown score": ["--scores", "did you mean bleu?"],
        "score of a language model": ["--scores", "no outputs"],
        "mean of many": ["--checkpoint", "'mean:9'", "keep_checkpoints"],
        "drawn label": ["--temperature", "ranks its labels"],
        "beam of labels": ["--beam_size", "ranks its labels"],
    }.items(),
)
def test_what_cannot_be_is_refused_in_one_line(name, words, answers):
    done = answers[name]
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and all(word in done.stderr for word in words), done.stderr
