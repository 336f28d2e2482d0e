"""Training: the state, one pure step, and the loop around it."""

import functools
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax.traverse_util import flatten_dict
from jax import lax

import lm
from lm import (
    checkpoints,
    console,
    evaluation,
    generation,
    hosts,
    losses,
    memory,
    models,
    optimizers,
    transfer,
    workdir,
)
from lm import config as configuration
from lm.config import Config, Group, in_steps
from lm.data import pipeline, tokenizers
from lm.data.batches import Batch
from lm.errors import Stopped, UserError
from lm.generation import generate
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.readers import Reader
from lm.options import Options
from lm.parallel import Devices, devices_for
from lm.tasks import TASKS, layout_of


class TrainState(NamedTuple):
    """All that a checkpoint keeps, and the seed. On the devices `carry` is cut by rows; see lm/parallel.py for the rest."""

    step: jax.Array  # int32, updates done
    params: Any
    opt_state: Any  # of the parameters that learn
    carry: Any  # the decoder's recurrent state after the last window (streams), leading axis batch; else ()
    averaged: Any = ()  # with `optimizer.ema_decay` the average of the parameters that learn; else ()
    seed: Any = ()  # uint32, of dropout and sampled softmax; else (). Here it is no part of the program, so that all seeds have one


def seed_of(config: Config) -> Any:
    """`TrainState.seed`, which no checkpoint keeps."""
    return np.uint32(config.seed) if config.model.dropout or config.training.sampled_softmax else ()


def weights(state: TrainState) -> Any:
    """The parameters that are evaluated, sampled from and started from: averaged where there are averages."""
    return optimizers.joined(state.averaged, state.params) if state.averaged else state.params


