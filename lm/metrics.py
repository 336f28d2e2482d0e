"""Scores of generated text against references, by the standard libraries."""

import collections
from collections.abc import Sequence
from typing import Any

import sacrebleu


def exact_match(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str) -> dict[str, Any]:
    """Share of outputs that equal their reference, 0 to 1."""
    return {"exact_match": sum(map(str.__eq__, hypotheses, references)) / len(references)}


def bleu(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str) -> dict[str, Any]:
    """Papineni et al. (2002), 0 to 100, and sacrebleu's signature (Post, 2018)."""
    tokenize = tokenize or ("zh" if _mostly_chinese(references) else "13a")
    metric = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize)
    score = metric.corpus_score(hypotheses, [references]).score
    return {"bleu": score, "bleu_signature": str(metric.get_signature())}


def chrf(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str) -> dict[str, Any]:
    """Popovic (2015), 0 to 100, and sacrebleu's signature."""
    metric = sacrebleu.CHRF(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    return {"chrf": score, "chrf_signature": str(metric.get_signature())}


SCORES = {"exact_match": exact_match, "bleu": bleu, "chrf": chrf}


def scores(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    tokenize: str = "",
) -> dict[str, Any]:
    """The named scores, keys of `SCORES`, of all outputs.

    `tokenize` is sacrebleu's for BLEU; empty means `zh` where most references hold Chinese characters, else `13a`.
    Lower-casing is for BLEU and chrF alike, not for exact match.
    """
    found: dict[str, Any] = {}
    for name in names:
        found |= SCORES[name](hypotheses, references, lowercase, tokenize)
    return found


def minimum_bayes_risk(texts: Sequence[str]) -> list[int]:
    """Numbers of the texts, those first that have most in common with all: the mean of chrF against each.

    Eikema and Aziz (2020), "Is MAP Decoding All You Need?", section 5, with chrF as the utility.
    """
    metric, counts = sacrebleu.CHRF(), collections.Counter(texts)
    utility = {
        text: sum(count * metric.sentence_score(text, [other]).score for other, count in counts.items())
        for text in counts
    }
    return sorted(range(len(texts)), key=lambda i: -utility[texts[i]])


def _mostly_chinese(texts: Sequence[str]) -> bool:
    return 2 * sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) > len(texts)
