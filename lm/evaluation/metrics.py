"""Scores of generated text: exact match, BLEU, chrF, TER, ROUGE, SQuAD's F1, accuracy, macro F1."""

import collections
import re
import string
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import sacrebleu

from lm.errors import UserError, nearest
from lm.evaluation.statistics import Metric, ratio


def exact_match(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Share of outputs that equal their reference, 0 to 1."""
    return {"exact_match": ratio([*map(str.__eq__, hypotheses, references)])}


def bleu(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Papineni et al. (2002), 0 to 100, and sacrebleu's signature (Post, 2018)."""
    tokenize = tokenize or ("zh" if _mostly_chinese(references) else "13a")
    return {"bleu": _sacrebleu(sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize), hypotheses, references)}


def chrf(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Popovic (2015), characters alone as sacrebleu has it (chrF2; chrF++ has words too), 0 to 100, and sacrebleu's signature."""
    return {"chrf": _sacrebleu(sacrebleu.CHRF(lowercase=lowercase), hypotheses, references)}


def ter(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Translation edit rate (Snover et al., 2006), in per cent, less is better, and sacrebleu's signature.

    Case counts, as in BLEU and chrF. sacrebleu's program ignores it in TER unless told otherwise: `lowercase` gives its figure.
    """
    chinese = _mostly_chinese(references)
    metric = sacrebleu.TER(case_sensitive=not lowercase, normalized=chinese, asian_support=chinese)
    return {"ter": _sacrebleu(metric, hypotheses, references)}


def rouge(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """ROUGE-1, -2 and -L, F-measure, 0 to 100 (Lin, 2004); words stemmed, Chinese by characters.

    ROUGE-L is of the whole text as one sequence; papers on summaries of several sentences often report `rougeLsum`. The library
    stems nothing unless told to; Lin's program does with `-m`.
    """
    chinese = _mostly_chinese(references)
    kinds, how = ("rouge1", "rouge2", "rougeL"), _Characters() if chinese else None
    from rouge_score import rouge_scorer  # here, as it takes two seconds, and most tasks have other scores

    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=not chinese, tokenizer=how)
    found = [scorer.score(reference, output) for output, reference in zip(hypotheses, references, strict=True)]
    version = metadata.version("rouge-score")
    signature = f"f-measure|stem:{'no' if chinese else 'yes'}|tok:{'char' if chinese else 'rouge'}|version:{version}"
    return {kind: ratio([100 * one[kind].fmeasure for one in found], signature=signature) for kind in kinds}


class _Characters:
    """For texts without spaces: the library's own tokenizer knows a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


def squad(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Exact match and F1 of words as SQuAD's own script has them (Rajpurkar et al., 2016), 0 to 1."""
    pairs = [(_answer(output), _answer(reference)) for output, reference in zip(hypotheses, references, strict=True)]
    return {
        "squad_exact_match": ratio([a == b for a, b in pairs]),
        "squad_f1": ratio([_word_f1(*pair) for pair in pairs]),
    }


def _answer(text: str) -> list[str]:
    """The words of an answer, without case, punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _word_f1(output: list[str], reference: list[str]) -> float:
    if not output or not reference:
        return float(output == reference)
    common = (collections.Counter(output) & collections.Counter(reference)).total()
    return 2 * common / (len(output) + len(reference))


def accuracy(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Share of labels that are right, 0 to 1."""
    return {"accuracy": exact_match(hypotheses, references, lowercase, tokenize)["exact_match"]}


def macro_f1(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """The mean over the labels of their F1, 0 to 1; a label that is neither gold nor predicted has none."""
    labels = np.array(sorted({*hypotheses, *references}))
    predicted_nl, gold_nl = (np.array(texts)[:, None] == labels for texts in (hypotheses, references))
    stats_ns = np.concatenate([predicted_nl & gold_nl, predicted_nl, gold_nl], axis=1).astype(np.float64)

    def of(sums_s):
        right_l, predicted_l, gold_l = sums_s.reshape(3, -1)
        seen_l = predicted_l + gold_l > 0
        return float(np.mean(2 * right_l[seen_l] / (predicted_l + gold_l)[seen_l]))

    return {"macro_f1": Metric(stats_ns, of)}


SCORES = {
    "exact_match": exact_match,
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
    "rouge": rouge,
    "squad": squad,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}


def check_tokenizer(name: str) -> None:
    """Raises `UserError` where sacrebleu has no such tokenizer for BLEU, or it needs a package that is not there."""
    if name and name not in sacrebleu.BLEU.TOKENIZERS:
        raise UserError("--bleu_tokenize", f"{name!r} is unknown", nearest(name, sacrebleu.BLEU.TOKENIZERS))
    try:
        sacrebleu.BLEU(tokenize=name or None)
    except (RuntimeError, ImportError) as error:  # some need a package more
        what = " ".join(str(error).split())
        raise UserError("--bleu_tokenize", f"{name!r} cannot be had ({what})", "install it") from None


def measure(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    tokenize: str = "",
) -> dict[str, Metric]:
    """The named scores, keys of `SCORES`, of all outputs, by the figures' own names.

    `tokenize` is sacrebleu's for BLEU; empty means `zh` where most references hold Chinese characters, else `13a`.
    Lower-casing is for BLEU, chrF and TER alike.
    """
    found: dict[str, Metric] = {}
    for name in names:
        found |= SCORES[name](hypotheses, references, lowercase, tokenize)
    return found


def figures(measured: dict[str, Metric]) -> dict[str, Any]:
    """The values, and where there is one the signature: NAME_signature."""
    found: dict[str, Any] = {}
    for name, metric in measured.items():
        found[name] = metric.value
        if metric.signature:
            found[f"{name}_signature"] = metric.signature
    return found


def _sacrebleu(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Metric:
    # What sacrebleu's own significance tests are made of; its public functions give the figure of all examples only.
    stats_ns = np.array(metric._extract_corpus_statistics(hypotheses, [references]), np.float64)
    return Metric(
        stats_ns, lambda sums_s: metric._compute_score_from_stats(sums_s.tolist()).score, str(metric.get_signature())
    )


def confusion(labels: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """Counts: a row for each gold label, a column for each predicted one."""
    counts = collections.Counter(zip(references, hypotheses, strict=True))
    return [[counts[gold, predicted] for predicted in labels] for gold in labels]


def _mostly_chinese(texts: Sequence[str]) -> bool:
    return 2 * sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) > len(texts)
