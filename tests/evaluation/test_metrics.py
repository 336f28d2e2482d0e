"""Figures against the libraries' own, intervals against what is known, tests against all exchanges."""

import itertools
import math

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer
from scipy.stats import binom
from support.sizes import sized

from benchmarks import coverage
from lm.evaluation import metrics, statistics
from lm.evaluation.metrics import measure
from lm.evaluation.statistics import Metric, compare, interval, mean, ratio
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


# Output and answers; exact match and F1 as the official script of SQuAD 2.0 computed them.
ANSWERED = [
    ("The  Eiffel Tower!", ("Eiffel Tower in Paris", "eiffel tower", "Paris"), 1, 1),
    ("in the Tower of London", ("London", "the Tower of London", "Tower"), 0, 0.8571428571428571),
    ("", ("",), 1, 1),  # nothing is right
    ("x", ("",), 0, 0),
    ("", ("the", "a cat"), 0, 0),  # an answer without a word counts only alone
    ("a U.S. state", ("US", "state of the U.S."), 0, 0.8),
    ("nine-tenths", ("nine tenths", "90 %"), 0, 0),
    ("The", ("the",), 1, 1),
    ("Denver Broncos", ("Carolina Panthers", "The Panthers", "Panthers"), 0, 0),
]


def test_the_best_of_several_answers_counts_as_in_squads_script():
    outputs, answers, exact, f1 = zip(*ANSWERED, strict=True)
    found = measure(("squad", "exact_match"), outputs, answers)
    assert found["squad_exact_match"].stats_ns[:, 0].tolist() == [*exact]
    np.testing.assert_allclose(found["squad_f1"].stats_ns[:, 0], f1)
    assert found["squad_exact_match"].value == pytest.approx(0.3333333333333333)
    assert found["squad_f1"].value == pytest.approx(0.5174603174603175)
    assert found["exact_match"].value == pytest.approx(1 / 9) and found["squad_f1"].signature == "refs:1-3"


def test_corpus_scores_of_several_references_are_those_of_the_libraries():
    second = [text.replace("sat", "sits").replace("rains", "pours") for text in REFERENCES]
    third = [text if i % 2 else None for i, text in enumerate(OUTPUTS)]
    for columns, counted in (([REFERENCES, second], "2"), ([REFERENCES, second, third], "2-3")):
        known = [tuple(text for text in texts if text is not None) for texts in zip(*columns, strict=True)]
        found = measure(("bleu", "chrf", "ter", "rouge"), OUTPUTS, known)
        for name, metric in {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF(), "ter": sacrebleu.TER()}.items():
            assert found[name].value == pytest.approx(metric.corpus_score(OUTPUTS, columns).score), name
            assert found[name].signature.startswith(f"nrefs:{counted}|"), name
        scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
        best = [
            max(scorer.score(text, o)["rougeL"].fmeasure for text in k) for o, k in zip(OUTPUTS, known, strict=True)
        ]
        assert found["rougeL"].value == pytest.approx(100 * np.mean(best))
        assert found["rougeL"].signature.endswith(f"|refs:{counted}")


def test_one_of_several_labels_is_right():
    found = measure(("accuracy", "macro_f1"), ["a", "b", "c"], [("a", "b"), ("a", "b"), ("a", "b")])
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["macro_f1"].value == pytest.approx((2 / 3 + 1 + 0) / 3)  # gold: a, b, a
    assert metrics.confusion(["a", "b", "c"], ["a", "b", "c"], [("a", "b")] * 3) == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


NOWHERE = {  # references, a score and the figures of it that are not defined, with their reason
    "of three words": (["one red cup", "two"], {"bleu": "no reference has 4 words"}),
    "of one word": (["cup", "cat"], {"rouge2": "no reference has 2 words of a to z and 0 to 9"}),
    "empty": (["", ""], dict.fromkeys(("chrf", "ter"), "every reference is empty")),
    "of other letters": (
        ["\u043a\u043e\u0442"] * 2,
        dict.fromkeys(("rouge1", "rougeL"), "no reference has a word of a to z"),
    ),
    "of two Chinese characters": (["\u732b\u5728"] * 2, {"bleu": "no reference has 4 words"}),
}


