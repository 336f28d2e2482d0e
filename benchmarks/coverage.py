"""python -m benchmarks.coverage [--repeats=2000]: the share of lm.evaluate's 95 % intervals that cover the true value.

It draws `n` examples many times from populations with a known value, and computes the interval as lm.evaluate does. A
star marks numbers of examples that are too few for a population. A line has the share of intervals that cover the true
value, its Monte Carlo error (one standard deviation), and the shares that lie above and below it. For comparisons
without a difference it has the share of tests that reject at 5 %. Draws without a defined interval are not counted;
`printed` is the share of the others.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from absl import flags

from lm.evaluation import metrics, statistics
from lm.evaluation.statistics import Metric, mean, perplexity, ratio
from lm.terminal.program import program

REPEATS = flags.DEFINE_integer("repeats", 2000, "draws for each line", lower_bound=100)

POOL = 4000  # segments of the populations of corpus scores
Draw = Callable[[np.random.Generator, int], Metric]
DrawTwo = Callable[[np.random.Generator, int], tuple[Metric, Metric]]


class Population(NamedTuple):
    truth: float
    draw: Draw | DrawTwo  # of n examples; two of them for a difference
    sizes: tuple[int, ...]  # numbers of examples that it is tried with
    small: tuple[int, ...] = ()  # numbers that are too small for 92 to 98 %: shown, and not held by a test


class Covered(NamedTuple):
    name: str
    n: int
    covered: float
    below: float  # share of draws whose interval lies above the truth
    above: float
    printed: float
    error: float  # of `covered`


# ---- populations ------------------------------------------------------------------------------------------------


def proportion(p: float) -> Population:
    sizes = (20, 50, 100, 200, 1000)
    held = tuple(n for n in sizes if n * min(p, 1 - p) >= 1)
    return Population(p, lambda rng, n: mean(rng.random(n) < p), held, tuple({*sizes} - {*held}))


def word_f1(right: float) -> Population:
    """Most answers are right, and others share words with theirs."""
    draw = lambda rng, n: mean(np.where(rng.random(n) < right, 1.0, 0.8 * rng.random(n)))
    return Population(right + 0.4 * (1 - right), draw, (20, 100, 1000))


def skewed(deviation: float) -> Population:
    """Returns a population of nats per example, whose mean is measured."""
    draw = lambda rng, n: ratio(rng.lognormal(0, deviation, n))
    return Population(math.exp(deviation**2 / 2), draw, (20, 100, 1000))


def _losses(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(nats, tokens): long texts are easier by the token, and texts differ."""
    tokens_n = 1 + rng.poisson(rng.gamma(2, 8, n))
    return tokens_n * rng.gamma(4, 0.5, n) / (1 + 0.02 * tokens_n), tokens_n


@functools.cache
def _loss() -> float:
    nats_n, tokens_n = _losses(np.random.default_rng(0), 4_000_000)
    return float(nats_n.sum() / tokens_n.sum())


