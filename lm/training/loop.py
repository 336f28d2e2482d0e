"""Trains a run from its start, or from its latest checkpoint, to its last step."""

import functools
import json
import time
from typing import Any, NoReturn

import jax
import numpy as np
from etils import epath

import lm
from lm import config as configuration
from lm.batch import Batch
from lm.config import Config
from lm.data import feed
from lm.devices import hosts, memory
from lm.devices.mesh import Devices, devices_for
from lm.errors import Stopped, UserError
from lm.evaluation import evaluator
from lm.evaluation.evaluator import Evaluator
from lm.runs import checkpoints, log, workdir, writing
from lm.runs.log import MetricsLog, NoLog
from lm.search.options import Options
from lm.terminal import output
from lm.training import console
from lm.training.prepare import Inputs, Learner, build, read_inputs
from lm.training.progress import Progress, compilation
from lm.training.step import TrainState, initial_state, make_train_step, parted, weights, whole
from lm.training.watch import Divergence, StopSignal, all_finite


class Rewind(Exception):
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
            writing.write_whole(directory / "cleaning.json", report + "\n")
        if inputs.labels and hosts.is_first():
            writing.write_whole(directory / "labels.json", json.dumps(inputs.labels, ensure_ascii=False) + "\n")
        loop = _Loop(config, directory, inputs, learner, devices, begun, profile, debug)
        params = loop.run()
        closing(directory, loop.evaluator, params)
        console.waited(loop.progress.waited, loop.progress.seconds)
        console.saving(loop.progress.saving, loop.progress.seconds)


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
        self.evaluator = evaluator.Evaluator(learner.answer, config, devices, inputs.encoded["validation"])
        step_fn = make_train_step(learner.answer, learner.optimizer, config, devices)
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
            output.say("compiling; then the first evaluation, as a rehearsal\n")
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
        fresh = functools.partial(initial_state, learner.answer, learner.optimizer, self.config)
        found = self.saved.restore_latest(*parted(jax.eval_shape(fresh, learner.params)), output.say)
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
            log = (MetricsLog if hosts.is_first() else NoLog)(self.directory, start)
            try:
                state = self.life(state, start, log)
                self.saved.close()
                return state
            except Rewind as bad:
                rewinds = self.progress.rewinds + 1
                state = self.latest()
                self.progress.rewinds = rewinds
                counted = f"rewind {rewinds} of at most {self.most}"
                output.say(f"{bad}: back to step {int(state.step):,} with another data order, {counted}")
                state = self.devices.place(state)
            finally:
                log.close()

    def life(self, state: TrainState, start: int, log: MetricsLog | NoLog) -> TrainState:
        """All updates from `state`, of step `start`, on; returns the state after the last one."""
        devices, schedule = self.devices, self.schedule
        begin, end = self.profile or (0, 0)
        self.first_step, self.log, self.pending = start + 1, log, None
        self.clock, self.waiting, self.last_saved = time.perf_counter(), 0.0, time.monotonic()
        order = self.inputs.data
        if rewinds := self.progress.rewinds:
            order = feed.training_data(self.inputs.encoded["train"], self.config.data, self.config.seed + rewinds)
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
            output.say(f"{compilation()}; first step {since:.1f} s after the start\n")
        if np.isfinite(metrics.loss_sum) and np.isfinite(metrics.grad_norm):
            progress.add(metrics)
            loss = float(metrics.loss_sum / metrics.tokens)
            self.bar.update(step, loss, float(metrics.tokens), progress.seconds)
            if said := self.divergence.seen(loss):
                output.say(f"step {step:,}: {said}")
        elif training.not_finite == "skip" and progress.skipped < self.most:
            progress.skipped += 1
            counted = f"{progress.skipped} of at most {self.most}"
            output.say(f"step {step:,}: the loss or its gradient is not finite: update skipped, {counted}")
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
        output.say(f"steps {self.profile[0]} to {self.profile[1]} are traced in {self.directory / 'profile'}")
        temporary = self.compiled_step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        output.say("\n".join(memory.by_module(state, temporary)))

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
        writing.require_there(self.directory)
        self.saved.save(step, *parted(self.devices.saved(state)), vars(self.progress))
        self.progress.saving += time.perf_counter() - paused
        self.last_saved = time.monotonic()

    def not_finite(self, step: int, which: str) -> NoReturn:
        """Ends the run, or goes back."""
        progress, training = self.progress, self.training
        self.saved.wait()  # what is being written is a good one
        if training.not_finite == "rewind" and progress.rewinds < self.most:
            raise Rewind(f"step {step}: {which} is not finite")
        kept = self.saved.steps()
        left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        done = {
            "stop": "",
            "skip": f", {progress.skipped} updates skipped",
            "rewind": f", {progress.rewinds} rewinds",
        }
        what = f"{which} is not finite ({left}{done[training.not_finite]})"
        raise UserError(f"step {step}", what, "lower config.optimizer.learning_rate, or set clip_norm")


def closing(directory: epath.Path, evaluator: Evaluator, params: Any) -> None:
    """A few samples, the best evaluation, and what to type next."""
    first = evaluator.encoded.split.examples[0]
    if first.source is not None:
        console.samples(*evaluator.shown(params, 4))
    elif not evaluator.answer.model.has_encoder:
        how = Options(num_samples=2, max_new_tokens=200, temperature=0.8)
        console.samples([first] * 2, evaluator.answer.answer(params, [""], how)[0])
    console.best(log.read_metrics(directory))
    console.commands(directory, first.target[:20].split("\n")[0] if first.source is None else first.source)
