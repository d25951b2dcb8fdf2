"""Quality figures obey their definitions, and a build tells them in its card."""

import json

import numpy as np
import pytest
import torch
import trimesh

from shapefit.build import build_model
from shapefit.io.case import Case
from shapefit.mesh import closest_points
from shapefit.model_quality import (
    NEAREST,
    compactness,
    distances,
    generalisation,
    leave_one_out,
    mode_counts,
    specificity,
)
from shapefit.quality_bands import compactness_band, generalisation_band, specificity_band
from shapefit.settings import BuildSettings, ProjectSettings
from shapefit.shape_model import Landmarks, ShapeModel, train
from tests.small import case_surfaces, small_model


@pytest.fixture(scope="module")
def model():
    return small_model(6)


def spheres(radii: list[float], lengths: list[float] | None = None) -> ShapeModel:
    """A family of balls by radius and, if given, by length along z (mm)."""
    ball = trimesh.creation.icosphere(3)
    shapes = [r * ball.vertices for r in radii]
    if lengths:
        shapes = [shape * [1, 1, length] for shape, length in zip(shapes, lengths, strict=True)]
    return train(
        torch.from_numpy(np.stack(shapes)),
        torch.from_numpy(np.asarray(ball.faces)),
        torch.zeros(len(ball.faces), dtype=torch.int64),
        ["ball"],
        [1],
        cases=[f"ball{k}" for k in range(len(radii))],
    )


def test_compactness_rises_to_one(model):
    curve = compactness(model)
    assert (curve.diff() > 0).all()
    assert torch.isclose(curve[-1], torch.tensor(1.0, dtype=torch.float64))
    assert torch.isclose(curve[0], model.std[0] ** 2 / (model.std**2).sum())


def test_balls_have_one_mode_with_the_spread_of_their_radii():
    radii = [18.0, 19.0, 20.0, 23.0]
    family = spheres(radii)
    assert compactness(family).tolist() == [1.0]
    # every vertex moves by the change of the radius
    assert np.isclose(float(family.std[0]), np.std(radii, ddof=1) * np.sqrt(len(family.mean)))


def test_more_modes_reconstruct_an_unknown_case_no_worse(model):
    curves = {name: errors.mean(0) for name, errors in generalisation(model, [0, 1, 2, 3]).items()}
    assert list(curves) == ["vertex", "surface"]
    assert all(b <= a + 0.05 for a, b in zip(curves["vertex"], curves["vertex"][1:], strict=False))
    # a vertex may slide along the surface: that is no distance between surfaces
    assert all(s <= v + 1e-9 for s, v in zip(curves["surface"], curves["vertex"], strict=True))


def test_a_case_that_the_others_span_is_reconstructed_exactly():
    errors = generalisation(spheres([18.0, 19.0, 20.0, 23.0]), [0, 1])
    for values in errors.values():
        assert values.shape == (4, 2)
        assert values[:, 1].max() < 1e-9
    # without modes the mean of the others is left
    others = [20.667, 20.333, 20.0, 19.0]
    assert np.allclose(errors["vertex"][:, 0], np.abs(np.array([18, 19, 20, 23]) - others), atol=1e-3)


def test_specificity_of_identical_shapes_is_none():
    # shapes that differ by less than can matter
    assert max(specificity(spheres([20.0, 20.0 + 1e-9]), [0, 1], count=20)["vertex"]) < 1e-8


def test_random_balls_are_as_far_from_the_nearest_as_their_radii():
    radii = np.array([18.0, 19.0, 20.0, 23.0])
    family = spheres(radii.tolist())
    found = specificity(family, [1], count=300, surfaces=30)
    rng = torch.Generator().manual_seed(0)
    drawn = radii.mean() + radii.std(ddof=1) * torch.randn(300, 1, generator=rng, dtype=torch.float64).numpy()
    known = np.abs(drawn - radii).min(1)
    assert np.isclose(found["vertex"][0], known.mean(), atol=1e-6)
    # balls one inside the other are as far apart as their vertices, but for the flatness of faces
    assert np.isclose(found["surface"][0], known[:30].mean(), rtol=0.05)


