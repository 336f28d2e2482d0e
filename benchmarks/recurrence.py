"""python -m benchmarks.recurrence [--peers=PYTHON] [--rounds=11] [--json=FILE]

Forward and backward of one recurrent layer: every cell of ours, beside the gradient that JAX takes of a plain scan over
the LSTM's step, and PyTorch's `nn.LSTM` and `nn.GRU`. Where there is an NVIDIA GPU, the shape of FlashRNN's chart
instead, and a longer one: an LSTM of one head, one of 12 by XLA's loop and as a kernel, linear cells, and cuDNN's
through PyTorch.
"""

import functools
import json
import shutil

from absl import flags

from benchmarks import contest

CASES = {
    "H 256 B 32 T 64": {"width": 256, "batch": 32, "time": 64},
    "H 512 B 32 T 64": {"width": 512, "batch": 32, "time": 64},
    "H 256 B 16 T 1,024": {"width": 256, "batch": 16, "time": 1024},
}
GPU_CASES = {
    f"H 768 B {batch} T {time:,} bfloat16": {"width": 768, "batch": batch, "time": time, "dtype": "bfloat16"}
    for batch, time in ((16, 1024), (256, 1024), (16, 16_384))
}
HEADS = {"mlstm": 4}  # of the others 1


def lm(case: dict, name: str = "lstm", plain: bool = False, heads: int = 0, driver: str = "auto"):
    import jax
    import jax.numpy as jnp
    from jax import lax

    from lm.layers.recurrent import RecurrentLayer
    from lm.recurrence import CELLS

    width, batch, time = case["width"], case["batch"], case["time"]
    cell, heads = CELLS[name], heads or HEADS.get(name, 1)
    layer = RecurrentLayer(cell, width, width, heads, case.get("dtype", "float32"), driver=driver)
    inputs = jax.random.normal(jax.random.key(0), (time, batch, width))
    given = cell.zero_state(batch, width, heads), jnp.ones((time, batch), bool), jnp.zeros((time, batch), bool)
    variables = layer.init(jax.random.key(1), inputs[:1], given[0], given[1][:1], given[2][:1], method="unroll")

    def unroll(variables, inputs):
        if not plain:
            return layer.apply(variables, inputs, *given, method="unroll")[0]
        step = functools.partial(layer.apply, variables, method="step")
        body = lambda state, x: (lambda after: (after, after.output_bh))(step(x, state))
        return lax.scan(body, given[0], inputs)[1]

    run = jax.jit(jax.grad(lambda variables, inputs: jnp.sum(jnp.sin(unroll(variables, inputs))), (0, 1)))
    return lambda: jax.block_until_ready(run(variables, inputs))


def torch(case: dict, kind: str = "LSTM"):
    import torch

    how = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": getattr(torch, case.get("dtype", "float32")),
    }
    layer = getattr(torch.nn, kind)(case["width"], case["width"], **how)
    inputs = torch.randn(case["time"], case["batch"], case["width"], requires_grad=True, **how)

    def call():
        layer.zero_grad()
        inputs.grad = None
        layer(inputs)[0].sin().sum().backward()
        if inputs.is_cuda:
            torch.cuda.synchronize()

    return call


def contestants() -> dict:
    """The LSTM first, for the others are set beside it."""
    from lm.recurrence import CELLS

    cells = {f"lm {name}": functools.partial(lm, name=name) for name in CELLS}
    return cells | {"lm autodiff lstm": functools.partial(lm, plain=True)}


def on_a_gpu() -> dict:
    def make(case: dict, **how):
        import jax

        assert jax.default_backend() == "gpu", "JAX sees no GPU"
        return lm(case, **how)

    kinds = {
        "lm lstm": {},
        "lm 12 heads, loop": {"heads": 12, "driver": "xla"},
        "lm 12 heads": {"heads": 12},
        "lm mingru": {"name": "mingru"},
        "lm rglru": {"name": "rglru"},
    }
    return {name: functools.partial(make, **how) for name, how in kinds.items()}


PEERS = {"torch LSTM": torch, "torch GRU": functools.partial(torch, kind="GRU")}


def main() -> None:
    values, gpu = flags.FLAGS, bool(shutil.which("nvidia-smi"))
    if values.as_contestant:
        known = PEERS if values.as_contestant in PEERS else on_a_gpu() if gpu else contestants()
        contest.serve(known[values.as_contestant](json.loads(values.case)))
        return
    names, cases = [*(on_a_gpu() if gpu else contestants()), *PEERS], GPU_CASES if gpu else CASES
    results = {name: contest.race("benchmarks.recurrence", names, case) for name, case in cases.items()}
    contest.write({"recurrence": contest.report("Forward and backward of one layer", results)})


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
