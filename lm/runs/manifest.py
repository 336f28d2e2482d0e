"""A run's `manifest.json`: its identity, what it was started from, and each of its starts.

run            an id, drawn once, that every checkpoint carries; `since`: checkpoints up to this step have none, as
               they were saved by a version that knew no ids; `saved`: whether a checkpoint was ever finished
seed           the configuration's
fingerprints   of each split of the data, of `tokenizer/` and of `labels.json`
starts         when, how and where each process began to train, and the fingerprint of its `config.json`
"""

import datetime
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any, NamedTuple

import jax
from etils import epath

import lm
from lm import json_files
from lm.config import Config, DataConfig
from lm.errors import UserError
from lm.runs.writing import write_whole

_FORM = {
    "run?": {"id": str, "since": int, "saved": bool},
    "seed": int,
    "fingerprints": {str: str},
    "starts": [
        {
            "versions?": {str: str},
            "config?": str,
            "devices?": [str],
            "cores?": int,
            "processor?": str,
            "XLA_FLAGS?": str,
            "began_with?": {str: str},
        }
    ],
}
_PARTS = {"tokenizer": "tokenizer", "labels": "labels.json"}  # by the name of the fingerprint


class Identity(NamedTuple):
    """Which run it is; checkpoints up to the step `since` need not carry its id, which is empty where it has none."""

    id: str
    since: int = 0


def identity_of(workdir: epath.Path) -> Identity | None:
    """Returns the identity of a run, or None where there is no manifest that could say."""
    manifest = read_manifest(workdir)
    run = manifest and manifest.get("run")
    return Identity(run["id"], run["since"]) if run else None if manifest is None else Identity("")


def fingerprint_of(content: Any) -> str:
    """Returns the fingerprint of what JSON has, however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(
    workdir: epath.Path,
    config: Config,
    data: dict[str, str],
    parts: dict[str, str],
    trees: tuple[Any, Any],
    last: int,
    changed: dict[str, list[Any]],
) -> None:
    """Adds this start to `manifest.json`.

    Args:
        workdir: the run's directory.
        config: that of this start.
        data: the fingerprint of each split.
        parts: the fingerprints of tokenizer and labels.
        trees: what `config.json` holds, and what it is to hold from this start on, without the fields that may change.
        last: the step of the latest checkpoint, 0 if there is none.
        changed: what the configuration has other than that of the start before.
    """
    check_unchanged(workdir, data)
    manifest = read_manifest(workdir) or {"seed": config.seed, "fingerprints": data, "starts": []}
    # A run of a version without ids gets one here.
    identity = {"run": manifest.get("run") or {"id": secrets.token_hex(16), "since": last, "saved": last > 0}}
    manifest = identity | manifest | {"fingerprints": manifest["fingerprints"] | parts}
    before, now = map(fingerprint_of, trees)
    for start in manifest["starts"]:  # those of a version that did not say it
        start.setdefault("config", before)
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
            "config": now,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
            "python": platform.python_version(),
            "versions": {"lm": lm.__version__, **{name: metadata.version(name) for name in packages}},
            "git": _git(),
            "platform": platform.platform(),
            "devices": [device.device_kind for device in jax.devices()],
            "cores": cores(),
            "processor": _processor(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            **({"changed": changed} if changed else {}),
        }
    )
    _write(workdir, manifest)


def note_saved(workdir: epath.Path) -> None:
    """Notes that the run has finished a checkpoint, so that it is missed where it is gone."""
    manifest = read_manifest(workdir)
    if manifest and "run" in manifest and not manifest["run"]["saved"]:
        _write(workdir, manifest | {"run": manifest["run"] | {"saved": True}})


def _write(workdir: epath.Path, manifest: dict[str, Any]) -> None:
    write_whole(workdir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def cores() -> int:
    """Returns the number of cores that XLA divides its work among: the order of its sums depends on it."""
    return int(os.environ.get("NPROC") or len(os.sched_getaffinity(0)))


def _processor() -> str:
    """Returns the name of the processor, whose instructions XLA chooses; empty where Linux does not say it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def other_machine(workdir: epath.Path) -> str:
    """Returns in one line what differs between the last two starts of all that bits depend on; empty if nothing does."""

    def known(start: dict[str, Any]) -> dict[str, Any]:
        kinds = start.get("devices", [])
        counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
        named = {**start, **start.get("versions", {}), "devices": counted}
        return {
            name: named[name]
            for name in ("devices", "cores", "processor", "jax", "jaxlib", "XLA_FLAGS")
            if name in named
        }

    *_, before, now = map(known, [{}, {}, *starts_of(workdir)])
    both = [name for name in before if name in now]
    return ", ".join(f"{name} {now[name]} (before: {before[name]})" for name in both if before[name] != now[name])


