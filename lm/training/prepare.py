"""What a run needs before its first update: data, tokenizer, model, optimizer, parameters."""

import functools
from typing import Any, NamedTuple

import jax
import optax
from etils import epath
from flax.traverse_util import flatten_dict

from lm import answers
from lm.answers import ANSWERS
from lm.answers.ranking import check_labels
from lm.config import Config
from lm.config.tasks import answer_of
from lm.data import encoding, feed
from lm.data.read import sources
from lm.data.splits import load_splits
from lm.data.text.tokenizers import saved
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices import hosts, memory
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.models.parameters import initial_params
from lm.runs import checkpoints, transfer
from lm.terminal import output
from lm.training import console, optimizers
from lm.training.schedule import Schedule
from lm.training.step import initial_state


class Inputs(NamedTuple):
    """What a run reads."""

    splits: dict[str, sources.Split]
    labels: tuple[str, ...]  # that are ranked, or none
    origin: transfer.Origin | None  # what `init_from` names
    tokenizer: Tokenizer
    encoded: dict[str, encoding.Encoded]
    data: feed.TrainingData
    resumed: bool  # there are checkpoints


def read_inputs(config: Config, directory: epath.Path) -> Inputs:
    """Data and tokenizer: the run's own, else that of `init_from`, else one made of the training data."""
    with hosts.first_then_others():
        splits = load_splits(config.data)
        labels = ANSWERS[answer_of(config)].labels_of(splits["train"].examples)
        resumed = checkpoints.any_in(directory / "checkpoints")
        origin = None if resumed else transfer.origin(config)
        if (directory / "tokenizer").exists():
            tokenizer = saved.load_tokenizer(directory / "tokenizer")
        else:
            tokenizer = origin.tokenizer if origin else encoding.make_tokenizer(config.data, splits["train"])
        encoded = {
            name: encoding.encode(split, tokenizer, config.data, config.seed, training=name == "train")
            for name, split in splits.items()
        }
    fingerprints = {f"{name} data": split.fingerprint for name, split in splits.items()}
    hosts.require_same(fingerprints | {"tokenizer": tokenizer.fingerprint})
    for name in splits.keys() - {"train"} if labels else ():
        check_labels(splits[name], labels)
    data = feed.training_data(encoded["train"], config.data, config.seed)
    return Inputs(splits, labels, origin, tokenizer, encoded, data, resumed)


class Learner(NamedTuple):
    """What learns, and how."""

    schedule: "Schedule"
    rate: optax.Schedule
    answer: answers.Answer
    optimizer: optax.GradientTransformation
    params: Any  # on the host: what the run begins with, from the seed and from `init_from`


def build(config: Config, inputs: Inputs, devices: Devices, profile: tuple[int, int] | None) -> Learner:
    training, tokenizer = config.training, inputs.tokenizer
    schedule = Schedule(config, inputs.data, profile)
    rate = optimizers.schedule(config.optimizer, schedule.warmup, schedule.steps)
    answer = answers.build(config, tokenizer, inputs.labels)
    if training.sampled_softmax >= tokenizer.vocab_size:
        what = f"{training.sampled_softmax} of a vocabulary of {tokenizer.vocab_size} ids"
        raise UserError("config.training.sampled_softmax", what, "give fewer, or 0 for all")
    shapes = jax.eval_shape(lambda: initial_params(answer.model, config.seed))
    optimizer = optimizers.optimizer(config.optimizer, rate, shapes, schedule.groups)
    fresh = functools.partial(initial_state, answer, optimizer, config)
    memory.require(shapes, jax.eval_shape(fresh, shapes), devices)
    params = jax.device_get(initial_params(answer.model, config.seed))
    loaded: list[str] = []
    if origin := inputs.origin:
        params, report = transfer.initialise(params, origin)
        loaded = report["loaded"]
        frozen = optimizers.split(schedule.groups, params)[1]
        report["new, and frozen as they are"] = sorted(set(report["new"]) & set(flatten_dict(frozen, sep="/")))
        console.transferred(origin.where, report)
    if training.word_vectors and not inputs.resumed:
        if any(name.startswith(transfer.EMBEDDING) for name in loaded):
            what, mend = f"{origin.where} has an embedding already", "leave one out, or load others by init_params"
            raise UserError("config.training.word_vectors", what, mend)
        params, count = transfer.with_word_vectors(params, tokenizer, training.word_vectors)
        output.say(f"from {training.word_vectors}: vectors of {count:,} of {tokenizer.unused.start:,} pieces")
    return Learner(schedule, rate, answer, optimizer, params)
