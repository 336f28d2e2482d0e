"""Which checkpoints best, latest, a step or a mean is, and what they hold; also of a run that is being trained."""

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
    """Returns the steps that best, latest, a number or mean:N names, what their weights are called, and the mean of the
    parameters that `of_step` reads of each.

    Training removes old checkpoints, also one that is being read; then the newest list is asked again. A checkpoint is
    damaged where it cannot be read though nothing changes any more.

    Raises:
        UserError: there is none, or none such; or one that is damaged, or another run's.
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
    reason = f"its checkpoints were removed {MOST_ATTEMPTS} times before they were read"
    raise UserError(str(directory), reason, "wait until training ends, or keep more: config.training.keep_checkpoints")


def _none_yet(directory: epath.Path) -> UserError:
    return UserError(str(directory), "holds no checkpoint yet", "train first, or wait for the first one")


def _files(directory: epath.Path) -> list[str]:
    """All files of the checkpoints that are finished; in a bucket their names alone, as listing is slow."""
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
    """The step meant by best, latest or a number; raises `UserError` where there is none."""
    steps = saved.steps()
    if not steps:
        raise _none_yet(saved.directory)
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = saved.progress(steps[-1])["best_step"] or steps[-1]  # before any evaluation there is no best one
        if best not in steps:
            where = str(saved.directory / str(best))
            raise UserError(
                where, "the best checkpoint is gone", f"choose latest or one of: {', '.join(map(str, steps))}"
            )
        return best
    if whole(which) not in steps:
        action = f"choose best, latest or one of: {', '.join(map(str, steps))}"
        raise UserError("--checkpoint", f"{which[:40]!r} is not there", action)
    return int(which)


def steps_of(saved: Checkpoints, which: str) -> tuple[list[int], str]:
    """The steps that best, latest, a number or mean:N names, ascending, and what their weights are called."""
    if not which.startswith("mean:"):
        return [resolve(saved, which)], "one step"
    count, steps = whole(which.removeprefix("mean:")), saved.steps()
    if not count or count > len(steps):
        reason = f"{which[:40]!r} is no mean of the checkpoints {', '.join(map(str, steps))}"
        action = f"give mean:1 to mean:{len(steps)}, or keep more: config.training.keep_checkpoints"
        raise UserError("--checkpoint", reason, action)
    chosen = steps[-count:]
    return chosen, f"mean of {'+'.join(map(str, chosen))}"


def mean(trees: list[Any]) -> Any:
    """Parameter by parameter, float32 (Polyak and Juditsky, 1992; of checkpoints: Vaswani et al., 2017, section 6.1)."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype), *trees)
