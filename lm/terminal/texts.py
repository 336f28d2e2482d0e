"""Texts and pairs that are to be scored: arguments, lines of a file and lines of standard input."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from lm import files
from lm.data.read import paths, text_files
from lm.data.read.examples import Example
from lm.errors import UserError


def read(given: Sequence[str], file: str, paired: bool) -> Iterator[Example]:
    """Yields each given text, or each line of the file, or of standard input where neither is there.

    With `paired` a line is a source and a target with a tab between them. Lines are read as they are asked for.

    Raises:
        UserError: a line that is no pair, or no text; it is named by its number.
    """
    where = "--text" if given else "standard input" if file in ("", "-") else file
    lines = given or (_of_standard_input() if file in ("", "-") else text_files.lines(paths.path_of(file)))
    for number, line in enumerate(lines, start=1):
        if not files.encodable(line):
            raise UserError(f"{where}:{number}", "is not UTF-8", "give it in a file: --input_file")
        if not paired:
            yield Example(None, line)
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            reason = f"{len(fields) - 1} tabs where there must be one"
            raise UserError(f"{where}:{number}", reason, "write SOURCE<TAB>TARGET on each line")
        yield Example(*fields)


def _of_standard_input() -> Iterator[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("standard input", "has no lines", "give --text, --input_file or --data, or lines by a pipe")
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 (byte {error.start} of the line)"
            raise UserError(f"standard input:{number}", reason, "convert it to UTF-8") from None
        yield text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def chunks(examples: Iterable[Example], most: int, characters: int) -> Iterator[list[Example]]:
    """Yields the examples in lists, each ended by the one with which it has so many of them, or so many characters."""
    chunk, held = [], 0
    for example in examples:
        chunk.append(example)
        held += sum(map(len, example.sides))
        if len(chunk) >= most or held >= characters:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
