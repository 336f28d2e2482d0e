"""The programs as a user starts them: what they print and write, and what they exit with."""

import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from support.programs import run_alone, run_program, run_programs, tree_of
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import lm
from benchmarks import kill
from lm.config import to_json
from lm.data.front_ends import TEXT
from lm.runs import workdir
from lm.search import risk

LAYOUTS = ("streams", "buckets")


def records(directory: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


# ---- train.py ---------------------------------------------------------------------------------------------------


def test_configurations_of_one_file_have_directories_of_their_own():
    names = [workdir.usual(f"configs/some.py{text}") for text in ("", ":", ":tiny", ":lr=1,h=2:x")]
    assert names == ["runs/some", "runs/some", "runs/some-tiny", "runs/some-lr=1,h=2:x"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_directory_holds_what_the_contract_says(layout, trained, configs):
    run = trained[layout]
    (events,) = run.glob("events.out.tfevents*")
    names = {"config.json", "manifest.json", "tokenizer", "metrics.jsonl", "curve.png", "checkpoints", events.name}
    assert {path.name for path in run.iterdir()} == names
    assert (run / "config.json").read_text() == to_json(configs[layout])  # each field was given by a flag
    best = min((r for r in records(run) if r["split"] == "validation"), key=lambda r: r["loss"])["step"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"72", "80", str(best)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_manifest_says_how_the_run_was_made(layout, trained, configs):
    manifest = json.loads((trained[layout] / "manifest.json").read_text())
    assert manifest["seed"] == configs[layout].seed
    assert set(manifest["fingerprints"]) == {"train", "validation", "test", "tokenizer"}
    assert len(set(manifest["fingerprints"].values())) == 4
    start = manifest["starts"][0]
    assert start["command"][0] == "train.py" and f"--workdir={trained[layout]}" in start["command"]
    assert {"lm", "jax", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(start["versions"])
    assert start["devices"] == ["cpu"] and start["python"] and start["time"] and start["platform"]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=kill.ROOT, capture_output=True, text=True)
    if git.returncode == 0:
        assert start["git"]["commit"] == git.stdout.strip() and isinstance(start["git"]["dirty"], bool)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_metrics_have_the_fields_of_the_contract(layout, trained):
    by_split = {"train": [], "validation": []}
    for record in records(trained[layout]):
        by_split[record["split"]].append(record)
    assert [r["step"] for r in by_split["train"]] == [*range(10, 81, 10)]
    assert [r["step"] for r in by_split["validation"]] == [24, 48, 72, 80]
    for record in by_split["train"]:
        fields = {
            "step",
            "split",
            "seconds",
            "loss",
            "tokens_per_second",
            "learning_rate",
            "grad_norm",
            "waiting_for_data",
        }
        assert set(record) == fields
        assert all(math.isfinite(record[name]) and record[name] >= 0 for name in fields - {"split"})
    for record in by_split["validation"]:
        assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
        if layout == "buckets":
            assert 0 <= record["exact_match"] <= 1 and 0 <= record["bleu"] <= 100 and 0 <= record["chrf"] <= 100
            assert record["generated"] == 8 and "nrefs:1" in record["bleu_signature"]
        else:
            assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2), rel=1e-2)  # ASCII, one EOS
    seconds = [r["seconds"] for r in records(trained[layout])]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert by_split["validation"][-1]["loss"] < 0.8 * by_split["train"][0]["loss"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensorboard_reads_the_numbers_of_the_metrics(layout, trained):
    (events,) = trained[layout].glob("events.out.tfevents*")
    seen = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
    }
    expected = {
        (record["step"], f"{record['split']}/{name}"): value
        for record in records(trained[layout])
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_says_what_it_does_in_plain_lines(layout, trained):
    stdout, stderr = (trained[layout].with_suffix(f".{name}").read_text() for name in ("stdout", "stderr"))
    assert stderr == ""
    assert "\r" not in stdout and "\x1b" not in stdout
    for name in (
        "run",
        "devices",
        "parameters",
        "recurrence",
        "train",
        "validation",
        "test",
        "tokenizer",
        "epoch",
        "training",
    ):
        assert re.search(rf"^{name} +\S", stdout, re.MULTILINE), name
    assert "held out of training" in stdout
    assert len(re.findall(r"^step .* train ", stdout, re.MULTILINE)) == 8
    assert len(re.findall(r"^step .* validation ", stdout, re.MULTILINE)) == 4
    commands = re.findall(r"^  (.*--(?:workdir|logdir)=\S+.*)$", stdout, re.MULTILINE)
    assert len(commands) == 3 and all(str(trained[layout]) in command for command in commands)


def test_tensorflow_is_left_alone_where_it_is_installed(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('imported')")
    log = f"from etils import epath; from lm.runs import log; log.MetricsLog(epath.Path({str(tmp_path)!r}), 0).close()"
    bucket = "epath.Path('gs://bucket/file').exists()"
    for code, said in ((log, ""), (f"from etils import epath; import lm; {bucket}", "install gcsfs")):
        done = run_alone("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}")
        assert (done.returncode == 0 or said) and said in done.stderr and "imported" not in done.stderr, done.stderr


def copies_of(trained: dict[str, pathlib.Path], folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {layout: pathlib.Path(shutil.copytree(trained[layout], folder / layout)) for layout in LAYOUTS}


def test_a_finished_run_started_again_is_left_as_it_is(trained, configs, tmp_path):
    trained = copies_of(trained, tmp_path)
    before = {layout: tree_of(run) for layout, run in trained.items()}
    calls = [(kill.command(configs[layout], trained[layout])[1:], "") for layout in LAYOUTS]
    for layout, again in zip(LAYOUTS, run_programs(*calls), strict=True):
        assert (again.returncode, again.stderr) == (0, "")
        assert "resumed after step 80" in again.stdout
        after = tree_of(trained[layout])
        ours = {name for name in after if not name.startswith("events.out") and name != "manifest.json"}
        assert {name: after[name] for name in ours} == {name: before[layout].get(name) for name in ours}
        assert set(before[layout]) <= set(after)


# ---- sample.py --------------------------------------------------------------------------------------------------

PROMPTS = {
    "streams": ["one two", "", "seven ", "zebra \u4f60\u597d\n\t\U0001f600", "one two three " * 357, "t"],
    "buckets": ["ant bee", "", "cat", "zebra \u4f60\u597d\t\U0001f600", "ant bee cat " * 417, "hen gnu fox eel"],
}
ALONE = (1, 4)  # the empty and the longest

DRAWN = ["--temperature=1", "--num_samples=8"]
# Ways to answer the first prompt, most of them asked of one run: no flag knows of layouts.
DECODED = {
    "defaults": (LAYOUTS, []),
    "no flag": (["buckets"], []),
    "greedy": (LAYOUTS, ["--greedy"]),
    "samples": (LAYOUTS, DRAWN),
    "beam 3": (LAYOUTS, ["--beam_size=3", "--num_samples=3"]),
    "seed 1": (["streams"], [*DRAWN, "--seed=1"]),
    "top_k 1": (["streams"], ["--temperature=3", "--top_k=1"]),
    "beam 1": (["streams"], ["--beam_size=1"]),
    "ban, drawn": (["streams"], [*DRAWN, "--ban=e"]),
    "no repeats": (["streams"], ["--greedy", "--no_repeat_ngram=1"]),
    "penalised": (["streams"], ["--greedy", "--repetition_penalty=1000"]),
    "typical": (["streams"], ["--typical_p=1e-6", "--temperature=4"]),
    "step 72": (["streams"], ["--checkpoint=72", "--greedy"]),
    "mbr": (["buckets"], [*DRAWN, "--mbr_samples=8"]),
    "ban": (["buckets"], ["--ban=ee", "--ban=o", "--beam_size=3"]),
    "force": (["buckets"], ["--force=uo", "--beam_size=3", "--num_samples=3"]),
    "longer": (["buckets"], ["--greedy", "--min_new_tokens=9"]),
    "groups": (["buckets"], ["--beam_size=4", "--beam_groups=4", "--num_samples=4", "--diversity_penalty=1000"]),
}


@pytest.fixture(scope="module")
def sampled(trained, tmp_path_factory) -> dict[tuple[str, str], subprocess.CompletedProcess]:
    """Each way of calling sample.py, by the layout of the run and the way's name."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    few, calls = ["--max_new_tokens=12"], {}
    for layout, prompts in PROMPTS.items():
        plain = [prompt for prompt in prompts if "\n" not in prompt]
        file.with_name(layout).write_text("\ufeff" + "\r\n".join(plain) + "\n")
        ways = {
            "json": (["--json", *few, *(f"--prompt={prompt}" for prompt in prompts)], ""),
            **{f"json {i}": (["--json", *few, f"--prompt={prompts[i]}"], "") for i in ALONE},
            "stdin": (few, "\n".join(plain) + "\n"),
            "nothing": (few, ""),
        }
        if layout == "streams":  # no way to give prompts knows of layouts
            ways["prompts"] = ([*few, *(f"--prompt={prompt}" for prompt in plain)], "")
            ways["interactive"] = ([*few, "--interactive"], "\n".join(plain) + "\n")
        else:
            ways["file"] = ([*few, f"--input_file={file.with_name(layout)}"], "")
            ways["dash"] = ([*few, "--input_file=-"], "\n".join(plain))
            ways["kept"] = ([*few, "--input_file=-", f"--output_file={file.with_name('kept')}"], "\n".join(plain))
        for name, (layouts, flags) in DECODED.items():
            if layout in layouts:
                ways[name] = ["--json", *(few if name != "defaults" else ()), *flags, f"--prompt={prompts[0]}"], ""
        for name, (flags, given) in ways.items():
            calls[layout, name] = ["sample.py", f"--workdir={trained[layout]}", *flags], given
    return dict(zip(calls, run_programs(*calls.values()), strict=True))


def objects(done: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sampling_takes_any_prompt_and_writes_text_and_nothing_else(layout, sampled, trained):
    for (kind, name), done in sampled.items():
        assert done.returncode == 0, (kind, name, done.stderr)
        said = re.fullmatch(rf"{trained[kind]}, step \d+\n(.*line breaks.*\n)?", done.stderr)
        assert said, (kind, name)
        assert not said[1] or name in ("stdin", "prompts", "interactive"), (kind, name)
    plain = [prompt for prompt in PROMPTS[layout] if "\n" not in prompt]
    outputs = {one["prompt"]: one["output"] for one in objects(sampled[layout, "json"])}
    assert list(outputs) == PROMPTS[layout]
    # A language model's prompt begins the text; an encoder-decoder's is the source.
    texts = [(p if layout == "streams" else "") + outputs[p] for p in plain]
    # One line for each line, whatever a text holds.
    expected = "".join(text.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for text in texts)
    for name in ("stdin", *(("interactive",) if layout == "streams" else ("file", "dash"))):
        assert sampled[layout, name].stdout == expected, name
    if layout == "streams":
        assert "\\n" in expected and sampled[layout, "prompts"].stdout == "".join(f"{text}\n" for text in texts)
    if layout == "buckets":
        kept = sampled[layout, "kept"]
        assert kept.stdout == "" and pathlib.Path(kept.args[-1].partition("=")[2]).read_text() == expected
    assert sampled[layout, "nothing"].stdout == outputs[""] + "\n"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_alone_equals_the_prompt_in_a_batch(layout, sampled):
    batch = objects(sampled[layout, "json"])
    assert len({one["output"] for one in batch}) > 1
    for i in ALONE:
        (alone,), in_batch = objects(sampled[layout, f"json {i}"]), batch[i]
        assert alone.pop("log_probability") == pytest.approx(in_batch.pop("log_probability"), rel=1e-4)
        assert alone == in_batch


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_says_prompt_output_and_log_probability(layout, sampled):
    for name in ("json", "defaults", "samples", "beam 3"):
        for one in objects(sampled[layout, name]):
            assert set(one) == {"prompt", "output", "log_probability", "tokens", "ended"}
            assert one["log_probability"] < 0 < one["tokens"]
            assert one["ended"] or one["tokens"] == (12 if name != "defaults" else one["tokens"])


def test_flags_say_how_to_draw(sampled):
    for layout in LAYOUTS:
        found = {name: objects(sampled[layout, name]) for name in ("defaults", "samples", "greedy", "beam 3")}
        assert len({one["output"] for one in found["samples"]}) > 1
        if layout == "streams":
            assert found["defaults"] != found["greedy"]  # a language model draws
        else:
            assert objects(sampled[layout, "no flag"]) == found["greedy"]  # a translation is the most probable one
        beam = [one["log_probability"] for one in found["beam 3"]]
        assert len(set(beam)) == 3 and beam == sorted(beam, reverse=True)
        assert beam[0] >= found["greedy"][0]["log_probability"] - 1e-4
    found = {name: objects(sampled["streams", name]) for name in DECODED if ("streams", name) in sampled}
    assert found["samples"] != found["seed 1"]
    assert found["top_k 1"] == found["greedy"]
    assert [one["output"] for one in found["beam 1"]] == [one["output"] for one in found["greedy"]]
    assert found["step 72"][0]["log_probability"] != found["greedy"][0]["log_probability"]


def test_flags_say_what_the_text_holds(sampled):
    found = {key: objects(sampled[key]) for key in sampled if key[1] in DECODED}
    texts = {key: [one["output"] for one in outputs] for key, outputs in found.items()}
    stream, pair = ({name: texts[key] for key in texts for name in [key[1]] if key[0] == of} for of in LAYOUTS)
    assert not any("ee" in text or "o" in text for text in pair["ban"])
    assert not any("e" in text for text in stream["ban, drawn"]) and any("e" in text for text in stream["samples"])
    assert len(pair["force"]) == 3 and all("uo" in text for text in pair["force"])
    assert not any("uo" in text for text in pair["beam 3"])
    assert found["buckets", "longer"][0]["tokens"] >= 10 > found["buckets", "greedy"][0]["tokens"]
    (text,), run = stream["no repeats"], lm.load(sampled["streams", "greedy"].args[1].removeprefix("--workdir="))
    ids = run.tokenizer.encode(text).tolist()
    assert len(set(ids)) == len(ids) > 0
    assert stream["penalised"] != stream["greedy"] and stream["typical"] != stream["greedy"]
    assert len({text[:1] for text in pair["groups"]}) > 2  # four first tokens
    # The same draws, those first that have most in common with all.
    assert sorted(pair["mbr"]) == sorted(pair["samples"])
    assert pair["mbr"] == [pair["samples"][i] for i in risk.minimum_bayes_risk(pair["samples"])]


def test_runs_of_one_tokenizer_generate_together(sampled, trained, tmp_path):
    here, first = trained["buckets"], PROMPTS["buckets"][0]
    other = tmp_path / "other"
    shutil.copytree(here, other)
    shutil.rmtree(other / "checkpoints" / "80")  # the same model, earlier
    few = ["--json", "--max_new_tokens=12", f"--prompt={first}", "--checkpoint=latest"]
    calls = [
        [f"--workdir={here}", f"--workdir={here}", *few, "--beam_size=3"],
        [f"--workdir={here}", *few, "--beam_size=3"],
        [f"--workdir={here}", f"--workdir={other}", *few],
        [f"--workdir={here}", *few],
        [f"--workdir={other}", *few],
        [f"--workdir={here}", f"--workdir={other}", *few, "--beam_size=3", "--coverage_penalty=1"],
        [f"--workdir={here}", f"--workdir={trained['streams']}", *few],
    ]
    *done, refused = run_programs(*((["sample.py", *call], "") for call in calls))
    assert [one.returncode for one in done] == [0] * 6, done
    twice, once, both, one, two, covered = (objects(each)[0] for each in done)
    assert twice.pop("log_probability") == pytest.approx(once.pop("log_probability"), rel=1e-4)
    assert twice == once and covered["tokens"] > 0
    assert both["log_probability"] not in (one["log_probability"], two["log_probability"])
    assert done[2].stderr == f"{here}, step 80\n{other}, step 72\n"
    assert refused.returncode == 2 and "has another tokenizer" in refused.stderr


def test_coverage_prefers_what_attended_to_all_of_its_source(trained, pairs):
    """The score of an output, its attention read under teacher forcing of it."""
    run, weight = lm.load(str(trained["buckets"])), 3.0
    for source, _ in pairs[3:6]:
        free, covered = (
            run.generate([source], lm.Options(beam_size=5, num_samples=5, coverage_penalty=c, max_new_tokens=9))[0]
            for c in (0.0, weight)
        )
        variables = {"params": run.params}
        memory = run.model.apply(
            variables, TEXT.pad([run.tokenizer.encode(source)], np.zeros(1, int), (1, 40)), method="encode"
        )

        @jax.jit
        def step(last, state, memory=memory, variables=variables):
            features, state = run.model.apply(variables, last, state, memory, method="step")
            logits = run.model.apply(variables, features, memory, method="logits")
            return jax.nn.log_softmax(logits)[0], state, features.attention_bts[0]

        def score(one, step=step, memory=memory, variables=variables):
            state, paid, nats = run.model.apply(variables, memory, method="initial_state"), 0.0, 0.0
            ids = [*run.tokenizer.encode(one.output), 2][: one.tokens]
            for last, target in itertools.pairwise([1, *ids]):
                logits, state, attended = step(np.array([last]), state)
                nats, paid = nats + float(logits[target]), paid + attended
            np.testing.assert_allclose(paid.sum(), len(ids), rtol=1e-5)
            with np.errstate(divide="ignore"):  # what is never attended to has the price of all others together
                return nats, nats + weight * float(np.log(np.minimum(paid, 1)).sum())

        scores = {}
        for one in [*free, *covered]:
            nats, scores[one.output] = score(one)
            if one.tokens == len(run.tokenizer.encode(one.output)) + one.ended:  # the same pieces
                assert nats == pytest.approx(one.log_probability, rel=1e-3)
        listed = [scores[one.output] for one in covered]
        assert listed == sorted(listed, reverse=True)
        assert listed[0] >= max(scores.values()) - 1e-3


def test_the_same_seed_gives_the_same_text_in_another_process(sampled, trained):
    again = run_program(*sampled["streams", "samples"].args)
    assert (again.returncode, again.stdout) == (0, sampled["streams", "samples"].stdout)


# ---- lm.evaluate and lm.load ------------------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_writes_it(trained, tmp_path):
    trained = copies_of(trained, tmp_path)
    calls = {
        ("streams", "test"): ["--split=test"],
        ("streams", "validation"): ["--split=validation", "--checkpoint=latest"],
        ("buckets", "validation"): ["--split=validation", "--checkpoint=latest"],
        ("buckets", "test"): ["--checkpoint=72", "--lowercase", "--bleu_tokenize=char", "--beam_size=2", "--ban=q/"],
    }
    done = run_programs(*((["-m", "lm.evaluate", f"--workdir={trained[of]}", *a], "") for (of, _), a in calls.items()))
    for (layout, split), answer in zip(calls, done, strict=True):
        assert (answer.returncode, answer.stderr) == (0, ""), answer
        table = dict(re.split(r"  +", line, maxsplit=2)[:2] for line in answer.stdout.splitlines() if line[0] != "*")
        path = pathlib.Path(table.pop("written to"))
        # Other options than the usual ones overwrite no other result.
        unusual = (
            "-ban=BAN-beam_size=2-lowercase=True-bleu_tokenize=char" if (layout, split) == ("buckets", "test") else ""
        )
        name = re.sub("ban=[0-9a-f]{8}", "ban=BAN", path.name)  # which has what no name of a file may have
        assert path.parent / name == trained[layout] / "evaluations" / f"{split}-{table['step']}{unusual}.json"
        written = json.loads(path.read_text())
        assert written["split"] == split and {"loss", "perplexity", "bits_per_byte"} <= set(written)
        for name, value in table.items():
            if isinstance(written[name], float):
                assert float(value) == pytest.approx(written[name], rel=1e-4)
        for name, ends in written["intervals"].items():
            method = written["interval_methods"][name]
            assert method in answer.stdout and (ends is None) == method.startswith("none: "), name
            if ends:
                assert ends[0] <= written[name] <= ends[1], name
                assert f"[{ends[0]:.4g}, {ends[1]:.4g}] {method}" in answer.stdout
        scored = {"exact_match", "bleu", "chrf"} if layout == "buckets" else set()
        assert set(written["intervals"]) == {"loss", "perplexity", "bits_per_byte"} | scored
        last = records(trained[layout])[-1]
        if split == "validation":  # what training said of the same checkpoint, but for its limit on what is generated
            for name in ("loss", "perplexity", "bits_per_byte", "tokens"):
                assert written[name] == pytest.approx(last[name], rel=1e-5), name
        if layout == "buckets":
            assert len(written["outputs"]) == written["generated"] > 8
            assert set(written["outputs"][0]) == {"source", "reference", "output"}
            assert {"exact_match", "bleu", "chrf"} <= set(written)
        if (layout, split) == ("buckets", "test"):
            assert table["step"] == "72" and written["decoding"]["beam_size"] == 2
            assert written["decoding"]["ban"] == ["q/"]
            assert "case:lc" in written["bleu_signature"] and "tok:char" in written["bleu_signature"]
        asked = {"split": split, "checkpoint": "best", "decoding": {}, "scores": [], "lowercase": False}
        asked |= {"bleu_tokenize": "", "data": ""}
        if "--checkpoint=latest" in calls[layout, split]:
            asked["checkpoint"] = "latest"
        elif layout == "buckets":
            asked |= {"checkpoint": "72", "decoding": {"beam_size": 2, "ban": ["q/"]}}
            asked |= {"lowercase": True, "bleu_tokenize": "char"}
        assert written["options"] == asked


def test_a_notebook_generates_and_scores_as_the_programs_do(trained, sampled, pairs):
    for layout in LAYOUTS:
        run = lm.load(str(trained[layout]))
        ((one,),) = run.generate([PROMPTS[layout][0]], lm.Options(temperature=0, max_new_tokens=12))
        (expected,) = objects(sampled[layout, "greedy"])
        assert (one.output, one.tokens, one.ended) == (expected["output"], expected["tokens"], expected["ended"])
        assert one.log_probability == pytest.approx(expected["log_probability"], rel=1e-4)
    run = lm.load(str(trained["buckets"]))
    # What was generated scores, teacher-forced, what the generation says of itself.
    for (one,) in run.generate([source for source, _ in pairs[:8]], lm.Options(temperature=0, max_new_tokens=12)):
        (score,) = run.score([(one.prompt, one.output)])
        if one.ended and score.tokens == one.tokens:  # the same pieces
            assert score.log_probability == pytest.approx(one.log_probability, rel=1e-4)
    (empty,) = lm.load(str(trained["streams"])).score([""])
    assert empty.tokens == 1 and np.isfinite(empty.log_probability)
