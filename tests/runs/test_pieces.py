"""The pieces of a run's directory: each is the run's own and of its form, or is refused by every reader in one line."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from etils import epath
from support.directories import edit, reconfigured
from support.sizes import sized

from lm import changed
from lm.data.text.tokenizers.saved import load_tokenizer, save_tokenizer
from lm.errors import UserError
from lm.evaluation import record, scoring
from lm.runs import arrays, checkpoints, chosen, log, manifest, parts, transfer, workdir, writing
from lm.runs.run import load
from lm.training import loop

pytestmark = pytest.mark.usefixtures("quick_training")

LAST = "checkpoints/80"
METADATA = f"{LAST}/_CHECKPOINT_METADATA"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(chosen, "PAUSE", 0)


@pytest.fixture
def run(trained, tmp_path) -> pathlib.Path:
    shutil.copytree(trained["streams"], tmp_path / "run")
    return tmp_path / "run"


def other_tokenizer(run):
    """One of the same size and kind, whole in itself."""
    own = load_tokenizer(run / "tokenizer")
    save_tokenizer(dataclasses.replace(own, known=own.known[::-1]), run / "tokenizer")


def other_run(run):
    edit(run / METADATA, lambda tree: tree["custom_metadata"].update(run="0" * 32))


def no_run(run):
    edit(run / METADATA, lambda tree: tree.update(custom_metadata={}))


def renamed(run):
    (run / LAST).rename(run / "checkpoints" / "500")


def other_parameters(run):
    shutil.rmtree(run / LAST / "params")
    shutil.copytree(run / "checkpoints" / "72" / "params", run / LAST / "params")


def flipped(run):
    """The bits of one parameter, as a disk may lose them: where its values lie, beyond what describes them."""
    largest = max((run / LAST / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def other_width(run):
    edit(run / "config.json", lambda tree: tree["model"].update(hidden_dim=24))


def other_seed(run):
    edit(run / "config.json", lambda tree: tree.update(seed=tree["seed"] + 1))


# What is another run's, or was changed -> where, and words of the line that refuses it.
PIECES = {
    other_tokenizer: ("tokenizer", "belongs to another run or was changed"),
    other_run: (LAST, "belongs to another run"),
    no_run: (LAST, "has no run id"),
    renamed: ("checkpoints/500", "was saved at step 80"),
    other_parameters: (LAST, "was changed after it was saved"),
    flipped: (LAST, "cannot be read"),
    other_width: ("config.json", "belongs to another run or was changed"),
    other_seed: ("config.json", "belongs to another run or was changed"),
}


def evaluated(run, config):
    opened = load(str(run), "latest")
    scoring.split_of(opened, "validation")


READERS = {
    "sample": lambda run, config: load(str(run), "latest"),
    "mean": lambda run, config: load(str(run), "mean:2"),
    "evaluate": evaluated,
    "init_from": lambda run, config: transfer.origin(changed(config, {"training.init_from": f"{run}:latest"})),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_a_piece_of_another_run_is_refused_by_every_reader(piece, reader, run, configs):
    piece(run)
    where, words = PIECES[piece]
    with pytest.raises(UserError) as refused:
        READERS[reader](run, configs["streams"])
    assert refused.value.where.startswith(str(run / where)) and words in str(refused.value), refused.value


@pytest.mark.parametrize(
    "piece",
    sized(list(PIECES), lambda piece: piece in (other_run, renamed)),
    ids=lambda piece: piece.__name__,
)
def test_training_goes_on_from_no_piece_of_another_run(piece, run, configs, capsys):
    """What is damaged is set aside, and the checkpoint before it is used; what is another run's is for the user to take away."""
    piece(run)
    where, words = PIECES[piece]
    if piece in (other_parameters, flipped):
        loop.train(configs["streams"], epath.Path(run))
        assert (run / "damaged" / "80").exists() and "resumed after step 72" in capsys.readouterr().out
        return
    config = changed(configs["streams"], {"model.hidden_dim": 24}) if piece is other_width else configs["streams"]
    config = changed(config, {"seed": config.seed + 1}) if piece is other_seed else config
    with pytest.raises(UserError, match=words) as refused:
        loop.train(config, epath.Path(run))
    assert refused.value.where.startswith(str(run / where))


