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

from lm.recurrence import onchip
from lm.recurrence.base import Cell, Run, State, Weights, befores, dot, project


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
    zero, transposed = _fresh(cell, run, state), _transposed(cell, weights, run)

    def scan(hoisted, inputs_tbd):
        recurrent_gh = _cast(weights.recurrent_kernel.mT, run.dtype)

        def body(carry, now):
            state, blocks_t = carry
            t, inputs, mask_b, reset_b, fresh = now
            before = _where(reset_b, zero if fresh is None else fresh, state)
            if hoisted:
                gates = _gates(cell, inputs, _recur(cell, run, recurrent_gh, before.output_bh))
            else:
                gates = _products(cell, run, transposed, inputs, before.output_bh)
            state = _where(mask_b, cell.pointwise(tuple(gates), before, own), before)
            if run.backward == "keep":
                blocks_t = lax.dynamic_update_index_in_dim(blocks_t, gates.reshape(blocks_t.shape[1:]), t, 0)
            return (state, blocks_t), (state.output_bh, before.inner)

        inputs = _hoist(cell, run, weights, inputs_tbd) if hoisted else inputs_tbd.swapaxes(1, 2)
        blocks_t = _room(cell, first, inputs_tbd) if run.backward == "keep" else None
        over_time = jnp.arange(len(inputs)), inputs, mask_tb, reset_tb, fresh_t
        return lax.scan(body, (first, blocks_t), over_time, reverse=run.reverse)

    def kernel(platform, inputs_tbd):
        """As `scan`, and the gates go out step by step, like all else."""

        def body(constants, state, now):
            recurrent, zero, own = constants
            inputs, mask_1b, reset_1b, fresh = now
            before = _where(reset_1b != 0, zero if fresh is None else fresh, state)
            products = [dot(block, before.output_bh, run.dtype) for block in recurrent]
            gates = tuple(map(jnp.add, inputs[:at], products[:at])) + inputs[at:] + tuple(products[at:])
            state = _where(mask_1b != 0, cell.pointwise(gates, before, own), before)
            return state, (state.output_bh, before.inner, onchip.Blocks(gates))

        at = cell.gates - cell.separate
        recurrent = _cast(_blocks(cell, weights.recurrent_kernel), run.dtype).mT
        constants = recurrent, jax.tree.map(lambda x: x[..., :1], zero), own
        over_time = _hoist(cell, run, weights, inputs_tbd), _flags(mask_tb), _flags(reset_tb), fresh_t
        state, (outputs, inner, gates_t) = _on_chip(
            run, platform, inputs_tbd.shape[1], body, constants, first, over_time, run.reverse
        )
        return (state, gates_t.reshape(len(gates_t), -1, gates_t.shape[-1])), (outputs, inner)

    inside, hoisted = (functools.partial(scan, each) for each in (False, True))
    chosen = _by_platform(run, first.output_bh.shape, inputs_tbd, cpu=inside, default=hoisted, kernel=kernel)
    (final, blocks_t), (outputs_t, inner_t) = chosen
    outputs_tbh = _outward(outputs_t, run.heads)
    saved = (weights, inputs_tbd, state.output_bh, outputs_tbh, inner_t, blocks_t, mask_tb, reset_tb, starts)
    return (outputs_tbh, _outward(final, run.heads)), saved


def _by_platform(run, shape, inputs_tbd, cpu, default, kernel):
    """What runs where: of both directions, and by `shape`, [*u, b], too.

    By default the input products of all steps are one, before the scan; on a CPU they are inside it. There a product of a
    step's width runs at full speed, and its result is still in the cache when it is added. Narrow batches read the
    kernel anew for little work, so they do not.
    """
    *_, units, batch = shape
    choices = {} if cpu is None or batch < 16 else {"cpu": cpu}
    for name, platform in (("cuda", "gpu"), ("tpu", "tpu")):
        if has_kernel(run, units, batch, platform):
            choices[name] = functools.partial(kernel, platform)
    return lax.platform_dependent(inputs_tbd, **choices, default=default) if choices else default(inputs_tbd)


def has_kernel(run: Run, units: int, batch: int, platform: str) -> bool:
    """Whether a layer is one kernel there: with so many units in a head, and rows of the batch on a device."""
    if run.scan == "xla" or run.backward != "keep":
        return False
    if platform == "gpu":
        return units in UNITS[run.dtype] and batch % TILE == 0
    return platform == "tpu" and run.scan == "pallas"


