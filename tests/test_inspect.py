"""`shapefit inspect`: what it writes, what it says, and what its page does."""

import base64
import csv
import io
import json
import pickle
import re
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest
import small
import torch
import trimesh
from chromium import run_page
from PIL import Image

from shapefit import cli
from shapefit.inspection import inspect_labels
from shapefit.inspection_flags import flags_of
from shapefit.io.mesh import write_mesh
from shapefit.jobs.inspect import inspect_job, look_at
from shapefit.report.colours import rgb
from shapefit.report.inspect import Looked, inspection_page, summary
from shapefit.report.thumbnail import ALERT, bounds, painted_labels, painted_meshes, thumbnail
from shapefit.settings import InspectSettings
from shapefit.volume import Volume

LABELS = [f"{name}={label}" for name, label in small.LABELS.items()]
# the small bones are a third of a pelvis and stand on their heads: sacra above, no foramina
QUICK = InspectSettings(picture=80, workers=1, tunnel=3.0, border=10.0, smallest=50)


def spoilt(source: Path, target: Path, spoil) -> Path:
    image = nibabel.load(source)
    array, affine = spoil(np.asarray(image.dataobj).copy(), image.affine.copy())
    made = nibabel.Nifti1Image(array, affine)
    made.set_sform(affine, 1)
    nibabel.save(made, target)
    return target


def with_island(array, affine):
    array[:4, :4, :4] = 2
    return array, affine


def cut_below(array, affine):
    lowest = np.argwhere(array)[:, 2].min()
    return array[:, :, lowest + 6 :].copy(), affine


def swapped(array, affine):
    return np.array([0, 1, 3, 2], array.dtype)[array], affine


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Path]:
    """Six sound cases, several spoilt ones, meshes."""
    place = tmp_path_factory.mktemp("cases")
    found = {f"good{n}": small.write_label_map(place / f"good{n}.nii.gz", n, voxel=2.0) for n in range(6)}
    for name, spoil in {"island": with_island, "cut": cut_below, "swapped": swapped}.items():
        source = small.write_label_map(place / "source.nii.gz", 10 + len(found), voxel=2.0)
        found[name] = spoilt(source, place / f"{name}.nii.gz", spoil)
    (place / "broken.nii.gz").write_bytes(found["good0"].read_bytes()[:300])
    found["broken"] = place / "broken.nii.gz"
    found["absent"] = place / "absent.nii.gz"
    folder = place / "meshes"
    for name, mesh in small.case_surfaces(20, 2).items():
        if name == "hip_right":
            mesh = trimesh.Trimesh(mesh.vertices, mesh.faces[4:], process=False)
        write_mesh(folder / f"{name}.ply", mesh)
    found["meshes"] = folder
    return found


@pytest.fixture(scope="module")
def looked(cases, tmp_path_factory) -> tuple[dict, Path]:
    """The record of a run over all of them, and its folder."""
    out = tmp_path_factory.mktemp("wall") / "out"
    return inspect_job(list(cases.values()), dict(small.LABELS), out, QUICK, command="shapefit inspect"), out


def kinds_of(table: dict) -> dict[str, set[str]]:
    ignored = {"hole"}  # of hips without foramina
    return {case["case"]: {flag["kind"] for flag in case["flags"]} - ignored for case in table["cases"]}


def test_each_case_gets_the_flag_that_it_deserves(looked):
    kinds = kinds_of(looked[0])
    assert all(kinds[f"good{n}"] == set() for n in range(6)), kinds
    assert "island" in kinds["island"]
    assert "cropped" in kinds["cut"]
    assert "side" in kinds["swapped"] and "side" not in kinds["cut"]
    assert kinds["broken"] == kinds["absent"] == {"unreadable"}
    assert "open" in kinds["meshes"]