def _streams(rng: np.random.Generator, n: int) -> Metric:
    """Windows of four streams, each like the one before it (autoregressive, 0.4)."""
    noise_wb = rng.gamma(4, 0.25, (n // 4 + 50, 4)) - 1
    nats_wb = np.zeros_like(noise_wb)
    for w in range(1, len(noise_wb)):
        nats_wb[w] = 0.4 * nats_wb[w - 1] + noise_wb[w]
    nats_wb = 3 + nats_wb[50:]
    return ratio(*statistics.stretches(np.stack([32 * nats_wb, np.full_like(nats_wb, 32)], axis=-1)).T)


def _probabilities(rng: np.random.Generator, n: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, gold labels): perfectly calibrated."""
    p_nl = rng.dirichlet(np.full(labels, 0.4), n)
    return p_nl, np.minimum((p_nl.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), labels - 1)


def _brier(rng: np.random.Generator, n: int) -> Metric:
    return statistics.calibration(*_probabilities(rng, n, 5))["brier"]


@functools.cache
def _brier_truth() -> float:
    p_nl, _ = _probabilities(np.random.default_rng(0), 2_000_000, 5)
    return float(np.mean(1 - np.sum(p_nl**2, axis=1)))


def _labels(rng: np.random.Generator, n: int, right: float) -> tuple[list[str], list[str]]:
    gold_n = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    found_n = np.where(rng.random(n) < right, gold_n, rng.choice(4, n))
    return [*map(str, found_n)], [*map(str, gold_n)]


def macro_f1(right: float) -> Population:
    gold_l, chance = np.array([0.4, 0.3, 0.2, 0.1]), (1 - right) / 4
    right_l, predicted_l = gold_l * (right + chance), gold_l * right + chance
    draw = lambda rng, n: metrics.measure(("macro_f1",), *_labels(rng, n, right))["macro_f1"]
    return Population(float(np.mean(2 * right_l / (predicted_l + gold_l))), draw, (200, 1000), (50, 100))


@functools.cache
def segments(worse: float) -> dict[str, Metric]:
    """Scores over segments of words, each output its reference with some words replaced or left out: a population."""
    rng = np.random.default_rng(1)
    words = np.array([f"{a}{b}{c}" for a in "bdgkmpt" for b in "aeiou" for c in ("n", "ra", "sto", "lim")])
    references, outputs = [], []
    for _ in range(POOL):
        reference = words[np.minimum(rng.geometric(0.03, 4 + rng.poisson(10)), len(words)) - 1]
        rate = rng.beta(1.5, 4) + worse
        output = np.where(rng.random(len(reference)) < rate, rng.choice(words, len(reference)), reference)
        references.append(" ".join(reference))
        outputs.append(" ".join(output[rng.random(len(output)) > 0.3 * rate]))
    return metrics.measure(("bleu", "chrf", "ter", "rouge"), outputs, references)


def corpus_score(name: str) -> Population:
    whole = segments(0.0)[name]
    draw = lambda rng, n: whole._replace(stats_ns=whole.stats_ns[rng.integers(0, POOL, n)])
    return Population(whole.value, draw, (50, 200))


def corpus_difference(name: str, worse: float) -> Population:
    both = segments(0.0)[name], segments(worse)[name]

    def draw(rng: np.random.Generator, n: int) -> tuple[Metric, Metric]:
        chosen_n = rng.integers(0, POOL, n)
        return tuple(each._replace(stats_ns=each.stats_ns[chosen_n]) for each in both)

    return Population(both[1].value - both[0].value, draw, (100,))


def proportion_difference(p: float, more: float, alike: float) -> Population:
    """Of two systems, which do the same on the share `alike` of the examples, but for what the second has more."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Metric, Metric]:
        first_n = rng.random(n)
        second_n = np.where(rng.random(n) < alike, first_n, rng.random(n))
        return mean(first_n < p), mean(second_n < p + more)

    return Population(more, draw, (100, 1000))


def word_f1_difference(right: float, more: float) -> Population:
    """As `word_f1`, of two systems of which half of the answers are right or wrong together."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Metric, Metric]:
        first_n = rng.random(n)
        second_n = np.where(rng.random(n) < 0.5, first_n, rng.random(n))
        shared_2n = 0.8 * rng.random((2, n))
        return mean(np.where(first_n < right, 1, shared_2n[0])), mean(
            np.where(second_n < right + more, 1, shared_2n[1])
        )

    return Population(0.6 * more, draw, (100, 1000))


def macro_f1_difference(right: float, more: float) -> Population:
    def draw(rng: np.random.Generator, n: int) -> tuple[Metric, Metric]:
        first, gold = _labels(rng, n, right)
        second = [g if rng.random() < more / (1 - right) else f for f, g in zip(first, gold, strict=True)]
        return tuple(metrics.measure(("macro_f1",), found, gold)["macro_f1"] for found in (first, second))

    return Population(macro_f1(right + more).truth - macro_f1(right).truth, draw, (100, 1000))


def _two_losses(more: float, rng: np.random.Generator, n: int) -> tuple[Metric, Metric]:
    nats_n, tokens_n = _losses(rng, n)
    noise_2n = rng.gamma(9, 1 / 9, (2, n))
    return ratio(nats_n * noise_2n[0], tokens_n), ratio(nats_n * noise_2n[1] * (1 + more), tokens_n)


def likelihood(name: str) -> Population:
    truth, make = {
        "loss": (_loss(), ratio),
        "perplexity": (math.exp(_loss()), perplexity),
        "bits per byte": (
            _loss() / 4 / math.log(2),
            lambda nats_n, tokens_n: ratio(nats_n, 4 * tokens_n, 1 / math.log(2)),
        ),
    }[name]
    return Population(truth, lambda rng, n: make(*_losses(rng, n)), (50, 100, 1000), small=(20,))


POPULATIONS: dict[str, Callable[[], Population]] = {  # each kind of interval that is printed
    **{f"proportion {p:g}": functools.partial(proportion, p) for p in (0.02, 0.1, 0.5, 0.9, 0.98)},
    **{f"F1 of words, {right:g} right": functools.partial(word_f1, right) for right in (0.5, 0.9, 0.98)},
    **{f"mean of skewed values, {deviation:g}": functools.partial(skewed, deviation) for deviation in (0.5, 1.0)},
    **{name: functools.partial(likelihood, name) for name in ("loss", "perplexity", "bits per byte")},
    "loss of streams": lambda: Population(3.0, _streams, (200, 2000)),
    "Brier": lambda: Population(_brier_truth(), _brier, (50, 200, 1000)),
    **{f"macro F1, {right:g} right": functools.partial(macro_f1, right) for right in (0.6, 0.9)},
    **{name: functools.partial(corpus_score, name) for name in ("bleu", "chrf", "ter", "rouge2")},
    "difference of proportions 0.5, 0.1": functools.partial(proportion_difference, 0.5, 0.1, 0.5),
    "difference of proportions 0.9, 0.05": functools.partial(proportion_difference, 0.9, 0.05, 0.5),
    "difference of proportions 0.9, 0": functools.partial(proportion_difference, 0.9, 0.0, 0.0),
    "difference of F1 of words": functools.partial(word_f1_difference, 0.9, 0.05),
    "difference of losses": lambda: Population(0.05 * _loss(), functools.partial(_two_losses, 0.05), (20, 100, 1000)),
    "difference of macro F1": functools.partial(macro_f1_difference, 0.6, 0.1),
    "difference of BLEU": functools.partial(corpus_difference, "bleu", 0.05),
    "difference of chrF": functools.partial(corpus_difference, "chrf", 0.05),
}
ALIKE = {  # pairs of systems without a difference, for the tests of comparisons, and numbers of examples
    "loss": (functools.partial(_two_losses, 0.0), (20, 50, 200)),
    "proportion 0.5": (proportion_difference(0.5, 0.0, 0.5).draw, (50, 200)),
    "proportion 0.9": (proportion_difference(0.9, 0.0, 0.0).draw, (50, 200)),
}


# ---- simulation -------------------------------------------------------------------------------------------------


def covered(name: str, population: Population, n: int, repeats: int) -> Covered:
    """Draws n examples so often, and counts the intervals that hold the truth."""
    rng, truth, sides = np.random.default_rng(n), population.truth, []
    for _ in range(repeats):
        drawn = population.draw(rng, n)
        found = statistics.interval(drawn) if isinstance(drawn, Metric) else statistics.between(*drawn)
        if found.ends:
            sides.append((truth < found.low - 1e-12) * -1 + (truth > found.high + 1e-12))
    sides = np.array(sides)
    share = float(np.mean(sides == 0)) if len(sides) else math.nan
    error = math.sqrt(share * (1 - share) / max(len(sides), 1))
    below, above = (float(np.mean(sides == side)) if len(sides) else math.nan for side in (-1, 1))
    return Covered(name, n, share, below, above, len(sides) / repeats, error)


def coverages(repeats: int) -> Iterator[Covered]:
    for name, make in POPULATIONS.items():
        population = make()
        for n in (*population.small, *population.sizes):
            yield covered(name, population, n, repeats)


def rejections(repeats: int, trials: int) -> Iterator[tuple[str, int, float, float]]:
    """Yields (name, n, shares of rejections by bootstrap and by randomization) for comparisons without a difference."""
    for name, (draw, sizes) in ALIKE.items():
        for n in sizes:
            rng = np.random.default_rng(n)
            found = [statistics.compare(*draw(rng, n), trials=trials) for _ in range(repeats)]
            p_n2 = np.array([(one.p_bootstrap, one.p_randomisation) for one in found])
            yield name, n, *map(float, np.mean(p_n2 <= 0.05, axis=0))


def main() -> None:
    print(f"{'interval of':<34}{'n':>6}{'covered':>10}{'± error':>9}{'below':>8}{'above':>8}{'printed':>9}")
    for one in coverages(REPEATS.value):
        shares = f"{one.covered:>10.1%}{one.error:>9.1%}{one.below:>8.1%}{one.above:>8.1%}{one.printed:>9.1%}"
        few = "*" if one.n in POPULATIONS[one.name]().small else " "
        print(f"{one.name:<34}{one.n:>5}{few}{shares}", flush=True)
    print("expected calibration error: no interval is printed")
    print(f"\n{'test of no difference':<34}{'n':>6}{'bootstrap':>11}{'randomisation':>15}")
    for name, n, bootstrap, randomisation in rejections(REPEATS.value // 2, 399):
        print(f"{name:<34}{n:>6}{bootstrap:>11.1%}{randomisation:>15.1%}", flush=True)


if __name__ == "__main__":
    program(main)
