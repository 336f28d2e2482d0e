"""Writes and reads the tokenizer of a run."""

import json
from typing import Any

from etils import epath

from lm import files, json_files
from lm.data.text.tokenizers.subwords import SentencePiece
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.data.text.tokenizers.vocabulary import Bytes, Vocabulary
from lm.errors import UserError

_FORM = {
    "version": int,
    "kind": str,
    "fingerprint": str,
    "pieces?": [str],
    "sentinels?": int,
    "added?": [str],
    "multiple_of?": int,
}
_MOST = 2**24  # the largest number of sentinels, and the largest `multiple_of`


def save_tokenizer(tokenizer: Tokenizer, directory: epath.PathLike) -> None:
    """Writes a tokenizer to `tokenizer.json`, and for SentencePiece also to `tokenizer.model`."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    record = {"version": 1, "kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint}
    extras = {"sentinels": tokenizer.sentinels, "added": tokenizer.added, "multiple_of": tokenizer.multiple_of}
    record |= {name: value for name, value in extras.items() if value != getattr(Tokenizer, name)}
    if isinstance(tokenizer, SentencePiece):
        (directory / "tokenizer.model").write_bytes(tokenizer.model)
    if isinstance(tokenizer, Vocabulary):
        record["pieces"] = tokenizer.known
    (directory / "tokenizer.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(directory: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer that `save_tokenizer` wrote; raises `UserError` if it is missing or was changed."""
    path = epath.Path(directory) / "tokenizer.json"
    if not path.exists():
        action = "put it back, or name the directory of a run"
        raise UserError(str(path), "no such file", action)
    damaged = UserError(str(path), "is damaged, or of another version", "restore it, or start a new run")
    try:
        record = json_files.parsed(files.read_text(path, "tokenizer"), _FORM)
        if record["version"] != 1:
            raise damaged
        kind, fingerprint = record["kind"], record["fingerprint"]
        extras = {name: record.get(name, getattr(Tokenizer, name)) for name in ("sentinels", "added", "multiple_of")}
        extras["added"] = tuple(extras["added"])
        if not (0 <= extras["sentinels"] <= _MOST and 1 <= extras["multiple_of"] <= _MOST):
            raise damaged
        if kind == "bytes":
            tokenizer = Bytes(**extras)
        elif kind in ("characters", "words"):
            if kind == "characters" and {*map(len, record["pieces"])} != {1}:
                raise damaged
            tokenizer = Vocabulary(kind, tuple(record["pieces"]), **extras)
        elif kind in ("unigram", "bpe", "sentencepiece"):
            path = path.parent / "tokenizer.model"
            tokenizer = read_model(kind, path, extras)
        else:
            raise damaged
    except (ValueError, KeyError):
        raise damaged from None
    if tokenizer.fingerprint != fingerprint:
        reason = "was changed after it was saved (its fingerprint differs)"
        raise UserError(str(path), reason, "restore it, or start a new run")
    return tokenizer


def read_model(kind: str, path: epath.Path, extras: dict[str, Any]) -> SentencePiece:
    """Returns the SentencePiece model in a file; raises `UserError` if it cannot be read."""
    try:
        return SentencePiece(kind, files.read(path, "tokenizer"), **extras)
    except (OSError, ImportError) as error:  # ImportError: a path in a bucket, without the package for it
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(str(path), reason, "check the path of the SentencePiece model") from None
    except RuntimeError:
        raise UserError(str(path), "is not a SentencePiece model", "give a complete file of spm_train") from None
