"""Checkpoints by Orbax: asynchronous, whole or not there, the latest few and the best by validation loss."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from lm.errors import UserError


class _LatestAndBest(PreservationPolicy):
    def __init__(self, keep: int, best_step: int):
        self.keep, self.best_step = keep, best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        late = len(checkpoints) - self.keep
        return [i >= late or info.step == self.best_step for i, info in enumerate(checkpoints)]


class Checkpoints:
    """`directory/STEP/`: `params`, `rest` (step, optimizer, carried state) and `progress` (JSON), all host arrays.

    `progress["best_step"]` is the step of the best validation loss so far, 0 if there was no evaluation. With `keep` 0
    they are opened to read: nothing is made or removed, so a run that is being trained can be read from.
    """

    def __init__(self, directory: epath.Path, keep: int = 0):
        self.directory = epath.Path(os.getcwd(), directory)  # Orbax writes to absolute paths only
        self._policy = _LatestAndBest(keep, 0)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=keep > 0,
                enable_async_checkpointing=keep > 0,
                create=keep > 0,
            ),
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "rest": ocp.StandardCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: Any, rest: Any, progress: dict[str, Any]) -> None:
        """Returns while the files are being written; an error of the save before this one is raised here."""
        self._policy.best_step = progress["best_step"]
        with _writing(self.directory / str(step)):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    rest=ocp.args.StandardSave(rest),
                    progress=ocp.args.JsonSave(dict(progress)),  # a copy: the caller goes on counting meanwhile
                ),
            )

    def restore(self, step: int, params: Any, rest: Any | None = None) -> tuple[Any, Any, dict[str, Any]]:
        """(params, rest, progress) of a step, shaped and typed like the given trees; `rest` None is not read."""
        items = {"params": ocp.args.StandardRestore(params), "progress": ocp.args.JsonRestore()}
        if rest is not None:
            items["rest"] = ocp.args.StandardRestore(rest)
        loaded = self._read(step, **items)
        for name, wanted in (("params", params), ("rest", rest)):
            if wanted is not None:
                self._check_shapes(step, wanted, loaded[name])
        return loaded["params"], loaded["rest"] if rest is not None else None, loaded["progress"]

    def restore_params(self, step: int) -> Any:
        """The parameters of a step as they were saved, whatever the model."""
        return self._read(step, params=ocp.args.StandardRestore())["params"]

    def progress(self, step: int) -> dict[str, Any]:
        return self._read(step, progress=ocp.args.JsonRestore())["progress"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises many kinds, from files missing to arrays that do not fit
            what = f"cannot be read ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
            mend = "it is damaged or of another model: move it away to use the one before it"
            raise UserError(str(self.directory / str(step)), what, mend) from error

    def _check_shapes(self, step: int, wanted: Any, loaded: Any) -> None:
        for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(loaded), strict=True):
            if np.shape(want) != np.shape(got):
                what = f"{jax.tree_util.keystr(path)} has shape {np.shape(got)}, this model's has {np.shape(want)}"
                raise UserError(str(self.directory / str(step)), what, "it is another run's: move it away")

    def wait(self) -> None:
        """Until the last save is on disk."""
        with _writing(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with _writing(self.directory):
            self._manager.close()


class _writing:
    """Turns whatever Orbax raises while writing into one line."""

    def __init__(self, where: epath.Path):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, UserError):
            what = f"could not be written ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
            mend = "make room or mend the disk and start again: the checkpoints before it are whole"
            raise UserError(str(self.where), what, mend) from error


def open_to_read(directory: epath.Path) -> Checkpoints:
    """The checkpoints of a run; raises `UserError` where none was finished."""
    if not any_in(directory):
        raise UserError(str(directory), "holds no checkpoint yet", "train first, or wait for the first one")
    return Checkpoints(directory)


def resolve(checkpoints: Checkpoints, which: str) -> int:
    """The step meant by best, latest or a number; raises `UserError` where there is none."""
    steps = checkpoints.steps()
    if which == "latest":
        return steps[-1]
    if which == "best":
        best = checkpoints.progress(steps[-1])["best_step"] or steps[-1]  # before any evaluation there is no best one
        if best not in steps:
            where = str(checkpoints.directory / str(best))
            raise UserError(
                where, "the best checkpoint is gone", f"choose latest or one of: {', '.join(map(str, steps))}"
            )
        return best
    if not which.isdigit() or int(which) not in steps:
        mend = f"choose best, latest or one of: {', '.join(map(str, steps))}"
        raise UserError("--checkpoint", f"{which!r} is not there", mend)
    return int(which)


def any_in(directory: epath.Path) -> bool:
    """Whether a checkpoint was ever finished there."""
    return directory.exists() and any(path.name.isdigit() for path in directory.iterdir())
