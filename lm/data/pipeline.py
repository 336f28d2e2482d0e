"""From sources to batches on their way to the device: encode once, lay out, load ahead."""

import dataclasses
import functools
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import grain
import numpy as np

from lm.config import DataConfig
from lm.data import batches, cleaning, objectives, sources, store
from lm.data.batches import Batch, Buckets, Layout, Streams
from lm.data.corpus import Copies, Corpus, Cut, Noised, Pieces, Stored, Subset
from lm.data.examples import Examples, Joined
from lm.data.packing import Packed
from lm.data.sources import Split
from lm.data.spans import Spans
from lm.data.store import Finished, Records, Shard
from lm.data.tokenizers import UNK, Tokenizer, train_tokenizer
from lm.errors import UserError
from lm.formats import Formats
from lm.tasks import TASKS, layout_of


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as ids, and what its figures are divided by."""

    split: Split
    corpus: Corpus  # what the task reads: texts, or pairs
    unknown: int  # ids that are UNK
    target_bytes: int  # UTF-8 bytes of the targets
    floor: float | None = None  # mean of -log p of the examples under their source (nats), where the data know it
    unpointed: int = 0  # examples that are not in the corpus, as their target is no span of their source

    @property
    def documents(self) -> int:
        """Examples, those that continue one another counted once."""
        return int(np.sum(self.corpus.closed))

    @property
    def tokens(self) -> int:
        """Target tokens, each example's EOS included (at most: `prefix` draws how many)."""
        return int(np.sum(self.corpus.lengths(0)[:, 1]) + np.sum(self.corpus.closed))


# ---- text -------------------------------------------------------------------------------------------------------


def load_splits(config: DataConfig, wanted: Collection[str] = ("train", "validation", "test")) -> dict[str, Split]:
    """The wanted splits of a configuration, cleaned; every example must fit the task."""
    cleaning.parse(config.cleaning)
    formats = formats_of(config)
    # What is dropped of the training data may depend on the others.
    read = ("train", "validation", "test") if "train" in wanted else wanted
    splits = sources.load_splits(config.train, config.validation, config.test, read, formats)
    for split in splits.values():
        check_examples(split.examples, config.task, f"config.data.{split.name}")
    if config.cleaning:
        for name in splits.keys() - {"train"}:
            changed = cleaning.changed(splits[name].examples, config.cleaning)
            splits[name] = dataclasses.replace(splits[name], examples=changed)
    if "train" in splits:
        evaluation = Joined([split.examples for name, split in splits.items() if name != "train"])
        kept, report = cleaning.cleaned(splits["train"].examples, config.cleaning, evaluation)
        if not len(kept):
            raise UserError("config.data.cleaning", "drops every training example", "take a step out of it")
        splits["train"] = dataclasses.replace(splits["train"], examples=kept, report=report)
    return {name: split for name, split in splits.items() if name in wanted}


def formats_of(config: DataConfig) -> Formats:
    """How the records of a configuration's sources become examples."""
    return Formats(config.source_format, config.target_format, tuple(config.turns), config.history)


def check_examples(examples: Examples, task: str, where: str) -> None:
    """Raises `UserError` if an example has no source and the task needs one, or the other way round."""
    wants = TASKS[task].pairs
    wrong = np.flatnonzero((examples.table[:, 0] >= 0) != wants)
    if len(wrong):
        has, needs = ("text", "source and target") if wants else ("source and target", "text")
        other = "lm" if wants else "seq2seq"
        what = f"example {wrong[0] + 1} is {has}, the task {task!r} needs {needs}"
        raise UserError(where, what, f"use other data, or config.data.task={other}")


def make_tokenizer(config: DataConfig, train: Split) -> Tokenizer:
    """Trained on the training split only, on sources and targets alike."""
    texts = (text for example in train.examples for text in (example.source, example.target) if text is not None)
    sentinels = config.tokenizer.sentinels or _sentinels(config)
    return train_tokenizer(config.tokenizer, texts, sentinels, train.examples.fingerprint)


def _sentinels(config: DataConfig, longest: int | None = None) -> int:
    """How many the noise of the task can need, in texts of at most so many ids; None: of all that there is room for."""
    if config.task != "denoise":
        return 0
    if config.noise.kind == "bart":
        return 1
    longest = config.max_length - 1 if longest is None else longest
    return objectives.spans_sizes(longest, config.noise.rate, config.noise.mean_span)[2]


# ---- ids --------------------------------------------------------------------------------------------------------


