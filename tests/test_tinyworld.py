import collections
import dataclasses
import functools
import math
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lm.data.tinyworld import Tinyworld, lexicon, stories, translate
from lm.data.tinyworld.grammar import outcomes, parses, sample
from lm.data.tinyworld.tinyworld import story, translation

FULL_STORIES, FULL_TRANSLATE = stories.World(), translate.World()
SMALL_STORIES = stories.World(
    people=FULL_STORIES.people[5:7],
    places=FULL_STORIES.places[:2],
    toys=("ball", "kite"),
    colours=("red",),
    foods=("apple",),
    amounts=(2,),
    weathers=("sunny",),
    days=FULL_STORIES.days[:1],
    scenes=("Nearby",),
    animals=FULL_STORIES.animals[:2],
    relations=("chase",),
    actions=("sing",),
    landmarks=FULL_STORIES.landmarks[:1],
    depth=1,
    most=3,
    max_sentences=6,
)
THE, THE_PLURAL = lexicon.DETERMINERS[0], lexicon.DETERMINERS[1]
BROAD = translate.World(  # every kind of sentence and mood, no clauses
    nouns=tuple(noun for noun in lexicon.NOUNS if noun.singular in ("teacher", "pear")),
    subjects=lexicon.SUBJECTS[:1],
    objects=lexicon.OBJECTS[3:4],
    determiners=tuple((weight, group[:1]) for weight, group in lexicon.DETERMINERS[:6]),
    adjectives=(),
    verbs=tuple(verb for verb in lexicon.VERBS if verb.base in ("sleep", "look", "need")),
    transfers=lexicon.TRANSFERS[:1],
    places=(lexicon.Landmark("park", "公园", (("in", "里"),)),),
    furniture=(lexicon.Landmark("bed", "床", (("on", "上"),)),),
    kinds=("act", "transfer", "locate", "exist"),
    depth=0,
)
DEEP = translate.World(  # clauses in clauses
    nouns=tuple(noun for noun in lexicon.NOUNS if noun.singular == "friend"),
    subjects=lexicon.SUBJECTS[1:2],
    objects=lexicon.OBJECTS[1:2],
    determiners=(THE_PLURAL, (1.0, (lexicon.Determiner("demonstrative", "that", False, ("那", "#")),))),
    adjectives=(),
    verbs=tuple(verb for verb in lexicon.VERBS if verb.base in ("cry", "help", "know")),
    action_moods=lexicon.ACTION_MOODS[2:3],
    state_moods=lexicon.STATE_MOODS[:1],
    places=(),
    kinds=("act",),
)
PLAIN = translate.World(  # descriptions
    nouns=tuple(noun for noun in lexicon.NOUNS if noun.singular in ("bird", "knife")),
    adjectives=tuple(adjective for adjective in lexicon.ADJECTIVES if adjective.english in ("big", "strange", "red")),
    verbs=(),
    places=lexicon.PLACES[:1],
    kinds=("describe",),
)


def tell(world, choose):
    return " ".join(stories.story(world, choose))


def entropy(log_probs):
    return -math.fsum(math.exp(log_prob) * log_prob for log_prob in log_probs)


@functools.cache
def train_pairs():
    return [translation(random.Random(f"tinyworld/translate/train/{index}")) for index in range(30_000)]


@functools.cache
def some_stories():
    return [story(random.Random(index)) for index in range(2_000)]


def test_every_reading_of_a_program_agrees():
    def program(choose):
        letter = choose("ab", (3, 1))
        yield letter
        if letter == "a":
            yield choose(["x", "y", "z"])

    spoken = dict(outcomes(lambda choose: " ".join(program(choose))))
    assert spoken == pytest.approx(
        {"a x": math.log(1 / 4), "a y": math.log(1 / 4), "a z": math.log(1 / 4), "b": math.log(1 / 4)}
    )
    counts = collections.Counter(
        sample(lambda choose: " ".join(program(choose)), random.Random(i)) for i in range(4_000)
    )
    for (text, log_prob), count in counts.items():
        assert log_prob == pytest.approx(spoken[text])
        assert parses(program, text) == [pytest.approx(log_prob)]
        assert count == pytest.approx(1_000, abs=100)
    assert parses(program, "a") == parses(program, "b x") == []
    assert len(parses(lambda choose: [choose("aab")], "a")) == 2


def test_a_small_world_of_stories_is_unambiguous_and_its_probabilities_sum_to_one():
    texts, log_probs = zip(*outcomes(functools.partial(tell, SMALL_STORIES)), strict=True)
    assert len(texts) > 10_000
    assert len(set(texts)) == len(texts)
    assert math.fsum(map(math.exp, log_probs)) == pytest.approx(1, abs=1e-9)
    drawn = [-sample(functools.partial(tell, SMALL_STORIES), random.Random(i))[1] for i in range(4_000)]
    assert np.mean(drawn) == pytest.approx(entropy(log_probs), abs=4 * np.std(drawn) / math.sqrt(len(drawn)))
    assert np.std(drawn) > 0.1


