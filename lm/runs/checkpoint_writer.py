"""Writing checkpoints with Orbax: asynchronously and atomically; the latest few and the best one are kept."""

import errno
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from lm.devices import hosts
from lm.errors import UserError
from lm.runs import arrays


class _LatestAndBest(PreservationPolicy):
    """Keeps the latest `keep` checkpoints and the one of `best_step`."""

    def __init__(self, keep: int, best_step: int):
        self.keep, self.best_step = keep, best_step

    def superseded(self, steps: Sequence[int]) -> list[int]:
        return [step for step in steps[: -self.keep] if step != self.best_step]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        old = self.superseded([info.step for info in checkpoints])
        return [info.step not in old for info in checkpoints]


class Writer:
    """Writes the checkpoints of a run, and removes old ones. Several hosts write a checkpoint together.

    Args:
        directory: the directory of all checkpoints.
        keep: the number of latest checkpoints that are kept.
        run: the id of the run, which each checkpoint carries.
    """

    def __init__(self, directory: epath.Path, keep: int, run: str):
        self.directory, self._run = directory, run
        self._last = 0  # the step of the last save
        self._require_writable()
        self._policy = _LatestAndBest(keep, 0)
        handlers = {"params": ocp.StandardCheckpointHandler(), "rest": ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                create=True,
            ),
            item_handlers=handlers | {"progress": ocp.JsonCheckpointHandler()},
        )

    def _require_writable(self) -> None:
        """Raises `PermissionError` if the directory is not writable; Orbax would raise only after five minutes."""
        if "://" in str(self.directory) or not self.directory.exists():
            return
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.directory))

    def save(self, step: int, params: Any, rest: Any, progress: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns before it is finished.

        Raises:
            UserError: the previous save failed; the error names its step.
        """
        self._policy.best_step = progress["best_step"]
        self.wait()
        self._require_writable()
        self._last = step
        digests = {"params": _digests(params), "rest": _digests(rest)}
        digests["progress"] = {"metadata": arrays.digest_of_json(progress)}
        with _writing(self.directory / str(step)):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    rest=ocp.args.StandardSave(rest),
                    progress=ocp.args.JsonSave(dict(progress)),  # a copy, as the caller changes it meanwhile
                ),
                custom_metadata={"run": self._run, "step": step, "digests": digests},
            )

    def remove_old(self, best_step: int) -> None:
        """Removes old checkpoints. Orbax does so after each save, unless the process is killed in between."""
        self._policy.best_step = best_step
        for step in self._policy.superseded(sorted(self._manager.all_steps())):
            self._manager.delete(step)

    def reload(self) -> None:
        """Reads the list of checkpoints again after some were moved away."""
        self._manager.reload()

    def wait(self) -> None:
        """Waits until the last save is on the disk; raises `UserError` if it failed."""
        with _writing(self._path_of_last()):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and closes the manager."""
        with _writing(self._path_of_last()):
            self._manager.close()

    def _path_of_last(self) -> epath.Path:
        return self.directory / str(self._last) if self._last else self.directory


def _digests(tree: Any) -> dict[str, int]:
    """Returns the digest of each array that this host holds completely."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    whole = lambda leaf: isinstance(leaf, np.ndarray) or (isinstance(leaf, jax.Array) and leaf.is_fully_addressable)
    return {"/".join(arrays.path_of(path)): arrays.digest(np.asarray(leaf)) for path, leaf in leaves if whole(leaf)}


class _writing:
    """Turns any exception of Orbax during a write into a `UserError`."""

    def __init__(self, where: epath.Path):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, UserError):
            if lost := hosts.lost(error):
                raise lost from error
            reason = f"could not be written ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
            action = "check permissions and free space there, and start again from the checkpoint before it"
            raise UserError(str(self.where), reason, action) from error
