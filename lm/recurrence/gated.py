"""The gated engine: runs a cell over time, with a gradient of its own.

A cell is `gates_t = x_t W + b + y_{t-1} R;  state_t = pointwise(gates_t, state_{t-1})`, and its author writes only the last part.

Under plain autodiff of `lax.scan` every step adds to the gradient of the recurrent kernel, reading and writing it each
time. Here the backward scan takes the vector-Jacobian product of the pointwise part alone and emits the gradient of the
gates; the gradients of kernels and inputs are one product each after the scan.

Inside, arrays are feature-major: units before batch, `[*u, b]`, where `*u` is [hidden], or [heads, hidden / heads] of
block-diagonal heads. So `R @ y` needs no transpose, a gate is a block of whole rows, and a mask broadcasts as it is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Cell, Run, State, Weights, dot, project


class GatedCell(Cell):
    """A cell sets `gates`, the number of gate blocks, and `pointwise`.

    One that carries more than its output also sets `initial_inner`; one with parameters of its own, `own`. Nothing here
    may depend on time: masks and resets are the engine's.
    """

    recurrent = True
    separate: int = 0  # so many of the last blocks reach `pointwise` unsummed: first all `x W + b`, then all `y R`

    @staticmethod
    def pointwise(gates: tuple[jax.Array, ...], state: State, own: dict[str, jax.Array]) -> State:
        """The state after a step, its output first.

        All arrays broadcast to [units, batch], float32; where there are heads, to [heads, units, batch]. Must be
        differentiable by JAX and act on each column of the batch alone.
        """
        raise NotImplementedError

    @classmethod
    def step(cls, run: Run, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        return step(cls, run, weights, inputs_bd, state)

    @classmethod
    def unroll(cls, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        starts = None if starts_tbz is None else cls.start(starts_tbz, run.heads)
        return unroll(cls, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts)


def step(cell: type[GatedCell], run: Run, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
    """One time step, a row of the batch at a time, so that nothing is transposed: in a loop that would be done anew each step."""
    units, own = _units(run, weights), _own(weights, run)
    column = lambda x: x.reshape(*x.shape[:-1], *units, 1)
    recurrent_bg = _recur_rows(cell, run, weights.recurrent_kernel, state.output_bh)
    products = project(weights, inputs_bd, run.dtype), recurrent_bg
    from_inputs, recurrent = (x.reshape(len(x), cell.gates, *units, 1) for x in products)

    def row(from_inputs, recurrent, state):
        return cell.pointwise(tuple(_gates(cell, from_inputs, recurrent)), state, own)

    after = jax.vmap(row)(from_inputs, recurrent, jax.tree.map(column, state))
    return jax.tree.map(lambda x: x.reshape(len(x), -1), after)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unroll(
    cell: type[GatedCell],
    run: Run,
    weights: Weights,
    inputs_tbd: jax.Array,
    state: State,
    mask_tb: jax.Array,
    reset_tb: jax.Array,
    starts: State | None = None,
) -> tuple[jax.Array, State]:
    """Runs `cell` over time.

    Args:
        cell: what is run.
        run: how.
        weights: the layer's.
        inputs_tbd: time first.
        state: what the first step (the last one, if `run.reverse`) starts from.
        mask_tb: bool; where False the state, output included, stays as it was.
        reset_tb: bool; where True the state is set anew before the step.
        starts: [time, batch, hidden] arrays, the state taken where `reset_tb` is True; None is `zero_state` everywhere.

    Returns:
        outputs_tbh, float32, and the final state.
    """
    return _forward(cell, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts)[0]


def _forward(cell, run, weights, inputs_tbd, state, mask_tb, reset_tb, starts):
    own, first, fresh_t = _own(weights, run), _inward(state, run.heads), _inward(starts, run.heads)
    zero, transposed = _fresh(cell, run, state), _transposed(weights, run)

    def scan(hoisted, inputs_tbd):
        def body(state, now):
            inputs, mask_b, reset_b, fresh = now
            before = _where(reset_b, zero if fresh is None else fresh, state)
            from_inputs, recurrent = _products(cell, run, transposed, None if hoisted else inputs, before.output_bh)
            gates = _gates(cell, inputs if hoisted else from_inputs, recurrent)
            state = _where(mask_b, cell.pointwise(tuple(gates), before, own), before)
            return state, (state.output_bh, before, gates if run.backward == "keep" else None)

        inputs = _hoist(cell, run, weights, inputs_tbd) if hoisted else inputs_tbd.swapaxes(1, 2)
        return lax.scan(body, first, (inputs, mask_tb, reset_tb, fresh_t), reverse=run.reverse)

    final, (outputs_t, before_t, gates_t) = _by_platform(scan, inputs_tbd)
    saved = (weights, inputs_tbd, before_t, gates_t, mask_tb, reset_tb, fresh_t)
    return (_outward(outputs_t, run.heads), _outward(final, run.heads)), saved


def _by_platform(scan, inputs_tbd):
    """Input products of all steps at once, before the scan; or, on a CPU, inside it.

    There a product of a step's width runs at full speed, and its result is still in the cache when it is added. Narrow
    batches read the kernel anew for little work, so they do not.
    """
    hoisted, inside = (functools.partial(scan, each) for each in (True, False))
    if inputs_tbd.shape[1] < 16:
        return hoisted(inputs_tbd)
    return lax.platform_dependent(inputs_tbd, cpu=inside, default=hoisted)


def _backward(cell, run, saved, gradients):
    weights, inputs_tbd, before_t, gates_t, mask_tb, reset_tb, fresh_t = saved
    d_outputs_tbh, d_final = gradients
    own, own_pullback = jax.vjp(lambda own: _own(weights._replace(own=own), run), weights.own)
    transposed, recurrent_kernel = _transposed(weights, run), _cast(weights.recurrent_kernel, run.dtype)

    def body(carry, now):
        d_state, d_own = carry
        gates, inputs_bd, state, d_output, mask_b, reset_b = now
        if gates is None:  # "recompute": one step's at a time, so that those of all steps never exist
            gates = _gates(cell, *_products(cell, run, transposed, inputs_bd.T, state.output_bh))
        d_state = d_state._replace(output_bh=d_state.output_bh + d_output)
        zeros = jax.tree.map(jnp.zeros_like, d_state)
        d_new, d_kept = _where(mask_b, d_state, zeros), _where(mask_b, zeros, d_state)
        # Recomputing the pointwise part here is cheaper than reading what its gradient needs from memory.
        _, pullback = jax.vjp(cell.pointwise, tuple(gates), state, own)
        d_gates, d_previous, d_own_now = pullback(d_new)
        # One array, flat, for the product and for what is kept: as two they would be computed twice.
        d_gates = jnp.concatenate([each.reshape(-1, each.shape[-1]) for each in d_gates])
        through = _recur_back(run, recurrent_kernel, _split(cell, d_gates.reshape(-1, *d_output.shape))[1])
        d_previous = jax.tree.map(jnp.add, d_previous, d_kept)
        d_previous = d_previous._replace(output_bh=d_previous.output_bh + through)
        d_fresh = None if fresh_t is None else _where(reset_b, d_previous, zeros)
        carry = _where(reset_b, zeros, d_previous), jax.tree.map(jnp.add, d_own, d_own_now)
        return carry, (d_gates, d_fresh)

    start = _inward(d_final, run.heads), jax.tree.map(jnp.zeros_like, own)
    again_tbd = inputs_tbd if gates_t is None else None
    now = (gates_t, again_tbd, before_t, _inward(d_outputs_tbh, run.heads), mask_tb, reset_tb)
    (d_first, d_own), (d_gates_t, d_fresh_t) = lax.scan(body, start, now, reverse=not run.reverse)

    d_gates_t = d_gates_t.reshape(len(d_gates_t), -1, *before_t.output_bh.shape[1:])
    d_inputs_t, d_recurrent_t = jax.vmap(functools.partial(_split, cell))(d_gates_t)
    rows_ng = _rows(d_inputs_t)
    inputs_nd = inputs_tbd.reshape(len(rows_ng), -1)
    d_weights = Weights(
        kernel=dot(inputs_nd.T, rows_ng, run.dtype),
        bias=rows_ng.sum(0),
        recurrent_kernel=_recurrent_gradient(run, weights, before_t.output_bh, d_recurrent_t),
        own=own_pullback(d_own)[0],
    )
    d_inputs_tbd = dot(rows_ng, weights.kernel.T, run.dtype).reshape(inputs_tbd.shape)
    return d_weights, d_inputs_tbd, _outward(d_first, run.heads), None, None, _outward(d_fresh_t, run.heads)


unroll.defvjp(_forward, _backward)


# ---- products ---------------------------------------------------------------------------------------------------


def _transposed(weights, run):
    """(kernel_gd, bias_g1, recurrent_gh) in the products' type: made once, before the scan, not at every step."""
    kernel_gd, recurrent_gh = _cast(weights.kernel.T, run.dtype), _cast(weights.recurrent_kernel.mT, run.dtype)
    return kernel_gd, weights.bias[:, None], recurrent_gh


