"""Scores of generated text: exact match, BLEU, chrF, TER, ROUGE, SQuAD's F1, accuracy, macro F1."""

import collections
import math
import re
import string
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import sacrebleu

from lm.errors import UserError, nearest
from lm.evaluation.statistics import Metric, mean, quotient

References = Sequence[tuple[str, ...]]  # of each example one or more, any of which is right


def exact_match(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns the share of outputs that equal one of their references, 0 to 1."""
    right = [output in known for output, known in zip(hypotheses, references, strict=True)]
    return {"exact_match": mean(right, signature=_counted(references))}


def bleu(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns BLEU (Papineni et al., 2002), 0 to 100, with sacrebleu's signature (Post, 2018).

    It is not defined if every reference is shorter than the longest n-grams, as no output could score then.
    """
    metric = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize or ("zh" if _mostly_chinese(references) else "13a"))
    found, known = _sacrebleu(metric, hypotheses, references)
    order = metric.max_ngram_order
    if max(max(one["ref_lens"]) for one in known) < order:
        found = _undefined(found, f"no reference has {order} words")
    return {"bleu": found}


def chrf(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns chrF (Popovic, 2015), 0 to 100, with sacrebleu's signature.

    It is sacrebleu's default chrF2, over characters alone; chrF++ also counts words. It is not defined if all
    references are empty.
    """
    found, _ = _sacrebleu(sacrebleu.CHRF(lowercase=lowercase), hypotheses, references)
    return {"chrf": _with_text(found, references)}


def ter(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns the translation edit rate (Snover et al., 2006) in percent, less is better, with sacrebleu's signature.

    Case counts, as in BLEU and chrF. sacrebleu's own program ignores case in TER by default; `lowercase` gives its
    score. It is not defined if all references are empty.
    """
    chinese = _mostly_chinese(references)
    metric = sacrebleu.TER(case_sensitive=not lowercase, normalized=chinese, asian_support=chinese)
    found, _ = _sacrebleu(metric, hypotheses, references)
    return {"ter": _with_text(found._replace(bounds=(0.0, math.inf)), references)}


def rouge(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns ROUGE-1, -2 and -L as F-measures, 0 to 100 (Lin, 2004), with stemmed words; Chinese is split into
    characters.

    With several references, the best one counts. ROUGE-L treats the whole text as one sequence; papers on summaries of
    several sentences often report `rougeLsum`. Lin's program stems with `-m`; the library stems only on request. It is
    not defined if every reference has fewer words than the n-grams that are compared.
    """
    chinese = _mostly_chinese(references)
    words = {"rouge1": 1, "rouge2": 2, "rougeL": 1}
    from rouge_score import rouge_scorer, tokenizers  # here, as it takes two seconds, and most tasks have other scores

    reader = _Characters() if chinese else tokenizers.DefaultTokenizer(use_stemmer=True)
    scorer = rouge_scorer.RougeScorer([*words], tokenizer=reader)
    found = [scorer.score_multi(known, output) for output, known in zip(hypotheses, references, strict=True)]
    longest = max(len(reader.tokenize(text)) for known in references for text in known)
    version, several = metadata.version("rouge-score"), _counted(references)
    signature = f"f-measure|stem:{'no' if chinese else 'yes'}|tok:{'char' if chinese else 'rouge'}|version:{version}"
    signature += f"|{several}" if several else ""
    metrics = {kind: mean([100 * one[kind].fmeasure for one in found], 100, signature) for kind in words}
    unit = "character" if chinese else "word"
    read = "" if chinese else " of a to z and 0 to 9"
    least = {1: f"a {unit}{read}", 2: f"2 {unit}s{read}"}
    return {
        kind: metric if longest >= words[kind] else _undefined(metric, f"no reference has {least[words[kind]]}")
        for kind, metric in metrics.items()
    }


class _Characters:
    """A tokenizer for texts without spaces; the library's own tokenizer knows only a to z."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


def squad(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns exact match and F1 of words as in SQuAD's script (Rajpurkar et al., 2016, 2018), 0 to 1.

    The best reference counts. References without a word count only if all are without words.
    """
    exact, f1 = [], []
    for output, known in zip(hypotheses, references, strict=True):
        found, answers = _answer(output), [answer for answer in map(_answer, known) if answer] or [[]]
        exact.append(found in answers)
        f1.append(max(_word_f1(found, answer) for answer in answers))
    signature = _counted(references)
    return {"squad_exact_match": mean(exact, signature=signature), "squad_f1": mean(f1, signature=signature)}


def _answer(text: str) -> list[str]:
    """The words of an answer, without case, punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _word_f1(output: list[str], reference: list[str]) -> float:
    if not output or not reference:
        return float(output == reference)
    common = (collections.Counter(output) & collections.Counter(reference)).total()
    return 2 * common / (len(output) + len(reference))


def accuracy(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Returns the share of correct labels, 0 to 1."""
    return {"accuracy": exact_match(hypotheses, references, lowercase, tokenize)["exact_match"]}


def macro_f1(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """The mean over the labels of their F1, 0 to 1; a label that is neither gold nor predicted has none."""
    gold = gold_labels(hypotheses, references)
    labels = np.array(sorted({*hypotheses, *gold}))
    predicted_nl, gold_nl = (np.array(texts)[:, None] == labels for texts in (hypotheses, gold))
    stats_ns = np.concatenate([predicted_nl & gold_nl, predicted_nl, gold_nl], axis=1).astype(np.float64)

    def of(sums_s):
        right_l, predicted_l, gold_l = sums_s.reshape(3, -1)
        seen_l = predicted_l + gold_l > 0
        return quotient(np.sum(2 * right_l[seen_l] / (predicted_l + gold_l)[seen_l]), seen_l.sum())

    return {"macro_f1": Metric(stats_ns, of, _counted(references), bounds=(0.0, 1.0))}


def gold_labels(hypotheses: Sequence[str], references: References) -> list[str]:
    """Returns one of several correct labels for each example: the output if it is one of them, else the first."""
    return [output if output in known else known[0] for output, known in zip(hypotheses, references, strict=True)]


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
    """Raises `UserError` if sacrebleu has no such tokenizer for BLEU, or if it needs a package that is missing."""
    if name and name not in sacrebleu.BLEU.TOKENIZERS:
        raise UserError("--bleu_tokenize", f"{name!r} is unknown", nearest(name, sacrebleu.BLEU.TOKENIZERS))
    try:
        sacrebleu.BLEU(tokenize=name or None)
    except (RuntimeError, ImportError) as error:  # some need a package more
        reason = " ".join(str(error).split())
        raise UserError("--bleu_tokenize", f"{name!r} cannot be had ({reason})", "install it") from None


def measure(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]],
    lowercase: bool = False,
    tokenize: str = "",
) -> dict[str, Metric]:
    """Returns the named scores, keys of `SCORES`, of all outputs, by the names of their metrics.

    The reference of an example is a text, or several texts of which each is correct. `tokenize` is sacrebleu's
    tokenizer for BLEU; empty means `zh` if most references hold Chinese characters, else `13a`. Lower-casing applies to
    BLEU, chrF and TER.
    """
    known = [(each,) if isinstance(each, str) else tuple(each) for each in references]
    found: dict[str, Metric] = {}
    for name in names:
        found |= SCORES[name](hypotheses, known, lowercase, tokenize)
    return found


def figures(measured: dict[str, Metric]) -> dict[str, Any]:
    """Returns the values of metrics, and NAME_signature for those with a signature.

    A metric without a defined value is None, and `undefined` has the reason.
    """
    found: dict[str, Any] = {}
    for name, metric in measured.items():
        found[name] = metric.value
        if metric.signature:
            found[f"{name}_signature"] = metric.signature
    undefined = {name: metric.reason for name, metric in measured.items() if found[name] is None}
    return found | ({"undefined": undefined} if undefined else {})


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Returns several sets of metrics as one, with all reasons in `undefined`; the first reason of a metric is kept."""
    found: dict[str, Any] = {}
    for part in parts:
        undefined = part.get("undefined", {}) | found.get("undefined", {})
        found |= part | ({"undefined": undefined} if undefined else {})
    return found


def _sacrebleu(metric: Any, hypotheses: Sequence[str], references: References) -> tuple[Metric, list[Any]]:
    """Returns the metric, and sacrebleu's statistics of the references of each example."""
    columns = [[known[i] if i < len(known) else None for known in references] for i in range(max(map(len, references)))]
    # sacrebleu's significance tests use these statistics; its public functions return only the score of all examples.
    metric._ref_cache = metric._cache_references(columns)
    stats_ns = np.array(metric._extract_corpus_statistics(hypotheses, None), np.float64)
    signature = str(metric.get_signature()).replace("nrefs:var", f"n{_counted(references)}")
    of = lambda sums_s: metric._compute_score_from_stats(sums_s.tolist()).score
    return Metric(stats_ns, of, signature, bounds=(0.0, 100.0)), metric._ref_cache


def _counted(references: References) -> str:
    """Returns the field of a signature with the number of references, if examples have several."""
    least, most = min(map(len, references)), max(map(len, references))
    return "" if most == 1 else f"refs:{most}" if least == most else f"refs:{least}-{most}"


def _undefined(metric: Metric, reason: str) -> Metric:
    return metric._replace(of=lambda sums_s: math.nan, reason=reason)


def _with_text(metric: Metric, references: References) -> Metric:
    """Returns the metric, which is not defined if all references are empty."""
    if any(text.strip() for known in references for text in known):
        return metric
    return _undefined(metric, "every reference is empty")


def confusion(
    labels: Sequence[str], hypotheses: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[list[int]]:
    """Returns counts, with a row for each gold label and a column for each predicted one."""
    gold = gold_labels(hypotheses, [(each,) if isinstance(each, str) else each for each in references])
    counts = collections.Counter(zip(gold, hypotheses, strict=True))
    return [[counts[right, predicted] for predicted in labels] for right in labels]


def _mostly_chinese(references: References) -> bool:
    texts = [text for known in references for text in known]
    return 2 * sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) > len(texts)
