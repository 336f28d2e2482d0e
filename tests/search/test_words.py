"""Automata of strings over every kind of tokenizer, against the strings themselves."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.batch import BOS, EOS, PAD, UNK
from lm.config import TokenizerConfig
from lm.data.text.tokenizers.learning import train_tokenizer
from lm.data.text.tokenizers.surfaces import surfaces as surfaces_of
from lm.errors import UserError
from lm.search import automata

TEXTS = ["a cat sat on the mat, and the cats ate", "\u732b\u5728\u57ab\u5b50\u4e0a caf\u00e9", "abab aab abba"] * 5
SIZES = {"bytes": 0, "characters": 0, "words": 0, "unigram": 284, "bpe": 284}
TOKENIZERS = {
    kind: train_tokenizer(TokenizerConfig(kind, size, multiple_of=8), TEXTS, 2) for kind, size in SIZES.items()
}
BANNED = ("cat", "ab", "\u5728\u57ab", "bab", "é", "aabba")
SPECIALS = (PAD, BOS, UNK)


def kinds(test):
    return pytest.mark.parametrize("kind", TOKENIZERS)(test)


@kinds
def test_a_text_is_made_of_the_bytes_of_its_tokens(kind):
    tokenizer = TOKENIZERS[kind]
    surfaces = surfaces_of(tokenizer)
    assert len(surfaces) == tokenizer.vocab_size
    for text in {*TEXTS, "x" if kind in ("bytes", "unigram", "bpe") else "a", "<extra_1>"}:
        ids = tokenizer.encode_marked(text)
        assert b"".join(surfaces[i] for i in ids).decode() == tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=60)
@given(st.data())
@kinds
def test_what_is_banned_comes_in_no_segmentation_and_what_is_forced_in_any(kind, data):
    tokenizer = TOKENIZERS[kind]
    surfaces = surfaces_of(tokenizer)
    banned = data.draw(st.lists(st.sampled_from(BANNED), min_size=1, max_size=3))
    forced = data.draw(st.sampled_from([text for text in ("cat", "abba", "a a", "b") if text not in BANNED]))
    use = data.draw(st.sampled_from([([*banned], []), ([], [forced])]))
    made = automata.build(tokenizer, *use, SPECIALS)
    # Tokens that are parts of the strings, so that they come about.
    parts = [
        i
        for i in range(4, tokenizer.own_size)
        if any(s in t.encode() or t.encode() in s for t in [*BANNED, forced] for s in [surfaces[i]])
    ]
    ids = data.draw(st.lists(st.sampled_from(parts), max_size=12))
    states, dead = [0], False
    for i in ids:
        states.append(int(made.next_psv[0, states[-1], i]))
        dead |= states[-1] < 0
        if dead:
            break
    text = b"".join(surfaces[i] for i in ids)
    assert tokenizer.decode(ids).encode() in text or b"\xef\xbf\xbd" in tokenizer.decode(ids).encode()
    assert dead == any(one.encode() in text for one in use[0])
    if use[1]:
        assert (made.next_psv[0, states[-1], EOS] >= 0) == (forced.encode() in text)
        assert (made.progress_ps[0, states[-1]] == made.furthest) == (forced.encode() in text)


@kinds
def test_progress_counts_the_tokens_that_are_missing(kind):
    tokenizer = TOKENIZERS[kind]
    made = automata.build(tokenizer, (), ("abba", "cat"), SPECIALS)
    usable = np.setdiff1d(np.arange(tokenizer.vocab_size), [*SPECIALS, EOS])
    for next_sv, progress_s in zip(np.asarray(made.next_psv), np.asarray(made.progress_ps), strict=True):
        assert progress_s[0] == 0 and progress_s.min() == 0
        reachable, found = {0}, {0}
        while found:  # breadth first, from the beginning: the words are reached in as many steps as progress says
            found = {int(s) for state in found for s in next_sv[state, usable]} - reachable
            reachable |= found
        for state in reachable:
            gain = progress_s[next_sv[state, usable]].max() - progress_s[state]
            assert gain == (progress_s[state] < progress_s.max())
    steps = [len(tokenizer.encode(text)) for text in ("abba", "cat")]
    assert 0 < made.furthest <= sum(steps) and (kind not in ("bytes", "characters") or made.furthest == 7)


def test_what_cannot_be_is_refused():
    tokenizer = TOKENIZERS["characters"]
    assert automata.build(tokenizer, (), (), SPECIALS) is None
    for banned, forced in itertools.product([("ca", "x")], [("cat",), ("aca",)]):
        with pytest.raises(UserError, match="--ban bans"):
            automata.build(tokenizer, banned, forced, SPECIALS)
    with pytest.raises(UserError, match="cannot write 'zebra'"):
        automata.build(tokenizer, (), ("zebra",), SPECIALS)
    with pytest.raises(UserError, match="UTF-8"):
        automata.build(tokenizer, ("\ud800",), (), SPECIALS)


@kinds
def test_a_banned_string_inside_the_beginning_of_another_is_banned_too(kind):
    made = automata.build(TOKENIZERS[kind], ("ab", "aabba"), (), SPECIALS)
    state = 0
    for i in TOKENIZERS[kind].encode(" aab"):
        state = int(made.next_psv[0, state, i]) if state >= 0 else state
    assert state == -1
