"""The `manifest.json` of a run: its identity, fingerprints of its parts, and a record of each start.

The file has these entries::

    run            `id`: random, drawn once, carried by every checkpoint; `since`: checkpoints up to this step may
                   lack the id, as an earlier version saved them; `saved`: whether a checkpoint was ever finished
    seed           the seed of the configuration
    fingerprints   of each split of the data, of `tokenizer/` and of `labels.json`
    starts         time, command and machine of each start, and the fingerprint of its `config.json`
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
_PARTS = {"tokenizer": "tokenizer", "labels": "labels.json"}  # name of the fingerprint -> path in the run's directory


class Identity(NamedTuple):
    """The identity of a run: its id, and the step up to which checkpoints may lack it.

    A run of an early version has an empty id.
    """

    id: str
    since: int = 0


def identity_of(workdir: epath.Path) -> Identity | None:
    """Returns the identity of a run, or None if it has no manifest."""
    manifest = read_manifest(workdir)
    run = manifest and manifest.get("run")
    return Identity(run["id"], run["since"]) if run else None if manifest is None else Identity("")


def fingerprint_of(content: Any) -> str:
    """Returns the fingerprint of a JSON value, independent of the order of its names and of its layout."""
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
        config: the configuration of this start.
        data: the fingerprint of each split.
        parts: the fingerprints of tokenizer and labels.
        trees: the content of `config.json` before and after this start, without the fields that may change.
        last: the step of the latest checkpoint; 0 if there is none.
        changed: [value before, value now] of the fields that differ from the previous start, by name.

    Raises:
        UserError: the data of the run has changed.
    """
    check_unchanged(workdir, data)
    manifest = read_manifest(workdir) or {"seed": config.seed, "fingerprints": data, "starts": []}
    # A run that an earlier version started gets its id here.
    identity = {"run": manifest.get("run") or {"id": secrets.token_hex(16), "since": last, "saved": last > 0}}
    manifest = identity | manifest | {"fingerprints": manifest["fingerprints"] | parts}
    before, now = map(fingerprint_of, trees)
    for start in manifest["starts"]:  # starts of a version that did not write it
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
    """Writes that the run has finished a checkpoint, so that lost checkpoints are noticed."""
    manifest = read_manifest(workdir)
    if manifest and "run" in manifest and not manifest["run"]["saved"]:
        _write(workdir, manifest | {"run": manifest["run"] | {"saved": True}})


def _write(workdir: epath.Path, manifest: dict[str, Any]) -> None:
    write_whole(workdir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def cores() -> int:
    """Returns the number of cores that XLA uses; the order of its sums, and so their rounding, depends on it."""
    return int(os.environ.get("NPROC") or len(os.sched_getaffinity(0)))


def _processor() -> str:
    """Returns the name of the processor, for which XLA chooses instructions; empty if Linux does not name it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def other_machine(workdir: epath.Path) -> str:
    """Returns one line with the differences between the machines of the last two starts; empty if there are none.

    The differences are those that may change the bits of the results.
    """

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
    """Writes a value into the record of the last start."""
    manifest = read_manifest(workdir)
    if manifest and manifest["starts"][-1].get(name) != value:
        manifest["starts"][-1][name] = value
        _write(workdir, manifest)


READ_TOO = ("0.2",)  # minor versions whose parameters have the same names and meaning as in this one


def require_version(workdir: epath.Path) -> None:
    """Raises `UserError` for a run of another minor version of lm, whose parameters may have another meaning."""
    try:
        made = starts_of(workdir)[0]["versions"]["lm"]
    except LookupError:
        return  # a run without a record of its starts
    minor = lambda version: ".".join(version.split(".")[:2])
    if minor(made) not in (minor(lm.__version__), *READ_TOO):
        reason = f"is a run of lm {made}, whose parameters have another meaning in lm {lm.__version__}"
        raise UserError(str(workdir), reason, f"train it again, or use lm {made}")


def read_manifest(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns the content of `manifest.json`, or None if there is none; raises `UserError` if it is damaged."""
    path = workdir / "manifest.json"
    if not path.exists():
        return None
    return json_files.read(path, "JSON file of a run", _FORM, "restore it from a copy of the run")


def fingerprints_of(workdir: epath.Path) -> dict[str, str]:
    """Returns the fingerprints in the manifest of a run; empty if it has no manifest."""
    return (read_manifest(workdir) or {"fingerprints": {}})["fingerprints"]


def starts_of(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the starts in the manifest of a run; empty if it has no manifest."""
    return (read_manifest(workdir) or {"starts": []})["starts"]


def check_unchanged(workdir: epath.Path, data: dict[str, str]) -> None:
    """Raises `UserError` if a split differs from the one that the run was started with; `data` has the fingerprints."""
    known = (read_manifest(workdir) or {"fingerprints": data})["fingerprints"]
    for name, value in data.items():
        if known.get(name) != value:
            reason = f"was started with other {name} data"
            raise UserError(str(workdir), reason, f"give the same {name} data as then, or choose another --workdir")


def check_part(workdir: epath.Path, name: str, fingerprint: str) -> None:
    """Raises `UserError` if the tokenizer or the labels differ from the fingerprint in the manifest.

    Args:
        workdir: the run's directory.
        name: `tokenizer` or `labels`. Versions before 0.3.1 wrote no fingerprint of labels, which are then not checked.
        fingerprint: the fingerprint of the part that was read.
    """
    known = fingerprints_of(workdir).get(name)
    if known not in (None, fingerprint):
        raise _foreign(workdir / _PARTS[name])


def check_config(workdir: epath.Path, tree: Any) -> None:
    """Raises `UserError` if `config.json` is of no start in the manifest.

    `tree` is its content without the fields that may change between starts.
    """
    known = [start["config"] for start in starts_of(workdir) if "config" in start]
    if known and fingerprint_of(tree) not in known:
        raise _foreign(workdir / "config.json")


def _foreign(path: epath.Path) -> UserError:
    reason = "belongs to another run or was changed (manifest.json has another fingerprint)"
    return UserError(str(path), reason, "restore it; to start from another run, use config.training.init_from")


def vouches(workdir: epath.Path, split: str) -> bool:
    """Returns whether the manifest has the fingerprint of a split of the data."""
    return split in fingerprints_of(workdir)


def require_vouched(workdir: epath.Path, data: DataConfig, splits: Iterable[str], action: str) -> None:
    """Raises `UserError` if the manifest has no fingerprint of a split.

    Such a run may come from a stranger, and its `config.json` could name any file of this machine.
    """
    for split in sorted(splits):
        if not vouches(workdir, split) and (data.test or split != "test"):
            source = getattr(data, split) or data.train
            reason = f"has no manifest with a fingerprint of its {split} data, which config.json reads from {source}"
            raise UserError(str(workdir), reason, action)


def _git() -> dict[str, Any]:
    """Returns the commit of this code and whether files differ from it; empty outside a checkout."""

    def git(*args: str) -> str:
        here = os.path.dirname(__file__)
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
