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


def scene_coordinates(text: str) -> None:
    errors = [float(found) for found in re.findall(r"median error +([\d.]+) mm", text)]
    assert len(errors) == 4 and errors[-1] < 0.8 * errors[0]  # so small a network learns, if not much
    assert re.search(r"^(not )?found - ", text, re.MULTILINE)
    assert re.search(r"mm off across the beam; expected ", text)


EXPECTED = {  # notebook -> what its text must say
    "whole_path": whole_path,
    "shape_model": shape_model,
    "scene_coordinates": scene_coordinates,
}
SMALLER = {  # a line of a notebook, and what stands for it here, to be done sooner
    "scene_coordinates": ("COUNT, STEPS, PIXELS = 1500, 1000, 64", "COUNT, STEPS, PIXELS = 100, 60, 32"),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    if path.stem in SMALLER:
        large, small = SMALLER[path.stem]
        (cell,) = (cell for cell in notebook.cells if large in cell.source)
        cell.source = cell.source.replace(large, small)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    EXPECTED[path.stem]("".join(output.get("text", "") for output in outputs))
