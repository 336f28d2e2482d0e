"""Tokenizers with a plain list of pieces: bytes, characters and words."""

import dataclasses
import functools
import json
import re

import numpy as np

from lm.batch import UNK
from lm.data.text.tokenizers.tokenizer import SPECIALS, UNKNOWN, Tokenizer


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
    """A tokenizer whose ids are the bytes of UTF-8, after the special ids."""

    kind: str = "bytes"

    @property
    def own_size(self) -> int:
        return len(SPECIALS) + 256

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + len(SPECIALS)

    def _content(self) -> bytes:
        return b""

    def _decode(self, ids: list[int]) -> str:
        unknown = UNKNOWN.encode()
        coded = (bytes([i - len(SPECIALS)]) if i >= len(SPECIALS) else unknown * (i == UNK) for i in ids)
        return b"".join(coded).decode(errors="replace")

    def _piece(self, i: int) -> str:
        return byte_piece(i - len(SPECIALS)) if i >= len(SPECIALS) else SPECIALS[i]


UTF8_SIZES = (0x80, 0x800, 0x10000)  # the first code points of two, three and four bytes


def byte_piece(byte: int) -> str:
    """Returns the name of a byte: its character if it is visible ASCII, else e.g. `<0x0A>`."""
    return chr(byte) if 0x20 < byte < 0x7F else f"<0x{byte:02X}>"


@dataclasses.dataclass(frozen=True)
class Vocabulary(Tokenizer):
    """A tokenizer with a list of characters or words."""

    kind: str
    known: tuple[str, ...]  # the characters or words, from id 4 on

    @property
    def own_size(self) -> int:
        return len(SPECIALS) + len(self.known)

    @property
    def _uncut(self) -> frozenset[str]:
        return super()._uncut.union(self.known)

    def _encode(self, text: str) -> np.ndarray:
        if self.kind == "words":
            ids = self._ids
            return np.fromiter((ids.get(word, UNK) for word in words_of(text)), np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]

    def _unknown_bytes(self, text: str) -> int:
        if self.kind == "words":
            return sum(len(word.encode()) for word in words_of(text) if word not in self._ids)
        sizes = np.digitize(np.frombuffer(text.encode("utf-32-le"), np.uint32), UTF8_SIZES) + 1
        return int(sizes[self._encode(text) == UNK].sum())

    def _content(self) -> bytes:
        return json.dumps(self.known).encode()

    def _decode(self, ids: list[int]) -> str:
        surfaces = ("", "", "", UNKNOWN)
        return "".join(self.known[i - 4] if i >= 4 else surfaces[i] for i in ids)

    def _piece(self, i: int) -> str:
        return self.known[i - 4] if i >= 4 else SPECIALS[i]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.known, start=len(SPECIALS))}

    @functools.cached_property
    def _id_of_point(self) -> np.ndarray:
        """The ids by code point; one more entry, UNK, is for all code points above the highest known one."""
        points = [ord(character) for character in self.known]
        table = np.full(max(points) + 2, UNK, np.int32)
        table[points] = np.arange(len(SPECIALS), self.own_size)
        return table


# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, bopomofo and Han.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)


_WORD = re.compile(rf" ?[{UNSPACED}]| ?[^\W{UNSPACED}]+| ?[^\w\s]|\s")


def words_of(text: str) -> list[str]:
    """Returns a text split into words and punctuation marks, each with a space before it, and other white space."""
    return _WORD.findall(text)
