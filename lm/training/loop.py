"""The loop that trains a run from its start, or from its latest checkpoint, to its last step."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

import lm
from lm import config as configuration
from lm.batch import Batch
from lm.config import Config
from lm.data import feed
from lm.devices import hosts, memory
from lm.devices.mesh import devices_for
from lm.errors import Stopped, UserError
from lm.evaluation.evaluator import Evaluator
from lm.runs import checkpoints, curve, log, manifest, moved, parts, workdir, writing
from lm.runs.log import MetricsLog, NoLog
from lm.search.options import Options
from lm.terminal import output
from lm.training import console
from lm.training.prepare import Setup, prepare
from lm.training.progress import Clock, Progress, compilation
from lm.training.saving import Saved
from lm.training.schedule import Schedule
from lm.training.step import Metrics, TrainState, weights
from lm.training.trace import Trace
from lm.training.watch import Divergence, Fault, StopSignal


def train(config: Config, directory: epath.Path, profile: tuple[int, int] | None = None, debug: bool = False) -> None:
    """Trains in `directory`, from the start or from its latest checkpoint, until `config.training.steps`.

    Args:
        config: validated; the same on every host.
        directory: the run's directory, the same on every host.
        profile: first and last step of a trace for TensorBoard or Perfetto.
        debug: stop at the operation that makes the first NaN; slower.

    Raises:
        UserError: something is wrong that the user can put right.
        Stopped: a signal came; a checkpoint has been saved.
    """
    compilation().reset()
    # Nothing is written before everything that the user can have got wrong has been checked.
    hosts.require_same({"configuration": configuration.to_json(config), "version of lm": lm.__version__})
    known = workdir.check(directory, config)
    parts.check(directory)
    training = config.training
    devices = devices_for(config.data.batch_size, training.accumulate, training.parallel, training.shards)
    setup = prepare(config, directory, devices, profile, debug)
    with workdir.held(directory):
        # Another process may have trained there during the preparation, so everything is checked again.
        now = workdir.check(directory, config)
        if any(hosts.all_say("" if now == known else "changed")):
            setup = prepare(config, directory, devices, profile, debug)
        _begin(setup)
        params, progress = _train_with_rewinds(setup, profile, debug)
        closing(directory, setup.evaluator, params)
        console.waited(progress.waited, progress.seconds)
        console.saving(progress.saving, progress.seconds)
        if output.lost:
            _note(directory, "output", output.lost)


def _draw(directory: epath.Path) -> None:
    """Writes the learning curve; the run is done and saved, so a failure is reported and no more."""
    if hosts.is_first():
        try:
            path = curve.write(directory)
        except OSError as error:
            output.say(f"curve.png could not be written ({error.strerror or error})")
        else:
            output.say(f"Learning curve: {path}\n") if path else None


def _note(directory: epath.Path, name: str, value: Any) -> None:
    """Writes something into the record of this start."""
    if hosts.is_first():
        manifest.note(directory, name, value)


def _begin(setup: Setup) -> None:
    """Writes the files that a run has from its start on, and prints findings about the data and missing parts."""
    config, directory, _, inputs, *_ = setup
    moved.check(directory, config, inputs.splits["train"], inputs.tokenizer)
    if hosts.is_first():
        said, steps = parts.check(directory), checkpoints.of_run(directory).steps()
        data = {name: split.fingerprint for name, split in inputs.splits.items()}
        start = inputs.tokenizer, inputs.labels, data, max(steps, default=0)
        said += workdir.write_start(directory, config, *start)
        if config.data.cleaning:
            report = json.dumps(inputs.splits["train"].report.as_dict(), indent=1, ensure_ascii=False)
            writing.write_whole(directory / "cleaning.json", report + "\n")
        for line in said:
            output.say(line)
    if began_with := {} if inputs.resumed else moved.fingerprints(config, inputs.origin):
        _note(directory, "began_with", began_with)
    hosts.meet()


class Watch(NamedTuple):
    """The objects that the loop consults beside the schedule. They outlast a rewind."""

    stop: StopSignal
    vote: hosts.Vote
    divergence: Divergence
    trace: Trace


def _train_with_rewinds(setup: Setup, profile: tuple[int, int] | None, debug: bool) -> tuple[Any, Progress]:
    """Returns the parameters to sample from, and the progress after the last step."""
    config, directory, devices, inputs, learner, evaluator = setup
    saved = Saved(setup)
    state, progress = saved.latest()
    start, steps = int(state.step), learner.schedule.steps
    given = inputs.encoded, inputs.tokenizer, inputs.data, steps, learner.schedule.groups, start
    console.header(config, directory, devices, state.params, *given)
    if said := manifest.other_machine(directory) if start else "":
        output.say(f"bits may differ from those of the start before: {said}\n")
    if said := learner.schedule.beyond_the_end():
        output.say(f"{said}\n")
    if profile and profile[1] <= start:
        output.say(f"--profile: no step after {start:,}, where this run goes on, is traced\n")
    jax.config.update("jax_debug_nans", debug)
    state = devices.place(state)
    if start < steps:
        output.say("compiling; then the first evaluation, as a rehearsal\n")
        evaluator.rehearse(devices.replicated(weights(state)))
    with StopSignal() as stop:
        watch = Watch(stop, hosts.Vote(devices), Divergence(), Trace(profile, directory / "profile"))
        while isinstance(after := _attempt(setup, saved, watch, state, progress), Fault):
            state, progress = _rewound(after, setup, saved, progress)
        saved.close()
        if number := max(map(int, hosts.all_say(str(stop.number)))):  # too late to stop before the end
            raise Stopped(number, f"stopped after the last step, {steps}; all is saved", together=True)
    return devices.first(devices.replicated(weights(after))), progress


def _attempt(setup: Setup, saved: Saved, watch: Watch, state: TrainState, progress: Progress) -> TrainState | Fault:
    """Trains from `state`; returns the state after the last step, or the fault that ends this attempt."""
    config, directory, devices, _, learner, evaluator = setup
    schedule, start = learner.schedule, int(devices.first(state.step))
    batches, unknown = _batches(setup, progress.rewinds), _unknown_share(setup)
    logs = (MetricsLog if hosts.is_first() else NoLog)(directory, start)
    with contextlib.closing(logs), contextlib.closing(console.Bar(start, schedule.steps)) as bar:

        def write(record: dict[str, Any]) -> None:
            record |= unknown if record["split"] == "train" else {}
            logs.write(record)
            bar.line(record)
            if output.lost:
                _note(directory, "output", output.lost)

        watch.trace.begin(start + 1)
        saved.restart()
        clock, failed = Clock(progress), []
        timed = clock.timed(_until_error(batches(start, schedule.steps), failed))
        due_after = functools.partial(_due_after, schedule, saved, watch)
        done = updates(learner.update, state, timed, start + 1, due_after, devices.first)
        for step, state, metrics, due in done:
            clock.lap()
            # Log.
            if step == start + 1:
                output.say(f"{compilation()}; first step {compilation().age():.1f} s after the start\n")
            if fault := _count(config, watch.divergence, bar, step, metrics, progress):
                return fault
            if schedule.logs(step) and progress.tokens:
                write(progress.record(step, float(learner.rate(step - 1))))
            if due is None:
                continue
            if watch.trace.ends(step):
                watch.trace.end(learner.update, state, next(batches(step - 1, step)))
            # Evaluate.
            best = False
            if due.evaluate:
                record = {"step": step, "split": "validation", "seconds": round(progress.seconds, 3)}
                record |= evaluator.evaluate(devices.replicated(weights(state)), config.training.eval_examples)
                if record["loss"] is None:  # it is not finite
                    return Fault(step, "the loss on validation data")
                write(record)
                best = progress.evaluated(step, record["loss"])
            # Save.
            if (due.save or best or due.stop) and (fault := saved.save(step, state, progress)):
                return fault
            # Stop.
            if due.stop:
                saved.wait()
                message = f"stopped at step {step} of {schedule.steps}; the same command resumes from there"
                raise Stopped(due.stop, message, together=True)
            watch.trace.begin(step + 1)
            memory.give_back()
            clock.restart()
        if failed:
            saved.end(failed[0], int(devices.first(state.step)), state, progress)
    return state


def _until_error(batches: Iterable[Batch], failed: list[Exception]) -> Iterator[Batch]:
    """Yields the batches; an error of the data ends them and is added to `failed`, so that the state can be saved
    first.
    """
    try:
        yield from batches
    except Exception as error:
        failed.append(error)


class Due(NamedTuple):
    """The actions that follow a step, the same on every host."""

    evaluate: bool
    save: bool
    stop: int  # the number of the signal that a host received, else 0
    trace: bool  # the trace ends here, or starts with the next step


def _due_after(schedule: Schedule, saved: Saved, watch: Watch, step: int) -> Due | None:
    """Returns the actions that are due after `step`, or None for most steps."""
    stop, overdue = watch.vote(watch.stop.number, int(saved.overdue()))
    trace = watch.trace.ends(step) or watch.trace.begins(step + 1)
    due = Due(schedule.evaluates(step), schedule.saves(step) or bool(overdue), stop, trace)
    return due if any(due) else None


def updates(
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterable[Batch],
    first: int,
    due_after: Callable[[int], Due | None],
    fetch: Callable[[Metrics], Metrics],
) -> Iterator[tuple[int, TrainState | None, Metrics, Due | None]]:
    """Yields (step, state, metrics, due actions) for each batch, most of them one step late.

    The metrics of a step are fetched after the next step was dispatched, so that the devices do not wait for the host.
    By then the next step has overwritten the state, which is yielded as None. After a step with due actions, the next
    step waits until they are done, and the state is yielded.
    """
    late = None
    for step, batch in enumerate(batches, start=first):
        state, metrics = update(state, batch)
        if late is not None:
            yield step - 1, None, fetch(late), None
        late, due = metrics, due_after(step)
        if due is not None:
            yield step, state, fetch(metrics), due
            late = None
    if late is not None:
        yield step, state, fetch(late), None


def _batches(setup: Setup, rewinds: int) -> Callable[[int, int], Iterator[Batch]]:
    """Returns the function (start, stop) -> batches `start` to `stop` in the data order after this number of
    rewinds.
    """
    config, _, devices, inputs, *_ = setup
    order = inputs.data
    if rewinds:
        order = feed.training_data(inputs.encoded["train"], config.data, config.seed + rewinds)
    place = {"host": jax.process_index(), "hosts": jax.process_count()}
    return functools.partial(order.iterate, put=devices.put, say=output.say, **place)


def _unknown_share(setup: Setup) -> dict[str, float]:
    """Returns the share of unknown tokens in the training targets, for records of the training loss; empty if there are
    none.
    """
    encoded = setup.inputs.encoded["train"]
    share = 0 if setup.learner.answer.tells_apart else encoded.lost.tokens / encoded.tokens
    return {"unknown_share": share} if share else {}


def _count(
    config: Config, divergence: Divergence, bar: console.Bar, step: int, metrics: Metrics, progress: Progress
) -> Fault | None:
    """Adds a step to `progress`, or counts it as skipped; returns a fault if neither is possible."""
    mode, most = config.training.not_finite, config.training.not_finite_most
    if np.isfinite(metrics.loss_sum) and np.isfinite(metrics.grad_norm):
        progress.add(metrics)
        loss = float(metrics.loss_sum / metrics.tokens)
        bar.update(step, loss, float(metrics.tokens), progress.seconds)
        if said := divergence.seen(loss):
            output.say(f"step {step:,}: {said}")
        return None
    fault = Fault(step, "the loss or its gradient")
    if mode != "skip" or progress.skipped >= most:
        return fault
    progress.skipped += 1
    output.say(f"step {step:,}: {fault}: update skipped, {progress.skipped} of at most {most}")
    return None


def _rewound(fault: Fault, setup: Setup, saved: Saved, progress: Progress) -> tuple[TrainState, Progress]:
    """Returns the last good state with its progress; raises `UserError` if the run ends instead."""
    mode, most = setup.config.training.not_finite, setup.config.training.not_finite_most
    saved.wait()  # a checkpoint that is still being written is a good one
    if mode != "rewind" or progress.rewinds >= most:
        kept = saved.steps()
        left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        done = {
            "stop": "",
            "skip": f", {progress.skipped} updates skipped",
            "rewind": f", {progress.rewinds} rewinds",
        }
        reason = f"{fault} ({left}{done[mode]})"
        raise UserError(f"step {fault.step}", reason, "lower config.optimizer.learning_rate, or set clip_norm")
    rewinds = progress.rewinds + 1
    state, progress = saved.latest()
    progress.rewinds = rewinds
    back = f"back to step {int(state.step):,} with another data order, rewind {rewinds} of at most {most}"
    output.say(f"step {fault.step}: {fault}: {back}")
    return setup.devices.place(state), progress


def closing(directory: epath.Path, evaluator: Evaluator, params: Any) -> None:
    """Prints a few samples, the best evaluation, and the commands to run next."""
    first = evaluator.encoded.split.examples[0]
    if first.source is not None:
        console.samples(*evaluator.shown(params, 4))
    elif not evaluator.answer.model.has_encoder:
        how = Options(num_samples=2, max_new_tokens=200, temperature=0.8)
        console.samples([first] * 2, evaluator.answer.answer(params, [""], how)[0])
    console.best(log.read_metrics(directory))
    _draw(directory)
    console.commands(directory, console.beginning(first.target) if first.source is None else first.source)
