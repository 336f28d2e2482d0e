"""The preparation of a run before its first step: data, tokenizer, model, optimizer, parameters."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from etils import epath
from flax.traverse_util import flatten_dict

from lm import answers
from lm.answers import ANSWERS, Answer
from lm.answers.ranking import check_labels
from lm.batch import Batch
from lm.config import Config
from lm.config.tasks import answer_of
from lm.data import encoding, feed
from lm.data.read import sources
from lm.data.splits import load_splits
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices import hosts, memory
from lm.devices.mesh import Devices
from lm.errors import UserError
from lm.evaluation.evaluator import Evaluator
from lm.models.parameters import initial_params
from lm.runs import checkpoints, transfer, workdir
from lm.terminal import output
from lm.training import console, optimizers
from lm.training.gradient import summed_gradient
from lm.training.schedule import Schedule
from lm.training.step import Metrics, TrainState, initial_state, make_train_step


class Inputs(NamedTuple):
    """The data, labels and tokenizer of a run."""

    splits: dict[str, sources.Split]
    labels: tuple[str, ...]  # the labels that the task ranks; () if it ranks none
    origin: transfer.Origin | None  # the run that `init_from` names
    tokenizer: Tokenizer
    encoded: dict[str, encoding.Encoded]
    data: feed.TrainingData
    resumed: bool  # whether the run has a checkpoint of its own


class Learner(NamedTuple):
    """The model, the optimizer and the step."""

    schedule: Schedule
    rate: optax.Schedule
    answer: Answer
    optimizer: optax.GradientTransformation
    params: Any  # on the host: the initial parameters, used if the run has no checkpoint
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]  # the step on all devices; overwrites its state


class Setup(NamedTuple):
    """Everything that a run needs before its first step, and does not change until its last."""

    config: Config
    directory: epath.Path
    devices: Devices
    inputs: Inputs
    learner: Learner
    evaluator: Evaluator


def prepare(
    config: Config, directory: epath.Path, devices: Devices, profile: tuple[int, int] | None, debug: bool
) -> Setup:
    """Returns the setup for `lm.training.loop.train`. Writes nothing in `directory`.

    Raises:
        UserError: data, tokenizer, model and configuration do not fit each other, or the model does not fit in memory.
    """
    inputs = read_inputs(config, directory)
    learner = build(config, inputs, devices, profile, debug)
    evaluator = Evaluator(learner.answer, config, devices, inputs.encoded["validation"])
    return Setup(config, directory, devices, inputs, learner, evaluator)


def read_inputs(config: Config, directory: epath.Path) -> Inputs:
    """Returns data and tokenizer: the run's own tokenizer, else that of `init_from`, else one trained on the training
    data.
    """
    with hosts.first_then_others():
        splits = load_splits(config.data)
        labels = ANSWERS[answer_of(config)].labels_of(splits["train"].examples)
        resumed = checkpoints.any_in(directory / "checkpoints")
        origin = None if resumed else transfer.origin(config)
        if (directory / "tokenizer").exists():
            tokenizer = workdir.read_tokenizer(directory)
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


def build(config: Config, inputs: Inputs, devices: Devices, profile: tuple[int, int] | None, debug: bool) -> Learner:
    """Returns model, optimizer, step and initial parameters, after a check that they fit in memory.

    With `debug` a step does not overwrite its state, as JAX runs a step again if it computed a NaN.
    """
    training, vocab_size = config.training, inputs.tokenizer.vocab_size
    schedule = Schedule(config, inputs.data, profile)
    rate = optimizers.schedule(config.optimizer, schedule.warmup, schedule.steps)
    answer = answers.build(config, inputs.tokenizer, inputs.labels)
    if training.sampled_softmax >= vocab_size:
        reason = f"{training.sampled_softmax} of a vocabulary of {vocab_size} ids"
        raise UserError("config.training.sampled_softmax", reason, "give fewer, or 0 for all")
    shapes = jax.eval_shape(lambda: initial_params(answer.model, config.seed))
    optimizer = optimizers.optimizer(config.optimizer, rate, shapes, schedule.groups)
    memory.require(shapes, jax.eval_shape(functools.partial(initial_state, answer, optimizer, config), shapes), devices)
    step = make_train_step(summed_gradient(answer, config, devices), optimizer, config)
    update = devices.compile(step, TrainState, donate=not debug)
    return Learner(schedule, rate, answer, optimizer, first_params(config, inputs, answer, schedule), update)


def first_params(config: Config, inputs: Inputs, answer: Answer, schedule: Schedule) -> Any:
    """Returns the parameters that a run begins with, on the host."""
    params, loaded = jax.device_get(initial_params(answer.model, config.seed)), []
    # A run resumes from its own latest checkpoint. Without one it starts from the run that `init_from` names. Without
    # either it starts from scratch, which is its seed; word vectors take the place of an embedding that was not loaded.
    if inputs.resumed:
        return params  # `Saved.latest` has the checkpoint's
    if origin := inputs.origin:
        params, report = transfer.initialise(params, origin)
        loaded = report["loaded"]
        frozen = optimizers.split(schedule.groups, params)[1]
        report["new, and frozen as they are"] = sorted(set(report["new"]) & set(flatten_dict(frozen, sep="/")))
        console.transferred(origin.where, report)
    if vectors := config.training.word_vectors:
        if any(name.startswith(transfer.EMBEDDING) for name in loaded):
            reason, action = f"{origin.where} has an embedding already", "leave one out, or load others by init_params"
            raise UserError("config.training.word_vectors", reason, action)
        params, count = transfer.with_word_vectors(params, inputs.tokenizer, vectors)
        output.say(f"from {vectors}: vectors of {count:,} of {inputs.tokenizer.unused.start:,} pieces")
    return params