@pytest.mark.parametrize("world", [BROAD, DEEP, PLAIN], ids=["broad", "deep", "plain"])
def test_a_small_world_of_pairs_is_unambiguous_and_its_probabilities_sum_to_one(world):
    sources, total, floor = set(), [], []
    count = 0
    for (source, chinese), log_prob in outcomes(functools.partial(translate.pair, world)):
        count += 1
        sources.add(source)
        total.append(math.exp(log_prob))
        targets, target_log_probs = zip(*outcomes(functools.partial(translate.render, chinese)), strict=True)
        assert len(set(targets)) == len(targets)
        assert math.fsum(map(math.exp, target_log_probs)) == pytest.approx(1, abs=1e-9)
        floor.append(math.exp(log_prob) * entropy(target_log_probs))
    assert count > 5_000
    assert len(sources) == count
    assert math.fsum(total) == pytest.approx(1, abs=1e-9)
    if world is BROAD:
        drawn = [-_draw_pair(world, index)[1] for index in range(4_000)]
        assert np.mean(drawn) == pytest.approx(math.fsum(floor), abs=4 * np.std(drawn) / math.sqrt(len(drawn)))
        assert np.std(drawn) > 0.1


def _draw_pair(world, seed):
    rng = random.Random(seed)
    (_, chinese), _ = sample(functools.partial(translate.pair, world), rng)
    return sample(functools.partial(translate.render, chinese), rng)


def test_a_full_size_story_has_one_derivation_and_a_corrupted_one_none():
    program = functools.partial(stories.story, FULL_STORIES)
    for example in some_stories()[:20]:
        assert parses(program, example["text"]) == [pytest.approx(example["log_prob"], abs=1e-9)]
        assert parses(program, example["text"][:-1] + ",") == []
        closing = example["text"].rindex("By ")
        person = re.search(r"[A-Z]\w+", example["text"][closing + 3 :]).group()
        corrupted = example["text"][:closing] + example["text"][closing:].replace(person, "Zoe")
        assert parses(program, corrupted) == []


def test_the_same_english_always_has_the_same_translations():
    seen = {}
    for index in range(20_000):
        (source, chinese), log_prob = sample(functools.partial(translate.pair, FULL_TRANSLATE), random.Random(index))
        assert seen.setdefault(source, (chinese, pytest.approx(log_prob))) == (chinese, log_prob)
    assert len(seen) < 20_000


def test_chinese_has_its_own_word_order_and_measure_words():
    english = {"cat", "dog", "sleep", "chase", "the", "three"}
    world = dataclasses.replace(
        FULL_TRANSLATE,
        nouns=tuple(noun for noun in lexicon.NOUNS if noun.singular in english),
        determiners=tuple(
            (weight, kept)
            for weight, group in lexicon.DETERMINERS
            if (kept := tuple(d for d in group if d.english in english))
        ),
        adjectives=(),
        verbs=tuple(verb for verb in lexicon.VERBS if verb.base in english),
        subjects=(),
        objects=(),
        action_moods=tuple(mood for mood in lexicon.ACTION_MOODS if mood.auxiliary in ("", "{be}")),
        furniture=(),
        places=(lexicon.Landmark("park", "公园", (("behind", "后面"),)),),
        kinds=("act", "exist"),
        depth=1,
    )
    expected = {
        "The cats that the dog chases sleep.": {"狗追的猫睡觉。"},
        "The dog that chased three cats slept yesterday.": {"追过三只猫的狗昨天睡觉了。"},
        "Three cats are sleeping behind the park.": {"三只猫在公园后面睡觉。", "三只猫正在公园后面睡觉。"},
        "There are three dogs behind the park.": {"公园后面有三只狗。"},
    }
    found = {
        source: {target for target, _ in outcomes(functools.partial(translate.render, chinese))}
        for (source, chinese), _ in outcomes(functools.partial(translate.pair, world))
        if source in expected
    }
    assert found == expected


