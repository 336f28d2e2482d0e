"""The counters of a run on the host: losses, tokens, seconds and faults, and the programs that JAX has compiled."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

import jax

from lm.batch import Batch
from lm.training.step import Metrics


@dataclasses.dataclass
class Progress:
    """The counters of the loop. Every checkpoint stores them, as JSON with these names, so that a resumed run continues
    them.
    """

    loss_sum: float = 0.0  # since the last record of training metrics, as are `tokens`
    tokens: float = 0.0
    grad_norm: float = 0.0  # of the last step
    seconds: float = 0.0  # of training, with compilation, without evaluation and saving
    logged_seconds: float = 0.0  # `seconds` at the last record
    waited: float = 0.0  # the part of `seconds` that was spent waiting for data
    logged_waited: float = 0.0  # `waited` at the last record
    saving: float = 0.0  # seconds that training stood still for checkpoints
    skipped: int = 0  # steps left out because their loss or gradient was not finite
    rewinds: int = 0  # returns to a checkpoint because a number was not finite; each gives the data another order
    best_loss: float | None = None  # of the validation data, and its step
    best_step: int = 0

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Self:
        """Returns the progress in a checkpoint, which may be of a version with fewer or other counters."""
        progress = cls()
        vars(progress).update(saved)
        return progress

    def add(self, metrics: Metrics) -> None:
        self.loss_sum += float(metrics.loss_sum)
        self.tokens += float(metrics.tokens)
        self.grad_norm = float(metrics.grad_norm)

    def record(self, step: int, learning_rate: float) -> dict[str, Any]:
        """Returns the record of training metrics since the last one. At least one loss was finite since then."""
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

    def evaluated(self, step: int, loss: float) -> bool:
        """Records a loss on validation data; returns whether it is the lowest so far."""
        best = self.best_loss is None or loss < self.best_loss
        if best:
            self.best_loss, self.best_step = loss, step
        return best


class Clock:
    """Adds the seconds of training, and of waiting for data, to a `Progress`."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self.restart()

    def restart(self) -> None:
        """Ignores the time since the last lap."""
        self._since, self._waited = time.perf_counter(), 0.0

    def lap(self) -> None:
        """Counts the time since the last lap or restart."""
        self._progress.seconds += time.perf_counter() - self._since
        self._progress.waited += self._waited
        self.restart()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches, and counts how long each was waited for."""
        asked = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()


class Compilation:
    """Counts the programs that this process compiles."""

    def __init__(self):
        self.reset()
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def reset(self) -> None:
        self.programs, self.cached, self.seconds, self._reset = 0, 0, 0.0, time.perf_counter()

    def age(self) -> float:
        """Returns the seconds since the counters were set to zero."""
        return time.perf_counter() - self._reset

    def _duration(self, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs += 1
            self.seconds += seconds

    def _event(self, event: str, **_: Any) -> None:
        self.cached += event == "/jax/compilation_cache/cache_hits"

    def __str__(self) -> str:
        return f"{self.programs} programs compiled in {self.seconds:.1f} s, {self.cached} of them from the cache"


compilation = functools.cache(Compilation)  # JAX keeps the listeners as long as the process, so there is one of them
