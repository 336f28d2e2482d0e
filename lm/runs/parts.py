"""The check for missing parts of a run's directory before training resumes."""

from etils import epath

from lm import files
from lm.errors import UserError
from lm.runs import checkpoints, log, manifest


def check(workdir: epath.Path) -> list[str]:
    """Returns a line for each missing part that changes how training resumes.

    Raises:
        UserError: a part is missing that can only be restored from a copy, or a line of metrics is malformed.
    """
    if not (workdir / "config.json").exists():
        return []
    if (workdir / "checkpoints").is_dir():
        files.require_regular_below(workdir / "checkpoints")  # Orbax would wait for a pipe
    metrics = workdir / "metrics.jsonl"
    logged = [record["step"] for record in log.read_metrics(workdir)]
    steps = checkpoints.of_run(workdir).steps()
    known = manifest.read_manifest(workdir)
    if known is None and (steps or logged):
        reason = "has no manifest.json, which identifies the data and the tokenizer of the run"
        action = "restore it from a copy, or start a new run from this one with config.training.init_from"
        raise UserError(str(workdir), reason, action)
    # Training creates the folder before it writes a line of metrics. If it was killed before its first checkpoint was
    # finished, the folder exists and is empty.
    gone = logged and not (workdir / "checkpoints").exists()
    if not steps and (gone or (known or {}).get("run", {}).get("saved")):
        source, reached = ("metrics.jsonl", f"step {max(logged)}") if logged else ("manifest.json", "a checkpoint")
        reason = f"has no checkpoints, although by {source} it was trained to {reached}"
        action = "restore them from a copy, choose another --workdir, or remove this one to train again"
        raise UserError(str(workdir), reason, action)
    if steps and not metrics.exists():
        return [f"{metrics} is missing: a new file starts after step {steps[-1]:,}"]
    late = sum(step > max(steps, default=0) for step in logged)
    where = f"resumes from step {steps[-1]:,}" if steps else "restarts, as no checkpoint was finished"
    return [f"training {where}: {late} lines of {metrics} are dropped"] if late else []
