"""The ids of a split, and the corpus of texts or pairs that the task makes from them."""

import dataclasses
import functools
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lm.batch import UNK
from lm.config import DataConfig
from lm.config.tasks import ANSWER_KINDS, TASKS
from lm.data.batches import objectives
from lm.data.batches.corpus import Copies, Corpus, Noised, PrefixPairs, Stored, Subset
from lm.data.front_ends import FRONT_ENDS
from lm.data.read import store
from lm.data.read.sources import Split
from lm.data.read.store import Finished, Records, Shard
from lm.data.text.spans import Spans
from lm.data.text.tokenizers.learning import train_tokenizer
from lm.data.text.tokenizers.tokenizer import UNKNOWN, Tokenizer
from lm.data.text.tokenizers.unknown import Unknown, unknown_of
from lm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as ids, with the counts that its metrics are divided by."""

    split: Split
    corpus: Corpus  # texts or pairs, as the task reads them
    unknown: int  # UNK ids in sources and targets
    target_bytes: int  # UTF-8 bytes of the targets
    # The floor: nats per example, the mean of -log p under the process that generated the examples. It is the lowest
    # mean loss that any model can reach. None if the data does not give these probabilities.
    floor: float | None = None
    unpointed: int = 0  # examples that are left out of the corpus because their target is not a span of their source
    # int [n, 3]: the fields of `Unknown` for the target of each example. If an objective makes the targets, there is
    # one row with the sums over all of them.
    lost_n3: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1, 3), int))
    pointed: np.ndarray | None = None  # if targets must be spans: the numbers of the examples that are in the corpus

    @property
    def documents(self) -> int:
        """The number of documents; examples that continue one another are one document."""
        return int(np.sum(self.corpus.closed))

    @property
    def lost(self) -> Unknown:
        """The counts of unknown tokens, summed over all targets."""
        return Unknown.total(self.lost_n3)

    @property
    def tokens(self) -> int:
        """The number of target tokens, the EOS of each document included."""
        return int(np.sum(self.corpus.lengths(0)[:, 1]) + np.sum(self.corpus.closed))


def make_tokenizer(config: DataConfig, train: Split) -> Tokenizer:
    """Returns a tokenizer that is trained on the sources and targets of the training split alone."""
    texts = (text for example in train.examples for text in (example.source, example.target) if text is not None)
    sentinels = config.tokenizer.sentinels or _sentinels(config)
    return train_tokenizer(config.tokenizer, texts, sentinels, train.examples.fingerprint)


def _sentinels(config: DataConfig, longest: int | None = None) -> int:
    """Returns the most sentinels that the noise needs in texts of `longest` ids; None: texts that fill `max_length`."""
    if config.task != "denoise":
        return 0
    if config.noise.kind == "bart":
        return 1
    longest = config.max_length - 1 if longest is None else longest
    return objectives.spans_sizes(longest, config.noise.rate, config.noise.mean_span)[2]


def encode(split: Split, tokenizer: Tokenizer, config: DataConfig, seed: int = 0, training: bool = False) -> Encoded:
    """Returns the corpus of a split; its ids are read from the cache, or computed and cached.

    With `data.tokenizer.sampling`, training data has `data.tokenizer.copies` sampled segmentations, one per epoch in
    turn. Other splits have one segmentation.

    Args:
        split: the examples.
        tokenizer: makes ids from texts.
        config: names the task, and the limits of its sources and targets.
        seed: seed of the noise of `denoise` and of the splits of `prefix`.
        training: whether the split is training data.

    Raises:
        UserError: no target is a span of its source, or the tokenizer has too few sentinels.
    """
    sampled = config.tokenizer.copies if training and config.tokenizer.sampling else 0
    versions = [_records(split, tokenizer, config, copy) for copy in (range(sampled) or [None])]
    dtype = _dtype(tokenizer)
    task = TASKS[config.task]
    front_end = FRONT_ENDS[task.source or "text"]
    stored = [Stored(each, dtype, front_end) for each in versions]
    corpus: Corpus = Copies(stored) if sampled else stored[0]
    records, floor = versions[0], None
    if records.total("log_probs") == len(records):
        floor = 0.0 - records.total("log_prob") / len(records)
    target_bytes, lost_n3 = int(records.total("target_bytes")), records.table[:, 3:]
    if task.has_source and not task.pairs:
        texts, corpus = corpus, pretraining_pairs(config, tokenizer, corpus, seed)
        if training:  # targets differ from epoch to epoch, so estimate: unknown tokens in proportion to their length
            share = np.sum(corpus.lengths(0)[:, 1]) / max(np.sum(texts.lengths(0)[:, 1]), 1)
            lost_n3 = np.array([[round(min(share, 1) * count) for count in Unknown.total(lost_n3)]])
        else:
            target_bytes, lost_n3 = _of_made(corpus, tokenizer, Unknown.total(lost_n3))
        floor = None  # the floor of the texts is not the floor of the pairs
    unpointed, pointed = 0, None
    if ANSWER_KINDS[task.answer].located:
        counts = np.min([corpus.lengths(variant)[:, 1] for variant in range(corpus.variants)], axis=0)
        # An empty target is a valid answer: the model points at the end of the source.
        pointed = np.flatnonzero((counts > 0) | (split.examples.table[:, 1] == 0))
        if not len(pointed):
            reason = f"has no target that is a span of at most {config.span} tokens of its source"
            raise UserError(
                f"config.data.{split.name}", reason, "use config.data.task=seq2seq, or config.data.tokenizer.kind=bytes"
            )
        unpointed = len(corpus) - len(pointed)
        corpus, floor = (Subset(corpus, pointed), None) if unpointed else (corpus, floor)
        lost_n3 = lost_n3[pointed]
    return Encoded(split, corpus, int(records.total("unknown")), target_bytes, floor, unpointed, lost_n3, pointed)


def _of_made(corpus: Corpus, tokenizer: Tokenizer, lost: Unknown) -> tuple[int, np.ndarray]:
    """Returns (UTF-8 bytes, `lost_n3`) of targets that an objective makes from texts.

    An UNK in such a target cannot be traced back to its bytes in the text, so it counts as the mean over all UNKs.
    """
    sentinels = range(tokenizer.own_size, tokenizer.own_size + tokenizer.sentinels)
    targets = (target[~np.isin(target, sentinels)] for _, target in corpus.take(range(len(corpus)), 0))
    size = tokens = 0
    for ids in targets:
        size += len(tokenizer.decode(ids).encode())
        tokens += int(np.sum(ids == UNK))
    unknown_bytes = round(tokens * lost.bytes / max(lost.tokens, 1))
    size += unknown_bytes - tokens * len(UNKNOWN.encode())
    return size, np.array([[tokens, unknown_bytes, lost.altered]])


def _dtype(tokenizer: Tokenizer) -> str:
    """Returns the dtype of ids on disk."""
    return "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"


def _records(split: Split, tokenizer: Tokenizer, config: DataConfig, copy: int | None = None) -> Records:
    """Returns the records of a split's ids; `copy` is the number of a sampled segmentation, None the usual one."""
    alpha, examples, dtype = config.tokenizer.sampling if copy is not None else 0, split.examples, _dtype(tokenizer)
    versions = [ENCODING, importlib.metadata.version("sentencepiece")]
    task = TASKS[config.task]
    answer, front_end = ANSWER_KINDS[task.answer], FRONT_ENDS[task.source or "text"]
    kind = f"spans of {config.span}" if answer.located else answer.among
    kind = kind if task.source in ("", "text") else f"{kind} of {task.source}"
    key = store.key_of("ids", kind, versions, examples.fingerprint, tokenizer.fingerprint, alpha, copy)
    spans = Spans(tokenizer) if answer.located else None

    def ids(texts: list[str], seed: int) -> list[np.ndarray]:
        return tokenizer.sample_batch(texts, alpha, seed) if copy is not None else tokenizer.encode_batch(texts)

    def shard(numbers: range) -> Shard:
        chosen = examples.read(numbers)
        seed = numbers.start * config.tokenizer.copies + copy if copy is not None else 0
        texts = [example.target for example in chosen]
        found = [example.source for example in chosen if example.source is not None]
        sources_ = [np.zeros(0, np.int32)] * len(texts)
        if found:
            sources_ = front_end.encode(found, tokenizer, lambda given: ids(given, seed + 2**31))
        if spans:
            known = [example.references for example in chosen]
            spanned = map(spans.first, found, sources_, known, itertools.repeat(config.span))
            texts, targets = map(list, zip(*spanned, strict=True))
        else:  # a label is an item of a fixed list, so its segmentation is never sampled
            targets = tokenizer.encode_batch(texts) if answer.among == "labels" else ids(texts, seed)
        lost = [
            spans.unknown(text, target) if spans else unknown_of(tokenizer, text, target)
            for text, target in zip(texts, targets, strict=True)
        ]
        log_probs = [example.log_prob for example in chosen if example.log_prob is not None]
        goes_on = examples.table[numbers.start + 1 : numbers.stop + 1, 2]  # whether the next example continues this one
        closed = 1 - np.append(goes_on, np.zeros(len(numbers) - len(goes_on), np.int32))
        note = {
            "unknown": sum(map(front_end.unknown, sources_)) + sum(each.tokens for each in lost),
            "target_bytes": sum(
                len(text.encode())
                for text, target in zip(texts, targets, strict=True)
                if len(target) or not answer.located
            ),
            "log_probs": len(log_probs),
            "log_prob": math.fsum(log_probs),
        }
        table = np.array([[*map(len, sources_)], [*map(len, targets)], closed, *zip(*lost, strict=True)], np.int32).T
        records = [
            front_end.to_bytes(source, dtype) + target.astype(dtype).tobytes()
            for source, target in zip(sources_, targets, strict=True)
        ]
        return Shard(records, table, note)

    def make(finished: Sequence[Finished]) -> Iterator[Shard]:
        ranges = store.shard_ranges((np.maximum(examples.table[:, 0], 0) + examples.table[:, 1]).tolist())
        return map(shard, itertools.islice(ranges, len(finished), None))

    return store.stored(key, make, f"encoding {split.name}", len(examples)).check()


