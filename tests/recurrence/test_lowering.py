"""A step of training lowers for a TPU and for a GPU, on a machine that has neither."""

import re

import jax
import numpy as np
import optax
import pytest
from support.sizes import sized

from lm.answers.text import Text
from lm.batch import Batch, Source
from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from lm.devices.mesh import AXIS, Devices
from lm.models import parameters
from lm.models.encoder_decoder import EncoderDecoder
from lm.recurrence import Execution
from lm.recurrence.gated.drivers import has_kernel
from lm.training import optimizers
from lm.training.gradient import summed_gradient
from lm.training.step import initial_state, make_train_step

ROWS, TIME, VOCAB = 16, 8, 12


def step_and_arguments(cell: str, attention: str = "dot", width: int = 8, **how):
    """A step of training of an encoder-decoder on packed rows, in bfloat16, and the shapes that it takes."""
    config = Config(
        data=DataConfig(train="text:", task="seq2seq", batch_size=ROWS),
        model=ModelConfig(
            cell=cell, embed_dim=width, hidden_dim=width, layers=1, attention=attention, dtype="bfloat16", **how
        ),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(),
    )
    answer = Text(EncoderDecoder(config.model, VOCAB, "text"))
    params = jax.eval_shape(lambda: parameters.initial_params(answer.model, 0))
    optimizer = optimizers.optimizer(config.optimizer, optax.constant_schedule(1e-3), params)
    state = jax.eval_shape(lambda: initial_state(answer, optimizer, config, parameters.initial_params(answer.model, 0)))
    ids, flags = np.ones((ROWS, TIME), np.int32), np.zeros((ROWS, TIME), bool)
    batch = Batch(
        Source(ids, ids > 0), ids, ids, np.ones((ROWS, TIME), np.float32), flags, np.full((ROWS, 2), TIME, np.int32)
    )
    step = make_train_step(summed_gradient(answer, config, Devices(jax.local_devices()[:1])), optimizer, config)
    add_axis = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), tree)
    return jax.vmap(step, axis_name=AXIS), (add_axis(state), add_axis(batch))


@pytest.mark.parametrize("cell", sized(["lstm", "gru", "rglru", "mlstm"], lambda cell: cell in ("lstm", "rglru")))
def test_a_step_of_training_lowers_for_tpu_and_cuda(cell):
    step, arguments = step_and_arguments(cell)
    for platform in ("tpu", "cuda"):
        exported = jax.export.export(jax.jit(step), platforms=[platform])(*arguments)
        assert exported.platforms == (platform,)
        assert "bf16" in exported.mlir_module()


@pytest.mark.parametrize("cell", ["lstm", "rglru"])
def test_the_products_of_recurrence_and_head_are_bfloat16_and_accumulate_in_float32(cell):
    step, arguments = step_and_arguments(cell, attention="none")
    text = jax.export.export(jax.jit(step), platforms=["tpu"])(*arguments).mlir_module()
    types = re.findall(r"stablehlo.dot_general .* : (\(.*\)) -> (\S+)", text)
    halves = [result for operands, result in types if "bf16" in operands]
    assert len(halves) > len(types) / 2 and not any("bf16" in result for result in halves)


KERNELS = {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton"}


@pytest.mark.parametrize(  # a block apart, and means over units
    "cell, heads", sized([("gru", 2), ("layernorm", 1)], lambda cell, heads: cell == "gru")
)
def test_on_an_accelerator_a_gated_layer_is_a_kernel_forward_and_backward(cell, heads):
    step, arguments = step_and_arguments(cell, width=64 * heads, heads=heads, driver="pallas")
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in KERNELS.values()]
    for platform in ("tpu", "cuda", "cpu"):
        exported = jax.export.export(jax.jit(step), platforms=[platform], disabled_checks=checks)(*arguments)
        counts = {name: exported.mlir_module().count(f"@{kernel}") for name, kernel in KERNELS.items()}
        # Two directions of the encoder and the decoder, each both ways.
        assert counts == {name: 6 * (name == platform) for name in KERNELS}
    run = Execution(heads, "bfloat16", driver="pallas")  # what the header says of it
    assert [has_kernel(run, 64, ROWS, name) for name in ("tpu", "gpu", "cpu")] == [True, True, False]
