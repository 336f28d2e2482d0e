"""Scores of text, classes and likelihoods: sums over examples, so that each has an interval and two can be compared.

A `Metric` keeps what every example adds (for BLEU: matches and lengths). Its figure is a function of the sums; the
bootstrap draws the examples again, and the paired tests exchange those of two systems.
"""

import collections
import re
import string
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import sacrebleu

TRIALS = 1000  # of the bootstrap and of the randomisation; seeded, so that figures are the same again
BINS = 15  # of the expected calibration error


class Metric(NamedTuple):
    """One figure over n examples."""

    stats_ns: np.ndarray  # float64: what each example adds
    of: Callable[[np.ndarray], float]  # sums_s -> the figure
    signature: str = ""

    @property
    def value(self) -> float:
        return self.of(self.stats_ns.sum(axis=0))


def ratio(numerator_n: Any, denominator_n: Any = 1.0, scale: float = 1.0, signature: str = "") -> Metric:
    """The scaled ratio of two sums; with the denominator 1, a mean."""
    stats_ns = np.stack(np.broadcast_arrays(np.asarray(numerator_n, np.float64), denominator_n), axis=1)
    return Metric(stats_ns, lambda sums_s: float(scale * sums_s[0] / sums_s[1]) if sums_s[1] else 0.0, signature)


# ---- text -------------------------------------------------------------------------------------------------------


def exact_match(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Share of outputs that equal their reference, 0 to 1."""
    return {"exact_match": ratio([*map(str.__eq__, hypotheses, references)])}


def bleu(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Papineni et al. (2002), 0 to 100, and sacrebleu's signature (Post, 2018)."""
    tokenize = tokenize or ("zh" if _mostly_chinese(references) else "13a")
    return {"bleu": _sacrebleu(sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize), hypotheses, references)}


def chrf(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Popovic (2015), 0 to 100, and sacrebleu's signature."""
    return {"chrf": _sacrebleu(sacrebleu.CHRF(lowercase=lowercase), hypotheses, references)}


def ter(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """Translation edit rate (Snover et al., 2006), in per cent, less is better, and sacrebleu's signature."""
    chinese = _mostly_chinese(references)
    metric = sacrebleu.TER(case_sensitive=not lowercase, normalized=chinese, asian_support=chinese)
    return {"ter": _sacrebleu(metric, hypotheses, references)}


def rouge(hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str):
    """ROUGE-1, -2 and -L, F-measure, 0 to 100 (Lin, 2004); words stemmed, Chinese by characters."""
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


# ---- classes ----------------------------------------------------------------------------------------------------


def confusion(labels: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """Counts: a row for each gold label, a column for each predicted one."""
    counts = collections.Counter(zip(references, hypotheses, strict=True))
    return [[counts[gold, predicted] for predicted in labels] for gold in labels]


def calibration(probabilities_nl: np.ndarray, gold_n: np.ndarray) -> dict[str, Metric]:
    """Expected calibration error and Brier score, 0 is best.

    The error (Guo et al., 2017) is of the most probable label, in `BINS` bins of equal width. The Brier score (1950) is
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
        return float(np.abs(confidence_b - right_b).sum() / count_b.sum())

    gold_nl = gold_n[:, None] == np.arange(probabilities_nl.shape[1])
    distance_n = ((probabilities_nl - gold_nl) ** 2).sum(axis=1) + (gold_n < 0)
    return {"ece": Metric(stats_n3b.reshape(n, -1), error), "brier": ratio(distance_n)}


# ---- how sure a figure is ---------------------------------------------------------------------------------------


def interval(metric: Metric, trials: int = TRIALS) -> tuple[float, float]:
    """The 95 % interval of the bootstrap's percentiles (Efron, 1979), the examples drawn with replacement."""
    found = [metric.of(sums_s) for (sums_s,) in _redrawn([metric.stats_ns], trials)]
    return tuple(float(x) for x in np.percentile(found, [2.5, 97.5]))


class Comparison(NamedTuple):
    """Of two systems on the same examples; b minus a."""

    difference: float
    low: float  # of the 95 % interval of the difference
    high: float
    p_bootstrap: float
    p_randomisation: float


def compare(a: Metric, b: Metric, trials: int = TRIALS) -> Comparison:
    """Paired bootstrap (Koehn, 2004) and approximate randomisation (Riezler and Maxwell, 2005), both two-sided.

    The bootstrap's p is the share of its differences that are as far from their mean as the real one is from 0; the
    randomisation's, the share of random exchanges of outputs that make as large a difference. Both count the real one
    among them, so none is 0.
    """
    difference = b.value - a.value
    drawn = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _redrawn([a.stats_ns, b.stats_ns], trials)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    exchanged = np.array([b.of(sums_b) - a.of(sums_a) for sums_a, sums_b in _exchanged(a.stats_ns, b.stats_ns, trials)])

    def share(distances):
        # Differences that are equal on paper are not in floating point.
        return (1 + int(np.sum(np.abs(distances) >= abs(difference) * (1 - 1e-9)))) / (1 + trials)

    return Comparison(difference, float(low), float(high), share(drawn - drawn.mean()), share(exchanged))


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


# ---- choosing ---------------------------------------------------------------------------------------------------


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
