"""Surfaces: the bytes of text that ids are decoded to."""

import re

from lm.data.text.tokenizers.tokenizer import SPACE, SPECIALS, Tokenizer
from lm.data.text.tokenizers.vocabulary import words_of


def surfaces(tokenizer: Tokenizer) -> list[bytes]:
    """Returns the bytes that each id adds to a text; a tokenizer may drop some bytes of the first id, e.g. a space."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if tokenizer.kind == "bytes":
        own = [bytes([i]) for i in range(256)]
    elif tokenizer.kind in ("characters", "words"):
        own = [piece.encode() for piece in pieces[len(SPECIALS) : tokenizer.own_size]]
    else:  # SentencePiece
        own = [_surface(piece) for piece in pieces[len(SPECIALS) : tokenizer.own_size]]
    extras = [piece.encode() for piece in pieces[tokenizer.own_size : tokenizer.unused.start]]
    return [b""] * len(SPECIALS) + own + extras + [b""] * len(tokenizer.unused)


def segmented(tokenizer: Tokenizer, text: str) -> list[bytes]:
    """Returns the characters or words of a text, with unknown ones; for other kinds [], as `surfaces` has them all."""
    cuts = {"characters": list, "words": words_of}.get(tokenizer.kind, lambda text: [])
    return [part.encode() for part in cuts(text)]


def _surface(piece: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()
