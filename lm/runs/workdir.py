"""The directory of a run: checks before a start, the files that a start writes, and reading them."""

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

# Fields that affect how a run is computed, logged and saved, but not its result. They may differ between starts.
MAY_DIFFER = (
    "training.parallel",
    "training.shards",
    "training.log_every",
    "training.eval_every",  # affects which evaluation is the best one, but no parameter
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "data.workers",
)
# Fields that name paths. Their files may have moved, but must have the same fingerprint: `manifest.check_unchanged`
# compares it for the data, and `moved.check` for the inputs with which a run begins.
DATA = ("data.train", "data.validation", "data.test")
BEGINNINGS = ("data.tokenizer.kind", "training.init_from", "training.word_vectors")
# The files and folders that training writes. They must not be links out of the directory.
WRITTEN = (
    *("config.json", "manifest.json", "metrics.jsonl", "labels.json", "cleaning.json"),
    *("tokenizer", "checkpoints", "damaged", "profile"),
)


def _fixed(text: str) -> dict[str, Any]:
    """Returns the content of a `config.json` without the fields that may change between starts."""
    tree = json.loads(text)
    for path in (*MAY_DIFFER, *DATA, *BEGINNINGS):
        *sections, name = path.split(".")
        functools.reduce(lambda found, section: found.get(section, {}), sections, tree).pop(name, None)
    return tree


def _is_run(workdir: epath.Path) -> bool:
    try:
        return (workdir / "config.json").exists()
    except ImportError as error:
        reason, action = f"needs a package for this kind of path ({error})", "install it, e.g. pip install -e '.[gcs]'"
        raise UserError(str(workdir), reason, action) from None


def usual(spec: str) -> str:
    """Returns the default directory of the configuration `FILE` or `FILE:TEXT`; different texts give different runs."""
    file, _, text = spec.partition(":")
    return "runs/" + "-".join(filter(None, (pathlib.Path(file).stem, text)))


def check(workdir: epath.Path, config: Config) -> str:
    """Returns the text of the manifest, which each start changes, so that a caller notices a start in between.

    Raises:
        UserError: the directory holds a run with another configuration, or files that are not a run's.
    """
    if _is_run(workdir):
        old = read_config(workdir)
        different = [
            f"{path}: {before!r} -> {now!r}"
            for path, (before, now) in configuration.differences(old, config).items()
            if path not in MAY_DIFFER and not _may_have_moved(workdir, path, before, now)
        ]
        if different:
            action = "choose another --workdir, or use the configuration of that run"
            raise UserError(str(workdir), f"holds a run with another configuration ({'; '.join(different)})", action)
        for name in WRITTEN:
            require_inside(workdir, workdir / name)
    elif workdir.exists():
        if not workdir.is_dir():
            raise UserError(str(workdir), "is a file", "choose another --workdir")
        strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith("."))
        if "manifest.json" in strangers:
            reason = "is a run without its config.json"
            raise UserError(str(workdir), reason, "restore it from a copy, or choose another --workdir")
        if strangers:
            reason = f"holds {strangers[0]!r} but no config.json, so it is not a run"
            raise UserError(str(workdir), reason, "choose another --workdir")
    path = workdir / "manifest.json"
    return files.read_text(path, "JSON file of a run") if path.exists() else ""


def _may_have_moved(workdir: epath.Path, path: str, before: str, now: str) -> bool:
    """Returns whether a field may name another path than before, since a fingerprint of the content is known."""
    if path in DATA:
        return bool(before and now) and manifest.vouches(workdir, path.removeprefix("data."))
    if path == "data.tokenizer.kind":
        return before not in TOKENIZERS and now not in TOKENIZERS and (workdir / "tokenizer").exists()
    return path in BEGINNINGS and bool(before and now) and checkpoints.any_in(workdir / "checkpoints")


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Locks the directory for one process, and creates it if needed; all hosts wait until the first one has the lock.

    Raises:
        UserError: another process trains in the directory.
    """
    if hosts.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
    with _held(workdir) if hosts.is_first() else contextlib.nullcontext():
        hosts.meet()
        yield


@contextlib.contextmanager
def _held(workdir: epath.Path) -> Iterator[None]:
    """Locks a local directory until the process ends in any way; a bucket has no locks."""
    if "://" in str(workdir):
        yield
        return
    directory = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason, action = "is in use by another training process", "wait until it ends, or choose another --workdir"
            raise UserError(str(workdir), reason, action) from None
        yield
    finally:
        os.close(directory)


def write_start(
    workdir: epath.Path, config: Config, tokenizer: Tokenizer, labels: tuple[str, ...], data: dict[str, str], last: int
) -> list[str]:
    """Writes the files that a run has from its start on, and returns a line for each missing file that was restored.

    `config.json` has the configuration of the latest start, `manifest.json` the changes of each start.

    Args:
        workdir: the run's directory.
        config: the configuration of this start.
        tokenizer: the tokenizer of the run.
        labels: the labels of the task; () if it has none.
        data: the fingerprint of each split.
        last: the step of the latest checkpoint; 0 if there is none.

    Raises:
        UserError: the tokenizer, the labels or the data differ from those of the first start.
    """
    parts = {"tokenizer": tokenizer.fingerprint}
    parts |= {"labels": manifest.fingerprint_of(labels)} if labels else {}
    begun, said, path = manifest.read_manifest(workdir), [], workdir / "tokenizer"
    if begun and not path.exists() and begun["fingerprints"].get("tokenizer") != tokenizer.fingerprint:
        reason = "is missing, and the tokenizer that the training data give is a different one"
        raise UserError(str(path), reason, "restore it from a copy of the run")
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
        said += [f"{path} was missing and is restored, with the same content"] if begun else []
    path = workdir / "labels.json"
    if labels and not path.exists():
        write_whole(path, json.dumps(labels, ensure_ascii=False) + "\n")
        said += [f"{path} was missing and is restored"] if begun else []
    elif labels:
        read_labels(workdir)
    manifest.write_manifest(workdir, config, data, parts, (old, now), last, changed)
    if changed:  # after the manifest, which must have its fingerprint
        write_whole(written, configuration.to_json(config))
    return said


# ---- reading ----------------------------------------------------------------------------------------------------


def read_config(workdir: epath.Path) -> Config:
    """Returns the configuration of a run; raises `UserError` if it is not the one in its manifest."""
    path = workdir / "config.json"
    if not _is_run(workdir):
        raise UserError(str(workdir), "is not a run (it has no config.json)", "give the --workdir of train.py")
    text = files.read_text(path, "JSON file of a run")
    manifest.require_version(workdir)
    config = configuration.from_json(text, str(path))
    manifest.check_config(workdir, _fixed(text))
    return config


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """Returns the tokenizer of a run; raises `UserError` if it is not the one in its manifest."""
    tokenizer = saved.load_tokenizer(workdir / "tokenizer")
    manifest.check_part(workdir, "tokenizer", tokenizer.fingerprint)
    return tokenizer


def read_labels(workdir: epath.Path) -> tuple[str, ...]:
    """Returns the labels in `labels.json`; raises `UserError` if they are not those in the manifest."""
    path = workdir / "labels.json"
    action = "delete it and start train.py again, which writes it"
    labels = tuple(json_files.read(path, "list of labels", [str], action))
    if not labels or len(set(labels)) < len(labels):
        raise UserError(str(path), "is empty or has a label twice", action)
    manifest.check_part(workdir, "labels", manifest.fingerprint_of(labels))
    return labels
