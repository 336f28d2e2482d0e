"""Figures against the libraries' own, intervals against what is known, tests against all exchanges."""

import itertools
import math

import numpy as np
import pytest
import sacrebleu

from lm.evaluation import metrics, statistics
from lm.evaluation.metrics import measure
from lm.evaluation.statistics import Metric, compare, interval, ratio
from lm.search import risk

REFERENCES = ["the cat sat on the mat", "a dog barks loudly at night", "birds sing", "it rains again today in town"] * 6
OUTPUTS = ["the cat sits on the mat", "a dog barks at night", "birds sing", "today it rains in a town"] * 6
CHINESE = ["\u732b\u5728\u57ab\u5b50\u4e0a", "\u72d7\u53eb"]


@pytest.mark.parametrize("lowercase", [False, True])
def test_corpus_scores_are_those_of_sacrebleu(lowercase):
    references = [text.title() for text in REFERENCES]
    found = measure(("bleu", "chrf", "ter"), OUTPUTS, references, lowercase)
    expected = {
        "bleu": sacrebleu.BLEU(lowercase=lowercase),
        "chrf": sacrebleu.CHRF(lowercase=lowercase),
        "ter": sacrebleu.TER(case_sensitive=not lowercase),
    }
    for name, metric in expected.items():
        assert found[name].value == pytest.approx(metric.corpus_score(OUTPUTS, [references]).score), name
        assert found[name].signature == str(metric.get_signature())
    figures = metrics.figures(found)
    assert figures["bleu"] == found["bleu"].value and "nrefs:1" in figures["bleu_signature"]


def test_chinese_is_scored_by_its_characters():
    found = measure(("bleu", "ter", "rouge"), CHINESE, [CHINESE[0] + "\u4e86", CHINESE[1]])
    assert "tok:zh" in found["bleu"].signature and "asian:yes" in found["ter"].signature
    assert 0 < found["ter"].value < 50
    # Six of one, two of the other; precision 1, recall 5/6 and 1.
    assert found["rouge1"].value == pytest.approx(100 * (2 * (5 / 6) / (1 + 5 / 6) + 1) / 2)


def test_rouge_is_the_f_measure_of_what_is_common():
    found = measure(("rouge",), ["the cats sat down"], ["the cat sat"])
    assert {name: round(one.value, 3) for name, one in found.items()} == {
        "rouge1": round(600 / 7, 3),  # the stem of cats is cat
        "rouge2": round(400 / 5, 3),
        "rougeL": round(600 / 7, 3),
    }


@pytest.mark.parametrize(
    ("output", "reference", "exact", "f1"),
    [
        ("The  Eiffel Tower!", "eiffel tower", 1, 1.0),
        ("in the Eiffel Tower", "Eiffel Tower", 0, 0.8),
        ("b b a b", "b b c", 0, 2 * 2 / 6),  # an article goes
        ("", "", 1, 1.0),
        ("the", "x", 0, 0.0),
    ],
)
def test_answers_are_scored_as_squads_script_does(output, reference, exact, f1):
    found = measure(("squad",), [output], [reference])
    assert found["squad_exact_match"].value == exact and found["squad_f1"].value == pytest.approx(f1)


