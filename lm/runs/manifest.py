"""A run's `manifest.json`: what it was started from, and each of its starts."""

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import jax
from etils import epath

import lm
from lm.config import Config
from lm.errors import UserError
from lm.runs.writing import write_whole


def write_manifest(workdir: epath.Path, config: Config, fingerprints: dict[str, str]) -> None:
    """Adds this start to `manifest.json`."""
    check_unchanged(workdir, fingerprints)
    manifest = read_manifest(workdir) or {"seed": config.seed, "fingerprints": fingerprints, "starts": []}
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


READ_TOO = ("0.2",)  # minor versions whose parameters have the names and the meaning that they have in this one


def require_version(workdir: epath.Path) -> None:
    """Raises `UserError` for a run of a minor version of lm whose parameters may mean something else here."""
    try:
        made = str((read_manifest(workdir) or {})["starts"][0]["versions"]["lm"])
    except (LookupError, TypeError):
        return  # a run without a record of its start
    minor = lambda version: ".".join(version.split(".")[:2])
    if minor(made) not in (minor(lm.__version__), *READ_TOO):
        what = f"is a run of lm {made}, whose parameters mean something else in {lm.__version__}"
        raise UserError(str(workdir), what, f"train it anew, or read it with lm {made}")


def read_manifest(workdir: epath.Path) -> dict[str, Any] | None:
    path = workdir / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {name: manifest[name] for name in ("seed", "fingerprints", "starts")}
    except (ValueError, KeyError, TypeError):
        mend = "restore it, or move it away to lose the record of starts"
        raise UserError(str(path), "is damaged", mend) from None


def check_unchanged(workdir: epath.Path, fingerprints: dict[str, str]) -> None:
    """Refuses data or a tokenizer that is not what the run was started with."""
    known = (read_manifest(workdir) or {"fingerprints": fingerprints})["fingerprints"]
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