@pytest.mark.parametrize("references, expected", NOWHERE.values(), ids=NOWHERE)
def test_a_score_that_no_output_could_have_is_not_defined(references, expected):
    """Whether the outputs are right or wrong."""
    for outputs in (references, ["one red cup on it", "x y z a b"]):
        found = metrics.figures(measure([*metrics.SCORES], outputs, references))
        for name, reason in expected.items():
            assert found[name] is None and found["undefined"][name].startswith(reason), name
    others = {"exact_match", "squad_f1", "accuracy", "macro_f1"}
    assert not others & found["undefined"].keys() and all(found[name] is not None for name in others)


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
    low, high = interval(ratio(values_n)).ends
    assert low == pytest.approx(values_n.mean() - 1.96 * values_n.std() / math.sqrt(2000), abs=0.02)
    assert high == pytest.approx(values_n.mean() + 1.96 * values_n.std() / math.sqrt(2000), abs=0.02)
    assert interval(ratio(values_n)).ends == (low, high)  # nothing is drawn


def test_the_interval_of_a_skewed_mean_leans_to_where_values_are_missed():
    low, high = interval(ratio(np.random.default_rng(2).lognormal(0, 1, 60))).ends
    value = ratio(np.random.default_rng(2).lognormal(0, 1, 60)).value
    assert high - value > 1.3 * (value - low) > 0


def test_the_interval_of_a_proportion_is_wilsons_and_covers_as_often_as_it_says():
    found = interval(mean([1] * 81 + [0] * 182))  # Newcombe (1998), table I
    assert found.method == "wilson" and found.ends == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval(mean([1] * 10)).ends == (pytest.approx(0.7225, abs=1e-4), 1)
    for n in range(2, 60):  # rounded as they may be
        assert interval(mean([100.0] * n, most=100)).high == 100 and interval(mean([0.0] * n)).low == 0
    assert interval(mean([100.0] * 10, most=100)).ends == (pytest.approx(72.25, abs=1e-2), 100)
    for n in (20, 60):
        ends_n2 = np.array([interval(mean(np.arange(n) < right)).ends for right in range(n + 1)])
        for p in np.linspace(1 / n, 0.5, 40):
            holds_n = (ends_n2[:, 0] <= p) & (p <= ends_n2[:, 1])
            assert 0.92 <= binom.pmf(np.arange(n + 1), n, p)[holds_n].sum() <= 0.983, (n, p)


def test_values_that_vary_less_than_zeros_and_ones_have_a_narrower_interval():
    rng = np.random.default_rng(3)
    values_n = rng.beta(8, 2, 400)
    low, high = interval(mean(values_n)).ends
    assert high - low == pytest.approx(2 * 1.96 * values_n.std() / 20, rel=0.02) and low < values_n.mean() < high


EDGES = {  # a figure, and why it has no interval
    "one example": (mean([1.0]), "one example"),
    "no example": (ratio(np.zeros(0), np.zeros(0)), "the figure is not defined"),
    "values that are equal": (ratio(np.full(7, 2.5)), "leaving an example out changes nothing"),
    "a constant ratio": (ratio(2.5 * np.arange(1, 9), np.arange(1, 9)), "leaving an example out changes nothing"),
    "all right": (measure(("macro_f1",), [*"abcab"], [*"abcab"])["macro_f1"], "leaving an example out"),
    "the best BLEU": (measure(("bleu",), REFERENCES, REFERENCES)["bleu"], "leaving an example out"),
    "nothing to divide by": (ratio([1.0, 2.0], [0.0, 0.0]), "the figure is not defined"),
    "one example that all hangs on": (ratio([1.0, 2.0], [0.0, 4.0]), "without one of the examples"),
    "a biased estimate": (
        statistics.calibration(np.eye(2)[[0, 1, 1]] * 0.8 + 0.1, np.array([0, 1, 0]))["ece"],
        "chance makes",
    ),
}


@pytest.mark.parametrize("metric, reason", EDGES.values(), ids=EDGES)
def test_where_there_is_no_interval_it_is_said_why(metric, reason):
    found = interval(metric)
    assert found.ends is None and found.method.startswith(f"none: {reason}")


def test_an_interval_stays_where_its_figure_can_be():
    almost = [*REFERENCES[:-1], "it rains again today"]
    for name, (low, high) in {"bleu": (0, 100), "chrf": (0, 100), "ter": (0, math.inf)}.items():
        found = interval(measure((name,), almost, REFERENCES)[name])
        assert low <= found.low < found.high <= high, name
    assert interval(statistics.perplexity(np.array([0.0, 0, 0, 9]), np.ones(4))).low == 1


def test_windows_of_a_stream_are_joined_to_stretches():
    windows_wbs = np.random.default_rng(4).random((100, 3, 2))
    stats_ns = statistics.stretches(windows_wbs)
    assert 40 <= len(stats_ns) <= statistics.STRETCHES + 3
    np.testing.assert_allclose(stats_ns.sum(axis=0), windows_wbs.sum(axis=(0, 1)))
    np.testing.assert_allclose(stats_ns[1], windows_wbs[:7, 1].sum(axis=0))
    np.testing.assert_allclose(statistics.stretches(windows_wbs[:4]), windows_wbs[:4].reshape(12, 2))  # few stay


