"""Unknown tokens: they are counted in every likelihood, spelled out in one of them, and never compared unmarked."""

import itertools
import json
import math
import types

import jax
import numpy as np
import pytest
from etils import epath
from support.configs import tiny_config
from support.sizes import sized
from support.training import Setup

from lm.answers.ranking import label_ids
from lm.batch import UNK
from lm.config.tasks import TASKS
from lm.data import encoding, splits
from lm.data.text.tokenizers.unknown import SPELLING
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.evaluation import statistics
from lm.evaluation.evaluator import Evaluator
from lm.evaluation.scoring import Evaluation
from lm.evaluation.signature import of_whole_texts, signature
from lm.evaluation.summary import comparison
from lm.lab import pretraining, tables
from lm.runs.run import Run
from lm.training import console

pytestmark = pytest.mark.usefixtures("quick_training")

WORDS = "ant bee cat dog eel fox gnu hen".split()
NEW = ("yak", "zebu", "\u00e4h\u00e4")  # words that training never has


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[str, str]]:
    """By task, data for training and data with words that it has not."""
    folder = tmp_path_factory.mktemp("unknown")

    def records(task: str, new: bool):
        words = [*WORDS, *NEW] if new else WORDS
        for i in range(24):
            each = [words[(i * (k + 3) + k) % len(words)] for k in range(4 + i % 3)]
            if TASKS[task].pairs:
                target = each[2] if task == "extract" else " ".join(each[:3])
                yield {"source": " ".join(each), "target": ("good", "so bad")[i % 2] if task == "classify" else target}
            else:
                yield {"text": " ".join(each * 3)}

    found = {}
    for task, new in itertools.product(TASKS, (False, True)):
        path = folder / f"{task}-{new}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records(task, new)))
        found[task] = (*found.get(task, ()), f"jsonl:{path}")
    return found


def setting(task: str, sources, changes=()) -> Setup:
    train, new = sources[task]
    values = {"data.task": task, "data.train": train, "data.validation": new, "data.test": new}
    values |= {"data.tokenizer.kind": "words", "data.tokenizer.vocab_size": 0, "model.dropout": 0.0, **dict(changes)}
    return Setup(tiny_config("streams" if task == "lm" else "buckets", train, values))


def evaluator_of(setup: Setup) -> tuple[Evaluator, object]:
    devices = Devices(jax.devices()[:1])
    evaluator = Evaluator(setup.answer, setup.config, devices, setup.encoded["validation"])
    return evaluator, devices.replicate(setup.params)


@pytest.mark.parametrize("task", sized(TASKS, lambda task: task in ("lm", "seq2seq")))
def test_unknown_tokens_are_counted_and_spelled_out_in_the_figures_of_every_task(task, sources):
    setup = setting(task, sources)
    evaluator, params = evaluator_of(setup)
    figures, measured = evaluator.figures(*evaluator.losses(params)), evaluator.likelihoods(params)
    corpus = setup.encoded["validation"].corpus
    unknown = sum(int(np.sum(target == UNK)) for _, target in corpus.take(range(len(corpus)), 0))
    assert figures["unknown_tokens"] == unknown and (unknown > 5) == (task != "classify")
    assert figures["unknown_bytes"] >= 2 * unknown
    nats, size = figures["loss"] * figures["tokens"], figures["loss"] * figures["tokens"] / figures["bits_per_byte"]
    size /= math.log(2)
    if task in ("classify", "extract"):  # no text is written, so none is spelled
        assert "bits_per_byte_spelled" not in {**figures, **measured}
    else:
        spelled = nats + (figures["unknown_bytes"] + unknown) * math.log(257)
        assert figures["bits_per_byte_spelled"] == pytest.approx(spelled / math.log(2) / size)
        assert figures["bits_per_byte_spelled"] > 2 * figures["bits_per_byte"]
        assert measured["bits_per_byte_spelled"].value == pytest.approx(figures["bits_per_byte_spelled"], rel=1e-5)
    run = Run(epath.Path("none"), 0, setup.config, setup.answer, setup.params)
    examples = list(splits.load_splits(setup.config.data, ("validation",))["validation"].examples)
    if task not in ("prefix", "denoise"):
        scores = run.score(examples)
        assert sum(score.unknown_tokens for score in scores) == figures["unknown_tokens"]
        assert sum(score.unknown_bytes for score in scores) == figures["unknown_bytes"]
        if task == "seq2seq":  # by example, each with the bytes that are unknown in it
            spelled = [-score.spelled_log_probability for score in scores]
            np.testing.assert_allclose(measured["bits_per_byte_spelled"].stats_ns[:, 0], spelled, rtol=1e-4)
            assert min(
                score.spelled_log_probability < score.log_probability for score in scores if score.unknown_tokens
            )
    else:
        with pytest.raises(UserError, match="is text, and the task .* needs source and target"):
            run.score(examples[:1])
        (score,) = run.score([("ant bee", "yak zebu")])
        assert (score.tokens, score.unknown_tokens, score.unknown_bytes) == (3, 2, 8)


