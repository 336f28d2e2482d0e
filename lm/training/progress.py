"""Counters of a run: what the loop has seen, and what JAX has compiled."""

import functools
from typing import Any

import jax

from lm.training.step import Metrics


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
