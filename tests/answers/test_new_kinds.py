"""A new kind of answer, and a new front end, are each added by a class and a few lines in literal dictionaries."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from support.configs import tiny_config
from support.training import Setup

import lm
from lm import answers
from lm.answers.contract import NO_NOISE, Answer, Generation
from lm.answers.reading import Reader
from lm.batch import Source
from lm.config.tasks import ANSWER_KINDS, TASKS, AnswerKind, Task
from lm.data import front_ends
from lm.data.front_ends import FrontEnd
from lm.models import inputs
from lm.runs import log
from lm.training import loop

pytestmark = pytest.mark.usefixtures("quick_training")

SHORT = {
    "training.steps": 40,
    "training.eval_every": 20,
    "training.checkpoint_every": 20,
    "training.eval_examples": 8,
    "optimizer.learning_rate": 0.05,
}


# ---- a kind of answer: how many -----------------------------------------------------------------------------------


class Counter(Reader):
    """A dense head that reads a rate from the encoder's outputs."""

    def setup(self):
        super().setup()
        self.head = nn.Dense(1)

    def logits(self, source, keys_b=None):
        values_bsd, _ = self.encode(source, keys_b)
        return jnp.sum(nn.softplus(self.head(values_bsd)[..., 0]) * source.mask_bs, axis=1)


class Count(Answer):
    """A number of things, which is Poisson distributed."""

    kind = "count"

    @classmethod
    def model_of(cls, config, tokenizer, labels):
        return Counter(config.model, tokenizer.vocab_size)

    def _nats(self, params, batch):
        """A target is a number in decimal digits, one byte each."""
        digits_bt = jnp.where(batch.weights_bt > 0, batch.targets_bt - 4 - ord("0"), -1)
        is_digit_bt = (digits_bt >= 0) & (digits_bt < 10)
        count_b = jnp.zeros(len(digits_bt))
        for digit_b, real_b in zip(digits_bt.T, is_digit_bt.T, strict=True):
            count_b = jnp.where(real_b, 10 * count_b + digit_b, count_b)
        rate_b = self.model.apply({"params": params}, batch.source, method="logits") + 1e-3
        return rate_b - count_b * jnp.log(rate_b) + jax.lax.lgamma(count_b + 1)

    def loss(self, params, carry, batch, noise=NO_NOISE):
        nats_bt, _ = self.nats(params, carry, batch)
        return nats_bt.sum(), (batch.weights_bt.sum(), ())

    def nats(self, params, carry, batch):
        first_bt = (jnp.arange(batch.targets_bt.shape[1]) == 0) & (batch.weights_bt > 0)
        return jnp.where(first_bt, self._nats(params, batch)[:, None], 0), ()

    def answer(self, params, prompts, options, beside=(), before=None):
        found = []
        for prompt in prompts:
            source = self.front_end.pad(self.source_values([prompt]), np.zeros(1, int), (1, 64))
            rate = float(self.model.apply({"params": params}, source, method="logits")[0])
            count = round(rate)
            nats = rate - count * math.log(rate + 1e-9) + math.lgamma(count + 1)
            found.append([Generation(prompt, str(count), -nats, len(str(count)) + 1, True)])
        return found


@pytest.fixture
def counting(monkeypatch, tmp_path):
    """All that is added: lines in lm/config/tasks.py and lm/answers/__init__.py."""
    kind = AnswerKind(among="counts", decodes=False, over_vocabulary=False, how="counts")
    monkeypatch.setitem(ANSWER_KINDS, "count", kind)
    monkeypatch.setitem(TASKS, "count", Task(True, "text", ("buckets",), ("exact_match",), answer="count"))
    monkeypatch.setitem(answers.ANSWERS, "count", Count)
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("xy"), rng.integers(3, 13))) for _ in range(300)]
    (tmp_path / "counts.tsv").write_text("".join(f"{line}\t{line.count('x')}\n" for line in lines))
    changes = {"data.task": "count", "data.tokenizer.kind": "bytes", "data.tokenizer.vocab_size": 0}
    return tiny_config("buckets", f"tsv:{tmp_path}/counts.tsv", SHORT | changes)


