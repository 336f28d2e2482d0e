"""Examples: the texts of a source before they are tokenized. They stay on disk, so data may exceed the memory."""

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from lm.config.tasks import ANSWER_KINDS, TASKS
from lm.data.read import store
from lm.data.read.store import Finished, Records, Shard
from lm.errors import UserError

BLOCK, BLOCK_CHARACTERS = 1000, 1_000_000  # the most examples and characters that are read at once
COLUMNS = 5  # of `Examples.table`


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One example: a text, or a source and its target."""

    source: str | None  # the text that the encoder reads; None for plain text
    target: str  # the plain text, or the text that the decoder must write
    log_prob: float | None = None  # exact log-probability of the target (given the source) in nats, if the data has it
    continued: bool = False  # whether this text continues the example before it, as a piece of a long document
    # The other targets, if the data gives a list of targets; None if it gives one. For an empty list the target is
    # empty, as the correct answer is no text at all.
    others: tuple[str, ...] | None = None

    @property
    def sides(self) -> tuple[str, ...]:
        """The texts of the example: source and target, or the target alone."""
        return (self.target,) if self.source is None else (self.source, self.target)

    @property
    def references(self) -> tuple[str, ...]:
        """The targets, which are all correct answers. Training and likelihoods use the first one."""
        return (self.target, *(self.others or ()))

    @property
    def content(self) -> bytes:
        """The texts as bytes, each ended by a byte that UTF-8 never has, so that no two examples have equal bytes."""
        source = b"\xfe" if self.source is None else self.source.encode()
        return source + b"\xff" + b"".join(target.encode() + b"\xff" for target in self.references)

    @property
    def row(self) -> tuple[int, int, int, int, int]:
        """The row of the example in `Examples.table`.

        The columns are the characters of the source (-1: no source), the characters of the target, whether the example
        continues the one before it, and the two halves of a hash of its content.
        """
        high, low = struct.unpack(">ii", hashlib.blake2b(self.content, digest_size=8).digest())
        return -1 if self.source is None else len(self.source), len(self.target), self.continued, high, low

    def to_bytes(self) -> bytes:
        # Without a list of targets, bytes and fingerprint are those of versions that had no lists.
        listed = [] if self.others is None else [self.others]
        known = [self.source, self.target, self.log_prob, self.continued, *listed]
        return json.dumps(known, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, record: bytes) -> "Example":
        source, target, log_prob, continued, *listed = json.loads(record)
        return cls(source, target, log_prob, continued, tuple(listed[0]) if listed else None)

    @classmethod
    def answered(cls, source: str | None, targets: str | Sequence[str], log_prob: float | None = None) -> "Example":
        """Returns an example with one target, or with a list of targets, which may be empty."""
        if isinstance(targets, str):
            return cls(source, targets, log_prob)
        first, *others = ["" if blank(target) else target for target in targets] or [""]
        return cls(source, first, log_prob, others=tuple(others))


def blank(text: str) -> bool:
    """Returns whether a text is empty or white space alone."""
    return not text or text.isspace()


class Examples(Sequence[Example]):
    """A sequence of examples that are read by number from their store.

    Attributes:
        table: int32 [examples, 5], the `Example.row` of each.
        fingerprint: a hash of the contents of all examples, in order.
    """

    table: np.ndarray
    fingerprint: str

    def read(self, numbers: Sequence[int]) -> list[Example]:
        """Returns the examples with these numbers."""
        raise NotImplementedError

    @property
    def hashes(self) -> np.ndarray:
        """The hash of the content of each example, uint64 [examples]."""
        high, low = self.table[:, 3:].T.astype(np.uint32)
        return (high.astype(np.uint64) << np.uint64(32)) | low

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.read(range(*index.indices(len(self))))
        return self.read([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[Example]:
        return self.from_number(0)

    def from_number(self, begin: int) -> Iterator[Example]:
        """Yields all examples from number `begin` on."""
        while begin < len(self):
            sizes = np.maximum(self.table[begin : begin + BLOCK, :2], 0).sum(axis=1)
            count = max(1, int(np.searchsorted(np.cumsum(sizes), BLOCK_CHARACTERS, side="right")))
            yield from self.read(range(begin, begin + count))
            begin += count


class Kept(Examples):
    """All examples of a store, in its order."""

    def __init__(self, records: Records):
        self._records, self.table = records, records.table
        self.fingerprint = store.key_of([note["content"] for note in records.notes])
        self.notes = records.notes

    def read(self, numbers):
        return [Example.from_bytes(record) for record in self._records.read(numbers)]


def whole_texts(examples: Iterable[Example]) -> Iterator[Example]:
    """Yields whole texts: a text is joined with the pieces that continue it. Examples with a source are unchanged."""
    held: list[Example] = []
    for example in examples:
        if held and not example.continued:
            yield held[0] if len(held) == 1 else Example(None, "".join(part.target for part in held))
            held = []
        held.append(example)
    if held:
        yield held[0] if len(held) == 1 else Example(None, "".join(part.target for part in held))


class Listed(Examples):
    """A few examples in memory."""

    def __init__(self, examples: Iterable[Example]):
        self._examples = list(examples)
        self.table = np.array([example.row for example in self._examples], np.int32).reshape(-1, COLUMNS)
        self.fingerprint = store.key_of([_digest(example.to_bytes() for example in self._examples)])

    def read(self, numbers):
        return [self._examples[number] for number in numbers]


class Chosen(Examples):
    """A selection of other examples by number, in any order; a number may occur several times."""

    def __init__(self, examples: Examples, numbers: np.ndarray):
        self._examples, self._numbers = examples, np.asarray(numbers, np.int64)
        self.table = examples.table[self._numbers].reshape(-1, COLUMNS)
        # An example continues another only if that one is directly before it here too.
        self.table[:, 2] &= np.diff(self._numbers, prepend=-1) == 1
        self.table[:1, 2] = 0
        self.fingerprint = store.key_of(examples.fingerprint, _digest([self._numbers.tobytes()]))

    def read(self, numbers):
        found = self._examples.read(self._numbers[np.asarray(numbers, np.int64)])
        return [
            example if example.continued == self.table[number, 2] else dataclasses.replace(example, continued=False)
            for example, number in zip(found, numbers, strict=True)
        ]


class Joined(Examples):
    """Several sequences of examples, concatenated."""

    def __init__(self, parts: Sequence[Examples]):
        self._parts, self._starts = parts, np.cumsum([0, *map(len, parts)])
        self.table = np.concatenate([part.table for part in parts])
        self.fingerprint = store.key_of([part.fingerprint for part in parts])

    def read(self, numbers):
        return store.from_parts(self._starts, numbers, lambda part, places: self._parts[part].read(places))


class Slice(Examples):
    """The characters `begin` to `end - 1` of concatenated texts; the texts at both ends are truncated."""

    def __init__(self, texts: Examples, begin: int, end: int):
        ends = np.cumsum(texts.table[:, 1], dtype=np.int64)
        self._texts, self._first = texts, int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, end, side="left"))
        self.table = np.array(texts.table[self._first : last + 1 if begin < end else self._first])
        # Characters to remove from the start of the first text, and from the end of the last one.
        self._before = begin - int(ends[self._first] - texts.table[self._first, 1]) if len(self.table) else 0
        self._after = int(ends[last]) - end if len(self.table) else 0
        for number in {0, len(self) - 1} if len(self.table) else ():
            self.table[number] = self.read([number])[0].row
        self.fingerprint = store.key_of(texts.fingerprint, begin, end)

    def read(self, numbers):
        found = self._texts.read(np.asarray(numbers, np.int64) + self._first)
        for i, number in enumerate(numbers):
            text, continued = found[i].target, found[i].continued
            if number == len(self) - 1:
                text = text[: len(text) - self._after]
            if number == 0:
                text, continued = text[self._before :], False
            if text != found[i].target or continued != found[i].continued:
                found[i] = Example(None, text, None if text != found[i].target else found[i].log_prob, continued)
        return found


def kept(
    key: str,
    make: Callable[[Sequence[Finished]], Iterator[Example]],
    reason: str,
    note: Callable[[], dict] = dict,
    memory: Callable[[], bytes] = bytes,
) -> Kept:
    """Returns the examples under `key` in the cache; if they are not there, they are created and stored.

    Args:
        key: the name in the cache; depends on everything that the examples depend on.
        make: returns the examples that follow the shards of an interrupted preparation.
        reason: the label of the progress bar, e.g. `reading train`.
        note: called at the end of each shard; returns metadata of the examples since the last call.
        memory: called at the end of each shard; returns the state that `make` needs to continue after it.
    """

    def shards(finished: Sequence[Finished]) -> Iterator[Shard]:
        last = bool(finished) and finished[-1].note["last"]
        examples = iter(()) if last else make(finished)
        while not last:
            records, rows, held = [], [], 0
            for example in examples:
                records.append(example.to_bytes())
                rows.append(example.row)
                held += len(records[-1])
                if len(records) >= store.SHARD_RECORDS or held >= store.SHARD_CHARACTERS:
                    break
            else:
                last = True
            known = {"examples": len(records), "content": _digest(records), "last": last}
            yield Shard(records, np.array(rows, np.int32).reshape(-1, COLUMNS), known | note(), memory())

    return Kept(store.stored(key, shards, reason))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def check_examples(examples: Examples, task: str, where: str, pairs: bool | None = None) -> None:
    """Checks that all examples fit a task.

    Args:
        examples: the examples.
        task: a key of `TASKS`.
        where: the place that errors name, e.g. `config.data.train`.
        pairs: whether examples must have a source; None: as the task needs it.

    Raises:
        UserError: an example lacks a source that the task needs, has one that it cannot use, or has an empty label.
            A target that is not a label may be empty, e.g. for a question without an answer.
    """
    wants = TASKS[task].pairs if pairs is None else pairs
    wrong = np.flatnonzero((examples.table[:, 0] >= 0) != wants)
    if len(wrong):
        has, needs = ("text", "source and target") if wants else ("source and target", "text")
        other = "lm" if wants else "seq2seq"
        reason = f"example {wrong[0] + 1} is {has}, and the task {task!r} needs {needs}"
        formats = "name two fields of its records, e.g. 'jsonl:FILE | {text} | {label}'" if wants else "name one field"
        raise UserError(where, reason, f"use other data, {formats}, or config.data.task={other}")
    if ANSWER_KINDS[TASKS[task].answer].among == "labels" and len(empty := np.flatnonzero(examples.table[:, 1] == 0)):
        raise UserError(where, f"example {empty[0] + 1} has an empty label", "fill it, or remove the example")
