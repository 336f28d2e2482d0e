"""Lines on standard output."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
