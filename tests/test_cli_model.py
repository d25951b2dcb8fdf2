"""`shapefit model`: what it writes, what it says, and with which status it ends."""

import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
import torch

from shapefit import cli, se3
from shapefit.io.landmarks import read_landmarks, write_landmarks
from shapefit.io.mesh import read_mesh, read_surfaces
from shapefit.io.model import read_model, write_model
from shapefit.io.scores import read_scores
from shapefit.jobs.model import model_info
from shapefit.shape_model import Landmarks

POSE = se3.exp(torch.tensor([0.3, -0.2, 0.5, 80.0, -200.0, 40.0], dtype=torch.float64))
MESHES = {f"{name}.ply" for name in small.LABELS}


class Ended:
    """How a command ended."""

    def __init__(self, status, out: str, err: str):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def shapefit(monkeypatch, capsys):
    def run(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", ["shapefit", "model", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        text = capsys.readouterr()
        return Ended(end.value.code, text.out, text.err)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small.write_small_model(tmp_path_factory.mktemp("model") / "small.h5")


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    """The small model with landmarks enough to tell a pose."""
    shape = small.small_model()
    names = tuple(f"L{n}" for n in range(12))
    places = Landmarks(names, torch.arange(12) * 77 + 5, torch.full((12, 3), 1 / 3, dtype=torch.float64))
    path = tmp_path_factory.mktemp("model") / "rich.h5"
    write_model(path, replace(shape, landmarks=places, noise_variance=0.01))
    return path


def world(shape: torch.Tensor) -> np.ndarray:
    return (shape @ POSE[:3, :3].T + POSE[:3, 3]).numpy()


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(ended: Ended, message: str) -> None:
    """Status 2, one line on stderr, nothing on stdout."""
    assert (ended.status, ended.out) == (2, ""), ended.err
    assert ended.err.startswith("shapefit: error: ") and ended.err.count("\n") == 1
    assert message in ended.err


def test_info_says_what_a_model_is(shapefit, model):
    ended = shapefit("info", model)
    assert ended.status == 0, ended.err
    assert ended.out.startswith("small: RAS mm\n")
    for words in (
        "486 vertices, 960 faces",
        "sacrum (label 1): 162 vertices, 320 faces",
        "8 subjects: case0",
        "2 landmarks: top, side",
        "std of the vertices",
    ):
        assert words in ended.out


def test_info_as_json_agrees_with_the_model(shapefit, model):
    told = json.loads(shapefit("info", model, "--json").out)
    assert told == json.loads(json.dumps(model_info(model)))
    shape = read_model(model)
    assert told["structures"]["hip_left"]["open_edges"] == 0
    assert told["structures"]["hip_left"]["volume_ml"] == pytest.approx(
        shape.surfaces(shape.mean)["hip_left"].volume / 1000
    )
    shares = [row["share"] for row in told["variance"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert told["variance"][-1]["cumulative"] == pytest.approx(1)
    assert told["vertex_std_mm"] == pytest.approx(shape.vertex_std().square().mean().sqrt().item())


def test_info_of_a_foreign_model_says_what_was_taken(shapefit, model, tmp_path):
    plain = tmp_path / "plain.h5"
    write_model(plain, read_model(model), extras=False)
    with h5py.File(plain, "a") as file:
        del file["representer"].attrs["SPACE"]
    assert "RAS mm (file: RAS, which the file does not state)" in shapefit("info", plain).out
    assert "(file: LPS, which the file does not state)" in shapefit("info", plain, "--frame", "LPS").out
    refused(shapefit("info", plain, "--frame", "IJK"), "unknown frame 'IJK'")
    refused(shapefit("info", plain, "--inside", "shape"), "has no model 'shape'")


def test_samples_are_what_their_coefficients_say_and_the_seed_repeats_them(shapefit, model, tmp_path):
    shape = read_model(model)
    for out in ("a", "b"):
        assert shapefit("sample", model, "-n", 3, "--seed", 5, "-o", tmp_path / out).status == 0
    expected = {f"sample_{n}/{mesh}" for n in (1, 2, 3) for mesh in MESHES} | {"coefficients.csv"}
    assert tree(tmp_path / "a") == expected
    for name in expected:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    drawn = read_scores(tmp_path / "a" / "coefficients.csv")
    assert drawn.cases == ("sample_1", "sample_2", "sample_3")
    assert torch.equal(shape.instance(drawn.scores), shape.sample(3, seed=5))
    for row, name in zip(drawn.scores, drawn.cases, strict=True):
        meshes = read_surfaces(tmp_path / "a" / name)
        for key, mesh in shape.surfaces(shape.instance(row)).items():
            assert np.array_equal(meshes[key].vertices, mesh.vertices.astype("f4"))
            assert np.array_equal(meshes[key].faces, mesh.faces)


def test_fewer_modes_and_fewer_samples_leave_nothing_of_the_earlier_run(shapefit, model, tmp_path):
    out = tmp_path / "out"
    assert shapefit("sample", model, "-n", 3, "-o", out).status == 0
    all_modes = read_scores(out / "coefficients.csv").scores
    assert shapefit("sample", model, "-n", 2, "--modes", 2, "--format", "vtp", "-o", out).status == 0
    expected = {f"sample_{n}/{name}.vtp" for n in (1, 2) for name in small.LABELS} | {"coefficients.csv"}
    assert tree(out) == expected and not (out / "sample_3").exists()
    found = read_scores(out / "coefficients.csv").scores
    assert torch.equal(found, all_modes[:2, :2])


def test_modes_lie_to_either_side_of_the_mean(shapefit, model, tmp_path):
    ended = shapefit("modes", model, "--modes", 2, "--std", 2.5, "--format", "obj", "-o", tmp_path)
    assert ended.status == 0, ended.err
    sides = [f"mode_{k:02d}_{word}_2.5_std" for k in (1, 2) for word in ("minus", "plus")]
    expected = {f"{folder}/{name}.obj" for folder in ("mean", *sides) for name in small.LABELS}
    assert tree(tmp_path) == expected | {"variance.csv"}
    shape = read_model(model)
    coefficients = torch.zeros(shape.modes, dtype=torch.float64)
    coefficients[1] = -2.5
    wanted = shape.surfaces(shape.instance(coefficients))["sacrum"]
    found = read_mesh(tmp_path / "mode_02_minus_2.5_std" / "sacrum.obj")
    assert np.array_equal(found.vertices, wanted.vertices)
    rows = list(csv.DictReader((tmp_path / "variance.csv").open()))
    assert [float(row["std_mm"]) for row in rows] == shape.std.tolist()


@pytest.mark.parametrize("kind", ["landmarks.json", "points.mrk.json", "points.fcsv"])
def test_posterior_finds_pose_and_shape_from_landmarks(shapefit, rich, tmp_path, kind):
    shape = read_model(rich)
    truth = shape.instance(torch.linspace(-1, 1, shape.modes, dtype=torch.float64))
    named = dict(zip(shape.landmarks.names, world(shape.landmark_positions(truth))[:, None], strict=True))
    write_landmarks(tmp_path / kind, {**named, "heel": np.zeros((1, 3))})
    out = tmp_path / "posterior.h5"
    ended = shapefit("posterior", rich, "--landmarks", tmp_path / kind, "--noise", 0.05, "-o", out)
    assert ended.status == 0, ended.err
    assert "not in the model: heel" in ended.out and "12 landmarks and 0 vertices" in ended.out
    found = read_model(out)
    pose = np.array(found.metadata["world_from_model"].split(), dtype=float).reshape(4, 4)
    placed = found.mean.numpy() @ pose[:3, :3].T + pose[:3, 3]
    assert np.linalg.norm(placed - world(truth), axis=1).mean() < 0.3  # mm
    assert found.vertex_std().mean() < 0.3 * shape.vertex_std().mean()
    assert found.landmarks.names == shape.landmarks.names and found.names == shape.names


def test_posterior_takes_vertices_with_their_own_noise(shapefit, rich, tmp_path):
    shape = read_model(rich)
    truth = shape.instance(torch.ones(shape.modes, dtype=torch.float64))
    rows = [[v, *world(truth)[v].tolist(), ""] for v in range(0, 480, 16)]
    rows[0][1] += 30.0  # a gross error, which is said to be unsure
    rows[0][4] = 1000
    table = tmp_path / "points.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["vertex", "x", "y", "z", "noise"], *rows])
    ended = shapefit("posterior", rich, "--points", table, "--noise", 0.1, "-o", tmp_path / "p.h5")
    assert ended.status == 0, ended.err
    found = read_model(tmp_path / "p.h5")
    pose = np.array(found.metadata["world_from_model"].split(), dtype=float).reshape(4, 4)
    placed = found.mean.numpy() @ pose[:3, :3].T + pose[:3, 3]
    assert np.linalg.norm(placed - world(truth), axis=1).max() < 0.5


def test_with_a_residual_the_posterior_starts_from_the_wider_model(shapefit, rich, tmp_path, monkeypatch):
    asked = []

    def wider(model, rank):  # learning a real one takes long
        asked.append(rank)
        return replace(model, std=2 * model.std)

    monkeypatch.setattr("shapefit.jobs.posterior.with_residual", wider)
    shape = read_model(rich)
    places = world(shape.landmark_positions(shape.mean))[:, None]
    write_landmarks(tmp_path / "l.fcsv", dict(zip(shape.landmarks.names, places, strict=True)))
    spread = {}
    for rank in (0, 7):
        out = tmp_path / f"{rank}.h5"
        ended = shapefit("posterior", rich, "--landmarks", tmp_path / "l.fcsv", "--residual", rank, "-o", out)
        assert ended.status == 0, ended.err
        spread[rank] = read_model(out).vertex_std().mean()
    assert asked == [7] and spread[7] > spread[0]


def test_export_hands_the_model_on(shapefit, rich, tmp_path):
    ended = shapefit("export", rich, "--format", "stl", "--statismo", "-o", tmp_path)
    assert ended.status == 0, ended.err
    others = {"mean.vtp", "landmarks.mrk.json", "landmarks.fcsv", "scores.csv", "variance.csv", "statismo.h5"}
    assert tree(tmp_path) == {f"{name}.stl" for name in small.LABELS} | others
    assert ended.out.split() == [str(tmp_path / name) for name in sorted(tree(tmp_path))]
    shape = read_model(rich)
    places = shape.landmark_positions(shape.mean).numpy()
    for name in ("landmarks.mrk.json", "landmarks.fcsv"):
        found = read_landmarks(tmp_path / name)
        assert list(found) == list(shape.landmarks.names)
        assert np.array_equal(np.concatenate(list(found.values())), places)
    scores = read_scores(tmp_path / "scores.csv")
    assert scores.cases == shape.cases
    assert torch.equal(scores.scores, shape.scores) and torch.equal(scores.std, shape.std)
    plain = read_model(tmp_path / "statismo.h5")
    assert plain.names == ("bone",) and (plain.mean - shape.mean).abs().max() < 1e-4


def test_the_exported_mean_carries_structure_spread_and_modes(shapefit, rich, tmp_path):
    assert shapefit("export", rich, "-o", tmp_path).status == 0
    shape = read_model(rich)
    mesh = read_mesh(tmp_path / "mean.vtp")
    assert np.array_equal(mesh.vertices, shape.mean) and np.array_equal(mesh.faces, shape.faces)
    piece = ElementTree.parse(tmp_path / "mean.vtp").getroot().find("PolyData/Piece")
    arrays = {a.get("Name"): a for a in piece.iter("DataArray")}
    assert arrays["structure"] in list(piece.find("CellData"))
    assert arrays["std_mm"] in list(piece.find("PointData"))
    assert arrays["mode_1"].get("NumberOfComponents") == "3"


def test_bad_input_ends_with_status_2_and_one_line(shapefit, model, rich, tmp_path):
    out = tmp_path / "out"
    refused(shapefit("info", tmp_path / "none.h5"), "no such model file")
    refused(shapefit("sample", model, "-n", 0, "-o", out), "cannot draw 0 samples")
    refused(shapefit("sample", model, "--modes", 99, "-o", out), "modes, got --modes 99")
    refused(shapefit("sample", model, "--format", "vtk", "-o", out), "expected ply, stl, obj, vtp")
    refused(shapefit("modes", model, "--std", 0, "-o", out), "--std must be positive")
    refused(shapefit("export", model, "--format", "glb", "-o", out), "unknown format 'glb'")
    target = tmp_path / "p.h5"
    refused(shapefit("posterior", rich, "-o", target), "a pose needs at least 3 points, got 0")
    refused(shapefit("posterior", rich, "-o", tmp_path / "p.txt"), "does not end like a shape model")
    refused(shapefit("posterior", rich, "--noise", 0, "-o", target), "--noise must be positive")
    write_landmarks(tmp_path / "a.fcsv", {"heel": np.zeros((1, 3))})
    wanted = shapefit("posterior", rich, "--landmarks", tmp_path / "a.fcsv", "-o", target)
    refused(wanted, "names no landmark of the model: it has heel, the model L0, L1")
    table = tmp_path / "t.csv"
    for text, message in (
        ("", "no rows with the columns vertex, x, y, z"),
        ("vertex,x,y\n1,2,3\n", "no rows with the columns vertex, x, y, z"),
        ("vertex,x,y,z\n1,2,3,z\n", "t.csv, line 2"),
        ("vertex,x,y,z\n1,2,3,4\n-1,2,3,4\n", "t.csv, line 3: vertices are numbered from 0 to 485"),
    ):
        table.write_text(text)
        refused(shapefit("posterior", rich, "--points", table, "-o", target), message)
    assert not out.exists() and not target.exists()


def test_help_names_the_five_commands_and_what_each_takes(shapefit):
    ended = shapefit("--help")
    assert ended.status == 0
    options = {
        "info": "--json",
        "sample": "-n",
        "modes": "--std",
        "posterior": "--noise",
        "export": "--statismo",
    }
    for name, option in options.items():
        assert name in ended.out
        told = shapefit(name, "--help")
        assert told.status == 0 and option in told.out and "--frame" in told.out
