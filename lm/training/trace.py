"""A profile of some steps, for TensorBoard or Perfetto."""

from collections.abc import Callable

import jax
from etils import epath

from lm.batch import Batch
from lm.devices import memory
from lm.terminal import output
from lm.training.step import TrainState


class Trace:
    """Traces the steps from the first to the last of `steps` into `directory`; none if `steps` is None."""

    def __init__(self, steps: tuple[int, int] | None, directory: epath.Path):
        self._first, self._last = steps or (0, 0)
        self._directory = directory
        self._running = False

    def begins(self, step: int) -> bool:
        """Returns whether the trace starts before `step`. In a resumed run that may be a step after the first one."""
        return self._first <= step <= self._last and not self._running

    def ends(self, step: int) -> bool:
        """Returns whether the trace ends after `step`."""
        return step == self._last and self._running

    def begin(self, step: int) -> None:
        """Starts the trace, if `begins(step)`."""
        if self.begins(step):
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def end(self, update: Callable, state: TrainState, batch: Batch) -> None:
        """Writes the trace, and prints the memory of the state and of the compiled step on a device."""
        jax.profiler.stop_trace()
        self._running = False
        output.say(f"steps {self._first} to {self._last} are traced in {self._directory}")
        temporary = update.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        output.say("\n".join(memory.by_module(state, temporary)))
