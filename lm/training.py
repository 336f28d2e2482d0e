"""Training: the state, one pure step, and the loop around it."""

import functools
import json
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax import lax

from lm import checkpoints, console, evaluation, losses, optimizers, transfer, workdir
from lm.config import Config, in_steps
from lm.data import pipeline, tokenizers
from lm.data.batches import Batch
from lm.errors import Stopped, UserError
from lm.generation import Options, generate
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.parallel import AXIS, Devices, devices_for
from lm.tasks import TASKS, layout_of


class TrainState(NamedTuple):
    """All that a checkpoint keeps. On the devices `carry` is cut by rows and the rest replicated."""

    step: jax.Array  # int32, updates done
    params: Any
    opt_state: Any
    carry: Any  # the decoder's recurrent state after the last window (streams), leading axis batch; else ()


class Metrics(NamedTuple):
    """Of one update, over all devices, float32."""

    loss_sum: jax.Array  # nats, label smoothing included
    tokens: jax.Array  # real target tokens
    grad_norm: jax.Array  # global norm of the mean gradient, before clipping


def initial_state(
    model: EncoderDecoder, optimizer: optax.GradientTransformation, config: Config, params: Any
) -> TrainState:
    """Before the first update, on one device; `carry` for the whole batch."""
    carry = ()
    if layout_of(config.data) == "streams":
        carry = zero_states(config.model, config.data.batch_size)
    return TrainState(jnp.int32(0), params, optimizer.init(params), carry)


def initial_params(model: EncoderDecoder, seed: int) -> Any:
    """A pure function of the seed."""
    return _initial_params(model, np.uint32(seed))


@functools.partial(jax.jit, static_argnums=0)  # one program for all seeds, which the compilation cache keeps
def _initial_params(model, seed):
    ids = jnp.ones((1, 1), jnp.int32)
    return model.init(jax.random.key(seed), ids, ids if model.has_encoder else None)["params"]


