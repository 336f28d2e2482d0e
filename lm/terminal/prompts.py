"""Prompts from the command line, a file and standard input."""

import sys
from collections.abc import Sequence
from typing import TextIO

from lm import files
from lm.errors import UserError

GIVE = "open it, or give prompts with --prompt or --input_file"


def read(given: Sequence[str], file: str | None) -> list[str]:
    """Returns all prompts: the given ones, then the lines of the file; without both, the lines of standard input."""
    for prompt in given:
        if not files.encodable(prompt):
            raise UserError("--prompt", "is not UTF-8", "write the prompt to a file and give --input_file")
    if file is None:
        if given:
            return [*given]
        return [] if sys.stdin is None or sys.stdin.isatty() else _lines(_bytes(), "standard input")
    if file == "-":
        return [*given, *_lines(_bytes(), "standard input")]
    files.require_regular(file, "give a regular file, or --input_file=- for standard input")
    return [*given, *_lines(files.read(file, "file of prompts"), file)]


def by_line(given: Sequence[str], file: str | None, interactive: bool, found: Sequence[str]) -> bool:
    """Returns whether prompts are lines of a file or of a pipe, so that each needs a fixed number of output lines."""
    if interactive:
        return not _standard_input().isatty()
    return file is not None or (bool(found) and not given)


def next_line() -> str | None:
    """Returns the next line of standard input, or None at its end."""
    if _standard_input().isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = _bytes(whole=False)
    return (_lines(line, "standard input") or [""])[0] if line else None


def _standard_input() -> TextIO:
    if sys.stdin is None:
        raise UserError("standard input", "is closed", GIVE)
    return sys.stdin


def _bytes(whole: bool = True) -> bytes:
    """Returns all of standard input, or its next line."""
    stream = _standard_input().buffer
    try:
        return stream.read() if whole else stream.readline()
    except OSError as error:
        raise UserError("standard input", f"cannot be read ({error.strerror})", GIVE) from error


def _lines(content: bytes, where: str) -> list[str]:
    text = files.decoded(content, where)
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
