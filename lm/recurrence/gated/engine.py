"""The gated engine: runs a cell over time, with a gradient of its own.

A cell is `gates_t = x_t W + b + y_{t-1} R;  state_t = pointwise(gates_t, state_{t-1})`, and its author writes only the last part.

Under plain autodiff of `lax.scan` every step adds to the gradient of the recurrent kernel, reading and writing it each
time. Here the backward scan takes the vector-Jacobian product of the pointwise part alone and emits the gradient of the
gates; the gradients of kernels and inputs are one product each after the scan.

How arrays are held inside is an order's (`order.py`): *of state*, *flat*.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lm.recurrence.base import Cell, Execution, State, Weights, befores, dot, project
from lm.recurrence.gated import pallas_kernel
from lm.recurrence.gated.order import BatchMajor, FeatureMajor, cast, units


class GatedCell(Cell):
    """A cell sets `gates`, the number of gate blocks, and `pointwise`.

    One that carries more than its output also sets `initial_inner`; one with parameters of its own, `own`. Nothing here
    may depend on time: masks and resets are the engine's.
    """

    recurrent = True
    separate: int = 0  # so many of the last blocks reach `pointwise` unsummed: first all `x W + b`, then all `y R`
    batch_major = False  # whether small layers are faster on a CPU in `BatchMajor`: `python -m benchmarks.recurrence`

    @staticmethod
    def pointwise(gates: tuple[jax.Array, ...], state: State, own: dict[str, jax.Array]) -> State:
        """The state after a step, its output first.

        All arrays broadcast to [units, batch], float32, with other axes before these or without. Must be differentiable by
        JAX and act on each column of the batch alone.
        """
        raise NotImplementedError

    @classmethod
    def step(cls, how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
        return step(cls, how, weights, inputs_bd, state)

    @classmethod
    def unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts_tbz=None):
        starts = None if starts_tbz is None else cls.start(starts_tbz, how.heads)
        return unroll(cls, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts)


def step(cell: type[GatedCell], how: Execution, weights: Weights, inputs_bd: jax.Array, state: State) -> State:
    """One time step. In rows, so that nothing is transposed: in a loop that would be done anew each step."""
    own, before, turned = _own(weights, how), BatchMajor.inward(state, how), BatchMajor.turned(weights, how)
    gates = _gates(
        BatchMajor, cell, BatchMajor.project(turned, how, inputs_bd), BatchMajor.recur(turned, how, before.output_bh)
    )
    return BatchMajor.outward(cell.pointwise(BatchMajor.blocks(gates, before.output_bh), before, own), how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unroll(
    cell: type[GatedCell],
    how: Execution,
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
        how: how.
        weights: the layer's.
        inputs_tbd: time first.
        state: what the first step (the last one, if `how.reverse`) starts from.
        mask_tb: bool; where False the state, output included, stays as it was.
        reset_tb: bool; where True the state is set anew before the step.
        starts: [time, batch, hidden] arrays, the state taken where `reset_tb` is True; None is `zero_state` everywhere.

    Returns:
        outputs_tbh, float32, and the final state.
    """
    return _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts)[0]


