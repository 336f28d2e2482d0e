"""One generative program, three readings: sample it, enumerate it, parse with it.

A program is a plain function of `choose`. Each of its random decisions is a call `choose(options)`, uniform, or
`choose(options, weights)`; everything else in it is determined. Whoever supplies `choose` decides how the program is
read, and log-probabilities (nats) are those of the choices. Where distinct choices make distinct results, which is
what makes a grammar unambiguous, they are the log-probabilities of the results themselves.
"""

import bisect
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

Option = TypeVar("Option")
Result = TypeVar("Result")


class Choose(Protocol):
    """Returns one of `options`; `weights` are positive, relative, and equal where none are given."""

    def __call__(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option: ...


_log = functools.cache(math.log)


@functools.lru_cache(1 << 16)
def _distribution(*weights: float) -> tuple[list[float], list[float]]:
    """Cumulative weights, and the log-probability of each option: programs give the same few weights over and over."""
    cumulative = list(itertools.accumulate(weights))
    return cumulative, [math.log(weight / cumulative[-1]) for weight in weights]


def sample(program: Callable[[Choose], Result], rng: random.Random) -> tuple[Result, float]:
    """One outcome of `program`, and the log-probability (nats) of the choices that made it."""
    log_prob = 0.0
    draw = rng.random

    def choose(options, weights=None):
        nonlocal log_prob
        if weights is None:
            count = len(options)
            log_prob -= _log(count)
            return options[int(draw() * count)]
        cumulative, log_probs = _distribution(*weights)
        index = bisect.bisect(cumulative, draw() * cumulative[-1], hi=len(cumulative) - 1)
        log_prob += log_probs[index]
        return options[index]

    return program(choose), log_prob


def outcomes(program: Callable[[Choose], Result]) -> Iterator[tuple[Result, float]]:
    """Every outcome of `program` and its log-probability, depth first: one for each sequence of choices."""
    path: list[list[int]] = []  # at each choice, the option taken and how many there are
    while True:
        depth, log_prob = 0, 0.0

        def choose(options, weights=None):
            nonlocal depth, log_prob
            if depth == len(path):
                path.append([0, len(options)])
            taken = path[depth][0]
            depth += 1
            log_prob += math.log(weights[taken] / sum(weights) if weights else 1 / len(options))
            return options[taken]

        yield program(choose), log_prob
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1][0] += 1


def parses(program: Callable[[Choose], Iterable[str]], text: str) -> list[float]:
    """The log-probability of each derivation of `text` by a program that yields its phrases one by one.

    The text is the phrases joined by spaces. A list of length one is the text's own log-probability, none means that
    the program never says it, and more that the program is ambiguous.
    """

    def matches(choose):
        position = 0
        for phrase in program(choose):
            if not f"{text} ".startswith(f"{phrase} ", position):
                return False  # choices not made are never enumerated, so this cuts off all that starts this way
            position += len(phrase) + 1
        return position == len(text) + 1

    return [log_prob for matched, log_prob in outcomes(matches) if matched]