def _backward(cell, run, saved, gradients):
    weights, inputs_tbd, first_bh, outputs_tbh, inner_t, blocks_t, mask_tb, reset_tb, starts = saved
    d_outputs_tbh, d_final = gradients
    own, own_pullback = jax.vjp(lambda own: _own(weights._replace(own=own), run), weights.own)
    transposed, recurrent_kernel = _transposed(cell, weights, run), _cast(weights.recurrent_kernel, run.dtype)
    fresh = 0 if starts is None else starts.output_bh
    before_tbh = jnp.where(reset_tb[..., None], fresh, befores(first_bh, outputs_tbh, run.reverse))
    before_t, time, keeps = _inward(before_tbh, run.heads), len(inputs_tbd), run.backward == "keep"

    def back(through, own, carry, gates, state, d_output, mask_b, reset_b):
        """One step: (carry, (gradient of the gates, and of what the state was set to)).

        `through` makes of the gradient of each gate what is kept of all, and the gradient of the output before.
        """
        d_state, d_own = carry
        d_state = d_state._replace(output_bh=d_state.output_bh + d_output)
        zeros = jax.tree.map(jnp.zeros_like, d_state)
        d_new, d_kept = _where(mask_b, d_state, zeros), _where(mask_b, zeros, d_state)
        # Recomputing the pointwise part here is cheaper than reading what its gradient needs from memory.
        _, pullback = jax.vjp(cell.pointwise, tuple(gates), state, own)
        d_gates, d_previous, d_own_now = pullback(d_new)
        d_gates, d_before = through(d_gates)
        d_previous = jax.tree.map(jnp.add, d_previous, d_kept)
        d_previous = d_previous._replace(output_bh=d_previous.output_bh + d_before)
        d_fresh = None if starts is None else _where(reset_b, d_previous, zeros)
        d_own = jax.tree.map(jnp.add, d_own, d_own_now)
        return (_where(reset_b, zeros, d_previous), d_own), (d_gates, d_fresh)

    def flat(d_gates):
        # One array, for the product and for what is kept: as two they would be computed twice.
        shape = d_gates[0].shape
        d_gates = jnp.concatenate([each.reshape(-1, shape[-1]) for each in d_gates])
        return d_gates, _recur_back(run, recurrent_kernel, _split(cell, d_gates.reshape(-1, *shape))[1])

    def body(carry, now):
        sums, d_gates, blocks_t = carry
        t, inputs_bd, output, inner, d_output, mask_b, reset_b = now
        # The step before's, and only now: what is read from memory next is then never what this step writes, so that
        # XLA, which cannot tell the rows of an array apart, need not copy all of it.
        blocks_t = lax.dynamic_update_index_in_dim(blocks_t, d_gates, jnp.clip(t - towards, 0, time - 1), 0)
        if keeps:
            gates = lax.dynamic_index_in_dim(blocks_t, t, keepdims=False).reshape(-1, *d_output.shape)
        else:  # "recompute": one step's at a time, so that those of all steps never exist
            gates = _products(cell, run, transposed, inputs_bd.T, output)
        given = gates, State(output, inner), d_output, mask_b, reset_b
        sums, (d_gates, d_fresh) = back(flat, own, sums, *given)
        return (sums, d_gates, blocks_t), d_fresh

    d_outputs_t = _inward(d_outputs_tbh, run.heads)
    start = _inward(d_final, run.heads), jax.tree.map(jnp.zeros_like, own)
    # The gates' gradient is written where the gates were: memory that is neither taken anew nor filled first.
    blocks_t = blocks_t if keeps else _room(cell, start[0], d_outputs_tbh)
    first, last, towards = (0, time - 1, 1) if run.reverse else (time - 1, 0, -1)

    def scan(inputs_tbd):
        again_tbd = None if keeps else inputs_tbd
        now = (jnp.arange(time), again_tbd, before_t, inner_t, d_outputs_t, mask_tb, reset_tb)
        begun = start, blocks_t[first], blocks_t
        (sums, d_gates, d_blocks_t), d_fresh_t = lax.scan(body, begun, now, reverse=not run.reverse)
        return sums, d_blocks_t.at[last].set(d_gates), d_fresh_t

    def kernel(platform, inputs_tbd):
        def body(constants, carry, now):
            recurrent, own = constants
            gates, state, d_output, mask_1b, reset_1b = now

            def through(d_gates):
                d_recurrent = d_gates[: cell.gates - cell.separate] + d_gates[cell.gates :]
                products = [dot(block, each, run.dtype) for block, each in zip(recurrent, d_recurrent, strict=True)]
                return onchip.Blocks(d_gates), functools.reduce(jnp.add, products)

            return back(through, own, carry, gates, state, d_output, mask_1b != 0, reset_1b != 0)

        gates_t = blocks_t.reshape(time, -1, *before_t.shape[1:])
        constants = _cast(_blocks(cell, weights.recurrent_kernel), run.dtype), own
        now = gates_t, State(before_t, inner_t), d_outputs_t, _flags(mask_tb), _flags(reset_tb)
        sums, (d_gates_t, d_fresh_t) = _on_chip(
            run, platform, inputs_tbd.shape[1], body, constants, start, now, not run.reverse
        )
        return sums, d_gates_t.reshape(blocks_t.shape), d_fresh_t

    shape = before_t.shape[1:]
    (d_first, d_own), d_blocks_t, d_fresh_t = _by_platform(
        run, shape, inputs_tbd, cpu=None, default=scan, kernel=kernel
    )
    d_gates_t = d_blocks_t.reshape(time, -1, *before_t.shape[1:])
    d_inputs_t, d_recurrent_t = jax.vmap(functools.partial(_split, cell))(d_gates_t)
    rows_ng = _rows(d_inputs_t)
    inputs_nd = inputs_tbd.reshape(len(rows_ng), -1)
    d_weights = Weights(
        kernel=dot(inputs_nd.T, rows_ng, run.dtype),
        bias=rows_ng.sum(0),
        recurrent_kernel=_recurrent_gradient(cell, run, before_tbh, before_t, d_recurrent_t, rows_ng),
        own=own_pullback(d_own)[0],
    )
    d_inputs_tbd = dot(rows_ng, weights.kernel.T, run.dtype).reshape(inputs_tbd.shape)
    return d_weights, d_inputs_tbd, _outward(d_first, run.heads), None, None, _outward(d_fresh_t, run.heads)


