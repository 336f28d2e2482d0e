"""A run's directory: what the contract says lies in it, written whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from etils import epath

from lm import config as configuration
from lm.config import Config
from lm.data.text.tokenizers import saved
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices import hosts
from lm.errors import UserError
from lm.runs.manifest import require_version, write_manifest
from lm.runs.writing import write_whole

# How a run is computed, not what: a start may have it its own way, and config.json stays as it was.
MAY_DIFFER = ("training.parallel", "training.shards")


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
        different = [
            each
            for each in configuration.differences(read_config(workdir), config)
            if each.split(":")[0] not in MAY_DIFFER
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
    """Configuration, tokenizer, manifest."""
    if not (workdir / "config.json").exists():
        write_whole(workdir / "config.json", configuration.to_json(config))
    path = workdir / "tokenizer"
    if not path.exists():
        temporary = workdir / f".tokenizer.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        saved.save_tokenizer(tokenizer, temporary)
        temporary.replace(path)
    write_manifest(workdir, config, {**fingerprints, "tokenizer": tokenizer.fingerprint})


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
