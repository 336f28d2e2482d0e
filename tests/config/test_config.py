"""Every field can be set, is written down exactly, is checked, and is read by the program."""

import collections
import contextlib
import dataclasses
import importlib.util
import json
import math
import pathlib
import re
import sys
import types
from fractions import Fraction

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.configs import tiny_config
from support.programs import ROOT, run_alone
from support.sizes import sized

import lm
from lm import answers, changed
from lm import config as configuration
from lm.config import (
    Config,
    DataConfig,
    ModelConfig,
    Names,
    NoiseConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainingConfig,
    schema,
    serialization,
    validated,
)
from lm.config.tasks import ANSWER_KINDS, TASKS
from lm.data import encoding, feed, splits
from lm.data.batches.corpus import InMemory
from lm.data.read import sources
from lm.data.read.examples import Example, Listed
from lm.data.read.sources import Split
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.models import parameters
from lm.training import loop, optimizers
from lm.training.gradient import summed_gradient
from lm.training.schedule import Schedule
from lm.training.step import TrainState, initial_state, make_train_step

# A valid value beside the one of `base()`, for every field: what an override is tried with.
OTHER = {
    "seed": 7,
    "data.train": "text:a b,c=*.txt",
    "data.validation": "tsv:é.tsv",
    "data.test": "jsonl:t.jsonl",
    "data.task": "seq2seq",
    "data.layout": "packed",
    "data.turns": ["Guest: {turn}", "Seller: {turn}"],
    "data.history": 5,
    "data.cleaning": ["nfc", "length(1, 100)"],
    "data.batch_size": 96,
    "data.source_format": "{question} {context}",
    "data.target_format": "{answers[text][0]}",
    "data.window": 33,
    "data.reset_rate": 0.1,
    "data.max_length": 99,
    "data.buckets": 3,
    "data.evaluation_streams": 5,
    "data.prefix_least": 0.1,
    "data.prefix_most": 0.9,
    "data.span": 9,
    "data.workers": 2,
    "data.noise.kind": "bart",
    "data.noise.rate": 0.3,
    "data.noise.mean_span": 4.0,
    "data.noise.infilling": 0.2,
    "data.noise.deletion": 0.1,
    "data.noise.permutation": 0.5,
    "data.tokenizer.kind": "bpe",
    "data.tokenizer.vocab_size": 600,
    "data.tokenizer.normalization": "nmt_nfkc",
    "data.tokenizer.pieces": ["<user>", "<bot>"],
    "data.tokenizer.sentinels": 10,
    "data.tokenizer.multiple_of": 128,
    "data.tokenizer.sampling": 0.1,
    "data.tokenizer.copies": 3,
    "model.cell": "elman",
    "model.embed_dim": 24,
    "model.hidden_dim": 48,
    "model.layers": 3,
    "model.encoder": "unidirectional",
    "model.attention": "additive",
    "model.copy": True,
    "model.coverage": 0.5,
    "model.self_attention": 64,
    "model.pool": "max",
    "model.dropout": 0.3,
    "model.tied": True,
    "model.heads": 2,
    "model.dtype": "bfloat16",
    "model.lora_rank": 4,
    "model.lora_alpha": 8.0,
    "model.backward": "segments",
    "model.driver": "xla",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1 + 0.2,
    "optimizer.schedule": "inverse_sqrt",
    "optimizer.warmup": "0.5 epochs",
    "optimizer.final_fraction": 0.25,
    "optimizer.weight_decay": 1e-4,
    "optimizer.groups": [r"encoder/layer_(0|1)_.*=>0", "head_.*=>0.5@2.5 epochs", ".*=>1"],
    "optimizer.decayed": r".*kernel\b",
    "optimizer.b1": 0.8,
    "optimizer.b2": 0.95,
    "optimizer.epsilon": 1e-6,
    "optimizer.clip_norm": 0.0,
    "optimizer.ema_decay": 0.999,
    "training.steps": "3 epochs",
    "training.eval_every": 17,
    "training.checkpoint_every": "1500000 tokens",
    "training.log_every": 3,
    "training.keep_checkpoints": 9,
    "training.eval_examples": 0,
    "training.init_from": "runs/a:best",
    "training.checkpoint_minutes": 2.5,
    "training.parallel": "fsdp",
    "training.shards": 4,
    "training.not_finite": "rewind",
    "training.not_finite_most": 3,
    "training.init_params": ["encoder/.*", "head_bias=>other/bias"],
    "training.init_mismatch": "skip",
    "training.word_vectors": "glove.txt",
    "training.accumulate": 4,
    "training.label_smoothing": 0.05,
    "training.z_loss": 1e-4,
    "training.sampled_softmax": 64,
}
ALSO = {"training.sampled_softmax": {"data.task": "seq2seq"}}  # what a value of OTHER needs beside it


