"""Text to ids and back. Every tokenizer has the same four special ids, and all but `words` lose nothing they know.

    bytes       the 256 bytes of UTF-8; nothing is trained, nothing is unknown
    characters  the code points of the training text, the most frequent first
    words       words and marks, each with the space before it, the most frequent first; for text that has spaces
    unigram     SentencePiece unigram pieces (Kudo 2018, arXiv:1804.10959)
    bpe         SentencePiece byte-pair pieces (Sennrich et al. 2016, arXiv:1508.07909)
    PATH.model  a SentencePiece model made elsewhere

`decode(encode(text)) == text` for every text with `bytes`, `unigram` and `bpe` (what has no piece is written in
bytes), and with `characters` and `words` where all of it is in the vocabulary.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import sentencepiece
from etils import epath

from lm.config import TOKENIZERS, TokenizerConfig
from lm.errors import UserError, nearest

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
UNKNOWN = "\ufffd"  # what UNK and broken UTF-8 are decoded to

_SPACE = "\u2581"  # SentencePiece's sign for a space


class Method(Protocol):
    """How text becomes ids: what a `Tokenizer` is made of."""

    kind: str  # bytes, characters, words, unigram, bpe, sentencepiece (made elsewhere)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""

    @property
    def fingerprint(self) -> str:
        """Of the kind and the whole vocabulary."""

    def encode(self, text: str) -> np.ndarray:
        """int32 ids, shape (length,), without BOS and EOS. Raises `UnicodeEncodeError` for lone surrogates."""

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The same of many texts, faster."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all ids; PAD, BOS and EOS are nothing, UNK is U+FFFD."""

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """What each id stands for, for display."""


