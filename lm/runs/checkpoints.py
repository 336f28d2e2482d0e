"""A run's checkpoints: which there are, what they hold, and which of them best, latest, a step or a mean is."""

import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from lm.devices import hosts
from lm.errors import UserError
from lm.runs import arrays


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
            from lm.runs.checkpoint_writer import Writer  # Orbax, of which those that only read have no use

            self._writer = Writer(self.directory, keep)
            self.save, self.wait, self.close = self._writer.save, self._writer.wait, self._writer.close

    def steps(self) -> list[int]:
        """The steps whose checkpoints are whole: a directory gets its name last, in a bucket a file is written last."""
        named = _named(self.directory)
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
                where, mend = str(self.directory / str(step)), "see what that host says"
                damaged.append(error or Damaged(where, "cannot be read by another host", mend))
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
                say(f"{error.where}: {error.what}; moved to {target}, and the checkpoint before it is used")
        if damaged:
            hosts.meet()
            self._writer.reload()

    def arrays(self, step: int, item: str) -> Any:
        """`params` or `rest` of a step as they were saved, in dictionaries, whatever wrote them on whichever devices."""
        return self._read(step, lambda: arrays.tree_of(arrays.read(arrays.opened(self.directory / str(step) / item))))

    def progress(self, step: int) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            found = json.loads((self.directory / str(step) / "progress" / "metadata").read_text(encoding="utf-8"))
            if not isinstance(found["best_step"], int):
                raise ValueError("its progress has no best_step")
            return found

        return self._read(step, read)

    def _restored(self, step: int, item: str, tree: Any) -> Any:
        opened = self._read(step, lambda: arrays.opened(self.directory / str(step) / item))
        leaves, kind = jax.tree_util.tree_flatten_with_path(tree)
        # The keys of dictionaries, sequences and named tuples, as Orbax writes them.
        name = lambda path: tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        wanted = {name(path): leaf for path, leaf in leaves}
        for path in [*wanted, *(opened.keys() - wanted.keys())]:
            each = [tuple(named[path].shape) if path in named else None for named in (opened, wanted)]
            if each[0] != each[1]:
                there, here = ("is not there" if shape is None else f"has shape {shape}" for shape in each)
                what = f"{'/'.join(path)} {there}, in this model it {here}"
                raise UserError(str(self.directory / str(step)), what, "it is another run's: move it away")
        found = self._read(step, lambda: arrays.read(opened))
        return jax.tree.unflatten(kind, [np.asarray(found[path], leaf.dtype) for path, leaf in wanted.items()])

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # many kinds, from files missing to arrays that do not fit
            what = f"cannot be read ({type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]})"
            mend = "it is damaged or of another model: move it away to use the one before it"
            forbidden = isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error)
            raise (UserError if forbidden else Damaged)(str(self.directory / str(step)), what, mend) from error


def open_to_read(directory: epath.Path) -> Checkpoints:
    """The checkpoints of a run; raises `UserError` where none was finished."""
    if not any_in(directory):
        raise UserError(str(directory), "holds no checkpoint yet", "train first, or wait for the first one")
    return Checkpoints(directory)


def any_in(directory: epath.Path) -> bool:
    """Whether a checkpoint was ever finished there."""
    return bool(_named(directory))


def _named(directory: epath.Path) -> list[epath.Path]:
    """The directories there whose name is a step."""
    paths = directory.iterdir() if directory.exists() else ()
    is_step = lambda name: name.isascii() and name.isdecimal() and name == str(int(name))
    return [path for path in paths if is_step(path.name) and path.is_dir()]


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


def steps_of(saved: Checkpoints, which: str) -> tuple[list[int], str]:
    """The steps that best, latest, a number or mean:N names, ascending, and what their weights are called."""
    if not which.startswith("mean:"):
        return [resolve(saved, which)], "one step"
    count, steps = which.removeprefix("mean:"), saved.steps()
    if not count.isdecimal() or not 0 < int(count) <= len(steps):
        what = f"{which!r} is no mean of the checkpoints {', '.join(map(str, steps))}"
        mend = f"give mean:1 to mean:{len(steps)}, or keep more: config.training.keep_checkpoints"
        raise UserError("--checkpoint", what, mend)
    chosen = steps[-int(count) :]
    return chosen, f"mean of {'+'.join(map(str, chosen))}"


def mean(trees: list[Any]) -> Any:
    """Parameter by parameter, float32 (Polyak and Juditsky, 1992; of checkpoints: Vaswani et al., 2017, section 6.1)."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype), *trees)
