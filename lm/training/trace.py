"""A profile of some updates, for TensorBoard or Perfetto."""

from collections.abc import Callable

import jax
from etils import epath

from lm.batch import Batch
from lm.devices import memory
from lm.terminal import output
from lm.training.step import TrainState


class Trace:
    """Traces the updates from the first to the last of `steps` into `directory`; no update where `steps` is None."""

    def __init__(self, steps: tuple[int, int] | None, directory: epath.Path):
        self._first, self._last = steps or (0, 0)
        self._directory = directory
        self._running = False

    def begins(self, step: int) -> bool:
        """Returns whether the trace begins before update `step`: in a resumed run it may be one after the first."""
        return self._first <= step <= self._last and not self._running

    def ends(self, step: int) -> bool:
        """Returns whether the trace ends after update `step`."""
        return step == self._last and self._running

    def begin(self, step: int) -> None:
        """Begins the trace, if `begins(step)`."""
        if self.begins(step):
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def end(self, update: Callable, state: TrainState, batch: Batch) -> None:
        """Writes the trace, and says what a device holds of the state and what the compiled update takes beside it."""
        jax.profiler.stop_trace()
        self._running = False
        output.say(f"steps {self._first} to {self._last} are traced in {self._directory}")
        temporary = update.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        output.say("\n".join(memory.by_module(state, temporary)))