class Tokenizer:
    """A method, and two kinds of ids after its own: sentinels, which stand for what noise took out of a text and are
    written `<extra_0>`, `<extra_1>`, ... (Raffel et al., 2020), and ids that fill the vocabulary up and are never used.
    """

    def __init__(self, method: Method, sentinels: int = 0, multiple_of: int = 1):
        self.method, self.sentinels, self.multiple_of = method, sentinels, multiple_of
        self.kind = method.kind
        self._first = method.vocab_size  # the first sentinel
        self.vocab_size = -(-(self._first + sentinels) // multiple_of) * multiple_of
        self.unused = range(self._first + sentinels, self.vocab_size)

    @property
    def fingerprint(self) -> str:
        """Of all that decides what ids mean."""
        if not self.sentinels and not self.unused:
            return self.method.fingerprint
        return _fingerprint(self.method.fingerprint, f"{self.sentinels}/{self.vocab_size}".encode())

    def encode(self, text: str) -> np.ndarray:
        """int32 ids, shape (length,), never a sentinel. Raises `UnicodeEncodeError` for lone surrogates."""
        return self.method.encode(text)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The same of many texts, faster."""
        return self.method.encode_batch(texts)

    def sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        """Other segmentations of the texts, a function of (texts, alpha, seed): see `SentencePiece.sample_batch`."""
        return self.method.sample_batch(texts, alpha, seed)

    def encode_marked(self, text: str) -> np.ndarray:
        """As `encode`, but the names of sentinels stand for them: what a prompt of a denoising model is."""
        if not self.sentinels or "<extra_" not in text:
            return self.encode(text)
        parts = re.split(r"<extra_(0|[1-9]\d{0,4})>", text)
        ids = [self.encode(parts[0])]
        for number, part in zip(map(int, parts[1::2]), parts[2::2], strict=True):
            known = number < self.sentinels
            ids += [np.array([self.sentinel(number)], np.int32) if known else self.encode(f"<extra_{number}>")]
            ids.append(self.encode(part))
        return np.concatenate(ids)

    def sentinel(self, number: int) -> int:
        """Its id."""
        if not 0 <= number < self.sentinels:
            raise IndexError(f"sentinel {number} of {self.sentinels}")
        return self._first + number

    def without_sentinels(self, ids: np.ndarray) -> np.ndarray:
        """What the method knows of ids."""
        return ids[ids < self._first]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all ids; PAD, BOS, EOS and unused ids are nothing, UNK is U+FFFD, a sentinel its name."""
        text, known = "", []
        for i in map(int, ids):
            if i < self._first:
                known.append(i)
            elif i < self.unused.start:
                text += self.method.decode(known) + self._name(i)
                known = []
        return text + self.method.decode(known)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """What each id stands for, for display."""
        return [self.method.pieces([i])[0] if i < self._first else self._name(i) for i in map(int, ids)]

    def _name(self, i: int) -> str:
        return f"<extra_{i - self._first}>" if i < self.unused.start else f"<unused_{i - self.unused.start}>"


@dataclasses.dataclass(frozen=True)
class Bytes:
    kind: str = "bytes"

    @property
    def vocab_size(self) -> int:
        return len(SPECIALS) + 256

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.kind, b"")

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + len(SPECIALS)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return list(map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        unknown = UNKNOWN.encode()
        coded = (bytes([i - len(SPECIALS)]) if i >= len(SPECIALS) else unknown * (i == UNK) for i in map(int, ids))
        return b"".join(coded).decode(errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [_byte_piece(i - len(SPECIALS)) if i >= len(SPECIALS) else SPECIALS[i] for i in map(int, ids)]


def _byte_piece(byte: int) -> str:
    return chr(byte) if 0x20 < byte < 0x7F else f"<0x{byte:02X}>"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Characters or words by number."""

    kind: str
    known: tuple[str, ...]  # from id 4 on

    @property
    def vocab_size(self) -> int:
        return len(SPECIALS) + len(self.known)

    @functools.cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self.kind, json.dumps(self.known).encode())

    def encode(self, text: str) -> np.ndarray:
        if self.kind == "words":
            ids = self._ids
            return np.fromiter((ids.get(word, UNK) for word in _words(text)), np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return list(map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        surfaces = ("", "", "", UNKNOWN)
        return "".join(self.known[i - 4] if i >= 4 else surfaces[i] for i in map(int, ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.known[i - 4] if i >= 4 else SPECIALS[i] for i in map(int, ids)]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.known, start=len(SPECIALS))}

    @functools.cached_property
    def _id_of_point(self) -> np.ndarray:
        """Ids by code point, up to one beyond the highest known, which stands for all others."""
        points = [ord(character) for character in self.known]
        table = np.full(max(points) + 2, UNK, np.int32)
        table[points] = np.arange(len(SPECIALS), self.vocab_size)
        return table


def _words(text: str) -> list[str]:
    """All of the text, cut into words and marks with a space before them, and what other white space there is."""
    return re.findall(r" ?\w+| ?[^\w\s]|\s", text)


class SentencePiece:
    """A SentencePiece model. Its pieces keep their order; its special ones, wherever they are, become ours."""

    def __init__(self, kind: str, model: bytes):
        """Raises `RuntimeError` if the bytes are no model."""
        self.kind, self.model = kind, model
        self._processor = processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)
        specials = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
        theirs = [*specials, *(i for i in range(processor.get_piece_size()) if i not in specials)]
        self._theirs = np.array(theirs)  # by our id; -1 for a special one that it has not
        self._ours = np.full(processor.get_piece_size(), UNK, np.int32)  # by their id
        for our, their in enumerate(theirs):
            if their >= 0:
                self._ours[their] = our
        self._names = [*SPECIALS, *(processor.id_to_piece(i) for i in theirs[len(SPECIALS) :])]

    @property
    def vocab_size(self) -> int:
        return len(self._theirs)

    @functools.cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self.kind, self.model)

    def encode(self, text: str) -> np.ndarray:
        return self._encode(text, self._processor.encode_as_numpy)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        for text in texts:
            text.encode()
        if self.kind != "sentencepiece" and any(_SPACE in text for text in texts):
            return list(map(self.encode, texts))
        return [self._ours[ids] for ids in self._processor.encode_as_numpy(texts)] if texts else []

    def sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        """Subword regularisation: a segmentation of each text, drawn by probability to the power `alpha` (unigram; Kudo,
        2018, arXiv:1804.10959), or with a share `alpha` of the merges left out (bpe; Provilkov et al., 2020,
        arXiv:1910.13267). `decode` gives the texts back all the same.
        """
        sentencepiece.set_random_generator_seed(seed % 2**32)
        draw = lambda text: self._processor.encode(text, enable_sampling=True, alpha=alpha, nbest_size=-1)
        return [self._encode(text, draw) for text in texts]

    def _encode(self, text: str, cut: Callable[[str], Sequence[int]]) -> np.ndarray:
        text.encode()  # for its error: that of SentencePiece says nothing
        if self.kind == "sentencepiece" or _SPACE not in text:
            return self._ours[np.asarray(cut(text), np.int64)]
        # A text that has SentencePiece's sign for a space would come back with spaces: the sign is written in bytes.
        sign = self._processor.piece_to_id([_byte_piece(byte) for byte in _SPACE.encode()])
        first, *rest = map(cut, text.split(_SPACE))
        return self._ours[[*first, *(i for part in rest for i in (*sign, *part))]]

    def decode(self, ids: Iterable[int]) -> str:
        ids = [i for i in map(int, ids) if i not in (PAD, BOS, EOS)]
        if UNK not in ids:
            return self._processor.decode([int(i) for i in self._theirs[ids]])
        return self._processor.decode_pieces([UNKNOWN if i == UNK else self._names[i] for i in ids])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self._names[int(i)] for i in ids]


def _fingerprint(kind: str, content: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()[:16]


# ---- training ---------------------------------------------------------------------------------------------------


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], sentinels: int = 0) -> Tokenizer:
    """A tokenizer for the texts: the same texts give the same tokenizer, byte for byte.

    Args:
        config: its `vocab_size` is the number of ids of the method, the four special ones included; for `characters` and
            `words` a limit, 0 for none; not read for `bytes` and a path, whose size is given.
        texts: not read for `bytes` and a path.
        sentinels: see `Tokenizer`.

    Raises:
        UserError: an unknown kind, a size that the texts do not allow, pieces that cannot be, a model that cannot be read.
    """
    kind = config.kind
    if kind == "bytes":
        method: Method = Bytes()
    elif kind in ("characters", "words"):
        counts = collections.Counter()
        for text in texts:
            counts.update(text if kind == "characters" else _words(text))
        method = _vocabulary(kind, config.vocab_size, counts)
    elif kind in ("unigram", "bpe"):
        method = _sentencepiece(config, texts)
    elif kind.endswith(".model"):
        method = _read_model("sentencepiece", epath.Path(kind).expanduser())
    else:
        mend = nearest(kind, (*TOKENIZERS, "a path that ends in .model"))
        raise UserError("config.data.tokenizer.kind", f"{kind!r} is unknown", mend)
    return Tokenizer(method, sentinels, config.multiple_of)


def _vocabulary(kind: str, vocab_size: int, counts: collections.Counter[str]) -> Vocabulary:
    if not counts:
        raise _no_text()
    if 0 < vocab_size <= len(SPECIALS):
        what = f"{vocab_size} leaves no room beside the {len(SPECIALS)} special ids"
        raise UserError("config.data.tokenizer.vocab_size", what, "give more, or 0 for as many as there are")
    known = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return Vocabulary(kind, tuple(known[: vocab_size - len(SPECIALS)] if vocab_size else known))


def _sentencepiece(config: TokenizerConfig, texts: Iterable[str]) -> SentencePiece:
    kind, vocab_size = config.kind, config.vocab_size
    for piece in config.pieces:
        if re.search(f"[\\s{_SPACE}]", piece) or not piece or config.pieces.count(piece) > 1 or piece in SPECIALS:
            what = f"{piece!r} is empty, twice there, a special one, or holds white space"
            raise UserError("config.data.tokenizer.pieces", what, "give other pieces")
    chunks = list(_chunks(texts))
    if not chunks:
        raise _no_text()
    chunks = chunks[:: -(-len(chunks) // 1_000_000)]  # of a large corpus every n-th, as memory is not endless
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
            # Nothing is lost: what has no piece is written in bytes, and with "identity" the text is taken as it is.
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
    return SentencePiece(kind, model.getvalue())


def _no_text() -> UserError:
    return UserError("config.data.train", "holds no text to make a vocabulary of", "check the source")


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
    method = tokenizer.method
    record = {"version": 1, "kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint}
    record |= {"sentinels": tokenizer.sentinels, "multiple_of": tokenizer.multiple_of}
    if isinstance(method, SentencePiece):
        (directory / "tokenizer.model").write_bytes(method.model)
    if isinstance(method, Vocabulary):
        record["pieces"] = method.known
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
        if kind == "bytes":
            method: Method = Bytes()
        elif kind in ("characters", "words"):
            method = Vocabulary(kind, tuple(record["pieces"]))
        elif kind in ("unigram", "bpe", "sentencepiece"):
            path = path.parent / "tokenizer.model"
            method = _read_model(kind, path)
        else:
            raise damaged
        sizes = [record.get("sentinels", 0), record.get("multiple_of", 1)]  # an older version has neither
        if not all(isinstance(size, int) and 0 <= size < 2**31 for size in sizes) or not sizes[1]:
            raise damaged
        tokenizer = Tokenizer(method, *sizes)
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if tokenizer.fingerprint != fingerprint:
        what = "is not what was saved (its fingerprint differs)"
        raise UserError(str(path), what, "restore it, or start the run anew")
    return tokenizer


def _read_model(kind: str, path: epath.Path) -> SentencePiece:
    try:
        return SentencePiece(kind, path.read_bytes())
    except (OSError, ImportError) as error:  # ImportError: a bucket, without the package that reads it
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(str(path), what, "check the path of the SentencePiece model") from None
    except RuntimeError:
        raise UserError(str(path), "is no SentencePiece model", "give one that spm_train wrote, whole") from None