def _cast(x, dtype):
    return x if dtype == "float32" else x.astype(dtype)


def _products(cell, run, transposed, inputs_db, output):
    """(`x W + b`, `y R`) of one step, each [gates, *u, b]; the first is None where there are no inputs."""
    kernel_gd, bias_g1, recurrent_gh = transposed
    recurrent = _recur(cell, run, recurrent_gh, output)
    if inputs_db is None:
        return None, recurrent
    return (dot(kernel_gd, inputs_db, run.dtype) + bias_g1).reshape(recurrent.shape), recurrent


def _hoist(cell, run, weights, inputs_tbd):
    """`x W + b` of all steps, [t, gates, *u, b]."""
    gates_tgb = project(weights, inputs_tbd, run.dtype).swapaxes(1, 2)
    time, _, batch = gates_tgb.shape
    return gates_tgb.reshape(time, cell.gates, *_units(run, weights), batch)


def _recur(cell, run, recurrent_gh, output):
    """`y R`, [..., gates, *u, b]."""
    product = dot(recurrent_gh, output, run.dtype)
    blocks = product.reshape(*product.shape[:-2], cell.gates, -1, product.shape[-1])
    return jnp.moveaxis(blocks, -3, -4) if run.heads > 1 else blocks


def _recur_rows(cell, run, kernel, output_bh):
    """`y R`, [b, gates * hidden], of one step."""
    if run.heads == 1:
        return dot(output_bh, kernel, run.dtype)
    output_kbi = output_bh.reshape(len(output_bh), run.heads, -1).swapaxes(0, 1)
    # XLA on a CPU turns the transpose of a product into a product that it has not got in bfloat16.
    product_kbg = lax.optimization_barrier(dot(output_kbi, kernel, run.dtype))
    blocks_kbgi = product_kbg.reshape(*product_kbg.shape[:2], cell.gates, -1)
    return blocks_kbgi.transpose(1, 2, 0, 3).reshape(len(output_bh), -1)


