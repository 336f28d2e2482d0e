"""Figures with intervals, and tests of whether two differ: the bootstrap, randomisation, calibration."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

TRIALS = 1000  # of the bootstrap and of the randomisation; seeded, so that figures are the same again


BINS = 15  # of the expected calibration error


class Metric(NamedTuple):
    """One figure over n examples."""

    stats_ns: np.ndarray  # float64: what each example adds
    of: Callable[[np.ndarray], float]  # sums_s -> the figure
    signature: str = ""

    @property
    def value(self) -> float:
        return self.of(self.stats_ns.sum(axis=0))


def ratio(numerator_n: Any, denominator_n: Any = 1.0, scale: float = 1.0, signature: str = "") -> Metric:
    """The scaled ratio of two sums; with the denominator 1, a mean."""
    stats_ns = np.stack(np.broadcast_arrays(np.asarray(numerator_n, np.float64), denominator_n), axis=1)
    return Metric(stats_ns, lambda sums_s: float(scale * sums_s[0] / sums_s[1]) if sums_s[1] else 0.0, signature)


def interval(metric: Metric, trials: int = TRIALS) -> tuple[float, float]:
    """The 95 % interval of the bootstrap's percentiles (Efron, 1979), the examples drawn with replacement."""
    found = [metric.of(sums_s) for (sums_s,) in _redrawn([metric.stats_ns], trials)]
    return tuple(float(x) for x in np.percentile(found, [2.5, 97.5]))


class Comparison(NamedTuple):
    """Of two systems on the same examples; b minus a."""

    difference: float
    low: float  # of the 95 % interval of the difference
    high: float
    p_bootstrap: float
    p_randomisation: float


def compare(a: Metric, b: Metric, trials: int = TRIALS) -> Comparison:
    """Paired bootstrap (Koehn, 2004) and approximate randomisation (Riezler and Maxwell, 2005), both two-sided.

    The bootstrap's p is the share of its differences that are as far from their mean as the real one is from 0; the
    randomisation's, the share of random exchanges of outputs that make as large a difference. Both count the real one
    among them, so none is 0.
    """
    difference = b.value - a.value
    drawn = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _redrawn([a.stats_ns, b.stats_ns], trials)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    exchanged = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _exchanged(a.stats_ns, b.stats_ns, trials)])

    def share(distances):
        # Differences that are equal on paper are not in floating point.
        return (1 + int(np.sum(np.abs(distances) >= abs(difference) * (1 - 1e-9)))) / (1 + trials)

    return Comparison(difference, float(low), float(high), share(drawn - drawn.mean()), share(exchanged))


def _redrawn(stats: list[np.ndarray], trials: int) -> Iterator[list[np.ndarray]]:
    """Sums of each system's statistics over the same n examples drawn with replacement, again and again."""
    rng, n = np.random.default_rng(0), len(stats[0])
    for _ in range(trials):
        times_n = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        yield [times_n @ stats_ns for stats_ns in stats]


def _exchanged(a_ns: np.ndarray, b_ns: np.ndarray, trials: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sums of both systems, each example's outputs exchanged or not."""
    rng, total_s = np.random.default_rng(0), a_ns.sum(axis=0) + b_ns.sum(axis=0)
    for _ in range(trials):
        kept_n = rng.integers(0, 2, len(a_ns)).astype(np.float64)
        sums_a = kept_n @ a_ns + (1 - kept_n) @ b_ns
        yield sums_a, total_s - sums_a


def calibration(probabilities_nl: np.ndarray, gold_n: np.ndarray) -> dict[str, Metric]:
    """Expected calibration error and Brier score, 0 is best.

    The error (Guo et al., 2017) is of the most probable label, in `BINS` bins of equal width. The Brier score (1950) is
    the squared distance of the probabilities from the gold label's, summed over the labels: 0 to 2.

    Args:
        probabilities_nl: rows that sum to 1.
        gold_n: the gold label's number; -1: it is none of them.
    """
    n = len(gold_n)
    top_n, confidence_n = probabilities_nl.argmax(axis=1), probabilities_nl.max(axis=1)
    bin_n = np.clip(np.ceil(confidence_n * BINS).astype(int) - 1, 0, BINS - 1)
    stats_n3b = np.zeros((n, 3, BINS))
    stats_n3b[np.arange(n), :, bin_n] = np.stack([confidence_n, top_n == gold_n, np.ones(n)], axis=1)

    def error(sums_s):
        confidence_b, right_b, count_b = sums_s.reshape(3, BINS)
        return float(np.abs(confidence_b - right_b).sum() / count_b.sum())

    gold_nl = gold_n[:, None] == np.arange(probabilities_nl.shape[1])
    distance_n = ((probabilities_nl - gold_nl) ** 2).sum(axis=1) + (gold_n < 0)
    return {"ece": Metric(stats_n3b.reshape(n, -1), error), "brier": ratio(distance_n)}
