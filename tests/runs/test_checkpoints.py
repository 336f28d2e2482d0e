"""What Orbax wrote is what TensorStore alone reads."""

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath

from lm.errors import UserError
from lm.runs.checkpoints import Checkpoints, Damaged, any_in


class Moments(NamedTuple):
    count: np.ndarray
    mean: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trees():
    rng = np.random.default_rng(0)
    params = {"encoder": {"kernel": rng.normal(size=(3, 5)).astype(np.float32)}, "scale": np.float32(2) * np.ones(())}
    mean = {"kernel": rng.normal(size=4).astype(jnp.bfloat16)}
    rest = {"state": (None, [Moments(np.array(7, np.int32), mean), ()]), "step": np.array(4), "zeros": np.zeros((2, 2))}
    return params, rest


@pytest.fixture(scope="module")
def saved(trees, tmp_path_factory):
    directory = epath.Path(tmp_path_factory.mktemp("saved"))
    checkpoints = Checkpoints(directory, keep=2)
    for step in (1, 3, 4, 9):
        checkpoints.save(step, *trees, {"best_step": 3})
    checkpoints.wait()
    checkpoints.close()
    (directory / "11.orbax-checkpoint-tmp").mkdir()
    return directory


def equal(a, b) -> bool:
    """Whether two trees have the same structure and the same arrays, bit for bit."""
    same = lambda x, y: (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(jax.tree.map(same, a, b)))


def test_what_was_saved_is_restored_in_its_own_structure_and_as_orbax_restores_it(saved, trees):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [3, 4, 9]  # the last two and the best
    params, rest, progress = checkpoints.restore(4, *trees)
    assert equal(params, trees[0]) and equal(rest, trees[1]) and progress == {"best_step": 3}
    for item in ("params", "rest"):
        orbax = ocp.StandardCheckpointer().restore(saved / "4" / item)
        ours = checkpoints.arrays(4, item)
        assert equal(jax.tree.leaves(ours), [np.asarray(leaf) for leaf in jax.tree.leaves(orbax)])


def test_a_checkpoint_of_other_shapes_is_refused_by_the_name_of_the_array(saved, trees):
    for change, words in (
        (
            {"encoder": {"kernel": np.zeros((3, 6))}},
            r"encoder/kernel has shape \(3, 5\), but in this model it has shape \(3, 6\)",
        ),
        ({"more": np.zeros(2)}, r"more is missing, but in this model it has shape \(2,\)"),
    ):
        with pytest.raises(UserError, match=words):
            Checkpoints(saved).restore(4, trees[0] | change)
    with pytest.raises(UserError, match=r"scale has shape \(\), but in this model it is missing"):
        Checkpoints(saved).restore(4, {"encoder": trees[0]["encoder"]})


def test_what_is_missing_of_an_array_is_no_zeros(saved, trees, tmp_path):
    """Not even where the database of a checkpoint is whole and only says nothing of the values."""
    directory = epath.Path(tmp_path / "copy")
    shutil.copytree(saved, directory)
    base = {"driver": "file", "path": f"{directory}/4/params/"}
    database = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    (chunk,) = [key for key in database.list().result() if key.startswith(b"encoder.kernel/0")]
    database.delete_range(tensorstore.KvStore.KeyRange(chunk, chunk + b"\0")).result()
    with pytest.raises(Damaged, match="cannot be read"):
        Checkpoints(directory).restore(4, trees[0])


def test_only_directories_that_are_named_as_a_step_are_checkpoints(tmp_path):
    for name in ("6", "012", "7.tmp", "\u00b2"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").touch()
    assert Checkpoints(epath.Path(tmp_path)).steps() == [6] and any_in(epath.Path(tmp_path))
