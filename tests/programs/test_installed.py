"""The package where there is no checkout: `.ci/run` builds the wheel and installs it; here its files are laid out alike."""

import os
import shutil
import subprocess
import sys

import pytest
from support.programs import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a program of the package in an empty folder."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "lm", site / "lm")
    shutil.copytree(ROOT / "configs", site / "lm" / "configs")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-P", "-m", *arguments]
        return subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=600
        )

    return run


@pytest.mark.parametrize("name", ["shakespeare", "configs/shakespeare.py", "pipelines/tinyworld:translate"])
def test_a_configuration_is_found_by_its_name_where_there_is_no_checkout(installed, name):
    done = installed("lm.train", f"--config={name}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"The values shown are those of {name}." in done.stdout


def test_an_unknown_name_lists_the_nearest(installed):
    done = installed("lm.train", "--config=shakespear")
    assert done.returncode == 2
    assert "did you mean shakespeare?" in done.stderr and done.stderr.count("\n") == 1


def test_every_program_of_the_package_has_help(installed):
    for program in ("lm.train", "lm.sample"):
        done = installed(program, "--help")
        assert done.returncode == 0 and "--workdir" in done.stdout, done.stderr