def base() -> Config:
    tokenizer = TokenizerConfig(kind="unigram", vocab_size=512)
    return Config(
        data=DataConfig(train="text:a.txt", task="classify", tokenizer=tokenizer), model=ModelConfig(attention="dot")
    )


def flat(tree: dict, prefix: str = "") -> dict:
    leaves = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def paths() -> list[str]:
    return [path for path, _, _ in configuration.fields(Config())]


# ---- overrides and JSON -----------------------------------------------------------------------------------------

PARSE = """
import json, sys
from absl import flags
from lm import config
from lm.terminal import config_flags
for given in json.load(sys.stdin):
    sys.argv = ["train.py", *given]
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    config_flags.check(sys.argv)
    flags.FLAGS(sys.argv)
    print(json.dumps(config.to_json(config_flags.chosen())))
"""


def test_every_override_changes_its_field_of_the_resolved_json_and_no_other(tmp_path):
    assert set(OTHER) == set(paths())
    file = tmp_path / "base.py"
    file.write_text(
        "from lm.config import *\n"
        "tokenizer = TokenizerConfig(vocab_size=512)\n"
        "data = DataConfig(train='text:a.txt', task='classify', tokenizer=tokenizer)\n"
        "def get_config(): return Config(data=data, model=ModelConfig(attention='dot'))"
    )
    arguments = [[f"--config={file}"]]
    written = lambda value: ",".join(value) if isinstance(value, list) else value
    for path, value in OTHER.items():
        given = {path: value, **ALSO.get(path, {})}
        arguments.append([f"--config={file}", *(f"--config.{name}={written(each)}" for name, each in given.items())])
    done = run_alone("-c", PARSE, input=json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    plain, *found = [flat(json.loads(json.loads(line))) for line in done.stdout.splitlines()]
    assert list(plain) == paths()
    for (path, value), resolved in zip(OTHER.items(), found, strict=True):
        assert resolved == {**plain, path: value, **ALSO.get(path, {})} != plain
        assert type(resolved[path]) is type(value)


def durations():
    steps = st.integers(1, 10**9)
    return steps | st.builds(
        "{} {}".format, st.floats(1e-6, 1e20) | steps, st.sampled_from(["epochs", "epoch", "tokens", "token"])
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_json_there_and_back_is_exact(data):
    values = {path: OTHER[path] for path in data.draw(st.sets(st.sampled_from(sorted(OTHER))))}
    free = {
        "data.train": st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        "optimizer.learning_rate": st.floats(0, 1e300),
        "optimizer.epsilon": st.integers(0, 10**15),
        "model.dropout": st.floats(0, 1, exclude_max=True),
        "training.steps": durations(),
        "optimizer.warmup": durations() | st.just(0),
    }
    values |= {path: data.draw(values) for path, values in free.items()}
    if "model.tied" in values:  # the widths must be equal then
        values = {path: value for path, value in values.items() if not path.endswith("_dim")}
    of_a_decoder = {"data.task", "data.layout", "model.copy", "model.coverage", "model.self_attention", "model.tied"}
    if of_a_decoder & set(values):
        values.pop("model.pool", None)  # for labels alone, without a decoder
    if values.get("data.task") != "seq2seq" or {"training.label_smoothing", "training.z_loss", "model.copy"} & set(
        values
    ):
        values.pop("training.sampled_softmax", None)  # for a softmax over the vocabulary, and that alone
    config = changed(base(), values)
    text = configuration.to_json(config)
    again = configuration.from_json(text, "config.json")
    assert again == config and configuration.to_json(again) == text
    assert configuration.differences(config, again) == {}
    leaves = flat(json.loads(text))
    assert list(leaves) == paths()
    for path, value in values.items():
        if path not in ("training.steps", "optimizer.warmup"):
            assert leaves[path] == value


def test_differences_name_the_fields_that_differ_and_their_values():
    shown = lambda value: tuple(value) if isinstance(value, list) else value
    for path, value in OTHER.items():
        also = ALSO.get(path, {})
        old, new = changed(base(), also), changed(base(), {path: value, **also})
        assert configuration.differences(old, new) == {path: [configuration.get(old, path), shown(value)]}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t["model"].update(hiden_dim=3), "error: W/config.json: model.hiden_dim: is not a field of the configuration; did you mean hidden_dim?"),
        (lambda t: t.update(sead=3), "error: W/config.json: sead: is not a field of the configuration; did you mean seed?"),
        (lambda t: t["data"]["tokenizer"].update(kid=3), "error: W/config.json: data.tokenizer.kid: is not a field of the configuration; did you mean kind?"),
        (lambda t: t.pop("optimizer"), "error: W/config.json: optimizer: is missing"),
        (lambda t: t["optimizer"].pop("b1"), "error: W/config.json: optimizer.b1: is missing"),
        (lambda t: t.update(model=3), "error: W/config.json: model.: is not an object"),
        (lambda t: t["model"].update(layers=0), "error: config.model.layers: 0 is out of range"),
        (lambda t: t["model"].update(tied=1), "error: config.model.tied: 1 is a int; give a value of type bool"),
    ],
)  # fmt: skip
def test_json_that_is_no_configuration_is_refused_by_name(edit, says):
    tree = json.loads(configuration.to_json(validated(base())))
    edit(tree)
    with pytest.raises(UserError) as caught:
        configuration.from_json(json.dumps(tree), "W/config.json")
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_a_field_that_came_later_has_its_default_in_the_json_of_an_earlier_run():
    config = validated(base())
    tree = json.loads(configuration.to_json(config))
    del tree["model"]["driver"], tree["training"]["sampled_softmax"]
    assert configuration.from_json(json.dumps(tree), "W/config.json") == config


