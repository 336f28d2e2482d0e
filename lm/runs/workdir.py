"""A run's directory: what the contract says lies in it, written whole or not at all."""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from etils import epath

from lm import config as configuration
from lm import files, json_files
from lm.config import TOKENIZERS, Config
from lm.data.text.tokenizers import saved
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices import hosts
from lm.errors import UserError
from lm.runs import checkpoints, manifest
from lm.runs.writing import require_inside, write_whole

# How a run is computed, told and saved, not what it learns: a start may have it its own way.
MAY_DIFFER = (
    "training.parallel",
    "training.shards",
    "training.log_every",
    "training.eval_every",  # which evaluation was the best depends on it; no parameter does
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "data.workers",
)
# Where something lies. It may have moved: its fingerprint decides, which `manifest.check_unchanged` compares for the data, and
# `moved.check` for what a run began with.
DATA = ("data.train", "data.validation", "data.test")
BEGINNINGS = ("data.tokenizer.kind", "training.init_from", "training.word_vectors")
# What training writes. A link there that leads out of the directory is refused.
WRITTEN = (
    *("config.json", "manifest.json", "metrics.jsonl", "labels.json", "cleaning.json"),
    *("tokenizer", "checkpoints", "damaged", "profile"),
)


def _fixed(text: str) -> dict[str, Any]:
    """Returns what a `config.json` holds but for the fields that may change, also by hand."""
    tree = json.loads(text)
    for path in (*MAY_DIFFER, *DATA, *BEGINNINGS):
        *sections, name = path.split(".")
        functools.reduce(lambda found, section: found.get(section, {}), sections, tree).pop(name, None)
    return tree


def _is_run(workdir: epath.Path) -> bool:
    try:
        return (workdir / "config.json").exists()
    except ImportError as error:
        reason, action = f"this kind of path needs a package ({error})", "install it, e.g. pip install -e '.[gcs]'"
        raise UserError(str(workdir), reason, action) from None


def usual(spec: str) -> str:
    """The directory of the configuration `FILE` or `FILE:TEXT`: two of one file are two runs."""
    file, _, text = spec.partition(":")
    return "runs/" + "-".join(filter(None, (pathlib.Path(file).stem, text)))


def check(workdir: epath.Path, config: Config) -> str:
    """Returns the text of the manifest, to which each start adds: it tells whether a run has begun there since.

    Raises `UserError` for a directory that holds another configuration, or files that are not a run's.
    """
    if _is_run(workdir):
        old = read_config(workdir)
        different = [
            f"{path}: {before!r} -> {now!r}"
            for path, (before, now) in configuration.differences(old, config).items()
            if path not in MAY_DIFFER and not _may_have_moved(workdir, path, before, now)
        ]
        if different:
            action = "choose another --workdir, or give the configuration that it holds"
            raise UserError(str(workdir), f"holds a run with another configuration ({'; '.join(different)})", action)
        for name in WRITTEN:
            require_inside(workdir, workdir / name)
    elif workdir.exists():
        if not workdir.is_dir():
            raise UserError(str(workdir), "is a file", "choose another --workdir")
        strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith("."))
        if "manifest.json" in strangers:
            reason = "is a run whose config.json is missing"
            raise UserError(str(workdir), reason, "put it back from a copy, or choose another --workdir")
        if strangers:
            reason = f"holds {strangers[0]!r} and no config.json, so it is not a run"
            raise UserError(str(workdir), reason, "choose another --workdir")
    path = workdir / "manifest.json"
    return files.read_text(path, "JSON file of a run") if path.exists() else ""


