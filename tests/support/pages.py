"""The pages of the documentation, and what stands in them."""

import pathlib
import re
from typing import NamedTuple

from support.programs import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ ]*$", re.S | re.M)


class Block(NamedTuple):
    """A block of code; `line` is that of its first line of code, from 1."""

    line: int
    words: list[str]
    code: str


def blocks(text: str) -> list[Block]:
    """Returns the fenced blocks of a page in order."""
    return [Block(text.count("\n", 0, m.start("code")) + 1, m["info"].split(), m["code"]) for m in FENCE.finditer(text)]


def name_of(page: pathlib.Path) -> str:
    """Returns the path of a page from the root of the repository."""
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