@pytest.mark.parametrize("old, new", serialization.RENAMED.items())
def test_a_field_that_was_renamed_is_read_from_the_json_of_an_earlier_run(old, new):
    config = validated(changed(base(), {new: OTHER[new]}))
    tree = json.loads(configuration.to_json(config))
    (section, old_name), new_name = old.split("."), new.split(".")[1]
    tree[section][old_name] = tree[section].pop(new_name)
    assert configuration.from_json(json.dumps(tree), "W/config.json") == config


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seed": 1,}'])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(UserError, match="^error: W/config.json: "):
        configuration.from_json(text, "W/config.json")


# ---- validation -------------------------------------------------------------------------------------------------

AT_LEAST_ONE = (
    "data.batch_size data.window data.max_length data.buckets data.evaluation_streams model.embed_dim "
    "model.hidden_dim model.layers model.heads data.span training.keep_checkpoints training.accumulate"
).split()
NAMES = (
    "data.task data.tokenizer.kind model.cell model.encoder model.attention model.dtype model.backward model.pool optimizer.name "
    "optimizer.schedule training.parallel training.not_finite data.layout data.noise.kind data.tokenizer.normalization"
).split()
DURATIONS = "training.steps training.eval_every training.checkpoint_every training.log_every".split()
NAN, INFINITY = math.nan, math.inf
INVALID = [
    *((path, 0, {}) for path in AT_LEAST_ONE),
    *((path, "no such name", {}) for path in NAMES),
    *((path, value, {}) for path in DURATIONS for value in (0, "0 epochs", "soon")),
    ("optimizer.warmup", "-1", {}),
    ("seed", -1, {}),
    ("seed", 2**32, {}),
    ("data.train", "", {}),
    ("data.target_format", "{", {}),
    ("data.target_format", "no field", {}),
    ("data.target_format", "{a.__class__}", {}),
    ("data.target_format", "{a!r}", {}),
    ("data.target_format", "{a:>9}", {}),
    ("data.target_format", "{}", {}),
    ("data.source_format", "{0}", {}),
    ("data.tokenizer.vocab_size", -1, {}),
    ("data.tokenizer.vocab_size", 2**31, {}),
    ("data.tokenizer.vocab_size", 0, {"data.tokenizer.kind": "unigram"}),
    ("data.tokenizer.vocab_size", 0, {"data.tokenizer.kind": "bpe"}),
    ("data.tokenizer.kind", "", {}),
    *((name, -1, {}) for name in ("model.lora_rank", "model.lora_alpha")),
    *((f"training.{name}", -1, {}) for name in ("eval_examples", "shards", "not_finite_most")),
    *(("training.checkpoint_minutes", value, {}) for value in (-1.0, NAN)),
    *(
        (path, value, {})
        for path in "model.dropout optimizer.b1 optimizer.b2 optimizer.ema_decay training.label_smoothing".split()
        for value in (-0.1, 1.0, NAN)
    ),
    *((path, v, {}) for path in ("optimizer.final_fraction", "data.reset_rate") for v in (-0.1, 1.1, NAN)),
    *(
        (name, value, {})
        for name in "optimizer.learning_rate optimizer.weight_decay optimizer.epsilon optimizer.clip_norm training.z_loss model.coverage".split()
        for value in (-1e-9, INFINITY, NAN)
    ),
    ("optimizer.decayed", "(", {}),
    *(
        ("optimizer.groups", [text, ".*=>1"], {})
        for text in ("a", "a=>", "a=>b", "a=>-1", "a=>nan", "(=>1", "a=>1@", "a=>1@soon", "a=>0@3 epochs")
    ),
    ("optimizer.groups", ["a=>0", ".*=>0"], {}),
    ("optimizer.weight_decay", 0.1, {"optimizer.name": "adam"}),
    ("model.tied", True, {"model.embed_dim": 8, "model.hidden_dim": 16, "model.attention": "none"}),
    # Without a source there is no attention, and nothing that brings the features to the embedding's width.
    ("model.tied", True, {"model.embed_dim": 8, "model.hidden_dim": 16, "model.attention": "dot", "data.task": "lm"}),
    ("model.heads", 3, {"model.hidden_dim": 16}),
    ("model.copy", True, {"model.attention": "none"}),
    ("model.copy", True, {"data.task": "lm"}),
    ("model.copy", True, {"data.task": "extract"}),
    ("model.copy", True, {"model.pool": "mean"}),
    ("model.self_attention", 8, {"model.pool": "mean"}),
    ("model.self_attention", 8, {"data.task": "extract"}),
    ("model.coverage", 1.0, {"model.attention": "none"}),
    ("model.encoder", "decoder", {"model.pool": "mean"}),
    ("model.encoder", "decoder", {"model.attention": "none", "data.layout": "packed"}),
    ("model.attention", "dot", {"model.attention": "none", "model.encoder": "decoder"}),
    ("model.pool", "mean", {"data.task": "seq2seq"}),
    ("model.pool", "mean", {"data.layout": "packed"}),
    ("model.attention", "none", {"data.task": "extract"}),
    ("model.tied", True, {"data.task": "extract"}),
    ("data.layout", "packed", {"data.task": "extract"}),
    ("training.accumulate", 3, {"data.batch_size": 64}),
    ("model.driver", "pallas", {"model.cell": "mingru"}),
    ("model.driver", "pallas", {"model.backward": "recompute"}),
    ("training.sampled_softmax", -1, {}),
    ("training.sampled_softmax", 15, {"data.task": "lm"}),
    ("training.sampled_softmax", 64, {"data.task": "classify"}),
    ("training.sampled_softmax", 64, {"data.task": "extract"}),
    ("training.label_smoothing", 0.1, {"data.task": "lm", "training.sampled_softmax": 64}),
    ("training.z_loss", 1e-4, {"data.task": "lm", "training.sampled_softmax": 64}),
    ("model.copy", True, {"data.task": "seq2seq", "training.sampled_softmax": 64}),
    ("training.init_from", ":", {}),
    ("training.init_params", Names(["a/.*", "("]), {}),
    ("training.init_mismatch", "warn", {}),
    ("data.cleaning", 3, {}),
    ("data.turns", Names(["{turn}"]), {}),
    ("data.turns", Names(["{turn}", "{turn}", "{turn}"]), {}),
    ("data.turns", Names(["{turn}", "bot: {said}"]), {}),
    ("data.turns", Names(["{turn}", "{turn!r}"]), {}),
    ("data.turns", Names(["{turn}", "{turn}"]), {"data.task": "lm"}),
    ("data.history", -1, {}),
    ("data.cleaning", [3], {}),
    ("data.layout", "buckets", {"data.task": "lm"}),
    ("data.layout", "streams", {"data.task": "denoise"}),
    ("data.prefix_least", 0.8, {"data.prefix_most": 0.5, "data.prefix_least": 0.5}),
    ("data.max_length", 2, {"data.task": "prefix"}),
    ("data.window", 1, {"data.layout": "packed"}),
    ("data.noise.rate", 0.0, {"data.task": "denoise"}),
    ("data.noise.mean_span", 0.5, {}),
    *((path, v, {}) for path in ("data.prefix_most", "data.noise.permutation") for v in (-0.1, 1.1, NAN)),
    *((f"data.noise.{name}", v, {}) for name in ("rate", "infilling", "deletion") for v in (-0.1, 1.0, NAN)),
    ("data.tokenizer.sampling", 0.1, {"data.tokenizer.kind": "bytes"}),
    ("data.tokenizer.sampling", 0.1, {"data.task": "denoise"}),
    ("data.tokenizer.sampling", 0.1, {"data.task": "lm", "data.layout": "packed"}),
    ("data.tokenizer.sampling", 1.5, {}),
    ("data.tokenizer.sentinels", -1, {}),
    ("data.tokenizer.multiple_of", 0, {}),
    ("data.tokenizer.copies", 0, {}),
    ("data.tokenizer.kind", "words", {"data.tokenizer.pieces": ["<a>"]}),
    ("data.tokenizer.kind", "bytes", {"data.tokenizer.normalization": "nfkc"}),
    ("data.workers", -1, {}),
    # Types.
    ("seed", 1.0, {}),
    ("seed", True, {}),
    ("seed", "1", {}),
    ("data.train", 3, {}),
    ("data.train", None, {}),
    ("data.tokenizer", "bytes", {}),
    ("model", {"cell": "lstm"}, {}),
    ("model.cell", ["lstm"], {}),
    ("model.dropout", "0.1", {}),
    ("model.dropout", None, {}),
    ("model.tied", 1, {}),
    ("training.steps", True, {}),
    ("training.steps", None, {}),
]


