"""Reading the arrays of a checkpoint, which Orbax wrote, with TensorStore alone.

Importing Orbax's own reader imports 290 modules that write and manage checkpoints, and opening a run does not need
them. The format is documented by Orbax: the file `_METADATA` lists the arrays, and each is a zarr array in an OCDBT
database.
"""

import hashlib
import json
import math
import zlib
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax.traverse_util import flatten_dict

from lm import files, json_files
from lm.devices import memory

Path = tuple[str, ...]  # the keys of an array in its tree; indices of sequences are texts


_ENTRY = {"key_metadata": [{"key": (str, int)}], "value_metadata": {"skip_deserialize": bool}}
_FORM = {"tree_metadata": {str: _ENTRY}, "use_ocdbt": bool, "use_zarr3": bool}


def opened(item: epath.Path) -> dict[Path, tensorstore.TensorStore]:
    """Returns handles of the arrays of an item, e.g. `checkpoints/100/params`, with shapes and types but no values.

    Raises:
        UserError: a file is not regular, or `_METADATA` is malformed.
        ValueError: the arrays have another format, or need more memory than the machine has. Damaged files may raise
            other errors.
    """
    files.require_regular_below(item)  # TensorStore would wait for a pipe
    metadata = json_files.read(item / "_METADATA", "JSON file of a run", _FORM, "move the checkpoint away")
    if not metadata["use_ocdbt"]:
        raise ValueError("its arrays are in separate files, not in an OCDBT database")
    driver = "zarr3" if metadata["use_zarr3"] else "zarr"
    entries = metadata["tree_metadata"].values()
    paths = [
        tuple(str(each["key"]) for each in entry["key_metadata"])
        for entry in entries
        if not entry["value_metadata"]["skip_deserialize"]  # an empty subtree
    ]
    context = tensorstore.Context()  # shared, so that the database is opened once
    waiting = {path: tensorstore.open(_spec(item, driver, path), context=context, read=True) for path in paths}
    found = {path: each.result() for path, each in waiting.items()}
    size = sum(math.prod(array.shape) * array.dtype.numpy_dtype.itemsize for array in found.values())
    if size > memory.of_machine():
        raise ValueError(
            f"its arrays have {size / 2**30:,.1f} GiB by their metadata, more memory than this machine has"
        )
    for path, array in found.items():
        if math.prod(array.chunk_layout.read_chunk.shape or ()) > math.prod(max(1, length) for length in array.shape):
            raise ValueError(f"{'/'.join(path)} has chunks larger than itself by its metadata")
    return found


def read(arrays: dict[Path, tensorstore.TensorStore]) -> dict[Path, np.ndarray]:
    """Returns the values of arrays, which are read concurrently."""
    waiting = {path: array.read() for path, array in arrays.items()}
    return {path: each.result() for path, each in waiting.items()}


def path_of(keys: tuple[Any, ...]) -> Path:
    """Returns the path of a leaf of a JAX tree, with keys as Orbax writes them."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def digest(array: np.ndarray) -> int:
    """Returns the CRC-32 of an array's type, shape and bytes; it reads about 3 GB/s, and a flipped bit changes it."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return zlib.crc32(content, zlib.crc32(f"{array.dtype} {array.shape}".encode()))


def digest_of_json(content: Any) -> int:
    """Returns the CRC-32 of a JSON value, independent of the order of its names and of its layout."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def fingerprint(params: Any) -> str:
    """Returns a fingerprint (16 hexadecimal digits) of the names, shapes, types and bytes of parameters."""
    found = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(params, sep="/").items()):
        found.update(f"{name} {leaf.shape} {leaf.dtype}".encode() + np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def tree_of(arrays: dict[Path, Any]) -> dict[str, Any]:
    """Returns arrays by path as a tree of nested dictionaries."""
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
    # By default a missing chunk is read as zeros; here it must be an error.
    return {"driver": driver, "kvstore": database, "fill_missing_data_reads": False}
