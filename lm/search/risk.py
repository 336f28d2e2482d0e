"""Minimum Bayes risk decoding: the most typical of several drawn outputs."""

import collections
from collections.abc import Sequence


def minimum_bayes_risk(texts: Sequence[str]) -> list[int]:
    """Returns the numbers of the texts in the order of their mean chrF against all texts, the highest first.

    This is minimum Bayes risk with chrF as the utility (Eikema and Aziz, 2020, "Is MAP Decoding All You Need?", section
    5).
    """
    import sacrebleu  # few outputs are chosen so, and opening a run would import all its scores

    metric, counts = sacrebleu.CHRF(), collections.Counter(texts)
    utility = {
        text: sum(count * metric.sentence_score(text, [other]).score for other, count in counts.items())
        for text in counts
    }
    return sorted(range(len(texts)), key=lambda i: -utility[texts[i]])