def test_the_record_says_where_why_and_how_much(looked):
    by_name = {case["case"]: case for case in looked[0]["cases"]}
    (cut,) = [f for f in by_name["cut"]["flags"] if f["kind"] == "cropped" and f["structure"] == "hip_left"]
    assert cut["value"] > cut["threshold"] == QUICK.border and cut["unit"] == "mm^2"
    assert "bottom" in cut["reason"]
    assert "not a readable NIfTI" in by_name["broken"]["error"]
    assert "does not exist" in by_name["absent"]["error"]
    assert by_name["good0"]["findings"]["structures"]["sacrum"]["volume"] > 1000
    assert looked[0]["settings"]["picture"] == 80
    assert json.loads((looked[1] / "inspect.json").read_text()) == json.loads(json.dumps(looked[0]))


def test_the_table_has_a_row_for_each_structure_and_one_for_each_case(looked):
    rows = list(csv.DictReader((looked[1] / "inspect.csv").read_text().splitlines()))
    good = [row for row in rows if row["case"] == "good1"]
    assert [row["structure"] for row in good] == ["", *small.LABELS]
    assert float(good[1]["volume_mm3"]) > 1000 and good[1]["flags"] == ""
    (broken,) = [row for row in rows if row["case"] == "broken"]
    assert broken["flags"] == "unreadable" and "not a readable NIfTI" in broken["reasons"]


