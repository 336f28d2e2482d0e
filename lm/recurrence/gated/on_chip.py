"""A loop over time as one Pallas kernel, which keeps the carry and the recurrent matrix on chip from step to step.

XLA's loop reads the matrix from memory at every step, and launches several kernels per step on a GPU.

- On a GPU (Triton) time is a loop inside the kernel, after FlashRNN (Pöppel et al., 2024, arXiv:2412.07752). On an H100
  the gradients of all gated cells agreed with XLA's loop within 1e-6, in a third of its time.
- On a TPU the grid is time. The arrays of a step are copied in and out while the step before is computed, and the rest
  stays in VMEM. No TPU has run it, so it is off by default there. Tests compare it with XLA's loop in Pallas'
  interpreter, and check that it compiles by lowering it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Blocks(tuple):
    """Arrays [u, b] that are one array [blocks, u, b] outside the kernel, as Triton cannot slice an array on chip."""


class Trees(NamedTuple):
    """The structures of the trees whose leaves a kernel gets as a flat list of references."""

    given: Any  # (constants, carry)
    carry: Any
    xs: Any

    def split(self, refs: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """Returns the references of (constants, carry), a step's inputs, the carry to write, and a step's outputs."""
        given, xs, carry = (tree.num_leaves for tree in (self.given, self.xs, self.carry))
        return refs[:given], refs[given : given + xs], refs[given + xs :][:carry], refs[given + xs + carry :]


def loop(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    constants: Any,
    carry: Any,
    xs: Any,
    reverse: bool = False,
    platform: str = "tpu",
    interpret: bool = False,
) -> tuple[Any, Any]:
    """Computes `lax.scan(partial(body, constants), carry, xs, reverse=reverse)`; `body` reads no other array.

    In `body`, the leaves of constants, the carry and a step have two axes, or are `Blocks` if they have three; so do
    its results. Constants and the carry must fit on the chip together, on a TPU with the leaves of two steps. On a GPU
    all axes must be powers of 2.
    """
    # Imported here, so that programs without kernels do not need this part of JAX, which may still change.
    from jax.experimental import pallas as pl

    time = len(jax.tree.leaves(xs)[0])
    one = lambda *given: _stacked(body(*_as_blocks(given))[1])
    ys, ys_tree = jax.tree.flatten(jax.eval_shape(one, constants, carry, jax.tree.map(lambda x: x[0], xs)))
    given, given_tree = jax.tree.flatten((constants, carry))
    xs, xs_tree = jax.tree.flatten(xs)
    trees = Trees(given_tree, jax.tree.structure(carry), xs_tree)
    carried = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(carry)]
    shapes = [*carried, *(jax.ShapeDtypeStruct((time, *y.shape), y.dtype) for y in ys)]
    if platform == "gpu":
        kernel, how = functools.partial(_gpu_kernel, body, trees, time, reverse), _gpu_call()
    else:
        kernel = functools.partial(_tpu_kernel, body, trees)
        how = _tpu_call(time, reverse, given, xs, shapes, len(carried))
    found = pl.pallas_call(kernel, out_shape=shapes, interpret=interpret, **how)(*given, *xs)
    return trees.carry.unflatten(found[: len(carried)]), ys_tree.unflatten(found[len(carried) :])


def _gpu_kernel(body, trees, time, reverse, *refs):
    given_refs, x_refs, carry_refs, y_refs = trees.split(refs)
    constants, first = trees.given.unflatten([_read(ref) for ref in given_refs])

    def one(i, carry):  # one time step; the carry stays on chip
        t = time - 1 - i if reverse else i
        after, y = body(constants, carry, trees.xs.unflatten([_read(ref, t) for ref in x_refs]))
        _write(y_refs, jax.tree.leaves(y), t)
        return after

    _write(carry_refs, jax.tree.leaves(lax.fori_loop(0, time, one, first)))


def _gpu_call():
    from jax.experimental.pallas import triton

    return {"compiler_params": triton.CompilerParams(num_warps=8, num_stages=1)}


def _tpu_kernel(body, trees, *refs):
    from jax.experimental import pallas as pl

    given_refs, x_refs, carry_refs, y_refs = trees.split(refs)

    @pl.when(pl.program_id(0) == 0)  # before the first step the carry is copied to where it stays
    def _():
        first = given_refs[len(given_refs) - len(carry_refs) :]
        _write(carry_refs, [_read(ref) for ref in first])

    constants, _ = trees.given.unflatten([_read(ref) for ref in given_refs])
    carry = trees.carry.unflatten([_read(ref) for ref in carry_refs])
    after, y = body(constants, carry, trees.xs.unflatten([_read(ref) for ref in x_refs]))
    _write(carry_refs, jax.tree.leaves(after))
    _write(y_refs, jax.tree.leaves(y))


def _tpu_call(time, reverse, given, xs, shapes, carried):
    """Returns the arguments of a grid over time. The first `carried` of the output `shapes` are the carry."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu

    still = lambda x: pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim)  # one block for all steps, copied once
    at = lambda t: time - 1 - t if reverse else t
    of_time = lambda x: pl.BlockSpec((None, *x.shape[1:]), lambda t: (at(t), *(0,) * (x.ndim - 1)))
    return {
        "grid": (time,),
        "in_specs": [*map(still, given), *map(of_time, xs)],
        "out_specs": [*map(still, shapes[:carried]), *map(of_time, shapes[carried:])],
        "compiler_params": tpu.CompilerParams(dimension_semantics=("arbitrary",)),
    }


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
