"""Tokenizers: round trips, special ids, saving, and the mistakes a user can make."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm.batch import BOS, EOS, PAD, UNK
from lm.config import NORMALIZATIONS, TOKENIZERS, Names, TokenizerConfig
from lm.data.text.tokenizers.learning import train_tokenizer
from lm.data.text.tokenizers.saved import load_tokenizer, save_tokenizer
from lm.data.text.tokenizers.subwords import SentencePiece
from lm.data.text.tokenizers.unknown import unknown_of
from lm.data.text.tokenizers.vocabulary import Vocabulary
from lm.errors import UserError

TEXTS = [
    "the cat sat on the mat.\nthe dog sat on the log!\n",
    "a rat ran past the cat, and the cat ran after it\tfast.",
    "二只猫坐在垫子上。一只狗跑了。",
] * 4
KINDS = {"bytes": 0, "characters": 0, "words": 0, "unigram": 300, "bpe": 300}
LOSSLESS = ("bytes", "unigram", "bpe")


@pytest.fixture(scope="module")
def trained():
    return {kind: train_tokenizer(TokenizerConfig(kind, size), TEXTS) for kind, size in KINDS.items()}


def check_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert not np.isin(ids, [PAD, BOS, EOS, UNK]).any() and (ids < tokenizer.vocab_size).all()
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(text=st.text())
@example(text="")
@example(text="a\nb\r\n\n\tc  d ")
@example(text="▁a ▁▁b\u2585\u2047")
@example(text="<s></s><pad><unk><0x41>")
@example(text="\0\ufeff\ufffd\u2028\U0010ffff")
def test_what_is_encoded_is_decoded_whatever_the_text(trained, kind, text):
    check_round_trip(trained[kind], text)


@settings(deadline=None)
@given(text=st.text(st.sampled_from(sorted(set("".join(TEXTS))))))
def test_characters_lose_nothing_they_know(trained, text):
    check_round_trip(trained["characters"], text)


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(["the", " cat", " sat", "\n", "\t", ".", ",", " ran", "a"])))
def test_words_lose_nothing_they_know(trained, words):
    text = "".join(words)
    ids = trained["words"].encode(text)
    if UNK not in ids:  # two words run together are another word
        assert trained["words"].decode(ids) == text


def test_words_keep_all_of_their_own_training_text(trained):
    for text in TEXTS:
        check_round_trip(trained["words"], text)
    assert trained["words"].pieces(trained["words"].encode("the cat.\n")) == ["the", " cat", ".", "\n"]


def test_a_character_is_a_word_where_no_spaces_are_written(trained):
    tokenizer = trained["words"]
    assert tokenizer.pieces(tokenizer.encode("一只猫跑了。the cat")) == [*"一只猫跑了。", "the", " cat"]
    text = "ในบ้าน かな カナ漢字 xy二z"
    mixture = train_tokenizer(TokenizerConfig("words"), [text])
    check_round_trip(mixture, text)
    assert mixture.pieces(mixture.encode(text)[6:]) == [" か", "な", " カ", "ナ", "漢", "字", " xy", "二", "z"]


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_the_unknown_is_unk_and_decodes_to_the_replacement_character(trained, kind):
    ids = trained[kind].encode("Zürich \U0010ffff")
    assert UNK in ids and "\ufffd" in trained[kind].decode(ids)


@pytest.mark.parametrize("added", [(), ("<user>",)])
@pytest.mark.parametrize("kind", [*KINDS, "sentencepiece"])
@settings(deadline=None, max_examples=30)
@given(
    words=st.lists(
        st.sampled_from(
            ["the", " cat", " Z\u00fcrich", "\u20ac\U0001f600", "\n", "<user>", " Ж", "x", ".", " ", "\u732b"]
        )
    )
)
@example(words=["\u732b", " Z\u00fcrich"])
def test_a_text_is_what_is_known_and_what_is_unknown(trained, kind, added, words):
    if kind == "sentencepiece":
        tokenizer = made_elsewhere(normalization_rule_name="identity", add_dummy_prefix=False)
    else:
        tokenizer = trained[kind]
    tokenizer, text = tokenizer.extended(added), "".join(words)
    ids = tokenizer.encode(text)
    found = unknown_of(tokenizer, text, ids)
    known = len(tokenizer.decode(ids).encode()) - len("\ufffd".encode()) * found.tokens
    assert found.tokens == np.sum(ids == UNK)
    assert found.altered or found.bytes + known == len(text.encode())
    assert found.bytes >= found.tokens and (found.tokens or not found.bytes)
    assert not found.altered or kind == "sentencepiece"
    # A distribution over byte strings: a string of n bytes has 257 ** -(n + 1).
    assert found.nats == pytest.approx((found.bytes + found.tokens) * math.log(257))


@pytest.mark.parametrize(
    ("how", "text", "altered"),
    [
        ({}, "the  cat", True),  # SentencePiece's own defaults drop a space
        ({}, "the cat Ж", False),  # an unknown character alone alters nothing
        ({"remove_extra_whitespaces": False, "normalization_rule_name": "nfkc"}, "\ufb01 \u2460", True),
        ({"remove_extra_whitespaces": False, "normalization_rule_name": "nfkc_cf"}, "The cat", True),
        ({"remove_extra_whitespaces": False, "normalization_rule_name": "identity"}, "The  cat", False),
    ],
)
def test_a_text_that_a_normalisation_changes_is_altered(how, text, altered):
    tokenizer = made_elsewhere(**how)
    assert tokenizer.alters(text) == altered
    ours = train_tokenizer(TokenizerConfig("bpe", 300, normalization="nfkc"), TEXTS)
    assert ours.alters("\ufb01 \u2460") and not ours.alters("the  cat Ж")


@functools.cache
def made_elsewhere(**how) -> SentencePiece:
    """A SentencePiece model without bytes to fall back on."""
    model, lines = io.BytesIO(), " ".join(TEXTS[:2]).split("\n")
    given = {"sentence_iterator": iter(lines), "model_writer": model, "vocab_size": 40, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(**given, minloglevel=2, **how)
    return SentencePiece("sentencepiece", model.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_the_same_for_every_kind(trained, kind):
    tokenizer = trained[kind]
    a, b = tokenizer.encode("a")[0], tokenizer.encode(".")[0]
    assert tokenizer.decode([PAD, BOS, a, UNK, b, EOS, PAD]) == "a\ufffd."
    assert tokenizer.decode(np.array([BOS, EOS])) == tokenizer.decode([]) == ""
    assert tokenizer.pieces([PAD, BOS, EOS, UNK]) == ["<pad>", "<s>", "</s>", "<unk>"]
    # Every id can be decoded and shown, as a model may write any of them.
    everything = range(tokenizer.vocab_size)
    assert isinstance(tokenizer.decode(everything), str)
    assert len(tokenizer.pieces(everything)) == tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_character_raises_the_error_of_python(trained, kind):
    if kind != "words":  # where it is one more unknown word
        with pytest.raises(UnicodeEncodeError):
            trained[kind].encode("a\ud800")


def test_broken_utf8_decodes_to_the_replacement_character(trained):
    for kind in LOSSLESS:
        tokenizer = trained[kind]
        ids = trained["bytes"].encode("é")  # ids of bytes are the same in all three
        assert tokenizer.decode([ids[0], *tokenizer.encode("a")]) == "\ufffda"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(trained, kind, tmp_path):
    tokenizer = trained[kind]
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert (loaded.kind, loaded.vocab_size, loaded.fingerprint) == (kind, tokenizer.vocab_size, tokenizer.fingerprint)
    text = "the cat▁ \nZürich 猫"
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    everything = range(tokenizer.vocab_size)
    assert loaded.decode(everything) == tokenizer.decode(everything)


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_tokenizer_and_other_text_another(trained, kind, tmp_path):
    again = train_tokenizer(TokenizerConfig(kind, KINDS[kind]), iter(TEXTS))
    assert again.fingerprint == trained[kind].fingerprint
    for folder, tokenizer in (("one", trained[kind]), ("two", again)):
        save_tokenizer(tokenizer, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    other = train_tokenizer(TokenizerConfig(kind, KINDS[kind]), [text.replace("cat", "fox") for text in TEXTS])
    assert (other.fingerprint != again.fingerprint) == (kind != "bytes")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_of_texts_seen_before_is_not_trained_again(trained, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE_DIR", str(tmp_path))
    taken = []

    def texts():
        taken.append(kind)
        yield from TEXTS

    def made(fingerprint="of the texts", **settings):
        config = TokenizerConfig(kind, **{"vocab_size": KINDS[kind], **settings})
        return train_tokenizer(config, texts(), fingerprint=fingerprint).fingerprint

    assert made() == made() == trained[kind].fingerprint and len(taken) == 1
    others = [made("of other texts"), made(vocab_size=295), made(normalization="nfkc"), made(pieces=Names(["<x>"]))]
    assert len(taken) == 1 + len(others)


def test_fingerprints_of_kinds_differ(trained):
    assert len({tokenizer.fingerprint for tokenizer in trained.values()}) == len(KINDS)
    same = ("a", "b")
    assert Vocabulary("characters", same).fingerprint != Vocabulary("words", same).fingerprint


def test_vocabularies_are_ordered_by_frequency_then_code_point():
    tokenizer = train_tokenizer(TokenizerConfig("characters", 0), ["bbbddcaa"])
    assert tokenizer.pieces(range(4, tokenizer.vocab_size)) == ["b", "a", "d", "c"]
    limited = train_tokenizer(TokenizerConfig("characters", 6), ["bbbddcaa"])
    assert limited.vocab_size == 6 and limited.encode("bacd").tolist() == [4, 5, UNK, UNK]
    words = train_tokenizer(TokenizerConfig("words", 6), ["the cat the cat the end"])
    assert words.vocab_size == 6 and words.pieces([4, 5]) == [" cat", " the"]


@pytest.mark.parametrize("kind", KINDS)
def test_vocab_size_counts_the_special_ids(trained, kind):
    known = {"bytes": 256, "characters": len(set("".join(TEXTS)))}
    expected = known[kind] + 4 if kind in known else KINDS[kind] or trained[kind].vocab_size
    assert trained[kind].vocab_size == expected
    assert max(trained[kind].encode("".join(TEXTS))) < expected


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_documents_and_lines_of_any_length_train(kind):
    syllables = "mo ta ki lu ra ne so pi".split()
    words = [a + b + c for a in syllables for b in syllables for c in syllables]
    text = " ".join(words[i * i * i // 7 % 512] for i in range(15_000))  # one line of 100 kB
    tokenizer = train_tokenizer(TokenizerConfig(kind, 400), [text])
    assert tokenizer.vocab_size == 400
    assert len(tokenizer.encode(text)) < len(text) / 2
    check_round_trip(tokenizer, text)
    if kind == "bpe":  # merges of merges, on either side
        assert tokenizer.sample_batch([text], 0.0, 0)[0].tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_signs_that_sentencepiece_keeps_for_itself_cost_no_line(trained, kind):
    again = train_tokenizer(TokenizerConfig(kind, KINDS[kind]), [text + "\t\u2585\0\u2581\u3000" for text in TEXTS])
    assert again.fingerprint == trained[kind].fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_is_encoded_in_well_under_a_second(trained, kind):
    text = "".join(TEXTS) * (1_000_000 // len("".join(TEXTS)))
    trained[kind].encode("warm")
    began = time.perf_counter()
    ids = trained[kind].encode(text)
    assert time.perf_counter() - began < 2  # 0.05 to 0.5 s, on a machine that others use too
    assert trained[kind].decode(ids) == text


# ---- batches and samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(texts=st.lists(st.text() | st.sampled_from(["", " the cat▁ sat", "▁▁", *TEXTS]), max_size=9))
def test_a_batch_is_encoded_as_its_texts_are(trained, kind, texts):
    batch = trained[kind].encode_batch(texts)
    assert len(batch) == len(texts)
    for ids, text in zip(batch, texts, strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == trained[kind].encode(text).tolist()


def test_half_a_character_in_a_batch_raises_the_error_of_python(trained):
    for call in (trained["bpe"].encode_batch, lambda texts: trained["bpe"].sample_batch(texts, 0.1, 0)):
        with pytest.raises(UnicodeEncodeError):
            call(["a", "a\ud800"])


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@settings(deadline=None)
@given(
    texts=st.lists(st.text() | st.sampled_from(["a ▁ the cat", *TEXTS]), max_size=3),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_a_sample_is_decoded_to_its_text_and_is_a_function_of_its_arguments(trained, kind, texts, alpha, seed):
    samples = trained[kind].sample_batch(texts, alpha, seed)
    assert [trained[kind].decode(ids) for ids in samples] == texts
    assert all(ids.dtype == np.int32 for ids in samples)
    again = trained[kind].sample_batch(texts, alpha, seed)
    assert [ids.tolist() for ids in again] == [ids.tolist() for ids in samples]


def digest(samples) -> str:
    return hashlib.sha256(repr([ids.tolist() for ids in samples]).encode()).hexdigest()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_samples_are_the_same_in_every_thread_and_process_and_others_with_another_seed(trained, kind, tmp_path):
    tokenizer = trained[kind]
    expected = digest(tokenizer.sample_batch(TEXTS, 0.2, 7))
    assert digest(tokenizer.sample_batch(TEXTS, 0.2, 8)) != expected
    assert len({ids.tobytes() for ids in tokenizer.sample_batch(TEXTS[:1] * 9, 0.2, 7)}) > 5
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: digest(tokenizer.sample_batch(TEXTS, 0.2, 7)), range(8)))
    assert set(found) == {expected}
    save_tokenizer(tokenizer, tmp_path)
    program = (
        "import sys; from tests.data.test_tokenizers import *; "
        "print(digest(load_tokenizer(sys.argv[1]).sample_batch(TEXTS, 0.2, 7)))"
    )
    for hash_seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        found = subprocess.check_output([sys.executable, "-c", program, str(tmp_path)], env=environment, text=True)
        assert found.strip() == expected


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_samples_are_distributed_as_those_of_sentencepiece(trained, kind, alpha):
    word, draws = " cat ran past", 5000
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained[kind].model)
    ours = collections.Counter(ids.tobytes() for ids in trained[kind].sample_batch([word] * draws, alpha, 0))
    those = collections.Counter(
        np.array(theirs.sample_encode_as_ids(word, -1, alpha), np.int32).tobytes() for _ in range(draws)
    )
    common = [ids for ids in ours | those if ours[ids] + those[ids] > 200]
    assert len(common) > 3
    for ids in common:
        assert abs(ours[ids] - those[ids]) < 6 * (ours[ids] + those[ids]) ** 0.5


def test_samples_without_noise_are_the_best_segmentation(trained):
    texts = [*TEXTS, "é ▁ x  the  猫"]
    for ids, text in zip(trained["bpe"].sample_batch(texts, 0.0, 0), texts, strict=True):
        assert ids.tolist() == trained["bpe"].encode(text).tolist()
    score = sentencepiece.SentencePieceProcessor(model_proto=trained["unigram"].model).get_score
    for ids, text in zip(trained["unigram"].sample_batch(texts, 1e5, 0), texts, strict=True):  # there may be ties
        assert sum(score(int(i)) for i in ids) == pytest.approx(
            sum(score(int(i)) for i in trained["unigram"].encode(text))
        )


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_gets_a_tokenizer_that_was_used(extended, kind):
    tokenizer = extended[kind]
    if kind in ("unigram", "bpe"):
        tokenizer.sample_batch(TEXTS, 0.1, 0)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.vocab_size, copy.fingerprint) == (tokenizer.vocab_size, tokenizer.fingerprint)
    for text in TEXTS:
        assert copy.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_kinds_of_one_segmentation_are_not_sampled(trained):
    for kind in ("bytes", "characters", "words"):
        with pytest.raises(UserError, match=f"sampling: a {kind} tokenizer has one segmentation"):
            trained[kind].sample_batch(TEXTS, 0.1, 0)


# ---- normalisation, pieces of one's own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normalizing():
    return {
        (kind, rule): train_tokenizer(TokenizerConfig(kind, 300, normalization=rule), TEXTS)
        for kind in ("unigram", "bpe")
        for rule in NORMALIZATIONS
    }


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("rule", NORMALIZATIONS)
@settings(deadline=None)
@given(text=st.text() | st.text(st.characters(categories=["Mn", "Lm", "Zs", "No"])))
@example(text="ﬁ ½ ﾊﾟ ①▁ Ａ\u3000é e\u0301")
@example(text="\u2171\u0303 \u33ce\u0301 \u0304\u0345")  # where SentencePiece alone needs two rounds
def test_what_was_normalised_is_not_changed_again(normalizing, kind, rule, text):
    tokenizer = normalizing[kind, rule]
    once = tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(once)) == once
    assert tokenizer.decode(tokenizer.sample_batch([text], 0.2, 0)[0]) == once
    assert rule != "identity" or once == text


def test_normalisation_is_that_of_its_name(normalizing):
    for kind in ("unigram", "bpe"):
        once = {rule: normalizing[kind, rule] for rule in NORMALIZATIONS}
        once = {rule: tokenizer.decode(tokenizer.encode("Ａ ﬁ½")) for rule, tokenizer in once.items()}
        assert once["identity"] == "Ａ ﬁ½" and once["nfkc"] == once["nmt_nfkc"] == "A fi1⁄2"
        assert once["nfkc_cf"] == once["nmt_nfkc_cf"] == "a fi1⁄2"
    assert len({tokenizer.fingerprint for tokenizer in normalizing.values()}) == len(normalizing)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_of_ones_own_are_never_cut(kind, tmp_path):
    own = ("<user>", "<user>:", "at", "猫|")
    tokenizer = train_tokenizer(TokenizerConfig(kind, 300, pieces=Names(own)), TEXTS)
    assert tokenizer.vocab_size == 300
    text = "<user>: the cat<user><use 猫| rat"
    expected = [[piece for piece in pieces if piece in own] for pieces in [tokenizer.pieces(tokenizer.encode(text))]]
    assert expected == [["<user>:", "at", "<user>", "猫|", "at"]]
    for ids in tokenizer.sample_batch([text] * 20, 0.3, 0):
        assert [piece for piece in tokenizer.pieces(ids) if piece in own] == expected[0]
        assert tokenizer.decode(ids) == text
    assert tokenizer.fingerprint != train_tokenizer(TokenizerConfig(kind, 300), TEXTS).fingerprint


@pytest.mark.parametrize(
    "own", [("",), ("a", "b", "a"), ("a b",), ("▁a",), ("<s>",), ("<extra_0>",), ("<0x41>",), ("a\n",)]
)
def test_pieces_that_cannot_be_had_are_refused(own):
    message = error_of(train_tokenizer, TokenizerConfig("unigram", 310, pieces=Names(own)), TEXTS)
    assert message.startswith("error: config.data.tokenizer.pieces: ")


def test_a_size_that_its_own_pieces_do_not_allow_names_the_one_it_does():
    own = Names(f"<p{i}>" for i in range(80))
    message = error_of(train_tokenizer, TokenizerConfig("unigram", 300, pieces=own), TEXTS)
    assert message.startswith("error: config.data.tokenizer.vocab_size: 300 is too small")
    allowed = int(message.rpartition(" ")[2])
    assert train_tokenizer(TokenizerConfig("unigram", allowed, pieces=own), TEXTS).vocab_size == allowed


ADDED = ("<user>", "at", "<bot>")


@pytest.mark.parametrize("kind", KINDS)
def test_added_pieces_are_never_cut_and_all_other_ids_keep_their_meaning(trained, extended, kind, tmp_path):
    for old in (trained[kind], extended[kind]):
        new = old.extended(ADDED)
        assert new.extended(reversed(ADDED)).added == new.added and old.extended(()).fingerprint == old.fingerprint
        used = range(old.unused.start)
        assert new.pieces(used) == old.pieces(used) and new.sentinels == old.sentinels
        assert new.pieces(range(used.stop, new.unused.start)) == list(new.added)
        assert new.vocab_size == max(old.vocab_size, new.unused.start)  # ids that filled up are used first
        plain = "the dog sits on the log!"
        np.testing.assert_array_equal(new.encode(plain), old.encode(plain))
        text = "<user>the cat <bot><user<user>"
        (ids, *_), again = new.encode_batch([text, plain]), new.encode(text)
        np.testing.assert_array_equal(ids, again)
        expected = [" <bot>" if kind == "words" else "<bot>", "<user>"]
        assert [piece for piece in new.pieces(ids) if piece in new.added and "at" not in piece][1:] == expected
        assert new.pieces(ids).count("at") == 1 and new.pieces(ids)[0] == "<user>"
        assert kind not in LOSSLESS or new.decode(ids) == text
        save_tokenizer(new, tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert loaded.added == new.added and loaded.fingerprint == new.fingerprint != old.fingerprint
        np.testing.assert_array_equal(loaded.encode(text), ids)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(parts=st.lists(st.text() | st.sampled_from(["<extra_0>", *ADDED, "<user", " ", "▁"])))
def test_text_with_added_pieces_is_decoded_to_itself(extended, kind, parts):
    tokenizer, text = extended[kind].extended(ADDED), "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode_marked(text)) == text
    if kind != "bytes":
        sampled = tokenizer.sample_batch([text, text], 0.3, 0)
        assert [tokenizer.decode(ids) for ids in sampled] == [text, text]
        assert all(np.isin(tokenizer.pieces(ids), ADDED).sum() >= text.count("<bot>") for ids in sampled)


def test_an_added_piece_cuts_none_that_a_tokenizer_was_made_with():
    made = train_tokenizer(TokenizerConfig("unigram", 300, pieces=Names(["<user>:"])), TEXTS)
    tokenizer = made.extended(["<user>", "<user>:"])
    assert tokenizer.added == ("<user>",)
    assert tokenizer.pieces(tokenizer.encode("<user>:<user>;"))[:2] == ["<user>:", "<user>"]
    assert tokenizer.encode("<user>:").tolist() == made.encode("<user>:").tolist()
    assert error_of(made.extended, ["a b"]).startswith("error: config.data.tokenizer.pieces: ")


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_are_added_after_all_ids_in_use(trained, kind):
    old = trained[kind]
    new = old.extended((), sentinels=2)
    assert new.pieces(range(old.vocab_size)) == old.pieces(range(old.vocab_size))
    assert [new.sentinel(i) for i in range(2)] == [old.vocab_size, old.vocab_size + 1]
    assert new.extended((), sentinels=1).fingerprint == new.fingerprint
    message = error_of(old.extended(["<user>"]).extended, (), 1)
    assert message.startswith("error: config.data.tokenizer.sentinels: is 1, more than")


# ---- sentinels, unused ids --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extended():
    return {
        kind: train_tokenizer(TokenizerConfig(kind, size, multiple_of=64), TEXTS, 11) for kind, size in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_and_unused_ids_come_after_its_own(trained, extended, kind, tmp_path):
    plain, tokenizer = trained[kind], extended[kind]
    own = plain.vocab_size
    assert [tokenizer.sentinel(i) for i in range(11)] == list(range(own, own + 11))
    assert tokenizer.vocab_size % 64 == 0 and 0 <= len(tokenizer.unused) < 64
    assert tokenizer.unused == range(own + 11, tokenizer.vocab_size)
    assert plain.unused == range(own, own) and plain.sentinels == 0
    for number in (-1, 11):
        with pytest.raises(IndexError):
            tokenizer.sentinel(number)
    names = tokenizer.pieces(range(own, tokenizer.vocab_size))
    assert names[:2] == ["<extra_0>", "<extra_1>"] and names[11:12] == ["<unused_0>"][: len(tokenizer.unused)]
    a = tokenizer.encode("a")
    ids = [*a, own + 10, own, BOS, *tokenizer.unused, *a, own + 1, EOS]
    assert tokenizer.decode(ids) == "a<extra_10><extra_0>a<extra_1>"
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.sentinels, loaded.multiple_of, loaded.fingerprint) == (11, 64, tokenizer.fingerprint)
    assert loaded.vocab_size == tokenizer.vocab_size and loaded.decode(ids) == tokenizer.decode(ids)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"sentinels": 11', '"sentinels": 12'))
    assert "was changed after it was saved" in error_of(load_tokenizer, tmp_path)


def test_unused_ids_do_not_part_a_character(extended):
    for kind in LOSSLESS:
        first, second = extended["bytes"].encode("é")
        assert extended[kind].decode([first, extended[kind].unused[0], second]) == "é"


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(parts=st.lists(st.text() | st.sampled_from(["<extra_0>", "<extra_10>", "<extra_11>", "<extra_01>", " ", "▁"])))
@example(parts=["<extra_0", "<extra_0>>", "<extra_1>", "<extra_" + "9" * 5000 + ">", "<extra_\u0661>"])
def test_marked_text_is_decoded_to_itself_and_plain_text_has_no_sentinel(extended, kind, parts):
    tokenizer, text = extended[kind], "".join(parts)
    ids = tokenizer.encode_marked(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    assert (ids >= tokenizer.own_size).sum() == sum(text.count(f"<extra_{i}>") for i in range(11))
    plain = tokenizer.encode(text)
    assert (plain < tokenizer.own_size).all() and tokenizer.decode(plain) == text


def test_fingerprints_and_files_without_them_are_those_of_before(trained, extended, tmp_path):
    assert (
        trained["bytes"].fingerprint == "388c5568fafc5325" and trained["characters"].fingerprint == "3a51f6d1471cffab"
    )
    everyone = [
        train_tokenizer(TokenizerConfig("bytes", sentinels=sentinels, multiple_of=multiple), [])
        for sentinels in (0, 1, 2)
        for multiple in (1, 2)
    ]
    assert len({tokenizer.fingerprint for tokenizer in everyone}) == 6
    save_tokenizer(trained["words"], tmp_path)
    assert set(json.loads((tmp_path / "tokenizer.json").read_text())) == {"version", "kind", "fingerprint", "pieces"}


def test_the_configuration_says_how_many_sentinels_there_are():
    assert train_tokenizer(TokenizerConfig("bytes", sentinels=5), [], 3).sentinels == 5
    assert train_tokenizer(TokenizerConfig("bytes"), [], 3).sentinels == 3


# ---- models made elsewhere --------------------------------------------------------------------------------------


def foreign_model(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "ids",
    [
        dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1),  # SentencePiece's own, no padding
        dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),  # T5's
        dict(unk_id=7, bos_id=5, eos_id=6, pad_id=40),
    ],
)
def test_a_model_made_elsewhere_gets_our_special_ids(ids, tmp_path):
    path = tmp_path / "foreign.model"
    path.write_bytes(foreign_model(vocab_size=50, model_type="bpe", user_defined_symbols=["<mask>"], **ids))
    tokenizer = train_tokenizer(TokenizerConfig(str(path), 0), [])
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    missing = sum(i < 0 for i in ids.values())
    assert tokenizer.vocab_size == theirs.get_piece_size() + missing
    assert tokenizer.pieces([PAD, BOS, EOS, UNK]) == ["<pad>", "<s>", "</s>", "<unk>"]
    text = "the cat sat on <mask> mat."
    encoded = tokenizer.encode(text)
    assert tokenizer.pieces(encoded) == theirs.encode(text, out_type=str)
    assert tokenizer.decode([BOS, *encoded, EOS, PAD]) == text
    assert len({*tokenizer.pieces(range(tokenizer.vocab_size))}) == tokenizer.vocab_size
    # It has no bytes to write an unknown character in.
    assert UNK in tokenizer.encode("the cat Ж sat")
    assert tokenizer.decode(tokenizer.encode("the cat Ж sat")) == "the cat \ufffd sat"
    save_tokenizer(tokenizer, tmp_path / "saved")
    path.unlink()
    loaded = load_tokenizer(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.encode(text), encoded)
    assert loaded.kind == "sentencepiece" and loaded.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_of_a_run_is_taken_whole(trained, kind, tmp_path):
    save_tokenizer(dataclasses.replace(trained[kind], sentinels=3), tmp_path)
    more = train_tokenizer(TokenizerConfig(f"{tmp_path}/tokenizer.json", sentinels=5), [])
    assert more.sentinels == 5 and more.own_size == trained[kind].own_size
    own = dataclasses.replace(trained[kind], sentinels=3).extended(["<new>"])
    save_tokenizer(own, tmp_path)
    taken = train_tokenizer(TokenizerConfig(f"{tmp_path}/tokenizer.json"), [], sentinels=7)
    assert taken.fingerprint == own.fingerprint and taken.vocab_size == own.vocab_size and taken.sentinels == 3


# ---- errors -----------------------------------------------------------------------------------------------------


def error_of(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_kind_names_the_nearest():
    message = error_of(train_tokenizer, TokenizerConfig("unigran", 320), TEXTS)
    assert message.startswith("error: config.data.tokenizer.kind: 'unigran' is unknown; did you mean unigram?")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_size_that_the_text_does_not_allow_names_the_one_it_does(kind):
    small = error_of(train_tokenizer, TokenizerConfig(kind, 100), TEXTS)
    assert small.startswith("error: config.data.tokenizer.vocab_size: 100 is too small")
    large = error_of(train_tokenizer, TokenizerConfig(kind, 100_000), TEXTS)
    assert large.startswith("error: config.data.tokenizer.vocab_size: 100000 is too large")
    for message in (small, large):
        allowed = int(message.rpartition(" ")[2])
        assert train_tokenizer(TokenizerConfig(kind, allowed), TEXTS).vocab_size == allowed


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_a_limit_below_the_special_ids_is_refused(kind):
    assert "config.data.tokenizer.vocab_size: 4 leaves no room" in error_of(
        train_tokenizer, TokenizerConfig(kind, 4), TEXTS
    )


@pytest.mark.parametrize("kind", ["characters", "words", "unigram", "bpe"])
def test_no_text_is_refused(kind):
    assert "config.data.train: has no text" in error_of(train_tokenizer, TokenizerConfig(kind, 320), ["", ""])


def test_a_model_that_is_missing_or_damaged_is_refused(tmp_path):
    path = tmp_path / "x.model"
    assert f"{path}: cannot be read (No such file" in error_of(train_tokenizer, TokenizerConfig(str(path), 0), [])
    for content in (b"", b"no model", foreign_model(vocab_size=50)[:500]):
        path.write_bytes(content)
        assert f"{path}: is not a SentencePiece model" in error_of(train_tokenizer, TokenizerConfig(str(path), 0), [])


def test_a_saved_tokenizer_that_is_missing_or_damaged_is_refused(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    assert f"{path}: no such file" in error_of(load_tokenizer, tmp_path)
    save_tokenizer(trained["words"], tmp_path)
    record = json.loads(path.read_text())
    for change in ({"version": 2}, {"kind": "wrods"}, {"kind": ["words"]}, {"pieces": None}):
        path.write_text(json.dumps(record | change))
        assert f"{path}: is damaged" in error_of(load_tokenizer, tmp_path)
    for content in ("", "[]", json.dumps(record)[:-9], '{"version": 1}'):
        path.write_text(content)
        assert f"{path}: is damaged" in error_of(load_tokenizer, tmp_path)
    path.write_text(json.dumps(record | {"pieces": record["pieces"][::-1]}))
    assert f"{path}: was changed after it was saved" in error_of(load_tokenizer, tmp_path)

    save_tokenizer(trained["bpe"], tmp_path)
    model = tmp_path / "tokenizer.model"
    model.write_bytes(trained["unigram"].model)
    assert f"{model}: was changed after it was saved" in error_of(load_tokenizer, tmp_path)
    model.unlink()
    assert f"{model}: cannot be read" in error_of(load_tokenizer, tmp_path)


def test_kinds_are_those_of_the_configuration(trained):
    assert set(trained) == set(TOKENIZERS)
