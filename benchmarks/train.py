"""python -m benchmarks.train [--peers=PYTHON] [--rounds=11] [--json=FILE] [--parts]

Measures whole training steps of a 2-layer LSTM language model with Adam: ours, PyTorch (`nn.LSTM`, fused Adam), Keras 3
on TensorFlow and Flax (`nn.RNN(OptimizedLSTMCell)`), on the same shapes and ids, in turns. On a CPU, "by cores" is ours
with a simulated device per core. With --parts it also measures the parts of our step, and its matrix products alone.
"""

import functools
import json
import math
import os
import shutil

import numpy as np
from absl import flags

from benchmarks import contest

CASES = {
    "V 1,000 D=H 256 B 32 T 64": {"vocab": 1000, "width": 256, "batch": 32, "time": 64},
    "V 10,000 D=H 512 B 32 T 64": {"vocab": 10_000, "width": 512, "batch": 32, "time": 64},
    "V 256 D=H 512 B 64 T 128": {"vocab": 256, "width": 512, "batch": 64, "time": 128},
}
LAYERS, RATE = 2, 1e-3


def ids_of(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets), int32 [batch, time]."""
    ids = np.random.default_rng(0).integers(3, case["vocab"], (case["batch"], case["time"] + 1)).astype(np.int32)
    return ids[:, :-1].copy(), ids[:, 1:].copy()


# ---- ours -------------------------------------------------------------------------------------------------------


def setting(case: dict, cell: str = "lstm", dtype: str = "float32"):
    """(config, answer, optimizer, state, batch) of a language model."""
    import optax

    from lm.answers.text import Text
    from lm.batch import Batch
    from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig
    from lm.models import parameters
    from lm.models.encoder_decoder import EncoderDecoder
    from lm.training import optimizers
    from lm.training.step import initial_state

    config = Config(
        data=DataConfig(train="text:", task="lm", batch_size=case["batch"], window=case["time"]),
        model=ModelConfig(cell=cell, embed_dim=case["width"], hidden_dim=case["width"], layers=LAYERS, dtype=dtype),
        optimizer=OptimizerConfig(name="adam", learning_rate=RATE, clip_norm=0.0),
    )
    answer = Text(EncoderDecoder(config.model, case["vocab"]))
    params = parameters.initial_params(answer.model, 0)
    optimizer = optimizers.optimizer(config.optimizer, optax.constant_schedule(RATE), params)
    state = initial_state(answer, optimizer, config, params)
    inputs, targets = ids_of(case)
    batch = Batch(None, inputs, targets, np.ones(inputs.shape, np.float32), np.zeros(inputs.shape, bool))
    return config, answer, optimizer, state, batch


def lm(case: dict, cell: str = "lstm", devices: int = 1):
    import jax

    from lm.devices import mesh
    from lm.training.gradient import summed_gradient
    from lm.training.step import TrainState, make_train_step

    config, answer, optimizer, state, batch = setting(case, cell)
    devices = mesh.Devices(jax.local_devices()[:devices])
    step = devices.compile(make_train_step(summed_gradient(answer, config, devices), optimizer, config), TrainState)
    state, batch = devices.place(jax.device_get(state)), devices.put(batch)

    def call():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return call


def lm_by_cores(case: dict):
    """With a simulated device for each core, which `main` asks for."""
    import jax

    return lm(case, devices=math.gcd(len(jax.local_devices()), case["batch"]))


def part(name: str):
    """One part of our step alone, as a contestant."""

    def make(case: dict):
        import jax
        import jax.numpy as jnp
        import optax

        from lm.answers.cross_entropy import cross_entropy

        config, answer, optimizer, state, batch = setting(case)
        params, carry, width = state.params, state.carry, case["width"]
        apply = functools.partial(answer.model.apply, method="unroll")

        def features(params):
            return apply({"params": params}, batch.inputs_bt, carry)[0].values_btd

        given = features(params)
        kernel, bias = answer.model.apply({"params": params}, method="head")

        def head(kernel, bias, given):
            return cross_entropy(given, (kernel, bias), batch.targets_bt, batch.weights_bt)[0]

        def update(state_and_params, grads):
            updates, opt_state = optimizer.update(grads, *state_and_params)
            return opt_state, optax.apply_updates(state_and_params[1], updates)

        rows = jnp.ones((case["batch"] * case["time"], width))
        wide, large = jnp.ones((width, 4 * width)), jnp.ones((width, case["vocab"]))

        def products(rows, wide, large):  # of a step of training: 3 a kernel, once a layer for inputs and for state
            def three(kernel):
                out = rows @ kernel
                return jnp.sum(out) + jnp.sum(rows.T @ out) + jnp.sum(out @ kernel.T)

            return sum(three(wide + i) for i in range(2 * LAYERS)) + three(large)

        run, arguments = {
            "recurrence": (jax.grad(lambda p: jnp.sum(features(p) * given)), (params,)),
            "head": (jax.value_and_grad(head, (0, 1, 2)), (kernel, bias, given)),
            "optimizer": (update, ((state.opt_state, params), params)),
            "products": (products, (rows, wide, large)),
        }[name]
        # The optimizer writes where it read, as it does in training.
        run = jax.jit(run, donate_argnums=0 if name == "optimizer" else ())
        if name != "optimizer":
            return lambda: jax.block_until_ready(run(*arguments))
        own = jax.tree.map(jnp.array, arguments[0])

        def call():
            nonlocal own
            own = jax.block_until_ready(run(own, arguments[1]))

        return call

    return make


# ---- peers ------------------------------------------------------------------------------------------------------


def torch(case: dict):
    import torch
    from torch import nn

    torch.manual_seed(0)
    vocab, width = case["vocab"], case["width"]
    embedding, lstm, head = nn.Embedding(vocab, width), nn.LSTM(width, width, LAYERS), nn.Linear(width, vocab)
    params = [p for module in (embedding, lstm, head) for p in module.parameters()]
    optimizer = torch.optim.Adam(params, lr=RATE, fused=True)
    inputs, targets = (torch.from_numpy(each.T.astype(np.int64)).contiguous() for each in ids_of(case))
    state = None

    def call():
        nonlocal state
        optimizer.zero_grad()
        outputs, after = lstm(embedding(inputs), state)
        loss = nn.functional.cross_entropy(head(outputs).reshape(-1, vocab), targets.reshape(-1))
        loss.backward()
        optimizer.step()
        state = tuple(each.detach() for each in after)
        return loss.item()

    return call


def keras(case: dict):
    import keras

    vocab, width = case["vocab"], case["width"]
    layers = [keras.layers.Embedding(vocab, width)]
    layers += [keras.layers.LSTM(width, return_sequences=True) for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((case["time"],), dtype="int32"), *layers, keras.layers.Dense(vocab)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    inputs, targets = ids_of(case)
    return lambda: model.train_on_batch(inputs, targets)


def flax(case: dict):
    import jax
    import optax
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids):
            values = nn.Embed(case["vocab"], case["width"])(ids)
            for _ in range(LAYERS):
                values = nn.RNN(nn.OptimizedLSTMCell(case["width"]))(values)
            return nn.Dense(case["vocab"])(values)

    model, optimizer = Model(), optax.adam(RATE)
    inputs, targets = ids_of(case)
    params = model.init(jax.random.key(0), inputs)
    state = params, optimizer.init(params)

    def value(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, inputs), targets).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        loss, grads = jax.value_and_grad(value)(state[0])
        updates, opt_state = optimizer.update(grads, state[1])
        return loss, (optax.apply_updates(state[0], updates), opt_state)

    def call():
        nonlocal state
        loss, state = step(state)
        jax.block_until_ready(state)

    return call


WHOLE = {"lm": lm, "torch": torch, "keras": keras, "flax": flax}
if not shutil.which("nvidia-smi"):
    WHOLE["lm by cores"] = lm_by_cores
PARTS = {f"lm {name}": part(name) for name in ("recurrence", "head", "optimizer", "products")}


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        if values.as_contestant == "lm by cores":
            import jax

            jax.config.update("jax_num_cpu_devices", os.cpu_count())
        contest.serve((WHOLE | PARTS)[values.as_contestant](json.loads(values.case)))
        return
    contestants = [*WHOLE, *(PARTS if values.parts else ())]
    cases = {name: case for i, (name, case) in enumerate(CASES.items()) if not values.cases or str(i) in values.cases}
    results = {name: contest.race("benchmarks.train", contestants, case) for name, case in cases.items()}
    contest.write({"training step": contest.report("A step of training", results)})


if __name__ == "__main__":
    from lm.terminal.program import program

    flags.DEFINE_list("cases", [], "numbers of the cases to run, from 0; none: all")
    flags.DEFINE_bool("parts", False, "also where our time goes")
    program(main)