def test_of_training_targets_that_are_drawn_the_share_of_the_texts_is_unknown(sources):
    setup = setting("prefix", sources, {"data.tokenizer.vocab_size": 8}.items())
    texts = setup.tokenizer.encode_batch(
        [one.target for one in splits.load_splits(setup.config.data)["train"].examples]
    )
    share = np.mean(np.concatenate(texts) == UNK)
    found = setup.encoded["train"]  # as evaluation data; then as training data
    again = encoding.encode(found.split, setup.tokenizer, setup.config.data, training=True)
    assert 0 < share < 1 and found.lost.tokens / found.tokens == pytest.approx(share, abs=0.1)
    assert again.lost.tokens / (again.tokens - again.documents) == pytest.approx(share, abs=0.02)


def test_a_lossless_tokenizer_has_none(sources):
    setup = setting("seq2seq", sources, {"data.tokenizer.kind": "bytes"}.items())
    evaluator, _ = evaluator_of(setup)
    figures = evaluator.figures(100.0, 50)
    assert (figures["unknown_tokens"], figures["unknown_bytes"]) == (0, 0)
    assert not {"altered_texts", "bits_per_byte_spelled", "nats_per_example_spelled"} & {*figures}


def test_labels_lose_something_where_two_have_the_same_ids(sources):
    setup = setting("classify", sources)
    assert setup.answer.tells_apart and label_ids(setup.tokenizer, ("good",)) != label_ids(setup.tokenizer, ("so bad",))
    setup = setting("classify", sources, {"data.tokenizer.vocab_size": 5}.items())
    same = label_ids(setup.tokenizer, ("grim", "dire"))
    assert same[0] == same[1] and UNK in same[0]
    answer = type(setup.answer)(setup.model, tokenizer=setup.tokenizer, labels=("grim", "dire"))
    assert not answer.tells_apart
    encoded = setup.encoded["validation"]
    assert encoded.lost.tokens > 0
    for told, unknown in ((setup.answer, 0), (answer, encoded.lost.tokens)):
        figures = Evaluator(told, setup.config, Devices(jax.devices()[:1]), encoded).figures(1.0, 1)
        assert figures["unknown_tokens"] == unknown and "bits_per_byte_spelled" not in figures


def test_each_source_of_a_mixture_has_its_own_unknown_tokens(sources):
    known, new = sources["seq2seq"]
    both = {"data.validation": f"{known} + {new}"}
    evaluator, _ = evaluator_of(setting("seq2seq", sources, both.items()))
    parts = [evaluator.figures(10.0, 10, part) for part in evaluator.parts.values()]
    whole = evaluator.figures(20.0, 20)
    assert parts[0]["unknown_tokens"] == 0 < parts[1]["unknown_tokens"] == whole["unknown_tokens"]
    assert parts[1]["unknown_bytes"] == whole["unknown_bytes"] and "bits_per_byte_spelled" not in parts[0]


def test_texts_that_a_normalisation_changes_are_counted(sources, tmp_path):
    lines = "".join(f"ant\t{target}\n" for target in ("bee", "\ufb01x", "cat", "\u2460"))
    (tmp_path / "pairs.tsv").write_text(lines * 4)
    changes = {"data.tokenizer.kind": "bpe", "data.tokenizer.vocab_size": 270, "data.tokenizer.normalization": "nfkc"}
    for spec in ("data.train", "data.validation"):
        changes[spec] = f"tsv:{tmp_path}/pairs.tsv"
    evaluator, _ = evaluator_of(setting("seq2seq", sources, changes.items()))
    figures = evaluator.figures(10.0, 10)
    assert (figures["altered_texts"], figures["unknown_tokens"]) == (8, 0)
    lost = evaluator.whole.lost
    text = signature(evaluator.config, "byte", evaluator.answer.tokenizer, "test", "0" * 8, "one step", lost)
    assert "|unk:0|altered:8|" in text and not of_whole_texts(text)


