"""Text to measure with, of any size and from no download."""

import numpy as np


def words() -> list[str]:
    """Twenty megabytes in lines of a dozen words, whose frequencies fall as those of a language do."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    known = ["".join(rng.choice(syllables, length)) for length in rng.integers(1, 6, 100_000)]
    drawn = np.minimum(rng.zipf(1.1, 3_000_000), len(known)) - 1
    return [" ".join(known[i] for i in line) for line in drawn.reshape(-1, 12)]