QUICK = ("proportion 0.98", "mean of skewed values, 1")


@pytest.mark.parametrize("name", sized(coverage.POPULATIONS, lambda name: name in QUICK))
def test_each_kind_of_interval_covers_the_truth_as_often_as_it_says(name):
    population = coverage.POPULATIONS[name]()
    for n in population.sizes:
        found = coverage.covered(name, population, n, repeats=1000 if n <= 200 else 500)
        chance = 2 * found.error  # of the simulation
        assert 0.92 - chance <= found.covered <= 0.98 + chance and found.printed > 0.95, found


@pytest.mark.slow
def test_tests_of_comparisons_reject_as_often_as_they_say_where_there_is_no_difference():
    for name, n, bootstrap, randomisation in coverage.rejections(400, 199):
        chance = 2 * math.sqrt(0.05 * 0.95 / 400)
        assert 0.03 - chance <= bootstrap <= 0.07 + chance, (name, n, bootstrap)
        assert randomisation <= 0.07 + chance, (name, n, randomisation)  # exact, and of labels often less


def test_randomisation_equals_all_exchanges():
    a_n, b_n = np.array([0, 0, 1, 0, 0, 1, 0, 0.0]), np.array([1, 1, 1, 0, 1, 1, 1, 0.0])
    found = compare(ratio(a_n), ratio(b_n), trials=20000)
    differences = b_n - a_n
    exact = np.mean(
        [abs((signs * differences).mean()) >= 1 / 2 - 1e-12 for signs in itertools.product((1, -1), repeat=8)]
    )
    assert found.difference == 1 / 2 and exact == 2 / 16
    assert found.p_randomisation == pytest.approx(exact, abs=0.01)
    assert found.interval.low < 1 / 2 < found.interval.high


def test_two_systems_that_are_alike_are_seldom_told_apart():
    rng, bootstrap, randomisation = np.random.default_rng(4), [], []
    for _ in range(200):
        a_n, b_n = (ratio(rng.random(80) < 0.6) for _ in range(2))
        found = compare(a_n, b_n, trials=200)
        bootstrap.append(found.p_bootstrap <= 0.05)
        randomisation.append(found.p_randomisation <= 0.05)
    assert np.mean(bootstrap) < 0.11 and np.mean(randomisation) < 0.11
    same = compare(a_n, a_n)
    assert same.difference == 0 and same.p_bootstrap == same.p_randomisation == 1 and same.interval.ends is None


def test_systems_that_say_the_same_of_few_examples_may_differ_on_others():
    few, many = (compare(mean([1.0] * n), mean([1.0] * n)).interval for n in (10, 1000))
    assert few.method == "paired" and few.high == -few.low == pytest.approx(0.2385, abs=1e-4)
    assert 0 < many.high < 0.003
    assert compare(mean([1.0]), ratio([1.0], [0.0])) is None  # one of them is not defined
    calibration = statistics.calibration(np.eye(2)[[0, 1]], np.array([0, 0]))
    assert compare(calibration["ece"], calibration["ece"]) is None and compare(*[calibration["brier"]] * 2)


def test_a_real_difference_is_found_and_pairs_matter():
    rng = np.random.default_rng(5)
    hard_n = rng.normal(0, 5, 300)  # of the examples, the same for both
    found = compare(ratio(hard_n), ratio(hard_n + 0.3 + rng.normal(0, 0.5, 300)))
    assert found.interval.low > 0 and max(found.p_bootstrap, found.p_randomisation) < 0.01
    figures = compare(*(measure(("bleu",), texts, REFERENCES)["bleu"] for texts in (OUTPUTS, REFERENCES)))
    assert figures.difference > 0 and figures.p_randomisation < 0.01


def test_a_figure_is_a_function_of_sums():
    stats_ns = np.arange(12.0).reshape(4, 3)
    assert Metric(stats_ns, lambda s: float(s.max())).value == 2 + 5 + 8 + 11
    assert Metric(stats_ns, lambda s: float(s[0])).value == 18
    assert ratio([0.0], [0.0]).value is None and ratio([1.0], [0.0]).value is None


def test_what_most_others_resemble_comes_first():
    texts = ["the cat sat", "dogs bark", "the cat sat", "the cat sits", "dogs bark loudly"]
    order = risk.minimum_bayes_risk(texts)
    metric = sacrebleu.CHRF()
    utility = [sum(metric.sentence_score(text, [other]).score for other in texts) for text in texts]
    assert [utility[i] for i in order] == sorted(utility, reverse=True)
    assert order[:2] == [0, 2] and sorted(order) == [*range(5)]
