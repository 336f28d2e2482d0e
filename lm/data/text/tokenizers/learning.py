"""Trains a tokenizer on the training texts, or reads one that exists."""

import collections
import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece
from etils import epath

from lm.batch import BOS, EOS, PAD, UNK
from lm.config import TOKENIZERS, TokenizerConfig
from lm.data.read import store
from lm.data.text.tokenizers.saved import load_tokenizer, read_model
from lm.data.text.tokenizers.subwords import SentencePiece
from lm.data.text.tokenizers.tokenizer import SPECIALS, Tokenizer, check_pieces
from lm.data.text.tokenizers.vocabulary import Bytes, Vocabulary, words_of
from lm.errors import UserError, nearest

VERSION = 1  # part of the cache key: raise it when SentencePiece gets other text or settings


def train_tokenizer(
    config: TokenizerConfig, texts: Iterable[str], sentinels: int = 0, fingerprint: str = ""
) -> Tokenizer:
    """Returns a tokenizer for the texts; the same texts give the same tokenizer, byte for byte.

    Args:
        config: `kind` is one of `TOKENIZERS`, or the path of a SentencePiece model or of a saved tokenizer. A
            SentencePiece model is used as it is, and a saved tokenizer is extended by missing pieces and sentinels.
            `vocab_size` is the number of ids without sentinels, with the four special ids. For `characters` and
            `words` it is a limit, and 0 means none. It is ignored for `bytes` and for paths.
        texts: the training texts.
        sentinels: the number of sentinels if the configuration does not name one; `vocab_size` does not include them.
        fingerprint: a hash of the texts. If it is given, SentencePiece models are cached.

    Raises:
        UserError: the kind is unknown, the texts do not allow the size, a file cannot be read, or a piece is invalid.
    """
    kind, extras = config.kind, {"sentinels": config.sentinels or sentinels, "multiple_of": config.multiple_of}
    if kind == "bytes":
        return Bytes(**extras)
    if kind in ("characters", "words"):
        counts = collections.Counter()
        for text in texts:
            counts.update(text if kind == "characters" else words_of(text))
        return Vocabulary(kind, _known(config.vocab_size, counts), **extras)
    if kind in ("unigram", "bpe"):
        model = lambda: _trained_model(config, texts).decode("latin-1")  # JSON needs a string
        settings = (kind, config.vocab_size, config.normalization, list(config.pieces))
        key = store.key_of("tokenizer", VERSION, sentencepiece.__version__, fingerprint, settings)
        known = store.remembered(key, model) if fingerprint else model()
        return SentencePiece(kind, known.encode("latin-1"), **extras)
    if kind.endswith("tokenizer.json"):
        return load_tokenizer(epath.Path(kind).expanduser().parent).extended(config.pieces, config.sentinels)
    if not kind.endswith(".model"):
        action = nearest(kind, (*TOKENIZERS, "a path that ends in .model or tokenizer.json"))
        raise UserError("config.data.tokenizer.kind", f"{kind!r} is unknown", action)
    return read_model("sentencepiece", epath.Path(kind).expanduser(), extras)


def _known(vocab_size: int, counts: collections.Counter[str]) -> tuple[str, ...]:
    if not counts:
        raise _no_text()
    if 0 < vocab_size <= len(SPECIALS):
        reason = f"{vocab_size} leaves no room for more than the {len(SPECIALS)} special ids"
        raise UserError("config.data.tokenizer.vocab_size", reason, "give a larger size, or 0 for no limit")
    known = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return tuple(known[: vocab_size - len(SPECIALS)] if vocab_size else known)


def _trained_model(config: TokenizerConfig, texts: Iterable[str]) -> bytes:
    kind, vocab_size = config.kind, config.vocab_size
    check_pieces(config.pieces)
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
            # These settings lose no text, apart from normalization: characters without a piece become bytes.
            byte_fallback=True,
            normalization_rule_name=config.normalization,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=0.9995,  # the rarest characters of a large alphabet become bytes
            num_threads=4,  # sums are computed per thread, so another number may give another model
            minloglevel=2,
        )
    except RuntimeError as error:
        if fewest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            reason = f"{vocab_size} is too small: special ids, bytes and characters of this text need {fewest[1]}"
            raise UserError(field, reason, f"give at least {fewest[1]}") from None
        if most := re.search(r"Please set it to a value <= (\d+)", str(error)):
            reason = f"{vocab_size} is too large: this text gives at most {most[1]} {kind} pieces"
            raise UserError(field, reason, f"give at most {most[1]}") from None
        raise
    return model.getvalue()


def _no_text() -> UserError:
    return UserError("config.data.train", "has no text to build a vocabulary from", "check the source")


def _sample(chunks: Iterable[str]) -> list[str]:
    """Returns all chunks, or every second, fourth, ... of a large corpus, as training needs memory per character."""
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


MOST_CHARACTERS = 40_000_000  # the most that SentencePiece is trained on


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Yields texts in chunks that the trainer accepts; it skips lines of more than 4192 bytes, and some characters.

    White space other than the space is removed too, so that no piece contains it and it is encoded as bytes.
    """
    for text in texts:
        for line in re.split("[^\\S ]+|[\0\u2581\u2585]+", text):
            for start in range(0, len(line), 1000):
                yield line[start : start + 1000]
