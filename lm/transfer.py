"""Starting from another run: its tokenizer and its parameters."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from lm import checkpoints, workdir
from lm.config import Config
from lm.data import tokenizers
from lm.data.tokenizers import Tokenizer
from lm.errors import UserError
from lm.optimizers import name_of


@dataclasses.dataclass(frozen=True)
class Origin:
    where: str
    tokenizer: Tokenizer
    params: Any  # a tree as the checkpoint holds it


def steps_of(saved: checkpoints.Checkpoints, which: str) -> tuple[list[int], str]:
    """The steps that best, latest, a number or mean:N names, ascending, and what their weights are called."""
    if not which.startswith("mean:"):
        return [checkpoints.resolve(saved, which)], "one step"
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


def origin(config: Config) -> Origin | None:
    """What `config.training.init_from` names, or None."""
    if not config.training.init_from:
        return None
    place, _, which = config.training.init_from.rpartition(":")
    if not place or not (which in ("best", "latest") or which.isdigit()):
        place, which = config.training.init_from, "best"
    directory = epath.Path(place).expanduser()
    workdir.read_config(directory)
    saved = checkpoints.open_to_read(directory / "checkpoints")
    params = saved.restore_params(checkpoints.resolve(saved, which))
    saved.close()
    return Origin(config.training.init_from, tokenizers.load_tokenizer(directory / "tokenizer"), params)


def initialise(params: Any, origin: Origin) -> tuple[Any, dict[str, list[str]]]:
    """`params` with every parameter that the origin also has taken from there, and which were loaded, new, skipped.

    Raises `UserError` where a name is the same and the shape is not.
    """
    theirs = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(origin.params)}
    report: dict[str, list[str]] = {"loaded": [], "new": [], "skipped": []}

    def choose(path, own):
        name = name_of(path)
        if name not in theirs:
            report["new"].append(name)
            return own
        if theirs[name].shape != own.shape:
            what = f"{name} has shape {theirs[name].shape} there and {own.shape} here"
            raise UserError("config.training.init_from", what, "give the model the same widths")
        report["loaded"].append(name)
        return theirs[name]

    chosen = jax.tree_util.tree_map_with_path(choose, params)
    report["skipped"] = sorted(set(theirs) - set(report["loaded"]))
    if not report["loaded"]:
        raise UserError(
            "config.training.init_from", f"{origin.where} has no parameter of this model", "give another run"
        )
    return chosen, report
