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

import bisect
import collections
import dataclasses
import functools
import hashlib
import heapq
import io
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from lm.config import TOKENIZERS, TokenizerConfig
from lm.data import store
from lm.errors import UserError, nearest

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
UNKNOWN = "\ufffd"  # what UNK and broken UTF-8 are decoded to

_SPACE = "\u2581"  # SentencePiece's sign for a space


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
        return _fingerprint(self.kind, self._content() + (b"" if more == (0, 1) else f"\0{more}".encode()))

    def extended(self, pieces: Iterable[str], sentinels: int = 0) -> "Tokenizer":
        """With those of the pieces that it has not, which are never cut, and at least so many sentinels.

        All ids in use keep their meaning.

        Raises:
            UserError: a piece that cannot be had, or sentinels where pieces were added already.
        """
        if sentinels > self.sentinels and self.added:
            what = f"{sentinels} are asked for, and pieces were added after the {self.sentinels} that there are"
            raise UserError("config.data.tokenizer.sentinels", what, "add sentinels first, then pieces")
        pieces = tuple(pieces)
        _check_pieces(pieces)
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
        return _around(texts, self._added_ids, self._encode_batch)

    @functools.cached_property
    def _added_ids(self) -> dict[str, list[int]]:
        return {piece: [i] for i, piece in enumerate(self.added, start=self.own_size + self.sentinels)}

    def sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        """As `encode_batch`, each text cut in a way that is drawn: a function of the arguments, in every process.

        With `unigram`, segmentations are drawn by the `alpha`-th power of their probability (Kudo 2018,
        arXiv:1804.10959, over all of them); with `bpe`, each merge is left out with probability `alpha`
        (Provilkov et al. 2020, arXiv:1910.13267). Other kinds have one segmentation and raise `UserError`.
        """
        return _around(texts, self._added_ids, lambda parts: self._sample_batch(parts, alpha, seed))

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
        what = f"a {self.kind} tokenizer has one segmentation"
        raise UserError("config.data.tokenizer.sampling", what, "use one of kind unigram or bpe, or give 0")

    def _decode(self, ids: list[int]) -> str:
        """Of own ids."""
        raise NotImplementedError

    def _piece(self, i: int) -> str:
        """Of an own id."""
        raise NotImplementedError


def _around(
    texts: list[str], signs: dict[str, list[int]], encode: Callable[[list[str]], list[np.ndarray]]
) -> list[np.ndarray]:
    """The ids of texts: those of each sign where it stands, and what `encode` makes of the parts between."""
    if not any(sign in text for text in texts for sign in signs):
        return encode(texts)
    parts = [_one_of(signs).split(text) for text in texts]
    coded = iter(encode([part for text in parts for part in text[::2]]))
    joined = []
    for text in parts:
        ids = [signs[part] if number % 2 else next(coded) for number, part in enumerate(text)]
        joined.append(np.concatenate(ids).astype(np.int32))
    return joined


def _one_of(pieces: Iterable[str]) -> re.Pattern[str]:
    """The longest at a place; one group, so that what is split alternates between other text and pieces."""
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
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
        return _byte_piece(i - len(SPECIALS)) if i >= len(SPECIALS) else SPECIALS[i]


def _byte_piece(byte: int) -> str:
    return chr(byte) if 0x20 < byte < 0x7F else f"<0x{byte:02X}>"


@dataclasses.dataclass(frozen=True)
class Vocabulary(Tokenizer):
    """Characters or words by number."""

    kind: str
    known: tuple[str, ...]  # from id 4 on

    @property
    def own_size(self) -> int:
        return len(SPECIALS) + len(self.known)

    @property
    def _uncut(self) -> frozenset[str]:
        return super()._uncut.union(self.known)

    def _encode(self, text: str) -> np.ndarray:
        if self.kind == "words":
            ids = self._ids
            return np.fromiter((ids.get(word, UNK) for word in _words(text)), np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]

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
        """Ids by code point, up to one beyond the highest known, which stands for all others."""
        points = [ord(character) for character in self.known]
        table = np.full(max(points) + 2, UNK, np.int32)
        table[points] = np.arange(len(SPECIALS), self.own_size)
        return table


def _words(text: str) -> list[str]:
    """All of the text, cut into words and marks with a space before them, and what other white space there is."""
    return _WORD.findall(text)