@pytest.mark.parametrize(("path", "value", "rest"), INVALID, ids=lambda x: str(x)[:40])
def test_an_invalid_value_is_refused_in_one_line_that_names_its_field(path, value, rest):
    changed(base(), {"data.tokenizer.vocab_size": 512, **rest})  # so it is this value that is refused
    with pytest.raises(UserError) as caught:
        changed(base(), {**rest, path: value})
    assert caught.value.where == f"config.{path}"
    assert str(caught.value).startswith(f"error: config.{path}: ") and "\n" not in str(caught.value)
    assert caught.value.reason and caught.value.action


def test_an_unknown_name_is_answered_with_the_nearest():
    misspelt = {
        "model.cell": ("lstn", "lstm"),
        "data.task": ("seqseq", "seq2seq"),
        "optimizer.name": ("adamv", "adamw"),
    }
    for path, (wrong, right) in misspelt.items():
        with pytest.raises(UserError, match=f"did you mean {right}?"):
            changed(base(), {path: wrong})


def test_only_a_config_is_a_config():
    for wrong in (None, {}, ModelConfig()):
        with pytest.raises(UserError, match=f"^error: config: get_config.. returned {type(wrong).__name__}; "):
            validated(wrong)


def test_a_whole_number_is_taken_as_a_float():
    config = changed(base(), {"optimizer.learning_rate": 1})
    assert type(config.optimizer.learning_rate) is float and config.optimizer.learning_rate == 1.0


