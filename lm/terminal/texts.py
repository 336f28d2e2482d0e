"""The texts and pairs that `lm.score` scores: arguments, lines of a file or lines of standard input."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from lm import files
from lm.data.read import paths, text_files
from lm.data.read.examples import Example
from lm.errors import UserError


def read(given: Sequence[str], file: str, paired: bool) -> Iterator[Example]:
    """Yields the given texts, or the lines of the file, or without both the lines of standard input.

    With `paired`, a line is a source and a target with a tab between them. Lines are read lazily.

    Raises:
        UserError: a line is not a pair or not UTF-8; the error names its number.
    """
    where = "--text" if given else "standard input" if file in ("", "-") else file
    lines = given or (_of_standard_input() if file in ("", "-") else text_files.lines(paths.path_of(file)))
    for number, line in enumerate(lines, start=1):
        if not files.encodable(line):
            raise UserError(f"{where}:{number}", "is not UTF-8", "write the text to a file and give --input_file")
        if not paired:
            yield Example(None, line)
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            reason = f"has {len(fields) - 1} tabs instead of one"
            raise UserError(f"{where}:{number}", reason, "write SOURCE<TAB>TARGET on each line")
        yield Example(*fields)


def _of_standard_input() -> Iterator[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("standard input", "has no lines", "give --text, --input_file or --data, or pipe lines into it")
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 (byte {error.start} of the line)"
            raise UserError(f"standard input:{number}", reason, "convert it to UTF-8") from None
        yield text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def chunks(examples: Iterable[Example], most: int, characters: int) -> Iterator[list[Example]]:
    """Yields the examples in lists; a list ends when it has `most` examples or at least `characters` characters."""
    chunk, held = [], 0
    for example in examples:
        chunk.append(example)
        held += sum(map(len, example.sides))
        if len(chunk) >= most or held >= characters:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
