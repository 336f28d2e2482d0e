"""Reading word vectors from a text file, `word v1 v2 ...` on each line, as GloVe, word2vec and fastText write it."""

from collections.abc import Collection

import numpy as np
from etils import epath

from lm.data.read import text_files
from lm.errors import UserError
from lm.numbers import whole


def read(path: epath.Path, dim: int, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the vectors, float32 [dim], of the wanted words that are in the file.

    If a word comes twice, its first vector is used. A first line `count dim` is a header. Words may have spaces.
    Numbers of other words are not parsed.

    Raises:
        UserError: the file cannot be read, its vectors have another dimension, their number is not that of the header,
            or a line is malformed.
    """
    found: dict[str, np.ndarray] = {}
    stated, number = None, 0

    def check_dim(size: int) -> None:
        if size != dim:
            reason = f"has vectors of {size} numbers, but config.model.embed_dim is {dim}"
            raise UserError(str(path), reason, f"set config.model.embed_dim={size}, or give another file")

    def malformed(reason: str) -> UserError:
        return UserError(f"{path}:{number}", reason, "write `word v1 v2 ...` with single spaces")

    for number, line in enumerate(text_files.lines(path), start=1):
        fields = line.rstrip(" ").split(" ")
        if number == 1 and dim != 1 and len(fields) == 2 and None not in (header := list(map(whole, fields))):
            stated = header[0]
            check_dim(header[1])
            continue
        if number == 1 and len(fields) > 2:
            check_dim(len(fields) - 1)
        word, extra = " ".join(fields[:-dim]), fields[1:-dim]
        if len(fields) <= dim or (extra and all(map(_number, extra))):
            raise malformed(f"has {len(fields) - 1} numbers instead of {dim}")
        if word not in wanted or word in found:
            continue
        for field in fields[-dim:]:
            if not _number(field):
                raise malformed(f"has {field[:20]!r} instead of a finite number")
        found[word] = np.array([*map(float, fields[-dim:])], np.float32)
    if stated is not None and stated != number - 1:
        reason = f"has {number - 1:,} vectors, but its first line says {stated:,}"
        raise UserError(str(path), reason, "download the file again, or correct its first line")
    return found


def _number(text: str) -> bool:
    """Returns whether a text is a number that is finite in float32."""
    try:
        return bool(abs(float(text)) <= float(np.finfo(np.float32).max))
    except ValueError:
        return False
