"""Generative programs, and three ways to run them: sample an outcome, enumerate all outcomes, parse a text.

A program is a plain function of `choose`. It makes each random decision by a call of `choose(options)`, which is
uniform, or `choose(options, weights)`. The rest of the program is deterministic. The functions of this module supply
their own `choose`, and sum the log-probabilities of the choices, in nats. If the grammar is unambiguous, different
choices lead to different results, and the sum is the exact log-probability of the result.
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
    """Returns one of `options`; `weights` are positive and relative, and equal by default."""

    def __call__(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option: ...


_log = functools.cache(math.log)


@functools.lru_cache(1 << 16)
def _distribution(*weights: float) -> tuple[list[float], list[float]]:
    """Returns the cumulative weights, and the log-probability of each option; cached, as weights recur."""
    cumulative = list(itertools.accumulate(weights))
    return cumulative, [math.log(weight / cumulative[-1]) for weight in weights]


def sample(program: Callable[[Choose], Result], rng: random.Random) -> tuple[Result, float]:
    """Returns a random outcome of `program`, and the log-probability of its choices in nats."""
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
    """Yields (outcome, log-probability in nats) for each sequence of choices in `program`, depth first."""
    path: list[list[int]] = []  # for each choice, the index of its option and the number of options
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
    """Returns the log-probability, in nats, of each derivation of `text` by a program that yields phrases in order.

    The text is the phrases joined by spaces. If there is one derivation, the text has its log-probability. An
    empty list means that the program cannot generate the text, and several that the grammar is ambiguous.
    """

    def matches(choose):
        position = 0
        for phrase in program(choose):
            if not f"{text} ".startswith(f"{phrase} ", position):
                return False  # later choices are never enumerated, so this prunes all texts with this start
            position += len(phrase) + 1
        return position == len(text) + 1

    return [log_prob for matched, log_prob in outcomes(matches) if matched]