unroll.defvjp(_forward, _backward)


def _room(cell, state, after_tbd):
    """Memory for every step's gates, [t, gates * hidden, b], taken when `after_tbd` is there.

    What it holds first is never read. Zeros would be one constant for all layers, filled when a program begins, and
    copied for each of them.
    """
    hidden, batch = state.output_bh.size // state.output_bh.shape[-1], state.output_bh.shape[-1]
    fill = (after_tbd[0, 0, 0] * 0).astype(state.output_bh.dtype)
    return jnp.broadcast_to(fill, (len(after_tbd), (cell.gates + cell.separate) * hidden, batch))


# ---- kernels ----------------------------------------------------------------------------------------------------

# On an H100 an LSTM of 768 units in heads of 32, 64 and 128 takes 0.39, 0.33 and 0.46 of the time of XLA's loop over heads of 64.
UNITS = {"float32": (16, 32, 64), "bfloat16": (16, 32, 64, 128)}  # of a head whose matrices a multiprocessor holds
TILE = 16  # columns of the batch that a program on a GPU has, the fewest of a product there


def _on_chip(run, platform, batch, body, constants, carry, xs, reverse):
    """`onchip.scan`, a program for each head, on a GPU also for each tile of the batch.

    What has no batch in the carry begins at zero, and is summed over the tiles.
    """

    def scan(constants, carry, xs):
        return onchip.scan(body, constants, carry, xs, reverse, platform)

    def tiled(constants, carry, xs):
        has = lambda x: x.shape[-1] == batch
        cut = lambda x: x.reshape(*x.shape[:-1], -1, TILE) if has(x) else x
        join = lambda x: x.sum(-2) if x.shape[-1] == 1 else x.reshape(*x.shape[:-2], batch)
        axes = jax.tree.map(lambda x: -2 if has(x) else None, (carry, xs))
        return jax.tree.map(join, jax.vmap(scan, (None, *axes), -2)(constants, *jax.tree.map(cut, (carry, xs))))

    run_one = tiled if platform == "gpu" else scan
    if run.heads == 1:
        return run_one(constants, carry, xs)
    axes = jax.tree.map(lambda x: None if x.dtype == FLAG else -3, (constants, carry, xs))  # flags are all heads'
    return jax.vmap(run_one, axes, -3)(constants, carry, xs)


def _blocks(cell, kernel):
    """A recurrent kernel by gates, [gates, u, u] or [gates, heads, u, u]."""
    *heads, units, _ = kernel.shape
    return jnp.moveaxis(kernel.reshape(*heads, units, cell.gates, units), -2, 0)


FLAG = jnp.int32  # a type that kernels read, and that nothing else here has


def _flags(flags_tb):
    """[t, 1, b]."""
    return flags_tb[:, None].astype(FLAG)


# ---- products ---------------------------------------------------------------------------------------------------


def _transposed(cell, weights, run):
    """Kernels as `_products` reads them, in the products' type: made once, before the scan, not at every step."""
    kernel_gd, recurrent_gh = _cast(weights.kernel.T, run.dtype), _cast(weights.recurrent_kernel.mT, run.dtype)
    if run.heads == 1 and not cell.separate:
        kernel_gd, recurrent_gh = None, jnp.concatenate([kernel_gd, recurrent_gh], axis=1)
    return kernel_gd, weights.bias[:, None], recurrent_gh


def _cast(x, dtype):
    return x if dtype == "float32" else x.astype(dtype)


def _products(cell, run, transposed, inputs_db, output):
    """The gates of one step, [gates, *u, b]; one product where no block and no head keeps its part separate."""
    kernel_gd, bias_g1, recurrent_gh = transposed
    if kernel_gd is None:
        product = dot(recurrent_gh, jnp.concatenate([inputs_db, output]), run.dtype) + bias_g1
        return product.reshape(cell.gates, *output.shape)
    recurrent = _recur(cell, run, recurrent_gh, output)
    return _gates(cell, (dot(kernel_gd, inputs_db, run.dtype) + bias_g1).reshape(recurrent.shape), recurrent)


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


def _recurrent_gradient(cell, run, before_tbh, before_t, d_blocks_t, rows_ng):
    if run.heads == 1:
        rows_ng = _rows(d_blocks_t) if cell.separate else rows_ng
        return dot(before_tbh.reshape(len(rows_ng), -1).T, rows_ng, run.dtype)
    time, blocks, heads, units, batch = d_blocks_t.shape
    output_khn = before_t.transpose(1, 2, 0, 3).reshape(heads, units, -1)
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
