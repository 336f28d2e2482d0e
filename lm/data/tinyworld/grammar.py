"""One generative program, three readings: sample it, enumerate it, parse with it.

A program is a plain function of `choose`. Each of its random decisions is a call `choose(options)`, uniform, or
`choose(options, weights)`; everything else in it is determined. Whoever supplies `choose` decides how the program is
read, and log-probabilities (nats) are those of the choices. Where distinct choices make distinct results, which is
what makes a grammar unambiguous, they are the log-probabilities of the results themselves.
"""

import bisect
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


def sample(program: Callable[[Choose], Result], rng: random.Random) -> tuple[Result, float]:
    """One outcome of `program`, and the log-probability (nats) of the choices that made it."""
    log_prob = 0.0

    def choose(options, weights=None):
        nonlocal log_prob
        if weights is None:
            log_prob -= math.log(len(options))
            return options[int(rng.random() * len(options))]
        cumulative = list(itertools.accumulate(weights))
        index = bisect.bisect(cumulative, rng.random() * cumulative[-1], hi=len(weights) - 1)
        log_prob += math.log(weights[index] / cumulative[-1])
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
