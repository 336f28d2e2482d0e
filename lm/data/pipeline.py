"""From sources to batches on their way to the device: encode once, lay out, load ahead."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence

import grain
import numpy as np

from lm.config import DataConfig
from lm.data import batches, cleaning, objectives, sources, store
from lm.data.batches import Batch, Buckets, Layout, Streams
from lm.data.corpus import Copies, Corpus, Pair, Pieces, Subset
from lm.data.examples import Example
from lm.data.packing import Packed
from lm.data.sources import Split
from lm.data.tokenizers import UNK, Tokenizer, train_tokenizer
from lm.errors import UserError
from lm.tasks import TASKS, layout_of


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as ids, and what its figures are divided by."""

    split: Split
    corpus: Corpus  # what the task reads: texts, or pairs
    unknown: int  # ids that are UNK
    target_bytes: int  # UTF-8 bytes of the targets

    @property
    def tokens(self) -> int:
        """Target tokens, each example's EOS included (at most: `prefix` draws how many)."""
        return int(np.sum(self.corpus.lengths(0)[:, 1] + 1))

    @property
    def floor(self) -> float | None:
        """Mean of -log p of the examples under their source (nats); None where it is not known of what is decoded."""
        known = [example.log_prob for example in self.split.examples]
        return None if None in known or len(known) != len(self.corpus) else 0.0 - float(np.mean(known))


# ---- text -------------------------------------------------------------------------------------------------------


def load_splits(config: DataConfig, wanted: Collection[str] = ("train", "validation", "test")) -> dict[str, Split]:
    """The wanted splits of a configuration, cleaned; every example must fit the task."""
    cleaning.parse(config.cleaning)
    formats = sources.Formats(config.source_format, config.target_format)
    # What is dropped of the training data may depend on the others.
    read = ("train", "validation", "test") if "train" in wanted else wanted
    splits = sources.load_splits(config.train, config.validation, config.test, read, formats)
    for split in splits.values():
        check_examples(split.examples, config.task, f"config.data.{split.name}")
    change = cleaning.Cleaner(config.cleaning).change
    others = {name: split for name, split in splits.items() if name != "train"}
    if config.cleaning:
        others = {name: split.replaced([change(e) for e in split.examples]) for name, split in others.items()}
    if "train" in splits:
        cleaner = cleaning.Cleaner(config.cleaning, [e for split in others.values() for e in split.examples])
        kept = [clean for example in splits["train"].examples if (clean := cleaner.clean(example))]
        if not kept:
            raise UserError("config.data.cleaning", "drops every training example", "take a step out of it")
        train = splits["train"].replaced(kept) if config.cleaning else splits["train"]
        splits["train"] = dataclasses.replace(train, report=cleaner.report)
    splits |= others
    return {name: split for name, split in splits.items() if name in wanted}


def check_examples(examples: Sequence[Example], task: str, where: str) -> None:
    """Raises `UserError` if an example has no source and the task needs one, or the other way round."""
    wants = TASKS[task].pairs
    for number, example in enumerate(examples, start=1):
        if (example.source is not None) != wants:
            has, needs = ("text", "source and target") if wants else ("source and target", "text")
            other = "lm" if wants else "seq2seq"
            what = f"example {number} is {has}, the task {task!r} needs {needs}"
            raise UserError(where, what, f"use other data, or config.data.task={other}")


def make_tokenizer(config: DataConfig, train: Split) -> Tokenizer:
    """Trained on the training split only, on sources and targets alike."""
    texts = (text for example in train.examples for text in (example.source, example.target) if text is not None)
    return train_tokenizer(config.tokenizer, texts, config.tokenizer.sentinels or _sentinels(config))


def _sentinels(config: DataConfig) -> int:
    """How many the noise of the task can need."""
    if config.task != "denoise":
        return 0
    if config.noise.kind == "bart":
        return 1
    return objectives.spans_sizes(config.max_length - 1, config.noise.rate, config.noise.mean_span)[2]


# ---- ids --------------------------------------------------------------------------------------------------------


