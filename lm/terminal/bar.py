"""How far a program is with its work, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from lm.terminal import output

T = TypeVar("T")
INTERVAL = 30.0  # seconds between two lines where there is no terminal


def counted(items: Iterable[T], total: int, unit: str, done: int = 0) -> Iterator[T]:
    """Yields the items, with a bar on a terminal and a line at intervals elsewhere; `done` were there before."""
    shown = {"total": total, "initial": done, "unit": unit, "leave": False, "dynamic_ncols": True, "delay": 2}
    said = time.monotonic()
    with tqdm(disable=not sys.stderr.isatty(), **shown) as bar:
        for number, item in enumerate(items, start=done + 1):
            yield item
            bar.update()
            if bar.disable and time.monotonic() - said > INTERVAL:
                said = time.monotonic()
                output.note(f"{number:,} of {total:,} {unit}s")
