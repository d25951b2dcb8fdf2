"""`--repair`: open mesh files are closed on request only, and it is told and recorded."""

import json
import re
import sys

import numpy as np
import pytest
import small
import trimesh

from shapefit import cli
from shapefit.io.case import read_case
from shapefit.io.mesh import read_closed, read_mesh, read_surfaces, write_mesh
from shapefit.mesh import require_closed
from shapefit.settings import MeshSettings

REPAIR = MeshSettings(repair=True)
TOLD = r"shapefit: {}sacrum: repaired \(3 boundary edges\): 1 hole\(s\) filled, the largest .* mm across;"


@pytest.fixture
def case(tmp_path):
    """Three bones, of which the sacrum lacks a face."""
    folder = small.write_case(tmp_path / "case", 1)
    mesh = small.case_surfaces(1)["sacrum"]
    write_mesh(folder / "sacrum.ply", trimesh.Trimesh(mesh.vertices, mesh.faces[1:], process=False))
    return folder


@pytest.fixture
def shapefit(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["shapefit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    return run


def test_an_open_file_is_an_error_that_says_how_to_repair_it(case):
    said = r"sacrum\.ply is not closed: 3 boundary edges; repair it, or pass --repair"
    for read in (read_mesh, read_closed, lambda path: read_closed(path, MeshSettings())):
        with pytest.raises(ValueError, match=said):
            read(case / "sacrum.ply")
    with pytest.raises(ValueError, match=said):
        read_surfaces(case)
    with pytest.raises(ValueError, match=said):
        read_case(case)


def test_an_open_file_is_closed_on_request_and_its_finding_kept(case):
    mesh, findings = read_closed(case / "sacrum.ply", REPAIR)
    require_closed(mesh)
    assert len(findings.holes) == 1 and mesh.volume == pytest.approx(
        small.case_surfaces(1)["sacrum"].volume, 1e-3
    )
    read = read_case(case, meshes=REPAIR)
    assert list(read.warnings()) == ["sacrum"] and "repaired" in read.warnings()["sacrum"][0]
    assert np.array_equal(read.surfaces["hip_left"].faces, read_mesh(case / "hip_left.ply").faces)
    assert read_closed(case / "hip_left.ply", REPAIR)[1] is None


def test_a_hole_too_wide_is_an_error_that_names_the_file(case):
    with pytest.raises(ValueError, match=r"sacrum\.ply has 1 hole\(s\) wider than 1 mm.*--max-hole"):
        read_closed(case / "sacrum.ply", MeshSettings(repair=True, max_hole=1.0))


def test_render_repairs_on_request(shapefit, case, tmp_path):
    camera = small.write_xray(tmp_path / "xray", seed=1)["camera"]
    arguments = ("render", case, "--camera", camera, "-o", tmp_path / "paths.npy")
    status, said = shapefit(*arguments)
    assert status == 2 and "repair it, or pass --repair" in said
    assert not (tmp_path / "paths.npy").exists()
    status, said = shapefit(*arguments, "--repair")
    assert status == 0 and re.search(TOLD.format(""), said)
    # the patch is the face that was missing
    whole = small.write_case(tmp_path / "whole", 1)
    assert shapefit("render", whole, *arguments[2:-1], tmp_path / "whole.npy")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "paths.npy"), np.load(tmp_path / "whole.npy"), atol=1e-4)
    status, said = shapefit("render", case / "sacrum.ply", *arguments[2:], "--repair")
    assert status == 0 and re.search(TOLD.format(""), said)


def test_project_and_evaluate_repair_on_request_and_record_it(shapefit, case, tmp_path):
    model = small.write_small_model(tmp_path / "small.h5")
    quick = ("--samples", 1500, "--starts", 1, "--rigid-steps", 3, "--steps", 3)
    status, said = shapefit("project", model, case, *quick, "-o", tmp_path / "out", "--repair")
    assert status == 0 and re.search(TOLD.format(""), said)
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert list(record["findings"]) == ["sacrum"]
    out, made = tmp_path / "out", tmp_path / "measured"
    arguments = ("evaluate", out, "--reference", case, "--samples", 500, "-o", made)
    status, said = shapefit(*arguments)
    assert status == 2 and "repair it, or pass --repair" in said
    status, said = shapefit(*arguments, "--repair")
    assert status == 0 and re.search(TOLD.format("out/"), said)
    table = json.loads((made / "metrics.json").read_text())
    assert list(table["records"][0]["findings"]) == ["sacrum"]


def test_build_reads_repaired_cases_on_request(shapefit, case, tmp_path, monkeypatch):
    seen = []

    def given(cases, settings, labels, progress, pieces, failures):
        seen.append(([read.name for read in cases], failures))
        if failures:
            raise ValueError("one failed")
        return small.small_model(3), {"id": "small"}

    monkeypatch.setattr("shapefit.jobs.build.build_model", given)
    made = tmp_path / "made" / "model.h5"
    arguments = ("build", case, small.write_case(tmp_path / "other", 2), "-o", made, "--workers", "1")
    assert shapefit(*arguments)[0] == 2
    assert shapefit(*arguments, "--repair", "--max-hole", "30")[0] == 0
    (as_they_are, failures), (repaired, none) = seen
    assert as_they_are == ["other"] and "repair it, or pass --repair" in failures["case"]
    assert repaired == ["case", "other"] and not none
    findings = json.loads(made.with_suffix(".card.json").read_text())["findings"]
    assert list(findings) == ["case"] and list(findings["case"]) == ["sacrum"]