# ---- what is said -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "second", "marked", "tested"),
    [
        ("bits_per_byte", "tok:a|unk:0", "tok:b|unk:0", True, True),
        ("bits_per_byte", "tok:a|unk:0", "tok:b|unk:3", True, False),  # which would win by what it cannot write
        ("bits_per_byte", "tok:a|unk:3", "tok:b|unk:0", True, False),
        ("bits_per_byte", "tok:a|unk:3", "tok:b|unk:3", True, False),
        ("bits_per_byte", "tok:a|unk:3", "tok:a|unk:3", True, True),  # the same texts are unknown to both
        ("bits_per_byte", "tok:a|unk:0", "tok:a|unk:0", False, True),
        ("bits_per_byte", "tok:a|unk:0|altered:2", "tok:b|unk:0|altered:2", True, False),
        ("bits_per_byte_spelled", "tok:a|unk:0", f"tok:b|unk:{SPELLING}", True, True),
        ("bits_per_byte_spelled", f"tok:a|unk:{SPELLING}", f"tok:b|unk:{SPELLING}", True, True),
        ("bits_per_byte_spelled", "tok:a|unk:0|altered:2", f"tok:b|unk:{SPELLING}", True, False),
        ("perplexity", "tok:a|unk:0", "tok:b|unk:3", True, False),
        ("perplexity", "tok:a|unk:3", "tok:a|unk:3", True, True),
    ],
)
def test_likelihoods_of_unknown_texts_are_marked_and_compared_under_one_tokenizer_alone(
    name, first, second, marked, tested
):
    def evaluated(text, shift):
        unit = "token" if name == "perplexity" else "byte"
        metric = statistics.ratio(np.arange(9.0) + shift, signature=f"unit:{unit}|{text}")
        count = 3 * ("unk:0" not in text)
        return Evaluation({"unknown_tokens": count, "unknown_bytes": 20, "tokens": 70}, {name: metric}, [])

    run = types.SimpleNamespace(workdir="w", step=1, weights="one step")
    line, *notes = comparison([run, run], [evaluated(first, 0), evaluated(second, 1)])[3:]
    assert ("*" in line) == bool(notes) == marked and ("0.0010" in line) == tested, line
    unknown = [letter for letter, text in zip("AB", (first, second), strict=True) if "unk:0" not in text]
    said = [note for note in notes if "3 of 70 target tokens are unknown, 20 bytes" in note]
    assert [note[2] for note in said] == unknown


def test_bits_per_byte_stand_for_the_spelled_ones_where_nothing_is_unknown():
    whole = statistics.ratio(np.arange(9.0), signature="unit:byte|tok:a|unk:0")
    lossy, spelled = (
        whole._replace(signature="unit:byte|tok:b|unk:3"),
        statistics.ratio(np.arange(9.0) + 5, signature=f"unit:byte|tok:b|unk:{SPELLING}"),
    )
    run = types.SimpleNamespace(workdir="w", step=1, weights="one step")
    a = Evaluation({}, {"bits_per_byte": whole}, [])
    b = Evaluation({}, {"bits_per_byte": lossy, "bits_per_byte_spelled": spelled}, [])
    plain, fair = comparison([run, run], [a, b])[3:5]
    assert plain.split()[:2] == ["bits_per_byte", "*"] and len(plain.split()) == 4
    assert fair.split()[:5] == ["bits_per_byte_spelled", "*", "4", "9", "5"]


def test_training_says_how_much_of_its_loss_is_of_unknown_tokens(sources):
    setup = setting("seq2seq", sources)
    evaluator, params = evaluator_of(setup)
    record = {"step": 1, "split": "validation", **evaluator.evaluate(params, 0)}
    lost = setup.encoded["validation"].lost
    assert (record["unknown_tokens"], record["unknown_bytes"]) == (lost.tokens, lost.bytes)
    line = console.figures(record)
    assert f"{lost.tokens} of {record['tokens']} tokens unknown ({lost.bytes} bytes)" in line
    assert f"{record['bits_per_byte_spelled']:.3f} bits/byte with them spelled out" in line
    record |= {"nats_per_example": 2.0, "nats_per_example_spelled": 5.0, "floor_nats_per_example": 1.0}
    assert "4.00 nats per example above the floor of 1.00, unknown tokens spelled out" in console.figures(record)
    trained = {"split": "train", "loss": 1.0, "tokens_per_second": 1, "learning_rate": 1, "grad_norm": 1}
    assert "loss 1.0000 (2.50% of tokens unknown)" in console.figures(trained | {"unknown_share": 0.025})
    assert "unknown" not in console.figures(trained)


def test_the_table_of_a_pipeline_measures_from_the_floor_with_unknown_tokens_spelled_out():
    record = {"nats_per_example": 2.0, "floor_nats_per_example": 1.0, "unknown_tokens": 0}
    lossy = record | {"nats_per_example_spelled": 5.0, "unknown_tokens": 7}
    for spelled in (False, True):
        made = {f"tell-{start}-0": lossy if spelled and start == "scratch" else record for start in pretraining.STARTS}
        (row,) = tables.compared(made, ["tell"], [0])
        assert row["scratch"]["mean"] == (4 if spelled else 1) and row["pretrained"]["mean"] == 1
        text = "\n".join(tables.markdown([row], "test", [0]))
        assert ("nats above the floor *" in text) == ("7 of tell" in text) == spelled
