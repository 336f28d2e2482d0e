"""The notebook `docs/tour.ipynb`, executed as it is."""

import os
import sys

import pytest
from support.programs import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs_and_its_model_translates(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")  # of the extra `docs`
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):  # as in a user's notebook: one device, optimized
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(TOUR, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, coalesce_streams=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert (tmp_path / "runs" / "tour" / "curve.png").exists()
    assert "七位医生很聪明。" in printed and "right: " in printed
    tables = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("<table>" in output["data"].get("text/html", "") for output in tables)
