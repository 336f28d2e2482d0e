"""Format strings that turn a record into a text: `'{question} {answers[text][0]}'`.

The syntax is that of Python's format strings, with names and indices in braces. Attributes, conversions and format
specifications are refused, so that a format can reach nothing outside the record.
"""

import dataclasses
import json
import re
import string
from collections.abc import Sequence
from typing import Any

_FIELD = re.compile(r"[^\W\d]\w*(\[[^\[\]{}.!:]+\])*")


def problem(text: str, constant: bool = False) -> str:
    """Returns the problem of a format string as the predicate of an error, or an empty text if it is valid.

    A `constant` format need not name a field.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        return f"{text!r} is not a format string ({error})"
    for _, field, specification, conversion in parts:
        if field is not None and (specification or conversion or not _FIELD.fullmatch(field)):
            return f"{text!r} has the field {field!r}, which is not a name with indices"
    if text and not constant and not _fields(text):
        return f"{text!r} names no field"
    return ""


def proposed(names: Sequence[str]) -> str:
    """Returns, as the action of an error, formats for a source whose records have the fields `names`."""
    usable = [name for name in names if _FIELD.fullmatch(name)]
    usable = [name for name in usable if name.lower() not in ("id", "idx", "index")] or usable
    if not usable:
        return "rename the fields without spaces and signs, so that a format can name them"
    formats = f"| {{{usable[0]}}} | {{{usable[-1]}}}" if len(usable) > 1 else f"| | {{{usable[0]}}}"
    return f"or add formats that build these from the fields behind the source, e.g. '{formats}'"


def _fields(text: str) -> list[str]:
    return [field for _, field, *_ in string.Formatter().parse(text) if field is not None]


def fill(text: str, record: dict[str, Any]) -> str:
    """Returns a format string with its fields filled in from a record of strings, numbers, lists and dicts of them.

    Raises:
        KeyError: the record lacks a field, or the field is not a text; its message is a sentence about the field.
    """
    return _filled(text, {field: _text_of(field, _value(field, record)) for field in _fields(text)})


def fill_each(text: str, record: dict[str, Any]) -> str | list[str]:
    """Returns the filled format string; if a field is a list of texts (all correct answers), one string for each text.

    Raises:
        KeyError: as `fill` does; also if two fields are lists.
    """
    values = {field: _value(field, record) for field in _fields(text)}
    lists = [field for field, value in values.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise KeyError(
            f"{' and '.join(f'{{{field}}}' for field in lists)} are lists, and a target may have only one list"
        )
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
                has = "it is not a list of that length"
                found = dict(enumerate(found if isinstance(found, list) else []))[int(index)]
        except (KeyError, ValueError):
            raise KeyError(f"{{{field}}} is missing ({has})") from None
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
    """The rules by which a record becomes examples.

    If all are empty, a record is one example with its fields `text`, or `source` and `target`.
    """

    source: str = ""  # empty beside a target format: the example has no source
    target: str = ""  # empty beside a source format: the field `target`
    turns: tuple[str, ...] = ()  # formats of a turn of the user and of a turn of the model in a source
    history: int = 0  # most turns that a source has, the last ones; 0: all

    def __bool__(self) -> bool:
        return bool(self.source or self.target or self.turns)

    def filled(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the examples of a record, each with `text`, or with `source` and `target`.

        A target is a list if a field of its format is one. `log_prob` is kept if the format changes the target by
        constant words at most, since it is the log-probability of that target.

        With `turns`, a record is a conversation if its field `turns`, or the field that `source` names, is a list. The
        model speaks last. Each reply of the model is the target of one example, and the turns before it are its source.

        Raises:
            KeyError: a field is missing or is not a text; the message is a sentence.
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
        """Returns the source of a reply: the turns before it, one per line, of which the last is the user's."""
        kept = said[-self.history :]
        return "\n".join(fill(self.turns[(len(kept) - at + 1) % 2], {"turn": turn}) for at, turn in enumerate(kept))


def formats_of(data: Any) -> Formats:
    """Returns the formats of a `DataConfig`."""
    return Formats(data.source_format, data.target_format, tuple(data.turns), data.history)