# Scripts that write no spaces between words: Thai, Lao, Myanmar, Khmer, kana, bopomofo and Han.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf" ?[{UNSPACED}]| ?[^\W{UNSPACED}]+| ?[^\w\s]|\s")


@dataclasses.dataclass(frozen=True, eq=False)
class SentencePiece(Tokenizer):
    """A SentencePiece model. Its pieces keep their order; its special ones, wherever they are, become ours."""

    kind: str
    model: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        """Raises `RuntimeError` if the bytes are no model."""
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(self.model)
        specials = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
        theirs = [*specials, *(i for i in range(processor.get_piece_size()) if i not in specials)]
        ours = np.full(processor.get_piece_size(), UNK, np.int32)
        for our, their in enumerate(theirs):
            if their >= 0:
                ours[their] = our
        self.__dict__.update(
            _processor=processor,
            _theirs=np.array(theirs),  # by our id; -1 for a special one that it has not
            _ours=ours,  # by their id
            _names=[*SPECIALS, *(processor.id_to_piece(i) for i in theirs[len(SPECIALS) :])],
        )

    @property
    def own_size(self) -> int:
        return len(self._theirs)

    @property
    def _uncut(self) -> frozenset[str]:
        return super()._uncut | self._own

    @functools.cached_property
    def _added_ids(self) -> dict[str, list[int]]:
        # With those that it was made with, or an added one would cut a longer one of them.
        made_with = {piece: [self._ids[piece]] for piece in self._own} if self.added else {}
        return made_with | super()._added_ids

    def _encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        _check_unicode(texts)
        if self.kind == "sentencepiece":
            return self._encode_parts(texts)
        return _around(texts, self._sign, self._encode_parts)

    @functools.cached_property
    def _sign(self) -> dict[str, list[int]]:
        """A text with SentencePiece's sign for a space would come back with spaces: the sign is written in bytes."""
        return {_SPACE: self._bytes_of(_SPACE)}

    def _sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        # SentencePiece's own sampling is no function of its seed: Abseil's generator is salted by process.
        if self.kind == "sentencepiece":
            return super()._sample_batch(texts, alpha, seed)
        _check_unicode(texts)
        draw = random.Random(seed).random
        cut = self._cut_unigram(alpha, draw) if self.kind == "unigram" else self._cut_bpe(alpha, draw)
        own = _one_of(self._own) if self._own else None

        def sample(part: str) -> np.ndarray:
            ids, part = [], self._normalized(part).replace(" ", _SPACE)
            for number, span in enumerate(own.split(part) if own else [part]):
                if number % 2:
                    ids.append(self._ids[span])
                else:
                    for word in re.findall(f"{_SPACE}?[^{_SPACE}]+|{_SPACE}", span):
                        ids += cut(word)
            return np.array(ids, np.int32)

        return _around(texts, self._sign, lambda parts: list(map(sample, parts)))

    def _encode_parts(self, parts: list[str]) -> list[np.ndarray]:
        if self._normalizes:
            parts = list(map(self._normalized, parts))
        threads = 2 if len(parts) > 1 else 1
        return [self._ours[ids] for ids in self._processor.encode(parts, out_type="numpy", num_threads=threads)]

    def _normalized(self, part: str) -> str:
        """As often as it takes: SentencePiece parts a ligature, and joins a mark to its last letter only then."""
        while (once := self._processor.normalize(part).replace(_SPACE, " ")) != part:
            part = once
        return part

    # How a word is cut by chance. A word has the space before it, and no piece of ours reaches over a space.

    def _cut_unigram(self, alpha: float, draw: Callable[[], float]) -> Callable[[str], list[int]]:
        """Forward filtering, backward sampling."""
        scores, longest = self._scores, max(map(len, self._scores), default=1)
        unknown = min(scores.values(), default=0.0) - 10  # SentencePiece's own penalty

        @functools.lru_cache(1 << 15)
        def choices(word: str) -> list[tuple[list[int], list[float]]]:
            """For each end, the starts of the piece before it and their cumulative probabilities."""
            total, table = [0.0], [([], [])]
            for end in range(1, len(word) + 1):
                starts, logs = [], []
                for start in range(max(0, end - longest), end):
                    score = scores.get(word[start:end], unknown if start == end - 1 else None)
                    if score is not None:
                        starts.append(start)
                        logs.append(total[start] + alpha * score)
                top = max(logs)
                sums = list(itertools.accumulate(math.exp(log - top) for log in logs))
                total.append(top + math.log(sums[-1]))
                table.append((starts, [part / sums[-1] for part in sums]))
            return table

        def cut(word: str) -> list[int]:
            table, end, found = choices(word), len(word), []
            while end:
                starts, shares = table[end]
                start = starts[bisect.bisect_right(shares, draw()) if len(starts) > 1 else 0]
                found.append(word[start:end])
                end = start
            return [i for piece in reversed(found) for i in self._ids_of(piece)]

        return cut

    def _cut_bpe(self, alpha: float, draw: Callable[[], float]) -> Callable[[str], list[int]]:
        """Merges by score, from the left; one that is left out comes back only when a neighbour has grown."""
        scores = self._scores

        def cut(word: str) -> list[int]:
            parts = list(word)
            after, before = list(range(1, len(parts) + 1)), list(range(-1, len(parts) - 1))
            agenda = []

            def propose(left: int, right: int) -> None:
                if left >= 0 and right < len(parts) and (score := scores.get(parts[left] + parts[right])) is not None:
                    heapq.heappush(agenda, (-score, left, right, len(parts[left]) + len(parts[right])))

            for left in range(len(parts) - 1):
                propose(left, left + 1)
            while agenda:
                _, left, right, size = heapq.heappop(agenda)
                if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != size:
                    continue  # one of the two is part of another piece by now
                if alpha and draw() < alpha:
                    continue
                parts[left] += parts[right]
                parts[right] = ""
                after[left] = after[right]
                if after[left] < len(parts):
                    before[after[left]] = left
                propose(before[left], left)
                propose(left, after[left])
            return [i for piece in parts if piece for i in self._ids_of(piece)]

        return cut

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self._names)}

    @functools.cached_property
    def _scores(self) -> dict[str, float]:
        """Of the pieces that text is cut into: neither special nor bytes nor the user's own."""
        processor = self._processor
        known = (i for i in map(int, self._theirs[len(SPECIALS) :]) if not processor.is_byte(i))
        scores = {processor.id_to_piece(i): processor.get_score(i) for i in known}
        return {piece: score for piece, score in scores.items() if piece not in self._own}

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        """The user's own pieces."""
        pieces = sentencepiece_model_pb2.ModelProto.FromString(self.model).pieces
        return frozenset(piece.piece for piece in pieces if piece.type == piece.USER_DEFINED)

    @functools.cached_property
    def _normalizes(self) -> bool:
        """Whether it is for us to normalise; a model made elsewhere does as it does."""
        rule = sentencepiece_model_pb2.ModelProto.FromString(self.model).normalizer_spec.name
        return self.kind != "sentencepiece" and rule != "identity"

    def _ids_of(self, piece: str) -> list[int]:
        i = self._ids.get(piece)
        return [i] if i is not None else self._bytes_of(piece)

    def _bytes_of(self, text: str) -> list[int]:
        return [self._ids[f"<0x{byte:02X}>"] for byte in text.encode()]

    def _content(self) -> bytes:
        return self.model

    def _decode(self, ids: list[int]) -> str:
        ids = [i for i in ids if i not in (PAD, BOS, EOS)]
        if UNK not in ids:
            return self._processor.decode([int(i) for i in self._theirs[ids]])
        return self._processor.decode_pieces([UNKNOWN if i == UNK else self._names[i] for i in ids])

    def _piece(self, i: int) -> str:
        return self._names[i]


