"""Initial parameters: their distributions, and that they depend on the seed alone."""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.programs import ROOT

from lm.config import ModelConfig
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.parameters import initial_params
from lm.recurrence import CELLS, initial


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 100])
def test_an_orthogonal_matrix_is_orthogonal(size):
    matrix = initial.orthogonal(np.random.default_rng(size), size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-13)


def test_orthogonal_matrices_are_uniformly_distributed():
    """The moments of Haar's measure: of an entry, of its square, of the trace and of its square; signs of determinants alike."""
    random = np.random.default_rng(0)
    many = np.stack([initial.orthogonal(random, 3) for _ in range(4000)])
    traces = many.trace(axis1=1, axis2=2)
    for found, expected in [
        (many.mean(axis=0), 0),
        ((many**2).mean(axis=0), 1 / 3),
        ((many**4).mean(axis=0), 1 / 5),
        (traces.mean(), 0),
        ((traces**2).mean(), 1),
        (np.sign(np.linalg.det(many)).mean(), 0),
    ]:
        np.testing.assert_allclose(found, expected, atol=0.08)


def test_blocks_are_orthogonal_each_and_differ():
    kernel = np.asarray(initial.orthogonal_blocks(jax.random.key(1), (2, 8, 24)))
    blocks = kernel.reshape(2, 8, 3, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-6)
    assert all(np.abs(one - other).max() > 0.1 for one, other in itertools.combinations(blocks, 2))


def test_a_kernel_has_variance_one_over_its_inputs_and_no_outliers():
    kernel = np.asarray(initial.lecun_normal(jax.random.key(0), (64, 2048)))
    np.testing.assert_allclose(kernel.std(), 64**-0.5, rtol=0.01)
    assert abs(kernel.mean()) < 1e-3 and np.abs(kernel).max() < 2.28 * 64**-0.5
    np.testing.assert_allclose(np.asarray(initial.normal(3.0)(jax.random.key(0), (99999,))).std(), 3, rtol=0.01)


def test_each_parameter_and_each_seed_has_draws_of_its_own():
    model = EncoderDecoder(ModelConfig(embed_dim=8, hidden_dim=8, layers=3), 8, "text")
    kernels = [x for seed in (0, 1) for x in jax.tree.leaves(initial_params(model, seed)) if x.ndim > 1]
    first = [float(x[0, 0]) for x in kernels]
    assert len(set(first)) == len(first) > 20


VARIANTS = [dict(cell=name, heads=heads) for name in CELLS for heads in (1, 2)]
VARIANTS += [
    dict(attention="dot", copy=True),
    dict(attention="additive", self_attention=3, tied=True),
    dict(lora_rank=2),
]


def model_of(width: int, **changes) -> EncoderDecoder:
    return EncoderDecoder(ModelConfig(embed_dim=width, hidden_dim=width, layers=1, **changes), 50, "text")


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_no_parameter_is_drawn_on_a_device(changes):
    traced = str(jax.make_jaxpr(lambda: initial_params(model_of(4, **changes), 0))())
    assert "pure_callback[" in traced
    assert not re.findall(r"\b(random_bits|erf_inv|geqrf|householder_product|qr)\[", traced)


def fingerprints(widths: list[int]) -> dict[str, str]:
    """Of the initial parameters of each variant; only LSTM, the widest layers."""
    found = {}
    for width in widths:
        for changes in VARIANTS if width < 100 else VARIANTS[:1]:
            leaves = jax.tree.leaves(initial_params(model_of(width, **changes), 7))
            digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()
            found[f"{width} {json.dumps(changes)}"] = digest
    return found


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"), reason="there is one core")
def test_cores_threads_and_devices_change_no_bit():
    lines = "import sys; sys.path[:0] = ['.', 'tests', 'tests/models']; import test_initial as t"
    script = f"{lines}; print(t.json.dumps(t.fingerprints([32, 256, 700])))"
    core, found = str(min(os.sched_getaffinity(0))), []
    for before, changes in [
        ([], {}),
        (["taskset", "-c", core], {}),
        ([], {"OPENBLAS_NUM_THREADS": "1"}),
        ([], {"OPENBLAS_NUM_THREADS": "4", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}),
    ]:
        given = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | changes
        done = subprocess.run(
            [*before, sys.executable, "-c", script], cwd=ROOT, env=given, capture_output=True, check=True
        )
        found.append(json.loads(done.stdout))
    assert len(found[0]) == len(VARIANTS) + 2
    assert all(each == found[0] for each in found)
