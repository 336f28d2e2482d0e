"""Headers: finds first rows of tables that look like names of columns, as they would be read as examples."""

import collections
import re
from collections.abc import Iterator, Sequence

from lm.data.read.examples import Example

SAMPLE = 1000  # rows whose targets are counted, to tell labels from texts
SHOWN = 3  # the most headers that a warning names

# Words in column names of public data sets; languages by name and by code.
NAMES = frozenset(
    """
    text texts txt sentence sentences sent document doc content body message comment comments review reviews tweet post
    title headline headlines article passage paragraph context phrase utterance query question questions prompt input
    inputs instruction source src premise sentence1 s1 x original
    label labels class classes category categories target targets tgt trg tag tags topic genre sentiment emotion intent
    polarity rating score stars spam toxic gold y hypothesis sentence2 s2 answer answers response reply output outputs
    summary summaries highlights translation reference ref completion id idx index name value
    english german french spanish italian dutch portuguese russian chinese japanese korean arabic turkish polish czech
    hindi
    en de fr es it nl pt ru zh ja ko ar tr pl cs hi
    """.split()
)


class Headers:
    """Watches the rows of one file after another, and finds first rows that look like a header."""

    def __init__(self):
        self._first: dict[int, Example] = {}  # the first row of each file, by its number
        self._elsewhere: set[str] = set()  # targets of first rows that occur in other rows too
        # Of the first `SAMPLE` rows that are not first in a file: the count of each target, and the number of rows of
        # which 0, 1 or 2 sides look like names of columns.
        self._targets: collections.Counter[str] = collections.Counter()
        self._named: collections.Counter[int] = collections.Counter()

    def watched(self, rows: Iterator[Example], file: int) -> Iterator[Example]:
        """Yields the rows of a file unchanged, and takes note of them."""
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
        """Returns the (file, source, target) of each first row that looks like a header, in types of JSON."""
        return [(file, row.source, row.target) for file, row in self._first.items() if self._is_header(row)]

    def _is_header(self, row: Example) -> bool:
        """Returns whether a first row looks like a header.

        Its target must occur in no other row, and its two sides must be names of columns, as in few other rows. If
        targets repeat, as labels do, one side is enough.
        """
        names, rows = _names(row), self._targets.total()
        labels = rows >= 2 * len(self._targets) > 0
        short = max(len(re.findall(r"\w+", side)) for side in row.sides) <= 3
        others = sum(count for number, count in self._named.items() if number >= names)
        looks = names == 2 or (names == 1 and labels and short)
        return looks and row.target not in self._elsewhere and 20 * others <= rows


def sentences(found: Sequence[tuple[int, str, str]], names: Sequence[str]) -> list[str]:
    """Returns the warnings about headers that were `found` in the files `names`."""
    said = [
        f"{names[file]}: its first row looks like a header ({source!r}, {target!r}); delete it if it is one"
        for file, source, target in found[:SHOWN]
    ]
    return said + [f"{len(found) - SHOWN:,} more files start with such a row"] * (len(found) > SHOWN)


def _names(row: Example) -> int:
    """Returns how many sides of a row are names of columns."""
    return _is_name(row.source) + _is_name(row.target)


def _is_name(text: str) -> bool:
    """Returns whether a text has at most three words, none of them a number, and one of them in `NAMES`."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return len(words) <= 3 and not NAMES.isdisjoint(words) and not any(map(str.isdecimal, words))
