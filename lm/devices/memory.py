"""Memory: what a model takes, asked before any is taken; what it took, by module; how the C library keeps it."""

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
    """Whether the allocator is glibc's, with no MALLOC_ variable of the user's own."""
    return platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ)


def keep() -> None:
    """glibc keeps what is freed: it would give large arrays back to Linux, which clears them page by page at each step anew.
    And it keeps it in fewer places, or these fill up one by one for hours (`python -m benchmarks.soak`).

    Measured by `python -m benchmarks.train --allocator=system`.
    """
    if _keeps():
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no array has a mapping of its own
        libc.mallopt(-8, max(1, (os.cpu_count() or 1) // 2))  # M_ARENA_MAX; its own is sixteen times that
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the end of the heap is not given back


def give_back() -> None:
    """What is free, once: every thread's part of an evaluation or of a checkpoint would stay where it was, and add up."""
    if _keeps():
        ctypes.CDLL(None).malloc_trim(0)


def of_machine() -> int:
    """Returns how many bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require(params: Any, state: Any, devices: Devices) -> None:
    """Raises `UserError` for a model that cannot fit, before it is made: `params` and the `TrainState` are shapes."""
    size = lambda tree: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    each = (size(params) + size(state)) // devices.shards  # of a device; the gradients are like the parameters
    local = jax.local_devices()
    own = (local[0].memory_stats() or {}).get("bytes_limit", 0)  # a CPU has the machine's
    there = of_machine()
    for where, needed, limit in (
        ("a device", each if own else 0, own),
        ("this machine", size(params) + (0 if own else each * min(len(local), len(devices))), there),
    ):
        if needed > limit:
            shown = [f"{amount / 2**30:,.1f} GiB" for amount in (needed, limit)]
            reason = f"parameters, gradients and optimizer take {shown[0]}, and {where} has {shown[1]}"
            raise UserError(
                "config.model", reason, "lower model.hidden_dim, model.embed_dim, model.layers or vocab_size"
            )


def by_module(state: Any, temporary: int) -> list[str]:
    """Lines of a table: what a device holds of a `TrainState`, in MiB; and `temporary` bytes of a step beside it."""
    columns = {"parameters": state.params, "optimizer": state.opt_state, "average": state.averaged}
    held: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for column, tree in columns.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = [getattr(key, "key", None) for key in path]
            module = next((name for name in names if name in state.params), "counters")
            held[module][column] += leaf.addressable_data(0).nbytes
    carried = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(state.carry))
    row = lambda name, cells: f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells)
    lines = [row("MiB a device", columns)]
    for module, counts in held.items():
        lines.append(row(module, [f"{counts[column] / MIB:.3f}" for column in columns]))
    total = [sum(counts[column] for counts in held.values()) for column in columns]
    lines.append(row("all", [f"{count / MIB:.3f}" for count in total]))
    lines.append(
        f"carried state {carried / MIB:.3f}; a step takes {temporary / MIB:.1f} more, by the compiler's account"
    )
    return lines