def _forward(cell, how, weights, inputs_tbd, state, mask_tb, reset_tb, starts):
    own, zero, (time, batch, _) = _own(weights, how), _fresh(cell, how, state), inputs_tbd.shape
    width = (cell.gates + cell.separate) * state.output_bh.shape[-1]

    def scan(order, hoisted, inputs_tbd):
        turned, (first, zero_inside, fresh_t) = order.turned(weights, how), order.inward((state, zero, starts), how)

        def body(carry, now):
            state, flat_t = carry
            t, inputs, mask, reset, fresh = now
            before = _where(reset, zero_inside if fresh is None else fresh, state)
            projected = inputs if hoisted else order.project(turned, how, inputs)
            flat = _gates(order, cell, projected, order.recur(turned, how, before.output_bh))
            state = _where(mask, cell.pointwise(order.blocks(flat, before.output_bh), before, own), before)
            if how.backward == "keep":
                flat_t = lax.dynamic_update_index_in_dim(flat_t, flat, t, 0)
            return (state, flat_t), (state.output_bh, before.inner)

        inputs = order.turn(project(weights, inputs_tbd, how.dtype) if hoisted else inputs_tbd)
        flat_t = _room(order, width, inputs_tbd, state.output_bh.dtype) if how.backward == "keep" else None
        over_time = jnp.arange(time), inputs, order.flags(mask_tb), order.flags(reset_tb), fresh_t
        (final, flat_t), (outputs_t, inner_t) = lax.scan(body, (first, flat_t), over_time, reverse=how.reverse)
        return order.outward((final, outputs_t), how), _saved(inner_t, flat_t)

    def kernel(platform, inputs_tbd):
        """As `scan`, and the gates go out step by step, like all else."""

        def body(constants, state, now):
            recurrent, zero, own = constants
            inputs, mask_1b, reset_1b, fresh = now
            before = _where(reset_1b != 0, zero if fresh is None else fresh, state)
            products = [dot(block, before.output_bh, how.dtype) for block in recurrent]
            gates = tuple(map(jnp.add, inputs[:at], products[:at])) + inputs[at:] + tuple(products[at:])
            state = _where(mask_1b != 0, cell.pointwise(gates, before, own), before)
            return state, (state.output_bh, before.inner, pallas_kernel.Blocks(gates))

        at = cell.gates - cell.separate
        first, zero_inside, fresh_t = FeatureMajor.inward((state, zero, starts), how)
        recurrent = cast(_blocks(cell, weights.recurrent_kernel), how.dtype).mT
        constants = recurrent, jax.tree.map(lambda x: x[..., :1], zero_inside), own
        projected_tgb = FeatureMajor.turn(project(weights, inputs_tbd, how.dtype))
        inputs = projected_tgb.reshape(time, cell.gates, *first.output_bh.shape)
        over_time = inputs, _flags(mask_tb), _flags(reset_tb), fresh_t
        final, (outputs_t, inner_t, gates_t) = _on_chip(
            how, platform, batch, body, constants, first, over_time, how.reverse
        )
        return FeatureMajor.outward((final, outputs_t), how), _saved(inner_t, gates_t)

    on_cpu = lambda order, inputs_tbd: scan(order, batch < order.narrow, inputs_tbd)
    default = functools.partial(scan, FeatureMajor, True)
    (final, outputs_tbh), kept = _by_platform(cell, how, weights, inputs_tbd, on_cpu, default, kernel)
    saved = weights, inputs_tbd, state.output_bh, outputs_tbh, kept, mask_tb, reset_tb, starts
    return (outputs_tbh, final), saved


def _by_platform(cell, how, weights, inputs_tbd, on_cpu, default, kernel):
    """What runs where, of both directions; `on_cpu` is given an order too, `kernel` a platform."""
    *_, of_a_head, _ = weights.recurrent_kernel.shape
    small = cell.batch_major and how.heads == 1 and weights.recurrent_kernel.size <= SMALL
    choices = {"cpu": functools.partial(on_cpu, BatchMajor if small else FeatureMajor)}
    for name, platform in (("cuda", "gpu"), ("tpu", "tpu")):
        if has_kernel(how, of_a_head, inputs_tbd.shape[1], platform):
            choices[name] = functools.partial(kernel, platform)
    return lax.platform_dependent(inputs_tbd, **choices, default=default)


# Numbers in a recurrent kernel that is small enough for rows on a CPU. XLA copies it into another order at every step, but
# divides products of few rows among cores better than those of few columns.
SMALL = 2**18


def has_kernel(how: Execution, units: int, batch: int, platform: str) -> bool:
    """Whether a layer is one kernel there: with so many units in a head, and rows of the batch on a device."""
    if how.scan == "xla" or how.backward != "keep":
        return False
    if platform == "gpu":
        return units in UNITS[how.dtype] and batch % TILE == 0
    return platform == "tpu" and how.scan == "pallas"