def test_no_modes_leave_the_distance_of_the_mean(model):
    found = specificity(model, [0])["vertex"][0]
    known = (model.mean - model.training_shapes()).norm(dim=-1).mean(-1).min()
    assert np.isclose(found, float(known))


def test_the_nearest_shape_is_found_among_few():
    model = small_model(12)
    assert len(model.cases) > 2 * NEAREST
    generator = torch.Generator().manual_seed(4)
    draws = torch.randn(50, model.modes, generator=generator, dtype=torch.float64)
    apart = [(model.instance(c) - model.training_shapes()).norm(dim=-1).mean(-1).min() for c in draws]
    found = specificity(model, [model.modes], count=50, seed=4, surfaces=1)["vertex"][0]
    assert np.isclose(found, float(torch.stack(apart).mean()), rtol=1e-9)


def test_specificity_grows_with_the_freedom_of_the_samples(model):
    curve = specificity(model, [0, model.modes], count=100)["vertex"]
    assert curve[1] > curve[0]


def test_curves_end_with_all_modes(model):
    assert mode_counts(model)[-1] == model.modes
    assert mode_counts(model) == sorted(set(mode_counts(model)))


def test_bands_hold_their_curves(model):
    compact = compactness(model).tolist()
    low, high = np.array(compactness_band(model, compact)).T
    assert (low <= compact).all() and (compact <= high).all()
    assert (low >= 0).all() and (high <= 1).all() and (low[:-1] < high[:-1]).all()
    assert np.allclose((low[-1], high[-1]), 1)

    errors = generalisation(model, [0, 1, 2])["vertex"]
    low, high = np.array(generalisation_band(errors)).T
    assert (low < errors.mean(0)).all() and (errors.mean(0) < high).all()

    specific = specificity(model, [0, 1, 3])["vertex"]
    low, high = np.array(specificity_band(model, [0, 1, 3], specific)).T
    assert (low < specific).all() and (specific < high).all() and (low >= 0).all()


def test_bands_are_the_same_each_time(model):
    compact = compactness(model).tolist()
    assert compactness_band(model, compact) == compactness_band(model, compact)
    assert compactness_band(model, compact) != compactness_band(model, compact, seed=1)
    assert specificity_band(model, [1], [2.0]) == specificity_band(model, [1], [2.0])


def test_a_case_and_its_mirror_image_are_drawn_as_one():
    rng = np.random.default_rng(0)
    radii, lengths = (20 + 2 * rng.normal(size=8)).tolist(), (1 + 0.1 * rng.normal(size=8)).tolist()
    once = spheres(radii, lengths)
    # balls are their own mirror images: as shapes of their own they would halve the doubt
    twice = train(
        once.training_shapes().repeat(2, 1, 1),
        once.faces,
        once.structure,
        once.names,
        once.labels,
        cases=[*once.cases, *(f"{name}~" for name in once.cases)],
    )
    assert twice.subjects() == list(once.cases)
    bands = [np.array(compactness_band(m, compactness(m).tolist())) for m in (once, twice)]
    assert np.allclose(bands[0], bands[1], atol=1e-6)


def test_the_band_of_compactness_covers_what_other_cases_would_show():
    rng = np.random.default_rng(2)
    curves, held = [], []
    for _ in range(60):
        model = spheres((20 + 2 * rng.normal(size=10)).tolist(), (1 + 0.06 * rng.normal(size=10)).tolist())
        curve = compactness(model).tolist()
        curves.append(curve[0])
        held.append(compactness_band(model, curve, draws=100)[0])
    low, high = np.array(held).T
    covered = ((low <= np.mean(curves)) & (np.mean(curves) <= high)).mean()
    assert covered >= 0.8
    assert (high - low).mean() < 0.9  # and not by saying nothing


def test_large_sets_leave_out_some_evenly():
    model = small_model(6)
    assert model.subjects() == model.subjects(6) == [f"case{k}" for k in range(6)]
    assert model.subjects(3) == ["case0", "case2", "case5"]


