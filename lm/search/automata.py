"""Strings that a text must hold, or must not, as automata over the ids of a tokenizer.

They read the bytes of each token, so it does not matter how a string is cut: one that is banned comes in no
segmentation, and any segmentation of one that is forced will do.
"""

from collections.abc import Collection, Sequence

import jax.numpy as jnp
import numpy as np

from lm.batch import EOS
from lm.data.text.tokenizers.surfaces import surfaces
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.search.constraints import Automata

NOTHING = 256  # the byte that fills tokens up


def build(
    tokenizer: Tokenizer, banned: Sequence[str], forced: Sequence[str], forbidden: Collection[int]
) -> Automata | None:
    """One automaton for all that is banned, and one for each forced string; None where there is neither.

    Args:
        forbidden: ids that are never generated.

    Raises:
        UserError: a string holds one that is banned, or the tokenizer cannot write it.
    """
    if not banned and not forced:
        return None
    banned, forced = ([_utf8(text, flag) for text in texts] for texts, flag in ((banned, "ban"), (forced, "force")))
    tokens_vn = _padded(surfaces(tokenizer))
    made = [_never(banned, tokens_vn)] if banned else []
    for text in forced:
        if any(other in text for other in banned):
            raise UserError("--force", f"{text.decode()!r} holds what --ban bans", "leave one of them out")
        made.append(_at_last(text, tokens_vn, forbidden))
    states = max(len(next_sv) for next_sv, _ in made)
    next_psv = np.stack([np.pad(next_sv, [(0, states - len(next_sv)), (0, 0)]) for next_sv, _ in made])
    progress_ps = np.stack([np.pad(progress_s, (0, states - len(progress_s))) for _, progress_s in made])
    return Automata(jnp.asarray(next_psv), jnp.asarray(progress_ps), int(progress_ps.max(axis=1).sum()))


def _utf8(text: str, flag: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(f"--{flag}", "is not UTF-8", "give text") from None


def _padded(tokens: list[bytes]) -> np.ndarray:
    """int16 (v, n): the bytes of each token, `NOTHING` after them."""
    padded = np.full((len(tokens), max(map(len, tokens), default=0)), NOTHING, np.int16)
    for row, token in zip(padded, tokens, strict=True):
        row[: len(token)] = list(token)
    return padded


def _never(banned: list[bytes], tokens_vn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The automaton of Aho and Corasick (1975): a state is the longest prefix of a string that the text ends with."""
    prefixes = sorted({text[:n] for text in banned for n in range(len(text) + 1)}, key=len)
    whole = {prefix for prefix in prefixes if any(prefix.endswith(text) for text in banned)}
    prefixes = [prefix for prefix in prefixes if prefix not in whole]
    number = {prefix: i for i, prefix in enumerate(prefixes)} | dict.fromkeys(whole, len(prefixes))
    bytes_sb = np.full((len(prefixes) + 1, 257), len(prefixes), np.int32)  # the last state is not left
    bytes_sb[:, NOTHING] = np.arange(len(bytes_sb))
    for i, prefix in enumerate(prefixes):
        for byte in range(256):
            text = prefix + bytes([byte])
            bytes_sb[i, byte] = next(number[text[n:]] for n in range(len(text) + 1) if text[n:] in number)
    next_sv = _read(bytes_sb, tokens_vn)[:-1]
    return np.where(next_sv == len(prefixes), -1, next_sv), np.zeros(len(prefixes), np.int32)


def _at_last(text: bytes, tokens_vn: np.ndarray, forbidden: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The automaton of Knuth, Morris and Pratt (1977), which stays in its last state; EOS comes only there."""
    bytes_sb = np.full((len(text) + 1, 257), len(text), np.int32)
    bytes_sb[:, NOTHING] = np.arange(len(text) + 1)
    for i in range(len(text)):
        for byte in range(256):
            read = text[:i] + bytes([byte])
            bytes_sb[i, byte] = next(n for n in range(i + 1, -1, -1) if read.endswith(text[:n]))
    next_sv = _read(bytes_sb, tokens_vn)
    usable_v = ~np.isin(np.arange(len(tokens_vn)), [*forbidden, EOS])
    # How many tokens a state is from the last one: Bellman's equation, until nothing changes.
    distance_s = np.where(np.arange(len(next_sv)) == len(text), 0, len(text) + 1)
    for _ in range(len(text)):
        distance_s[:-1] = np.minimum(
            1 + distance_s[next_sv[:-1]].min(axis=1, where=usable_v, initial=len(text)), len(text) + 1
        )
    if distance_s[0] > len(text):
        raise UserError("--force", f"the tokenizer cannot write {text.decode()!r}", "choose another string")
    next_sv[:-1, EOS] = -1
    return next_sv, (distance_s[0] - distance_s).astype(np.int32)


def _read(bytes_sb: np.ndarray, tokens_vn: np.ndarray) -> np.ndarray:
    """int32 (s, v): the states after the bytes of each token."""
    state_sv = np.tile(np.arange(len(bytes_sb), dtype=np.int32)[:, None], len(tokens_vn))
    for byte_v in tokens_vn.T:
        state_sv = bytes_sb[state_sv, byte_v]
    return state_sv
