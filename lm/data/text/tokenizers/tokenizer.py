"""Text to ids and back. Every tokenizer has the same four special ids, and all but `words` lose nothing they know.

    bytes       the 256 bytes of UTF-8; nothing is trained, nothing is unknown
    characters  the code points of the training text, the most frequent first
    words       words and marks, each with the space before it, the most frequent first; where a script writes no spaces
                (Chinese, Japanese, Thai), each character is a word
    unigram     SentencePiece unigram pieces (Kudo 2018, arXiv:1804.10959)
    bpe         SentencePiece byte-pair pieces (Sennrich et al. 2016, arXiv:1508.07909)
    PATH.model  a SentencePiece model made elsewhere
    PATH/tokenizer.json  the tokenizer of another run, of any kind, with all its ids

`decode(encode(text)) == text` for every text with `bytes`, `unigram` and `bpe` (what has no piece is written in
bytes), and with `characters` and `words` where all of it is in the vocabulary. A normalisation other than identity
loses what it normalises, once.

After a tokenizer's own ids come sentinels, `<extra_0>` and so on, that no text is encoded as; pieces that were added to
it later (`Tokenizer.extended`); and ids that fill the vocabulary up and are never used.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterable

import numpy as np

from lm.errors import UserError

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


SPACE = "\u2581"  # SentencePiece's sign for a space
UNKNOWN = "\ufffd"  # what UNK and broken UTF-8 are decoded to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What all kinds share; a kind says how its own ids are made and read."""

    kind: str  # bytes, characters, words, unigram, bpe, sentencepiece (made elsewhere)
    sentinels: int = 0
    added: tuple[str, ...] = ()
    multiple_of: int = 1

    @property
    def own_size(self) -> int:
        """Number of ids before the sentinels, the special ones included."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Number of all ids."""
        return -(-self._used // self.multiple_of) * self.multiple_of

    @property
    def _used(self) -> int:
        return self.own_size + self.sentinels + len(self.added)

    @property
    def unused(self) -> range:
        """The ids that fill the vocabulary up."""
        return range(self._used, self.vocab_size)

    def sentinel(self, number: int) -> int:
        """The id of a sentinel."""
        if not 0 <= number < self.sentinels:
            raise IndexError(f"sentinel {number} of {self.sentinels}")
        return self.own_size + number

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the kind and the whole vocabulary."""
        more = (self.sentinels, self.multiple_of, *([self.added] if self.added else []))
        return fingerprint_of(self.kind, self._content() + (b"" if more == (0, 1) else f"\0{more}".encode()))

    def extended(self, pieces: Iterable[str], sentinels: int = 0) -> "Tokenizer":
        """With those of the pieces that it has not, which are never cut, and at least so many sentinels.

        All ids in use keep their meaning.

        Raises:
            UserError: a piece that cannot be had, or sentinels where pieces were added already.
        """
        if sentinels > self.sentinels and self.added:
            reason = f"{sentinels} are asked for, and pieces were added after the {self.sentinels} that there are"
            raise UserError("config.data.tokenizer.sentinels", reason, "add sentinels first, then pieces")
        pieces = tuple(pieces)
        check_pieces(pieces)
        if self.kind == "words":  # a word with a space before it is another one
            pieces = tuple(form for piece in pieces for form in (piece, f" {piece}"))
        new = tuple(piece for piece in pieces if piece not in self._uncut)
        return dataclasses.replace(self, added=(*self.added, *new), sentinels=max(sentinels, self.sentinels))

    @property
    def _uncut(self) -> frozenset[str]:
        """What every text is cut into where it stands."""
        return frozenset(self.added)

    def encode(self, text: str) -> np.ndarray:
        """int32 ids, shape (length,), without BOS and EOS. Raises `UnicodeEncodeError` for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Each text's `encode`, faster."""
        return around(texts, self._added_ids, self._encode_batch)

    @functools.cached_property
    def _added_ids(self) -> dict[str, list[int]]:
        return {piece: [i] for i, piece in enumerate(self.added, start=self.own_size + self.sentinels)}

    def sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        """As `encode_batch`, each text cut in a way that is drawn: a function of the arguments, in every process.

        With `unigram`, segmentations are drawn by the `alpha`-th power of their probability (Kudo 2018,
        arXiv:1804.10959, over all of them); with `bpe`, each merge is left out with probability `alpha`
        (Provilkov et al. 2020, arXiv:1910.13267). Other kinds have one segmentation and raise `UserError`.
        """
        return around(texts, self._added_ids, lambda parts: self._sample_batch(parts, alpha, seed))

    def encode_marked(self, text: str) -> np.ndarray:
        """As `encode`, but the names of sentinels stand for sentinels."""
        parts, start = [], 0
        for match in re.finditer("<extra_(0|[1-9][0-9]{0,8})>", text):
            if int(match[1]) < self.sentinels:
                parts += [self.encode(text[start : match.start()]), [self.sentinel(int(match[1]))]]
                start = match.end()
        return np.concatenate([*parts, self.encode(text[start:])]).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all ids; PAD, BOS, EOS and unused ids are nothing, UNK is U+FFFD, a sentinel is its name."""
        ids = [i for i in map(int, ids) if i < self._used]
        text, start = [], 0
        for place in [place for place, i in enumerate(ids) if i >= self.own_size]:
            text += [self._decode(ids[start:place]), self._extra(ids[place])]
            start = place + 1
        return "".join([*text, self._decode(ids[start:])])

    def unknown_bytes(self, text: str) -> int:
        """The number of UTF-8 bytes of a text that the UNKs of its `encode` stand for."""
        return sum(map(self._unknown_bytes, self._between_added(text)))

    def alters(self, text: str) -> bool:
        """Whether `decode(encode(text))` is another text, unknown tokens aside: whether a normalisation changes it."""
        return False

    def _between_added(self, text: str) -> list[str]:
        """The parts of a text that are encoded into own ids."""
        return one_of(self._added_ids).split(text)[::2] if self._added_ids else [text]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """What each id stands for, for display."""
        return [self._piece(i) if i < self.own_size else self._extra(i) for i in map(int, ids)]

    def _extra(self, i: int) -> str:
        i -= self.own_size
        if i < self.sentinels:
            return f"<extra_{i}>"
        i -= self.sentinels
        return self.added[i] if i < len(self.added) else f"<unused_{i - len(self.added)}>"

    def _content(self) -> bytes:
        """What the fingerprint is of, beside the kind."""
        raise NotImplementedError

    def _encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Into own ids, as the following two."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def _sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        reason = f"a {self.kind} tokenizer has one segmentation"
        raise UserError("config.data.tokenizer.sampling", reason, "use one of kind unigram or bpe, or give 0")

    def _decode(self, ids: list[int]) -> str:
        """Of own ids."""
        raise NotImplementedError

    def _piece(self, i: int) -> str:
        """Of an own id."""
        raise NotImplementedError

    def _unknown_bytes(self, text: str) -> int:
        """Of a text without added pieces."""
        return 0


def around(
    texts: list[str], signs: dict[str, list[int]], encode: Callable[[list[str]], list[np.ndarray]]
) -> list[np.ndarray]:
    """The ids of texts: those of each sign where it stands, and what `encode` makes of the parts between."""
    if not any(sign in text for text in texts for sign in signs):
        return encode(texts)
    parts = [one_of(signs).split(text) for text in texts]
    coded = iter(encode([part for text in parts for part in text[::2]]))
    joined = []
    for text in parts:
        ids = [signs[part] if number % 2 else next(coded) for number, part in enumerate(text)]
        joined.append(np.concatenate(ids).astype(np.int32))
    return joined


def one_of(pieces: Iterable[str]) -> re.Pattern[str]:
    """The longest at a place; one group, so that what is split alternates between other text and pieces."""
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def fingerprint_of(kind: str, content: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()[:16]


def check_pieces(pieces: Iterable[str]) -> None:
    seen = set(SPECIALS)
    for piece in pieces:
        reason = ""
        if not piece:
            reason = "an empty piece cuts nothing"
        elif re.search(rf"[\s\0{SPACE}\u2585]", piece):
            reason = f"{piece!r} holds white space, or a sign that SentencePiece keeps for itself"
        elif piece in seen or re.fullmatch("<(extra_[0-9]+|unused_[0-9]+|0x[0-9A-F]{2})>", piece):
            reason = f"{piece!r} is given twice, or the name of an id that there is in any case"
        if reason:
            raise UserError("config.data.tokenizer.pieces", reason, "leave it out, or give another")
        seen.add(piece)
