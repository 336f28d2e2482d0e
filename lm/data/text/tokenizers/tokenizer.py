"""Tokenizers: turn text into ids and back. All of them have the same four special ids.

The kinds of tokenizers are::

    bytes       the 256 bytes of UTF-8; nothing is trained, nothing is unknown
    characters  the code points of the training text, the most frequent first
    words       words and punctuation marks, each with the space before it, the most frequent first; in scripts without
                spaces (Chinese, Japanese, Thai), each character is a word
    unigram     SentencePiece unigram pieces (Kudo 2018, arXiv:1804.10959)
    bpe         SentencePiece byte-pair pieces (Sennrich et al. 2016, arXiv:1508.07909)
    PATH.model  a SentencePiece model from elsewhere
    PATH/tokenizer.json  the tokenizer of another run, of any kind, with all its ids

With `bytes`, `unigram` and `bpe`, `decode(encode(text)) == text` for every text, as characters without a piece become
bytes. With `characters` and `words` this holds if the vocabulary has all parts of the text. If a tokenizer normalizes
texts, it decodes to the normalized text.

The own ids of a tokenizer are followed by sentinels (`<extra_0>` and so on), which no text is encoded to; by pieces
that were added later (`Tokenizer.extended`); and by unused ids up to a multiple of `multiple_of`.
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
UNKNOWN = "\ufffd"  # the text of UNK and of invalid UTF-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The base of all kinds of tokenizers. A subclass encodes and decodes its own ids."""

    kind: str  # bytes, characters, words, unigram, bpe, or sentencepiece (a model from elsewhere)
    sentinels: int = 0
    added: tuple[str, ...] = ()
    multiple_of: int = 1

    @property
    def own_size(self) -> int:
        """The number of ids before the sentinels, special ids included."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """The number of all ids."""
        return -(-self._used // self.multiple_of) * self.multiple_of

    @property
    def _used(self) -> int:
        return self.own_size + self.sentinels + len(self.added)

    @property
    def unused(self) -> range:
        """The unused ids at the end of the vocabulary."""
        return range(self._used, self.vocab_size)

    def sentinel(self, number: int) -> int:
        """Returns the id of a sentinel; raises `IndexError` if there are fewer."""
        if not 0 <= number < self.sentinels:
            raise IndexError(f"sentinel {number} of {self.sentinels}")
        return self.own_size + number

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the kind and the whole vocabulary, 16 hexadecimal digits."""
        more = (self.sentinels, self.multiple_of, *([self.added] if self.added else []))
        return fingerprint_of(self.kind, self._content() + (b"" if more == (0, 1) else f"\0{more}".encode()))

    def extended(self, pieces: Iterable[str], sentinels: int = 0) -> "Tokenizer":
        """Returns this tokenizer with additional pieces and sentinels; all ids in use keep their meaning.

        Args:
            pieces: texts that get an id of their own and are never split; those that exist already are skipped.
            sentinels: the least number of sentinels.

        Raises:
            UserError: a piece is invalid, or more sentinels are needed after pieces were added.
        """
        if sentinels > self.sentinels and self.added:
            reason = f"is {sentinels}, more than the {self.sentinels} of the tokenizer, to which pieces were added"
            raise UserError("config.data.tokenizer.sentinels", reason, "use a tokenizer without added pieces")
        pieces = tuple(pieces)
        check_pieces(pieces)
        if self.kind == "words":  # with a space before it, a word is a different piece
            pieces = tuple(form for piece in pieces for form in (piece, f" {piece}"))
        new = tuple(piece for piece in pieces if piece not in self._uncut)
        return dataclasses.replace(self, added=(*self.added, *new), sentinels=max(sentinels, self.sentinels))

    @property
    def _uncut(self) -> frozenset[str]:
        """The pieces that are never split, wherever they occur in a text."""
        return frozenset(self.added)

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 ids [length] without BOS and EOS; raises `UnicodeEncodeError` for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Returns the ids of each text, as `encode` does, but faster."""
        return around(texts, self._added_ids, self._encode_batch)

    @functools.cached_property
    def _added_ids(self) -> dict[str, list[int]]:
        return {piece: [i] for i, piece in enumerate(self.added, start=self.own_size + self.sentinels)}

    def sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        """Returns the ids of each text in a random segmentation, which depends on the arguments alone.

        With `unigram`, the probability of a segmentation is proportional to the `alpha`-th power of its probability
        under the model (Kudo, 2018, arXiv:1804.10959), over all segmentations. With `bpe`, each merge is dropped with
        probability `alpha` (Provilkov et al., 2020, arXiv:1910.13267).

        Args:
            texts: the texts.
            alpha: the strength of the sampling, as above.
            seed: seed of the draw.

        Raises:
            UserError: the tokenizer has another kind, with only one segmentation.
        """
        return around(texts, self._added_ids, lambda parts: self._sample_batch(parts, alpha, seed))

    def encode_marked(self, text: str) -> np.ndarray:
        """Returns the ids of a text, as `encode` does, except that names of sentinels become sentinels."""
        parts, start = [], 0
        for match in re.finditer("<extra_(0|[1-9][0-9]{0,8})>", text):
            if int(match[1]) < self.sentinels:
                parts += [self.encode(text[start : match.start()]), [self.sentinel(int(match[1]))]]
                start = match.end()
        return np.concatenate([*parts, self.encode(text[start:])]).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids. UNK is U+FFFD, a sentinel is its name; other special and unused ids are dropped."""
        ids = [i for i in map(int, ids) if i < self._used]
        text, start = [], 0
        for place in [place for place, i in enumerate(ids) if i >= self.own_size]:
            text += [self._decode(ids[start:place]), self._extra(ids[place])]
            start = place + 1
        return "".join([*text, self._decode(ids[start:])])

    def unknown_bytes(self, text: str) -> int:
        """Returns the number of UTF-8 bytes of a text that are encoded as UNK."""
        return sum(map(self._unknown_bytes, self._between_added(text)))

    def alters(self, text: str) -> bool:
        """Returns whether normalization changes a text: `decode(encode(text))` differs, apart from unknown tokens."""
        return False

    def _between_added(self, text: str) -> list[str]:
        """Returns the parts of a text between added pieces, which are encoded to own ids."""
        return one_of(self._added_ids).split(text)[::2] if self._added_ids else [text]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Returns the piece of each id, for display."""
        return [self._piece(i) if i < self.own_size else self._extra(i) for i in map(int, ids)]

    def _extra(self, i: int) -> str:
        i -= self.own_size
        if i < self.sentinels:
            return f"<extra_{i}>"
        i -= self.sentinels
        return self.added[i] if i < len(self.added) else f"<unused_{i - len(self.added)}>"

    def _content(self) -> bytes:
        """Returns the bytes that the fingerprint hashes, with the kind and the extra ids."""
        raise NotImplementedError

    def _encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Returns the own ids of each text, as do `_encode` and `_sample_batch`."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def _sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        reason = f"a {self.kind} tokenizer has one segmentation"
        raise UserError("config.data.tokenizer.sampling", reason, "use the kind unigram or bpe, or give 0")

    def _decode(self, ids: list[int]) -> str:
        """Returns the text of own ids."""
        raise NotImplementedError

    def _piece(self, i: int) -> str:
        """Returns the piece of an own id."""
        raise NotImplementedError

    def _unknown_bytes(self, text: str) -> int:
        """Returns `unknown_bytes` of a text without added pieces."""
        return 0


def around(
    texts: list[str], signs: dict[str, list[int]], encode: Callable[[list[str]], list[np.ndarray]]
) -> list[np.ndarray]:
    """Returns the ids of texts: each sign becomes its ids in `signs`, and `encode` is applied to the parts between."""
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
    """Returns a pattern that matches the longest piece, in a group, so that `split` alternates text and pieces."""
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def fingerprint_of(kind: str, content: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()[:16]


def check_pieces(pieces: Iterable[str]) -> None:
    """Raises `UserError` for pieces that a vocabulary cannot have."""
    seen = set(SPECIALS)
    for piece in pieces:
        reason = ""
        if not piece:
            reason = "has an empty piece"
        elif re.search(rf"[\s\0{SPACE}\u2585]", piece):
            reason = f"{piece!r} has white space, or a character that SentencePiece reserves"
        elif piece in seen or re.fullmatch("<(extra_[0-9]+|unused_[0-9]+|0x[0-9A-F]{2})>", piece):
            reason = f"{piece!r} is given twice, or is the name of a built-in id"
        if reason:
            raise UserError("config.data.tokenizer.pieces", reason, "leave it out, or give another piece")
        seen.add(piece)
