"""Word vectors from a text file: `word v1 v2 ...` a line, as GloVe, word2vec and fastText write them."""

from collections.abc import Collection

import numpy as np
from etils import epath

from lm.data.read import text_files
from lm.errors import UserError
from lm.numbers import whole


def read(path: epath.Path, dim: int, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The vectors, float32 [dim], of the wanted words that the file has; of a word that comes twice the first.

    A first line `count dim` is a header. Words may hold spaces. Numbers are read of wanted words alone.

    Raises:
        UserError: the file cannot be read, has another dimension or number of vectors than it should, or a line is
            malformed.
    """
    found: dict[str, np.ndarray] = {}
    stated, number = None, 0

    def check_dim(size: int) -> None:
        if size != dim:
            reason = f"its vectors have {size} numbers, config.model.embed_dim is {dim}"
            raise UserError(str(path), reason, f"set config.model.embed_dim={size}, or give another file")

    def malformed(reason: str) -> UserError:
        return UserError(f"{path}:{number}", reason, "write `word v1 v2 ...`, with single spaces between")

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
            raise malformed(f"has {len(fields) - 1} numbers where there must be {dim}")
        if word not in wanted or word in found:
            continue
        for field in fields[-dim:]:
            if not _number(field):
                raise malformed(f"{field[:20]!r} is no finite number")
        found[word] = np.array([*map(float, fields[-dim:])], np.float32)
    if stated is not None and stated != number - 1:
        reason = f"holds {number - 1:,} vectors, its first line says {stated:,}"
        raise UserError(str(path), reason, "fetch the file again, or correct its first line")
    return found


def _number(text: str) -> bool:
    """Whether it is finite in float32."""
    try:
        return bool(abs(float(text)) <= float(np.finfo(np.float32).max))
    except ValueError:
        return False
