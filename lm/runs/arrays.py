"""The arrays of a checkpoint that Orbax wrote, read by TensorStore alone.

Orbax's own reader comes with all that writes and manages checkpoints, 290 modules, which opening a run would import.
The format is Orbax's documented one: `_METADATA` names the arrays, each is a zarr array in an OCDBT database.
"""

import json
from typing import Any

import numpy as np
import tensorstore
from etils import epath

Path = tuple[str, ...]  # the keys of an array in its tree, those of sequences as text


def opened(item: epath.Path) -> dict[Path, tensorstore.TensorStore]:
    """Returns the arrays of an item, e.g. `checkpoints/100/params`, with their shapes and types; none is read yet."""
    metadata = json.loads((item / "_METADATA").read_text(encoding="utf-8"))
    if not metadata["use_ocdbt"]:
        raise ValueError("its arrays are in files of their own, not in a database")
    driver = "zarr3" if metadata["use_zarr3"] else "zarr"
    entries = metadata["tree_metadata"].values()
    paths = [
        tuple(str(each["key"]) for each in entry["key_metadata"])
        for entry in entries
        if not entry["value_metadata"]["skip_deserialize"]  # an empty part of the tree
    ]
    context = tensorstore.Context()  # the database is looked up once for all arrays
    waiting = {path: tensorstore.open(_spec(item, driver, path), context=context, read=True) for path in paths}
    return {path: each.result() for path, each in waiting.items()}


def read(arrays: dict[Path, tensorstore.TensorStore]) -> dict[Path, np.ndarray]:
    """Returns the values of arrays, all read at once."""
    waiting = {path: array.read() for path, array in arrays.items()}
    return {path: each.result() for path, each in waiting.items()}


def tree_of(arrays: dict[Path, Any]) -> dict[str, Any]:
    """Returns the tree as nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = array
    return tree


def _spec(item: epath.Path, driver: str, path: Path) -> dict[str, Any]:
    base = f"{item}/" if "://" in str(item) else {"driver": "file", "path": f"{item}/"}
    database = {"driver": "ocdbt", "base": base, "path": ".".join(path) + "/", "cache_pool": "cache_pool"}
    # A part that is missing is an error, not zeros.
    return {"driver": driver, "kvstore": database, "fill_missing_data_reads": False}
