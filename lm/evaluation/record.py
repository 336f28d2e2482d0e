"""The record of an evaluation, a file in the run's directory."""

import dataclasses
import json
import re
import zlib
from typing import Any

from etils import epath

from lm import json_files
from lm.errors import UserError
from lm.evaluation import statistics
from lm.evaluation.scoring import DATA, Asked, Evaluation
from lm.runs import manifest, writing
from lm.runs.run import Run

_NUMBERS = ("exact_match", "nats_per_example", "floor_nats_per_example")  # numbers that tables read
_FORM = {"split": str, "step": int, "run?": str} | {f"{name}?": float for name in _NUMBERS}


def write(run: Run, found: Evaluation, asked: Asked) -> epath.Path:
    """Writes `evaluations/SPLIT-STEP.json` and returns its path. The name also holds options other than the defaults.

    For a source that is not a split, the name is `data-NAME-FINGERPRINT-STEP.json`, where NAME is that of its file.
    """
    source = {"data": asked.data, "fingerprint": found.fingerprint} if asked.data else {}
    record = {"split": DATA if source else asked.split, **source, "step": run.step, **found.figures}
    record |= statistics.recorded(found.intervals)
    if identity := manifest.identity_of(run.workdir):
        record["run"] = identity.id
    record["options"] = dataclasses.asdict(asked)
    if found.outputs:
        record["decoding"] = found.decoding
        if found.confusion is not None:
            record["confusion"] = found.confusion
        record["outputs"] = found.outputs
    path = run.workdir / "evaluations" / f"{_name(run, asked, found.fingerprint)}.json"
    require_writable(run)
    writing.write_whole(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def require_writable(run: Run) -> None:
    """Raises `UserError` if `evaluations/` is a link out of the run's directory."""
    writing.require_inside(run.workdir, run.workdir / "evaluations")


def latest(workdir: epath.Path, split: str) -> dict[str, Any] | None:
    """Returns the last record of a run on a split, or None if it was not evaluated."""
    found = sorted((workdir / "evaluations").glob(f"{split}-*.json"), key=str)
    if not found:
        return None
    action = "delete it, and evaluate the run again"
    record, identity = (
        json_files.read(found[-1], "record of an evaluation", _FORM, action),
        manifest.identity_of(workdir),
    )
    if identity and record.get("run", identity.id) != identity.id:
        raise UserError(str(found[-1]), "is of another run", action)
    return record


def _name(run: Run, asked: Asked, fingerprint: str) -> str:
    unusual = dict(asked.decoding)
    unusual |= {"lowercase": True} if asked.lowercase else {}
    unusual |= {"bleu_tokenize": asked.bleu_tokenize} if asked.bleu_tokenize else {}
    # Strings may be long, or hold characters that file names cannot have.
    short = lambda value: f"{zlib.crc32(repr(value).encode()):08x}" if isinstance(value, list) else value
    data = [DATA, *filter(None, [_stem(asked.data)]), fingerprint[:8]] if asked.data else [asked.split]
    parts = [*data, str(run.step), *(f"{name}={short(value)}" for name, value in unusual.items())]
    parts += [f"scores={'+'.join(asked.scores)}"] if asked.scores else []
    parts += [run.weights.replace(" ", "-")] if run.averaged else []
    return "-".join(parts)


def _stem(source: str) -> str:
    """Returns the name of a source's first file, or of its data set, in characters that every file system allows."""
    first = re.split(r"\s[|+](?=\s)", source)[0].partition(":")[2]
    name = first.split(",")[0].rstrip("/").split("/")[-1].split(".")[0]
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40]
