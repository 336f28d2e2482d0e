"""Scores of generated text against references, by the standard libraries."""

from collections.abc import Sequence
from typing import Any

import sacrebleu


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Share of outputs that equal their reference, 0 to 1."""
    return sum(map(str.__eq__, hypotheses, references)) / len(references)


def scores(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    tokenize: str = "",
) -> dict[str, Any]:
    """The named scores: exact_match (0 to 1), bleu and chrf (0 to 100), with sacrebleu's signatures.

    `tokenize` is sacrebleu's for BLEU; empty means `zh` where most references hold Chinese characters, else `13a`.
    Lower-casing is for BLEU and chrF alike, not for exact match.
    """
    found: dict[str, Any] = {}
    if "exact_match" in names:
        found["exact_match"] = exact_match(hypotheses, references)
    if "bleu" in names:
        tokenize = tokenize or ("zh" if _mostly_chinese(references) else "13a")
        bleu = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize)
        found["bleu"] = bleu.corpus_score(hypotheses, [references]).score
        found["bleu_signature"] = str(bleu.get_signature())
    if "chrf" in names:
        chrf = sacrebleu.CHRF(lowercase=lowercase)
        found["chrf"] = chrf.corpus_score(hypotheses, [references]).score
        found["chrf_signature"] = str(chrf.get_signature())
    return found


def _mostly_chinese(texts: Sequence[str]) -> bool:
    return 2 * sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) > len(texts)
