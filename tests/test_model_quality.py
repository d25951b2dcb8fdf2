"""Quality figures obey their definitions, and a build tells them in its card."""

import json

import numpy as np
import pytest
import torch

from shapefit.build import build_model
from shapefit.io.case import Case
from shapefit.landmarks import carry_landmarks
from shapefit.model_quality import (
    compactness,
    distances,
    generalisation,
    leave_one_out,
    mode_counts,
    registration_residual,
    specificity,
)
from shapefit.settings import BuildSettings, ProjectSettings
from tests.small import case_surfaces, small_model


@pytest.fixture(scope="module")
def model():
    return small_model(6)


def test_compactness_rises_to_one(model):
    curve = compactness(model)
    assert (curve.diff() > 0).all()
    assert torch.isclose(curve[-1], torch.tensor(1.0, dtype=torch.float64))
    assert torch.isclose(curve[0], model.std[0] ** 2 / (model.std**2).sum())


def test_more_modes_reconstruct_an_unknown_case_no_worse(model):
    curves = generalisation(model, [0, 1, 2, 3])
    assert list(curves) == ["vertex", "surface"]
    assert all(b <= a + 0.05 for a, b in zip(curves["vertex"], curves["vertex"][1:], strict=False))
    # a vertex may slide along the surface: that is no distance between surfaces
    assert all(s <= v + 1e-9 for s, v in zip(curves["surface"], curves["vertex"], strict=True))


def test_no_modes_leave_the_distance_of_the_mean(model):
    found = specificity(model, [0])[0]
    known = (model.mean - model.training_shapes()).norm(dim=-1).mean(-1).min()
    assert np.isclose(found, float(known))


def test_specificity_grows_with_the_freedom_of_the_samples(model):
    curve = specificity(model, [0, model.modes], count=100)
    assert curve[1] > curve[0]


def test_curves_end_with_all_modes(model):
    assert mode_counts(model)[-1] == model.modes
    assert mode_counts(model) == sorted(set(mode_counts(model)))


def test_a_left_out_case_is_fitted_better_than_by_the_mean(model):
    cases = {f"case{seed}": case_surfaces(seed) for seed in (0, 1)}
    rows = leave_one_out(model, cases, ProjectSettings(samples=2000))
    assert [row["case"] for row in rows] == ["case0", "case1"]
    for row in rows:
        assert row["assd"] < row["mean_shape"]["assd"]
        assert row["assd"] <= row["hd95"] <= row["hausdorff"]
        assert set(row["structures"]) == {"sacrum", "hip_left", "hip_right"}


def test_a_surface_is_at_no_distance_from_itself():
    figures = distances(case_surfaces(1), case_surfaces(1), count=500)
    assert figures["hausdorff"] < 1e-9


def test_residual_is_that_of_both_directions(model):
    shape = model.instance(torch.zeros(model.modes, dtype=torch.float64))
    surfaces = model.surfaces(shape + torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    residual = registration_residual(shape, model, surfaces, samples=3000)
    for way in ("model_to_segmentation", "segmentation_to_model"):
        assert 0.1 < residual[way]["mean"] < residual[way]["p95"] <= residual[way]["max"] <= 0.51


def test_a_landmark_is_carried_to_the_same_place_of_the_bone(model):
    shapes = model.training_shapes()[:3]
    vertex = 17
    apart = np.array([[0.1], [-0.1]])
    readings = [{"tip": shape[vertex][None].numpy() + apart} for shape in shapes]
    marks = carry_landmarks(model, [*readings[:2], None], shapes)
    assert marks.names == ("tip",)
    found = (model.mean[model.faces[marks.face[0]]] * marks.barycentric[0][:, None]).sum(0)
    assert (found - model.mean[vertex]).norm() < 0.5


SMALL = BuildSettings(
    vertices=500,
    samples=1500,
    workers=1,
    kernel_widths=(20.0,),
    kernel_steps=3,
    stiffness=(3.0, 0.5),
    stiffness_steps=1,
    name="plates",
    license="CC0",
)


def _case(seed: int) -> Case:
    surfaces = case_surfaces(seed)
    top = surfaces["hip_left"].vertices[surfaces["hip_left"].vertices[:, 2].argmax()][None]
    return Case(f"case{seed}", {name: surfaces[name] for name in ("hip_left", "hip_right")}, {"top": top})


def test_a_build_gives_a_model_with_its_card():
    told = []
    labels = {"hip_left": 2, "hip_right": 3}
    model, card = build_model(
        [_case(seed) for seed in range(3)], SMALL, labels, lambda what, share: told.append(share)
    )
    assert (model.names, model.labels) == (("hip_left", "hip_right"), (2, 3))
    assert model.cases == ("case0", "case1", "case2", "case0~", "case1~", "case2~")
    assert model.landmarks.names == ("top",)
    assert all(mesh.is_watertight for mesh in model.surfaces(model.mean).values())
    assert json.loads(json.dumps(card)) == card
    assert card["subjects"] == ["case0", "case1", "case2"]
    assert (card["frame"], card["units"], card["license"]) == ("RAS", "mm", "CC0")
    assert card["registration_mean"]["segmentation_to_model"]["mean"] < 0.5
    assert all(row["flipped_faces"] == 0 for row in card["registration"].values())
    assert card["leave_one_out"]["mean"]["assd"] < card["leave_one_out"]["mean_shape"]["assd"]
    assert told == sorted(told) and told[-1] == 1.0


def test_one_case_is_no_model():
    with pytest.raises(ValueError, match="a shape model needs at least 2 shapes, got 1"):
        build_model([_case(0)], SMALL)


def test_cases_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several cases are called case0"):
        build_model([_case(0), _case(0)], SMALL)


def test_a_case_that_lacks_a_structure_is_named():
    with pytest.raises(ValueError, match="case case0 lacks sacrum; it has hip_left, hip_right"):
        build_model([_case(0), _case(1)], SMALL, {"sacrum": 1, "hip_left": 2})