def test_a_left_out_case_is_fitted_better_than_by_the_mean(model):
    cases = {f"case{seed}": case_surfaces(seed) for seed in (0, 1)}
    tip = Landmarks(("tip",), torch.tensor([7]), torch.full((1, 3), 1 / 3, dtype=torch.float64))
    rows = leave_one_out(model, cases, ProjectSettings(samples=2000), landmarks={"case1": tip})
    assert [row["case"] for row in rows] == ["case0", "case1"]
    for row in rows:
        assert row["assd"] < row["mean_shape"]["assd"]
        assert row["assd"] <= row["hd95"] <= row["hausdorff"]
        assert set(row["structures"]) == {"sacrum", "hip_left", "hip_right"}
    assert "landmarks" not in rows[0]
    bone = cases["case1"]["sacrum"]
    place = np.array([rows[1]["landmarks"]["tip"]])
    assert closest_points(place, bone.vertices, bone.faces).distance[0] < 1.0


def test_a_surface_is_at_no_distance_from_itself():
    figures = distances(case_surfaces(1), case_surfaces(1), count=500)
    assert figures["hausdorff"] < 1e-9


SMALL = BuildSettings(
    vertices=500,
    samples=1500,
    workers=1,
    kernel_widths=(20.0,),
    kernel_steps=3,
    stiffness=(3.0, 0.5),
    stiffness_steps=1,
    leave_one_out_cases=3,
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
        [_case(seed) for seed in range(4)], SMALL, labels, lambda what, share: told.append(share)
    )
    assert (model.names, model.labels) == (("hip_left", "hip_right"), (2, 3))
    assert model.cases == tuple(f"case{k}{m}" for m in ("", "~") for k in range(4))
    assert model.landmarks.names == ("top",)
    assert all(mesh.is_watertight for mesh in model.surfaces(model.mean).values())
    assert json.loads(json.dumps(card)) == card
    assert card["subjects"] == [f"case{k}" for k in range(4)]
    assert (card["frame"], card["units"], card["license"]) == ("RAS", "mm", "CC0")
    assert card["registration_mean"]["segmentation_to_model"]["mean"] < 0.5
    assert card["registration_mean"]["normals"]["mean"] < 15
    assert all(row["flipped_faces"] == 0 for row in card["registration"].values())
    assert "hip_left, superior end" in [row["place"] for row in card["coverage"]["places"]]
    assert card["compactness"][card["modes_for_90_percent"] - 1] >= 0.9
    for name in ("generalisation", "specificity"):
        assert len(card[name]["modes"]) == len(card[name]["vertex"]) == len(card[name]["band"]["vertex"])
    assert len(card["compactness_band"]) == len(card["compactness"]) == model.modes
    assert card["leave_one_out"]["mean"]["assd"] < card["leave_one_out"]["mean_shape"]["assd"]
    assert [row["case"] for row in card["leave_one_out"]["cases"]] == ["case0", "case2", "case3"]
    assert "3 of 4 cases" in card["leave_one_out"]["note"]
    transfer = card["landmark_transfer"]
    assert [row["name"] for row in transfer["landmarks"]] == ["top"]
    assert transfer["readers"]["mean"] == 0  # one reading each
    assert transfer["registration"]["mean"] < 6 and transfer["fit"]["mean"] < 6
    assert told == sorted(told) and told[-1] == 1.0


def test_one_case_is_no_model():
    with pytest.raises(ValueError, match="a shape model needs at least 2 shapes, got 1"):
        build_model([_case(0)], SMALL)


def test_cases_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several cases are called case0"):
        build_model([_case(0), _case(0)], SMALL)


def test_a_case_that_lacks_a_structure_is_named():
    with pytest.raises(ValueError, match="case case0: lacks sacrum; it has hip_left, hip_right"):
        build_model([_case(0), _case(1)], SMALL, {"sacrum": 1, "hip_left": 2})