def _check_unicode(texts: list[str]) -> None:
    for text in texts:
        text.encode()  # for its error: that of SentencePiece says nothing


def _fingerprint(kind: str, content: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()[:16]


def surfaces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each id adds to a text; a tokenizer may leave out some of the first one's."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if tokenizer.kind == "bytes":
        own = [bytes([i]) for i in range(256)]
    elif tokenizer.kind in ("characters", "words"):
        own = [piece.encode() for piece in pieces[len(SPECIALS) : tokenizer.own_size]]
    else:  # SentencePiece
        own = [_surface(piece) for piece in pieces[len(SPECIALS) : tokenizer.own_size]]
    extras = [piece.encode() for piece in pieces[tokenizer.own_size : tokenizer.unused.start]]
    return [b""] * len(SPECIALS) + own + extras + [b""] * len(tokenizer.unused)


def cut(tokenizer: Tokenizer, text: str) -> list[bytes]:
    """The text as characters or words have it, the unknown ones too; of other kinds nothing: `surfaces` know them all."""
    cuts = {"characters": list, "words": _words}.get(tokenizer.kind, lambda text: [])
    return [part.encode() for part in cuts(text)]


def _surface(piece: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


# ---- training ---------------------------------------------------------------------------------------------------


VERSION = 1  # of how SentencePiece is called: raise it when it is given other text or settings


def train_tokenizer(
    config: TokenizerConfig, texts: Iterable[str], sentinels: int = 0, fingerprint: str = ""
) -> Tokenizer:
    """A tokenizer for the texts: the same texts give the same tokenizer, byte for byte.

    Args:
        config: `kind` is one of `TOKENIZERS`, or the path of a SentencePiece model or of a saved tokenizer, that is
            taken as it is (a saved one with the pieces and sentinels that it has not). `vocab_size` is
            the number of own ids, the four special ones included; for `characters` and `words` a limit, 0 for none;
            not read for `bytes` and a path, whose size is given.
        sentinels: how many there are if the configuration does not say; they come on top of `vocab_size`.
        fingerprint: of the texts; with it a SentencePiece model that was trained on them before is taken from the cache.

    Raises:
        UserError: an unknown kind, a size that the texts do not allow, a model that cannot be read, pieces that cannot
            be had.
    """
    kind, extras = config.kind, {"sentinels": config.sentinels or sentinels, "multiple_of": config.multiple_of}
    if kind == "bytes":
        return Bytes(**extras)
    if kind in ("characters", "words"):
        counts = collections.Counter()
        for text in texts:
            counts.update(text if kind == "characters" else _words(text))
        return Vocabulary(kind, _known(config.vocab_size, counts), **extras)
    if kind in ("unigram", "bpe"):
        model = lambda: _trained_model(config, texts).decode("latin-1")  # as JSON has it
        settings = (kind, config.vocab_size, config.normalization, list(config.pieces))
        key = store.key_of("tokenizer", VERSION, sentencepiece.__version__, fingerprint, settings)
        known = store.remembered(key, model) if fingerprint else model()
        return SentencePiece(kind, known.encode("latin-1"), **extras)
    if kind.endswith("tokenizer.json"):
        return load_tokenizer(epath.Path(kind).expanduser().parent).extended(config.pieces, config.sentinels)
    if not kind.endswith(".model"):
        mend = nearest(kind, (*TOKENIZERS, "a path that ends in .model or tokenizer.json"))
        raise UserError("config.data.tokenizer.kind", f"{kind!r} is unknown", mend)
    return _read_model("sentencepiece", epath.Path(kind).expanduser(), extras)


def _known(vocab_size: int, counts: collections.Counter[str]) -> tuple[str, ...]:
    if not counts:
        raise _no_text()
    if 0 < vocab_size <= len(SPECIALS):
        what = f"{vocab_size} leaves no room beside the {len(SPECIALS)} special ids"
        raise UserError("config.data.tokenizer.vocab_size", what, "give more, or 0 for as many as there are")
    known = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return tuple(known[: vocab_size - len(SPECIALS)] if vocab_size else known)


def _check_pieces(pieces: Iterable[str]) -> None:
    seen = set(SPECIALS)
    for piece in pieces:
        what = ""
        if not piece:
            what = "an empty piece cuts nothing"
        elif re.search(rf"[\s\0{_SPACE}\u2585]", piece):
            what = f"{piece!r} holds white space, or a sign that SentencePiece keeps for itself"
        elif piece in seen or re.fullmatch("<(extra_[0-9]+|unused_[0-9]+|0x[0-9A-F]{2})>", piece):
            what = f"{piece!r} is given twice, or the name of an id that there is in any case"
        if what:
            raise UserError("config.data.tokenizer.pieces", what, "leave it out, or give another")
        seen.add(piece)


def _trained_model(config: TokenizerConfig, texts: Iterable[str]) -> bytes:
    kind, vocab_size = config.kind, config.vocab_size
    _check_pieces(config.pieces)
    chunks = _sample(_chunks(texts))
    if not chunks:
        raise _no_text()
    field = "config.data.tokenizer.vocab_size"
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            user_defined_symbols=list(config.pieces),
            # Nothing is lost: what has no piece is written in bytes, and the text is taken as it is, but normalised.
            byte_fallback=True,
            normalization_rule_name=config.normalization,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=0.9995,  # the rarest characters of a large alphabet are better written in bytes
            num_threads=4,  # sums are taken by thread: another number may give another model
            minloglevel=2,
        )
    except RuntimeError as error:
        if fewest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            what = f"{vocab_size} is too small: special ids, bytes and characters of this text are {fewest[1]}"
            raise UserError(field, what, f"give at least {fewest[1]}") from None
        if most := re.search(r"Please set it to a value <= (\d+)", str(error)):
            what = f"{vocab_size} is too large: this text gives at most {most[1]} {kind} pieces"
            raise UserError(field, what, f"give at most {most[1]}") from None
        raise
    return model.getvalue()


def _no_text() -> UserError:
    return UserError("config.data.train", "holds no text to make a vocabulary of", "check the source")


def _sample(chunks: Iterable[str]) -> list[str]:
    """All, or of a large corpus every second, fourth, eighth ...: training takes memory by the character."""
    kept: list[str] = []
    stride, size = 1, 0
    for number, chunk in enumerate(chunks):
        if number % stride == 0:
            kept.append(chunk)
            size += len(chunk)
            if size > MOST_CHARACTERS:
                kept, stride = kept[::2], 2 * stride
                size = sum(map(len, kept))
    return kept


MOST_CHARACTERS = 40_000_000  # that SentencePiece is trained on


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Texts as the trainer takes them: it passes over lines of more than 4192 bytes and over some signs.

    White space other than the space is cut away too, so that no piece holds it: it is written in bytes.
    """
    for text in texts:
        for line in re.split("[^\\S ]+|[\0\u2581\u2585]+", text):
            for start in range(0, len(line), 1000):
                yield line[start : start + 1000]


# ---- files ------------------------------------------------------------------------------------------------------


def save_tokenizer(tokenizer: Tokenizer, directory: epath.PathLike) -> None:
    """Writes the whole of it: `tokenizer.json`, and `tokenizer.model` for SentencePiece."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    record = {"version": 1, "kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint}
    extras = {"sentinels": tokenizer.sentinels, "added": tokenizer.added, "multiple_of": tokenizer.multiple_of}
    record |= {name: value for name, value in extras.items() if value != getattr(Tokenizer, name)}
    if isinstance(tokenizer, SentencePiece):
        (directory / "tokenizer.model").write_bytes(tokenizer.model)
    if isinstance(tokenizer, Vocabulary):
        record["pieces"] = tokenizer.known
    (directory / "tokenizer.json").write_text(json.dumps(record, indent=1) + "\n")


