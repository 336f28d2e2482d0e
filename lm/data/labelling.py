"""The labels of classification: their counts in each split, and warnings about labels that look like mistakes."""

import collections
import decimal
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lm.config import Config
from lm.config.tasks import ANSWER_KINDS, answer_of
from lm.data.read import store
from lm.data.read.examples import Examples
from lm.data.text.tokenizers.tokenizer import Tokenizer

MOST_LABELS = 1000  # the most labels that a task may rank
LISTED, NAMED, WIDTH = 20, 5, 40  # most labels in a list with counts, labels in a sentence, characters of a label
NO_VALUE = frozenset({"nan", "null", "n/a", "na", "<na>", "#n/a", "nil", "-1"})  # for a missing value


class Counts(NamedTuple):
    """The counts of the labels of a split."""

    examples: int
    different: int  # number of distinct labels
    each: dict[str, int]  # examples per label, the most frequent first, at most `MOST_LABELS`


def counted(examples: Examples) -> Counts:
    """Returns the number of examples of each target; the first call reads all the text, later ones the cache."""

    def found() -> list:
        counts = collections.Counter(example.target for example in examples)
        first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_LABELS]
        return [counts.total(), len(counts), dict(first)]

    return Counts(*store.remembered(store.key_of("label counts", MOST_LABELS, examples.fingerprint), found))


def of_splits(config: Config, splits: Mapping[str, Examples]) -> dict[str, Counts]:
    """Returns the counts of each split, or an empty dict if the answers of the configuration are not labels."""
    if ANSWER_KINDS[answer_of(config)].among != "labels":
        return {}
    return {name: counted(examples) for name, examples in splits.items()}


def listing(counts: Counts) -> str:
    """Returns one line with the number of labels, and the most frequent ones with their counts."""
    shown = [f"{quoted(label)} {count:,}" for label, count in list(counts.each.items())[:LISTED]]
    return f"{counts.different:,}: {_and_more(shown, counts.different)}"


def warnings(splits: Mapping[str, Counts], tokenizer: Tokenizer) -> list[str]:
    """Returns one sentence for each likely mistake in the labels; an empty list for splits without labels."""
    if not splits:
        return []
    train = splits["train"]
    texts = train.different > 2 and 2 * train.different > train.examples
    if texts:
        reason = f"{train.different:,} labels for {train.examples:,} training examples look like texts"
        found = [f"{reason}: check which side is the label, or use config.data.task=seq2seq"]
    else:
        found = [*_rare(train)]
    labels = dict.fromkeys(label for counts in splits.values() for label in counts.each)
    found += _alike(labels)
    same = _groups(labels, lambda label: tuple(tokenizer.encode(label).tolist()))
    found += [f"labels with the same ids, which a model cannot distinguish: {_named(group)}" for group in same]
    numbers = [label for label in labels if _number(label) is not None]
    missing = [label for label in labels if label.lower() in NO_VALUE and (label not in numbers or len(numbers) == 1)]
    if missing:
        found.append(f"labels that usually mean a missing value: {_named(missing)}")
    return found if texts else found + _lacking(splits)


def _rare(train: Counts) -> list[str]:
    if train.different == 1:
        return [f"every training example has the label {_named(train.each)}, so there is nothing to learn"]
    once = [label for label, count in train.each.items() if count == 1]
    return [f"labels with one training example: {_named(once)}"] if once else []


def _alike(labels: Iterable[str]) -> list[str]:
    groups = _groups(labels, written_alike)
    said = [f"labels that differ only in their spelling: {_named(group)}" for group in groups[:NAMED]]
    return said + [f"{len(groups) - NAMED:,} more groups of such labels"] * (len(groups) > NAMED)


def _lacking(splits: Mapping[str, Counts]) -> list[str]:
    """Returns sentences about labels that either the training split or another split lacks."""
    if max(counts.different for counts in splits.values()) > MOST_LABELS:
        return []
    found = []
    for name in [name for name in splits if name != "train"]:
        for less, more in ((name, "train"), ("train", name)):
            only = [label for label in splits[more].each if label not in splits[less].each]
            found += [f"labels that {more} has and {less} lacks: {_named(only)}"] if only else []
    return found


def written_alike(label: str) -> str:
    """Returns a form that labels share if they differ only in case, white space or Unicode form.

    For example, "Good" and "good " share a form. The form of a number is its value, so 1 and 1.0 share it too.
    """
    if (number := _number(label)) is not None:
        return f"number {number.normalize()}"
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return " ".join("".join(letter for letter in folded if unicodedata.category(letter) != "Cf").split())


def _number(label: str) -> decimal.Decimal | None:
    try:
        number = decimal.Decimal(label.strip())
    except decimal.InvalidOperation:
        return None
    return number if number.is_finite() else None


def _groups(labels: Iterable[str], key) -> list[list[str]]:
    """Returns the groups of two or more labels that have the same key."""
    groups = collections.defaultdict(list)
    for label in labels:
        groups[key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _named(labels: Iterable[str]) -> str:
    labels = list(labels)
    same = len({unicodedata.normalize("NFC", label) for label in labels}) < len(labels)  # they would look the same
    return _and_more([ascii(label) if same else quoted(label) for label in labels[:NAMED]], len(labels))


def _and_more(shown: list[str], of: int) -> str:
    return ", ".join(shown) + f" and {of - len(shown):,} more" * (of > len(shown))


def quoted(label: str) -> str:
    """Returns a label for display: in quotes, so that spaces are visible, and truncated to `WIDTH` characters."""
    return repr(label if len(label) <= WIDTH else label[: WIDTH - 1] + "…")
