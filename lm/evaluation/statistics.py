"""Metrics with intervals, and tests of whether two differ: score and t intervals, bootstrap, randomization,
calibration.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import special

TRIALS = 1000  # of the bootstrap and of the randomization; they are seeded, so results are reproducible
LEVEL = 0.975  # the quantile above which an interval of 95 % leaves out as much as below
STRETCHES = 48  # of a language model's streams, that intervals are over
BINS = 15  # of the expected calibration error


class Metric(NamedTuple):
    """A metric over n examples."""

    stats_ns: np.ndarray  # float64: the statistics of each example, which are summed
    of: Callable[[np.ndarray], float]  # sums_s -> the value; not finite if it is not defined
    signature: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)  # of the value
    averaged: bool = False  # whether it is the mean of values between the bounds, which are the first column
    reason: str = "there is nothing to divide by"  # why the value is not defined, if it is not
    unmeasured: str = ""  # why there is no interval; empty: there is one

    @property
    def value(self) -> float | None:
        """The value; None if it is not defined."""
        return defined(self.of(self.stats_ns.sum(axis=0)))


def defined(figure: float) -> float | None:
    """Returns the value, or None if it is not finite, as JSON has no such numbers."""
    return float(figure) if math.isfinite(figure) else None


def quotient(numerator: float, denominator: float) -> float:
    """Returns the quotient, NaN if the denominator is 0."""
    return float(numerator) / float(denominator) if denominator else math.nan


def exponential(nats: float) -> float:
    """Returns exp(nats), infinite if a float cannot hold it."""
    return math.exp(nats) if nats < 700 else nats if math.isnan(nats) else math.inf


def ratio(numerator_n: Any, denominator_n: Any = 1.0, scale: float = 1.0, signature: str = "") -> Metric:
    """The scaled ratio of two sums; with the denominator 1, a mean."""
    stats_ns = np.stack(np.broadcast_arrays(np.asarray(numerator_n, np.float64), denominator_n), axis=1)
    return Metric(stats_ns, lambda sums_s: scale * quotient(*sums_s), signature)


def mean(values_n: Any, most: float = 1.0, signature: str = "") -> Metric:
    """Returns the mean of values between 0 and `most`, e.g. the share of correct outputs."""
    return ratio(values_n, signature=signature)._replace(bounds=(0.0, most), averaged=True)


def perplexity(nats_n: Any, tokens_n: Any) -> Metric:
    """The exponential of nats per token."""
    of = lambda sums_s: exponential(quotient(*sums_s))
    return ratio(nats_n, tokens_n)._replace(of=of, bounds=(1.0, math.inf))


def stretches(windows_wbs: np.ndarray) -> np.ndarray:
    """Returns the sums over stretches of consecutive windows, for each of the b streams of a language model.

    Neighboring windows are similar, so they are not independent draws. About `STRETCHES` stretches are long compared
    with the dependence between neighbors (Carlstein, 1986).
    """
    windows, streams, columns = windows_wbs.shape
    count = -(-windows * streams // STRETCHES)
    return np.add.reduceat(windows_wbs, range(0, windows, count)).reshape(-1, columns)


# ---- intervals --------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A 95 % interval. Without an interval both ends are None, and the method gives the reason."""

    low: float | None
    high: float | None
    method: str  # a key of METHODS, or "none: REASON"

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None else (self.low, self.high)


METHODS = {
    "wilson": "Wilson's score interval of a mean of values between 0 and 1; other values count as more examples",
    "hall": "Student's t with Hall's correction for skewness (1992), of the jackknife's pseudo-values",
    "paired": "Student's t of the differences by example, as if one more of them differed",
}


def interval(metric: Metric) -> Interval:
    """Returns the 95 % interval of a metric; examples count as independent draws."""
    n = len(metric.stats_ns)
    if metric.value is None:
        return _none("the figure is not defined")
    if metric.unmeasured:
        return _none(metric.unmeasured)
    if n < 2:
        return _none("one example" if n else "no example")
    return _clipped(_wilson(metric) if metric.averaged else _hall(metric), metric.bounds)


