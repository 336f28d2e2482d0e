"""`python -m lm.data`: what a configuration's data looks like, and what it answers to mistakes."""

import re

import pytest
from support.programs import run_programs


@pytest.fixture(scope="module")
def shown(trained, sources, configs, tmp_path_factory):
    """What each call prints."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "small.py").write_text("print(3)\n" * 40)
    (folder / "small.tsv").write_text("".join(f"a b{i}\tc d\n" for i in range(40)) + "a b1\tc d\n")
    calls = {
        "a source of pairs": [f"tsv:{folder}/small.tsv", "--config.data.tokenizer.kind=bytes", "--first=1"],
        "a source of texts": [sources["lm"], "--first=0"],
        "a run": [str(trained["buckets"])],
        "a config file": [
            "configs/translate.py",
            *(f"--config.data.train={sources['seq2seq']}", "--config.data.validation=", "--config.data.test="),
            "--config.data.tokenizer.vocab_size=280",
            "--config.data.layout=packed",
            "--config.data.cleaning=nfc,words(2, 9),duplicates",
        ],
        "a stage": [
            "configs/pipelines/tinyworld.py:questions",
            *(f"--config.data.train={sources['seq2seq']}", "--config.data.validation=", "--config.data.test="),
            *("--config.data.tokenizer.kind=bytes", "--config.data.tokenizer.vocab_size=0"),
        ],
        "a source called as a config": [f"text:{folder}/small.py", "--first=0"],
        "noise": [sources["lm"], "--config.data.task=denoise", "--config.data.max_length=32", "--first=1"],
        "nothing": [],
        "no such thing": ["nothing.of.the.kind"],
        "no such field": ["configs/tinyworld.py", "--config.data.bach_size=3"],
        "no number": ["configs/tinyworld.py", "--config.data.batch_size=x"],
        "two": ["configs/tinyworld.py", "configs/translate.py"],
        "no such file": ["tsv:none.tsv"],
        "no such step": [sources["lm"], "--config.data.cleaning=nfd"],
        "everything dropped": [sources["seq2seq"], "--config.data.cleaning=words(90, 99)"],
    }
    done = run_programs(*(([*("-m", "lm.data"), *arguments], "") for arguments in calls.values()))
    return dict(zip(calls, done, strict=True))


def test_a_source_is_shown_with_its_counts_and_its_first_example(shown):
    said = shown["a source of pairs"].stdout
    assert re.search(r"task +seq2seq, buckets\n", said) and "tokenizer   bytes, 260 ids" in said
    train, validation = said.split("\nvalidation  ")
    counts = [int(re.search(r"examples +(\d+), ", part)[1]) for part in (train, validation)]
    twice = [int(re.search(r", (\d+) of them duplicates", part)[1]) for part in (train, validation)]
    assert sum(counts) == 41 and sum(twice) == 1
    # Every pair has four or five bytes on the left and three on the right.
    assert re.search(r"target +3\.0 tokens on average, median 3, most 3", train)
    sizes = re.findall(r"^ +(\d+) to +(\d+) +(\d+)", train.split("source ")[1].split("target ")[0], re.MULTILINE)
    assert sum(int(count) for *_, count in sizes) == counts[0]
    assert re.search(r"0 source +'a b\d+'\n +101 36 102", train) and "1 source" not in train
    assert "overlap: 0 of" in train  # equal examples are held out together


def test_texts_are_taken_for_a_language_model(shown):
    said = shown["a source of texts"].stdout
    assert re.search(r"task +lm, streams\n", said) and " 0 unknown" in said


def test_a_run_is_shown_with_its_own_tokenizer(shown, trained, configs):
    said = shown["a run"].stdout
    fingerprint = re.search('"fingerprint": "(.*)"', (trained["buckets"] / "tokenizer" / "tokenizer.json").read_text())[
        1
    ]
    assert fingerprint in said and "test  " in said


def test_a_config_file_is_shown_with_its_fields_replaced(shown):
    said = shown["a config file"].stdout
    assert re.search(r"task +seq2seq, packed\n", said)
    assert re.search(r"words\(2, 9\): [\d,]+ dropped", said) and re.search(r"duplicates: [\d,]+ dropped", said)
    assert "examples" in said


def test_a_stage_of_a_config_file_is_shown(shown):
    # That of no stage named has the task `lm`.
    assert re.search(r"task +seq2seq, buckets\n", shown["a stage"].stdout)


def test_a_source_may_be_called_as_a_config_file_is(shown):
    assert re.search(r"task +lm, streams\n", shown["a source called as a config"].stdout)


def test_noise_is_shown_as_the_model_reads_it(shown):
    said = shown["noise"].stdout
    assert re.search(r"0 source +'.*<extra_0>", said) and re.search(r"0 target +'<extra_0>", said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "SPEC: is missing"),
        ("no such thing", "is not a config, a run or a source"),
        ("no such field", "did you mean --config.data.batch_size?"),
        ("no number", "'x' is not of type int"),
        ("two", "is given 2 times"),
        ("no such file", "none.tsv: no such file"),
        ("no such step", "did you mean nfc?"),
        ("everything dropped", "drops every training example"),
    ],
)
def test_mistakes_are_answered_in_one_line(name, words, shown):
    done = shown[name]
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr, done.stderr
