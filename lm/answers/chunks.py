"""Answers to many prompts in chunks, so that the first outputs are finished long before the last ones."""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

from lm.answers.contract import Answer, Generation
from lm.answers.shapes import BATCH
from lm.search.options import Options

MOST = 16 * BATCH  # prompts of a chunk, which are sorted by length


def answered(
    members: Sequence[tuple[Answer, Any]], prompts: Sequence[str], options: Options, done: int = 0
) -> Iterator[list[Generation]]:
    """Yields the outputs of each prompt in order, as `Answer.answer` of all of them would return them.

    Args:
        members: answers with their parameters, which answer together.
        done: the number of prompts, the first ones, that were answered before and are left out.
    """
    (answer, params), *beside = members
    before, size = collections.Counter(prompts[:done]), BATCH
    while done < len(prompts):
        chunk = prompts[done : done + size]
        yield from answer.answer(params, chunk, options, beside, before)
        before.update(chunk)
        done, size = done + len(chunk), min(2 * size, MOST)
