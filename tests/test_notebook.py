import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def whole_path(text: str) -> None:
    assert "converged" in text
    similar = next(line for line in text.splitlines() if line.startswith("similarity"))
    assd = float(similar.split("ASSD ")[1].split(",")[0])
    assert assd < 1.5


def shape_model(text: str) -> None:
    assert "2 flagged (1 wrong side, 1 islands)" in text
    assert "7 patients" in text
    mean, posterior = (float(found) for found in re.findall(r": ([\d.]+) mm from the truth", text))
    assert posterior < 0.3 * mean
    assert float(re.search(r"read again: .* (\S+) mm apart", text)[1]) < 1e-4  # files hold float32


EXPECTED = {"whole_path": whole_path, "shape_model": shape_model}  # notebook -> what its text must say


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    EXPECTED[path.stem]("".join(output.get("text", "") for output in outputs))
