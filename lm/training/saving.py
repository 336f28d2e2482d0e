"""The checkpoints that training writes and resumes from."""

import functools
import time

import jax

from lm.devices import hosts
from lm.errors import UserError
from lm.runs import checkpoints, manifest, writing
from lm.terminal import output
from lm.training.prepare import Setup
from lm.training.progress import Progress
from lm.training.step import TrainState, initial_state, parted, whole
from lm.training.watch import Fault, all_finite


class Saved:
    """The checkpoints of a run. Each holds a state with finite parameters, and the progress at its step."""

    def __init__(self, setup: Setup):
        self._setup, training = setup, setup.config.training
        self._checkpoints = checkpoints.of_run(setup.directory, training.keep_checkpoints)
        self.restart()

    def latest(self) -> tuple[TrainState, Progress]:
        """Returns the state of the latest checkpoint, on the host, and its progress; without a checkpoint, the initial
        ones.
        """
        config, learner = self._setup.config, self._setup.learner
        start = functools.partial(initial_state, learner.answer, learner.optimizer, config)
        shapes = jax.eval_shape(start, learner.params)
        found = self._checkpoints.restore_latest(*parted(shapes), output.say)
        if found is None:
            return jax.device_get(start(learner.params)), Progress()
        params, rest, progress = *found[:2], Progress.of(found[2])
        return whole(config, learner.schedule.groups, params, rest, progress.skipped), progress

    def save(self, step: int, state: TrainState, progress: Progress) -> Fault | None:
        """Starts to write a checkpoint. If a parameter is not finite, it writes nothing and returns a fault."""
        paused = time.perf_counter()
        if not all_finite(state.params):
            return Fault(step, "a parameter")
        writing.require_there(self._setup.directory)
        self.wait()
        self._checkpoints.save(step, *parted(self._setup.devices.saved(state)), vars(progress))
        progress.saving += time.perf_counter() - paused
        self.restart()
        return None

    def end(self, error: Exception, step: int, state: TrainState, progress: Progress) -> None:
        """Saves the state after `step` and raises `error`; several hosts save together or not at all."""
        self.wait()
        if step in self.steps() or not step or jax.process_count() > 1 or self.save(step, state, progress):
            raise error
        self.wait()
        if isinstance(error, UserError):
            raise UserError(
                error.where, f"{error.reason}; training is saved after step {step:,}", error.action
            ) from error
        raise error

    def restart(self) -> None:
        """Makes `overdue` count from now."""
        self._since = time.monotonic()

    def overdue(self) -> bool:
        """Returns whether the last checkpoint is more than `training.checkpoint_minutes` old."""
        minutes = self._setup.config.training.checkpoint_minutes
        return bool(minutes) and time.monotonic() - self._since > 60 * minutes

    def steps(self) -> list[int]:
        return self._checkpoints.steps()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk."""
        self._checkpoints.wait()
        if self.steps() and hosts.is_first():
            manifest.note_saved(self._setup.directory)

    def close(self) -> None:
        self.wait()
        self._checkpoints.close()
