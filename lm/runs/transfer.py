"""Starting a run from the tokenizer and the parameters of another run, or from word vectors."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.config import Config
from lm.data.read.paths import path_of
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.layers.recurrent import LORA, adapted
from lm.models.inputs import factor
from lm.models.names import name_of
from lm.runs import chosen, vectors, workdir

EMBEDDING = "embedding/embedding"
VOCABULARY_AXIS = {EMBEDDING: 0, "head_kernel": 1, "head_bias": 0}  # axis of the vocabulary, by parameter


@dataclasses.dataclass(frozen=True)
class Origin:
    """The run that another run starts from."""

    where: str  # the value of `config.training.init_from`
    tokenizer: Tokenizer
    params: Any  # as in the checkpoint, with adapters merged and rows for new ids added
    patterns: tuple[str, ...] = ()  # the value of `config.training.init_params`
    skip_misfits: bool = False  # whether parameters of another shape are skipped
    new_ids: int = 0  # number of ids that were added to the tokenizer


def origin(config: Config) -> Origin | None:
    """Returns the run that `config.training.init_from` names, or None.

    Raises:
        UserError: the run cannot be read, or fields that need `init_from` are given without it.
    """
    training = config.training
    if not training.init_from:
        for name, given in (
            ("training.init_params", training.init_params),
            ("training.init_mismatch", training.init_mismatch == "skip"),
            ("model.lora_rank", config.model.lora_rank),
        ):
            if given:
                reason, action = "needs a run to start from", "give config.training.init_from"
                raise UserError(f"config.{name}", reason, action)
        return None
    named = re.fullmatch(r"(.+?):(best|latest|\d+|mean:\d+)", training.init_from)
    place, which = named.groups() if named else (training.init_from, "best")
    directory = epath.Path(place).expanduser()
    alpha = workdir.read_config(directory).model.lora_alpha
    params = chosen.read(directory, which, lambda saved, step: merged(saved.arrays(step, "params"), alpha))[2]
    theirs = workdir.read_tokenizer(directory)
    tokenizer = theirs.extended(config.data.tokenizer.pieces, config.data.tokenizer.sentinels)
    new = tokenizer.unused.start - theirs.unused.start
    params = grown(params, theirs, tokenizer) if new else params
    rules = tuple(training.init_params)
    return Origin(training.init_from, tokenizer, params, rules, training.init_mismatch == "skip", new)


def merged(params: Any, alpha: float) -> Any:
    """Returns `params` with LoRA adapters merged into the kernels: the same model without adapters."""
    flat = flatten_dict(params, sep="/")
    a, b = ({name.removesuffix(end): leaf for name, leaf in flat.items() if name.endswith(end)} for end in LORA)
    plain = {name: leaf for name, leaf in flat.items() if not name.endswith(LORA)}
    plain |= {name: np.asarray(adapted(flat[name], a[name], b[name], alpha)) for name in a}
    return unflatten_dict(plain, sep="/")


def grown(params: Any, old: Tokenizer, new: Tokenizer) -> Any:
    """Returns `params` with rows for the pieces that the tokenizer `new` adds to `old`: the mean of the old rows.

    With other initial values a new piece may become more likely than all known pieces. With the mean, the old
    probabilities shrink by a factor of at most `1 + pieces / vocabulary` (Hewitt, 2021, "Initializing new word
    embeddings for pretrained language models").
    """
    flat = flatten_dict(params, sep="/")
    for name in VOCABULARY_AXIS.keys() & flat.keys():
        axis = VOCABULARY_AXIS[name]
        rows = np.moveaxis(np.asarray(flat[name]), axis, 0)
        known = rows[: old.unused.start]
        filled = np.broadcast_to(known.mean(axis=0), (new.vocab_size, *rows.shape[1:])).copy()
        filled[: len(known)] = known
        flat[name] = np.moveaxis(filled, 0, axis)
    return unflatten_dict(flat, sep="/")


def with_word_vectors(params: Any, tokenizer: Tokenizer, name: str) -> tuple[Any, int]:
    """Returns `params` with embeddings from a file of word vectors, and the number of pieces that got one.

    A piece gets the vector of the word that it is without the space before it.

    Raises:
        UserError: the file cannot be read, or has no word of the vocabulary.
    """
    flat = flatten_dict(params, sep="/")
    table_vd = np.array(flat[EMBEDDING])
    words = [piece.removeprefix("\u2581").removeprefix(" ") for piece in tokenizer.pieces(range(len(table_vd)))]
    found = vectors.read(path_of(name), table_vd.shape[1], frozenset(words))
    if not found:
        raise UserError("config.training.word_vectors", f"{name} has no word of the vocabulary", "give another file")
    rows = [i for i, word in enumerate(words) if word in found]
    table_vd[rows] = np.array([found[words[i]] for i in rows]) / factor(table_vd.shape[1])
    return unflatten_dict(flat | {EMBEDDING: table_vd}, sep="/"), len(rows)


def initialise(params: Any, origin: Origin) -> tuple[Any, dict[str, list[str]]]:
    """Returns `params` with values of the origin, and a report of the parameters that were loaded, new or skipped.

    A parameter is loaded by the first pattern that matches its whole name. New parameters keep their initial values.
    Skipped parameters of the origin are not used.

    Raises:
        UserError: a pattern loads nothing, or a parameter has another shape and is not to be skipped.
    """
    theirs = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(origin.params)}
    rules = [pattern.partition("=>")[::2] for pattern in origin.patterns] or [(".*", "")]
    report: dict[str, list[str]] = {"loaded": [], "new": [], "skipped": []}
    used, loaded_by, misfits = set(), [0] * len(rules), []

    def source_of(name: str) -> tuple[int, str]:
        """Returns the number of the first rule that matches, and the name of the parameter in the origin."""
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
        notes = [f"from {there}"] * (there != name)
        notes += [f"{origin.new_ids} new ids"] * (origin.new_ids > 0 and there in VOCABULARY_AXIS)
        report["loaded"].append(name + f" ({', '.join(notes)})" * bool(notes))
        return theirs[there]

    chosen = jax.tree_util.tree_map_with_path(choose, params)
    if misfits and not origin.skip_misfits:
        reason = misfits[0][1] + (f", and {len(misfits) - 1} more" if len(misfits) > 1 else "")
        action = "give the model the same dimensions, or set config.training.init_mismatch=skip"
        raise UserError("config.training.init_from", reason, action)
    because = dict(misfits)
    report["skipped"] = [because.get(name, name) for name in sorted(set(theirs) - used)]
    for pattern, count in zip(origin.patterns, loaded_by, strict=False):
        if not count:
            reason = f"{pattern!r} loads no parameter of {origin.where} into this model"
            raise UserError(
                "config.training.init_params", reason, f"choose from the names there: {', '.join(sorted(theirs))}"
            )
    if not report["loaded"]:
        raise UserError(
            "config.training.init_from", f"{origin.where} has no parameter of this model", "give another run"
        )
    return chosen, report


def _expanded(match: re.Match, there: str) -> str:
    try:
        return match.expand(there)
    except (re.error, IndexError) as error:
        action = "write e.g. decoder/\\1, and refer only to groups of the pattern"
        raise UserError("config.training.init_params", f"{there!r} is not a name ({error})", action) from None
