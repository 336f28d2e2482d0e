"""The record of an evaluation, which lies in the run's directory."""

import dataclasses
import json
import zlib
from typing import Any

from etils import epath

from lm.evaluation.scoring import Asked, Evaluation
from lm.runs import writing
from lm.runs.run import Run


def write(run: Run, found: Evaluation, asked: Asked) -> epath.Path:
    """Writes `evaluations/SPLIT-STEP.json`, and returns where it lies; the name says what was asked for beside."""
    record = {"split": asked.split, "step": run.step, **found.figures, "intervals": found.intervals}
    record["options"] = dataclasses.asdict(asked)
    if found.outputs:
        record["decoding"] = found.decoding
        if found.confusion is not None:
            record["confusion"] = found.confusion
        record["outputs"] = found.outputs
    path = run.workdir / "evaluations" / f"{_name(run, asked)}.json"
    writing.write_whole(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return path


def latest(workdir: epath.Path, split: str) -> dict[str, Any] | None:
    """Returns the last record of a run on a split, or None where it was not evaluated."""
    found = sorted((workdir / "evaluations").glob(f"{split}-*.json"), key=str)
    return json.loads(found[-1].read_text(encoding="utf-8")) if found else None


def _name(run: Run, asked: Asked) -> str:
    unusual = dict(asked.decoding)
    unusual |= {"lowercase": True} if asked.lowercase else {}
    unusual |= {"bleu_tokenize": asked.bleu_tokenize} if asked.bleu_tokenize else {}
    # Strings may be long, or have what no file's name has.
    short = lambda value: f"{zlib.crc32(repr(value).encode()):08x}" if isinstance(value, list) else value
    parts = [asked.split, str(run.step), *(f"{name}={short(value)}" for name, value in unusual.items())]
    parts += [f"scores={'+'.join(asked.scores)}"] if asked.scores else []
    parts += [run.weights.replace(" ", "-")] if run.averaged else []
    return "-".join(parts)
