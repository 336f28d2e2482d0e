"""The parts of a run's directory that may be missing: what training goes on without, and what it does not."""

from etils import epath

from lm import files
from lm.errors import UserError
from lm.runs import checkpoints, log, manifest


def check(workdir: epath.Path) -> list[str]:
    """Returns a line for each part without which training goes on otherwise than it would with it.

    Raises:
        UserError: a part is missing that only a copy can bring back; or a line of metrics is none.
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
        reason = "its manifest.json is missing, which says what data and tokenizer it was trained with"
        action = "put it back from a copy, or start a new run from it with config.training.init_from"
        raise UserError(str(workdir), reason, action)
    # Training makes the folder before it writes a line of metrics. Where that was killed before its first checkpoint was
    # finished, it is there and empty.
    gone = logged and not (workdir / "checkpoints").exists()
    if not steps and (gone or (known or {}).get("run", {}).get("saved")):
        source, reached = ("metrics.jsonl", f"step {max(logged)}") if logged else ("manifest.json", "a checkpoint")
        reason = f"its checkpoints are gone, and {source} says that it was trained to {reached}"
        action = "put them back from a copy, or choose another --workdir (remove this one to begin again in it)"
        raise UserError(str(workdir), reason, action)
    if steps and not metrics.exists():
        return [f"{metrics} is missing: it begins anew after step {steps[-1]:,}"]
    late = sum(step > max(steps, default=0) for step in logged)
    where = f"goes on from step {steps[-1]:,}" if steps else "begins again, as no checkpoint was finished"
    return [f"training {where}: {late} lines of {metrics} are dropped"] if late else []