def recorded(intervals: dict[str, Interval]) -> dict[str, dict[str, Any]]:
    """Returns intervals in the form of an evaluation's record: their ends, None if there are none, and their
    methods.
    """
    return {
        "intervals": {name: found.ends for name, found in intervals.items()},
        "interval_methods": {name: found.method for name, found in intervals.items()},
    }


def _none(reason: str) -> Interval:
    return Interval(None, None, f"none: {reason}")


def _clipped(found: Interval, bounds: tuple[float, float]) -> Interval:
    return (
        found if found.low is None else found._replace(low=max(found.low, bounds[0]), high=min(found.high, bounds[1]))
    )


def _wilson(metric: Metric) -> Interval:
    """Returns Wilson's interval (1927).

    Values between 0 and 1 vary less than zeros and ones with the same mean, so they count as more examples (Korn and
    Graubard, 1998, for designs). If all values are equal, each counts as one example.
    """
    least, most = metric.bounds
    values_n = (metric.stats_ns[:, 0] - least) / (most - least)
    p, variance = values_n.mean(), values_n.var()
    n = len(values_n) * (p * (1 - p) / variance if variance > 1e-12 else 1.0)
    z2 = special.ndtri(LEVEL) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (max(p * (1 - p), 0) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low, high = (float(least + (most - least) * x) for x in (centre - half, centre + half))
    return Interval(
        min(low, metric.value), max(high, metric.value), "wilson"
    )  # at the bounds they may differ by rounding


def _hall(metric: Metric) -> Interval:
    """Returns the interval of Hall (1992), "On the removal of skewness by transformation".

    t becomes t + g (t^2 / 3 + 1 / 6) + g^2 t^3 / 27, with g the skewness over the square root of n. This is a cube, so
    it has an inverse. If the metric is no mean, the pseudo-values of the jackknife replace the values.
    """
    n, total_s = len(metric.stats_ns), metric.stats_ns.sum(axis=0)
    without_n = np.array([metric.of(total_s - row_s) for row_s in metric.stats_ns])
    if not np.isfinite(without_n).all():
        return _none("without one of the examples the figure is not defined")
    value, centred_n = metric.of(total_s), (n - 1) * (without_n.mean() - without_n)
    variance = np.mean(centred_n**2)
    if variance <= (1e-9 * abs(value)) ** 2:
        return _none("leaving an example out changes nothing")
    error = math.sqrt(variance / (n - 1))
    t = special.stdtrit(n - 1, LEVEL)
    if n < 3:
        return Interval(float(value - t * error), float(value + t * error), "hall")
    skewness = np.mean(centred_n**3) / variance**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    g = math.copysign(max(abs(skewness), 1e-6), skewness) / math.sqrt(n)
    ends = (value - error * 3 / g * (np.cbrt(1 + g * (x - g / 6)) - 1) for x in (t, -t))
    return Interval(*map(float, ends), "hall")


def _paired(difference_n: np.ndarray, most: float) -> Interval:
    """Returns the interval of differences that are mostly 0, such as those of labels, of which few may differ.

    Bonett and Price (2012) add a pair in favor of either system. Accordingly, the squares here count one more
    difference, as large as those seen.
    """
    n, differing = len(difference_n), int(np.count_nonzero(difference_n))
    squares = float(np.sum(difference_n**2))
    variance = (squares + (squares / differing if differing else most**2)) / n - difference_n.mean() ** 2
    half = special.stdtrit(n - 1, LEVEL) * math.sqrt(variance / (n - 1))
    return Interval(float(difference_n.mean() - half), float(difference_n.mean() + half), "paired")


# ---- comparisons ------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """The comparison of two systems on the same examples; b minus a."""

    difference: float
    interval: Interval  # of the difference
    p_bootstrap: float
    p_randomisation: float


def compare(a: Metric, b: Metric, trials: int = TRIALS) -> Comparison | None:
    """Returns the difference with its interval, and two tests of it; None if a metric is undefined or has no interval.

    The tests are two-sided: the paired bootstrap (Koehn, 2004) and approximate randomization (Riezler and Maxwell,
    2005). Calibration errors are not compared, as their difference is biased.

    The bootstrap's p is the share of resampled differences that are as far from their mean as the observed one is from
    0. They are widened by sqrt(n / (n - 1)), since n examples vary less about their own mean than about the true one.
    The p of randomization is the share of random exchanges of outputs with as large a difference. Both count the
    observed difference, so neither is 0. With fewer than about ten differing examples, both reject less often than 5 %
    of the time.
    """
    if a.value is None or b.value is None or a.unmeasured:
        return None
    n, difference = len(a.stats_ns), b.value - a.value
    drawn = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _redrawn([a.stats_ns, b.stats_ns], trials)])
    exchanged = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _exchanged(a.stats_ns, b.stats_ns, trials)])

    def share(distances):
        # Differences that are equal on paper are not in floating point; one that is not defined counts as large.
        return (1 + int(np.sum(~(np.abs(distances) < abs(difference) * (1 - 1e-9))))) / (1 + trials)

    spread = (drawn - np.nanmean(drawn)) * math.sqrt(n / max(n - 1, 1))
    return Comparison(difference, between(a, b), share(spread), share(exchanged))


