"""A scan as one Pallas kernel for TPUs, which keeps the carry and the recurrent matrix in VMEM from step to step.

XLA's loop reads the matrix from memory anew at every step. Here the grid is time: what belongs to a step is copied in and out
while the step before is computed, and the rest stays where it is. No TPU has measured it: that it computes what the
scan does is tested by Pallas' interpreter, that it compiles by lowering alone, so `model.scan` is `xla` by default.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


def scan(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    constants: Any,
    carry: Any,
    xs: Any,
    reverse: bool = False,
    interpret: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan(partial(body, constants), carry, xs, reverse=reverse)`; `body` sees no other array.

    Leaves of `xs`, and what `body` returns for each step, have one axis of time and at least two more. Constants, the carry
    and two steps' leaves must fit into VMEM together.
    """
    time = len(jax.tree.leaves(xs)[0])
    step = jax.eval_shape(body, constants, carry, jax.tree.map(lambda x: x[0], xs))[1]
    constants, constants_def = jax.tree.flatten(constants)
    carry, carry_def = jax.tree.flatten(carry)
    xs, xs_def = jax.tree.flatten(xs)
    step, step_def = jax.tree.flatten(step)

    def kernel(*refs):
        counts = len(constants), len(carry), len(xs), len(carry), len(step)
        parts, at = [], 0
        for count in counts:
            parts.append(refs[at : at + count])
            at += count
        constant_refs, first_refs, x_refs, carry_refs, y_refs = parts

        @pl.when(pl.program_id(0) == 0)
        def _():
            _write(carry_refs, [ref[...] for ref in first_refs])

        read = lambda structure, refs: jax.tree.unflatten(structure, [ref[...] for ref in refs])
        given = read(constants_def, constant_refs), read(carry_def, carry_refs), read(xs_def, x_refs)
        after, y = body(*given)
        _write(carry_refs, jax.tree.leaves(after))
        _write(y_refs, jax.tree.leaves(y))

    def still(array):  # the same block at every step, so it is copied once
        return pl.BlockSpec(array.shape, lambda t: (0,) * array.ndim)

    def of_time(array, ndim):
        return pl.BlockSpec((None, *array.shape[-ndim:]), lambda t: (time - 1 - t if reverse else t, *(0,) * ndim))

    found = pl.pallas_call(
        kernel,
        grid=(time,),
        in_specs=[*map(still, constants), *map(still, carry), *(of_time(x, x.ndim - 1) for x in xs)],
        out_specs=[*map(still, carry), *(of_time(y, y.ndim) for y in step)],
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in carry),
            *(jax.ShapeDtypeStruct((time, *y.shape), y.dtype) for y in step),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(*constants, *carry, *xs)
    final, ys = found[: len(carry)], found[len(carry) :]
    return jax.tree.unflatten(carry_def, final), jax.tree.unflatten(step_def, ys)


def _write(refs, values):
    for ref, value in zip(refs, values, strict=True):
        ref[...] = jnp.asarray(value, ref.dtype)
