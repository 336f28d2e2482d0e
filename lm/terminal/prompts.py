"""Prompts, from a command line, a file and standard input."""

import sys
from collections.abc import Sequence

from lm import files
from lm.errors import UserError


def read(given: Sequence[str], file: str | None) -> list[str]:
    """Returns all prompts: the given ones, then the lines of the file; without either, those of standard input."""
    for prompt in given:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError("--prompt", "is not UTF-8", "give it in a file: --input_file")
    if file is None:
        if given:
            return [*given]
        return [] if sys.stdin is None or sys.stdin.isatty() else _lines(sys.stdin.buffer.read(), "standard input")
    if file == "-":
        return [*given, *_lines(sys.stdin.buffer.read(), "standard input")]
    files.require_regular(file, "give a regular file, or --input_file=- for standard input")
    return [*given, *_lines(files.read(file, "file of prompts"), file)]


def next_line() -> str | None:
    """Returns the next line of standard input, or None at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.buffer.readline()
    return (_lines(line, "standard input") or [""])[0] if line else None


def _lines(content: bytes, where: str) -> list[str]:
    text = files.decoded(content, where)
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