def write(config: Config, path: str, value: object) -> None:
    section, _, name = path.rpartition(".")
    setattr(configuration.get(config, section) if section else config, name, value)


def test_a_validated_configuration_cannot_be_changed_and_is_a_copy():
    given = base()
    config = validated(given)
    for path in ["data", "model", "optimizer", "training", "data.tokenizer", *paths()]:
        before = configuration.get(config, path)
        with pytest.raises(AttributeError, match="never changed"):
            write(config, path, OTHER.get(path, before))
        assert configuration.get(config, path) == before
    for path, value in OTHER.items():
        write(given, path, value)
    assert config == validated(base())


def test_a_misspelt_field_is_refused_where_it_is_set():
    with pytest.raises(AttributeError, match="ModelConfig has no field 'hiden_dim'; did you mean hidden_dim?"):
        base().model.hiden_dim = 3


def test_a_variant_of_a_validated_configuration_can_be_validated():
    parent = validated(base())
    model = dataclasses.replace(parent.model, layers=5)
    child = validated(dataclasses.replace(parent, model=model))
    assert configuration.differences(parent, child) == {"model.layers": [2, 5]}
    with pytest.raises(AttributeError):
        child.data.window = 3


def test_every_field_says_what_it_is():
    for path, _, field in configuration.fields(Config()):
        assert len(field.metadata["help"]) > 10, path


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("copies", "data.tokenizer.copies"),
        ("cell", "model.cell"),
        ("model.learning_rate", "optimizer.learning_rate"),
        ("data.bach_size", "data.batch_size"),
    ],
)
def test_an_unknown_path_is_answered_with_the_nearest_of_all_sections(wrong, right):
    with pytest.raises(
        UserError, match=f"^error: config.{wrong}: is not a field of the configuration; did you mean config.{right}[?]"
    ):
        changed(base(), {wrong: 3})


