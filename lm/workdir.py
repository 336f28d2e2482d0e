"""A run's directory: what the contract says lies in it, written whole or not at all."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import lm
from lm import config as configuration
from lm import hosts
from lm.config import Config
from lm.data import tokenizers
from lm.data.tokenizers import Tokenizer
from lm.errors import UserError


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file so that it is there whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a write that fails names no file
        raise


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


def require_there(workdir: epath.Path) -> None:
    """Raises `UserError` where the directory was taken away meanwhile: what is written there now would be no run."""
    if not (workdir / "config.json").exists():
        what = "its config.json is gone: the directory was removed or moved while training went on"
        raise UserError(str(workdir), what, "put it back and start again, from its last checkpoint")


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
        tokenizers.save_tokenizer(tokenizer, temporary)
        temporary.replace(path)
    _write_manifest(workdir, config, {**fingerprints, "tokenizer": tokenizer.fingerprint})


def read_config(workdir: epath.Path) -> Config:
    path = workdir / "config.json"
    if not _is_run(workdir):
        raise UserError(str(workdir), "is not a run (no config.json)", "give the --workdir that train.py wrote")
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise UserError(str(path), "is not text", "restore the file, or start in a new workdir") from None
    _require_version(workdir)
    return configuration.from_json(text, str(path))


def _write_manifest(workdir: epath.Path, config: Config, fingerprints: dict[str, str]) -> None:
    """Adds this start to `manifest.json`."""
    check_unchanged(workdir, fingerprints)
    manifest = _read_manifest(workdir) or {"seed": config.seed, "fingerprints": fingerprints, "starts": []}
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "tensorflow-datasets",
        "sentencepiece",
        "numpy",
    )
    manifest["starts"].append(
        {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
            "python": platform.python_version(),
            "versions": {"lm": lm.__version__, **{name: metadata.version(name) for name in packages}},
            "git": _git(),
            "platform": platform.platform(),
            "devices": [device.device_kind for device in jax.devices()],
        }
    )
    write_whole(workdir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _require_version(workdir: epath.Path) -> None:
    """Raises `UserError` for a run of another minor version of lm: its parameters may mean something else here."""
    try:
        made = str((_read_manifest(workdir) or {})["starts"][0]["versions"]["lm"])
    except (LookupError, TypeError):
        return  # a run without a record of its start
    if made.split(".")[:2] != lm.__version__.split(".")[:2]:
        what = f"is a run of lm {made}, whose parameters mean something else in {lm.__version__}"
        raise UserError(str(workdir), what, f"train it anew, or read it with lm {made}")


def _read_manifest(workdir: epath.Path) -> dict[str, Any] | None:
    path = workdir / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        return {name: manifest[name] for name in ("seed", "fingerprints", "starts")}
    except (ValueError, KeyError, TypeError):
        mend = "restore it, or move it away to lose the record of starts"
        raise UserError(str(path), "is damaged", mend) from None


def check_unchanged(workdir: epath.Path, fingerprints: dict[str, str]) -> None:
    """Refuses data or a tokenizer that is not what the run was started with."""
    known = (_read_manifest(workdir) or {"fingerprints": fingerprints})["fingerprints"]
    for name, value in fingerprints.items():
        if known.get(name) != value:
            what = f"the {name} data is not what this run was started with"
            raise UserError(str(workdir), what, "restore the data, or choose another --workdir")


def _git() -> dict[str, Any]:
    """Commit of the code that runs and whether files differ from it; empty outside a checkout."""

    def git(*args: str) -> str:
        here = os.path.dirname(__file__)
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


class MetricsLog:
    """`metrics.jsonl`, and the same numbers for TensorBoard.

    A run that goes on from step `step` first drops what a killed process wrote after it, so that the file is the one an
    uninterrupted run would have written.
    """

    def __init__(self, workdir: epath.Path, step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line, record in _records(self.path) if record["step"] <= step and step]
        write_whole(self.path, "".join(line + "\n" for line in kept))
        # Nothing can be appended to in a bucket, so there the file, which is small, is written anew with each line.
        self._written = [line + "\n" for line in kept]
        self._file = None if "://" in str(workdir) else self.path.open("a")
        # TensorBoard's own switch; else it imports TensorFlow where that is installed: seconds, and lines of its log.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
        self._events = EventFileWriter(str(workdir))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # TensorBoard drops what other files say of later steps.
        self._events.add_event(event_pb2.Event(step=step + 1, session_log=start))

    def write(self, record: dict[str, Any]) -> None:
        """`record` has step, split and scalars; the line is with the operating system when this returns."""
        values = [
            summary_pb2.Summary.Value(tag=f"{record['split']}/{name}", simple_value=float(value))
            for name, value in record.items()
            if name != "step" and isinstance(value, (int, float))
        ]
        event = event_pb2.Event(
            wall_time=datetime.datetime.now().timestamp(),
            step=record["step"],
            summary=summary_pb2.Summary(value=values),
        )
        try:
            line = json.dumps(record) + "\n"
            if self._file:
                self._file.write(line)
                self._file.flush()
            else:
                self._written.append(line)
                self.path.write_text("".join(self._written))
            self._events.add_event(event)
        except OSError as error:
            require_there(self.path.parent)
            error.filename = str(self.path)  # a write that fails names no file
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every line was flushed, and a failure raised then
            if self._file:
                self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()


class NoLog:
    """That of every host but the first."""

    def __init__(self, workdir: epath.Path, step: int):
        pass

    def write(self, record: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """All records of `metrics.jsonl`."""
    return [record for _, record in _records(workdir / "metrics.jsonl")]


def _records(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of metrics, as it is and as a record; without the last one where a killed process wrote half of it.

    Raises `UserError` for a line that this program did not write.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
            record = json.loads(text)
            known = isinstance(record["step"], int) and isinstance(record["split"], str)
        except (ValueError, TypeError, KeyError, IndexError):
            known = False
        if known:
            yield text, record
        elif number < len(lines):  # the last one is half, or empty as nothing is after the end of a line
            what, mend = "is no line of metrics", "mend it, or move the file away: training goes on without it"
            raise UserError(f"{path}:{number}", what, mend)
