"""Starting from another run: its tokenizer and its parameters."""

import dataclasses
import re
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
    patterns: tuple[str, ...] = ()  # as `config.training.init_params`
    skip_misfits: bool = False  # parameters of another shape are not an error


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
    training = config.training
    if not training.init_from:
        for name, given in (("init_params", training.init_params), ("init_mismatch", training.init_mismatch == "skip")):
            if given:
                raise UserError(f"config.training.{name}", "there is no run to load from", "give init_from")
        return None
    named = re.fullmatch(r"(.+?):(best|latest|\d+|mean:\d+)", training.init_from)
    place, which = named.groups() if named else (training.init_from, "best")
    directory = epath.Path(place).expanduser()
    workdir.read_config(directory)
    saved = checkpoints.open_to_read(directory / "checkpoints")
    params = mean([saved.restore_params(step) for step in steps_of(saved, which)[0]])
    saved.close()
    tokenizer = tokenizers.load_tokenizer(directory / "tokenizer")
    return Origin(training.init_from, tokenizer, params, tuple(training.init_params), training.init_mismatch == "skip")


def initialise(params: Any, origin: Origin) -> tuple[Any, dict[str, list[str]]]:
    """`params` with those that the origin's rules name taken from there, and which were loaded, new, skipped.

    New are parameters of this model that keep their initial values, skipped are those of the origin that are not used.
    A parameter is loaded by the first pattern that its name matches whole.

    Raises:
        UserError: a pattern loads nothing, or a shape is another and is not to be skipped.
    """
    theirs = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(origin.params)}
    rules = [pattern.partition("=>")[::2] for pattern in origin.patterns] or [(".*", "")]
    report: dict[str, list[str]] = {"loaded": [], "new": [], "skipped": []}
    used, loaded_by, misfits = set(), [0] * len(rules), []

    def source_of(name: str) -> tuple[int, str]:
        """The first rule that matches, and the name that it gives."""
        for number, (pattern, there) in enumerate(rules):
            if match := re.fullmatch(pattern, name):
                return number, _expanded(match, there) if there else name
        return -1, ""

    def choose(path, own):
        name = name_of(path)
        rule, there = source_of(name)
        if there not in theirs:
            report["new"].append(name)
            return own
        loaded_by[rule] += 1
        if theirs[there].shape != own.shape:
            misfits.append((there, f"{there} has shape {theirs[there].shape} there and {own.shape} here"))
            report["new"].append(name)
            return own
        used.add(there)
        report["loaded"].append(name if there == name else f"{name} (of {there})")
        return theirs[there]

    chosen = jax.tree_util.tree_map_with_path(choose, params)
    if misfits and not origin.skip_misfits:
        what = misfits[0][1] + (f", and {len(misfits) - 1} more" if len(misfits) > 1 else "")
        mend = "give the model the same widths, or config.training.init_mismatch=skip"
        raise UserError("config.training.init_from", what, mend)
    because = dict(misfits)
    report["skipped"] = [because.get(name, name) for name in sorted(set(theirs) - used)]
    for pattern, count in zip(origin.patterns, loaded_by, strict=False):
        if not count:
            what = f"{pattern!r} finds no parameter of {origin.where} for one of this model"
            raise UserError("config.training.init_params", what, f"names there: {', '.join(sorted(theirs))}")
    if not report["loaded"]:
        raise UserError(
            "config.training.init_from", f"{origin.where} has no parameter of this model", "give another run"
        )
    return chosen, report


def _expanded(match: re.Match, there: str) -> str:
    try:
        return match.expand(there)
    except (re.error, IndexError) as error:
        raise UserError("config.training.init_params", f"{there!r} is no name ({error})", "mend it") from None