def test_a_field_that_has_another_name_now_is_answered_with_it():
    with pytest.raises(
        UserError, match="config.model.scan: has another name since version 0.3; write config.model.driver"
    ):
        changed(base(), {"model.scan": "xla"})


def test_a_change_leaves_the_given_configuration_as_it_was_and_a_whole_section_can_be_changed():
    given = base()
    tokenizer = TokenizerConfig(kind="bytes")
    config = changed(given, {"data.tokenizer": tokenizer, "data.tokenizer.multiple_of": 128})
    assert (config.data.tokenizer.kind, config.data.tokenizer.multiple_of) == ("bytes", 128)
    assert given == base() and tokenizer == TokenizerConfig(kind="bytes")


# ---- durations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "amount", "unit"),
    [
        (500, 500, "steps"),
        ("500", 500, "steps"),
        (" 1 step ", 1, "steps"),
        ("2.5 epochs", 2.5, "epochs"),
        ("1epoch", 1, "epochs"),
        ("1_000_000 tokens", 10**6, "tokens"),
        ("1e6 tokens", 10**6, "tokens"),
        ("1e+6 tokens", 10**6, "tokens"),
        ("1e-6 epochs", 1e-6, "epochs"),
        ("2e3", 2000, "steps"),
        ("7.0 steps", 7, "steps"),
    ],
)
def test_a_duration_is_an_amount_and_a_unit(given, amount, unit):
    assert configuration.parse_duration(given, "here") == (amount, unit)


@pytest.mark.parametrize(
    "wrong",
    ["", "epochs", "-3", "2.5", "1.5 steps", "3 hours", "1 2", "3 epochs!", "inf", "nan epochs", "1e999", "1__0", "1_", "0x10", "1,000", True, 2.5],
)  # fmt: skip
def test_what_is_no_duration_is_refused(wrong):
    with pytest.raises(UserError) as caught:
        configuration.parse_duration(wrong, "config.training.steps")
    assert str(caught.value).startswith("error: config.training.steps: ") and "\n" not in str(caught.value)


def test_a_misspelt_unit_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean epochs?"):
        configuration.parse_duration("3 epochen", "here")


@settings(deadline=None)
@example(1100, 10, 1)  # 1.1 * 10 is a little more than 11 in floating point
@given(st.integers(0, 10**5), st.integers(1, 1000), st.integers(1, 10**5))
def test_a_duration_in_steps_is_the_least_that_is_no_shorter(amount, steps_per_epoch, tokens_per_epoch):
    in_steps = lambda text: configuration.in_steps(text, steps_per_epoch, tokens_per_epoch)
    assert in_steps(amount) == in_steps(f"{amount} steps") == amount
    assert in_steps(f"{amount} epochs") == amount * steps_per_epoch
    assert in_steps(f"{amount / 1000} epochs") == math.ceil(Fraction(amount, 1000) * steps_per_epoch)
    assert in_steps(f"{amount} tokens") == math.ceil(Fraction(amount * steps_per_epoch, tokens_per_epoch))