ENCODING = 2  # part of the cache key: raise it when the same examples and tokenizer give other records


def pretraining_pairs(config: DataConfig, tokenizer: Tokenizer, corpus: Corpus, seed: int) -> Corpus:
    """Returns the pairs that a task with an encoder (`prefix`, `denoise`) makes from a corpus of texts."""

    def longest(sizes: Callable[[int], tuple[int, int]]) -> int:
        """Returns the longest piece whose source and target, with EOS, both fit into `max_length`."""
        return next((n for n in range(config.max_length - 1, 0, -1) if max(sizes(n)) < config.max_length), 1)

    def check_sentinels(most: int) -> None:
        if (needed := _sentinels(config, most)) > tokenizer.sentinels:
            reason = f"needs {needed} sentinels, and the tokenizer has {tokenizer.sentinels}"
            raise UserError("config.data.noise", reason, f"give config.data.tokenizer.sentinels={needed}")

    noise = config.noise
    if config.task == "prefix":
        shares = {"least": config.prefix_least, "most": config.prefix_most}
        most, cuts = (functools.partial(each, **shares) for each in (objectives.prefix_most, objectives.cuts))
        return PrefixPairs(corpus, longest(most), cuts, seed)
    if noise.kind == "spans":
        rates = {"rate": noise.rate, "mean_span": noise.mean_span}
        sentinels = np.array([tokenizer.sentinel(i) for i in range(tokenizer.sentinels)], np.int32)
        sizes = lambda n: objectives.spans_sizes(n, **rates)[:2]
        most = longest(sizes)
        check_sentinels(min(most, int(corpus.lengths(0)[:, 1].max())))
        made = functools.partial(objectives.spans, **rates, sentinel_ids=sentinels)
        return Noised(corpus, most, made, sizes, seed)
    check_sentinels(1)
    rates = {"infilling": noise.infilling, "deletion": noise.deletion, "mean_span": noise.mean_span}
    how = {
        "permutation": noise.permutation,
        "mask_id": tokenizer.sentinel(0),
        "sentence_ends": sentence_ends(tokenizer),
    }
    made, sizes = functools.partial(objectives.bart, **rates, **how), lambda n: (objectives.bart_most(n, **rates), n)
    return Noised(corpus, longest(sizes), made, sizes, seed)


def sentence_ends(tokenizer: Tokenizer) -> np.ndarray:
    """Returns bool [vocab]: whether the text of an id ends a sentence."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return np.array([piece.endswith((".", "!", "?", "\n", "<0x0A>", "\u3002", "\uff01", "\uff1f")) for piece in pieces])
