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


def write_manifest(
    workdir: epath.Path, config: Config, fingerprints: dict[str, str], changed: dict[str, list[Any]]
) -> None:
    """Adds this start to `manifest.json`; `changed` has what its configuration has other than the one before it."""
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
            "cores": cores(),
            "processor": _processor(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            **({"changed": changed} if changed else {}),
        }
    )
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

    *_, before, now = map(known, [{}, *(read_manifest(workdir) or {"starts": [{}]})["starts"]])
    both = [name for name in before if name in now]
    return ", ".join(f"{name} {now[name]} (before: {before[name]})" for name in both if before[name] != now[name])


def note(workdir: epath.Path, name: str, value: Any) -> None:
    """Writes something into the record of the last start."""
    manifest = read_manifest(workdir)
    if manifest and manifest["starts"][-1].get(name) != value:
        manifest["starts"][-1][name] = value
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
    """Refuses data or a tokenizer that is not what the run was started with, wherever it lies."""
    known = (read_manifest(workdir) or {"fingerprints": fingerprints})["fingerprints"]
    for name, value in fingerprints.items():
        if known.get(name) != value:
            which = name if name == "tokenizer" else f"{name} data"
            what = f"the {which} is not what this run was started with"
            raise UserError(str(workdir), what, f"give the {which} of then, or choose another --workdir")


def _git() -> dict[str, Any]:
    """Commit of the code that runs and whether files differ from it; empty outside a checkout."""

    def git(*args: str) -> str:
        here = os.path.dirname(__file__)
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