def test_the_schedule_of_a_run_is_the_durations_in_steps():
    train = Split("train", "", Listed([Example("a b c", "d e")] * 30))
    values = {"data.batch_size": 8, "training.steps": "5 epochs", "training.eval_every": "1 epoch"}
    values |= {
        "data.tokenizer.kind": "bytes",
        "training.checkpoint_every": "48 tokens",
        "training.log_every": 3,
        "optimizer.warmup": "0.3 epochs",
    }
    config = changed(base(), values)
    data = feed.training_data(
        encoding.encode(train, encoding.make_tokenizer(config.data, train), config.data), config.data, 0
    )
    assert (data.steps_per_epoch, data.tokens_per_epoch) == (4, 120)  # bytes: "d e" and its EOS
    schedule = Schedule(config, data)
    found = schedule.steps, schedule.eval_every, schedule.checkpoint_every, schedule.log_every, schedule.warmup
    assert found == (20, 4, 2, 3, 2)
    assert [s for s in range(1, 21) if schedule.evaluates(s)] == [4, 8, 12, 16, 20]
    assert [s for s in range(1, 21) if schedule.saves(s)] == list(range(2, 21, 2))


# ---- every field is read ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_reads(monkeypatch):
    """{path: files of `lm` that read it}: neither the validation's reads count nor what the console prints."""
    names = {Config: "", DataConfig: "data.", TokenizerConfig: "data.tokenizer.", NoiseConfig: "data.noise."}
    names |= {ModelConfig: "model."}
    names |= {OptimizerConfig: "optimizer.", TrainingConfig: "training."}
    package = pathlib.Path(lm.__file__).parent
    silent = tuple(
        str(package / name)
        for name in (
            "config/schema.py",
            "config/rules.py",
            "config/serialization.py",
            "training/console.py",
            "runs/workdir.py",
        )
    )
    reads = collections.defaultdict(set)

    def read(section, name):
        file = sys._getframe(1).f_code.co_filename
        if file.startswith(str(package)) and not file.startswith(silent):
            reads[names[type(section)] + name].add(pathlib.Path(file).name)
        return object.__getattribute__(section, name)

    with monkeypatch.context() as patch:
        patch.setattr(schema._Section, "__getattribute__", read, raising=False)
        yield reads


# What belongs to other tasks.
NOISE = {f"data.noise.{name}" for name in "kind rate mean_span infilling deletion permutation".split()}
PREFIX = {"data.prefix_least", "data.prefix_most"}
SEGMENTED = {f"data.tokenizer.{name}" for name in "normalization pieces copies".split()}  # the texts' are characters
STREAMED = {"data.window", "data.reset_rate", "data.evaluation_streams"}
CHOSEN = {"data.span"}  # of tasks that choose
WRITTEN = {"model.self_attention"}  # of tasks that write
UNREAD = {
    "lm": {"data.max_length", "data.buckets", "model.attention", "model.copy", *NOISE, *PREFIX, *SEGMENTED, *CHOSEN},
    "seq2seq": {*STREAMED, *NOISE, *PREFIX, *CHOSEN},
    "classify": {*STREAMED, *NOISE, *PREFIX, "data.span"},
    "classify mean": {*STREAMED, *NOISE, *PREFIX, "data.span", "model.attention", "model.copy", "model.tied", *WRITTEN},
    "extract": {*STREAMED, *NOISE, *PREFIX, "model.copy", "model.tied", *WRITTEN},
    "prefix": {*STREAMED, *NOISE, *SEGMENTED, *CHOSEN},
    "denoise": {
        *(*STREAMED, *PREFIX, *SEGMENTED, *CHOSEN),
        *(f"data.noise.{x}" for x in "infilling deletion permutation".split()),
    },
    "denoise bart": {*STREAMED, *PREFIX, *SEGMENTED, *CHOSEN, "data.noise.rate"},
}


