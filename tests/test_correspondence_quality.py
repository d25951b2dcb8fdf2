"""Figures of correspondence have the values that plain geometry says they must have."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from shapefit.correspondence import MIRROR, Correspondence, correspond, mirror_name
from shapefit.correspondence_quality import NEAR, THIN, coverage, inscribed_radius, registration_quality
from shapefit.io.model import read_model, write_model
from shapefit.landmark_transfer import (
    others_landmarks,
    positions,
    readers_parts,
    readers_spread,
    transfer_table,
)
from shapefit.landmarks import carry_landmarks
from shapefit.mesh import closest_points, require_closed, sample_surface
from shapefit.registration import flipped_faces
from shapefit.settings import BuildSettings
from shapefit.shape_model import ShapeModel, train
from shapefit.template import ALL_BUT_FOLDED, RAISED, cut, distance_grid
from tests.small import LABELS, small_model, write_case

SMALL = BuildSettings(
    vertices=500,
    samples=1500,
    workers=1,
    mirror=False,
    kernel_widths=(20.0,),
    kernel_steps=3,
    stiffness=(3.0, 0.5),
    stiffness_steps=1,
)


@pytest.fixture(scope="module")
def model():
    return small_model(6)


def block_model(thickness: float, subdivisions: int = 4) -> ShapeModel:
    """A model whose mean is a plate of 40 x 40 mm."""
    plate = trimesh.creation.box((40, 40, thickness))
    for _ in range(subdivisions):
        plate = plate.subdivide()
    shapes = torch.from_numpy(np.asarray(plate.vertices))[None].repeat(2, 1, 1)
    shapes[1] *= 1.01
    structure = torch.zeros(len(plate.faces), dtype=torch.int64)
    return train(shapes, torch.from_numpy(np.asarray(plate.faces)), structure, ["plate"], [1])


def test_residual_is_that_of_both_directions(model):
    shape = model.mean
    surfaces = model.surfaces(shape + torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    found = registration_quality(shape, model, surfaces, samples=3000)
    for way in ("model_to_segmentation", "segmentation_to_model"):
        assert 0.1 < found[way]["mean"] < found[way]["p95"] <= found[way]["max"] <= 0.51
    assert found["flipped_faces"] == 0


def test_a_shape_lies_on_itself_with_its_own_normals(model):
    found = registration_quality(model.mean, model, model.surfaces(model.mean), samples=3000)
    assert found["segmentation_to_model"]["max"] < 1e-9
    assert found["normals"]["max"] < 1e-3
    assert found["normals"]["share_beyond_30_degrees"] == 0


def test_normals_of_two_balls_beside_one_another_differ_as_their_centres_are_seen():
    radius, apart = 20.0, 1.0
    ball = trimesh.creation.icosphere(5, radius)
    shapes = torch.from_numpy(np.asarray(ball.vertices))[None] * torch.tensor([0.99, 1.01])[:, None, None]
    structure = torch.zeros(len(ball.faces), dtype=torch.int64)
    balls = train(shapes, torch.from_numpy(np.asarray(ball.faces)), structure, ["ball"], [1])
    target = balls.surfaces(balls.mean + torch.tensor([apart, 0.0, 0.0], dtype=torch.float64))
    found = registration_quality(balls.mean, balls, target, samples=4000)["normals"]
    seen = np.degrees(apart / radius)
    assert found["max"] == pytest.approx(seen, abs=0.3)
    assert found["mean"] == pytest.approx(seen * np.pi / 4, abs=0.1)  # sin(angle) averaged over a ball
    assert found["share_beyond_30_degrees"] == 0


def test_a_sheet_on_its_wrong_side_is_seen_by_its_normals_alone():
    plates = block_model(0.8)
    # as far as the sheet is thick: its lower side now lies where the upper one was
    shifted = plates.mean + torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    found = registration_quality(shifted, plates, plates.surfaces(plates.mean), samples=4000)
    assert found["model_to_segmentation"]["mean"] < 0.5
    assert found["normals"]["share_beyond_30_degrees"] > 0.4


def test_a_folded_face_is_counted(model):
    shape = model.mean.clone()
    corner, left, right = model.faces[5]
    shape[corner] += 3 * (shape[left] + shape[right] - 2 * shape[corner])
    assert registration_quality(shape, model, model.surfaces(shape), samples=300)["flipped_faces"] > 0


def test_the_inscribed_ball_of_a_ball_is_the_ball():
    ball = trimesh.creation.icosphere(4, 12.0)
    normals = np.asarray(ball.vertices) / 12.0
    radius = inscribed_radius(np.asarray(ball.vertices)[::7], normals[::7], np.asarray(ball.vertices))
    assert np.allclose(radius, 12.0, rtol=0.02)


def test_the_inscribed_ball_of_a_sheet_is_half_as_wide_as_it_is_thick():
    sheet = trimesh.creation.box((40, 40, 5)).subdivide().subdivide()
    cloud, _ = sample_surface(np.asarray(sheet.vertices), np.asarray(sheet.faces), 40_000)
    middle = np.array([[1.0, 2.0, 2.5], [-4.0, 3.0, -2.5]])
    radius = inscribed_radius(middle, np.sign(middle * [0, 0, 1]), cloud)
    assert np.allclose(radius, 2.5, atol=0.05)


def test_the_inscribed_ball_is_no_larger_than_asked_for():
    flat = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    up = np.array([[0.0, 0.0, 1.0]])
    assert inscribed_radius(flat[:1], up, flat, limit=20.0)[0] == 20.0


def test_thin_parts_are_measured_by_themselves():
    thin, thick = block_model(2 * THIN - 2), block_model(2 * THIN + 4)
    rows = [registration_quality(m.mean, m, m.surfaces(m.mean), samples=4000) for m in (thin, thick)]
    assert rows[0]["thin"]["share"] > 0.95
    # of a thick plate the edges and corners are left, where no ball of that size fits
    assert 0 < rows[1]["thin"]["share"] < 0.5


def test_a_tip_that_the_model_misses_is_named(model):
    target = model.surfaces(model.mean)
    tall = target["sacrum"].vertices.copy()
    top = tall[tall[:, 2].argmax()].copy()
    tall[:, 2] += 6 * np.exp(-((np.linalg.norm(tall - top, axis=1) / 5) ** 2))
    surfaces = target | {"sacrum": trimesh.Trimesh(tall, target["sacrum"].faces, process=False)}
    readings = {"tip": top[None], "far": np.array([[0.0, 900.0, 0.0]])}
    rows = {"short": registration_quality(model.mean, model, surfaces, readings, samples=6000)}
    rows["whole"] = registration_quality(model.mean, model, target, readings, samples=6000)
    assert "far" not in rows["short"]["places"]  # nothing of the bone lies within NEAR of it
    table = coverage(rows)
    assert table["place_radius"] == NEAR and table["thin_radius"] == THIN
    places = {row["place"]: row for row in table["places"]}
    for name in ("sacrum, superior end", "tip"):
        assert places[name]["worst_case"] == "short" and 4 < places[name]["max"] <= 6
    assert places["sacrum, inferior end"]["max"] < 0.5
    assert set(places) >= {f"hip_left, {end} end" for end in ("right", "left", "anterior", "posterior")}


def test_a_landmark_is_carried_to_the_same_place_of_the_bone(model):
    shapes = model.training_shapes()[:3]
    vertex = 17
    apart = np.array([[0.1], [-0.1]])
    readings = [{"tip": shape[vertex][None].numpy() + apart} for shape in shapes]
    marks = carry_landmarks(model, [*readings[:2], None], shapes)
    assert marks.names == ("tip",)
    found = (model.mean[model.faces[marks.face[0]]] * marks.barycentric[0][:, None]).sum(0)
    assert (found - model.mean[vertex]).norm() < 0.5


def _readings(model: ShapeModel, vertices: list[int], shift: float = 0.0) -> dict[str, dict[str, np.ndarray]]:
    shapes = model.training_shapes().numpy()
    return {
        case: {f"mark{v}": shape[v][None] + [[0, 0, shift * (row == 0)]] for v in vertices}
        for row, (case, shape) in enumerate(zip(model.cases, shapes, strict=True))
    }


def test_exact_correspondence_transfers_landmarks_exactly(model):
    readings = _readings(model, [3, 40, 300])
    shapes = model.training_shapes()
    marks = others_landmarks(model, readings, shapes)
    carried = {
        case: positions(shape, model, marks[case]) for case, shape in zip(readings, shapes, strict=True)
    }
    table = transfer_table(readings, {"registration": carried})
    # what remains: a mean of the others is laid on the surface of the mean
    assert table["registration"]["max"] < 1e-6
    assert table["readers"]["max"] == 0
    assert all(row["cases"] == len(model.cases) for row in table["landmarks"])


def test_a_case_has_no_part_in_the_landmarks_that_it_is_given(model):
    shapes = model.training_shapes()
    exact, off = _readings(model, [3, 40]), _readings(model, [3, 40])
    off["case0"] = {name: points + 5.0 for name, points in off["case0"].items()}
    a, b = (others_landmarks(model, readings, shapes) for readings in (exact, off))
    assert torch.equal(a["case0"].barycentric, b["case0"].barycentric)
    assert not torch.equal(a["case1"].barycentric, b["case1"].barycentric)


def test_the_table_tells_a_known_error_and_names_the_worst(model):
    readings = _readings(model, [3, 40])
    carried = {case: {name: points[0] for name, points in marks.items()} for case, marks in readings.items()}
    readings["case2"]["mark40"] = readings["case2"]["mark40"] + [[0, 3, 4]]
    table = transfer_table(readings, {"registration": carried, "fit": {}})
    assert table == {"landmarks": []}  # nothing was left out, so nothing can be compared
    table = transfer_table(readings, {"registration": carried, "fit": carried})
    assert [row["name"] for row in table["landmarks"]] == ["mark40", "mark3"]
    worst = table["landmarks"][0]["registration"]
    assert (worst["worst_case"], worst["max"]) == ("case2", pytest.approx(5.0))
    assert table["fit"]["mean"] == pytest.approx(5.0 / 12)


def test_landmarks_of_a_single_case_can_be_given_to_no_other(model):
    readings = dict.fromkeys(model.cases) | {"case1": _readings(model, [3])["case1"]}
    marks = others_landmarks(model, readings, model.training_shapes())
    assert marks["case1"].names == () and marks["case0"].names == ("mark3",)
    assert transfer_table(readings, {"registration": {"case1": {}}}) == {"landmarks": []}


def test_readers_spread_is_that_of_their_readings():
    rng = np.random.default_rng(0)
    readings = rng.normal(size=(4000, 3)) * [1.0, 2.0, 2.0] + [10.0, -20.0, 5.0]
    assert readers_spread(readings) == pytest.approx(3.0, rel=0.03)
    assert readers_spread(readings[:1]) == 0


def test_readers_differ_from_one_another_and_from_themselves():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(400, 1, 3)) * 3
    readings = (centres + rng.normal(size=(400, 4, 3))).reshape(-1, 3)
    parts = readers_parts(readings, np.repeat(np.arange(400), 4).tolist())
    assert parts["intra"] == pytest.approx(np.sqrt(3 * 3 / 4), rel=0.05)  # about a mean of four
    assert parts["inter"] == pytest.approx(np.sqrt(27 + 3 / 4), rel=0.05)
    assert parts["intra"] ** 2 + parts["inter"] ** 2 == pytest.approx(readers_spread(readings) ** 2)


def test_the_mean_of_the_pelvis_is_its_own_mirror_image():
    pelvis = read_model("pelvis")
    surfaces = pelvis.surfaces(pelvis.mean)
    for name, mesh in surfaces.items():
        other = surfaces[mirror_name(name)]  # left becomes right
        distance = closest_points(np.asarray(mesh.vertices) * MIRROR, other.vertices, other.faces).distance
        assert distance.mean() < 0.2 and np.percentile(distance, 95) < 0.7
    assert surfaces["hip_left"].centroid[0] < -50 and surfaces["hip_right"].centroid[0] > 50


def test_a_mirrored_case_swaps_its_sides():
    # three cases, all with a left bone larger than the right one
    sides = [{"rib_left": _ball(10 + k, -30), "rib_right": _ball(7 + k, 30)} for k in range(3)]
    laid = correspond(sides, replace(SMALL, mirror=True))
    model = train(
        torch.from_numpy(laid.shapes),
        torch.from_numpy(laid.faces),
        torch.from_numpy(laid.structure),
        list(sides[0]),
        [1, 2],
    )
    for shape, mirrored in zip(laid.shapes, laid.mirrored, strict=True):
        size = {name: mesh.volume for name, mesh in model.surfaces(torch.from_numpy(shape)).items()}
        assert (size["rib_left"] < size["rib_right"]) == mirrored
    # and so the mean has two like sides, each on its own
    mean = model.surfaces(model.mean)
    assert mean["rib_left"].volume == pytest.approx(mean["rib_right"].volume, rel=1e-3)
    assert mean["rib_left"].centroid[0] < -20 and mean["rib_right"].centroid[0] > 20


@pytest.fixture(scope="module")
def study():
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "study_model.py"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [write_case(tmp_path_factory.mktemp("cases") / f"case{seed}", seed) for seed in range(4)]


ONE_BONE = ("sacrum=1",)


def test_the_order_of_the_cases_moves_no_vertex(study, folders, tmp_path, capsys):
    study["order"](tuple(folders), labels=ONE_BONE, output=tmp_path / "order.json", orders=1, settings=SMALL)
    rows = json.loads((tmp_path / "order.json").read_text())["orders"]
    assert rows[0]["order"] == [3, 2, 1, 0]
    for row in rows:
        assert row["same_triangulation"] and row["vertex"]["max"] < 1e-6
    assert "order [3, 2, 1, 0]" in capsys.readouterr().out


def test_another_triangulation_is_compared_through_the_cases(study):
    # the same balls with twice as many vertices: no vertex has a partner, yet none has moved far
    coarse, fine = (trimesh.creation.icosphere(n) for n in (3, 4))
    radii = np.array([18.0, 21.0])[:, None, None]
    structure = np.zeros(len(coarse.faces), dtype=np.int64)
    one = Correspondence(radii * coarse.vertices, coarse.faces, structure, (0, 1), (False, False))
    found = study["_compare"](one, radii * fine.vertices, np.asarray(fine.faces))
    assert not found["same_triangulation"]
    assert found["vertex"]["max"] < 0.1 and found["surface"]["max"] < 0.1


def test_a_model_built_anew_without_a_case_is_compared_with_the_shortcut(study, folders, tmp_path):
    read = study["_read"](tuple(folders), ONE_BONE)
    laid = correspond([case.surfaces for case in read], SMALL)
    whole = train(
        torch.from_numpy(laid.shapes),
        torch.from_numpy(laid.faces),
        torch.from_numpy(laid.structure),
        ["sacrum"],
        [1],
        cases=[case.name for case in read],
    )
    write_model(tmp_path / "whole.h5", whole)
    study["left_out"](
        tuple(folders),
        labels=ONE_BONE,
        without=("case1",),
        output=tmp_path / "left.json",
        model=str(tmp_path / "whole.h5"),
        residual=20,
        settings=SMALL,
    )
    (row,) = json.loads((tmp_path / "left.json").read_text())["cases"]
    assert row["case"] == "case1"
    assert abs(row["redone"]["assd"] - row["shortcut"]["assd"]) < 0.5
    assert row["redone"]["landmarks"] < 6 and row["followed"]["landmarks"] < 6
    assert row["followed"]["assd"] < row["redone"]["assd"]


def test_readers_stand_beside_carried_landmarks(study, tmp_path, capsys):
    figures = {"mean": 2.0, "max": 3.0, "worst_case": "a"}
    way = {"mean": 2.0, "median": 2.0, "p95": 3.0, "max": 3.0}
    transfer = {"registration": way, "readers": way}
    transfer["landmarks"] = [{"name": "tip", "cases": 1, "registration": figures, "readers": figures}]
    (tmp_path / "card.json").write_text(json.dumps({"landmark_transfer": transfer}))
    readings = [{"rater": rater, "points": {"tip": [0, 0, 2.0 * rater]}} for rater in (0, 0, 1, 1)]
    (tmp_path / "readings.json").write_text(json.dumps({"readings": readings}))
    study["landmarks"](tmp_path / "card.json", (tmp_path / "readings.json",), output=tmp_path / "found.json")
    (row,) = json.loads((tmp_path / "found.json").read_text())["landmarks"]
    assert (row["single"], row["intra"], row["inter"]) == (1.0, 0.0, 1.0)
    assert "tip" in capsys.readouterr().out


def test_a_symmetric_mean_is_its_own_mirror_image(study, tmp_path):
    model = small_model(3)
    write_model(tmp_path / "model.h5", model)
    study["mirror"](str(tmp_path / "model.h5"), output=tmp_path / "mirror.json")
    found = json.loads((tmp_path / "mirror.json").read_text())
    assert set(found) == set(LABELS) and found["hip_left"]["mean"] < 0.5


def _ball(radius: float, x: float) -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(3, radius)
    return ball.apply_translation((x, 0, 0))


def test_a_narrow_tunnel_closes_further_out():
    def drilled(points: np.ndarray) -> np.ndarray:
        """Distance to a ball of 10 mm with a hole of 2 mm along x through it."""
        hole = 1.0 - np.linalg.norm(points[:, 1:], axis=1)
        return np.maximum(np.linalg.norm(points, axis=1) - 10, hole)

    grid = distance_grid(drilled, np.full(3, -10.0), np.full(3, 10.0), 0.5)
    for level, tunnels in ((0.0, 1), (RAISED[-1] + 0.25, 0)):
        vertices, faces = cut(grid, level)
        require_closed(vertices, faces)
        assert trimesh.Trimesh(vertices, faces, process=False).euler_number == 2 - 2 * tunnels


def test_how_far_a_face_may_turn_is_asked_for():
    corners = np.array([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    faces = np.array([[0, 1, 3], [0, 2, 1], [0, 3, 2], [1, 2, 3]])
    # the normals of a regular tetrahedron have a cosine of -1/3 with one another
    assert len(flipped_faces(corners, faces, cosine=-0.34)) == 0
    assert len(flipped_faces(corners, faces, cosine=ALL_BUT_FOLDED)) == 4
