"""The configs of public TFDS data sets, each on a tiny data set with the features of the real one."""

import importlib.util

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.programs import ROOT

from lm import changed
from lm.config import validated
from lm.data import encoding, feed
from lm.data.read import datasets
from lm.data.read.examples import Example
from lm.data.splits import load_splits

WORDS = "one two three four five six seven eight nine ten red green blue big small old new warm cold good".split()


def sentence(i, length=12):
    rng = np.random.default_rng(i)
    return " ".join(rng.choice(WORDS, length)) + "."


# For each config: the data set, example i of the tiny one, and what the config makes of it.
DATA = {
    "lm1b": ("lm1b", lambda i: {"text": sentence(i)}, lambda i: Example(None, sentence(i))),
    "wiki40b": (
        "wiki40b/en",
        lambda i: {"text": f"\n_START_ARTICLE_\n{sentence(i)}", "wikidata_id": f"Q{i}", "version_id": str(i)},
        lambda i: Example(None, f"\n_START_ARTICLE_\n{sentence(i)}"),
    ),
    "tiny_shakespeare": (
        "tiny_shakespeare",
        lambda i: {"text": sentence(i, 400)},
        lambda i: Example(None, sentence(i, 400)),
    ),
    "imdb_reviews": (
        "imdb_reviews",
        lambda i: {"text": f"{sentence(i)}<br /><br />Bad &amp; old.", "label": i % 2},
        lambda i: Example(f"{sentence(i)} Bad & old.", ("neg", "pos")[i % 2]),
    ),
    "glue_sst2": (
        "glue/sst2",
        lambda i: {"sentence": sentence(i), "label": i % 2, "idx": i},
        lambda i: Example(sentence(i), ("negative", "positive")[i % 2]),
    ),
    "wmt14": (
        "wmt14_translate/de-en",
        lambda i: {"de": sentence(i).upper(), "en": sentence(i)},
        lambda i: Example(sentence(i).upper(), sentence(i)),
    ),
    "squad": (
        "squad",
        lambda i: {
            "id": str(i),
            "title": "t",
            "context": sentence(i, 40),
            "question": f"why {i}?",
            "answers": {"text": [sentence(i, 2), "no"], "answer_start": [3, 4]},
        },
        lambda i: Example(f"why {i}? {sentence(i, 40)}", sentence(i, 2), others=("no",)),
    ),
    "cnn_dailymail": (
        "cnn_dailymail",
        lambda i: {"article": sentence(i, 60), "highlights": sentence(i), "id": str(i), "publisher": "cnn"},
        lambda i: Example(sentence(i, 60), sentence(i)),
    ),
    "schema_guided_dialogue": (
        "schema_guided_dialogue",
        lambda i: {
            "utterances": [sentence(i), sentence(i + 1)],
            "first_speaker": "USER",
            "metadata": {"services": [{"name": "Hotels_1"}]},
        },
        lambda i: Example(f"User: {sentence(i)}", sentence(i + 1)),
    ),
}


class LmPublicTest(tfds.core.GeneratorBasedBuilder):
    """Sixty examples a split of each."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in DATA]

    def _info(self):
        real = real_features(DATA[self.builder_config.name][0])
        return tfds.core.DatasetInfo(builder=self, features=real)

    def _split_generators(self, dl_manager):
        splits = {"train": 0, "validation": 1, "dev": 1, "test": 2}
        return {name: self._generate_examples(k) for name, k in splits.items()}

    def _generate_examples(self, k):
        one = self.builder_config.name == "tiny_shakespeare"  # each of its splits is one text
        for i in range(100 * k, 100 * k + (1 if one else 60)):
            yield i, DATA[self.builder_config.name][1](i)


def real_features(name):
    """Those of the data set as TFDS declares it."""
    datasets.import_builders()
    return tfds.builder(name).info.features


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield


@pytest.mark.parametrize("name", DATA)
def test_a_public_data_set_becomes_examples_and_batches(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    config = module.get_config()
    real = DATA[name][0]
    for role in ("train", "validation", "test"):
        spec = getattr(config.data, role)
        assert spec.startswith(f"tfds:{real}:") or (role == "validation" and not spec)
        setattr(config.data, role, spec.replace(f"tfds:{real}", f"tfds:lm_public_test/{name}"))
    small = {"data.tokenizer.vocab_size": 320 if config.data.tokenizer.kind == "unigram" else 0, "data.batch_size": 4}
    config = validated(changed(validated(config), small))
    splits = load_splits(config.data)
    made = DATA[name][2]
    held_out = not config.data.validation
    known = [made(i) for i in range(60)] if name != "tiny_shakespeare" else [made(0)]
    assert set(splits["train"].examples) <= set(known)
    assert len(splits["train"].examples) == len(known) - held_out * len(splits["validation"].examples)
    assert set(splits["test"].examples) <= {made(i) for i in [*range(100, 160), *range(200, 260)]}
    tokenizer = encoding.make_tokenizer(config.data, splits["train"])
    encoded = encoding.encode(splits["train"], tokenizer, config.data, training=True)
    data = feed.training_data(encoded, config.data, seed=0)
    batch = data.batches[0]
    assert (
        batch.weights_bt.sum() > 0
        and not data.left_out
        and tokenizer.vocab_size % config.data.tokenizer.multiple_of == 0
    )
    text = tokenizer.decode(batch.targets_bt[0])
    assert text and any(text in e.target or e.target in text or text[:20] in e.target for e in known)
    for piece in config.data.tokenizer.pieces:
        assert tokenizer.pieces(tokenizer.encode(piece)) == [piece]