@pytest.mark.parametrize("case", sized(UNREAD, lambda case: case in TASKS))
def test_a_run_reads_every_field_of_its_task(case, sources, tmp_path, monkeypatch):
    task, _, variant = case.partition(" ")
    few = {"training.steps": 1, "training.eval_examples": 1, "data.test": "", "optimizer.weight_decay": 0.1}
    few |= {
        "data.noise.kind": "bart" if variant == "bart" else "spans",
        "model.pool": "mean" if variant == "mean" else "",
        "data.task": task,
        "data.tokenizer.sampling": 0.1 * TASKS[task].pairs,
        "data.max_length": 16,
    }
    kind = "seq2seq" if TASKS[task].pairs else "lm"
    if task in ("extract", "classify"):  # every answer must be a choice there
        few["data.validation"] = sources["seq2seq"]
    config = tiny_config("buckets" if TASKS[task].pairs else "streams", sources[kind], few)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    monkeypatch.setattr(jax, "devices", lambda: one)
    monkeypatch.setattr(loop, "closing", lambda *_: None)  # it reads nothing, and takes long
    with recorded_reads(monkeypatch) as reads:
        loop.train(config, epath.Path(tmp_path / "run"))
    assert set(paths()) - set(reads) == UNREAD[case]


def test_every_field_is_of_some_task():
    assert set.intersection(*UNREAD.values()) == set() and set(TASKS) <= set(UNREAD)


# ---- the files in configs/ --------------------------------------------------------------------------------------


def load(file: pathlib.Path) -> Config:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda file: file.stem)
def test_a_config_file_is_valid_and_its_model_shrunk_fits_a_step_of_training(file):
    config = validated(load(file))
    for spec in filter(None, (config.data.train, config.data.validation, config.data.test)):
        weighed, _, location = spec.partition(":")
        assert weighed.split("*")[-1] in sources.SCHEMES and location
    rows, accumulate = 8, config.training.accumulate
    small = {"model.embed_dim": 8, "model.hidden_dim": 8, "data.batch_size": rows * accumulate, "data.window": 8}
    config = changed(load(file), small)

    vocab, rng = 300, np.random.default_rng(0)
    task, labels = TASKS[config.data.task], {"no": [4], "so so": [5, 6]}
    tokenizer = types.SimpleNamespace(vocab_size=vocab, encode=lambda label: np.array(labels[label]))
    ids = lambda: [rng.integers(4, vocab, rng.integers(1, 7)) for _ in range(3 * rows * accumulate)]
    sources_, targets = ids() if task.has_source else [], ids()
    if ANSWER_KINDS[task.answer].located:
        targets = [source[:1] for source in sources_]
    encoded = encoding.Encoded(None, InMemory(targets, sources_), 0, 0)
    data = feed.training_data(encoded, config.data, config.seed)
    schedule = Schedule(config, data)
    answer = answers.build(config, tokenizer, labels if ANSWER_KINDS[task.answer].among == "labels" else ())
    params = jax.eval_shape(lambda: parameters.initial_params(answer.model, config.seed))
    rate = optimizers.schedule(config.optimizer, schedule.warmup, schedule.steps)
    optimizer = optimizers.optimizer(config.optimizer, rate, params)
    devices = Devices(jax.devices()[:1])
    state = jax.eval_shape(lambda params: initial_state(answer, optimizer, config, params), params)
    mapped = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), tree)
    state = state._replace(carry=mapped(state.carry))
    step = devices.compile(
        make_train_step(summed_gradient(answer, config, devices), optimizer, config), TrainState, donate=False
    )
    after, metrics = jax.eval_shape(step, state, mapped(data.batches[0]))
    assert after == state and metrics.loss_sum.shape == ()
    assert data.batches[0].weights_bt.sum() > 0


@pytest.mark.parametrize("name", ["tinyworld", "stories", "dialogue", "pretrain"])
def test_a_tenth_of_the_embedded_text_gives_the_pieces_that_its_config_asks_for(name, tmp_path, monkeypatch):
    """SentencePiece refuses to make more than it finds."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    config, sizes = load(ROOT / "configs" / f"{name}.py"), r"tfds:\1/train=3000,validation=20,test=20"
    specs = {role: getattr(config.data, role) for role in ("train", "validation", "test")}
    few = {f"data.{role}": re.sub(r"tfds:(tinyworld/\w+)(/train=\d+)?", sizes, spec) for role, spec in specs.items()}
    data = changed(config, few).data
    assert data.tokenizer.kind == "unigram"
    tokenizer = encoding.make_tokenizer(data, splits.load_splits(data)["train"])
    assert tokenizer.vocab_size >= data.tokenizer.vocab_size
