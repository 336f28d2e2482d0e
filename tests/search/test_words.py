"""Automata of strings over every kind of tokenizer, against the strings themselves."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
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
from lm.search.constraints import Constraints, read, states_after, unread, walked
from lm.search.options import NAMES, Options

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


@kinds
def test_two_tokenizers_are_equal_where_their_ids_mean_the_same(kind):
    """What is kept for a tokenizer is not given to another one."""
    same = train_tokenizer(TokenizerConfig(kind, SIZES[kind], multiple_of=8), TEXTS, 2)
    assert TOKENIZERS[kind] == same and hash(TOKENIZERS[kind]) == hash(same)
    other = train_tokenizer(TokenizerConfig(kind, SIZES[kind], multiple_of=8), ["dog x", *TEXTS], 2)
    assert (TOKENIZERS[kind] != other) == (kind != "bytes")  # of which there is one
    assert len(automata.surfaces_of(other)) == other.vocab_size


def read_through(made, ids):
    """The states before the first token and after each."""
    found, table_sv = [np.array(made.first_p)], np.array(made.table_sv)
    for i in ids:
        found.append(table_sv[found[-1], i])
    return np.array(found)


@settings(deadline=None, max_examples=60)
@given(st.data())
@kinds
def test_strings_are_found_in_every_segmentation(kind, data):
    """Whichever way a text is cut: the last state is reached with the token that completes the string, and not before."""
    tokenizer = TOKENIZERS[kind]
    surfaces = surfaces_of(tokenizer)
    banned = data.draw(st.lists(st.sampled_from(BANNED), max_size=3))
    stops = data.draw(st.lists(st.sampled_from(BANNED), max_size=3))
    forced = data.draw(st.sampled_from([text for text in ("cat", "abba", "a a", "b") if text not in BANNED]))
    made = automata.build(tokenizer, banned, [forced], stops, SPECIALS)
    # Tokens that are parts of the strings, so that they come about.
    parts = [
        i
        for i in range(4, tokenizer.own_size)
        if any(s in t.encode() or t.encode() in s for t in [*BANNED, forced] for s in [surfaces[i]])
    ]
    ids = data.draw(st.lists(st.sampled_from(parts), max_size=12))
    holds_np = read_through(made, ids) == np.array(made.last_p)
    for n, holds_p in enumerate(holds_np):
        text = b"".join(surfaces[i] for i in ids[:n])
        expected = [any(each.encode() in text for each in group) for group in (banned, [forced], stops) if group]
        assert holds_p.tolist() == expected
    distance = made.furthest - np.array(made.progress_s)[read_through(made, ids)[:, int(bool(banned))]]
    assert ((distance == 0) == holds_np[:, int(bool(banned))]).all()
    decoded, stop = automata.before_stop(tokenizer, ids, tuple(stops))
    whole = tokenizer.decode(ids)
    if stops and holds_np[-1, -1] and "\ufffd" not in whole and whole.encode() == text:
        first = min((whole.find(each) + len(each), whole.find(each), each) for each in stops if each in whole)
        assert (decoded, stop) == (whole[: first[1]], first[2])
    elif not stop:
        assert decoded == whole


few_letters = st.binary(min_size=1, max_size=6).map(lambda data: bytes(b"ab"[byte % 2] for byte in data))


@settings(deadline=None)
@given(st.lists(few_letters, min_size=1, max_size=4), few_letters, st.lists(few_letters, max_size=4).map(b"".join))
def test_strings_that_overlap_are_found_at_every_byte(banned, forced, text):
    tokens = [b"", b"", b"", b"", b"a", b"b"]
    made = automata.of_bytes(tokens, banned, [forced], banned, SPECIALS)
    holds_np = read_through(made, [tokens.index(bytes([byte])) for byte in text]) == np.array(made.last_p)
    for n, holds_p in enumerate(holds_np):
        found = any(each in text[:n] for each in banned)
        assert holds_p.tolist() == [found, forced in text[:n], found]


@kinds
def test_a_table_of_states_and_tokens_says_what_walking_their_bytes_says(kind):
    made = automata.build(TOKENIZERS[kind], BANNED, ("abba", "cat"), (" mat",), SPECIALS)
    states_s = jnp.arange(len(made.next_sc))
    table_sv = np.array(made.table_sv)
    assert table_sv.shape == (len(states_s), TOKENIZERS[kind].vocab_size)
    np.testing.assert_array_equal(table_sv, jax.jit(walked)(made, states_s))
    size = table_sv.shape[1]
    states_n1, ids_n = jnp.repeat(states_s, size)[:, None], jnp.tile(jnp.arange(size), len(states_s))
    one_n = jax.jit(lambda made: read(Constraints(automata=made), states_n1, ids_n))(made)[:, 0]
    np.testing.assert_array_equal(table_sv, one_n.reshape(table_sv.shape))


@pytest.mark.parametrize("given", ["one", "many", "repeated"])
def test_automata_grow_with_the_strings_and_not_with_their_products(given, monkeypatch):
    """No array has more entries than a constant times the bytes of the strings, or those of the vocabulary."""
    made, rng = [], np.random.default_rng(0)
    for size in (2**8, 2**12, 2**15):
        strings = {
            "one": [rng.integers(1, 256, size, np.uint8).tobytes()],
            "many": [rng.integers(1, 256, 8, np.uint8).tobytes() for _ in range(size // 8)],
            "repeated": [b"a" * n for n in (size - 2, 1, 1)] if size < 2**12 else [b"ab" * (size // 2), b"ba" * 99],
        }[given]
        vocabulary = [b"", b"", b"", b"", *(bytes([i, *rng.integers(1, 256, 5, np.uint8)]) for i in range(256))] * 8
        found = automata.of_bytes(vocabulary, strings, (), strings[:1], SPECIALS)
        states = 2 + 2 * sum(map(len, strings))
        assert len(found.next_sc) <= states
        entries = [np.size(leaf) for leaf in jax.tree.leaves(found)]
        assert max(entries) <= max(257 * states, automata.SMALL) and sum(entries) <= 300 * states + automata.SMALL
        made.append(found)
    assert made[0].table_sv is not None and (made[-1].table_sv is None or given == "repeated" and made[0] is not None)


@kinds
def test_the_fewest_tokens_of_a_text_that_holds_all_are_counted_with_overlaps_and_bans(kind):
    """Against breadth-first search over texts that are cut in every way."""
    tokenizer = TOKENIZERS[kind]
    surfaces = surfaces_of(tokenizer)
    fewest = lambda *strings: automata.fewest_tokens(automata.build(tokenizer, *strings, SPECIALS), SPECIALS)
    usable = {surfaces[i] for i in range(4, tokenizer.own_size) if surfaces[i] and set(surfaces[i]) <= set(b"abt c")}
    for banned, forced, stops in [
        ((), ("ab", "ba"), ()),
        ((), ("aab", "abb"), ()),
        (("aba",), ("ab", "ba"), ()),
        (("aba", "bab"), ("ab", "ba"), ()),
        ((), ("ab", "ba"), ("b",)),
    ]:
        texts, count, found = {b""}, 0, None
        while found is None and count < 6:
            whole = [t for t in texts if all(each.encode() in t for each in forced)]
            found = count if whole else None
            longer = {t + token for t in texts for token in usable if len(t + token) < 12}
            longer = {t for t in longer if not any(each.encode() in t for each in banned)}
            ending = lambda t: any(each.encode() in t for each in stops)  # noqa: B023
            texts = {t for t in longer if not ending(t) or all(each.encode() in t for each in forced)}  # noqa: B023
            texts, count = {t[-4:] if not forced else t for t in texts}, count + 1
        assert fewest(banned, forced, stops) == found, (banned, forced, stops)


@kinds
def test_progress_counts_the_tokens_that_are_missing(kind):
    tokenizer = TOKENIZERS[kind]
    made = automata.build(tokenizer, (), ("abba", "cat"), (), SPECIALS)
    usable = np.setdiff1d(np.arange(tokenizer.vocab_size), [*SPECIALS, EOS])
    next_sv, progress_s = np.array(made.table_sv), np.array(made.progress_s)
    for first, last in zip(np.array(made.first_p).tolist(), np.array(made.last_p).tolist(), strict=True):
        assert progress_s[first] == 0 and progress_s.min() == 0
        reachable, found = {first}, {first}
        while found:  # breadth first, from the beginning: the words are reached in as many steps as progress says
            found = {int(s) for state in found for s in next_sv[state, usable]} - reachable
            reachable |= found
        for state in reachable:
            gain = progress_s[next_sv[state, usable]].max() - progress_s[state]
            assert gain == (progress_s[state] < progress_s[last])
    steps = [len(tokenizer.encode(text)) for text in ("abba", "cat")]
    assert 0 < made.furthest <= sum(steps) and (kind not in ("bytes", "characters") or made.furthest == 7)


def test_what_cannot_be_is_refused():
    tokenizer = TOKENIZERS["characters"]
    assert automata.build(tokenizer, (), (), (), SPECIALS) is None
    with pytest.raises(UserError, match="cannot write 'zebra'"):
        automata.build(tokenizer, (), ("zebra",), (), SPECIALS)
    for banned, forced in itertools.product([("ca", "x")], [("cat",), ("aca",)]):
        with pytest.raises(UserError, match="--ban bans"):
            Options(ban=banned, force=forced, beam_size=2)
    for strings in ({"force": "a.b", "stop": "."}, {"stop": "end", "ban": "n"}):
        with pytest.raises(UserError, match="leave one of them out"):
            Options(beam_size=2, **strings)
    for name in ("ban", "force", "stop"):
        for wrong in ("\ud800", (3,), 3, b"x", ("",), "x" * 10**6):
            with pytest.raises(UserError, match=f"--{name}"):
                Options(beam_size=2, **{name: wrong})
        for one in ("ab", ["ab"], ("ab",)):  # one string is one string
            assert getattr(Options(beam_size=2, **{name: one}), name) == ("ab",)


@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(getattr(Options(), name), tuple)])
def test_a_number_of_the_wrong_type_is_refused_by_name(name):
    for wrong in ("1", None, True, [1], *([1.5] if isinstance(getattr(Options(), name), int) else [])):
        with pytest.raises(UserError, match=f"--{name}: .* is no "):
            Options(**{name: wrong})


@kinds
def test_a_banned_string_inside_the_beginning_of_another_is_banned_too(kind):
    made = automata.build(TOKENIZERS[kind], ("ab", "aabba"), (), (), SPECIALS)
    states_np = read_through(made, TOKENIZERS[kind].encode(" aab"))
    assert states_np[-1, 0] == made.last_p[0]


def test_long_tokens_make_no_program_that_xla_takes_for_ever_to_compile():
    """Look-ups one after the other, 40 bytes of a token, are a loop for XLA too; a chain of them it would not end to fuse."""
    tokens = [b"a" * 40, *(bytes([byte]) for byte in range(64, 128))]
    made = automata.of_bytes(tokens, [b"zz"], [b"ab"], [], ())
    for each in (made, dataclasses.replace(made, table_sv=None)):
        held = Constraints(automata=each)

        def loop(states_np, held=held):
            def body(count, states_np):
                after_npv = states_after(held.automata, states_np)
                return read(held, after_npv[..., count], jnp.zeros(3, jnp.int32))

            return jax.lax.fori_loop(0, 4, body, states_np)

        states_np = unread(held, 3)
        assert jax.jit(loop)(states_np).shape == states_np.shape
