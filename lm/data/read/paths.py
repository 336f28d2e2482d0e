"""The paths of a source: names, patterns and escapes, and opening files.

A name with `*`, `?` or `[` is a pattern; `**` crosses folders. The text of a source is split at ` + ` and ` | `, and
that of `parallel` at `,` too. A backslash makes the character after it a part of the name: `parallel:a\\,b.en,a.de`,
`tsv:a \\| b.tsv`. If a path exists exactly as it is written, it is read as that file.
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
    """No file has the given name, or a pattern matches none."""


def path_of(name: str) -> epath.Path:
    """Returns the path of a name without patterns and escapes; `~` is the home directory."""
    return epath.Path(name).expanduser()


def divided(text: str) -> list[str]:
    """Returns the parts of a text between commas that are not escaped; escapes are kept."""
    return re.findall(r"(?:^|,)((?:\\.|[^\\,]|\\$)*)", text)


def named(name: str, role: str, scheme: str) -> list[epath.Path]:
    """Returns the path of a name in a list, or the files that a pattern matches."""
    if re.search(r"[*?\[]", _ESCAPED.sub("", name)):
        return matches(name, role, scheme)
    written = path_of(name)
    with _readable(written):
        return [written if written.exists() else path_of(_ESCAPED.sub(r"\1", name))]


def matches(pattern: str, role: str, scheme: str) -> list[epath.Path]:
    """Returns the files that a pattern matches, sorted. If a file has the pattern as its name, returns that file.

    Raises:
        Missing: no file matches.
    """
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
        raise Missing(f"config.data.{role}", reason, "check the path; ** crosses folders; quote patterns in the shell")
    return paths


def _expanded(pattern: str) -> set[str]:
    """Returns the paths that `glob.glob` finds, except that `**` visits each real folder once, so links cannot loop."""
    before, starred, after = re.fullmatch(r"(.*?)((?<![^/])\*\*(?![^/])|\Z)/*(.*)", pattern, re.DOTALL).groups()
    if not starred:
        return {*glob.glob(pattern)}
    found = set()
    for top in glob.glob(before) if before else [""]:
        for folder in _folders(top):
            found |= _expanded(os.path.join(glob.escape(folder), after or "*"))
    return found


def _folders(top: str) -> Iterator[str]:
    """Yields a folder and all folders below it, each real one once, without hidden ones and links to folders above."""
    seen, real_top = set(), os.path.realpath(top or ".")
    for folder, below, _ in os.walk(top or ".", followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (real != real_top and os.path.commonpath([real, real_top]) == real):
            below.clear()
            continue
        seen.add(real)
        # Links come last, so that a folder is found under its own name rather than under a link to it.
        below[:] = sorted(name for name in below if not name.startswith("."))
        below.sort(key=lambda name: os.path.islink(os.path.join(folder, name)))
        yield folder if top else os.path.relpath(folder)


def once(groups: Sequence[Sequence[epath.Path]]) -> tuple[list[Sequence[epath.Path]], str]:
    """Returns the groups of files without duplicates, and a note about the duplicates, empty if there are none.

    Groups are duplicates if their names lead to the same files, e.g. by links. The group without links is kept, or the
    first one if all have links.
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
    """Returns a key that all names of a file share: device and inode, or the path if there are none."""
    with contextlib.suppress(OSError):
        if "://" not in str(path):
            found = os.stat(path)
            return found.st_dev, found.st_ino
    return (str(path),)


@contextlib.contextmanager
def _readable(path: epath.Path):
    """Turns an error of the file system into a `UserError` with a reason and an action."""
    try:
        yield
    except IsADirectoryError:
        raise UserError(str(path), "is a directory", f"name its files, e.g. text:{path}/*.txt") from None
    except FileNotFoundError:
        raise Missing(str(path), "no such file", "check the path") from None
    except NotImplementedError:
        raise UserError(str(path), "** is not read from a bucket", "write one * for each folder") from None
    except ImportError as error:
        raise UserError(str(path), f"needs a package for this kind of path ({error})", "install it") from None
    except OSError as error:
        raise UserError(
            str(path), f"cannot be read ({error.strerror or error})", "check the path and its permissions"
        ) from None


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading bytes; raises `UserError` if it cannot be read."""
    with _readable(path):
        if path.is_dir():  # not every file system raises an error for it
            raise IsADirectoryError
        files.require_regular(path, "data is read more than once, so write it to a file first")
        with path.open("rb") as file:
            yield file