def make_train_step(
    model: EncoderDecoder, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One update on one device's part of the batch; collectives over the axis `AXIS`.

    The mean is over real target tokens of all devices and all of the `accumulate` parts, so that neither changes the
    update. A row's dropout depends on (seed, step, row of the global batch) and not on the device.
    """
    parts, smoothing = config.training.accumulate, config.training.label_smoothing
    gradient = jax.value_and_grad(losses.teacher_forced, argnums=1, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rows = batch.inputs_bt.shape[0]
        keys_b = None
        if config.model.dropout:
            step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
            row_b = lax.axis_index(AXIS) * rows + jnp.arange(rows)
            keys_b = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(row_b)

        def part_gradient(total, part):
            carry, part_batch, part_keys = part
            (loss, (count, carry)), grads = gradient(model, state.params, carry, part_batch, part_keys, smoothing)
            return jax.tree.map(jnp.add, total, (grads, loss, count)), carry

        zeros = (jax.tree.map(jnp.zeros_like, state.params), jnp.float32(0), jnp.float32(0))
        cut = lambda x: x.reshape(parts, rows // parts, *x.shape[1:])
        total, carry = lax.scan(part_gradient, zeros, jax.tree.map(cut, (state.carry, batch, keys_b)))
        carry = jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), carry)
        grads, loss, count = lax.psum(total, AXIS)
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, count, optax.global_norm(grads))
        return TrainState(state.step + 1, params, opt_state, carry), metrics

    return train_step


# ---- the run ----------------------------------------------------------------------------------------------------


class Progress:
    """What the loop counts on the host; saved with every checkpoint, so a resumed run goes on counting."""

    def __init__(self):
        self.loss_sum = 0.0  # since the last line of training metrics
        self.tokens = 0.0
        self.seconds = 0.0  # of training, compilation included, evaluation and saving not
        self.logged_seconds = 0.0
        self.waited = 0.0  # seconds of them, for data
        self.logged_waited = 0.0
        self.best_loss: float | None = None
        self.best_step = 0

    def add(self, metrics: Metrics, seconds: float, waited: float) -> None:
        self.loss_sum += float(metrics.loss_sum)
        self.tokens += float(metrics.tokens)
        self.seconds += seconds
        self.waited += waited

    def line(self, step: int, learning_rate: float, grad_norm: float) -> dict[str, Any]:
        """The record of training metrics since the last one."""
        record = {
            "step": step,
            "split": "train",
            "seconds": round(self.seconds, 3),
            "loss": self.loss_sum / self.tokens,
            "tokens_per_second": round(self.tokens / (self.seconds - self.logged_seconds), 1),
            "waiting_for_data": round((self.waited - self.logged_waited) / (self.seconds - self.logged_seconds), 4),
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
        }
        self.loss_sum = self.tokens = 0.0
        self.logged_seconds, self.logged_waited = self.seconds, self.waited
        return record


def train(config: Config, directory: epath.Path) -> None:
    """Trains in `directory`, from the start or from its latest checkpoint, until `config.training.steps`.

    Raises `UserError` for what the user can mend, `Stopped` after a signal, when a checkpoint has been saved.
    """
    # Data and tokenizer. Nothing is written before all that the user can have got wrong is known to be right.
    workdir.check(directory, config)
    devices = devices_for(config.data.batch_size, config.training.accumulate, config.training.parallel)
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
    data = pipeline.training_data(encoded["train"], config.data, config.seed)

    # Model, optimizer and state: the run's own last checkpoint, else `init_from`, else from the seed.
    schedule = Schedule(config, data)
    rate = optimizers.schedule(config.optimizer, schedule.warmup, schedule.steps)
    model = EncoderDecoder(config.model, tokenizer.vocab_size, TASKS[config.data.task].has_source)
    params = initial_params(model, config.seed)
    if origin:
        params, report = transfer.initialise(params, origin)
        console.transferred(origin.where, report)
    optimizer = optimizers.optimizer(config.optimizer, rate, params)
    state = jax.device_get(initial_state(model, optimizer, config, params))
    with workdir.begun(directory, config, tokenizer, {name: split.fingerprint for name, split in splits.items()}):
        if config.data.cleaning:
            report = json.dumps(splits["train"].report.as_dict(), indent=1, ensure_ascii=False)
            workdir.write_whole(directory / "cleaning.json", report + "\n")
        if labels:
            workdir.write_whole(directory / "labels.json", json.dumps(labels, ensure_ascii=False) + "\n")
        saved = checkpoints.Checkpoints(directory / "checkpoints", config.training.keep_checkpoints)
        progress = Progress()
        if saved.steps():
            params, rest, counts = saved.restore(saved.steps()[-1], state.params, state._replace(params=()))
            state = rest._replace(params=params)
            vars(progress).update(counts)
        start = int(state.step)

        console.header(config, directory, devices, state.params, encoded, tokenizer, data, schedule.steps, start)
        evaluator = evaluation.Evaluator(model, tokenizer, config, devices, encoded["validation"], labels)
        step_fn = devices.map(make_train_step(model, optimizer, config), donate=(0,))
        state = place(state, devices)
        if start < schedule.steps:
            console.say("compiling; then the first evaluation, as a rehearsal\n")
            evaluator.rehearse(state.params)
        log = workdir.MetricsLog(directory, start)
        bar = console.Bar(start, schedule.steps)
        stop = StopSignal()
        pending: tuple[int, Metrics] | None = None
        clock, waited = time.perf_counter(), 0.0

        def require_finite(step: int, *values: Any) -> None:
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values)):
                return
            saved.wait()  # what is being written is a good one
            kept = saved.steps()
            left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
            what = f"the loss, its gradient or a parameter is not finite ({left})"
            raise UserError(f"step {step}", what, "lower config.optimizer.learning_rate, or set clip_norm")

        def drain() -> None:
            """Fetches the metrics of the step before, while the next one runs."""
            nonlocal pending, clock, waited
            if pending is None:
                return
            (step, metrics), pending = pending, None
            metrics = Devices.first(metrics)
            require_finite(step, metrics.loss_sum, metrics.grad_norm)
            progress.add(metrics, time.perf_counter() - clock, waited)
            clock, waited = time.perf_counter(), 0.0
            bar.update(step, float(metrics.loss_sum / metrics.tokens), float(metrics.tokens), progress.seconds)
            if step % schedule.log_every == 0 or step == schedule.steps:
                record = progress.line(step, float(rate(step - 1)), float(metrics.grad_norm))
                log.write(record)
                bar.line(record)

        try:
            host, hosts = jax.process_index(), jax.process_count()
            made = data.iterate(start, schedule.steps, devices.cut, host, hosts)
            for step in range(start + 1, schedule.steps + 1):
                asked = time.perf_counter()
                batch = next(made)
                waited += time.perf_counter() - asked
                state, metrics = step_fn(state, batch)
                drain()
                pending = (step, metrics)
                evaluates, saves = schedule.evaluates(step), schedule.saves(step)
                if not (evaluates or saves or stop.number):
                    continue
                drain()
                if evaluates:
                    record = {"step": step, "split": "validation", "seconds": round(progress.seconds, 3)}
                    record |= evaluator.evaluate(state.params, config.training.eval_examples)
                    require_finite(step, record["loss"])
                    log.write(record)
                    bar.line(record)
                    if progress.best_loss is None or record["loss"] < progress.best_loss:
                        progress.best_loss, progress.best_step, saves = record["loss"], step, True
                signal_number = stop.number
                if saves or signal_number:
                    params, rest = fetch(state)
                    require_finite(step, params)
                    saved.save(step, params, rest, vars(progress))
                if signal_number:
                    saved.wait()
                    message = f"stopped at step {step} of {schedule.steps}; the same command goes on from there"
                    raise Stopped(signal_number, message)
                clock, waited = time.perf_counter(), 0.0
            saved.close()
        finally:
            bar.close()
            log.close()
            stop.restore()
        closing(directory, evaluator, Devices.first(state.params))
        console.waited(progress.waited, progress.seconds)


def closing(directory: epath.Path, evaluator: evaluation.Evaluator, params: Any) -> None:
    """A few samples, the best evaluation, and what to type next."""
    first = evaluator.encoded.split.examples[0]
    if first.source is not None:
        console.samples(evaluator, evaluator.generate(params, 4, Options(temperature=0)))
    elif not evaluator.model.has_encoder:
        how = Options(num_samples=2, max_new_tokens=200, temperature=0.8)
        console.samples(evaluator, generate(evaluator.model, params, evaluator.tokenizer, [""], how)[0])
    console.best(workdir.read_metrics(directory))
    console.commands(directory, first.target[:20].split("\n")[0] if first.source is None else first.source)


class Schedule:
    """The durations of the configuration in whole updates."""

    def __init__(self, config: Config, data: pipeline.TrainingData):
        def steps(duration, where):
            return in_steps(duration, data.steps_per_epoch, data.tokens_per_epoch, where)

        training = config.training
        self.steps = steps(training.steps, "config.training.steps")
        self.warmup = steps(config.optimizer.warmup, "config.optimizer.warmup")
        self.log_every = steps(training.log_every, "config.training.log_every")
        self.eval_every = steps(training.eval_every, "config.training.eval_every")
        self.checkpoint_every = steps(training.checkpoint_every, "config.training.checkpoint_every")

    def evaluates(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.steps


def place(state: TrainState, devices: Devices) -> TrainState:
    """A host state on the devices."""
    whole = devices.replicate(state._replace(carry=()))
    return whole._replace(carry=devices.cut(state.carry))


def fetch(state: TrainState) -> tuple[Any, TrainState]:
    """(parameters, the rest) as host arrays of their own: the devices' memory is used again by the next step."""
    own = lambda tree: jax.tree.map(lambda x: np.array(x), tree)
    whole = own(Devices.first(state._replace(carry=())))
    return whole.params, whole._replace(params=(), carry=own(Devices.join(state.carry)))


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