def encode(split: Split, tokenizer: Tokenizer, config: DataConfig, seed: int = 0, training: bool = False) -> Encoded:
    """The ids of a split, from the cache or made now, and what the task makes of them.

    With `data.tokenizer.sampling` training data has several segmentations; nothing else has.
    """
    sampled = config.tokenizer.copies if training and config.tokenizer.sampling else 0
    versions = [_stored(split, tokenizer, config, copy) for copy in range(sampled)] or [
        _stored(split, tokenizer, config)
    ]
    corpus: Corpus = Copies(versions) if sampled else versions[0]
    target_bytes = sum(len(example.target.encode()) for example in split.examples)
    if TASKS[config.task].has_source and not TASKS[config.task].pairs:
        made, sizes = objective(config, tokenizer)
        # What is made of a piece, EOS included, must have room on both sides.
        longest = next((n for n in range(config.max_length - 1, 0, -1) if max(sizes(n)) < config.max_length), 1)
        corpus = Pieces(corpus, longest, made, sizes, seed)
        if not training:
            targets = (target for _, target in corpus.take(range(len(corpus)), 0))
            target_bytes = sum(len(tokenizer.decode(ids[ids < tokenizer.own_size]).encode()) for ids in targets)
    return Encoded(split, corpus, versions[0].counts["unknown"], target_bytes)


def _stored(split: Split, tokenizer: Tokenizer, config: DataConfig, copy: int | None = None) -> store.Stored:
    """A split's ids as they are cached; `copy` numbers a sampled segmentation."""
    alpha = config.tokenizer.sampling if copy is not None else 0
    parts = ("1", split.fingerprint, tokenizer.fingerprint, alpha, copy, TASKS[config.task].pairs)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    examples = split.examples

    def ids(texts: list[str], seed: int) -> list[np.ndarray]:
        return tokenizer.sample_batch(texts, alpha, seed) if copy is not None else tokenizer.encode_batch(texts)

    def make(numbers: range) -> tuple[list[Pair], dict[str, int]]:
        chosen = examples[numbers.start : numbers.stop]
        seed = numbers.start * config.tokenizer.copies + copy if copy is not None else 0
        targets = ids([example.target for example in chosen], seed)
        found = [example.source for example in chosen if example.source is not None]
        sources_ = ids(found, seed + 2**31) if found else [np.zeros(0, np.int32)] * len(targets)
        unknown = sum(int(np.sum(each == UNK)) for each in (*sources_, *targets))
        return list(zip(sources_, targets, strict=True)), {"unknown": unknown}

    ranges = store.shard_ranges([len(example.target) + len(example.source or "") for example in examples])
    return store.stored(key, ranges, make, tokenizer.vocab_size, f"encoding {split.name}")


def objective(
    config: DataConfig, tokenizer: Tokenizer
) -> tuple[Callable[[np.ndarray, np.random.Generator], Pair], Callable[[int], tuple[int, int]]]:
    """What a task that has texts and an encoder makes of a piece of text, and how long that can be."""
    noise = config.noise
    if config.task == "prefix":
        shares = {"least": config.prefix_least, "most": config.prefix_most}
        return functools.partial(objectives.prefix, **shares), functools.partial(objectives.prefix_most, **shares)
    if noise.kind == "spans":
        rates = {"rate": noise.rate, "mean_span": noise.mean_span}
        sentinels = np.array([tokenizer.sentinel(i) for i in range(tokenizer.sentinels)], np.int32)
        sizes = lambda n: objectives.spans_sizes(n, **rates)[:2]
        return functools.partial(objectives.spans, **rates, sentinel_ids=sentinels), sizes
    rates = {"infilling": noise.infilling, "deletion": noise.deletion, "mean_span": noise.mean_span}
    how = {
        "permutation": noise.permutation,
        "mask_id": tokenizer.sentinel(0),
        "sentence_ends": sentence_ends(tokenizer),
    }
    return functools.partial(objectives.bart, **rates, **how), lambda n: (objectives.bart_most(n, **rates), n)


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
