"""The description of a configuration's data, as lines: counts, lengths, cleaning, padding and the first examples."""

from collections.abc import Iterator

import numpy as np

from lm.config import Config
from lm.config.tasks import TASKS, layout_of
from lm.data import encoding, feed, labelling
from lm.data.encoding import Encoded
from lm.data.splits import load_splits
from lm.data.text.tokenizers.tokenizer import Tokenizer

BINS = 10  # of a histogram of lengths


def described(config: Config, tokenizer: Tokenizer | None, first: int) -> Iterator[str]:
    """Yields the lines of all splits, each as soon as it is known.

    Args:
        config: names the data.
        tokenizer: the tokenizer of a run; None: one is trained on the training data.
        first: number of examples of each split that are printed as text and as ids.
    """
    splits = load_splits(config.data)
    tokenizer = tokenizer or encoding.make_tokenizer(config.data, splits["train"])
    yield f"task        {config.data.task}, {layout_of(config.data)}"
    extra = f", {tokenizer.sentinels} sentinels" if tokenizer.sentinels else ""
    yield f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} ids{extra}, {tokenizer.fingerprint}"
    labels = labelling.of_splits(config, {name: split.examples for name, split in splits.items()})
    yield from (f"warning     {text}" for text in labelling.warnings(labels, tokenizer))
    for name, split in splits.items():
        encoded = encoding.encode(split, tokenizer, config.data, config.seed, training=name == "train")
        yield f"\n{name}  {split.spec}"
        if split.note:
            yield f"  {split.note}"
        yield from (f"  warning     {text}" for text in split.warnings)
        yield from _counts(encoded, config)
        if name in labels:
            yield f"  labels      {labelling.listing(labels[name])}"
        if split.report:
            yield from (f"  {line}" for line in split.report.lines())
        if name == "train":
            data = feed.training_data(encoded, config.data, config.seed)
            yield f"  batches     {data.steps_per_epoch:,} per epoch, {data.padding:.1%} of positions are padding"
            if data.left_out:
                yield f"  left out    {data.left_out:,} longer than {config.data.max_length} tokens, end token included"
        for number in range(min(first, len(encoded.corpus))):
            yield from _example(encoded, number, tokenizer)


def _counts(encoded: Encoded, config: Config) -> Iterator[str]:
    """Yields the counts of a split, and a histogram of the lengths of each side."""
    examples, lengths = encoded.split.examples, encoded.corpus.lengths(0)
    tokens = int(lengths.sum())
    twice = len(examples) - len(np.unique(examples.hashes))
    yield f"  examples    {len(examples):,}, {twice:,} of them duplicates; fingerprint {encoded.split.fingerprint}"
    if examples.table[:, 2].any():
        yield f"              pieces of {int(np.sum(examples.table[:, 2] == 0)):,} documents"
    yield f"  tokens      {tokens:,} (without end tokens), {encoded.unknown:,} unknown ({encoded.unknown / tokens:.3%})"
    if lost := encoded.lost.tokens:
        yield f"              {lost:,} unknown in targets, for {encoded.lost.bytes:,} bytes of text"
    if encoded.unpointed:
        yield f"  left out    {encoded.unpointed:,} whose target is not a span of their source"
    yield f"  bytes       {encoded.target_bytes:,} of targets"
    if encoded.floor is not None:
        yield f"  floor       {encoded.floor:.3f} nats per example"
    sides = ("source", "target") if TASKS[config.data.task].has_source else ("text",)
    for side, sizes in zip(sides, lengths.T[-len(sides) :], strict=True):
        median, most = np.percentile(sizes, 50), sizes.max()
        yield f"  {side:<11} {sizes.mean():.1f} tokens on average, median {median:.0f}, most {most:,}"
        counts, edges = np.histogram(sizes, bins=_edges(int(most)))
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            bar = "#" * int(round(40 * count / counts.max()))
            yield f"    {int(low):>8,} to {int(high) - 1:>8,} {count:>10,} {bar}"


def _edges(most: int) -> np.ndarray:
    """Returns the edges of at most `BINS` bins of equal whole width that hold 0 to `most`."""
    width = -(-(most + 1) // BINS)
    return np.arange(0, most + 1 + width, width)


def _example(encoded: Encoded, number: int, tokenizer: Tokenizer) -> Iterator[str]:
    """Yields one example as the model reads and writes it: text, ids and pieces."""
    for side, ids in zip(("source", "target"), encoded.corpus.take([number], 0)[0], strict=True):
        if len(ids):
            text = tokenizer.decode(ids[:60])
            yield f"  {number} {side}    {text!r}{' ...' if len(ids) > 60 else ''}"
            yield f"             {' '.join(map(str, ids[:20].tolist()))}{' ...' if len(ids) > 20 else ''}"
            yield f"             {' '.join(tokenizer.pieces(ids[:20]))!r}"