def _backward(cell, how, saved, gradients):
    weights, inputs_tbd, first_bh, outputs_tbh, (inner_t, flat_t), mask_tb, reset_tb, starts = saved
    d_outputs_tbh, d_final = gradients
    own, own_pullback = jax.vjp(lambda own: _own(weights._replace(own=own), how), weights.own)
    fresh = 0 if starts is None else starts.output_bh
    before_tbh = jnp.where(reset_tb[..., None], fresh, befores(first_bh, outputs_tbh, how.reverse))
    (time, batch, hidden), keeps = before_tbh.shape, how.backward == "keep"
    width = (cell.gates + cell.separate) * hidden

    def back(through, own, carry, gates, state, d_output, mask, reset):
        """One step: (carry, (gradient of the gates, and of what the state was set to)).

        `through` makes of the gradient of each gate what is kept of all, and the gradient of the output before.
        """
        d_state, d_own = carry
        d_state = d_state._replace(output_bh=d_state.output_bh + d_output)
        zeros = jax.tree.map(jnp.zeros_like, d_state)
        d_new, d_kept = _where(mask, d_state, zeros), _where(mask, zeros, d_state)
        # Recomputing the pointwise part here is cheaper than reading what its gradient needs from memory.
        _, pullback = jax.vjp(cell.pointwise, tuple(gates), state, own)
        d_gates, d_previous, d_own_now = pullback(d_new)
        d_gates, d_before = through(d_gates)
        d_previous = jax.tree.map(jnp.add, d_previous, d_kept)
        d_previous = d_previous._replace(output_bh=d_previous.output_bh + d_before)
        d_fresh = None if starts is None else _where(reset, d_previous, zeros)
        d_own = jax.tree.map(jnp.add, d_own, d_own_now)
        return (_where(reset, zeros, d_previous), d_own), (d_gates, d_fresh)

    def scan(order, inputs_tbd):
        before_t, d_outputs_t = order.inward((before_tbh, d_outputs_tbh), how)
        turned, back_kernel = order.turned(weights, how), order.back_kernel(weights, how)
        own_inside = order.own(own, batch)

        def through(d_gates):
            # One array, for the product and for what is kept: as two they would be computed twice.
            d_flat = order.flat(d_gates)
            d_recurrent = _split(order, cell, d_flat)[1]
            return d_flat, order.recur_back(back_kernel, how, d_recurrent, before_t[0])

        def body(carry, now):
            sums, d_flat, flat_t = carry
            t, inputs, output, inner, d_output, mask, reset = now
            # The step before's, and only now: what is read from memory next is then never what this step writes, so that
            # XLA, which cannot tell the rows of an array apart, need not copy all of it.
            flat_t = lax.dynamic_update_index_in_dim(flat_t, d_flat, jnp.clip(t - towards, 0, time - 1), 0)
            if keeps:
                gates = order.blocks_at(t, flat_t, output)
            else:  # "recompute": one step's at a time, so that those of all steps never exist
                projected = order.project(turned, how, inputs)
                gates = order.blocks(_gates(order, cell, projected, order.recur(turned, how, output)), output)
            given = gates, State(output, inner), d_output, mask, reset
            sums, (d_flat, d_fresh) = back(through, own_inside, sums, *given)
            return (sums, d_flat, flat_t), d_fresh

        # The gates' gradient is written where the gates were: memory that is neither taken anew nor filled first.
        room = _room(order, width, d_outputs_tbh, d_outputs_tbh.dtype) if flat_t is None else flat_t
        room = room.reshape(time, *order.flat_shape(width, batch))
        first, last, towards = (0, time - 1, 1) if how.reverse else (time - 1, 0, -1)
        begun = (order.inward(d_final, how), jax.tree.map(jnp.zeros_like, own_inside)), room[first], room
        again = None if keeps else order.turn(inputs_tbd)
        inner = jax.tree.map(lambda x: x.reshape(before_t.shape), inner_t)
        now = (
            jnp.arange(time),
            again,
            before_t,
            inner,
            d_outputs_t,
            order.flags(mask_tb),
            order.flags(reset_tb),
        )
        ((d_first, d_own), d_flat, d_flat_t), d_fresh_t = lax.scan(body, begun, now, reverse=not how.reverse)
        d_own = jax.tree.map(lambda d, x: d.reshape(-1, *x.shape).sum(0), d_own, own)
        return order.outward((d_first, d_fresh_t), how), d_own, order.rows(d_flat_t.at[last].set(d_flat))

    def kernel(platform, inputs_tbd):
        def body(constants, carry, now):
            recurrent, own = constants
            gates, state, d_output, mask_1b, reset_1b = now

            def through(d_gates):
                d_recurrent = d_gates[: cell.gates - cell.separate] + d_gates[cell.gates :]
                products = [dot(block, each, how.dtype) for block, each in zip(recurrent, d_recurrent, strict=True)]
                return pallas_kernel.Blocks(d_gates), functools.reduce(jnp.add, products)

            return back(through, own, carry, gates, state, d_output, mask_1b != 0, reset_1b != 0)

        before_t, d_outputs_t, d_final_inside = FeatureMajor.inward((before_tbh, d_outputs_tbh, d_final), how)
        inner = jax.tree.map(lambda x: x.reshape(before_t.shape), inner_t)
        gates_t = flat_t.reshape(time, -1, *before_t.shape[1:])
        constants = cast(_blocks(cell, weights.recurrent_kernel), how.dtype), own
        start = d_final_inside, jax.tree.map(jnp.zeros_like, own)
        now = gates_t, State(before_t, inner), d_outputs_t, _flags(mask_tb), _flags(reset_tb)
        (d_first, d_own), (d_gates_t, d_fresh_t) = _on_chip(
            how, platform, batch, body, constants, start, now, not how.reverse
        )
        return (
            FeatureMajor.outward((d_first, d_fresh_t), how),
            d_own,
            FeatureMajor.rows(d_gates_t.reshape(time, width, batch)),
        )

    default = functools.partial(scan, FeatureMajor)
    (d_first, d_fresh_t), d_own, d_rows_ng = _by_platform(cell, how, weights, inputs_tbd, scan, default, kernel)
    d_projected_ng, d_recurrent_ng = _split(BatchMajor, cell, d_rows_ng)
    inputs_nd = inputs_tbd.reshape(len(d_rows_ng), -1)
    d_weights = Weights(
        kernel=dot(inputs_nd.T, d_projected_ng, how.dtype),
        bias=d_projected_ng.sum(0),
        recurrent_kernel=_recurrent_gradient(how, before_tbh, d_recurrent_ng),
        own=own_pullback(d_own)[0],
    )
    d_inputs_tbd = dot(d_projected_ng, weights.kernel.T, how.dtype).reshape(inputs_tbd.shape)
    return d_weights, d_inputs_tbd, d_first, None, None, d_fresh_t


