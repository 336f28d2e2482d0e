"""A scan as one Pallas kernel, which keeps the carry and the recurrent matrix on chip from step to step.

XLA's loop reads the matrix from memory anew at every step, and on a GPU launches several kernels for each. On a TPU the grid is
time: what belongs to a step is copied in and out while the step before is computed, and the rest stays in VMEM. On a GPU
(Triton) time is a loop inside, after FlashRNN (Pöppel et al., 2024, arXiv:2412.07752); on an H100 gradients of all gated cells
were those of the scan within 1e-6, in a third of its time. No TPU has run it: that it computes what the scan does is tested by
Pallas' interpreter, that it compiles by lowering alone, so it is off by default there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


class Blocks(tuple):
    """Arrays [u, b] that are one array [blocks, u, b] outside: a kernel for Triton cannot cut an array that it holds."""


def scan(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    constants: Any,
    carry: Any,
    xs: Any,
    reverse: bool = False,
    platform: str = "tpu",
    interpret: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan(partial(body, constants), carry, xs, reverse=reverse)`; `body` sees no other array.

    To it constants, the carry and a step's leaves have two axes, or are `Blocks` where they have three; what it returns too.
    Constants, the carry and, on a TPU, two steps' leaves must fit on the chip together; on a GPU all axes must be powers of 2.
    """
    # Here, so that programs without kernels need no part of JAX that may still change.
    from jax.experimental import pallas as pl

    time = len(jax.tree.leaves(xs)[0])
    step = jax.eval_shape(
        lambda *given: _stacked(body(*_as_blocks(given))[1]), constants, carry, jax.tree.map(lambda x: x[0], xs)
    )
    given, given_def = jax.tree.flatten((constants, carry))
    carry_def = jax.tree.structure(carry)
    xs, xs_def = jax.tree.flatten(xs)
    step, step_def = jax.tree.flatten(step)

    def refs_of(refs):
        """(what is given, what belongs to steps, the carry, what each step gives)."""
        ends = [0, len(given), len(given) + len(xs), len(given) + len(xs) + carry_def.num_leaves, len(refs)]
        return [refs[a:b] for a, b in zip(ends, ends[1:], strict=False)]

    def kernel_tpu(*refs):
        given_refs, x_refs, carry_refs, y_refs = refs_of(refs)

        @pl.when(pl.program_id(0) == 0)
        def _():
            first = given_refs[len(given_refs) - carry_def.num_leaves :]
            _write(carry_refs, [_read(ref) for ref in first])

        constants, _ = given_def.unflatten([_read(ref) for ref in given_refs])
        carry = carry_def.unflatten([_read(ref) for ref in carry_refs])
        after, y = body(constants, carry, xs_def.unflatten([_read(ref) for ref in x_refs]))
        _write(carry_refs, jax.tree.leaves(after))
        _write(y_refs, jax.tree.leaves(y))

    def kernel_gpu(*refs):
        given_refs, x_refs, carry_refs, y_refs = refs_of(refs)
        constants, first = given_def.unflatten([_read(ref) for ref in given_refs])

        def one(i, carry):
            t = time - 1 - i if reverse else i
            after, y = body(constants, carry, xs_def.unflatten([_read(ref, t) for ref in x_refs]))
            _write(y_refs, jax.tree.leaves(y), t)
            return after

        _write(carry_refs, jax.tree.leaves(lax.fori_loop(0, time, one, first)))

    shapes = [*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(carry))]
    shapes += [jax.ShapeDtypeStruct((time, *y.shape), y.dtype) for y in step]
    if platform == "gpu":
        from jax.experimental.pallas import triton as plgpu

        kernel, how = kernel_gpu, {"compiler_params": plgpu.CompilerParams(num_warps=8, num_stages=1)}
    else:
        from jax.experimental.pallas import tpu as pltpu

        still = lambda x: pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim)  # one block for all steps, copied once
        at = lambda t: time - 1 - t if reverse else t
        of_time = lambda x: pl.BlockSpec((None, *x.shape[1:]), lambda t: (at(t), *(0,) * (x.ndim - 1)))
        count = carry_def.num_leaves
        kernel, how = (
            kernel_tpu,
            {
                "grid": (time,),
                "in_specs": [*map(still, given), *map(of_time, xs)],
                "out_specs": [*map(still, shapes[:count]), *map(of_time, shapes[count:])],
                "compiler_params": pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
            },
        )
    found = pl.pallas_call(kernel, out_shape=shapes, interpret=interpret, **how)(*given, *xs)
    return carry_def.unflatten(found[: carry_def.num_leaves]), step_def.unflatten(found[carry_def.num_leaves :])


def _read(ref, *at):
    rank = len(ref.shape) - len(at)
    return ref[at] if rank == 2 else Blocks(ref[(*at, i)] for i in range(ref.shape[len(at)]))


def _write(refs, values, *at):
    for ref, value in zip(refs, values, strict=True):
        if isinstance(value, Blocks):
            for i, block in enumerate(value):
                ref[(*at, i)] = block
        else:
            ref[at] = value


def _as_blocks(tree):
    return jax.tree.map(lambda x: x if x.ndim == 2 else Blocks(x), tree)


def _stacked(tree):
    return jax.tree.map(lambda x: jnp.stack(x) if isinstance(x, Blocks) else x, tree)