def encode(split: Split, tokenizer: Tokenizer, config: DataConfig, seed: int = 0, training: bool = False) -> Encoded:
    """The ids of a split, from the cache or made now, and what the task makes of them.

    With `data.tokenizer.sampling` training data has several segmentations; nothing else has.
    """
    sampled = config.tokenizer.copies if training and config.tokenizer.sampling else 0
    versions = [_records(split, tokenizer, config, copy) for copy in (range(sampled) or [None])]
    dtype = _dtype(tokenizer)
    corpus: Corpus = Copies([Stored(each, dtype) for each in versions]) if sampled else Stored(versions[0], dtype)
    records, floor = versions[0], None
    if records.total("log_probs") == len(records):
        floor = 0.0 - records.total("log_prob") / len(records)
    target_bytes = int(records.total("target_bytes"))
    if TASKS[config.task].has_source and not TASKS[config.task].pairs:
        corpus = pieces(config, tokenizer, corpus, seed)
        if not training:
            sentinels = range(tokenizer.own_size, tokenizer.own_size + tokenizer.sentinels)
            targets = (target[~np.isin(target, sentinels)] for _, target in corpus.take(range(len(corpus)), 0))
            target_bytes = sum(len(tokenizer.decode(ids).encode()) for ids in targets)
        floor = None  # that of the texts is not that of what is made of them
    unpointed = 0
    if TASKS[config.task].points:
        counts = np.min([corpus.lengths(variant)[:, 1] for variant in range(corpus.variants)], axis=0)
        pointed = np.flatnonzero(counts > 0)
        if not len(pointed):
            what = f"no target is a span of at most {config.span} tokens of its source"
            raise UserError(f"config.data.{split.name}", what, "use config.data.task=seq2seq, or tokenizer.kind=bytes")
        unpointed = len(corpus) - len(pointed)
        corpus, floor = (Subset(corpus, pointed), None) if unpointed else (corpus, floor)
    return Encoded(split, corpus, int(records.total("unknown")), target_bytes, floor, unpointed)


def _dtype(tokenizer: Tokenizer) -> str:
    """Of ids on disk."""
    return "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"


def _records(split: Split, tokenizer: Tokenizer, config: DataConfig, copy: int | None = None) -> Records:
    """A split's ids in the cache; `copy` numbers a sampled segmentation."""
    alpha, examples, dtype = config.tokenizer.sampling if copy is not None else 0, split.examples, _dtype(tokenizer)
    versions = [ENCODING, importlib.metadata.version("sentencepiece")]
    task = TASKS[config.task]
    kind = f"spans of {config.span}" if task.points else "labels" if task.ranks else "texts"
    key = store.key_of("ids", kind, versions, examples.fingerprint, tokenizer.fingerprint, alpha, copy)
    spans = Spans(tokenizer) if task.points else None

    def ids(texts: list[str], seed: int) -> list[np.ndarray]:
        return tokenizer.sample_batch(texts, alpha, seed) if copy is not None else tokenizer.encode_batch(texts)

    def shard(numbers: range) -> Shard:
        chosen = examples.read(numbers)
        seed = numbers.start * config.tokenizer.copies + copy if copy is not None else 0
        texts = [example.target for example in chosen]
        found = [example.source for example in chosen if example.source is not None]
        sources_ = ids(found, seed + 2**31) if found else [np.zeros(0, np.int32)] * len(texts)
        if spans:
            spanned = map(spans.find, found, sources_, texts)
            targets = [each[: len(each) * (len(each) <= config.span)] for each in spanned]
        else:  # a label is one of a list, so it is cut in one way
            targets = tokenizer.encode_batch(texts) if task.ranks else ids(texts, seed)
        log_probs = [example.log_prob for example in chosen if example.log_prob is not None]
        goes_on = examples.table[numbers.start + 1 : numbers.stop + 1, 2]  # whether the next one continues it
        closed = 1 - np.append(goes_on, np.zeros(len(numbers) - len(goes_on), np.int32))
        note = {
            "unknown": sum(int(np.sum(each == UNK)) for each in (*sources_, *targets)),
            "target_bytes": sum(
                len(text.encode())
                for text, target in zip(texts, targets, strict=True)
                if len(target) or not task.points
            ),
            "log_probs": len(log_probs),
            "log_prob": math.fsum(log_probs),
        }
        table = np.array([[*map(len, sources_)], [*map(len, targets)], closed], np.int32).T
        records = [np.concatenate(pair).astype(dtype).tobytes() for pair in zip(sources_, targets, strict=True)]
        return Shard(records, table, note)

    def make(finished: Sequence[Finished]) -> Iterator[Shard]:
        ranges = store.shard_ranges((np.maximum(examples.table[:, 0], 0) + examples.table[:, 1]).tolist())
        return map(shard, itertools.islice(ranges, len(finished), None))

    return store.stored(key, make, f"encoding {split.name}", len(examples)).check()