unroll.defvjp(_forward, _backward)


def _recurrent_gradient(how, before_tbh, d_recurrent_ng):
    before_nh = before_tbh.reshape(len(d_recurrent_ng), -1)
    if how.heads == 1:
        return dot(before_nh.T, d_recurrent_ng, how.dtype)
    heads, of_a_head = units(how, before_nh.shape[-1])
    before_kun = before_nh.T.reshape(heads, of_a_head, -1)
    d_blocks_ngku = d_recurrent_ng.reshape(len(d_recurrent_ng), -1, heads, of_a_head)
    d_recurrent_kng = d_blocks_ngku.transpose(2, 0, 1, 3).reshape(heads, len(d_blocks_ngku), -1)
    return dot(before_kun, d_recurrent_kng, how.dtype)


def _room(order, width, after_tbd, dtype):
    """Memory for every step's gates, taken when `after_tbd` is there.

    What it holds first is never read. Zeros would be one constant for all layers, filled when a program begins, and
    copied for each of them.
    """
    time, batch, _ = after_tbd.shape
    fill = (after_tbd[0, 0, 0] * 0).astype(dtype)
    return jnp.broadcast_to(fill, (time, *order.flat_shape(width, batch)))


def _saved(inner_t, flat_t):
    """What was written inside, for the same order to read: [t, all of a step], as what else runs would have it too."""
    return jax.tree.map(lambda x: x.reshape(len(x), -1), (inner_t, flat_t))


def _gates(order, cell, projected, recurrent):
    """What `pointwise` reads, flat: sums, but for the blocks that stay separate."""
    if not cell.separate:
        return projected + recurrent
    at = (cell.gates - cell.separate) * (projected.shape[order.axis] // cell.gates)
    (x, x_apart), (y, y_apart) = (jnp.split(each, [at], order.axis) for each in (projected, recurrent))
    return jnp.concatenate([x + y, x_apart, y_apart], order.axis)


def _split(order, cell, d_flat):
    """The gradient of (`x W + b`, `y R`) from that of `_gates`."""
    if not cell.separate:
        return d_flat, d_flat
    hidden = d_flat.shape[order.axis] // (cell.gates + cell.separate)
    summed, x_apart, y_apart = jnp.split(
        d_flat, [(cell.gates - cell.separate) * hidden, cell.gates * hidden], order.axis
    )
    return tuple(jnp.concatenate([summed, apart], order.axis) for apart in (x_apart, y_apart))


def _own(weights, how):
    """The cell's own parameters, to broadcast with what is of state, in either order."""
    return jax.tree.map(lambda x: FeatureMajor.inward(x[None], how), weights.own)


def _fresh(cell, how, like: State) -> State:
    """`zero_state` in the shape and type of another state."""
    zero = cell.zero_state(*like.output_bh.shape, how.heads)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), zero, like)


def _where(condition, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


# ---- kernels ----------------------------------------------------------------------------------------------------

# On an H100 an LSTM of 768 units in heads of 32, 64 and 128 takes 0.39, 0.33 and 0.46 of the time of XLA's loop over heads of 64.
UNITS = {"float32": (16, 32, 64), "bfloat16": (16, 32, 64, 128)}  # of a head whose matrices a multiprocessor holds
TILE = 16  # columns of the batch that a program on a GPU has, the fewest of a product there


def _on_chip(how, platform, batch, body, constants, carry, xs, reverse):
    """`pallas_kernel.scan`, a program for each head, on a GPU also for each tile of the batch.

    What has no batch in the carry begins at zero, and is summed over the tiles.
    """

    def scan(constants, carry, xs):
        return pallas_kernel.scan(body, constants, carry, xs, reverse, platform)

    def tiled(constants, carry, xs):
        has = lambda x: x.shape[-1] == batch
        cut = lambda x: x.reshape(*x.shape[:-1], -1, TILE) if has(x) else x
        join = lambda x: x.sum(-2) if x.shape[-1] == 1 else x.reshape(*x.shape[:-2], batch)
        axes = jax.tree.map(lambda x: -2 if has(x) else None, (carry, xs))
        return jax.tree.map(join, jax.vmap(scan, (None, *axes), -2)(constants, *jax.tree.map(cut, (carry, xs))))

    run_one = tiled if platform == "gpu" else scan
    if how.heads == 1:
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
