"""Reading a configuration from a Python file, and writing it as JSON and back.

`to_json` and `from_json` are exact inverses, so a run's `config.json` holds its whole configuration.
"""

import dataclasses
import json
import pathlib
import runpy
import traceback
from collections.abc import Callable
from typing import Any

from lm import files, json_files
from lm.config.rules import validated
from lm.config.schema import RENAMED, Config, fields, get
from lm.errors import UserError, nearest


def from_file(spec: str) -> Config:
    """Returns the configuration that `get_config()` of a Python file returns, not validated yet.

    For `FILE:TEXT` it calls `get_config(TEXT)`.

    Raises:
        UserError: the file is missing, cannot be run, or returns no `Config`; the error names the line of the file.
    """
    spec = located(spec)
    names, (name, _, given) = defined(spec), spec.partition(":")
    if not callable(make := names.get("get_config")):
        raise UserError(
            name, "defines no function get_config", "define get_config() so that it returns lm.config.Config(...)"
        )
    made = _of_the_user(spec, lambda: make(*([given] if given else [])))
    if not isinstance(made, Config):
        line = getattr(getattr(make, "__code__", None), "co_firstlineno", 1)
        reason = f"get_config() returned {'None' if made is None else type(made).__name__}"
        raise UserError(f"{name}:{line}", reason, "return lm.config.Config(...)")
    return made


def named() -> dict[str, pathlib.Path]:
    """Returns the configuration files that come with the project, by their names, such as `shakespeare`.

    A wheel has them in the package, a checkout in `configs/` beside it.
    """
    package = pathlib.Path(__file__).parent.parent
    folder = next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.py"))}


def located(spec: str) -> str:
    """Returns `FILE` or `FILE:TEXT` with the file's path, where FILE is a path or the name of a file in configs/.

    If there is no file `configs/NAME.py`, it means NAME, so that commands for a checkout also work elsewhere.
    """
    name, colon, text = spec.partition(":")
    known = named()
    if not pathlib.Path(name).is_file():
        name = str(known.get(name.removeprefix("configs/").removesuffix(".py"), name))
    if not name or not pathlib.Path(name).exists():
        shown = [f"configs/{each}.py" for each in known] if name.endswith(".py") else known
        raise UserError(f"--config={spec}", "names a file that does not exist", nearest(spec, shown))
    return name + colon + text


def defined(spec: str) -> dict[str, Any]:
    """Returns everything that the Python file of `FILE` or `FILE:TEXT` defines, by name."""
    spec = located(spec)
    name = spec.partition(":")[0]
    files.read(name, "config file")
    return _of_the_user(spec, lambda: runpy.run_path(name))


def _of_the_user(spec: str, run: Callable[[], Any]) -> Any:
    """Returns the result of code in the user's file; an error there becomes a `UserError` that names the line."""
    try:
        return run()
    except (Exception, SystemExit) as error:  # code of the user may raise anything
        name = spec.partition(":")[0]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        if isinstance(error, SyntaxError) and error.filename == name:
            lines = [error.lineno]
        where = f"{name}:{lines[-1]}" if lines else name
        if isinstance(error, UserError):
            raise UserError(f"{where}: {error.where}", error.reason, error.action) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        whole = "correct the file, or give --config=FILE:TEXT if get_config takes an argument"
        raise UserError(where, reason, "correct that line" if lines else whole) from error


def to_json(config: Config) -> str:
    """Returns indented JSON with every field, in the order of the dataclasses."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> Config:
    """Returns the validated configuration that `to_json` wrote.

    JSON of an earlier version may lack fields that were added later, and may use old names of fields (`RENAMED`).

    Args:
        text: the JSON.
        where: the file that errors name.

    Raises:
        UserError: the JSON is malformed, has unknown or missing fields, or a field breaks a rule.
    """
    try:
        tree = json_files.parsed(text, object)
    except json_files.Malformed as error:
        raise UserError(where, str(error), "restore the file, or start in a new workdir") from None

    def build(kind: type, tree: Any, path: str) -> Any:
        known = {field.name: field for field in dataclasses.fields(kind)}
        if not isinstance(tree, dict):
            raise UserError(f"{where}: {path or 'top level'}", "is not an object", "restore the file")
        tree = {RENAMED.get(path + name, path + name).removeprefix(path): value for name, value in tree.items()}
        for name in tree:
            if name not in known:
                raise UserError(f"{where}: {path}{name}", "is not a field of the configuration", nearest(name, known))
        missing = [name for name in known if name not in tree and not known[name].metadata.get("later")]
        if missing:
            action = "restore the file, or use the version of lm that wrote it (see manifest.json)"
            raise UserError(f"{where}: {path}{missing[0]}", "is missing", action)
        values = {
            name: build(field.type, tree[name], f"{path}{name}.")
            if dataclasses.is_dataclass(field.type)
            else tree[name]
            for name, field in known.items()
            if name in tree
        }
        return kind(**values)

    return validated(build(Config, tree, ""))


def differences(old: Config, new: Config) -> dict[str, list[Any]]:
    """Returns [old value, new value] of every field that differs, by its path."""
    values = {path: [get(old, path), get(new, path)] for path, _, _ in fields(old)}
    return {path: pair for path, pair in values.items() if pair[0] != pair[1]}
