"""The parts of training that tests take one by one, and what its runs leave behind."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import optax

from lm import answers
from lm.answers import ANSWERS
from lm.batch import Batch
from lm.config import Config
from lm.config.tasks import answer_of
from lm.data import encoding, feed
from lm.data.splits import load_splits
from lm.devices.mesh import Devices, Fsdp
from lm.models import names
from lm.models.parameters import initial_params
from lm.runs.run import load
from lm.training import optimizers, schedule
from lm.training.gradient import summed_gradient
from lm.training.step import Gradient, Metrics, TrainState, initial_state, make_train_step

LAYOUTS = ("streams", "buckets")
SPECS = {"streams": "lm", "buckets": "seq2seq"}
FROZEN = {"optimizer.learning_rate": 0.0, "training.steps": 1}


class Setup:
    """What `train` makes of a configuration before its loop."""

    def __init__(self, config: Config):
        self.config = config
        splits = load_splits(config.data)
        self.tokenizer = encoding.make_tokenizer(config.data, splits["train"])
        self.encoded = {
            name: encoding.encode(split, self.tokenizer, config.data, config.seed) for name, split in splits.items()
        }
        self.data = feed.training_data(self.encoded["train"], config.data, config.seed)
        labels = ANSWERS[answer_of(config)].labels_of(splits["train"].examples)
        self.answer = answers.build(config, self.tokenizer, labels)
        self.model = self.answer.model
        self.params = initial_params(self.model, config.seed)

    def optimizer(self) -> optax.GradientTransformation:
        rate = optimizers.schedule(self.config.optimizer, warmup=5, steps=100)
        groups = schedule.Schedule(self.config, self.data).groups
        return optimizers.optimizer(self.config.optimizer, rate, self.params, groups)

    def compiled(self, devices: Devices, gradient: Gradient | None = None) -> Callable:
        gradient = gradient or summed_gradient(self.answer, self.config, devices)
        return devices.compile(make_train_step(gradient, self.optimizer(), self.config), TrainState)

    def updates(
        self, devices: Devices, given: list[Batch], gradient: Gradient | None = None
    ) -> tuple[list[Metrics], TrainState]:
        """The metrics of an update by each batch, and the state after them; `gradient` None is that of every run."""
        step_fn = self.compiled(devices, gradient)
        state = initial_state(self.answer, self.optimizer(), self.config, self.params)
        state, found = devices.place(jax.device_get(state)), []
        for batch in given:
            state, metrics = step_fn(state, devices.put(batch))
            found.append(devices.first(metrics))
        return found, state

    def first_losses(self, count: int, steps: int) -> np.ndarray:
        """Nats per token of the first updates."""
        metrics, _ = self.updates(Devices(jax.devices()[:count]), [self.data.batches[i] for i in range(steps)])
        return np.array([one.loss_sum / one.tokens for one in metrics])


def steps_of(directory: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


def parameters(directory: pathlib.Path, which: str = "latest") -> dict[str, np.ndarray]:
    params = load(str(directory), which).params
    return {names.name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def devices_of(mode: str, count: int, shards: int = 0) -> Devices:
    chosen = jax.devices()[:count]
    return Devices(chosen) if mode == "pmap" else Fsdp(chosen, shards)