def _recur_back(run, kernel, d_blocks):
    """The gradient of an output through `_recur`."""
    if run.heads > 1:
        d_blocks = jnp.moveaxis(d_blocks, -4, -3)
    return dot(kernel, d_blocks.reshape(*d_blocks.shape[:-3], -1, d_blocks.shape[-1]), run.dtype)


def _recurrent_gradient(run, weights, output_t, d_blocks_t):
    if run.heads == 1:
        output_nh = output_t.swapaxes(1, 2).reshape(-1, output_t.shape[1])
        return dot(output_nh.T, _rows(d_blocks_t), run.dtype)
    time, blocks, heads, units, batch = d_blocks_t.shape
    output_khn = output_t.transpose(1, 2, 0, 3).reshape(heads, units, -1)
    d_blocks_kng = d_blocks_t.transpose(2, 0, 4, 1, 3).reshape(heads, time * batch, -1)
    return dot(output_khn, d_blocks_kng, run.dtype)


def _gates(cell, from_inputs, recurrent):
    """What `pointwise` reads: sums, but for the blocks that stay separate."""
    if not cell.separate:
        return from_inputs + recurrent
    at = cell.gates - cell.separate
    return jnp.concatenate([from_inputs[:at] + recurrent[:at], from_inputs[at:], recurrent[at:]])


def _split(cell, d_gates):
    """The gradient of (`x W + b`, `y R`) from that of `_gates`."""
    if not cell.separate:
        return d_gates, d_gates
    at = cell.gates - cell.separate
    return d_gates[: cell.gates], jnp.concatenate([d_gates[:at], d_gates[cell.gates :]])


# ---- layouts ----------------------------------------------------------------------------------------------------


def _units(run, weights):
    hidden = weights.recurrent_kernel.shape[-2] * run.heads
    return (hidden,) if run.heads == 1 else (run.heads, hidden // run.heads)


def _inward(tree: Any, heads: int) -> Any:
    """[..., b, h] -> [..., *u, b]."""

    def one(x):
        x = x.swapaxes(-1, -2)
        return x if heads == 1 else x.reshape(*x.shape[:-2], heads, -1, x.shape[-1])

    return jax.tree.map(one, tree)


def _outward(tree: Any, heads: int) -> Any:
    """[..., *u, b] -> [..., b, h]."""

    def one(x):
        x = x if heads == 1 else x.reshape(*x.shape[:-3], -1, x.shape[-1])
        return x.swapaxes(-1, -2)

    return jax.tree.map(one, tree)


def _rows(blocks_t):
    """[t, gates, *u, b] -> [t * b, gates * hidden]."""
    time, batch = blocks_t.shape[0], blocks_t.shape[-1]
    return blocks_t.reshape(time, -1, batch).swapaxes(1, 2).reshape(time * batch, -1)


def _own(weights, run):
    """The cell's own parameters, to broadcast with [*u, b]."""
    return jax.tree.map(lambda x: _inward(x[None], run.heads), weights.own)


def _fresh(cell, run, like: State) -> State:
    """`zero_state` in the shape and type of another state, inward."""
    zero = cell.zero_state(*like.output_bh.shape, run.heads)
    return jax.tree.map(lambda new, old: _inward(new, run.heads).astype(old.dtype), zero, like)


def _where(condition_b, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition_b, a, b), if_true, if_false)
