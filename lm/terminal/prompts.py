"""Prompts, from a command line, a file and standard input."""

import sys
from collections.abc import Sequence

from etils import epath

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
    return [*given, *_lines(epath.Path(file).read_bytes(), file)]


def next_line() -> str | None:
    """Returns the next line of standard input, or None at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.buffer.readline()
    return (_lines(line, "standard input") or [""])[0] if line else None


def _lines(content: bytes, where: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}:{line}", f"is not UTF-8 (byte {error.start})", "convert it to UTF-8") from None
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