def note(workdir: epath.Path, name: str, value: Any) -> None:
    """Writes something into the record of the last start."""
    manifest = read_manifest(workdir)
    if manifest and manifest["starts"][-1].get(name) != value:
        manifest["starts"][-1][name] = value
        _write(workdir, manifest)


READ_TOO = ("0.2",)  # minor versions whose parameters have the names and the meaning that they have in this one


def require_version(workdir: epath.Path) -> None:
    """Raises `UserError` for a run of a minor version of lm whose parameters may mean something else here."""
    try:
        made = starts_of(workdir)[0]["versions"]["lm"]
    except LookupError:
        return  # a run without a record of its start
    minor = lambda version: ".".join(version.split(".")[:2])
    if minor(made) not in (minor(lm.__version__), *READ_TOO):
        reason = f"is a run of lm {made}, whose parameters mean something else in {lm.__version__}"
        raise UserError(str(workdir), reason, f"train it anew, or read it with lm {made}")


def read_manifest(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns what `manifest.json` holds, or None where there is none; raises `UserError` for one that is damaged."""
    path = workdir / "manifest.json"
    if not path.exists():
        return None
    return json_files.read(path, "JSON file of a run", _FORM, "put it back from a copy of the run")


def fingerprints_of(workdir: epath.Path) -> dict[str, str]:
    """Returns the fingerprints that the manifest of a run names, none where there is no manifest."""
    return (read_manifest(workdir) or {"fingerprints": {}})["fingerprints"]


def starts_of(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the starts that the manifest of a run names, none where there is no manifest."""
    return (read_manifest(workdir) or {"starts": []})["starts"]


def check_unchanged(workdir: epath.Path, data: dict[str, str]) -> None:
    """Refuses data that is not what the run was started with, wherever it lies; `data` has the fingerprint of each split."""
    known = (read_manifest(workdir) or {"fingerprints": data})["fingerprints"]
    for name, value in data.items():
        if known.get(name) != value:
            reason = f"the {name} data is not what this run was started with"
            raise UserError(str(workdir), reason, f"give the {name} data of then, or choose another --workdir")


def check_part(workdir: epath.Path, name: str, fingerprint: str) -> None:
    """Raises `UserError` where tokenizer or labels are not those that the manifest names.

    A run of a version before 0.3.1 names its tokenizer alone.
    """
    known = fingerprints_of(workdir).get(name)
    if known not in (None, fingerprint):
        raise _foreign(workdir / _PARTS[name])


def check_config(workdir: epath.Path, tree: Any) -> None:
    """Raises `UserError` where what `config.json` holds, but for the fields that may change, is of no start in the manifest."""
    known = [start["config"] for start in starts_of(workdir) if "config" in start]
    if known and fingerprint_of(tree) not in known:
        raise _foreign(workdir / "config.json")


def _foreign(path: epath.Path) -> UserError:
    reason = "is not this run's own, or was changed (manifest.json has another fingerprint)"
    return UserError(
        str(path), reason, "put it back; only config.training.init_from takes anything over from another run"
    )


def vouches(workdir: epath.Path, split: str) -> bool:
    """Returns whether the manifest names the fingerprint of a split of the data."""
    return split in fingerprints_of(workdir)


def require_vouched(workdir: epath.Path, data: DataConfig, splits: Iterable[str], action: str) -> None:
    """Raises `UserError` where the manifest has no fingerprint of a split: the run may be a stranger's, and its
    `config.json` may name any file."""
    for split in sorted(splits):
        if not vouches(workdir, split) and (data.test or split != "test"):
            source = getattr(data, split) or data.train
            reason = f"no manifest vouches for its {split} data, which its config.json says to read from {source}"
            raise UserError(str(workdir), reason, action)


def _git() -> dict[str, Any]:
    """Commit of the code that runs and whether files differ from it; empty outside a checkout."""

    def git(*args: str) -> str:
        here = os.path.dirname(__file__)
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
