"""The notebook `docs/tour.ipynb`, executed as it is."""

import json
import os
import sys

import pytest
from support.programs import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def test_the_saved_outputs_of_the_tour_are_whole():
    """Without an error, and with all that a reader sees: the curve, the samples, the attention and the scores."""
    cells = [cell for cell in json.loads(TOUR.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["outputs"] for cell in cells)
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= shown


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
