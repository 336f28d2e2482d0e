"""Encoders that choose: a label by a head on their pooled outputs, or a span of the source by a pointer."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from support.answers import loss_of, text_source
from support.configs import tiny_config
from support.models import compiled, config
from support.programs import run_programs
from support.sizes import sized
from support.training import Setup

from benchmarks import kill
from lm import changed
from lm.answers import cross_entropy as head
from lm.answers.alternatives import IMPOSSIBLE, alternative_nats
from lm.answers.choice import Classifier
from lm.answers.span import Extractor
from lm.batch import EOS
from lm.config import TokenizerConfig
from lm.data import encoding
from lm.data.batches.buckets import pad_pairs
from lm.data.batches.layout import pad_rows
from lm.data.read.examples import Example, Listed
from lm.data.read.sources import Split
from lm.data.text.spans import Spans
from lm.data.text.tokenizers.learning import train_tokenizer
from lm.data.text.tokenizers.vocabulary import Bytes
from lm.devices.mesh import Devices, Fsdp
from lm.errors import UserError
from lm.evaluation.scoring import evaluate
from lm.runs.run import generate_together, load
from lm.search.options import Options
from lm.training import loop

pytestmark = pytest.mark.usefixtures("quick_training")

VOCAB, SPAN = 9, 3
LABELS = ((3, EOS), (4, 5, EOS), (3, 3, 3, 3, 3, 3, 3, EOS))
SOURCES = [np.array(ids) for ids in ([3, 4, 3, 4, 5], [6], [], [4, 4, 4, 3])]


def classifier(pool):
    return Classifier(config(pool=pool, layers=2), VOCAB, labels=LABELS)


def extractor(attention="dot"):
    return Extractor(config(attention, layers=2), VOCAB, span=SPAN)


MODELS = [*(classifier(pool) for pool in ("mean", "max", "last")), extractor(), extractor("additive")]


def named(model) -> str:
    return f"{type(model).__name__}-{model.config.pool or model.config.attention}"


@pytest.fixture(params=sized(MODELS, lambda model: model.config.pool not in ("max", "last")), ids=named)
def each(request):
    return request.param, random(request.param)


def random(model):
    ids = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, text_source(ids)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.6, x.dtype), shapes)


def targets_of(model):
    """One for each of the sources that is a choice of it."""
    spans = [[4, 5], [6], [], [4, 4]]
    labels = [list(LABELS[i][:-1]) for i in (1, 0, 2, 1)]
    return [np.array(ids, np.int32) for ids in (spans if isinstance(model, Extractor) else labels)]


def batch_of(model, targets=None, shape=(7, 9), rows=5):
    return pad_pairs(list(zip(SOURCES, targets_of(model) if targets is None else targets, strict=True)), shape, rows)


@compiled
def nats_of(model, params, batch, keys_b=None):
    return alternative_nats(*model.apply({"params": params}, batch, keys_b, method="choices"))


@functools.partial(jax.jit, static_argnums=(0, 3, 4), compiler_options={"xla_backend_optimization_level": 0})
def value_and_gradient(model, params, batch, *how):
    scalar = lambda params: loss_of(model, params, (), batch, None, *how)
    (loss, (count, _)), gradient = jax.value_and_grad(scalar, has_aux=True)(params)
    return loss, count, gradient


def close(found, expected, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), found, expected)


# ---- probabilities ----------------------------------------------------------------------------------------------


def test_the_probabilities_of_all_texts_that_can_come_out_sum_to_one(each):
    model, params = each
    if isinstance(model, Classifier):
        texts = [{ids[:-1] for ids in LABELS}] * len(SOURCES)
    else:
        texts = [
            {tuple(ids[i:j].tolist()) for i in range(len(ids)) for j in range(i + 1, min(len(ids), i + SPAN) + 1)}
            | {()}
            for ids in SOURCES
        ]
    for source, own in zip(SOURCES, texts, strict=True):
        own = sorted(own)
        batch = pad_pairs([(source, np.array(text, np.int32)) for text in own], (7, 9), 12)
        nats = nats_of(model, params, batch)[: len(own)]
        np.testing.assert_allclose(np.exp(-np.asarray(nats, np.float64)).sum(), 1, rtol=1e-5)
        assert len(own) == 1 or np.ptp(nats) > 1e-3


def test_what_is_no_choice_is_impossible(each):
    model, params = each
    wrong = [np.array(ids, np.int32) for ids in ([3, 5], [6, 6], [3], [5])]
    batch = batch_of(model, wrong if isinstance(model, Extractor) else [ids + 3 for ids in wrong])
    nats = nats_of(model, params, batch)[:4]
    assert np.isinf(nats).all()


def test_a_text_has_the_probability_of_all_spans_that_hold_it():
    model = extractor()
    params = random(model)
    batch = batch_of(model, [np.array([3, 4])] * 4)
    logits = np.asarray(model.apply({"params": params}, batch.source, method="logits")).reshape(5, 7, SPAN)
    p = np.exp(logits[0] - np.logaddexp.reduce(logits[0], axis=None))
    (found, *_) = nats_of(model, params, batch)
    np.testing.assert_allclose(np.exp(-found), p[0, 1] + p[2, 1], rtol=1e-5)
    # Spans lie within the source; its EOS is one of its own.
    possible = {(s, n) for s, n in itertools.product(range(7), range(SPAN)) if s + n < 5} | {(5, 0)}
    assert {tuple(each) for each in np.argwhere(logits[0] > IMPOSSIBLE).tolist()} == possible


# ---- the loss ---------------------------------------------------------------------------------------------------


def test_more_padding_and_empty_rows_change_no_loss_and_no_gradient(each):
    model, params = each
    how = (0.0, 0.0) if isinstance(model, Extractor) and model.config.attention == "dot" else (0.1, 0.2)
    expected = value_and_gradient(model, params, batch_of(model, rows=4), *how)
    found = value_and_gradient(model, params, pad_rows(batch_of(model, shape=(11, 12), rows=4), 6), *how)
    close(found, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)) and expected[1] == sum(
        len(ids) + 1 for ids in targets_of(model)
    )
    moved = [np.abs(leaf).max() for leaf in jax.tree.leaves(expected[2])]
    assert min(moved) > 0  # every parameter has a gradient


def test_smoothing_and_z_loss_of_labels_are_those_of_the_cross_entropy():
    model = classifier("mean")
    params = random(model)
    batch = batch_of(model, rows=4)
    logits = model.apply({"params": params}, batch.source, method="logits")
    unit = jnp.eye(3), jnp.zeros(3)
    gold, ones = jnp.array([[1], [0], [2], [1]]), jnp.ones((4, 1))
    expected, _ = head.cross_entropy(logits[:, None], unit, gold, ones, 0.1, 0.3)
    found, _ = loss_of(model, params, (), batch, None, 0.1, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dropout_depends_on_the_key_of_the_row(each):
    model, params = each
    dropped = model.clone(config=config("dot", layers=2, dropout=0.4, pool=model.config.pool))
    if isinstance(model, Extractor) and model.config.attention != "dot":
        return
    batch, keys_b = batch_of(model, rows=4), jax.random.split(jax.random.key(1), 4)
    nats = lambda keys_b, order=slice(None): nats_of(dropped, params, jax.tree.map(lambda x: x[order], batch), keys_b)
    plain = nats_of(model, params, batch)
    np.testing.assert_allclose(nats(None), plain, rtol=1e-6)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(nats(keys_b[order], order), nats(keys_b)[order], rtol=1e-5)
    assert np.abs(nats(keys_b) - plain)[[0, 1, 3]].min() > 1e-4


# ---- where an answer stands -------------------------------------------------------------------------------------

TEXTS = ["the red hat is in the park", "a park, the hat: red!", "\u4f60 the \u597d park 12-13", "the zebra hat is red"]
TOKENIZERS = [Bytes()] + [
    train_tokenizer(TokenizerConfig(kind, size), iter(TEXTS[:-1] * 30))
    for kind, size in (("characters", 0), ("words", 0), ("unigram", 285), ("bpe", 285))
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda each: each.kind)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_an_answer_is_found_where_it_is_a_span_of_ids_and_nowhere_else(tokenizer, data):
    text = data.draw(st.sampled_from(TEXTS))
    i = data.draw(st.integers(0, len(text) - 1))
    answer = text[i : data.draw(st.integers(i + 1, len(text)))] if data.draw(st.booleans()) else "hut"
    source, spans = tokenizer.encode(text), Spans(tokenizer)
    found, parts = spans.find(text, source, answer), spans.surfaces_of(text, source)
    assert b"".join(parts).decode() == text
    exact = [
        (i, j)
        for i, j in itertools.combinations(range(len(source) + 1), 2)
        if answer.strip() and b"".join(parts[i:j]).strip() == answer.strip().encode()
    ]
    assert found.tolist() in ([source[i:j].tolist() for i, j in exact] or [[]])
    for i, j in exact:
        assert spans.text(parts[i:j]) == answer.strip()


# ---- runs -------------------------------------------------------------------------------------------------------

WORDS = "ant bee cat dog eel fox gnu hen".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Questions whose answer is the word after the one that is asked for, every tenth not in its source; labels."""
    folder = tmp_path_factory.mktemp("read")
    questions, labels = [], []
    for i in range(150):
        words = [WORDS[(37 * i + 11) // 8**k % 8] for k in range(4)]
        answer = "yak" if i % 10 == 9 else words[1]
        questions.append(f"{' '.join(words)} ?\t{answer}\n")
        labels.append(f"{' '.join(words)}\t{'good' if words[0] < 'dog' else 'so bad'}\n")
    (folder / "extract.tsv").write_text("".join(questions))
    (folder / "classify.tsv").write_text("".join(labels))
    return folder


def reader_config(files, task):
    steps = {"training.steps": 60, "training.eval_every": 30, "training.checkpoint_every": 30, "training.log_every": 30}
    pooled = {"model.pool": "mean"} if task == "classify" else {}
    return tiny_config("buckets", f"tsv:{files}/{task}.tsv", steps | pooled | {"data.task": task, "data.span": 7})


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    """A run of each, trained by train.py."""
    folder = tmp_path_factory.mktemp("readers")
    calls = {}
    for task in ("extract", "classify"):
        calls[task] = kill.command(reader_config(files, task), folder / task)[1:]
    done = dict(zip(calls, run_programs(*((call, "") for call in calls.values())), strict=True))
    for task, answer in done.items():
        assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr
        (folder / f"{task}.stdout").write_text(answer.stdout)
    return {task: folder / task for task in calls}


def test_examples_without_their_answer_are_counted_and_left_out_of_the_loss_and_not_of_the_scores(runs, files):
    said = runs["extract"].with_suffix(".stdout").read_text()
    train, validation = (
        next(line for line in said.splitlines() if line.startswith(name)) for name in ("train", "validation")
    )
    count = lambda line: int(line.split(" more whose")[0].split()[-1])
    assert count(train) + count(validation) == 15
    found = evaluate(load(str(runs["extract"])), "test", Options(temperature=0))
    assert found.figures["generated"] == 150 and len(found.measured["loss"].stats_ns) == 135
    without = [one for one in found.outputs if one["reference"] == "yak"]
    assert len(without) == 15 and not any(one["output"] == "yak" for one in without)
    right = np.mean([one["reference"] == one["output"] for one in found.outputs])
    assert found.figures["exact_match"] == found.figures["squad_exact_match"] == right > 0.5
    assert found.figures["squad_f1"] >= right
    assert "floor_nats_per_example" not in found.figures
    targets = sum(len(one["reference"].encode()) for one in found.outputs if one["reference"] != "yak")
    np.testing.assert_allclose(found.measured["bits_per_byte"].stats_ns[:, 1].sum(), targets)


def test_an_output_is_a_span_of_its_source_and_has_the_score_of_its_text(runs):
    run = load(str(runs["extract"]))
    prompts = ["ant bee cat dog ?", "", "\u4f60 zzz", "fox " * 60, "ant bee cat dog ?", "hen"]
    found = run.generate(prompts, Options(num_samples=3))
    for prompt, outputs in zip(prompts, found, strict=True):
        assert 1 <= len(outputs) <= 3 and len({one.output for one in outputs}) == len(outputs)
        nats = [one.log_probability for one in outputs]
        assert nats == sorted(nats, reverse=True)
        for one in outputs:
            assert one.output in prompt and one.ended
            if one.output:
                (score,) = run.score([(prompt, one.output)])
                assert one.log_probability >= score.log_probability - 1e-4
        ((alone, *_),) = run.generate([prompt])
        assert alone.output == outputs[0].output
        np.testing.assert_allclose(alone.log_probability, outputs[0].log_probability, rtol=1e-4, atol=1e-5)
    assert found[1][0].output == ""
    assert run.score([("ant bee", "yak")])[0].log_probability == -np.inf


def test_labels_have_the_probabilities_of_the_head(runs):
    run = load(str(runs["classify"]))
    (outputs,) = run.generate(["ant bee cat dog"], Options(num_samples=2))
    assert {one.output for one in outputs} == set(run.labels) == {"good", "so bad"}
    np.testing.assert_allclose(sum(np.exp(one.log_probability) for one in outputs), 1, rtol=1e-5)
    for one in outputs:
        (score,) = run.score([("ant bee cat dog", one.output)])
        np.testing.assert_allclose(one.log_probability, score.log_probability, rtol=1e-4, atol=1e-5)
    found = evaluate(run, "test", Options(temperature=0))
    assert found.figures["accuracy"] > 0.9 and {"macro_f1", "ece", "brier"} <= set(found.measured)
    # The loss is of the label's text: nats over its tokens, as of a decoder that writes it.
    tokens = sum(len(run.tokenizer.encode(one["reference"])) + 1 for one in found.outputs)
    assert found.figures["tokens"] == tokens


def test_a_label_that_the_head_has_not_is_refused_before_anything_is_written(files, tmp_path):
    (tmp_path / "other.tsv").write_text("ant\tgood\nbee\tnever seen\n")
    config = changed(reader_config(files, "classify"), {"data.validation": f"tsv:{tmp_path}/other.tsv"})
    with pytest.raises(UserError, match="config.data.validation: the label 'never seen' is none"):
        loop.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_data_without_any_answer_in_its_source_is_refused(tmp_path, files):
    (tmp_path / "other.tsv").write_text("".join(f"ant bee {i}\tcow\n" for i in range(90)))
    config = changed(reader_config(files, "extract"), {"data.train": f"tsv:{tmp_path}/other.tsv"})
    with pytest.raises(UserError, match="config.data.train: has no target that is a span"):
        loop.train(config, epath.Path(tmp_path / "run"))


def test_answers_longer_than_a_span_are_as_those_that_are_not_there(files):
    examples = Listed([Example("a b c d", "b c"), Example("a b c d", "a b c d")])
    config = changed(reader_config(files, "extract"), {"data.tokenizer.kind": "bytes", "data.span": 4})
    encoded = encoding.encode(Split("test", "", examples), Bytes(), config.data)
    assert (len(encoded.corpus), encoded.unpointed, encoded.target_bytes) == (1, 1, 3)


def test_the_target_of_several_answers_is_the_first_that_is_a_span_and_no_text_is_the_end(files):
    examples = Listed(
        [
            Example("a b c d", "x y", others=("b c", "d")),
            Example("a b c d", "", others=()),
            Example("a b c d", "x", others=("y",)),
        ]
    )
    config = changed(reader_config(files, "extract"), {"data.tokenizer.kind": "bytes", "data.span": 4})
    encoded = encoding.encode(Split("test", "", examples), Bytes(), config.data)
    assert (len(encoded.corpus), encoded.unpointed, encoded.target_bytes) == (2, 1, 3)
    assert [Bytes().decode(target) for _, target in encoded.corpus.take([0, 1], 0)] == ["b c", ""]


def test_no_text_has_the_probability_of_the_end_of_its_source(runs):
    run = load(str(runs["extract"]))
    outputs = {one.output: one for (each) in run.generate(["ant"], Options(num_samples=9)) for one in each}
    (score,) = run.score([("ant", "")])
    assert score.log_probability == pytest.approx(outputs[""].log_probability, rel=1e-4)


def test_a_source_of_a_mixture_without_any_answer_has_no_likelihood_and_leaves_others_theirs(runs, files, tmp_path):
    (tmp_path / "none.tsv").write_text("ant bee ?\tyak\ncat dog ?\tyak\n")
    run = load(str(runs["extract"]))
    parts = [f"tsv:{tmp_path}/none.tsv", f"tsv:{files}/extract.tsv"]
    found = evaluate(run, "data", Options(temperature=0), data=" + ".join(parts)).figures["parts"]
    nothing, own = found.values()
    reason = "no target is a span of its source"
    assert nothing["undefined"] == dict.fromkeys(("loss", "perplexity", "bits_per_byte"), reason)
    assert nothing["intervals"]["loss"] is None and nothing["exact_match"] == 0
    alone = evaluate(run, "test", Options(temperature=0)).figures
    assert {name: own[name] for name in alone if name.endswith(("loss", "byte", "match", "tokens"))} == pytest.approx(
        {name: value for name, value in alone.items() if name.endswith(("loss", "byte", "match", "tokens"))}, rel=1e-5
    )


@pytest.mark.parametrize("task", sized(["extract", "classify"], lambda task: task == "classify"))
def test_devices_and_modes_give_the_same_updates(task, files):
    setup = Setup(changed(reader_config(files, task), {"data.buckets": 1, "model.dropout": 0.3}))
    given = [setup.data.batches[i] for i in range(5)]
    expected, _ = setup.updates(Devices(jax.devices()[:1]), given)
    setup.config = changed(setup.config, {"training.accumulate": 2})
    found, _ = setup.updates(Fsdp(jax.devices()[:4]), given)
    np.testing.assert_allclose([one.loss_sum for one in found], [one.loss_sum for one in expected], rtol=1e-4)


def test_an_encoder_that_was_trained_with_a_decoder_becomes_a_readers(runs, files, tmp_path, capsys):
    config = changed(reader_config(files, "classify"), {"training.init_from": str(runs["extract"])})
    loop.train(changed(config, {"training.steps": 1}), epath.Path(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "  new: head/bias, head/kernel" in said
    loaded = next(line for line in said.splitlines() if line.startswith("  loaded: "))
    assert "embedding/embedding" in loaded and "encoder/layer_0_backward/kernel" in loaded
    assert "\nlabels      train 2: '" in said and "\nlabels      validation 1: 'so bad' " in said
    assert "\nwarning     labels that train has and validation lacks: 'good'\n" in said
    assert "\nlabels " not in runs["extract"].with_suffix(".stdout").read_text()


def test_programs_take_runs_that_choose_and_refuse_what_makes_no_sense(runs, tmp_path):
    flag = {task: f"--workdir={run}" for task, run in runs.items()}
    calls = {
        "sample": ["sample.py", flag["extract"], "--prompt=ant bee cat dog ?", "--json", "--num_samples=2"],
        "together": ["sample.py", flag["extract"], flag["extract"], "--prompt=ant bee cat dog ?", "--json"],
        "classify": ["sample.py", flag["classify"], "--prompt=ant bee"],
        "evaluate": ["-m", "lm.evaluate", flag["extract"], "--scores=squad"],
        "evaluate classify": ["-m", "lm.evaluate", flag["classify"]],
        "beam": ["sample.py", flag["extract"], "--prompt=a", "--beam_size=3"],
        "evaluated beam": ["-m", "lm.evaluate", flag["extract"], "--beam_size=3"],
        "pooled beam": ["sample.py", flag["classify"], "--prompt=a", "--top_k=3"],
        "both": ["sample.py", flag["extract"], flag["classify"], "--prompt=a"],
    }
    done = dict(zip(calls, run_programs(*((call, "") for call in calls.values())), strict=True))
    refused = {name: done.pop(name) for name in ("beam", "evaluated beam", "pooled beam", "both")}
    assert all(answer.returncode == 0 for answer in done.values()), done
    best, _ = map(json.loads, done["sample"].stdout.splitlines())
    twice = json.loads(done["together"].stdout)
    assert best.pop("log_probability") == pytest.approx(twice.pop("log_probability"), abs=1e-5) and best == twice
    assert done["classify"].stdout.strip() in ("good", "so bad")
    assert "squad_f1" in done["evaluate"].stdout and "macro_f1" in done["evaluate classify"].stdout
    words = {
        "beam": "points at spans of the source",
        "evaluated beam": "points at spans of the source",
        "pooled beam": "ranks its labels",
        "both": "kind of task",
    }
    for name, answer in refused.items():
        assert answer.returncode == 2 and len(answer.stderr.splitlines()) == 1, answer.stderr
        assert words[name] in answer.stderr


def test_a_decoder_and_a_head_rank_labels_together(runs, files, tmp_path):
    config = changed(reader_config(files, "classify"), {"model.pool": "", "training.steps": 2})
    loop.train(config, epath.Path(tmp_path / "run"))
    pooled, decoder = load(str(runs["classify"])), load(str(tmp_path / "run"))
    each = [
        {o.output: o.log_probability for o in run.generate(["ant"], Options(num_samples=2))[0]}
        for run in (pooled, decoder)
    ]
    (both,) = generate_together([pooled, decoder], ["ant"], Options(num_samples=2))
    for one in both:
        expected = np.logaddexp(*(nats[one.output] for nats in each)) - np.log(2)
        np.testing.assert_allclose(one.log_probability, expected, rtol=1e-4)