def test_a_new_kind_of_answer_trains_is_evaluated_answers_and_scores(counting, tmp_path):
    loop.train(counting, epath.Path(tmp_path / "run"))
    run = lm.load(str(tmp_path / "run"))
    assert isinstance(run.answer, Count)
    prompts = ["x" * n + "yy" for n in range(3, 9)]
    outputs = [int(one.output) for (one,) in run.generate(prompts)]
    assert np.abs(np.subtract(outputs, range(3, 9))).max() <= 1
    # Over all numbers the probabilities sum to one.
    scores = run.score([("xxxxyy", str(n)) for n in range(40)])
    assert sum(math.exp(score.log_probability) for score in scores) == pytest.approx(1, abs=1e-3)
    records = log.read_metrics(epath.Path(tmp_path / "run"))
    last = [record for record in records if record["split"] == "validation"][-1]
    assert last["generated"] == 8 and last["exact_match"] > 0.3


# ---- a front end: frames of numbers -------------------------------------------------------------------------------

WIDTH = 2


class Frames(FrontEnd):
    """Frames written as numbers, `0.5 1;-1 2`: the half of the front end on the host."""

    def encode(self, sources, tokenizer, ids):
        return [self.prompt(source, tokenizer) for source in sources]

    def prompt(self, source, tokenizer):
        return np.array([frame.split() for frame in source.split(";")], np.float32).reshape(-1, WIDTH)

    def to_bytes(self, values, dtype):
        return values.astype("<f4").tobytes()

    def from_bytes(self, record, dtype):
        return np.frombuffer(record, "<f4").reshape(-1, WIDTH)

    def pad(self, values, row_k, shape):
        padded, mask_bs = np.zeros((*shape, WIDTH), np.float32), np.zeros(shape, bool)
        used_b = np.zeros(shape[0], int)
        for frames, row in zip(values, row_k, strict=True):
            place = slice(used_b[row], used_b[row] + len(frames))
            padded[row, place], mask_bs[row, place] = frames, True
            used_b[row] += len(frames) + 1
        return Source(padded, mask_bs)


class FrameVectors(nn.Module):
    """The half on the device: a dense layer on each frame."""

    embedding: nn.Module

    @nn.compact
    def __call__(self, source):
        return nn.Dense(self.embedding.config.embed_dim)(source.values)

    @staticmethod
    def smallest():
        return Source(jnp.zeros((1, 1, WIDTH)), jnp.ones((1, 1), bool))


@pytest.fixture
def hearing(monkeypatch, tmp_path):
    """All that is added: lines in lm/config/tasks.py, lm/data/front_ends.py and lm/models/inputs.py."""
    monkeypatch.setitem(front_ends.FRONT_ENDS, "frames", Frames())
    monkeypatch.setitem(inputs.INPUTS, "frames", FrameVectors)
    monkeypatch.setitem(TASKS, "hear", dataclasses.replace(TASKS["seq2seq"], source="frames"))
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        signs = rng.integers(0, 2, rng.integers(1, 5))
        frames = ";".join(f"{2 * sign - 1 + rng.normal(0, 0.1):.2f} {rng.normal():.2f}" for sign in signs)
        lines.append(f"{frames}\t{' '.join('low high'.split()[sign] for sign in signs)}\n")
    (tmp_path / "heard.tsv").write_text("".join(lines))
    changes = {"data.task": "hear", "data.tokenizer.kind": "words", "data.tokenizer.vocab_size": 0}
    changes |= {"training.steps": 100, "model.self_attention": 0, "model.dropout": 0.0}
    return tiny_config("buckets", f"tsv:{tmp_path}/heard.tsv", SHORT | changes)


def test_a_new_front_end_trains_answers_and_scores(hearing, tmp_path):
    loop.train(hearing, epath.Path(tmp_path / "run"))
    run = lm.load(str(tmp_path / "run"), "latest")
    ((one,),) = run.generate(["1 0;-1 0;1 0.5"], lm.Options(temperature=0))
    assert one.output == "high low high"
    right, wrong = run.score([("1 0;-1 0", "high low"), ("1 0;-1 0", "low high")])
    assert right.log_probability > wrong.log_probability + 1
    assert one.log_probability == pytest.approx(
        run.score([("1 0;-1 0;1 0.5", "high low high")])[0].log_probability, abs=1e-4
    )


def test_padding_of_frames_changes_nothing(hearing):
    """Zeros are values, and no mask: what stands where the mask is False means nothing."""
    setup = Setup(hearing)
    batch = setup.data.batches[0]
    noisy = batch._replace(
        source=batch.source._replace(values=np.where(batch.source.mask_bs[..., None], batch.source.values, 7.0))
    )
    nats = lambda batch: jax.jit(setup.answer.nats)(setup.params, (), batch)[0]
    np.testing.assert_array_equal(nats(noisy), nats(batch))
    assert (~batch.source.mask_bs).any() and np.abs(nats(batch)).max() > 0