def test_the_page_needs_no_network_and_is_small(looked):
    page = (looked[1] / "inspect.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert len(page) < 300_000
    assert page.count("<figure") == len(looked[0]["cases"])
    pictures = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 2 * (len(looked[0]["cases"]) - 2)
    assert max(Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size) <= 90


def test_flagged_cases_come_first_in_the_order_of_harm(looked):
    page = (looked[1] / "inspect.html").read_text(encoding="utf-8")
    names = re.findall(r'<figure [^>]*data-name="([^"]+)"', page)
    assert set(names[:2]) == {"broken", "absent"}
    assert set(names[2:4]) <= {"swapped", "meshes"}


def test_all_pictures_have_one_scale(looked):
    page = (looked[1] / "inspect.html").read_text(encoding="utf-8")
    for seed in range(6):
        size = re.search(rf'alt="good{seed} from the front".*?--w:([\d.]+);--h:([\d.]+)', page)
        extent = np.ptp(small.case_vertices(seed)[0], axis=0)
        # a margin of 2 pixels (here 2 mm) on each side, and room for the nearer bones' larger pictures
        expected = [1.05 * extent[axis] + 4 * extent.max() / QUICK.picture for axis in (0, 2)]
        assert [float(size[1]), float(size[2])] == pytest.approx(expected, rel=0.05)


def test_what_a_worker_finds_comes_back_whole(cases, looked):
    found = look_at(cases["island"], "island", dict(small.LABELS), "auto", QUICK)
    again = pickle.loads(pickle.dumps(found))
    assert again._replace(seconds=0.0) == found._replace(seconds=0.0)
    (entry,) = [case for case in looked[0]["cases"] if case["case"] == "island"]
    assert asdict(again.findings) == entry["findings"]


def test_a_case_that_ends_its_worker_is_one_of_the_findings(cases, monkeypatch, tmp_path):
    def outcomes(self, function, jobs):
        for n, job in enumerate(jobs):
            yield ChildProcessError("each worker that tried it died") if n else function(*job)

    monkeypatch.setattr("shapefit.workers.Workers.outcomes", outcomes)
    table = inspect_job([cases["good0"], cases["good1"]], dict(small.LABELS), tmp_path, QUICK)
    assert kinds_of(table) == {"good0": set(), "good1": {"unreadable"}}
    assert table["cases"][1]["error"] == "each worker that tried it died"


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["shapefit", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr()


def test_the_command_ends_well_whatever_it_finds_and_sums_up(monkeypatch, capsys, cases, tmp_path):
    given = [cases[name] for name in ("good0", "swapped", "broken")]
    arguments = (*given, "--labels", *LABELS, "-o", tmp_path / "out", "--picture", 60, "--workers", 1)
    status, text = run(monkeypatch, capsys, *arguments)
    assert status == 0
    assert "3 cases: " in text.out and "1 unreadable" in text.out and "wrong side" in text.out
    assert "swapped: " in text.out and "hip_left lies to the patient's right of hip_right" in text.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "inspect.html", "inspect.json", "inspect.csv",
    }  # fmt: skip


def test_no_case_and_the_same_case_twice_are_errors(monkeypatch, capsys, cases, tmp_path):
    with pytest.raises(ValueError, match="no case was given"):
        inspect_job([], None, tmp_path / "out", QUICK)
    status, text = run(monkeypatch, capsys, cases["good0"], cases["good0"], "-o", tmp_path / "out")
    assert status == 2 and "given twice" in text.err
    assert not (tmp_path / "out").exists()


def test_without_labels_meshes_are_taken_by_their_names(cases, tmp_path):
    table = inspect_job([cases["meshes"]], None, tmp_path, QUICK)
    assert list(table["cases"][0]["findings"]["structures"]) == ["hip_left", "hip_right", "sacrum"]
    table = inspect_job([cases["good0"]], None, tmp_path, QUICK)
    assert "say which label is what" in table["cases"][0]["error"]


# ---- pictures


def two_balls() -> Volume:
    x, y, z = np.indices((60, 40, 40)) - np.array([20, 20, 20])[:, None, None, None]
    labels = (x**2 + y**2 + z**2 <= 12**2).astype(np.uint8) + 2 * ((x - 28) ** 2 + y**2 + z**2 <= 6**2)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    return Volume(torch.from_numpy(labels.astype(np.uint8)), torch.from_numpy(affine))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def test_a_picture_shows_bones_in_their_colours_at_its_scale():
    colours = {"big": "#E69F00", "small": "#0072B2"}
    painted = painted_labels(two_balls(), {"big": 1, "small": 2}, colours, 50.0)
    low, high = bounds(painted)
    # as large as the voxels, to half a millimetre: 24 and 12 mm wide, 28 mm apart
    assert low == pytest.approx([8, 8, 8], abs=0.6) and high == pytest.approx([54, 32, 32], abs=0.6)
    drawn = thumbnail(painted, "ap", 0.5)
    picture = pixels(drawn.data)
    assert picture.shape[:2] == (round(drawn.height / 0.5), round(drawn.width / 0.5))
    seen = picture[..., 3] > 128
    assert seen.sum() * 0.25 == pytest.approx(np.pi * (12**2 + 6**2), rel=0.06)
    # from the front the patient's right, larger x, is on the left
    for name, column in (("small", 2 + 12), ("big", 2 + 12 + 56)):
        part = picture[picture.shape[0] // 2, column, :3]
        other = {"small": "big", "big": "small"}[name]
        assert np.abs(part - rgb(colours[name])).sum() < np.abs(part - rgb(colours[other])).sum()


def test_pieces_apart_are_red_in_label_maps_and_in_meshes():
    labels = two_balls()
    labels = Volume((labels.data > 0).to(torch.uint8), labels.world_from_voxel)
    painted = painted_labels(labels, {"bone": 1}, {"bone": "#0072B2"}, 50.0)
    assert [colour for _, colour in painted] == [ALERT, "#0072B2"]
    assert painted_labels(labels, {"bone": 1}, {"bone": "#0072B2"}, 5000.0)[0][1] == "#0072B2"
    first, second = trimesh.creation.icosphere(3, 12), trimesh.creation.icosphere(3, 6)
    second.apply_translation((28, 0, 0))
    both = trimesh.util.concatenate([first, second])
    assert {colour for _, colour in painted_meshes({"bone": both}, {"bone": "#0072B2"}, 50.0)} == {
        ALERT, "#0072B2",
    }  # fmt: skip


def test_an_open_mesh_is_drawn_from_both_sides():
    sphere = trimesh.creation.icosphere(3, 12)
    half = trimesh.Trimesh(sphere.vertices, sphere.faces[sphere.triangles_center[:, 1] < 0], process=False)
    drawn = thumbnail(painted_meshes({"bone": half}, {"bone": "#0072B2"}, 50.0), "ap", 0.5)  # looks into it
    assert (pixels(drawn.data)[..., 3] > 128).sum() * 0.25 == pytest.approx(np.pi * 144, rel=0.05)


def test_a_wall_as_thin_as_a_voxel_has_no_holes_in_its_picture():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 20, 5:35] = 1
    sheet = Volume(torch.from_numpy(labels), torch.eye(4, dtype=torch.float64))
    drawn = thumbnail(painted_labels(sheet, {"bone": 1}, {"bone": "#0072B2"}, 50.0), "ap", 0.5)
    seen = pixels(drawn.data)[..., 3] > 128
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert seen[rows[4] : rows[-4], columns[4] : columns[-4]].all()


# ---- five hundred cases


def test_a_page_of_five_hundred_cases_stays_light(tmp_path):
    found = inspect_labels(two_balls(), {"big": 1, "small": 2})
    painted = painted_labels(
        two_balls(), {"big": 1, "small": 2}, {"big": "#E69F00", "small": "#0072B2"}, 50.0
    )
    front, side = (thumbnail(painted, view, 46 / 400) for view in ("ap", "lateral"))
    cases = [Looked(f"p{n}", f"p{n}.nii.gz", found, "", front, side, 1.0) for n in range(500)]
    flags = {case.name: flags_of(found, QUICK) if n % 3 else [] for n, case in enumerate(cases)}
    inspection_page(tmp_path / "wall.html", cases, flags, {"big": "#E69F00", "small": "#0072B2"})
    assert (tmp_path / "wall.html").stat().st_size < 500 * 30_000
    assert summary(cases, flags).startswith("500 cases: ")


USE = """<script>window.addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  while (document.documentElement.dataset.state !== "ready") await wait(50);
  const shown = () => Array.from(document.querySelectorAll(".tile")).filter((tile) => !tile.hidden);
  const names = () => shown().map((tile) => tile.dataset.name);
  const press = (selector) => document.querySelector(selector).click();
  const found = { all: shown().length, command: document.getElementById("command").textContent };
  press('[data-filter="side"]'); found.side = names();
  press('[data-filter="cropped"]'); found.two = names();
  press('[data-filter=""]'); found.again = shown().length;
  press('[data-choice="order"] button[value="name"]'); found.byName = names();
  const search = document.getElementById("search");
  search.value = "good"; search.dispatchEvent(new Event("input")); found.searched = names();
  press('.tile[data-name="swapped"] input'); found.added = document.getElementById("command").textContent;
  press('.tile[data-name="good0"] .shot');
  const closer = document.getElementById("closer");
  found.open = closer.open; found.told = closer.textContent;
  found.large = closer.querySelectorAll("img").length;
  press("#closer .steps button:nth-child(2)"); found.next = closer.querySelector("h2").textContent;
  press("#closer .steps button:nth-child(3)"); found.closed = !closer.open;
  const note = document.createElement("output"); note.id = "measured";
  note.textContent = JSON.stringify(found);
  document.body.appendChild(note);
});</script>"""


def test_the_page_sorts_filters_enlarges_and_proposes_a_command(looked, tmp_path):
    path = tmp_path / "wall.html"
    path.write_text((looked[1] / "inspect.html").read_text(encoding="utf-8") + USE, encoding="utf-8")
    seen = run_page(path)
    assert 'data-state="ready"' in seen.dom and not seen.console
    measured = re.search(r'id="measured">(.*?)</output>', seen.dom)
    assert measured, "the page did not finish"
    found = json.loads(measured[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["all"] == found["again"] == len(looked[0]["cases"])
    assert found["side"] == ["swapped"]
    assert set(found["two"]) >= {"swapped", "cut"}
    assert found["byName"] == sorted(found["byName"])
    assert found["searched"] == [f"good{n}" for n in range(6)]
    assert (
        found["command"].startswith("shapefit build ") and "--labels sacrum=1 hip_left=2" in found["command"]
    )
    assert "swapped.nii.gz" not in found["command"] and "swapped.nii.gz" in found["added"]
    assert (found["open"], found["large"], found["next"], found["closed"]) == (True, 2, "good1", True)
    assert "good0" in found["told"] and "sacrum" in found["told"]