def parted(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """(`weights`, the rest) as a checkpoint has them, so that its parameters are those that others want."""
    rest = state._replace(params=state.params if state.averaged else (), averaged=())._asdict()
    del rest["seed"]
    return weights(state), rest


def whole(config: Config, groups: Sequence[Group], params: Any, rest: dict[str, Any]) -> TrainState:
    """The inverse of `parted`."""
    state = TrainState(**rest, seed=seed_of(config))
    if not state.params:
        return state._replace(params=params)
    return state._replace(averaged=optimizers.split(groups, params)[0])


class Metrics(NamedTuple):
    """Of one update, over all devices, float32."""

    loss_sum: jax.Array  # nats, label smoothing and all that is added to the loss included
    tokens: jax.Array  # real target tokens
    grad_norm: jax.Array  # global norm of the mean gradient of what is not frozen, before clipping


def initial_state(
    model: EncoderDecoder | Reader, optimizer: optax.GradientTransformation, config: Config, params: Any
) -> TrainState:
    """Before the first update, on one device; `carry` for the whole batch."""
    carry = ()
    if layout_of(config.data) == "streams":
        carry = zero_states(config.model, config.data.batch_size)
    learning, _ = optimizers.split(optimizers.groups_of(config), params)
    averaged = jax.tree.map(jnp.array, learning) if config.optimizer.ema_decay else ()
    return TrainState(jnp.int32(0), params, optimizer.init(learning), carry, averaged, seed_of(config))


def initial_params(model: EncoderDecoder | Reader, seed: int) -> Any:
    """A pure function of the seed."""
    return _initial_params(model, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds, which the compilation cache keeps
def _initial_params(model, seed):
    ids = jnp.ones((1, 1), jnp.int32)
    return model.init(jax.random.key(seed), ids, ids if model.has_encoder else None)["params"]


def make_train_step(
    model: EncoderDecoder | Reader, optimizer: optax.GradientTransformation, config: Config, devices: Devices
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One update, for `devices.compile`.

    The mean is over real target tokens of all devices and all of the `accumulate` parts, so that neither changes the
    update. A row's dropout depends on (seed, step, row of the global batch) and not on the device, the candidates of a
    sampled softmax on (seed, step).
    """
    training, parts = config.training, config.training.accumulate
    extra = (training.label_smoothing, training.z_loss, config.model.coverage)
    groups, decay = optimizers.groups_of(config), config.optimizer.ema_decay

    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(learning, frozen, *rest):
        return losses.teacher_forced(model, optimizers.joined(learning, frozen), *rest)

    def device_gradient(learning, replicated, carried, device):
        """(gradients, (nats, tokens), carry) of one device's rows: sums, not means."""
        (frozen, step, seed), (carry, batch) = replicated, carried
        rows = batch.inputs_bt.shape[0]
        keys_b = candidates = None
        step_key = None if isinstance(seed, tuple) else jax.random.fold_in(jax.random.key(seed), step)
        if config.model.dropout:
            row_b = device * rows + jnp.arange(rows)
            keys_b = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(row_b)
        if training.sampled_softmax:  # the same for all rows; the key is that of no row
            key = jax.random.fold_in(step_key, 2**32 - 1)
            candidates = losses.draw_candidates(key, model.vocab_size, training.sampled_softmax)

        def part_gradient(total, part):
            carry, part_batch, part_keys = part
            (loss, (count, carry)), grads = gradient(learning, frozen, carry, part_batch, part_keys, *extra, candidates)
            return jax.tree.map(jnp.add, total, (grads, (loss, count))), carry

        zeros = (jax.tree.map(jnp.zeros_like, learning), (jnp.float32(0), jnp.float32(0)))
        cut = lambda x: x.reshape(parts, rows // parts, *x.shape[1:])
        (grads, sums), carry = lax.scan(part_gradient, zeros, jax.tree.map(cut, (carry, batch, keys_b)))
        return grads, sums, jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), carry)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        summed = devices.summed(device_gradient)
        # What is frozen has no gradient, no moments and no part in any norm.
        learning, frozen = optimizers.split(groups, state.params)
        grads, (loss, count), carry = summed(learning, (frozen, state.step, state.seed), (state.carry, batch))
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, learning)
        learning, averaged = optax.apply_updates(learning, updates), state.averaged
        if decay:
            # Unbiased by its start (Kingma and Ba, 2015, section 3): at first a plain mean of the steps.
            share = (1 - decay) / -jnp.expm1((state.step + 1) * math.log(decay))
            averaged = jax.tree.map(lambda mean, new: mean + share * (new - mean), averaged, learning)
        after = TrainState(state.step + 1, optimizers.joined(learning, frozen), opt_state, carry, averaged, state.seed)
        metrics = Metrics(loss, count, optax.global_norm(grads))
        if config.training.not_finite == "skip":
            good = jnp.isfinite(metrics.loss_sum) & jnp.isfinite(metrics.grad_norm)
            kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
            after = kept._replace(step=after.step)  # the data goes on
        return after, metrics

    return train_step


# ---- the run ----------------------------------------------------------------------------------------------------


class Progress:
    """What the loop counts on the host; saved with every checkpoint, so a resumed run goes on counting."""

    def __init__(self):
        self.loss_sum = 0.0  # since the last line of training metrics
        self.tokens = 0.0
        self.grad_norm = 0.0  # of the last update
        self.seconds = 0.0  # of training, compilation included, evaluation and saving not
        self.logged_seconds = 0.0
        self.waited = 0.0  # seconds of them, for data
        self.logged_waited = 0.0
        self.saving = 0.0  # seconds that training stood still for checkpoints
        self.skipped = 0  # updates whose loss or gradient was not finite
        self.rewinds = 0  # returns to a checkpoint for the same reason; each gives the data another order
        self.best_loss: float | None = None
        self.best_step = 0

    def add(self, metrics: Metrics) -> None:
        self.loss_sum += float(metrics.loss_sum)
        self.tokens += float(metrics.tokens)
        self.grad_norm = float(metrics.grad_norm)

    def line(self, step: int, learning_rate: float) -> dict[str, Any]:
        """The record of training metrics since the last one; there was a finite loss."""
        record = {
            "step": step,
            "split": "train",
            "seconds": round(self.seconds, 3),
            "loss": self.loss_sum / self.tokens,
            "tokens_per_second": round(self.tokens / (self.seconds - self.logged_seconds), 1),
            "waiting_for_data": round((self.waited - self.logged_waited) / (self.seconds - self.logged_seconds), 4),
            "learning_rate": learning_rate,
            "grad_norm": self.grad_norm,
        }
        record |= {name: count for name, count in (("skipped", self.skipped), ("rewinds", self.rewinds)) if count}
        self.loss_sum = self.tokens = 0.0
        self.logged_seconds, self.logged_waited = self.seconds, self.waited
        return record


class _Rewind(Exception):
    """Something is not finite: on from the last good checkpoint, with another data order."""


def train(config: Config, directory: epath.Path, profile: tuple[int, int] | None = None, debug: bool = False) -> None:
    """Trains in `directory`, from the start or from its latest checkpoint, until `config.training.steps`.

    Args:
        config: validated; the same on every host.
        directory: the run's, the same on every host.
        profile: first and last step of a trace for TensorBoard or Perfetto.
        debug: stop where the first NaN is made; slower.

    Raises `UserError` for what the user can mend, `Stopped` after a signal, when a checkpoint has been saved.
    """
    begun = time.perf_counter()
    compilation().reset()
    # Nothing is written before all that the user can have got wrong is known to be right.
    hosts.require_same({"configuration": configuration.to_json(config), "version of lm": lm.__version__})
    workdir.check(directory, config)
    training = config.training
    devices = devices_for(config.data.batch_size, training.accumulate, training.parallel, training.shards)
    inputs = read_inputs(config, directory)
    learner = build(config, inputs, devices, profile)
    fingerprints = {name: split.fingerprint for name, split in inputs.splits.items()}
    with workdir.begun(directory, config, inputs.tokenizer, fingerprints):
        if config.data.cleaning and hosts.is_first():
            report = json.dumps(inputs.splits["train"].report.as_dict(), indent=1, ensure_ascii=False)
            workdir.write_whole(directory / "cleaning.json", report + "\n")
        if inputs.labels and hosts.is_first():
            workdir.write_whole(directory / "labels.json", json.dumps(inputs.labels, ensure_ascii=False) + "\n")
        loop = _Loop(config, directory, inputs, learner, devices, begun, profile, debug)
        params = loop.run()
        closing(directory, loop.evaluator, params)
        console.waited(loop.progress.waited, loop.progress.seconds)
        console.saving(loop.progress.saving, loop.progress.seconds)


class Inputs(NamedTuple):
    """What a run reads."""

    splits: dict[str, pipeline.Split]
    labels: tuple[str, ...]  # that are ranked, or none
    origin: transfer.Origin | None  # what `init_from` names
    tokenizer: tokenizers.Tokenizer
    encoded: dict[str, pipeline.Encoded]
    data: pipeline.TrainingData
    resumed: bool  # there are checkpoints


def read_inputs(config: Config, directory: epath.Path) -> Inputs:
    """Data and tokenizer: the run's own, else that of `init_from`, else one made of the training data."""
    with hosts.first_then_others():
        splits = pipeline.load_splits(config.data)
        labels = evaluation.labels_of(splits["train"].examples) if TASKS[config.data.task].ranks else ()
        resumed = checkpoints.any_in(directory / "checkpoints")
        origin = None if resumed else transfer.origin(config)
        if (directory / "tokenizer").exists():
            tokenizer = tokenizers.load_tokenizer(directory / "tokenizer")
        else:
            tokenizer = origin.tokenizer if origin else pipeline.make_tokenizer(config.data, splits["train"])
        encoded = {
            name: pipeline.encode(split, tokenizer, config.data, config.seed, training=name == "train")
            for name, split in splits.items()
        }
    fingerprints = {f"{name} data": split.fingerprint for name, split in splits.items()}
    hosts.require_same(fingerprints | {"tokenizer": tokenizer.fingerprint})
    for name in splits.keys() - {"train"} if labels else ():
        evaluation.check_labels(splits[name], labels)
    data = pipeline.training_data(encoded["train"], config.data, config.seed)
    return Inputs(splits, labels, origin, tokenizer, encoded, data, resumed)


class Learner(NamedTuple):
    """What learns, and how."""

    schedule: "Schedule"
    rate: optax.Schedule
    model: Any
    optimizer: optax.GradientTransformation
    params: Any  # on the host: what the run begins with, from the seed and from `init_from`


def build(config: Config, inputs: Inputs, devices: Devices, profile: tuple[int, int] | None) -> Learner:
    training, tokenizer = config.training, inputs.tokenizer
    schedule = Schedule(config, inputs.data, profile)
    rate = optimizers.schedule(config.optimizer, schedule.warmup, schedule.steps)
    model = models.build(config, tokenizer.vocab_size, generation.label_ids(tokenizer, inputs.labels))
    if training.sampled_softmax >= tokenizer.vocab_size:
        what = f"{training.sampled_softmax} of a vocabulary of {tokenizer.vocab_size} ids"
        raise UserError("config.training.sampled_softmax", what, "give fewer, or 0 for all")
    shapes = jax.eval_shape(lambda: initial_params(model, config.seed))
    optimizer = optimizers.optimizer(config.optimizer, rate, shapes, schedule.groups)
    fresh = functools.partial(initial_state, model, optimizer, config)
    memory.require(shapes, jax.eval_shape(fresh, shapes), devices)
    params = jax.device_get(initial_params(model, config.seed))
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
        console.say(f"from {training.word_vectors}: vectors of {count:,} of {tokenizer.unused.start:,} pieces")
    return Learner(schedule, rate, model, optimizer, params)


class _Loop:
    """The updates of a run, from its latest checkpoint to its last step."""

    def __init__(
        self,
        config: Config,
        directory: epath.Path,
        inputs: Inputs,
        learner: Learner,
        devices: Devices,
        begun: float,
        profile: tuple[int, int] | None,
        debug: bool,
    ):
        self.config, self.training, self.directory, self.inputs = config, config.training, directory, inputs
        self.learner, self.schedule, self.devices = learner, learner.schedule, devices
        self.begun, self.profile, self.debug, self.tracing = begun, profile, debug, False
        self.most = config.training.not_finite_most
        self.saved = checkpoints.Checkpoints(directory / "checkpoints", self.training.keep_checkpoints)
        self.progress, self.divergence = Progress(), Divergence()
        encoded, labels = inputs.encoded["validation"], inputs.labels
        self.evaluator = evaluation.Evaluator(learner.model, inputs.tokenizer, config, devices, encoded, labels)
        step_fn = make_train_step(learner.model, learner.optimizer, config, devices)
        self.compiled_step = devices.compile(step_fn, TrainState, donate=not debug)

    def run(self) -> Any:
        """Returns the parameters that the run is worth."""
        config, inputs, devices, steps = self.config, self.inputs, self.devices, self.schedule.steps
        state = self.latest()
        start = int(state.step)
        given = inputs.encoded, inputs.tokenizer, inputs.data, steps, self.schedule.groups, start
        console.header(config, self.directory, devices, state.params, *given)
        jax.config.update("jax_debug_nans", self.debug)
        state = devices.place(state)
        if start < steps:
            console.say("compiling; then the first evaluation, as a rehearsal\n")
            self.evaluator.rehearse(devices.replicated(weights(state)))
        self.bar, self.stop, self.vote = console.Bar(start, steps), StopSignal(), hosts.Vote(devices)
        try:
            state = self.lives(state)
        finally:
            self.bar.close()
            self.stop.restore()
        return devices.first(devices.replicated(weights(state)))

    def latest(self) -> TrainState:
        """The last good state on the host, `progress` as it was then."""
        learner = self.learner
        fresh = functools.partial(initial_state, learner.model, learner.optimizer, self.config)
        found = self.saved.restore_latest(*parted(jax.eval_shape(fresh, learner.params)), console.say)
        self.progress = Progress()
        if found is None:
            return jax.device_get(fresh(learner.params))
        params, rest, progress = found
        vars(self.progress).update(progress)
        return whole(self.config, self.schedule.groups, params, rest)

    def lives(self, state: TrainState) -> TrainState:
        """All updates, the ones after a rewind too; returns the state after the last one."""
        while True:
            start = int(self.devices.first(state.step))
            log = (workdir.MetricsLog if hosts.is_first() else workdir.NoLog)(self.directory, start)
            try:
                state = self.life(state, start, log)
                self.saved.close()
                return state
            except _Rewind as bad:
                rewinds = self.progress.rewinds + 1
                state = self.latest()
                self.progress.rewinds = rewinds
                counted = f"rewind {rewinds} of at most {self.most}"
                console.say(f"{bad}: back to step {int(state.step):,} with another data order, {counted}")
                state = self.devices.place(state)
            finally:
                log.close()

    def life(self, state: TrainState, start: int, log: workdir.MetricsLog | workdir.NoLog) -> TrainState:
        """All updates from `state`, of step `start`, on; returns the state after the last one."""
        devices, schedule = self.devices, self.schedule
        begin, end = self.profile or (0, 0)
        self.first_step, self.log, self.pending = start + 1, log, None
        self.clock, self.waiting, self.last_saved = time.perf_counter(), 0.0, time.monotonic()
        order = self.inputs.data
        if rewinds := self.progress.rewinds:
            order = pipeline.training_data(self.inputs.encoded["train"], self.config.data, self.config.seed + rewinds)
        made = order.iterate(start, schedule.steps, devices.put, jax.process_index(), jax.process_count())
        for step in range(start + 1, schedule.steps + 1):
            if begin <= step <= end and not self.tracing:
                self.drain()
                jax.profiler.start_trace(str(self.directory / "profile"))
                self.tracing = True
            asked = time.perf_counter()
            batch = next(made)
            self.waiting += time.perf_counter() - asked
            state, metrics = self.compiled_step(state, batch)
            self.drain()
            self.pending = step, metrics
            number, overdue = self.vote(self.stop.number, int(self.overdue()))
            evaluates, saves = schedule.evaluates(step), schedule.saves(step) or overdue
            profiled = self.tracing and step == end
            if not (evaluates or saves or number or profiled):
                continue
            self.drain()
            if profiled:
                self.say_profile(state, batch)
            if evaluates:
                saves |= self.evaluate(step, state)
            if saves or number:
                self.save(step, state)
            if number:
                self.saved.wait()
                message = f"stopped at step {step} of {schedule.steps}; the same command goes on from there"
                raise Stopped(number, message)
            memory.give_back()
            self.clock, self.waiting = time.perf_counter(), 0.0
        return state

    def drain(self) -> None:
        """Fetches the metrics of the step before, while the next one runs."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        progress, training = self.progress, self.training
        metrics = self.devices.first(metrics)
        progress.seconds += time.perf_counter() - self.clock
        progress.waited += self.waiting
        self.clock, self.waiting = time.perf_counter(), 0.0
        if step == self.first_step:
            since = time.perf_counter() - self.begun
            console.say(f"{compilation()}; first step {since:.1f} s after the start\n")
        if np.isfinite(metrics.loss_sum) and np.isfinite(metrics.grad_norm):
            progress.add(metrics)
            loss = float(metrics.loss_sum / metrics.tokens)
            self.bar.update(step, loss, float(metrics.tokens), progress.seconds)
            if said := self.divergence.seen(loss):
                console.say(f"step {step:,}: {said}")
        elif training.not_finite == "skip" and progress.skipped < self.most:
            progress.skipped += 1
            counted = f"{progress.skipped} of at most {self.most}"
            console.say(f"step {step:,}: the loss or its gradient is not finite: update skipped, {counted}")
        else:
            self.not_finite(step, "the loss or its gradient")
        if progress.tokens and (step % self.schedule.log_every == 0 or step == self.schedule.steps):
            record = progress.line(step, float(self.learner.rate(step - 1)))
            self.log.write(record)
            self.bar.line(record)

    def overdue(self) -> bool:
        minutes = self.training.checkpoint_minutes
        return bool(minutes) and time.monotonic() - self.last_saved > 60 * minutes

    def say_profile(self, state: TrainState, batch: Batch) -> None:
        jax.profiler.stop_trace()
        self.tracing = False
        console.say(f"steps {self.profile[0]} to {self.profile[1]} are traced in {self.directory / 'profile'}")
        temporary = self.compiled_step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        console.say("\n".join(memory.by_module(state, temporary)))

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Writes the record of step `step`; returns whether that is the best so far."""
        progress = self.progress
        record = {"step": step, "split": "validation", "seconds": round(progress.seconds, 3)}
        record |= self.evaluator.evaluate(self.devices.replicated(weights(state)), self.training.eval_examples)
        if not np.isfinite(record["loss"]):
            self.not_finite(step, "the loss on validation data")
        self.log.write(record)
        self.bar.line(record)
        best = progress.best_loss is None or record["loss"] < progress.best_loss
        if best:
            progress.best_loss, progress.best_step = record["loss"], step
        return best

    def save(self, step: int, state: TrainState) -> None:
        paused = time.perf_counter()
        if not all_finite(state.params):
            self.not_finite(step, "a parameter")
        workdir.require_there(self.directory)
        self.saved.save(step, *parted(self.devices.saved(state)), vars(self.progress))
        self.progress.saving += time.perf_counter() - paused
        self.last_saved = time.monotonic()

    def not_finite(self, step: int, which: str) -> NoReturn:
        """Ends the run, or goes back."""
        progress, training = self.progress, self.training
        self.saved.wait()  # what is being written is a good one
        if training.not_finite == "rewind" and progress.rewinds < self.most:
            raise _Rewind(f"step {step}: {which} is not finite")
        kept = self.saved.steps()
        left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        done = {
            "stop": "",
            "skip": f", {progress.skipped} updates skipped",
            "rewind": f", {progress.rewinds} rewinds",
        }
        what = f"{which} is not finite ({left}{done[training.not_finite]})"
        raise UserError(f"step {step}", what, "lower config.optimizer.learning_rate, or set clip_norm")


def closing(directory: epath.Path, evaluator: evaluation.Evaluator, params: Any) -> None:
    """A few samples, the best evaluation, and what to type next."""
    first = evaluator.encoded.split.examples[0]
    if first.source is not None:
        console.samples(*evaluator.shown(params, 4))
    elif not evaluator.model.has_encoder:
        how = Options(num_samples=2, max_new_tokens=200, temperature=0.8)
        console.samples([first] * 2, generate(evaluator.model, params, evaluator.tokenizer, [""], how)[0])
    console.best(workdir.read_metrics(directory))
    console.commands(directory, first.target[:20].split("\n")[0] if first.source is None else first.source)


class Schedule:
    """The durations of the configuration in whole updates."""

    def __init__(self, config: Config, data: pipeline.TrainingData, profile: tuple[int, int] | None = None):
        def steps(duration, where):
            return in_steps(duration, data.steps_per_epoch, data.tokens_per_epoch, where)

        training = config.training
        self.steps = steps(training.steps, "config.training.steps")
        if self.steps >= 2**31:  # a state counts them in 32 bits
            raise UserError("config.training.steps", f"{self.steps} updates are too many", f"give less than {2**31}")
        self.warmup = steps(config.optimizer.warmup, "config.optimizer.warmup")
        self.log_every = steps(training.log_every, "config.training.log_every")
        self.eval_every = steps(training.eval_every, "config.training.eval_every")
        self.checkpoint_every = steps(training.checkpoint_every, "config.training.checkpoint_every")
        where = "config.optimizer.groups"
        self.groups = tuple(g._replace(begin=steps(g.begin, where)) for g in optimizers.groups_of(config))
        for group in self.groups:
            if group.begin >= self.steps:
                what = f"{group.pattern!r} begins to learn after step {group.begin}, and training ends at {self.steps}"
                raise UserError(where, what, "let it begin earlier, or freeze it with factor 0")
        if profile and profile[1] > self.steps:
            what = f"step {profile[1]} is after the end of training, step {self.steps}"
            raise UserError("--profile", what, "give steps that are trained")

    def evaluates(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.steps


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def all_finite(tree: Any) -> bool:
    """Of arrays on the devices, whichever way they are placed."""
    return bool(_all_finite(tree).addressable_data(0))


class Divergence:
    """Sees a loss that rises and stays up: each of the last steps against the lowest mean of as many so far.

    Their own mean would not do: a batch of short texts may have a fraction of the loss of one of long texts. Where it has, a
    loss that doubles goes unseen; one that does not come down is seen.
    """

    STEPS, FACTOR = 20, 1.5

    def __init__(self):
        self._recent: list[float] = []
        self._lowest = math.inf
        self._said = False

    def seen(self, loss: float) -> str:
        """What to say after a step with this loss (nats a token), once for each rise; else empty."""
        self._recent = [*self._recent[1 - self.STEPS :], loss]
        if len(self._recent) < self.STEPS:
            return ""
        least, mean = min(self._recent), sum(self._recent) / self.STEPS
        self._lowest = min(self._lowest, mean)
        limit = self.FACTOR * self._lowest + 0.1
        if least <= limit or self._said:
            self._said = self._said and mean > limit
            return ""
        self._said = True
        return (
            f"the loss of the last {self.STEPS} steps is at least {least:.3f}, and was {self._lowest:.3f}: training diverges; "
            "a lower learning rate, more warm-up or clip_norm may help"
        )


class Compilation:
    """Counts what this process compiles."""

    def __init__(self):
        self.reset()
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def reset(self) -> None:
        self.programs, self.cached, self.seconds = 0, 0, 0.0

    def _duration(self, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs += 1
            self.seconds += seconds

    def _event(self, event: str, **_: Any) -> None:
        self.cached += event == "/jax/compilation_cache/cache_hits"

    def __str__(self) -> str:
        return f"{self.programs} programs compiled in {self.seconds:.1f} s, {self.cached} of them from the cache"


compilation = functools.cache(Compilation)  # listeners stay as long as the process


class StopSignal:
    """Remembers SIGTERM or SIGINT, so that the loop can save first; a second signal ends the process at once."""

    def __init__(self):
        self.number = 0
        self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGTERM, signal.SIGINT)}

    def _receive(self, number, frame):
        self.number = number
        self.restore()

    def restore(self) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)
