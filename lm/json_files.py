"""Reading JSON and checking its form, so that code which uses it meets only the types that it expects.

A form looks like the value that it describes::

    str  bool  None     a text, true or false, null
    int                 a whole number of 64 bits
    float               a finite number, whole or not
    object              any JSON
    [form]              a list whose items have the form
    {"name": form}      an object with this name; "name?" is optional; `str: form` describes all other names
    (form, form)        a value of one of these forms

An object may have names that its form lacks; `str` in the form describes their values. A text must not hold half of a
surrogate pair, as it could not be written again. An object must not have a name twice.
"""

import json
import math
from typing import Any

from etils import epath

from lm import files
from lm.errors import UserError

DEEPEST = 64  # levels of nested lists and objects
_NAMES = {
    str: "a text",
    bool: "true or false",
    None: "null",
    int: "a whole number of 64 bits",
    float: "a finite number",
}


class Malformed(ValueError):
    """The text is not JSON, or has another form; the message is a predicate of the file."""


def read(path: epath.PathLike, kind: str, form: Any, action: str) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: the file.
        kind: a key of `lm.files.MOST`.
        form: the form that the value must have.
        action: the action of the error for malformed content.

    Raises:
        UserError: the file is not regular or too large, its content is not JSON, or it has another form.
        OSError: the file does not exist, or permission is denied.
    """
    text = files.read_text(path, kind)
    try:
        return parsed(text, form)
    except Malformed as error:
        raise UserError(str(path), str(error), action) from None


def parsed(text: str, form: Any) -> Any:
    """Returns the value of a JSON text; raises `Malformed` if the text is not JSON or its value has another form."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise Malformed("is nested too deeply") from None
    except ValueError as error:
        known = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}" if known else str(error)
        raise Malformed(f"is not valid JSON ({reason})") from None
    if found := _problem(value, form, "", 0):
        raise Malformed(found)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"has the name {twice[:40]!r} twice in an object")
    return made


def _problem(value: Any, form: Any, place: str, depth: int) -> str:
    """Returns the first problem with its place in the value, or an empty text."""
    if depth > DEEPEST:
        return "is nested too deeply"
    if isinstance(form, tuple):
        found = [_problem(value, each, place, depth) for each in form]
        return "" if "" in found else found[0]
    if form is object:
        form = [object] if isinstance(value, list) else {str: object} if isinstance(value, dict) else type(value)
        if not isinstance(form, type):
            return _inside(value, form, place, depth)
        return _half(value, place) if form is str else ""
    if isinstance(form, list | dict):
        if not isinstance(value, type(form)):
            return f"{place} is not {'a list' if isinstance(form, list) else 'an object'}".lstrip()
        return _inside(value, form, place, depth)
    if not _is(value, form):
        return f"{place} is {json.dumps(value)[:40]}, not {_NAMES[form]}".lstrip()
    return _half(value, place) if form is str else ""


def _inside(value: Any, form: Any, place: str, depth: int) -> str:
    """Returns the first problem of the items of a list, or of the names and values of an object."""
    if isinstance(form, list):
        each = ((item, form[0], f"{place}[{number}]") for number, item in enumerate(value))
    else:
        at = f"{place}." if place else ""
        forms = {name.removesuffix("?"): inner for name, inner in form.items() if isinstance(name, str)}
        for name in form.keys() - {str}:
            if not name.endswith("?") and name not in value:
                return f"{place} has no {name!r}".lstrip()
        for name in value:
            if found := _half(name, f"a name in {place or 'it'}"):
                return found
        other = form.get(str, object)
        each = ((item, forms.get(name, other), f"{at}{name[:40]}") for name, item in value.items())
    return next(filter(None, (_problem(item, inner, at, depth + 1) for item, inner, at in each)), "")


def _is(value: Any, form: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if form is None:
        return value is None
    if form is int:
        return number and isinstance(value, int) and -(2**63) <= value < 2**63
    if form is float:
        return number and math.isfinite(value) if isinstance(value, float) else number and abs(value) < 2**1000
    return isinstance(value, form)


def _half(text: str, place: str) -> str:
    return "" if files.encodable(text) else f"{place} holds half of a surrogate pair".lstrip()
