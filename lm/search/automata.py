"""Strings that a text must contain, must not contain, or ends before, as automata over the ids of a tokenizer.

They read the bytes of each token, so the segmentation of a string does not matter: a banned string appears in no
segmentation, and a forced one may appear in any.
"""

import dataclasses
import functools
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm.batch import EOS
from lm.data.text.tokenizers.surfaces import surfaces
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.search.constraints import NOTHING, Automata

SMALL = 2**23  # entries that a table of states and tokens may have
PATIENCE = 2**25  # tokens that `fewest_tokens` reads at most

surfaces_of = functools.lru_cache(4)(surfaces)


def build(
    tokenizer: Tokenizer,
    banned: Sequence[str],
    forced: Sequence[str],
    stops: Sequence[str],
    forbidden: Collection[int],
) -> Automata | None:
    """Returns the automata of all strings, or None if there are none.

    Args:
        tokenizer: the tokenizer.
        banned: strings that no text contains.
        forced: strings that every text contains.
        stops: strings that end a text.
        forbidden: ids that are never generated.

    Raises:
        UserError: the tokenizer cannot write a forced string.
    """
    coded = ([text.encode() for text in texts] for texts in (banned, forced, stops))
    return of_bytes(surfaces_of(tokenizer), *coded, forbidden)


def of_bytes(
    tokens: Sequence[bytes],
    banned: Sequence[bytes],
    forced: Sequence[bytes],
    stops: Sequence[bytes],
    forbidden: Collection[int],
) -> Automata | None:
    """Returns the automata of strings given as bytes; `tokens` are the bytes of each token. See `build`."""
    groups = [*([banned] if banned else []), *([text] for text in forced), *([stops] if stops else [])]
    if not groups:
        return None
    each = [_reading(strings) for strings in groups]
    ends_p = np.cumsum([len(next_sc) for next_sc in each], dtype=np.int32)
    first_p = ends_p - np.array([len(next_sc) for next_sc in each], np.int32)
    longest_first = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    made = Automata(
        first_p=first_p,
        last_p=ends_p - 1,
        next_sc=np.concatenate([next_sc + first for next_sc, first in zip(each, first_p, strict=True)]),
        progress_s=np.zeros(ends_p[-1], np.int32),
        bytes_lu=_by_place([tokens[i] for i in longest_first]),
        places_v=np.argsort(longest_first).astype(np.int32),
        table_sv=None,
        bans=bool(banned),
        stops=bool(stops),
        furthest=0,
    )
    if len(made.next_sc) * len(tokens) <= SMALL:
        made = dataclasses.replace(made, table_sv=_after(made, np.arange(len(made.next_sc), dtype=np.int32)))
    usable_v, furthest = _usable(len(tokens), forbidden), 0
    for text, first, end in zip(forced, first_p[made.bans :], ends_p[made.bans :], strict=False):
        distance_s = _distances(made, np.arange(first, end, dtype=np.int32), usable_v)
        if distance_s[0] == len(distance_s):
            raise UserError("--force", f"the tokenizer cannot write {text.decode()!r}", "choose another string")
        made.progress_s[first:end] = np.maximum(distance_s[0] - distance_s, 0)
        furthest += int(distance_s[0])
    return dataclasses.replace(jax.tree.map(jnp.asarray, made), furthest=furthest)


def _after(automata: Automata, states_x: np.ndarray) -> np.ndarray:
    """Computes `constraints.states_after` on the host."""
    if automata.table_sv is not None:
        return np.asarray(automata.table_sv)[states_x]
    next_sc, states_xu = np.asarray(automata.next_sc), np.repeat(states_x[..., None], len(automata.places_v), axis=-1)
    for bytes_u in automata.bytes_lu:
        states_xu[..., : len(bytes_u)] = next_sc[states_xu[..., : len(bytes_u)], np.asarray(bytes_u)]
    return states_xu[..., np.asarray(automata.places_v)]


def _reading(strings: Sequence[bytes]) -> np.ndarray:
    """Returns int32 (s, 257), the automaton of Aho and Corasick (1975): the states after each byte, and after
    `NOTHING`.

    A state is the longest prefix of a string that the text ends with. The last state is never left; it means that the
    text contains a string.
    """
    children: list[dict[int, int]] = [{}]  # the beginnings as a tree
    whole = [False]
    for string in strings:
        state = 0
        for byte in string:
            state = children[state].setdefault(byte, len(children))
            if state == len(children):
                children.append({})
                whole.append(False)
        whole[state] = True
    next_sc = np.zeros((len(children), NOTHING + 1), np.int32)
    shorter, order = np.zeros(len(children), np.int32), [0]  # the longest other beginning that a state's text ends with
    for state in order:  # the shortest first, so that all shorter states are known
        next_sc[state] = next_sc[shorter[state]]
        for byte, child in children[state].items():
            shorter[child] = next_sc[state, byte] if state else 0
            whole[child] |= whole[shorter[child]]
            next_sc[state, byte] = child
            order.append(child)
    kept = np.flatnonzero(~np.array(whole))
    number_s = np.full(len(children), len(kept), np.int32)
    number_s[kept] = np.arange(len(kept))
    next_sc = np.concatenate([number_s[next_sc[kept]], np.full((1, NOTHING + 1), len(kept), np.int32)])
    next_sc[:, NOTHING] = np.arange(len(next_sc))
    return next_sc


