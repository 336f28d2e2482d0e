"""Memory: a check that a model fits, a table of its memory by module, and settings of the C library's allocator."""

import collections
import ctypes
import math
import os
import platform
from typing import Any

import jax

from lm.devices.mesh import Devices
from lm.errors import UserError

MIB = 2**20


def _keeps() -> bool:
    """Returns whether the allocator is that of glibc, and the user has set no `MALLOC_...` variable."""
    return platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ)


def keep() -> None:
    """Makes glibc keep freed memory for reuse, in few arenas.

    By default glibc returns large arrays to Linux, which clears their pages again at each step; `python -m
    benchmarks.train --allocator=system` measures the cost. With its default number of arenas, memory grows for hours as
    they fill up (`python -m benchmarks.soak`).
    """
    if _keeps():
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no array gets its own mapping
        libc.mallopt(-8, max(1, (os.cpu_count() or 1) // 2))  # M_ARENA_MAX; the default is sixteen times as large
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the end of the heap is not returned


def give_back() -> None:
    """Returns free memory to Linux once, as memory of each thread of an evaluation or checkpoint would add up."""
    if _keeps():
        ctypes.CDLL(None).malloc_trim(0)


def of_machine() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require(params: Any, state: Any, devices: Devices) -> None:
    """Raises `UserError` if a model cannot fit into memory, before it is created.

    Args:
        params: the shapes of the parameters.
        state: the shapes of the `TrainState`.
        devices: the devices of the run.
    """
    size = lambda tree: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    each = (size(params) + size(state)) // devices.shards  # per device; gradients have the shapes of the parameters
    local = jax.local_devices()
    own = (local[0].memory_stats() or {}).get("bytes_limit", 0)  # 0 on a CPU, which uses the machine's memory
    there = of_machine()
    for where, needed, limit in (
        ("a device", each if own else 0, own),
        ("this machine", size(params) + (0 if own else each * min(len(local), len(devices))), there),
    ):
        if needed > limit:
            shown = [f"{amount / 2**30:,.1f} GiB" for amount in (needed, limit)]
            reason = f"needs {shown[0]} for parameters, gradients and optimizer, and {where} has {shown[1]}"
            raise UserError(
                "config.model", reason, "lower model.hidden_dim, model.embed_dim, model.layers or vocab_size"
            )


def by_module(state: Any, temporary: int) -> list[str]:
    """Returns the lines of a table of the memory that a device needs for a `TrainState`, by module, in MiB.

    The last line has the carried state, and the `temporary` bytes of a step.
    """
    columns = {"parameters": state.params, "optimizer": state.opt_state, "average": state.averaged}
    held: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for column, tree in columns.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = [getattr(key, "key", None) for key in path]
            module = next((name for name in names if name in state.params), "counters")
            held[module][column] += leaf.addressable_data(0).nbytes
    carried = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(state.carry))
    row = lambda name, cells: f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells)
    lines = [row("MiB per device", columns)]
    for module, counts in held.items():
        lines.append(row(module, [f"{counts[column] / MIB:.3f}" for column in columns]))
    total = [sum(counts[column] for counts in held.values()) for column in columns]
    lines.append(row("all", [f"{count / MIB:.3f}" for count in total]))
    lines.append(f"carried state {carried / MIB:.3f}; a step needs {temporary / MIB:.1f} more, as the compiler reports")
    return lines