ENCODING = 1  # raise it when the same examples and tokenizer give other records


def pieces(config: DataConfig, tokenizer: Tokenizer, corpus: Corpus, seed: int) -> Corpus:
    """What a task that has texts and an encoder makes of them."""

    def longest(sizes: Callable[[int], tuple[int, int]]) -> int:
        """What is made of a piece, EOS included, must have room on both sides."""
        return next((n for n in range(config.max_length - 1, 0, -1) if max(sizes(n)) < config.max_length), 1)

    def check_sentinels(most: int) -> None:
        if (needed := _sentinels(config, most)) > tokenizer.sentinels:
            what = f"the sentinels that noise needs are {needed}, the tokenizer has {tokenizer.sentinels}"
            raise UserError("config.data.noise", what, f"give config.data.tokenizer.sentinels={needed}")

    noise = config.noise
    if config.task == "prefix":
        shares = {"least": config.prefix_least, "most": config.prefix_most}
        most, cuts = (functools.partial(each, **shares) for each in (objectives.prefix_most, objectives.cuts))
        return Cut(corpus, longest(most), cuts, seed)
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
    """bool [vocab]: ids whose text ends a sentence."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return np.array([piece.endswith((".", "!", "?", "\n", "<0x0A>", "\u3002", "\uff01", "\uff1f")) for piece in pieces])


# ---- batches ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Training batches by index, and how long an epoch is."""

    batches: Layout
    left_out: int  # pairs longer than `max_length`
    workers: int = 0  # processes that make batches; 0: a thread of this one

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def tokens_per_epoch(self) -> int:
        """Real target tokens."""
        return self.batches.tokens_per_epoch

    @property
    def padding(self) -> float:
        """The share of positions that hold no token, 0 to 1."""
        return self.batches.padding

    def iterate(
        self, start: int, stop: int, put: Callable[[Batch], Batch], host: int = 0, hosts: int = 1
    ) -> Iterator[Batch]:
        """Batches `start` to `stop`, made ahead; `put` moves a batch to the devices.

        Of `hosts` processes each gets its equal, consecutive share of the rows of every batch, and reads no more.
        """
        share = self.batches.batch_size // hosts
        part = functools.partial(_part, self.batches, range(host * share, (host + 1) * share))
        made = grain.MapDataset.range(start, stop).map(part)
        if self.workers and stop > start:
            ahead = made.to_iter_dataset(grain.ReadOptions(num_threads=0))
            # By pipe: shared memory that an array still shows when the process ends is never unlinked by Grain.
            ahead = grain.experimental.WithOptionsIterDataset(
                ahead, grain.experimental.DatasetOptions(min_shm_size=2**62)
            )
            ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers)).map(put)
            loaded = iter(grain.experimental.ThreadPrefetchIterDataset(ahead, prefetch_buffer_size=4))
            loaded.start_prefetch()  # processes take a second or more to start
            return loaded
        return iter(made.map(put).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _part(layout: Layout, rows: range, index: int) -> Batch:
    return layout.part(int(index), rows)


def training_data(encoded: Encoded, config: DataConfig, seed: int) -> TrainingData:
    """The layout of the configuration over a split."""
    corpus, layout, has_source = encoded.corpus, layout_of(config), TASKS[config.task].has_source
    if layout == "streams":
        return TrainingData(
            Streams(corpus, config.batch_size, config.window, config.reset_rate, seed), 0, config.workers
        )
    left_out = 0
    if has_source:
        longest = np.max([corpus.lengths(v).max(axis=1) for v in range(corpus.variants)], axis=0)
        fitting = np.flatnonzero(longest < config.max_length)
        if not len(fitting):
            what = f"no training pair has at most {config.max_length} tokens on both sides"
            raise UserError("config.data.max_length", what, "raise it")
        left_out = len(corpus) - len(fitting)
        corpus = Subset(corpus, fitting) if left_out else corpus
    else:
        corpus = Pieces(corpus, config.window - 1)
    if layout == "buckets":
        made = Buckets(corpus, config.batch_size, config.buckets, seed)
    else:
        made = Packed(corpus, config.batch_size, max(config.window, config.max_length * has_source), has_source, seed)
    return TrainingData(made, left_out, config.workers)


def evaluation_batches(encoded: Encoded, config: DataConfig) -> Iterator[Batch]:
    """One pass over a split, every token once, whatever the layout of training."""
    if TASKS[config.task].has_source:
        for _, batch in batches.evaluation_buckets(encoded.corpus, config.batch_size, config.buckets):
            yield batch
    else:
        yield from batches.evaluation_streams(encoded.corpus, config.evaluation_streams, config.window)
