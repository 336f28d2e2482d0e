"""A run's checkpoints: which there are, and what they hold."""

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
# Orbax's own file about a checkpoint, which has what we add in `custom_metadata`.
_METADATA = {"custom_metadata?": {"run?": str, "step?": int, "digests?": {str: {str: int}}}}


class Damaged(UserError):
    """A checkpoint that cannot be read, and not for want of a right to."""


class Foreign(UserError):
    """A checkpoint of another run, or with another step's name."""


class Checkpoints:
    """`directory/STEP/`: `params`, `rest` (step, optimizer, carried state) and `progress` (JSON).

    Arrays lie there in the shapes of one device, wherever they came from, and are read as host arrays: what `n` devices
    wrote in one mode, `m` read in another. On many hosts all write together, each what it holds, and each reads alone.

    `progress["best_step"]` is the step of the best validation loss so far, 0 if there was no evaluation. With `keep` 0
    they are opened to read: nothing is made or removed, so a run that is being trained can be read from.

    Each carries the id of its run, its step, and the digest of every array; what is read must agree with them. `run` is
    the identity that they must have, None where no manifest names it.
    """

    def __init__(self, directory: epath.Path, keep: int = 0, run: Identity | None = None):
        self.directory = epath.Path(os.getcwd(), directory)  # Orbax writes to absolute paths only
        self._run = run
        if keep:
            from lm.runs.checkpoint_writer import Writer  # Orbax, of which those that only read have no use

            self._writer = Writer(self.directory, keep, run.id if run else "")
            self.save, self.wait, self.close = self._writer.save, self._writer.wait, self._writer.close

    def steps(self) -> list[int]:
        """The steps whose checkpoints are whole: a directory gets its name last, in a bucket a file is written last."""
        named = directories(self.directory)
        whole = [path for path in named if "://" not in str(path) or (path / "commit_success.txt").exists()]
        return sorted(int(path.name) for path in whole)

    def restore(self, step: int, params: Any, rest: Any | None = None) -> tuple[Any, Any, dict[str, Any]]:
        """(params, rest, progress) of a step, shaped and typed like the given trees; `rest` None is not read."""
        found = self._restored(step, "params", params)
        return found, None if rest is None else self._restored(step, "rest", rest), self.progress(step)

    def restore_latest(
        self, params: Any, rest: Any, say: Callable[[str], None]
    ) -> tuple[Any, Any, dict[str, Any]] | None:
        """`restore` of the newest step that can be read, or None where no step was ever saved.

        What is newer and damaged is named, and moved to `damaged/STEP` beside the checkpoints: never deleted. Raises
        `UserError` if none can be read, and moves nothing then.
        """
        damaged: list[Damaged] = []
        for step in reversed(self.steps()):
            found, error = None, None
            try:
                found = self.restore(step, params, rest)
            except Damaged as unreadable:
                error = unreadable
            if any(hosts.all_say("damaged" if error else "")):  # all hosts take the same step
                where, action = str(self.directory / str(step)), "see what that host says"
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
                say(f"{error.where}: {error.reason}; moved to {target}, and the checkpoint before it is used")
        if damaged:
            hosts.meet()
            self._writer.reload()

    def arrays(self, step: int, item: str) -> Any:
        """`params` or `rest` of a step as they were saved, in dictionaries, whatever wrote them on whichever devices."""
        opened = self._read(step, lambda: arrays.opened(self.directory / str(step) / item))
        return self._read(step, lambda: arrays.tree_of(self._values(step, item, opened)))

    def progress(self, step: int) -> dict[str, Any]:
        """What was counted up to a step."""
        path, action = self.directory / str(step) / "progress" / "metadata", "move the checkpoint away"

        def read() -> dict[str, Any]:
            found = json_files.read(path, _KIND, _PROGRESS, action)
            known = self._identified(step).get("progress", {}).get("metadata")
            if known not in (None, arrays.digest_of_json(found)):
                raise ValueError("its progress is not what was saved, as its digest differs")
            return found

        return self._read(step, read)

    def _restored(self, step: int, item: str, tree: Any) -> Any:
        opened = self._read(step, lambda: arrays.opened(self.directory / str(step) / item))
        leaves, kind = jax.tree_util.tree_flatten_with_path(tree)
        wanted = {arrays.path_of(path): leaf for path, leaf in leaves}
        for path in [*wanted, *(opened.keys() - wanted.keys())]:
            each = [tuple(named[path].shape) if path in named else None for named in (opened, wanted)]
            if each[0] != each[1]:
                there, here = ("is not there" if shape is None else f"has shape {shape}" for shape in each)
                reason = f"{'/'.join(path)} {there}, in this model it {here}"
                raise UserError(str(self.directory / str(step)), reason, "it is another run's: move it away")
        found = self._read(step, lambda: self._values(step, item, opened))
        return jax.tree.unflatten(kind, [np.asarray(found[path], leaf.dtype) for path, leaf in wanted.items()])

    def _values(self, step: int, item: str, opened: Any) -> dict[Path, np.ndarray]:
        """The values of arrays, once it is known whose they are and that they are as they were saved."""
        digests = self._identified(step).get(item, {})
        found = arrays.read(opened)
        for path, array in found.items():
            if digests.get(name := "/".join(path), digest := arrays.digest(array)) != digest:
                raise ValueError(f"{item} {name} is not what was saved, as its digest differs")
        return found

    def _identified(self, step: int) -> dict[str, dict[str, int]]:
        """The digests of a checkpoint; raises `UserError` for one of another run, or of another step."""
        where, path = str(self.directory / str(step)), self.directory / str(step) / "_CHECKPOINT_METADATA"
        may_lack = self._run is None or not self._run.id or step <= self._run.since
        if may_lack and not path.exists():
            return {}
        found = json_files.read(path, _KIND, _METADATA, "move the checkpoint away").get("custom_metadata", {})
        run, saved_at = found.get("run"), found.get("step", step)
        if not may_lack and not run:
            reason = "does not say which run it is of, as every checkpoint of this run does"
            raise Foreign(where, reason, "move it away: only config.training.init_from starts from another run")
        if run and self._run is not None and run != self._run.id:
            reason = "is another run's checkpoint (its id is not that of manifest.json)"
            raise Foreign(where, reason, "move it away: only config.training.init_from starts from another run")
        if saved_at != step:
            raise Foreign(where, f"was saved at step {saved_at}", f"give it its name again, {saved_at}")
        return found.get("digests", {})

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Foreign:
            raise
        except Exception as error:  # many kinds, from files missing to arrays that do not fit
            where = self.directory / str(step)
            if isinstance(error, UserError):
                said = f"{os.path.relpath(error.where, where)} {error.reason}"
            else:
                said = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
            action = "it is damaged or of another model: move it away to use the one before it"
            forbidden = isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error)
            raise (UserError if forbidden else Damaged)(str(where), f"cannot be read ({said})", action) from error


def of_run(workdir: epath.Path, keep: int = 0) -> Checkpoints:
    """The checkpoints of a run, which must have its identity."""
    return Checkpoints(workdir / "checkpoints", keep, manifest.identity_of(workdir))


def any_in(directory: epath.Path) -> bool:
    """Whether a checkpoint was ever finished there."""
    return bool(directories(directory))


def directories(directory: epath.Path) -> list[epath.Path]:
    """The directories there whose name is a step."""
    paths = directory.iterdir() if directory.exists() else ()
    return [path for path in paths if whole(path.name) is not None and path.is_dir()]