def test_nothing_in_a_story_is_lost_or_made():
    numbers = {number: index for index, number in enumerate(stories.NUMBERS)} | {"a": 1, "an": 1}
    amount = re.compile(rf"\b({'|'.join(numbers)}) (?:more )?({'|'.join(FULL_STORIES.foods)})s?\b")

    def amounts(text):
        total = collections.Counter()
        for number, food in amount.findall(text):
            total[food] += numbers[number]
        return total

    eaten = 0
    for example in some_stories():
        first, second, *events = re.findall(r"[^.]+\.", example["text"])
        start = next(index for index, sentence in enumerate(events) if sentence.startswith(" By "))
        events, closing = events[:start], " ".join(events[start:])
        had = amounts(first + second)
        for event in events:
            had.update(amounts(event) if " finds " in event else {})
            had.subtract(amounts(event) if " eats " in event else {})
            eaten += " eats " in event
        assert +had == amounts(closing)
        toys = re.compile(rf"({'|'.join(FULL_STORIES.colours)}) ({'|'.join(FULL_STORIES.toys)})")
        assert sorted(toys.findall(first + second)) == sorted(toys.findall(closing))
    assert eaten > 100


def test_verbs_agree_across_nested_clauses():
    singular = {animal for animal, _ in FULL_STORIES.animals}
    depths = collections.Counter()
    for example in some_stories():
        for scene in re.findall(r"(?:Nearby|Outside|Far away), (the [^.]+)\.", example["text"]):
            nouns = re.findall(r"(?<!near )the (\w+)", scene)
            verbs = scene.split()[-len(nouns) :]  # the last noun's comes first
            assert [noun in singular for noun in reversed(nouns)] == [verb.endswith("s") for verb in verbs], scene
            depths[len(nouns)] += 1
    assert min(depths[1], depths[2], depths[3]) > 50


def test_translations_are_nearly_determined_and_can_be_learned():
    sites = [-example["log_prob"] for example in train_pairs()]
    usual = [math.prod(0.9 for _ in _sites(index)) for index in range(5_000)]
    assert 0.96 < np.mean(usual) < 0.98
    assert 0.05 < np.mean(sites) < 0.15
    words = collections.Counter(word for example in train_pairs() for word in re.findall(r"\w+", example["source"]))
    assert min(words.values()) >= 100
    lengths = [len(example["source"].split()) for example in train_pairs()]
    assert 7 < np.mean(lengths) < 9
    assert not any(" " in example["target"] for example in train_pairs())


def _sites(seed):
    (_, chinese), _ = sample(functools.partial(translate.pair, FULL_TRANSLATE), random.Random(seed))
    return [word for word in chinese if isinstance(word, lexicon.Variants)]


def test_few_validation_examples_are_in_train():
    train = {(example["source"], example["target"]) for example in train_pairs()}
    drawn = [translation(random.Random(f"tinyworld/translate/validation/{index}")) for index in range(1_000)]
    assert np.mean([(example["source"], example["target"]) in train for example in drawn]) < 0.02
    texts = [example["text"] for example in some_stories()]
    assert len(set(texts)) == len(texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 40 and 55 < np.mean(lengths) < 75
    assert {text.count(".") for text in texts} == {4, 5, 6, 7, 8}


def test_a_prepared_data_set_reads_back_what_was_drawn(tmp_path):
    config = dataclasses.replace(Tinyworld.builder_configs["translate"], name="few", sizes={"train": 20, "test": 5})
    builder = Tinyworld(config=config, data_dir=tmp_path)
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    source = builder.as_data_source("train")
    assert len(source) == 20 and len(builder.as_data_source("test")) == 5
    for index in range(20):
        drawn = translation(random.Random(f"tinyworld/few/train/{index}"))
        assert source[index]["source"].decode() == drawn["source"]
        assert source[index]["target"].decode() == drawn["target"]
        assert source[index]["log_prob"] == np.float32(drawn["log_prob"])
    assert "tensorflow" not in sys.modules


def test_the_builder_is_known_by_name(tmp_path):
    for name, size in (("stories", 20_000), ("translate", 30_000)):
        builder = tfds.builder(f"tinyworld/{name}", data_dir=tmp_path)
        assert builder.builder_config.sizes == {"train": size, "validation": 1_000, "test": 1_000}
        assert builder.info.file_format.value == "array_record"


FINGERPRINT = """
import hashlib, json
from lm.data.tinyworld import Tinyworld
for config in ("stories", "translate"):
    builder = Tinyworld(config=config, data_dir="/nowhere")
    examples = [example for split in ("train", "validation", "test")
                for (_, example), _ in zip(builder._generate_examples(split), range(100))]
    print(config, builder.version, hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()[:16])
"""


@pytest.mark.parametrize("hash_seed", ["0", "7"])
def test_the_same_version_is_the_same_bytes_in_every_process(hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    printed = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, text=True, check=True
    ).stdout
    # Whoever changes what is drawn changes VERSION with it: data prepared earlier is found by its version.
    assert printed.split() == ["stories", "1.0.0", "88da4b4eb81dc7b4", "translate", "1.0.0", "d121e80207120e52"]