def _by_place(tokens: Sequence[bytes]) -> tuple[np.ndarray, ...]:
    """The first bytes of all tokens, then the second ones, and so on; the tokens are sorted, the longest first."""
    return tuple(
        np.array([token[place] for token in tokens if len(token) > place], np.int16) for place in range(len(tokens[0]))
    )


def _usable(size: int, forbidden: Collection[int]) -> np.ndarray:
    """Returns bool (v,), the tokens that a text may contain."""
    return ~np.isin(np.arange(size), [*forbidden, EOS])


def _distances(automata: Automata, states_s: np.ndarray, usable_v: np.ndarray) -> np.ndarray:
    """Returns int32 (s,), the fewest tokens from each state of an automaton to its last one; unreachable: the number of
    states.
    """
    count, block = len(states_s), max(1, SMALL // len(usable_v))
    leads_ss = np.zeros((count, count), bool)
    for at in range(0, count, block):
        after_sv = _after(automata, states_s[at : at + block])[:, usable_v] - states_s[0]
        leads_ss[at + np.arange(len(after_sv))[:, None], after_sv] = True
    distance_s = np.full(count, count, np.int32)
    reached = np.array([count - 1])
    for distance in range(count):
        distance_s[reached] = distance
        reached = np.flatnonzero(leads_ss[:, reached].any(axis=1) & (distance_s == count))
    return distance_s


def fewest_tokens(automata: Automata, forbidden: Collection[int]) -> int | None:
    """Returns the fewest tokens of a text before it may end, or None if no text may end.

    The number is exact unless there are very many states; then it is a lower bound.
    """
    usable_v = _usable(len(automata.places_v), forbidden)
    last_p, size = np.asarray(automata.last_p), len(automata.next_sc)
    forced = slice(automata.bans, len(last_p) - automata.stops)
    states_np, seen = np.asarray(automata.first_p)[None], {tuple(np.asarray(automata.first_p).tolist())}
    count, patience = 0, PATIENCE
    while len(states_np):
        patience -= len(states_np) * len(usable_v)
        if (states_np[:, forced] == last_p[forced]).all(axis=1).any() or patience < 0:
            return count
        after_npv = _after(automata, states_np)[..., usable_v]
        after_np = after_npv.swapaxes(1, 2).reshape(-1, len(last_p))
        keys_n = after_np[:, 0].astype(np.int64)
        for states_n in after_np.T[1:]:
            keys_n = np.unique(keys_n, return_inverse=True)[1] * size + states_n
        after_np = after_np[np.unique(keys_n, return_index=True)[1]]
        dead_n = automata.bans & (after_np[:, 0] == last_p[0])
        whole_n = (after_np[:, forced] == last_p[forced]).all(axis=1)
        dead_n |= automata.stops & (after_np[:, -1] == last_p[-1]) & ~whole_n  # it would end there
        new = {*map(tuple, after_np[~dead_n].tolist())} - seen
        seen |= new
        states_np, count = np.array([*new], np.int32).reshape(-1, len(last_p)), count + 1
    return None


def may_begin(automata: Automata, forbidden: Collection[int]) -> bool:
    """Returns whether a text may have any token."""
    after_pv = _after(automata, np.asarray(automata.first_p))[:, _usable(len(automata.places_v), forbidden)]
    return not automata.bans or bool((after_pv[0] != np.asarray(automata.last_p)[0]).any())


def before_stop(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str]) -> tuple[str, str]:
    """Returns the text of ids up to the first complete stop string, and that string; it is empty if there is none."""
    tokens = [surfaces_of(tokenizer)[i] for i in ids]
    whole = b"".join(tokens)
    found = [(place + len(stop), place, text) for text in stops if (place := whole.find(stop := text.encode())) >= 0]
    if not found:
        return tokenizer.decode(ids), ""
    _, place, text = min(found)
    kept = int(np.searchsorted(np.cumsum([len(token) for token in tokens]), place, side="right"))
    part = tokens[kept][: place - sum(map(len, tokens[:kept]))]
    if not kept:  # a tokenizer may leave out the space that a text begins with
        part = part[max(0, len(tokens[0]) - len(tokenizer.decode(ids[:1]).encode())) :]
    return tokenizer.decode(ids[:kept]) + part.decode(errors="replace"), text
