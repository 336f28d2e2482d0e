"""Starting from other runs: what learns and what does not, averages, adapters, new pieces, word vectors."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax.traverse_util import flatten_dict
from support.configs import tiny_config
from support.sizes import sized
from support.training import FROZEN, Setup, devices_of, parameters

from benchmarks import kill
from lm import answers, changed
from lm.data.read.examples import Example
from lm.data.text.tokenizers.saved import load_tokenizer
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.evaluation.scoring import evaluate
from lm.layers.recurrent import RecurrentLayer
from lm.models.parameters import initial_params
from lm.recurrence import CELLS
from lm.runs import log, transfer, vectors
from lm.runs.checkpoints import Checkpoints
from lm.runs.run import load
from lm.search.options import Options
from lm.training import loop
from lm.training.step import TrainState

pytestmark = pytest.mark.usefixtures("quick_training")

SHORT = {"training.steps": 4, "training.eval_every": 2, "training.checkpoint_every": 2, "training.log_every": 1}
SHORT |= {"training.eval_examples": 0, "data.buckets": 1}


@pytest.fixture(scope="module", autouse=True)
def no_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "closing", lambda *_: None)  # it only prints, and takes long
        yield


def validation_losses(directory: pathlib.Path) -> list[float]:
    return [r["loss"] for r in log.read_metrics(epath.Path(directory)) if r["split"] == "validation"]


# ---- groups -----------------------------------------------------------------------------------------------------

GROUPS = ["embedding/.*=>0", "encoder/.*=>0.5@2 steps", ".*=>1"]


@pytest.fixture(scope="module")
def grouped(sources) -> tuple[Setup, TrainState]:
    """What is frozen, slow and late beside the rest; and the state after four updates on one device."""
    changes = {"optimizer.groups": GROUPS, "optimizer.weight_decay": 0.1, "optimizer.ema_decay": 0.5, "data.buckets": 1}
    setup = Setup(tiny_config("buckets", sources["seq2seq"], changes))
    return setup, devices_of("pmap", 1).saved(after(setup, devices_of("pmap", 1), 4))


def after(setup: Setup, devices: Devices, count: int) -> TrainState:
    return setup.updates(devices, [setup.data.batches[i] for i in range(count)])[1]


def test_what_is_frozen_keeps_its_bits_and_takes_no_memory_and_what_is_late_waits(grouped):
    setup, state = grouped
    early = devices_of("pmap", 1).saved(after(setup, devices_of("pmap", 1), 2))
    begun = flatten_dict(setup.params, sep="/")
    moved = {}
    for count, one in ((2, early), (4, state)):
        now = flatten_dict(one.params, sep="/")
        moved[count] = {name for name in begun if now[name].tobytes() != np.asarray(begun[name]).tobytes()}
    encoder = {name for name in begun if name.startswith("encoder/")}
    assert moved[4] == set(begun) - {"embedding/embedding"} and moved[2] == moved[4] - encoder and encoder
    table = begun["embedding/embedding"]
    assert not any(leaf.shape == table.shape for leaf in jax.tree.leaves((state.opt_state, state.averaged)))


@pytest.mark.parametrize("mode, accumulate", sized([("pmap", 1), ("fsdp", 2)], lambda mode, accumulate: mode == "fsdp"))
def test_groups_and_averages_are_the_same_on_many_devices_in_every_mode(mode, accumulate, grouped):
    setup, state = grouped
    other = Setup(changed(setup.config, {"training.accumulate": accumulate}))
    devices = devices_of(mode, 4, shards=2)
    found = devices.saved(after(other, devices, 4))
    for path, one in jax.tree_util.tree_leaves_with_path(state):
        same = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        np.testing.assert_allclose(same, one, rtol=1e-3, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    table = found.params["embedding"]["embedding"]
    assert np.asarray(table).tobytes() == np.asarray(setup.params["embedding"]["embedding"]).tobytes()


def test_a_group_that_never_begins_is_refused(sources, tmp_path):
    for groups, words in (
        (["embedding/.*=>1@9 epochs", ".*=>1"], "embedding/.* begins to learn after step .*, and training ends at 4"),
        (["encodr/.*=>0", ".*=>1"], "'encodr/.*' matches no parameter"),
    ):
        config = tiny_config("buckets", sources["seq2seq"], SHORT | {"optimizer.groups": groups})
        with pytest.raises(UserError, match=f"^error: config.optimizer.groups: '?{words}"):
            loop.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ---- a language model reads the source --------------------------------------------------------------------------


def test_a_language_model_goes_on_as_a_decoder_that_reads_the_source(sources, tmp_path, capfd):
    shared = SHORT | {"model.attention": "none", "model.tied": True, "model.embed_dim": 16, "model.self_attention": 24}
    source = sources["seq2seq"]
    texts = {f"data.{split}": f"{source} | | {{source}} {{target}}" for split in ("train", "validation", "test")}
    tokenizer = {"data.tokenizer.kind": "unigram", "data.tokenizer.vocab_size": 280}
    loop.train(tiny_config("streams", source, shared | texts | tokenizer), epath.Path(tmp_path / "lm"))
    start = {"model.encoder": "decoder", "training.init_from": f"{tmp_path}/lm:latest"}
    config = tiny_config("buckets", source, shared | start | {"data.tokenizer.kind": "characters"})
    loop.train(changed(config, FROZEN), epath.Path(tmp_path / "frozen"))
    before, after = (parameters(tmp_path / run) for run in ("lm", "frozen"))
    jax.tree.map(np.testing.assert_array_equal, before, after)

    capfd.readouterr()
    loop.train(config, epath.Path(tmp_path / "tuned"))
    assert re.search(
        r"/lm:latest: 8 parameters loaded$", capfd.readouterr().out, re.MULTILINE
    )  # none skipped, none new
    run = load(str(tmp_path / "tuned"))
    prompts = ["one two", "two"]
    together = [one[0].output for one in run.generate(prompts, Options(temperature=0))]
    assert together == [run.generate([prompt], Options(beam_size=1))[0][0].output for prompt in prompts]
    (found,) = run.generate(["one two"], Options(beam_size=3, num_samples=1))
    score = run.score([("one two", found[0].output)])[0]
    assert not found[0].ended or score.log_probability == pytest.approx(found[0].log_probability, abs=1e-4)


# ---- averaged weights -------------------------------------------------------------------------------------------


def test_the_average_of_the_updates_is_evaluated_kept_loaded_and_started_from(sources, tmp_path):
    decay, every = 0.6, {"training.checkpoint_every": 1, "training.keep_checkpoints": 9, "optimizer.warmup": 0}
    changes = SHORT | every | {"optimizer.ema_decay": decay, "training.not_finite": "skip"}
    config = tiny_config("streams", sources["lm"], changes)
    loop.train(config, epath.Path(tmp_path / "run"))
    saved = Checkpoints(epath.Path(tmp_path / "run" / "checkpoints"))
    raw = [flatten_dict(saved.arrays(step, "rest")["params"], sep="/") for step in range(1, 5)]
    for step in (1, 2, 4):
        shares = np.array([(1 - decay) * decay ** (step - i) for i in range(1, step + 1)]) / (1 - decay**step)
        for name, value in parameters(tmp_path / "run", str(step)).items():
            expected = sum(share * one[name].astype(np.float64) for share, one in zip(shares, raw, strict=False))
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert any((raw[3][name] != value).any() for name, value in parameters(tmp_path / "run", "4").items())
    run = load(str(tmp_path / "run"), "4")
    found = evaluate(run, "validation", Options(temperature=0))
    assert found.figures["loss"] == pytest.approx(validation_losses(tmp_path / "run")[-1], rel=1e-5)
    assert "|weights:EMA-0.6|" in found.measured["loss"].signature and not run.averaged
    assert load(str(tmp_path / "run"), "mean:2").weights == "mean of 3+4 of EMA 0.6"

    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(step))
    loop.train(config, epath.Path(tmp_path / "resumed"))
    assert kill.differences(tmp_path / "run", tmp_path / "resumed") == []

    start = FROZEN | {"training.init_from": f"{tmp_path}/run:4", "optimizer.ema_decay": 0.0}
    loop.train(changed(config, start), epath.Path(tmp_path / "tuned"))
    for name, value in parameters(tmp_path / "tuned").items():
        np.testing.assert_array_equal(value, parameters(tmp_path / "run", "4")[name])


# ---- adapters ---------------------------------------------------------------------------------------------------

EXAMPLES = [Example("ant bee cat", "cat bee ant"), Example("dog", "dog"), Example("hen gnu", "zebra")]


@pytest.mark.parametrize(
    "cell, heads",
    sized([("lstm", 1), ("gru", 2), ("rglru", 1), ("mlstm", 2)], lambda cell, heads: cell in ("gru", "rglru")),
)
def test_a_layer_with_adapters_is_the_layer_with_the_sum_of_both_as_its_kernels(cell, heads):
    plain = RecurrentLayer(CELLS[cell], 6, 8, heads)
    layer = RecurrentLayer(CELLS[cell], 6, 8, heads, lora_rank=2, lora_alpha=3.0)
    inputs, state = jax.random.normal(jax.random.key(1), (5, 3, 6)), CELLS[cell].zero_state(3, 8, heads)
    over_time = (inputs, state, jnp.ones((5, 3), bool), jnp.zeros((5, 3), bool))
    run = lambda layer, params: layer.apply({"params": params}, *over_time, method="unroll")[0]
    params = flatten_dict(layer.init(jax.random.key(0), *over_time, method="unroll")["params"], sep="/")
    base = {name: value for name, value in params.items() if "_lora_" not in name}
    assert len(params) == len(base) + 2 * sum(name.endswith("kernel") for name in base)
    np.testing.assert_array_equal(run(layer, params), run(plain, base))
    full = {name: value + 0.3 * name.endswith("_lora_b") for name, value in params.items()}
    for name in [name for name in base if name.endswith("kernel")]:
        product = np.einsum("...ir,...ro->...io", full[f"{name}_lora_a"], full[f"{name}_lora_b"])
        base[name] = base[name] + 3.0 / 2 * product
    np.testing.assert_allclose(run(layer, full), run(plain, base), rtol=1e-5, atol=1e-6)
    assert np.abs(run(plain, base) - run(layer, params)).max() > 1e-2


def test_adapters_start_as_the_origin_and_alone_learn(trained, sources, tmp_path, capsys):
    origin = load(str(trained["buckets"]), "latest")
    changes = {"training.init_from": f"{trained['buckets']}:latest", "model.lora_rank": 2, "model.lora_alpha": 4.0}
    config = tiny_config("buckets", sources["seq2seq"], SHORT | changes)
    answer = answers.build(config, origin.tokenizer)
    begun, report = transfer.initialise(initial_params(answer.model, 0), transfer.origin(config))
    nats = lambda answer, params: [score.log_probability for score in answer.score(params, EXAMPLES)]
    np.testing.assert_allclose(nats(answer, begun), nats(origin.answer, origin.params), rtol=1e-6)
    assert report["new"] and all("_lora_" in name for name in report["new"]) and not report["skipped"]

    loop.train(config, epath.Path(tmp_path / "tuned"))
    run = load(str(tmp_path / "tuned"), "latest")
    theirs, ours = parameters(trained["buckets"]), parameters(tmp_path / "tuned")
    adapters = {name for name in ours if "_lora_" in name}
    assert adapters == set(ours) - set(theirs)
    adapted = {"head_kernel"} | {name for name in theirs if re.search("/(recurrent_)?kernel$", name)}
    adapted = {name for name in adapted if name.startswith(("encoder/", "decoder/layers", "head"))}
    assert {name.split("_lora_")[0] for name in adapters} == adapted and len(adapted) == 7
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.tobytes(), name
    assert all(ours[name].any() for name in adapters)
    learnt = sum(2 * sum(theirs[name].shape) for name in adapted)
    assert f".*_lora_[ab]: {learnt:,} in 14 arrays, 1 of the learning rate" in capsys.readouterr().out

    # It samples, and what starts from it without adapters is the same model.
    assert len(run.generate(["ant bee", ""], Options(beam_size=2))) == 2
    again = changed(config, {"training.init_from": f"{tmp_path}/tuned:latest", "model.lora_rank": 0})
    merged = transfer.origin(again).params
    assert set(flatten_dict(merged, sep="/")) == set(theirs)
    np.testing.assert_allclose(nats(origin.answer, merged), nats(run.answer, run.params), rtol=1e-5)
    assert np.abs(np.subtract(nats(run.answer, run.params), nats(origin.answer, origin.params))).max() > 1e-3


def test_adapters_of_nothing_are_refused(sources, tmp_path):
    config = tiny_config("buckets", sources["seq2seq"], SHORT | {"model.lora_rank": 2})
    with pytest.raises(UserError, match="config.model.lora_rank: needs a run to start from"):
        loop.train(config, epath.Path(tmp_path / "run"))


# ---- new pieces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sized(["streams", "buckets"], lambda layout: layout == "buckets"))
def test_new_pieces_get_rows_of_their_own_and_all_else_is_loaded_exactly(layout, trained, sources, tmp_path, capsys):
    changes = {"training.init_from": str(trained[layout]), "data.tokenizer.pieces": ["<user>", "<bot>"]}
    source = sources["lm" if layout == "streams" else "seq2seq"]
    loop.train(tiny_config(layout, source, SHORT | FROZEN | changes), epath.Path(tmp_path / "run"))
    old, run = load_tokenizer(trained[layout] / "tokenizer"), load(str(tmp_path / "run"))
    assert run.tokenizer.vocab_size == old.vocab_size + 2
    text = "one two ant bee"
    np.testing.assert_array_equal(run.tokenizer.encode(text), old.encode(text))
    assert run.tokenizer.encode("<bot>").tolist() == [old.vocab_size + 1]
    theirs, ours = parameters(trained[layout], "best"), parameters(tmp_path / "run")
    for name, value in ours.items():
        axis = {"embedding/embedding": 0, "head_kernel": 1, "head_bias": 0}.get(name)
        if axis is None:
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
            continue
        before, added = np.split(value, [old.vocab_size], axis=axis)
        np.testing.assert_array_equal(before, theirs[name], err_msg=name)
        mean = np.broadcast_to(theirs[name].mean(axis=axis, keepdims=True), added.shape)
        np.testing.assert_allclose(added, mean, rtol=1e-5, atol=1e-6, err_msg=name)
    assert "embedding/embedding (2 new ids)" in capsys.readouterr().out


# ---- word vectors -----------------------------------------------------------------------------------------------


def test_words_of_the_vocabulary_start_from_their_vectors(sources, tmp_path, capsys):
    file = tmp_path / "vectors.txt"
    lines = [f"{word} " + " ".join(f"{i}.{j}" for j in range(8)) for i, word in enumerate(["ant", "yak", "bee", "cat"])]
    file.write_text("4 8\n" + " \n".join(lines) + "\n")
    changes = FROZEN | {"data.tokenizer.kind": "words", "data.tokenizer.vocab_size": 0}
    config = tiny_config("buckets", sources["seq2seq"], SHORT | changes)
    loop.train(changed(config, {"training.word_vectors": str(file)}), epath.Path(tmp_path / "run"))
    run, table = load(str(tmp_path / "run")), parameters(tmp_path / "run")["embedding/embedding"]
    begun = np.asarray(initial_params(run.model, config.seed)["embedding"]["embedding"])
    rows = 0
    for i, piece in enumerate(run.tokenizer.pieces(range(len(table)))):
        number = {"ant": 0, "bee": 2, "cat": 3}.get(piece.strip())
        expected = begun[i]
        if number is not None:  # what the layers read is the row times the root of its width
            expected = np.array([f"{number}.{j}" for j in range(8)], np.float32) / 8**0.5
        np.testing.assert_array_equal(table[i], expected, err_msg=piece)
        rows += number is not None
    said = f"from {file}: vectors of {rows} of {len(table)} pieces"
    assert rows > 3 and said in capsys.readouterr().out

    both = {"training.word_vectors": str(file), "training.init_from": str(tmp_path / "run")}
    with pytest.raises(UserError, match="config.training.word_vectors: .*run has an embedding already"):
        loop.train(changed(config, both), epath.Path(tmp_path / "both"))
    file.write_text("walrus 1 2 3 4 5 6 7 8\n")
    with pytest.raises(UserError, match=r"word_vectors: .*vectors.txt has no word of the vocabulary"):
        loop.train(changed(config, {"training.word_vectors": str(file)}), epath.Path(tmp_path / "none"))
    assert not (tmp_path / "both").exists() and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2 4\na 1 2 3 4\nb 1 2 3 4\n", "f: has vectors of 4 numbers, but config.model.embed_dim is 3"),
        ("a 1 2 3 4\n", "f: has vectors of 4 numbers, but config.model.embed_dim is 3"),
        ("a 1 2\n", "f: has vectors of 2 numbers, but config.model.embed_dim is 3"),
        ("a 1 2 3\nb 1 2\n", "f:2: has 2 numbers instead of 3"),
        ("a 1 2 3\nb 1 2 3 4\n", "f:2: has 4 numbers instead of 3"),
        ("a 1 2 3\n\nb 1 2 3\n", "f:2: has 0 numbers instead of 3"),
        ("c 1 2 3\na 1 x 3\n", "f:2: has 'x' instead of a finite number"),
        ("2 3\na 1 nan 3\nb 1 2 3\n", "f:2: has 'nan' instead of a finite number"),
        ("a 1 1e99 3\n", "f:1: has '1e99' instead of a finite number"),
        ("a\t1\t2\t3\n", "f:1: has 0 numbers instead of 3"),
        ("3 3\na 1 2 3\nb 1 2 3\n", "f: has 2 vectors, but its first line says 3"),
        ("", "f: is empty"),
    ],
)
def test_a_file_of_vectors_that_is_malformed_is_refused_by_line(text, says, tmp_path):
    (tmp_path / "f").write_text(text)
    with pytest.raises(UserError) as caught:
        vectors.read(epath.Path(tmp_path / "f"), 3, {"a", "b"})
    assert str(caught.value).startswith(f"error: {tmp_path}/{says}") and "\n" not in str(caught.value)


def test_vectors_are_read_of_wanted_words_whatever_they_are(tmp_path):
    (tmp_path / "f").write_text("a 1 2 3\n\u00a0 4 5 6\n. . . 7 8 9\na 0 0 0\n\u4f60 1e-3 -2 +3 \nz x y z\n")
    found = vectors.read(epath.Path(tmp_path / "f"), 3, {"a", ". . .", "\u4f60", "\u00a0", "absent"})
    expected = {"a": [1, 2, 3], "\u00a0": [4, 5, 6], ". . .": [7, 8, 9], "\u4f60": [1e-3, -2, 3]}
    assert found.keys() == expected.keys()
    for word, values in expected.items():
        np.testing.assert_array_equal(found[word], np.array(values, np.float32))
