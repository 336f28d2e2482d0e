"""`changed`, the one way to override a configuration, which flags, pipelines and tests use."""

import difflib
from collections.abc import Mapping
from typing import Any

from lm.config.rules import validated
from lm.config.schema import RENAMED, Config, Duration, Names, copied, fields, get
from lm.errors import UserError


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns a validated copy with other values at dotted paths: `changed(config, {"model.cell": "gru"})`.

    A path may also name a section; its value is then a section of the same type.

    Raises:
        UserError: a path does not exist, a value has the wrong type, or the result breaks a rule.
    """
    if not isinstance(config, Config):
        raise UserError(
            "config", f"{config!r} is a {type(config).__name__}", "give an lm.config.Config, e.g. run.config"
        )
    if not isinstance(values, Mapping):
        reason = f"{values!r} is a {type(values).__name__}"
        raise UserError("values", reason, 'give fields by name, e.g. {"model.cell": "gru"}')
    config = copied(config)
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        if path not in _sections():
            check_path(path, "config.")
        setattr(get(config, section) if section else config, name, copied(value))
    return validated(config)


def from_text(path: str, text: str) -> Any:
    """Returns the value of the field PATH that `--config.PATH=TEXT` gives.

    Raises:
        UserError: there is no such field, or its type does not allow the text.
    """
    check_path(path, "--config.")
    kind = {known: field.type for known, _, field in fields(Config())}[path]
    if kind in (Duration, Names):
        return text  # the validation parses them
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        action = {bool: "give true or false", int: "give a whole number", float: "give a number"}[kind]
        raise UserError(f"--config.{path}", f"{text!r} is not of type {kind.__name__}", action) from None


def check_path(path: str, prefix: str) -> None:
    """Raises `UserError` if no field has the dotted path; the error names the nearest fields of all sections."""
    known = [name for name, _, _ in fields(Config())]
    if path in known:
        return
    if path in RENAMED:
        raise UserError(f"{prefix}{path}", "has another name since version 0.3", f"write {prefix}{RENAMED[path]}")
    if path in _sections():
        fix = f"give one of its fields: {', '.join(other for other in known if other.startswith(f'{path}.'))}"
        raise UserError(f"{prefix}{path}", "is a section", fix)
    section, hint = path.rpartition(".")[0], " or ".join(f"{prefix}{other}" for other in near_fields(path))
    siblings = [other.rpartition(".")[2] for other in known if section and other.rpartition(".")[0] == section]
    fix = (
        f"the fields of {section} are {', '.join(siblings)}"
        if siblings
        else "see python train.py --help for all fields"
    )
    raise UserError(
        f"{prefix}{path}", "is not a field of the configuration", (f"did you mean {hint}? " if hint else "") + fix
    )


def near_fields(path: str) -> list[str]:
    """Returns the dotted paths of at most three fields that a name may mean, the nearest first.

    The section of the name does not count: its last part may be the name of a field, the initials of one (`lr`), or
    close to one.
    """
    known, name = [other for other, _, _ in fields(Config())], path.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for other in known:
        by_last.setdefault(other.rpartition(".")[2], []).append(other)
    initials = [last for last in by_last if "".join(word[0] for word in last.split("_")) == name and "_" in last]
    close = by_last.get(name) or [other for last in initials for other in by_last[last]]
    if not close:
        lasts = difflib.get_close_matches(name, by_last, n=1, cutoff=0.7)
        close = [other for last in lasts for other in by_last[last]]
        close = close or difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    likeness = lambda other: difflib.SequenceMatcher(None, path, other).ratio()
    return sorted(close, key=likeness, reverse=True)[:3]


def _sections() -> set[str]:
    names = [path.split(".")[:-1] for path, _, _ in fields(Config())]
    return {".".join(name[: depth + 1]) for name in names for depth in range(len(name))}
