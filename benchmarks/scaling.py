"""python -m benchmarks.scaling [--rounds=11] [--json=FILE]

How cost grows: forward and backward of one layer against time and batch, for an LSTM and a linear cell, as nanoseconds
for each position; and peak temporary memory, by the compiler's account, of recurrence (each choice of
`config.model.backward`) and head.
"""

import functools
import json

from absl import flags

from benchmarks import contest, recurrence

TIMES, BATCHES, CELLS = (64, 256, 1024, 2048, 4096), (8, 16, 32, 64), ("lstm", "mingru")
WIDTH = 256


def memory() -> dict[str, dict[str, float]]:
    """MiB by case: of gradients of two layers, and of the head."""
    import jax
    import jax.numpy as jnp

    from lm.answers import cross_entropy as head
    from lm.layers.recurrent import RecurrentLayer
    from lm.recurrence import BACKWARD
    from lm.recurrence import CELLS as KNOWN

    found, batch, temporary = (
        {},
        16,
        lambda run, *shapes: run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes,
    )
    for name in CELLS:
        for time in (256, 1024, 4096):
            given = KNOWN[name].zero_state(batch, WIDTH), jnp.ones((time, batch), bool), jnp.zeros((time, batch), bool)
            inputs = jax.ShapeDtypeStruct((time, batch, WIDTH), jnp.float32)
            row = found.setdefault(f"{name} 2 layers B {batch} T {time}", {})
            for backward in BACKWARD:
                layer = RecurrentLayer(KNOWN[name], WIDTH, WIDTH, backward=backward)
                unroll = functools.partial(layer.apply, method="unroll")
                variables = jax.eval_shape(
                    functools.partial(layer.init, method="unroll"), jax.random.key(0), inputs, *given
                )
                value = lambda v, x, unroll=unroll, given=given: jnp.sum(unroll(v, unroll(v, x, *given)[0], *given)[0])
                row[backward] = temporary(jax.jit(jax.grad(value)), variables, inputs) / 2**20
    for vocab in (10_000, 30_000, 100_000):
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 1, 512), (512, vocab), (vocab,), (2048, 1))]
        ids = jax.ShapeDtypeStruct((2048, 1), jnp.int32)
        value = lambda x, k, b, w, ids: head.cross_entropy(x, (k, b), ids, w)[0]
        row = found.setdefault(f"head V {vocab} B*T 2,048", {})
        row["head"] = temporary(jax.jit(jax.grad(value, (0, 1, 2))), *shapes, ids) / 2**20
        row["all logits"] = 2048 * vocab * 4 / 2**20
    return found


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        contest.serve(recurrence.lm(json.loads(values.case), values.as_contestant.split()[1]))
        return
    figures, names = {}, [f"lm {name}" for name in CELLS]
    cases = {f"T {time} B 16": (time, 16) for time in TIMES} | {f"T 64 B {batch}": (64, batch) for batch in BATCHES}
    results = {}
    for name, (time, batch) in cases.items():
        case = {"width": WIDTH, "batch": batch, "time": time}
        seconds = contest.race("benchmarks.scaling", names, case)
        results[name] = {who: [each / time / batch for each in taken] for who, taken in seconds.items()}
    figures["nanoseconds a position"] = contest.report("Each position", results, 1e9, "ns")
    figures["MiB"] = memory()
    for case, row in figures["MiB"].items():
        print(f"{case:34}" + "  ".join(f"{name} {value:.1f} MiB" for name, value in row.items()))
    contest.write(figures)


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
