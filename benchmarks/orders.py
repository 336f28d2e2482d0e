"""python -m benchmarks.orders [--rounds=11] [--json=FILE]

Measures the second memory order of the gated engine (`BatchMajor` in `lm/recurrence/gated/order.py`) on a CPU: whole
training steps of `benchmarks.train` with it and without it, with one device and with a simulated device per core, in
turns.
"""

import functools
import json
import math
import os

from absl import flags

from benchmarks import contest, train

SHAPES = {
    "lstm H 128": {"cell": "lstm", "width": 128, "batch": 32},
    "lstm H 256": {"cell": "lstm", "width": 256, "batch": 32},
    "lstm H 256 B 16": {"cell": "lstm", "width": 256, "batch": 16},
    "gru H 256": {"cell": "gru", "width": 256, "batch": 32},
}
CASES = {name: {"vocab": 1000, "time": 64, **shape} for name, shape in SHAPES.items()}


def lm(case: dict, batch_major: bool = True, by_cores: bool = False):
    import jax

    from lm.recurrence import CELLS

    CELLS[case["cell"]].batch_major = batch_major  # this process has no other contestant
    devices = math.gcd(len(jax.local_devices()), case["batch"]) if by_cores else 1
    return train.lm(case, case["cell"], devices)


CONTESTANTS = {
    "lm both orders": lm,
    "lm feature-major": functools.partial(lm, batch_major=False),
    "lm both, by cores": functools.partial(lm, by_cores=True),
    "lm feature, by cores": functools.partial(lm, batch_major=False, by_cores=True),
}


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        if values.as_contestant.endswith("by cores"):
            import jax

            jax.config.update("jax_num_cpu_devices", os.cpu_count())
        contest.serve(CONTESTANTS[values.as_contestant](json.loads(values.case)))
        return
    results = {name: contest.race("benchmarks.orders", list(CONTESTANTS), case, 3) for name, case in CASES.items()}
    contest.write({"memory orders": contest.report("A step of training", results)})


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
