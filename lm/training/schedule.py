"""The steps at which a run logs, evaluates, saves and ends."""

from lm.config import Config, in_steps
from lm.data import feed
from lm.errors import UserError
from lm.training import optimizers


class Schedule:
    """The durations of the configuration as whole steps."""

    def __init__(self, config: Config, data: feed.TrainingData, profile: tuple[int, int] | None = None):
        def steps(duration, where):
            return in_steps(duration, data.steps_per_epoch, data.tokens_per_epoch, where)

        training = config.training
        self.steps = steps(training.steps, "config.training.steps")
        if self.steps >= 2**31:  # `TrainState.step` has 32 bits
            raise UserError("config.training.steps", f"{self.steps} updates are too many", f"give less than {2**31}")
        self.warmup = steps(config.optimizer.warmup, "config.optimizer.warmup")
        self.log_every = steps(training.log_every, "config.training.log_every")
        self.eval_every = steps(training.eval_every, "config.training.eval_every")
        self.checkpoint_every = steps(training.checkpoint_every, "config.training.checkpoint_every")
        where = "config.optimizer.groups"
        self.groups = tuple(g._replace(begin=steps(g.begin, where)) for g in optimizers.groups_of(config))
        for group in self.groups:
            if group.begin >= self.steps:
                reason = (
                    f"{group.pattern!r} begins to learn after step {group.begin}, and training ends at {self.steps}"
                )
                raise UserError(where, reason, "let it begin earlier, or freeze it with factor 0")
        if profile and profile[1] > self.steps:
            reason = f"step {profile[1]} is after the end of training, step {self.steps}"
            raise UserError("--profile", reason, "give steps that are trained")

    def beyond_the_end(self) -> str:
        """Returns one line about durations of the configuration that exceed the run, with their effect; empty if there
        are none.
        """
        later = [name for name in ("log_every", "eval_every", "checkpoint_every") if getattr(self, name) > self.steps]
        said = [f"{name} ({getattr(self, name):,} steps: once, at the end)" for name in later]
        if self.warmup > self.steps:
            reached = self.steps / self.warmup
            said.insert(0, f"warmup ({self.warmup:,} steps: the learning rate ends at {reached:.1%} of its peak)")
        return f"beyond the end, step {self.steps:,}: {'; '.join(said)}" if said else ""

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.steps

    def evaluates(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.steps
