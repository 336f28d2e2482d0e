"""Figures with intervals, and tests of whether two differ: score and t intervals, the bootstrap, randomisation, calibration."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import special

TRIALS = 1000  # of the bootstrap and of the randomisation; seeded, so that figures are the same again
LEVEL = 0.975  # the quantile above which an interval of 95 % leaves out as much as below
STRETCHES = 48  # of a language model's streams, that intervals are over
BINS = 15  # of the expected calibration error


class Metric(NamedTuple):
    """One figure over n examples."""

    stats_ns: np.ndarray  # float64: what each example adds
    of: Callable[[np.ndarray], float]  # sums_s -> the figure; not finite where it is not defined
    signature: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)  # that the figure cannot leave
    averaged: bool = False  # whether it is the mean of values between the bounds, which are the first column
    reason: str = "there is nothing to divide by"  # why the figure is not defined, where it is not
    unmeasured: str = ""  # why there is no interval; empty: there is one

    @property
    def value(self) -> float | None:
        """The figure; None where it is not defined."""
        return defined(self.of(self.stats_ns.sum(axis=0)))


def defined(figure: float) -> float | None:
    """Returns the figure, or None where it is not finite, which JSON cannot say."""
    return float(figure) if math.isfinite(figure) else None


def quotient(numerator: float, denominator: float) -> float:
    """Returns the quotient, NaN where the denominator is 0."""
    return float(numerator) / float(denominator) if denominator else math.nan


def exponential(nats: float) -> float:
    """Returns exp(nats), infinite where that is no float."""
    return math.exp(nats) if nats < 700 else nats if math.isnan(nats) else math.inf


def ratio(numerator_n: Any, denominator_n: Any = 1.0, scale: float = 1.0, signature: str = "") -> Metric:
    """The scaled ratio of two sums; with the denominator 1, a mean."""
    stats_ns = np.stack(np.broadcast_arrays(np.asarray(numerator_n, np.float64), denominator_n), axis=1)
    return Metric(stats_ns, lambda sums_s: scale * quotient(*sums_s), signature)


def mean(values_n: Any, most: float = 1.0, signature: str = "") -> Metric:
    """The mean of values between 0 and `most`, e.g. the share of what is right."""
    return ratio(values_n, signature=signature)._replace(bounds=(0.0, most), averaged=True)


def perplexity(nats_n: Any, tokens_n: Any) -> Metric:
    """The exponential of nats per token."""
    of = lambda sums_s: exponential(quotient(*sums_s))
    return ratio(nats_n, tokens_n)._replace(of=of, bounds=(1.0, math.inf))


def stretches(windows_wbs: np.ndarray) -> np.ndarray:
    """Joins consecutive windows of each of the b streams of a language model, and returns what each stretch adds.

    Neighbouring windows are alike, so they are no independent draws. Some `STRETCHES` stretches are long beside what each
    shares with the next one (Carlstein, 1986).
    """
    windows, streams, columns = windows_wbs.shape
    count = -(-windows * streams // STRETCHES)
    return np.add.reduceat(windows_wbs, range(0, windows, count)).reshape(-1, columns)


# ---- intervals --------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A 95 % interval; without ends where there is none, and then the method says why."""

    low: float | None
    high: float | None
    method: str  # a key of METHODS, or "none: REASON"

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None else (self.low, self.high)


METHODS = {
    "wilson": "Wilson's score interval of a mean of values between 0 and 1; other values than these two count as more examples",
    "hall": "Student's t with Hall's correction for skewness (1992), of the jackknife's pseudo-values",
    "paired": "Student's t of the differences by example, as if one more of them differed",
}


def interval(metric: Metric) -> Interval:
    """Returns the 95 % interval of a figure; the examples are taken as independent draws."""
    n = len(metric.stats_ns)
    if metric.value is None:
        return _none("the figure is not defined")
    if metric.unmeasured:
        return _none(metric.unmeasured)
    if n < 2:
        return _none("one example" if n else "no example")
    return _clipped(_wilson(metric) if metric.averaged else _hall(metric), metric.bounds)


def recorded(intervals: dict[str, Interval]) -> dict[str, dict[str, Any]]:
    """Returns intervals as an evaluation's record has them: their ends, None where there are none, and their methods."""
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
    """Wilson (1927). Values between 0 and 1 vary less than zeros and ones of the same mean: they count as more examples
    (Korn and Graubard, 1998, do so for designs). Where all are alike they count as what they are."""
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
    """Hall (1992), "On the removal of skewness by transformation": t becomes t + g (t^2 / 3 + 1 / 6) + g^2 t^3 / 27 with the
    skewness g over the square root of n, which is a cube and so has an inverse. Of a figure that is no mean, the
    pseudo-values of the jackknife stand for the values."""
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
    """Of differences that are mostly 0, as those of labels, too few may have been seen to know how they vary. As Bonett and
    Price (2012) add a pair in favour of either system, the squares here count one more difference, as large as those seen."""
    n, differing = len(difference_n), int(np.count_nonzero(difference_n))
    squares = float(np.sum(difference_n**2))
    variance = (squares + (squares / differing if differing else most**2)) / n - difference_n.mean() ** 2
    half = special.stdtrit(n - 1, LEVEL) * math.sqrt(variance / (n - 1))
    return Interval(float(difference_n.mean() - half), float(difference_n.mean() + half), "paired")


# ---- comparisons ------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Of two systems on the same examples; b minus a."""

    difference: float
    interval: Interval  # of the difference
    p_bootstrap: float
    p_randomisation: float


def compare(a: Metric, b: Metric, trials: int = TRIALS) -> Comparison | None:
    """Returns the difference with its interval, and two-sided tests of it: the paired bootstrap (Koehn, 2004) and
    approximate randomisation (Riezler and Maxwell, 2005). None where one of the figures is not defined or has no interval
    by its nature, as the calibration error, of which the difference is biased too.

    The bootstrap's p is the share of its differences that are as far from their mean as the real one is from 0; they are
    spread by sqrt(n / (n - 1)), as n examples vary less about their own mean than about the true one. The randomisation's
    is the share of random exchanges of outputs that make as large a difference. Both count the real one among them, so
    none is 0. Where fewer than ten or so examples differ, both reject less often than 5 % of the time.
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

    The error (Guo et al., 2017) is of the most probable label, in `BINS` bins of equal width. It has no interval: where the
    probabilities are right it is above 0 all the same, by the chance in each bin, and more so in a sample drawn again
    (Kumar et al., 2019). The Brier score (1950) is
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
        return quotient(np.abs(confidence_b - right_b).sum(), count_b.sum())

    reason = "chance makes the error larger, and drawing samples again does so once more"
    gold_nl = gold_n[:, None] == np.arange(probabilities_nl.shape[1])
    distance_n = ((probabilities_nl - gold_nl) ** 2).sum(axis=1) + (gold_n < 0)
    return {
        "ece": Metric(stats_n3b.reshape(n, -1), error, bounds=(0.0, 1.0), unmeasured=reason),
        "brier": ratio(distance_n)._replace(bounds=(0.0, 2.0)),
    }