def test_classes_are_scored_label_by_label():
    gold, output = ["a", "a", "a", "b", "b", "c"], ["a", "a", "b", "b", "a", "b"]
    found = measure(("accuracy", "macro_f1", "exact_match"), output, gold)
    assert found["accuracy"].value == found["exact_match"].value == 0.5
    # F1: a 2 * 2 / (3 + 3), b 2 * 1 / (3 + 2), c 0
    assert found["macro_f1"].value == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    assert metrics.confusion(["a", "b", "c"], output, gold) == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_calibration_against_a_plain_sum():
    rng = np.random.default_rng(0)
    p_nl = rng.dirichlet([0.5, 0.5, 0.5], 400)
    gold_n = np.array([rng.choice(3, p=p_l) for p_l in p_nl])
    gold_n[:5] = -1
    found = statistics.calibration(p_nl, gold_n)
    error = brier = 0.0
    for low in np.arange(15) / 15:
        inside = [(p, g) for p, g in zip(p_nl, gold_n, strict=True) if low < p.max() <= low + 1 / 15]
        if inside:
            error += abs(sum(p.max() for p, _ in inside) - sum(p.argmax() == g for p, g in inside)) / 400
    for p, g in zip(p_nl, gold_n, strict=True):
        brier += (sum((p_i - (i == g)) ** 2 for i, p_i in enumerate(p)) + (g < 0)) / 400
    assert found["ece"].value == pytest.approx(error) and found["brier"].value == pytest.approx(brier)
    sure = statistics.calibration(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1]))
    assert sure["ece"].value == 0.25 and sure["brier"].value == 0.5
    # Neighbouring bins, the errors of which would cancel in one.
    apart = statistics.calibration(np.array([[0.99, 0.01], [0.92, 0.08]]), np.array([1, 0]))
    assert apart["ece"].value == pytest.approx((0.99 + 0.08) / 2)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    rng = np.random.default_rng(1)
    values_n = rng.normal(3, 2, 2000)
    low, high = interval(ratio(values_n))
    assert low == pytest.approx(values_n.mean() - 1.96 * values_n.std() / math.sqrt(2000), abs=0.02)
    assert high == pytest.approx(values_n.mean() + 1.96 * values_n.std() / math.sqrt(2000), abs=0.02)
    assert interval(ratio(values_n)) == (low, high)  # seeded
    assert interval(ratio(np.ones(7))) == (1, 1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(200):
        low, high = interval(ratio(rng.random(60) < 0.4), trials=300)
        covered += low <= 0.4 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_a_ratio_draws_both_sides_together():
    tokens_n = np.random.default_rng(3).integers(1, 50, 100)
    low, high = interval(ratio(2.5 * tokens_n, tokens_n))
    assert low == pytest.approx(2.5) and high == pytest.approx(2.5)


def test_randomisation_equals_all_exchanges():
    a_n, b_n = np.array([0, 0, 1, 0, 0, 1, 0, 0.0]), np.array([1, 1, 1, 0, 1, 1, 1, 0.0])
    found = compare(ratio(a_n), ratio(b_n), trials=20000)
    differences = b_n - a_n
    exact = np.mean(
        [abs((signs * differences).mean()) >= 1 / 2 - 1e-12 for signs in itertools.product((1, -1), repeat=8)]
    )
    assert found.difference == 1 / 2 and exact == 2 / 16
    assert found.p_randomisation == pytest.approx(exact, abs=0.01)
    assert found.low < 1 / 2 < found.high


def test_two_systems_that_are_alike_are_seldom_told_apart():
    rng, bootstrap, randomisation = np.random.default_rng(4), [], []
    for _ in range(200):
        a_n, b_n = (ratio(rng.random(80) < 0.6) for _ in range(2))
        found = compare(a_n, b_n, trials=200)
        bootstrap.append(found.p_bootstrap <= 0.05)
        randomisation.append(found.p_randomisation <= 0.05)
    assert np.mean(bootstrap) < 0.11 and np.mean(randomisation) < 0.11
    same = compare(a_n, a_n)
    assert same[:3] == (0, 0, 0) and same.p_bootstrap == same.p_randomisation == 1


def test_a_real_difference_is_found_and_pairs_matter():
    rng = np.random.default_rng(5)
    hard_n = rng.normal(0, 5, 300)  # of the examples, the same for both
    found = compare(ratio(hard_n), ratio(hard_n + 0.3 + rng.normal(0, 0.5, 300)))
    assert found.low > 0 and max(found.p_bootstrap, found.p_randomisation) < 0.01
    figures = compare(*(measure(("bleu",), texts, REFERENCES)["bleu"] for texts in (OUTPUTS, REFERENCES)))
    assert figures.difference > 0 and figures.p_randomisation < 0.01


def test_a_figure_is_a_function_of_sums():
    stats_ns = np.arange(12.0).reshape(4, 3)
    assert Metric(stats_ns, lambda s: float(s.max())).value == 2 + 5 + 8 + 11
    assert Metric(stats_ns, lambda s: float(s[0])).value == 18
    assert ratio([0.0], [0.0]).value == 0


def test_what_most_others_resemble_comes_first():
    texts = ["the cat sat", "dogs bark", "the cat sat", "the cat sits", "dogs bark loudly"]
    order = risk.minimum_bayes_risk(texts)
    metric = sacrebleu.CHRF()
    utility = [sum(metric.sentence_score(text, [other]).score for other in texts) for text in texts]
    assert [utility[i] for i in order] == sorted(utility, reverse=True)
    assert order[:2] == [0, 2] and sorted(order) == [*range(5)]
