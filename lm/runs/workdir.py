"""A run's directory: what the contract says lies in it, written whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from etils import epath

from lm import config as configuration
from lm.config import TOKENIZERS, Config
from lm.data.text.tokenizers import saved
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices import hosts
from lm.errors import UserError
from lm.runs import checkpoints
from lm.runs.manifest import read_manifest, require_version, write_manifest
from lm.runs.writing import write_whole

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


def _is_run(workdir: epath.Path) -> bool:
    try:
        return (workdir / "config.json").exists()
    except ImportError as error:
        what, mend = f"this kind of path needs a package ({error})", "install it, e.g. pip install -e '.[gcs]'"
        raise UserError(str(workdir), what, mend) from None


def usual(spec: str) -> str:
    """The directory of the configuration `FILE` or `FILE:TEXT`: two of one file are two runs."""
    file, _, text = spec.partition(":")
    return "runs/" + "-".join(filter(None, (pathlib.Path(file).stem, text)))


def check(workdir: epath.Path, config: Config) -> None:
    """Raises `UserError` for a directory that holds another configuration, or files that are not a run's."""
    if _is_run(workdir):
        old = read_config(workdir)
        different = [
            f"{path}: {before!r} -> {now!r}"
            for path, (before, now) in configuration.differences(old, config).items()
            if path not in MAY_DIFFER and not _may_have_moved(workdir, path, before, now)
        ]
        if different:
            mend = "choose another --workdir, or give the configuration that it holds"
            raise UserError(str(workdir), f"holds a run with another configuration ({'; '.join(different)})", mend)
    elif workdir.exists():
        if not workdir.is_dir():
            raise UserError(str(workdir), "is a file", "choose another --workdir")
        strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith("."))
        if strangers:
            what = f"holds {strangers[0]!r} and no config.json, so it is not a run"
            raise UserError(str(workdir), what, "choose another --workdir")


def _may_have_moved(workdir: epath.Path, path: str, before: str, now: str) -> bool:
    """Whether a field names a place in both configurations, of a run that knows what was there."""
    if path in DATA:
        known = (read_manifest(workdir) or {"fingerprints": {}})["fingerprints"]
        return bool(before and now) and path.removeprefix("data.") in known
    if path == "data.tokenizer.kind":
        return before not in TOKENIZERS and now not in TOKENIZERS and (workdir / "tokenizer").exists()
    return path in BEGINNINGS and bool(before and now) and checkpoints.any_in(workdir / "checkpoints")


@contextlib.contextmanager
def begun(workdir: epath.Path, config: Config, tokenizer: Tokenizer, fingerprints: dict[str, str]) -> Iterator[None]:
    """Holds the directory for one run, and writes what a run has from its start on."""
    if hosts.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
    with _held(workdir) if hosts.is_first() else contextlib.nullcontext():
        if hosts.is_first():
            _write_start(workdir, config, tokenizer, fingerprints)
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
            what, mend = "another process trains in it", "wait until it ends, or choose another --workdir"
            raise UserError(str(workdir), what, mend) from None
        yield
    finally:
        os.close(directory)


def _write_start(workdir: epath.Path, config: Config, tokenizer: Tokenizer, fingerprints: dict[str, str]) -> None:
    """Configuration, tokenizer, manifest. config.json has what the latest start was given, the manifest what each changed."""
    changed = {}
    if (workdir / "config.json").exists():
        changed = configuration.differences(read_config(workdir), config)
    else:
        write_whole(workdir / "config.json", configuration.to_json(config))
    path = workdir / "tokenizer"
    if not path.exists():
        temporary = workdir / f".tokenizer.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        saved.save_tokenizer(tokenizer, temporary)
        temporary.replace(path)
    write_manifest(workdir, config, {**fingerprints, "tokenizer": tokenizer.fingerprint}, changed)
    if changed:
        write_whole(workdir / "config.json", configuration.to_json(config))


def read_config(workdir: epath.Path) -> Config:
    path = workdir / "config.json"
    if not _is_run(workdir):
        raise UserError(str(workdir), "is not a run (no config.json)", "give the --workdir that train.py wrote")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(str(path), "is not text", "restore the file, or start in a new workdir") from None
    require_version(workdir)
    return configuration.from_json(text, str(path))