def load_tokenizer(directory: epath.PathLike) -> Tokenizer:
    """What `save_tokenizer` wrote. Raises `UserError` if it is missing or was changed."""
    path = epath.Path(directory) / "tokenizer.json"
    if not path.exists():
        raise UserError(str(path), "no such file", "name the directory of a run")
    damaged = UserError(str(path), "is damaged, or of another version", "restore it, or start the run anew")
    try:
        record = json.loads(path.read_text())
        if record["version"] != 1:
            raise damaged
        kind, fingerprint = record["kind"], record["fingerprint"]
        extras = {name: record.get(name, getattr(Tokenizer, name)) for name in ("sentinels", "added", "multiple_of")}
        extras["added"] = tuple(extras["added"])
        if kind == "bytes":
            tokenizer = Bytes(**extras)
        elif kind in ("characters", "words"):
            tokenizer = Vocabulary(kind, tuple(record["pieces"]), **extras)
        elif kind in ("unigram", "bpe", "sentencepiece"):
            path = path.parent / "tokenizer.model"
            tokenizer = _read_model(kind, path, extras)
        else:
            raise damaged
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if tokenizer.fingerprint != fingerprint:
        what = "is not what was saved (its fingerprint differs)"
        raise UserError(str(path), what, "restore it, or start the run anew")
    return tokenizer


def _read_model(kind: str, path: epath.Path, extras: dict[str, Any]) -> SentencePiece:
    try:
        return SentencePiece(kind, path.read_bytes(), **extras)
    except (OSError, ImportError) as error:  # ImportError: a bucket, without the package that reads it
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(str(path), what, "check the path of the SentencePiece model") from None
    except RuntimeError:
        raise UserError(str(path), "is no SentencePiece model", "give one that spm_train wrote, whole") from None
