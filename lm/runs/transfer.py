"""Starting from another run, its tokenizer and its parameters; or from word vectors."""

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
VOCABULARY_AXIS = {EMBEDDING: 0, "head_kernel": 1, "head_bias": 0}  # of the parameters that have one


@dataclasses.dataclass(frozen=True)
class Origin:
    where: str
    tokenizer: Tokenizer
    params: Any  # a tree as the checkpoint holds it, adapters merged and rows of new ids added
    patterns: tuple[str, ...] = ()  # as `config.training.init_params`
    skip_misfits: bool = False  # parameters of another shape are not an error
    new_ids: int = 0  # that the tokenizer has here and had not there


def origin(config: Config) -> Origin | None:
    """What `config.training.init_from` names, or None."""
    training = config.training
    if not training.init_from:
        for name, given in (
            ("training.init_params", training.init_params),
            ("training.init_mismatch", training.init_mismatch == "skip"),
            ("model.lora_rank", config.model.lora_rank),
        ):
            if given:
                reason, action = "there is no run to load from", "give config.training.init_from"
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
    """`params` with what adapters learnt in the kernels, and no adapters: the same model without LoRA."""
    flat = flatten_dict(params, sep="/")
    a, b = ({name.removesuffix(end): leaf for name, leaf in flat.items() if name.endswith(end)} for end in LORA)
    plain = {name: leaf for name, leaf in flat.items() if not name.endswith(LORA)}
    plain |= {name: np.asarray(adapted(flat[name], a[name], b[name], alpha)) for name in a}
    return unflatten_dict(plain, sep="/")


def grown(params: Any, old: Tokenizer, new: Tokenizer) -> Any:
    """`params` of a vocabulary with rows for the pieces that `new` adds to `old`: the mean of the old rows.

    With any other start a new piece may be likelier than all that was learnt; from the mean the old probabilities lose a
    factor of at most `1 + pieces / vocabulary` (Hewitt, 2021, "Initializing new word embeddings for pretrained language
    models").
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
    """`params` with the vectors of a file as embeddings of the pieces that are its words, and how many those are.

    A piece is the word that it is without the space before it.
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
        notes = [f"of {there}"] * (there != name)
        notes += [f"{origin.new_ids} rows new"] * (origin.new_ids > 0 and there in VOCABULARY_AXIS)
        report["loaded"].append(name + f" ({', '.join(notes)})" * bool(notes))
        return theirs[there]

    chosen = jax.tree_util.tree_map_with_path(choose, params)
    if misfits and not origin.skip_misfits:
        reason = misfits[0][1] + (f", and {len(misfits) - 1} more" if len(misfits) > 1 else "")
        action = "give the model the same widths, or config.training.init_mismatch=skip"
        raise UserError("config.training.init_from", reason, action)
    because = dict(misfits)
    report["skipped"] = [because.get(name, name) for name in sorted(set(theirs) - used)]
    for pattern, count in zip(origin.patterns, loaded_by, strict=False):
        if not count:
            reason = f"{pattern!r} finds no parameter of {origin.where} for one of this model"
            raise UserError("config.training.init_params", reason, f"names there: {', '.join(sorted(theirs))}")
    if not report["loaded"]:
        raise UserError(
            "config.training.init_from", f"{origin.where} has no parameter of this model", "give another run"
        )
    return chosen, report


def _expanded(match: re.Match, there: str) -> str:
    try:
        return match.expand(there)
    except (re.error, IndexError) as error:
        action = "write e.g. decoder/\\1, with as many groups as the pattern has"
        raise UserError("config.training.init_params", f"{there!r} is no name ({error})", action) from None
