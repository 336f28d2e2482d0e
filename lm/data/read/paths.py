"""The paths of a source: names, patterns, what is escaped in them, and how files are opened.

`*`, `?` and `[` make a pattern, and `**` crosses folders. A source is cut at ` + ` and ` | `, one of `parallel` at `,` too.
A backslash takes the character after it as a part of the name: `parallel:a\\,b.en,a.de`, `tsv:a \\| b.tsv`. A path that exists
as it is written is that file.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from etils import epath

from lm import files
from lm.errors import UserError

_ESCAPED = re.compile(r"\\([\\,|+*?\[\]{}:])")
ESCAPING = "write a backslash before a `,`, `|`, `+`, `*`, `?` or `[` that belongs to a path"


class Missing(UserError):
    """There is no file of a name, or none that a pattern matches."""


def path_of(name: str) -> epath.Path:
    """Returns the path of a name that is no pattern and in which nothing is escaped."""
    return epath.Path(name).expanduser()


def divided(text: str) -> list[str]:
    """Returns what is between the commas of a text that are not escaped; the escapes stay."""
    return re.findall(r"(?:^|,)((?:\\.|[^\\,]|\\$)*)", text)


def named(name: str, role: str, scheme: str) -> list[epath.Path]:
    """Returns the file of this name, or the files that a pattern matches."""
    if re.search(r"[*?\[]", _ESCAPED.sub("", name)):
        return matches(name, role, scheme)
    written = path_of(name)
    with _readable(written):
        return [written if written.exists() else path_of(_ESCAPED.sub(r"\1", name))]


def matches(pattern: str, role: str, scheme: str) -> list[epath.Path]:
    """Returns the files that a pattern matches, sorted; a pattern that is the name of a file is that file."""
    path = path_of(pattern)
    with _readable(path):
        if path.exists():
            return [path]
        if "://" in pattern:
            found = path.parent.glob(path.name)
        else:
            literal = lambda escaped: glob.escape(escaped[1])
            found = map(epath.Path, _expanded(os.path.expanduser(_ESCAPED.sub(literal, pattern))))
        paths = sorted((path for path in found if not path.is_dir()), key=str)
    if not paths:
        reason = f"{scheme}:{pattern} matches no file"
        raise Missing(f"config.data.{role}", reason, "check the path; ** crosses folders, quote it from the shell")
    return paths


def _expanded(pattern: str) -> set[str]:
    """What `glob.glob` finds, but that `**` goes through each real folder once, so that no link leads into a loop."""
    before, starred, after = re.fullmatch(r"(.*?)((?<![^/])\*\*(?![^/])|\Z)/*(.*)", pattern, re.DOTALL).groups()
    if not starred:
        return {*glob.glob(pattern)}
    found = set()
    for top in glob.glob(before) if before else [""]:
        for folder in _folders(top):
            found |= _expanded(os.path.join(glob.escape(folder), after or "*"))
    return found


def _folders(top: str) -> Iterator[str]:
    """Yields a folder and those below it that are not hidden, each real one once; links to a folder above it lead nowhere."""
    seen, real_top = set(), os.path.realpath(top or ".")
    for folder, below, _ in os.walk(top or ".", followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (real != real_top and os.path.commonpath([real, real_top]) == real):
            below.clear()
            continue
        seen.add(real)
        # Links come last, so that a folder goes by its own name where it has one here.
        below[:] = sorted(name for name in below if not name.startswith("."))
        below.sort(key=lambda name: os.path.islink(os.path.join(folder, name)))
        yield folder if top else os.path.relpath(folder)


def once(groups: Sequence[Sequence[epath.Path]]) -> tuple[list[Sequence[epath.Path]], str]:
    """Returns each group of files once, whatever names or links lead to them, and a sentence if some were left out.

    Of several names that is kept which is no link, or else the first one.
    """
    by_file = {}
    for group in sorted(groups, key=lambda group: any(map(os.path.islink, map(str, group)))):
        by_file.setdefault(tuple(map(_identity, group)), group)
    chosen = {*map(tuple, by_file.values())}
    kept = [group for group in groups if tuple(group) in chosen]
    left_out = len(groups) - len(kept)
    said = f"{left_out:,} more names or links of the same files are left out" if left_out else ""
    return kept, said


def _identity(path: epath.Path) -> tuple:
    """What two names of one file have in common."""
    with contextlib.suppress(OSError):
        if "://" not in str(path):
            found = os.stat(path)
            return found.st_dev, found.st_ino
    return (str(path),)


@contextlib.contextmanager
def _readable(path: epath.Path):
    """Says what keeps a file from being read."""
    try:
        yield
    except IsADirectoryError:
        raise UserError(str(path), "is a directory", f"name its files, e.g. text:{path}/*.txt") from None
    except FileNotFoundError:
        raise Missing(str(path), "no such file", "check the path") from None
    except NotImplementedError:
        raise UserError(str(path), "** is not read from a bucket", "write one * for each folder") from None
    except ImportError as error:
        raise UserError(str(path), f"this kind of path needs a package ({error})", "install it") from None
    except OSError as error:
        raise UserError(
            str(path), f"cannot be read ({error.strerror or error})", "check the path and its rights"
        ) from None


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file; raises `UserError` that says what keeps it from being read."""
    with _readable(path):
        if path.is_dir():  # not every file system says so when it is read
            raise IsADirectoryError
        files.require_regular(path, "data is read more than once, so write it to a file first")
        with path.open("rb") as file:
            yield file
