"""The checkpoints of a run: their list and their content."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from lm import json_files
from lm.devices import hosts
from lm.errors import UserError
from lm.numbers import whole
from lm.runs import arrays, manifest
from lm.runs.arrays import Path
from lm.runs.manifest import Identity

_KIND = "JSON file of a run"
_PROGRESS = {"best_step": int, "best_loss?": (float, None), str: float}
# Orbax's own file about a checkpoint; our additions are in `custom_metadata`.
_METADATA = {"custom_metadata?": {"run?": str, "step?": int, "digests?": {str: {str: int}}}}


class Damaged(UserError):
    """The error of a checkpoint that cannot be read although permissions allow it."""


class Foreign(UserError):
    """The error of a checkpoint of another run, or of one whose directory has the name of another step."""


class Checkpoints:
    """The checkpoints in a directory, each in `directory/STEP/`.

    A checkpoint has three items: `params`, `rest` (step, optimizer state, carried state) and `progress` (JSON).
    `progress["best_step"]` is the step of the best validation loss so far, or 0 before the first evaluation.

    Arrays are stored in the shapes of one device and are read as host arrays. So a checkpoint of `n` devices in one
    mode can be read by `m` devices in another. With several hosts, each writes the parts that it holds, and each reads
    alone.

    A checkpoint carries the id of its run, its step, and a digest of every array. They are compared when it is read.

    Args:
        directory: the directory of all checkpoints.
        keep: the number of latest checkpoints to keep when writing. With 0 the checkpoints are opened for reading only:
            nothing is created or removed, so a run that is being trained can be read.
        run: the identity that the checkpoints must have; None if no manifest names it.
    """

    def __init__(self, directory: epath.Path, keep: int = 0, run: Identity | None = None):
        self.directory = epath.Path(os.getcwd(), directory)  # Orbax writes only to absolute paths
        self._run = run
        if keep:
            from lm.runs.checkpoint_writer import Writer  # here, as it imports Orbax, which readers do not need

            self._writer = Writer(self.directory, keep, run.id if run else "")
            self.save, self.wait, self.close = self._writer.save, self._writer.wait, self._writer.close

    def steps(self) -> list[int]:
        """Returns the steps of finished checkpoints, ascending.

        A local directory is renamed to its step when it is finished; in a bucket a last file is written then.
        """
        named = directories(self.directory)
        whole = [path for path in named if "://" not in str(path) or (path / "commit_success.txt").exists()]
        return sorted(int(path.name) for path in whole)

    def restore(self, step: int, params: Any, rest: Any | None = None) -> tuple[Any, Any, dict[str, Any]]:
        """Returns (params, rest, progress) of a step.

        Args:
            step: a step of `steps()`.
            params: a tree with the shapes and types of the parameters.
            rest: the same for `rest`; None if it is not needed, and then it is not read.

        Raises:
            UserError: shapes differ, or the checkpoint cannot be read, is damaged or is another run's.
        """
        found = self._restored(step, "params", params)
        return found, None if rest is None else self._restored(step, "rest", rest), self.progress(step)

    def restore_latest(
        self, params: Any, rest: Any, say: Callable[[str], None]
    ) -> tuple[Any, Any, dict[str, Any]] | None:
        """Returns `restore` of the newest readable step, or None if the run has no checkpoints.

        Newer checkpoints that are damaged are reported by `say` and moved to `damaged/STEP` beside the checkpoints.
        They are never deleted.

        Raises:
            UserError: there are checkpoints, but none is readable; then none is moved.
        """
        damaged: list[Damaged] = []
        for step in reversed(self.steps()):
            found, error = None, None
            try:
                found = self.restore(step, params, rest)
            except Damaged as unreadable:
                error = unreadable
            if any(hosts.all_say("damaged" if error else "")):  # all hosts must use the same step
                where, action = str(self.directory / str(step)), "read the error of that host"
                damaged.append(error or Damaged(where, "cannot be read by another host", action))
                continue
            self._set_aside(damaged, say)
            self._writer.remove_old(found[2]["best_step"])
            return found
        if damaged:
            raise damaged[0]
        return None

    def _set_aside(self, damaged: list[Damaged], say: Callable[[str], None]) -> None:
        for error in damaged:
            source = epath.Path(error.where)
            if hosts.is_first():
                folder = self.directory.parent / "damaged"
                folder.mkdir(parents=True, exist_ok=True)
                taken = {path.name for path in folder.iterdir()}
                names = (source.name + suffix for suffix in ("", *(f"-{i}" for i in range(2, len(taken) + 3))))
                target = folder / next(name for name in names if name not in taken)
                source.rename(target)
                say(f"{error.where}: {error.reason}; moved to {target}; the checkpoint before it is used")
        if damaged:
            hosts.meet()
            self._writer.reload()

    def arrays(self, step: int, item: str) -> Any:
        """Returns the item `params` or `rest` of a step as nested dictionaries of host arrays in their saved shapes."""
        opened = self._read(step, lambda: arrays.opened(self.directory / str(step) / item))
        return self._read(step, lambda: arrays.tree_of(self._values(step, item, opened)))

    def progress(self, step: int) -> dict[str, Any]:
        """Returns the counters of a step, e.g. `best_step` and `best_loss`."""
        path, action = self.directory / str(step) / "progress" / "metadata", "move the checkpoint away"

        def read() -> dict[str, Any]:
            found = json_files.read(path, _KIND, _PROGRESS, action)
            known = self._identified(step).get("progress", {}).get("metadata")
            if known not in (None, arrays.digest_of_json(found)):
                raise ValueError("its progress was changed after it was saved, as its digest differs")
            return found

        return self._read(step, read)

    def _restored(self, step: int, item: str, tree: Any) -> Any:
        opened = self._read(step, lambda: arrays.opened(self.directory / str(step) / item))
        leaves, kind = jax.tree_util.tree_flatten_with_path(tree)
        wanted = {arrays.path_of(path): leaf for path, leaf in leaves}
        for path in [*wanted, *(opened.keys() - wanted.keys())]:
            each = [tuple(named[path].shape) if path in named else None for named in (opened, wanted)]
            if each[0] != each[1]:
                there, here = ("is missing" if shape is None else f"has shape {shape}" for shape in each)
                reason = f"{'/'.join(path)} {there}, but in this model it {here}"
                raise UserError(str(self.directory / str(step)), reason, "move it away if it belongs to another run")
        found = self._read(step, lambda: self._values(step, item, opened))
        return jax.tree.unflatten(kind, [np.asarray(found[path], leaf.dtype) for path, leaf in wanted.items()])

    def _values(self, step: int, item: str, opened: Any) -> dict[Path, np.ndarray]:
        """Returns the values of arrays, after the run, the step and the digests of the checkpoint were checked."""
        digests = self._identified(step).get(item, {})
        found = arrays.read(opened)
        for path, array in found.items():
            if digests.get(name := "/".join(path), digest := arrays.digest(array)) != digest:
                raise ValueError(f"{item} {name} was changed after it was saved, as its digest differs")
        return found

    def _identified(self, step: int) -> dict[str, dict[str, int]]:
        """Returns the digests of a checkpoint; raises `Foreign` if it is of another run or of another step."""
        where, path = str(self.directory / str(step)), self.directory / str(step) / "_CHECKPOINT_METADATA"
        may_lack = self._run is None or not self._run.id or step <= self._run.since
        if may_lack and not path.exists():
            return {}
        found = json_files.read(path, _KIND, _METADATA, "move the checkpoint away").get("custom_metadata", {})
        run, saved_at = found.get("run"), found.get("step", step)
        if not may_lack and not run:
            reason = "has no run id, and every checkpoint of this run has one"
            raise Foreign(where, reason, "move it away: only config.training.init_from starts from another run")
        if run and self._run is not None and run != self._run.id:
            reason = "belongs to another run (manifest.json has another id)"
            raise Foreign(where, reason, "move it away: only config.training.init_from starts from another run")
        if saved_at != step:
            raise Foreign(where, f"was saved at step {saved_at}", f"rename it to {saved_at}")
        return found.get("digests", {})

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Foreign:
            raise
        except Exception as error:  # many kinds, e.g. missing files or inconsistent metadata
            where = self.directory / str(step)
            if isinstance(error, UserError):
                said = f"{os.path.relpath(error.where, where)} {error.reason}"
            else:
                said = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
            action = "move it away to use the checkpoint before it, as it is damaged or of another model"
            forbidden = isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error)
            raise (UserError if forbidden else Damaged)(str(where), f"cannot be read ({said})", action) from error


def of_run(workdir: epath.Path, keep: int = 0) -> Checkpoints:
    """Returns the checkpoints of a run; they must have the identity in its manifest."""
    return Checkpoints(workdir / "checkpoints", keep, manifest.identity_of(workdir))


def any_in(directory: epath.Path) -> bool:
    """Returns whether a directory has a finished checkpoint."""
    return bool(directories(directory))


def directories(directory: epath.Path) -> list[epath.Path]:
    """Returns the subdirectories whose name is a step."""
    paths = directory.iterdir() if directory.exists() else ()
    return [path for path in paths if whole(path.name) is not None and path.is_dir()]
