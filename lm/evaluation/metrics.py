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
    """Share of outputs that equal a reference of theirs, 0 to 1."""
    right = [output in known for output, known in zip(hypotheses, references, strict=True)]
    return {"exact_match": mean(right, signature=_counted(references))}


def bleu(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Papineni et al. (2002), 0 to 100, and sacrebleu's signature (Post, 2018).

    Not defined where no reference is as long as the longest n-grams: then no output at all could score.
    """
    metric = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize or ("zh" if _mostly_chinese(references) else "13a"))
    found, known = _sacrebleu(metric, hypotheses, references)
    order = metric.max_ngram_order
    if max(max(one["ref_lens"]) for one in known) < order:
        found = _undefined(found, f"no reference has {order} words")
    return {"bleu": found}


def chrf(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Popovic (2015), characters alone as sacrebleu has it (chrF2; chrF++ has words too), 0 to 100, and sacrebleu's signature.

    Not defined where all references are empty.
    """
    found, _ = _sacrebleu(sacrebleu.CHRF(lowercase=lowercase), hypotheses, references)
    return {"chrf": _with_text(found, references)}


def ter(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Translation edit rate (Snover et al., 2006), in per cent, less is better, and sacrebleu's signature.

    Case counts, as in BLEU and chrF. sacrebleu's program ignores it in TER unless told otherwise: `lowercase` gives its figure.
    Not defined where all references are empty.
    """
    chinese = _mostly_chinese(references)
    metric = sacrebleu.TER(case_sensitive=not lowercase, normalized=chinese, asian_support=chinese)
    found, _ = _sacrebleu(metric, hypotheses, references)
    return {"ter": _with_text(found._replace(bounds=(0.0, math.inf)), references)}


def rouge(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """ROUGE-1, -2 and -L, F-measure, 0 to 100 (Lin, 2004); words stemmed, Chinese by characters.

    Of several references the best counts. ROUGE-L is of the whole text as one sequence; papers on summaries of several sentences
    often report `rougeLsum`. The library stems nothing unless told to; Lin's program does with `-m`. Not defined where no
    reference has as many words, of those that the scorer reads, as it compares.
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
    """For texts without spaces: the library's own tokenizer knows a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


def squad(hypotheses: Sequence[str], references: References, lowercase: bool, tokenize: str):
    """Exact match and F1 of words as SQuAD's own script has them (Rajpurkar et al., 2016, 2018), 0 to 1: the best over the
    references, of which the ones without a word count only if all are."""
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
    """Share of labels that are right, 0 to 1."""
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
    """One of several right labels for each example: the output if it is one of them, else the first."""
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
    """Raises `UserError` where sacrebleu has no such tokenizer for BLEU, or it needs a package that is not there."""
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
    """The named scores, keys of `SCORES`, of all outputs, by the figures' own names.

    The reference of an example is a text, or several texts of which any is right.
    `tokenize` is sacrebleu's for BLEU; empty means `zh` where most references hold Chinese characters, else `13a`.
    Lower-casing is for BLEU, chrF and TER alike.
    """
    known = [(each,) if isinstance(each, str) else tuple(each) for each in references]
    found: dict[str, Metric] = {}
    for name in names:
        found |= SCORES[name](hypotheses, known, lowercase, tokenize)
    return found


def figures(measured: dict[str, Metric]) -> dict[str, Any]:
    """The values, and where there is one the signature: NAME_signature. A figure that is not defined is None, and `undefined`
    has the reason."""
    found: dict[str, Any] = {}
    for name, metric in measured.items():
        found[name] = metric.value
        if metric.signature:
            found[f"{name}_signature"] = metric.signature
    undefined = {name: metric.reason for name, metric in measured.items() if found[name] is None}
    return found | ({"undefined": undefined} if undefined else {})


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Figures from several places as one, with all that `undefined` says of them; the first to give a reason is right."""
    found: dict[str, Any] = {}
    for part in parts:
        undefined = part.get("undefined", {}) | found.get("undefined", {})
        found |= part | ({"undefined": undefined} if undefined else {})
    return found


def _sacrebleu(metric: Any, hypotheses: Sequence[str], references: References) -> tuple[Metric, list[Any]]:
    """Returns the metric, and of each example what sacrebleu knows of its references."""
    columns = [[known[i] if i < len(known) else None for known in references] for i in range(max(map(len, references)))]
    # What sacrebleu's own significance tests are made of; its public functions give the figure of all examples only.
    metric._ref_cache = metric._cache_references(columns)
    stats_ns = np.array(metric._extract_corpus_statistics(hypotheses, None), np.float64)
    signature = str(metric.get_signature()).replace("nrefs:var", f"n{_counted(references)}")
    of = lambda sums_s: metric._compute_score_from_stats(sums_s.tolist()).score
    return Metric(stats_ns, of, signature, bounds=(0.0, 100.0)), metric._ref_cache


def _counted(references: References) -> str:
    """A field of a signature, where examples have several references: how many they have."""
    least, most = min(map(len, references)), max(map(len, references))
    return "" if most == 1 else f"refs:{most}" if least == most else f"refs:{least}-{most}"


def _undefined(metric: Metric, reason: str) -> Metric:
    return metric._replace(of=lambda sums_s: math.nan, reason=reason)


def _with_text(metric: Metric, references: References) -> Metric:
    """The metric, which is not defined where all references are empty."""
    if any(text.strip() for known in references for text in known):
        return metric
    return _undefined(metric, "every reference is empty")


def confusion(
    labels: Sequence[str], hypotheses: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[list[int]]:
    """Counts: a row for each gold label, a column for each predicted one."""
    gold = gold_labels(hypotheses, [(each,) if isinstance(each, str) else each for each in references])
    counts = collections.Counter(zip(gold, hypotheses, strict=True))
    return [[counts[right, predicted] for predicted in labels] for right in labels]


def _mostly_chinese(references: References) -> bool:
    texts = [text for known in references for text in known]
    return 2 * sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) > len(texts)
