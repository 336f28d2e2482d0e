"""Format strings that make a text of a record: `'{question} {answers[text][0]}'`.

The syntax is Python's for names and indices in braces; attributes, conversions and specifications are not taken, so
that nothing but what the record holds can be reached.
"""

import dataclasses
import json
import re
import string
from collections.abc import Sequence
from typing import Any

_FIELD = re.compile(r"[^\W\d]\w*(\[[^\[\]{}.!:]+\])*")


def problem(text: str, constant: bool = False) -> str:
    """What is wrong with a format string, which may name no field if it is `constant`; empty if nothing."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        return f"{text!r} is no format string ({error})"
    for _, field, specification, conversion in parts:
        if field is not None and (specification or conversion or not _FIELD.fullmatch(field)):
            return f"{text!r} has a field that is no name with indices, {field!r}"
    if text and not constant and not _fields(text):
        return f"{text!r} names no field"
    return ""


def proposed(names: Sequence[str]) -> str:
    """Returns the formats that a source whose records have these fields may be given, in the words of an error."""
    usable = [name for name in names if _FIELD.fullmatch(name)]
    usable = [name for name in usable if name.lower() not in ("id", "idx", "index")] or usable
    if not usable:
        return "write FIELD names without spaces or signs, for a format to name"
    formats = f"| {{{usable[0]}}} | {{{usable[-1]}}}" if len(usable) > 1 else f"| | {{{usable[0]}}}"
    return f"or say how the fields make these, by formats behind the source, e.g. '{formats}'"


def _fields(text: str) -> list[str]:
    return [field for _, field, *_ in string.Formatter().parse(text) if field is not None]


def fill(text: str, record: dict[str, Any]) -> str:
    """The format string filled from a record, whose values are strings, numbers, lists and dicts of them.

    Raises:
        KeyError: with a sentence that says which field the record lacks, or why it is no text.
    """
    return _filled(text, {field: _text_of(field, _value(field, record)) for field in _fields(text)})


def fill_each(text: str, record: dict[str, Any]) -> str | list[str]:
    """As `fill`, and where a field is a list of texts, such as all right answers, the filled strings of each of them."""
    values = {field: _value(field, record) for field in _fields(text)}
    lists = [field for field, value in values.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise KeyError(f"{' and '.join(f'{{{field}}}' for field in lists)} are lists, of which a target may have one")
    texts = {field: _text_of(field, value) for field, value in values.items() if field not in lists}
    if not lists:
        return _filled(text, texts)
    (field,) = lists
    return [_filled(text, texts | {field: _text_of(field, each)}) for each in values[field]]


def _value(field: str, record: dict[str, Any]) -> Any:
    name, *indices = field.replace("]", "").split("[")
    found: Any = record
    for index in (name, *indices):
        try:
            if isinstance(found, dict):
                has = f"fields are {', '.join(found)}"[:200]
                found = found[index]
            else:
                has = "it is no such list"
                found = dict(enumerate(found if isinstance(found, list) else []))[int(index)]
        except (KeyError, ValueError):
            raise KeyError(f"{{{field}}} is not there ({has})") from None
    return found


def _text_of(field: str, value: Any) -> str:
    if isinstance(value, dict | list) or value is None:
        kind = "null" if value is None else type(value).__name__
        raise KeyError(f"{{{field}}} is {kind}, not text")
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _filled(text: str, texts: dict[str, str]) -> str:
    parts = string.Formatter().parse(text)
    return "".join(literal + ("" if field is None else texts[field]) for literal, field, *_ in parts)


@dataclasses.dataclass(frozen=True)
class Formats:
    """How a record becomes examples; all empty: by its fields `text`, or `source` and `target`."""

    source: str = ""  # empty beside a target: the example has no source
    target: str = ""  # empty beside a source: the field `target`
    turns: tuple[str, ...] = ()  # how a turn of the user, and one of the model, is written in a source
    history: int = 0  # turns that a source has at most, the last ones; 0: all

    def __bool__(self) -> bool:
        return bool(self.source or self.target or self.turns)

    def filled(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """`text`, or `source` and `target` (a list where a field of its format is), and `log_prob` where the target is still what that was of, but for words that are always there.

        With `turns`, a record whose field `turns` (or the one that `source` names) is a list is a conversation, in which
        the model speaks last: each of its replies is a target, what was said before it the source.

        Raises:
            KeyError: with a sentence.
        """
        said = record.get(self.source.strip("{}") or "turns") if self.turns else None
        if isinstance(said, list):
            replies = [at for at in range(1, len(said)) if (len(said) - at) % 2]
            return [{"source": self.conversation(said[:at]), "target": said[at]} for at in replies]
        if not (self.source or self.target):
            return [record]
        known = {"log_prob": record.get("log_prob")} if _fields(self.target) in ([], ["target"], ["text"]) else {}
        if not self.source:
            return [{"text": fill(self.target, record)} | known]
        target = fill_each(self.target or "{target}", record)
        return [{"source": fill(self.source, record), "target": target} | known]

    def conversation(self, said: Sequence[str]) -> str:
        """What the encoder reads of the turns before a reply: the last one is the user's, the one before the model's, and
        so on; each on a line."""
        kept = said[-self.history :]
        return "\n".join(fill(self.turns[(len(kept) - at + 1) % 2], {"turn": turn}) for at, turn in enumerate(kept))


def formats_of(data: Any) -> Formats:
    """How the records of a `DataConfig`'s sources become examples."""
    return Formats(data.source_format, data.target_format, tuple(data.turns), data.history)