def _may_have_moved(workdir: epath.Path, path: str, before: str, now: str) -> bool:
    """Whether a field names a place in both configurations, of a run that knows what was there."""
    if path in DATA:
        return bool(before and now) and manifest.vouches(workdir, path.removeprefix("data."))
    if path == "data.tokenizer.kind":
        return before not in TOKENIZERS and now not in TOKENIZERS and (workdir / "tokenizer").exists()
    return path in BEGINNINGS and bool(before and now) and checkpoints.any_in(workdir / "checkpoints")


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Holds the directory, which is made where it is missing, for one run; all hosts come back when the first one has it."""
    if hosts.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
    with _held(workdir) if hosts.is_first() else contextlib.nullcontext():
        hosts.meet()
        yield


@contextlib.contextmanager
def _held(workdir: epath.Path) -> Iterator[None]:
    """A lock on a local directory, that ends with the process however it ends; on a bucket there is none."""
    if "://" in str(workdir):
        yield
        return
    directory = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason, action = "another process trains in it", "wait until it ends, or choose another --workdir"
            raise UserError(str(workdir), reason, action) from None
        yield
    finally:
        os.close(directory)


def write_start(
    workdir: epath.Path, config: Config, tokenizer: Tokenizer, labels: tuple[str, ...], data: dict[str, str], last: int
) -> list[str]:
    """Writes what a run has from its start on, and returns a line for each part that was missing and is there again.

    `config.json` has what the latest start was given, `manifest.json` what each start changed.

    Args:
        workdir: the run's directory.
        config: that of this start.
        tokenizer: that of the run.
        labels: those that are ranked; () where none are.
        data: the fingerprint of each split.
        last: the step of the latest checkpoint, 0 if there is none.
    """
    parts = {"tokenizer": tokenizer.fingerprint}
    parts |= {"labels": manifest.fingerprint_of(labels)} if labels else {}
    begun, said, path = manifest.read_manifest(workdir), [], workdir / "tokenizer"
    if begun and not path.exists() and begun["fingerprints"].get("tokenizer") != tokenizer.fingerprint:
        reason = "is missing, and the one that is made of the training data is another"
        raise UserError(str(path), reason, "put it back from a copy of the run")
    for name, fingerprint in parts.items():
        manifest.check_part(workdir, name, fingerprint)
    written = workdir / "config.json"
    if not written.exists():
        write_whole(written, configuration.to_json(config))
    changed = configuration.differences(read_config(workdir), config)
    old = _fixed(written.read_text(encoding="utf-8"))
    now = _fixed(configuration.to_json(config)) if changed else old
    if not path.exists():
        temporary = workdir / f".tokenizer.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        saved.save_tokenizer(tokenizer, temporary)
        temporary.replace(path)
        said += [f"{path} was missing: it is made again, and is the same"] if begun else []
    path = workdir / "labels.json"
    if labels and not path.exists():
        write_whole(path, json.dumps(labels, ensure_ascii=False) + "\n")
        said += [f"{path} was missing: it is written again"] if begun else []
    elif labels:
        read_labels(workdir)
    manifest.write_manifest(workdir, config, data, parts, (old, now), last, changed)
    if changed:  # after the manifest, which vouches for it
        write_whole(written, configuration.to_json(config))
    return said


# ---- reading ----------------------------------------------------------------------------------------------------


def read_config(workdir: epath.Path) -> Config:
    """Returns a run's configuration, which is the one that its manifest names."""
    path = workdir / "config.json"
    if not _is_run(workdir):
        raise UserError(str(workdir), "is not a run (no config.json)", "give the --workdir that train.py wrote")
    text = files.read_text(path, "JSON file of a run")
    manifest.require_version(workdir)
    config = configuration.from_json(text, str(path))
    manifest.check_config(workdir, _fixed(text))
    return config


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """Returns a run's tokenizer, which is the one that its manifest names."""
    tokenizer = saved.load_tokenizer(workdir / "tokenizer")
    manifest.check_part(workdir, "tokenizer", tokenizer.fingerprint)
    return tokenizer


def read_labels(workdir: epath.Path) -> tuple[str, ...]:
    """Returns the labels in `labels.json`, which are those that the manifest names."""
    path = workdir / "labels.json"
    action = "delete it, and start train.py again: it is written anew"
    labels = tuple(json_files.read(path, "list of labels", [str], action))
    if not labels or len(set(labels)) < len(labels):
        raise UserError(str(path), "is empty, or has a label twice", action)
    manifest.check_part(workdir, "labels", manifest.fingerprint_of(labels))
    return labels
