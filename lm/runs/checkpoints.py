"""Checkpoints by Orbax: asynchronous, whole or not there, the latest few and the best by validation loss."""

import errno
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import PreservationPolicy
from orbax.checkpoint.options import MultiprocessingOptions

from lm.devices import hosts
from lm.errors import UserError


class _LatestAndBest(PreservationPolicy):
    def __init__(self, keep: int, best_step: int):
        self.keep, self.best_step = keep, best_step

    def superseded(self, steps: Sequence[int]) -> list[int]:
        return [step for step in steps[: -self.keep] if step != self.best_step]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        old = self.superseded([info.step for info in checkpoints])
        return [info.step not in old for info in checkpoints]


class Damaged(UserError):
    """A checkpoint that cannot be read, and not for want of a right to."""


class Checkpoints:
    """`directory/STEP/`: `params`, `rest` (step, optimizer, carried state) and `progress` (JSON).

    Arrays lie there in the shapes of one device, wherever they came from, and are read as host arrays: what `n` devices
    wrote in one mode, `m` read in another. On many hosts all write together, each what it holds, and each reads alone.

    `progress["best_step"]` is the step of the best validation loss so far, 0 if there was no evaluation. With `keep` 0
    they are opened to read: nothing is made or removed, so a run that is being trained can be read from.
    """

    def __init__(self, directory: epath.Path, keep: int = 0):
        self.directory = epath.Path(os.getcwd(), directory)  # Orbax writes to absolute paths only
        if keep:
            self._require_writable()
        self._policy = _LatestAndBest(keep, 0)
        self._manager = self._managed(
            MultiprocessingOptions(),
            preservation_policy=self._policy,
            cleanup_tmp_directories=keep > 0,
            enable_async_checkpointing=keep > 0,
            create=keep > 0,
        )

    def _managed(self, hosts_: MultiprocessingOptions, **options: Any) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(multiprocessing_options=hosts_, **options),
            item_handlers={
                "params": ocp.StandardCheckpointHandler(multiprocessing_options=hosts_),
                "rest": ocp.StandardCheckpointHandler(multiprocessing_options=hosts_),
                "progress": ocp.JsonCheckpointHandler(multiprocessing_options=hosts_),
            },
        )

    @functools.cached_property
    def _reader(self) -> ocp.CheckpointManager:
        """Reads without the other hosts, so that one that cannot read does not leave them waiting."""
        if jax.process_count() == 1:
            return self._manager
        me = jax.process_index()
        alone = MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"alone{me}")
        return self._managed(alone, create=False, enable_async_checkpointing=False)

    def _require_writable(self) -> None:
        """Orbax, where it may not write, says so only after five minutes."""
        if "://" in str(self.directory) or not self.directory.exists():
            return
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.directory))

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: Any, rest: Any, progress: dict[str, Any]) -> None:
        """Returns while the files are being written; an error of the save before this one is raised here."""
        self._policy.best_step = progress["best_step"]
        self._require_writable()
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
        trees = {"params": params} | ({} if rest is None else {"rest": rest})
        self._check_shapes(step, trees)
        items = {name: ocp.args.StandardRestore(jax.tree.map(_hollow, tree)) for name, tree in trees.items()}
        loaded = self._read(step, progress=ocp.args.JsonRestore(), **items)
        return loaded["params"], loaded.get("rest"), loaded["progress"]

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
                where, mend = str(self.directory / str(step)), "see what that host says"
                damaged.append(error or Damaged(where, "cannot be read by another host", mend))
                continue
            self._set_aside(damaged, say)
            self._remove_old(found[2]["best_step"])
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
                say(f"{error.where}: {error.what}; moved to {target}, and the checkpoint before it is used")
        if damaged:
            hosts.meet()
            self._manager.reload()

    def _remove_old(self, best_step: int) -> None:
        """Orbax removes what is not to be kept after a save; where that was cut short by a kill, it is done here."""
        self._policy.best_step = best_step
        for step in self._policy.superseded(self.steps()):
            self._manager.delete(step)

    def restore_params(self, step: int) -> Any:
        """The parameters of a step as they were saved, whatever the model."""
        return self.arrays(step, "params")

    def arrays(self, step: int, item: str) -> Any:
        """`params` or `rest` of a step as they were saved, in dictionaries, whatever wrote them on whichever devices."""
        return self._read(step, **{item: ocp.args.StandardRestore(jax.tree.map(_hollow, self._shapes(step, item)))})[
            item
        ]

    def progress(self, step: int) -> dict[str, Any]:
        return self._read(step, progress=ocp.args.JsonRestore())["progress"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            found = self._reader.restore(step, args=ocp.args.Composite(**items))
            if "progress" in items and not isinstance(found["progress"]["best_step"], int):
                raise ValueError("its progress has no best_step")
            return found
        except Exception as error:  # Orbax raises many kinds, from files missing to arrays that do not fit
            raise self._unreadable(step, error) from error

    def _shapes(self, step: int, item: str) -> Any:
        """What the arrays of an item are, before any memory is taken for them."""
        try:
            found = self._reader.item_metadata(step)[item]
            return getattr(found, "tree", found)
        except Exception as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        what = f"cannot be read ({type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]})"
        mend = "it is damaged or of another model: move it away to use the one before it"
        kind = UserError if isinstance(error, PermissionError) else Damaged
        return kind(str(self.directory / str(step)), what, mend)

    def _check_shapes(self, step: int, trees: dict[str, Any]) -> None:
        for item, wanted in trees.items():
            named = lambda tree: {
                jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            }
            want, got = named(wanted), named(self._shapes(step, item))
            for name in [*want, *(got.keys() - want.keys())]:
                if want.get(name) != got.get(name):
                    shapes = [f"has shape {each[name]}" if name in each else "is not there" for each in (got, want)]
                    what = f"{name} {shapes[0]}, in this model it {shapes[1]}"
                    raise UserError(str(self.directory / str(step)), what, "it is another run's: move it away")

    def wait(self) -> None:
        """Until the last save is on disk."""
        with _writing(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with _writing(self.directory):
            self._manager.close()


def _hollow(leaf: Any) -> np.ndarray:
    """Shape and type of an array, without its memory."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


class _writing:
    """Turns whatever Orbax raises while writing into one line."""

    def __init__(self, where: epath.Path):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, UserError):
            if lost := hosts.lost(error):
                raise lost from error
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
