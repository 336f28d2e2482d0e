"""The progress of a program, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from lm.terminal import output

T = TypeVar("T")
INTERVAL = 30.0  # seconds between two lines if standard error is no terminal


def counted(items: Iterable[T], total: int, unit: str, done: int = 0) -> Iterator[T]:
    """Yields the items and shows the progress: a bar on a terminal, elsewhere a line every `INTERVAL` seconds.

    `done` of the `total` items were finished before this call.
    """
    shown = {"total": total, "initial": done, "unit": unit, "leave": False, "dynamic_ncols": True, "delay": 2}
    said = time.monotonic()
    with tqdm(disable=not sys.stderr.isatty(), **shown) as bar:
        for number, item in enumerate(items, start=done + 1):
            yield item
            bar.update()
            if bar.disable and time.monotonic() - said > INTERVAL:
                said = time.monotonic()
                output.note(f"{number:,} of {total:,} {unit}s")
