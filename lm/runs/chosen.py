"""The checkpoints that `best`, `latest`, a step or `mean:N` names, and reading them, also while a run is trained."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from lm.errors import UserError
from lm.numbers import whole
from lm.runs import checkpoints
from lm.runs.checkpoints import Checkpoints, Damaged

MOST_ATTEMPTS = 200
PAUSE = 0.2  # seconds


def read(workdir: epath.Path, which: str, of_step: Callable[[Checkpoints, int], Any]) -> tuple[list[int], str, Any]:
    """Returns the chosen steps, the name of their weights, and the mean of their parameters.

    Training may remove a checkpoint while it is read. Then the list of checkpoints is read again and the choice is
    repeated. A checkpoint counts as damaged only if it cannot be read while the directory does not change.

    Args:
        workdir: the run's directory.
        which: `best`, `latest`, a step or `mean:N`.
        of_step: reads the parameters of a step.

    Raises:
        UserError: there is no checkpoint, not the chosen one, or it is damaged or of another run.
    """
    directory, still = workdir / "checkpoints", 0
    for _ in range(MOST_ATTEMPTS):
        before = _files(directory)
        try:
            if not checkpoints.any_in(directory):
                raise _none_yet(directory)
            saved = checkpoints.of_run(workdir)
            steps, weights = steps_of(saved, which)
            return steps, weights, mean([of_step(saved, step) for step in steps])
        except (UserError, FileNotFoundError, NotADirectoryError) as error:
            still = still + 1 if _files(directory) == before else 0
            if still > 2 or (still and not isinstance(error, Damaged | OSError)):
                raise
            time.sleep(PAUSE if still else 0)
    reason = f"changed {MOST_ATTEMPTS} times while its checkpoints were read"
    raise UserError(str(directory), reason, "wait until training ends, or raise config.training.keep_checkpoints")


def _none_yet(directory: epath.Path) -> UserError:
    return UserError(str(directory), "holds no checkpoint yet", "train first, or wait until training has saved one")


def _files(directory: epath.Path) -> list[str]:
    """Returns all files of finished checkpoints; in a bucket only their directories, as listing is slow."""
    try:
        finished = checkpoints.directories(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if "://" in str(directory):
        return sorted(map(str, finished))
    return sorted(
        os.path.join(folder, name) for path in finished for folder, _, names in os.walk(path) for name in names
    )


def resolve(saved: Checkpoints, which: str) -> int:
    """Returns the step that `best`, `latest` or a number names; raises `UserError` if there is none."""
    steps = saved.steps()
    if not steps:
        raise _none_yet(saved.directory)
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = saved.progress(steps[-1])["best_step"] or steps[-1]  # before the first evaluation there is no best step
        if best not in steps:
            where = str(saved.directory / str(best))
            raise UserError(
                where, "is the best checkpoint and is missing", f"choose latest or one of: {', '.join(map(str, steps))}"
            )
        return best
    if whole(which) not in steps:
        action = f"choose best, latest or one of: {', '.join(map(str, steps))}"
        raise UserError("--checkpoint", f"{which[:40]!r} is not a checkpoint of this run", action)
    return int(which)


def steps_of(saved: Checkpoints, which: str) -> tuple[list[int], str]:
    """Returns the steps that `best`, `latest`, a number or `mean:N` names, ascending, and the name of their weights."""
    if not which.startswith("mean:"):
        return [resolve(saved, which)], "one step"
    count, steps = whole(which.removeprefix("mean:")), saved.steps()
    if not count or count > len(steps):
        reason = f"{which[:40]!r} is not a mean of the checkpoints {', '.join(map(str, steps))}"
        action = f"give mean:1 to mean:{len(steps)}, or raise config.training.keep_checkpoints"
        raise UserError("--checkpoint", reason, action)
    chosen = steps[-count:]
    return chosen, f"mean of {'+'.join(map(str, chosen))}"


def mean(trees: list[Any]) -> Any:
    """Returns the mean of each parameter, computed in float64 and returned in the type of the parameter.

    Averaging: Polyak and Juditsky (1992); of checkpoints: Vaswani et al. (2017), section 6.1.
    """
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype), *trees)
