"""First rows of tables that look like the names of columns: they are read as an example, so the user must hear of them."""

import collections
import re
from collections.abc import Iterator, Sequence

from lm.data.read.examples import Example

SAMPLE = 1000  # rows that say whether targets come more than once
SHOWN = 3  # headers that are named

# Words of column names, as data sets that are shared have them; languages by name and by code.
NAMES = frozenset(
    """
    text texts txt sentence sentences sent document doc content body message comment comments review reviews tweet post title
    headline headlines article passage paragraph context phrase utterance query question questions prompt input inputs instruction
    source src premise sentence1 s1 x original
    label labels class classes category categories target targets tgt trg tag tags topic genre sentiment emotion intent polarity
    rating score stars spam toxic gold y hypothesis sentence2 s2 answer answers response reply output outputs summary summaries
    highlights translation reference ref completion id idx index name value
    english german french spanish italian dutch portuguese russian chinese japanese korean arabic turkish polish czech hindi
    en de fr es it nl pt ru zh ja ko ar tr pl cs hi
    """.split()
)


class Headers:
    """Watches rows on their way, of one file after another, for first ones that look like a header."""

    def __init__(self):
        self._first: dict[int, Example] = {}  # by the number of the file
        self._elsewhere: set[str] = set()  # targets of first rows that other rows have too
        self._targets: collections.Counter[str] = collections.Counter()  # of the first other rows
        self._named: collections.Counter[int] = collections.Counter()  # of these: how many sides are names of columns

    def watched(self, rows: Iterator[Example], file: int) -> Iterator[Example]:
        """Yields the rows of a file."""
        firsts = {row.target for row in self._first.values()}
        for number, row in enumerate(rows):
            if number == 0:
                self._first[file] = row
                firsts.add(row.target)
            else:
                if row.target in firsts:
                    self._elsewhere.add(row.target)
                if self._targets.total() < SAMPLE:
                    self._targets[row.target] += 1
                    self._named[_names(row)] += 1
            yield row

    def found(self) -> list[tuple[int, str, str]]:
        """Returns (file, source, target) of first rows that look like a header, of what JSON has."""
        return [(file, row.source, row.target) for file, row in self._first.items() if self._is_header(row)]

    def _is_header(self, row: Example) -> bool:
        """Whether its target is nowhere else, and its sides are names of columns, which those of few other rows are.

        Where targets come again, as labels do, one side is enough.
        """
        names, rows = _names(row), self._targets.total()
        labels = rows >= 2 * len(self._targets) > 0
        short = max(len(re.findall(r"\w+", side)) for side in row.sides) <= 3
        others = sum(count for number, count in self._named.items() if number >= names)
        looks = names == 2 or (names == 1 and labels and short)
        return looks and row.target not in self._elsewhere and 20 * others <= rows


def sentences(found: Sequence[tuple[int, str, str]], names: Sequence[str]) -> list[str]:
    """Returns what to say of headers that were `found` in files of these names."""
    said = [
        f"{names[file]}: its first row looks like a header ({source!r}, {target!r}); delete it if it is one"
        for file, source, target in found[:SHOWN]
    ]
    return said + [f"{len(found) - SHOWN:,} more files begin so"] * (len(found) > SHOWN)


def _names(row: Example) -> int:
    """How many of its sides are names of columns."""
    return _is_name(row.source) + _is_name(row.target)


def _is_name(text: str) -> bool:
    """Whether it is at most three words, none of them a number, and one of them that of a column."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return len(words) <= 3 and not NAMES.isdisjoint(words) and not any(map(str.isdecimal, words))