def test_a_run_is_whole_wherever_its_directory_lies_and_config_json_may_be_laid_out_anew(run, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(run, moved)
    edit(moved / "config.json", lambda tree: None)
    assert load(str(moved), "latest").step == 80


def of_030(run: pathlib.Path) -> None:
    """Takes away what a run of 0.3.0 has not."""
    edit(run / "manifest.json", lambda tree: (tree.pop("run"), [start.pop("config") for start in tree["starts"]]))
    for path in run.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        edit(path, lambda tree: tree.update(custom_metadata={}))


def test_a_run_of_030_is_read_and_its_tokenizer_is_checked(run, trained):
    of_030(run)
    assert load(str(run), "latest").step == 80
    shutil.rmtree(run / LAST)
    shutil.copytree(trained["streams"] / LAST, run / LAST)
    with pytest.raises(UserError, match="belongs to another run"):
        load(str(run), "80")
    other_tokenizer(run)
    with pytest.raises(UserError, match="tokenizer: belongs to another run or was changed"):
        load(str(run), "72")


@pytest.mark.slow
def test_a_run_of_030_gets_an_identity_where_it_goes_on(run, configs):
    of_030(run)
    shutil.rmtree(run / LAST)
    other = run.parent / "other"
    shutil.copytree(run, other)
    loop.train(configs["streams"], epath.Path(run))
    known = json.loads((run / "manifest.json").read_text())["run"]
    assert len(known["id"]) == 32 and known["since"] == 72 and known["saved"]
    assert json.loads((run / METADATA).read_text())["custom_metadata"]["run"] == known["id"]
    assert [load(str(run), step).step for step in ("72", "80")] == [72, 80]
    # Another run's checkpoint gets in neither here nor there; but what is older than the identity may have none.
    shutil.rmtree(run / "checkpoints" / "72")
    shutil.copytree(other / "checkpoints" / "72", run / "checkpoints" / "76")
    with pytest.raises(UserError, match="has no run id"):
        load(str(run), "76")


def test_labels_that_are_not_the_runs_are_refused(run):
    directory = epath.Path(run)
    (run / "labels.json").write_text('["good", "bad"]\n')
    edit(
        run / "manifest.json", lambda tree: tree["fingerprints"].update(labels=manifest.fingerprint_of(["good", "bad"]))
    )
    assert workdir.read_labels(directory) == ("good", "bad")
    for text, words in {
        '["bad", "good"]': "belongs to another run or was changed",
        '["good", "good"]': "has a label twice",
        "[]": "is empty",
        '["\\ud800"]': "half of a surrogate pair",
        "[3]": r"\[0\] is 3, not a text",
    }.items():
        (run / "labels.json").write_text(text)
        with pytest.raises(UserError, match=words):
            workdir.read_labels(directory)


# ---- parts that are missing -------------------------------------------------------------------------------------


def without(*names: str):
    def remove(run):
        for name in names:
            for path in run.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


# What is taken away -> the line that training ends with, or says and goes on.
MISSING = {
    "checkpoints": (without("checkpoints"), "error: .*run: has no checkpoints, although by metrics.jsonl .* step 80"),
    "each checkpoint": (without("checkpoints/*"), "error: .*run: has no checkpoints"),
    "all that tells of steps": (without("checkpoints", "metrics.jsonl"), "error: .*run: has no checkpoints, although by manif"),
    "manifest": (without("manifest.json"), "error: .*run: has no manifest.json"),
    "config": (without("config.json"), "error: .*run: is a run without its config.json"),
    "tokenizer.json": (without("tokenizer/tokenizer.json"), "error: .*tokenizer/tokenizer.json: no such file"),
    "tokenizer": (without("tokenizer"), "tokenizer was missing and is restored, with the same content"),
    "metrics": (without("metrics.jsonl"), "metrics.jsonl is missing: a new file starts after step 80"),
    "last checkpoint": (without(LAST), r"training resumes from step 72: \d+ lines of .*metrics.jsonl are dropped"),
}  # fmt: skip


@pytest.mark.parametrize("name", sized(list(MISSING), lambda name: name not in ("metrics", "last checkpoint")))
def test_a_run_with_a_part_missing_is_refused_or_goes_on_with_a_word(name, run, configs, capsys):
    remove, words = MISSING[name]
    remove(run)
    before = sorted(path for path in run.rglob("*"))
    if words.startswith("error"):
        with pytest.raises(UserError, match=words):
            loop.train(configs["streams"], epath.Path(run))
        assert sorted(path for path in run.rglob("*")) == before
    else:
        loop.train(configs["streams"], epath.Path(run))
        assert re.search(words, capsys.readouterr().out)
        assert load(str(run), "latest").step == 80


# ---- files as a stranger may give them --------------------------------------------------------------------------


def read_step(run, item):
    saved, step = checkpoints.of_run(epath.Path(run)), 80
    return saved.progress(step) if item == "progress" else saved.arrays(step, item)


# The JSON files of a run -> what reads them.
JSON = {
    "config.json": lambda run: workdir.read_config(epath.Path(run)),
    "manifest.json": lambda run: workdir.read_config(epath.Path(run)),
    "tokenizer/tokenizer.json": lambda run: workdir.read_tokenizer(epath.Path(run)),
    "metrics.jsonl": lambda run: parts.check(epath.Path(run)),
    METADATA: lambda run: read_step(run, "params"),
    f"{LAST}/params/_METADATA": lambda run: read_step(run, "params"),
    f"{LAST}/progress/metadata": lambda run: read_step(run, "progress"),
    "evaluations/test-80.json": lambda run: record.latest(epath.Path(run), "test"),
}
STRANGE = (
    b"[" * 10_000,
    b"",
    b"\xff\xfe\n",
    b"3\n",
    b"null\n",
    b"{\n",
    b'{"step": 1, "step": 1}\n',
    b'"\\ud800"\n',
    b"1" * 5000,
)


@pytest.fixture(scope="module")
def evaluated_run(trained, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("strange") / "run"
    shutil.copytree(trained["streams"], run)
    (run / "evaluations").mkdir()
    (run / "evaluations" / "test-80.json").write_text('{"split": "test", "step": 80, "exact_match": 0.5}')
    return run


@pytest.mark.parametrize("name", JSON)
def test_what_is_no_json_of_the_form_of_its_file_is_refused_in_one_line(name, evaluated_run):
    path = evaluated_run / name
    good = path.read_bytes()
    JSON[name](evaluated_run)
    try:
        for content in STRANGE:
            path.write_bytes(content + b"\n" * (name == "metrics.jsonl"))
            with pytest.raises(UserError) as refused:
                JSON[name](evaluated_run)
            assert "\n" not in str(refused.value) and refused.value.where.startswith(str(evaluated_run))
    finally:
        path.write_bytes(good)


def leaves(tree, place=()):
    """The places of all values in JSON, and of the lists and objects that they are in."""
    yield place
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from leaves(value, (*place, key))


def replaced(tree, place, value):
    if not place:
        return value
    copy = tree.copy()
    copy[place[0]] = replaced(tree[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize("name", JSON)
def test_whatever_stands_at_a_place_of_a_file_is_taken_or_refused(name, evaluated_run):
    """Values of other types, one place at a time; of an array's metadata one array in four stands for all."""
    path = evaluated_run / name
    good = path.read_text()
    tree = json.loads(good.splitlines()[0]) if name == "metrics.jsonl" else json.loads(good)
    places = list(leaves(tree))
    places = places[:: max(1, len(places) // 40)]
    refused = 0
    try:
        for number, place in enumerate(places):
            value = (None, "x", -1, 2**70, [], {}, [[]], True, 0.5, float("nan"))[number % 10]
            path.write_text(json.dumps(replaced(tree, place, value)) + "\n\n" * (name == "metrics.jsonl"))
            try:
                JSON[name](evaluated_run)
            except UserError:
                refused += 1
    finally:
        path.write_text(good)
    assert refused


@pytest.mark.parametrize(
    "line",
    [
        "[",
        '{"step": 50, "split": "validation"}',
        '{"step": 50, "split": "validation", "loss": "x", "perplexity": 2, "bits_per_byte": 1}',
        '{"step": 50, "split": "validation", "loss": 1, "perplexity": 2, "bits_per_byte": 1, "exact_match": 0.1}',
        '{"step": 50, "split": "train", "loss": 1}',
    ],
)
def test_bad_metrics_are_refused_before_anything_is_prepared(line, run, configs, monkeypatch):
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(f"{first}\n{line}\n")
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("prepared"))
    with pytest.raises(UserError, match="metrics.jsonl:2: is not a line of metrics"):
        loop.train(configs["streams"], epath.Path(run))


@pytest.mark.parametrize("which", ["\u00b2", "-1", "+80", "080", " 80", "8e1", "\u0668\u0660", "9" * 5000, "mean:\u00b2", "mean:-1", "mean:", "mean:" + "9" * 5000])  # fmt: skip
def test_only_ascii_digits_name_a_step(which, trained):
    with pytest.raises(UserError, match="^error: --checkpoint: ") as refused:
        load(str(trained["streams"]), which)
    assert len(str(refused.value)) < 300


def test_counters_that_were_not_saved_with_a_checkpoint_are_refused(run):
    """They say which step was the best one."""
    read_step(run, "progress")
    edit(run / LAST / "progress" / "metadata", lambda tree: tree.update(seconds=tree["seconds"] + 1))
    with pytest.raises(UserError, match="its progress was changed after it was saved"):
        read_step(run, "progress")


def test_data_that_no_manifest_vouches_for_is_not_read(run, monkeypatch):
    monkeypatch.setattr(scoring.splits, "load_splits", lambda *_: pytest.fail("read"))
    opened = load(str(run), "latest")
    source = opened.config.data.test
    for change in (lambda tree: tree["fingerprints"].pop("test"), None):
        edit(run / "manifest.json", change) if change else (run / "manifest.json").unlink()
        with pytest.raises(UserError, match="has no manifest with a fingerprint of its test data") as refused:
            scoring.split_of(opened, "test")
        assert source in str(refused.value) and "--data=SOURCE" in refused.value.action


def test_labels_that_no_manifest_vouches_for_are_not_read_from_data(trained, configs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained["buckets"], run)
    reconfigured(run, changed(configs["buckets"], {"data.task": "classify"}))
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match="has no labels.json, and no manifest with a fingerprint"):
        load(str(run), "latest")


def test_nothing_is_written_through_a_link_out_of_the_directory(run, configs, tmp_path):
    """Links within the directory, and one to the directory itself, may be written through, and all may be read through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    opened = load(str(run), "latest")
    (run / "evaluations").symlink_to(outside)
    with pytest.raises(UserError, match="evaluations: is a link out of the run's directory"):
        record.write(opened, scoring.Evaluation({}, {}, []), scoring.Asked())
    assert not list(outside.iterdir())
    for name in ("checkpoints", "tokenizer", "metrics.jsonl"):
        shutil.move(run / name, outside / name)
        (run / name).symlink_to(outside / name)
        with pytest.raises(UserError, match=f"{name}: is a link out of the run's directory"):
            loop.train(configs["streams"], epath.Path(run))
        assert load(str(run), "latest").step == 80 and (run / name).is_symlink()
        (run / name).unlink()
        shutil.move(outside / name, run / f"own {name}")
        (run / name).symlink_to(run / f"own {name}")
    (tmp_path / "link").symlink_to(run)
    writing.require_inside(epath.Path(tmp_path / "link"), epath.Path(tmp_path / "link" / "checkpoints" / "80"))


def test_arrays_that_claim_more_than_there_can_be_are_refused_before_they_are_read(run, monkeypatch):
    monkeypatch.setattr(arrays, "read", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(arrays.memory, "of_machine", lambda: 1000)
    with pytest.raises(UserError, match="its arrays have .* GiB by their metadata, more memory than this machine"):
        load(str(run), "latest")


def test_a_line_of_metrics_that_is_half_written_is_passed_over(run):
    whole = log.read_metrics(epath.Path(run))
    for half in (b'{"step": 80, "spl', b'{"step": 80}', '{"\u00e9'.encode()[:3]):
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(half)
        assert log.read_metrics(epath.Path(run)) == whole
        (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().removesuffix(half))


def test_a_digest_tells_type_shape_and_each_byte():
    base = np.arange(6, dtype=np.float32)
    others = [base.reshape(2, 3), base.view(np.int32), base * 2, base[::-1], np.float32(0), np.zeros(0, np.float32)]
    assert len({arrays.digest(np.asarray(each)) for each in [base, *others]}) == 7
    assert arrays.digest(base.reshape(2, 3).T) == arrays.digest(base.reshape(2, 3).T.copy())