def between(a: Metric, b: Metric) -> Interval:
    """Returns the 95 % interval of b minus a on the same examples."""
    low, high = a.bounds
    width = a.stats_ns.shape[1]
    if a.averaged and b.averaged and len(a.stats_ns) > 1:
        found = _paired(b.stats_ns[:, 0] - a.stats_ns[:, 0], high - low)
        return _clipped(found, (low - high, high - low))
    both = Metric(
        np.concatenate([a.stats_ns, b.stats_ns], axis=1),
        lambda sums_s: b.of(sums_s[width:]) - a.of(sums_s[:width]),
    )
    return interval(both)


def _redrawn(stats: list[np.ndarray], trials: int) -> Iterator[list[np.ndarray]]:
    """Yields the sums of each system's statistics over the same n examples, drawn with replacement."""
    rng, n = np.random.default_rng(0), len(stats[0])
    for _ in range(trials):
        times_n = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        yield [times_n @ stats_ns for stats_ns in stats]


def _exchanged(a_ns: np.ndarray, b_ns: np.ndarray, trials: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the sums of both systems, with the outputs of each example exchanged at random."""
    rng, total_s = np.random.default_rng(0), a_ns.sum(axis=0) + b_ns.sum(axis=0)
    for _ in range(trials):
        kept_n = rng.integers(0, 2, len(a_ns)).astype(np.float64)
        sums_a = kept_n @ a_ns + (1 - kept_n) @ b_ns
        yield sums_a, total_s - sums_a


def calibration(probabilities_nl: np.ndarray, gold_n: np.ndarray) -> dict[str, Metric]:
    """Returns the expected calibration error and the Brier score; 0 is the best value of both.

    The error (Guo et al., 2017) is that of the most probable label, in `BINS` bins of equal width. It has no interval.
    Even for correct probabilities it is above 0, by chance in each bin, and it is larger in a resample (Kumar et al.,
    2019). The Brier score (1950) is the squared distance of the probabilities from those of the gold label, summed over
    the labels: 0 to 2.

    Args:
        probabilities_nl: probabilities of each example, which sum to 1.
        gold_n: the number of the gold label; -1 if it is none of them.
    """
    n = len(gold_n)
    top_n, confidence_n = probabilities_nl.argmax(axis=1), probabilities_nl.max(axis=1)
    bin_n = np.clip(np.ceil(confidence_n * BINS).astype(int) - 1, 0, BINS - 1)
    stats_n3b = np.zeros((n, 3, BINS))
    stats_n3b[np.arange(n), :, bin_n] = np.stack([confidence_n, top_n == gold_n, np.ones(n)], axis=1)

    def error(sums_s):
        confidence_b, right_b, count_b = sums_s.reshape(3, BINS)
        return quotient(np.abs(confidence_b - right_b).sum(), count_b.sum())

    reason = "chance makes the error larger, and drawing samples again does so once more"
    gold_nl = gold_n[:, None] == np.arange(probabilities_nl.shape[1])
    distance_n = ((probabilities_nl - gold_nl) ** 2).sum(axis=1) + (gold_n < 0)
    return {
        "ece": Metric(stats_n3b.reshape(n, -1), error, bounds=(0.0, 1.0), unmeasured=reason),
        "brier": ratio(distance_n)._replace(bounds=(0.0, 2.0)),
    }
