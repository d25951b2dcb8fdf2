"""A model laid on a segmentation finds the shape and the place that made it."""

import numpy as np
import pytest
import torch
import trimesh

from shapefit import se3
from shapefit.fit.surface import fit_surface
from shapefit.fit.surface_pairs import find_pairs, shared_bones
from shapefit.settings import ProjectSettings
from tests.small import case_surfaces, small_model

QUICK = ProjectSettings(samples=3000, prior_weight=1e-5)


@pytest.fixture(scope="module")
def model():
    return small_model(8)


def placed(model, coefficients, twist):
    motion = se3.exp(torch.tensor(twist, dtype=torch.float64))
    return motion, model.surfaces(se3.transform(motion, model.instance(coefficients)))


@pytest.mark.parametrize(
    "twist", [[0.1, -0.1, 0.2, 5, 3, -4], [0.2, 0.1, 2.6, 300, -200, 900], [3.0, 0.2, 0.1, 0, 0, 50]]
)
def test_a_fit_recovers_the_shape_and_the_place_it_was_shown(model, twist):
    known = torch.linspace(-1.5, 1.5, model.modes, dtype=torch.float64)
    motion, surfaces = placed(model, known, twist)
    fit = fit_surface(model, surfaces, QUICK)
    assert torch.allclose(fit.coefficients, known, atol=0.05)
    assert torch.allclose(fit.world_from_model, motion, atol=0.2)
    assert fit.residual["assd"] < 0.05
    assert se3.is_rigid(fit.world_from_model)


def test_a_fit_is_better_than_the_mean_shape(model):
    fit = fit_surface(model, case_surfaces(200), QUICK)
    assert fit.residual["assd"] < 0.5 * fit.mean_shape_residual["assd"]


def test_a_strong_prior_gives_the_mean_shape(model):
    known = torch.full((model.modes,), 1.5, dtype=torch.float64)
    _, surfaces = placed(model, known, [0.0, 0, 0, 0, 0, 0])
    fit = fit_surface(model, surfaces, ProjectSettings(samples=3000, prior_weight=1e6))
    assert fit.coefficients.abs().max() < 1e-3


def test_fewer_modes_leave_the_others_at_zero(model):
    fit = fit_surface(model, case_surfaces(3), ProjectSettings(samples=2000, modes=1))
    assert fit.coefficients.shape == (model.modes,)
    assert fit.coefficients[0].abs() > 0
    assert (fit.coefficients[1:] == 0).all()


def test_a_bone_that_the_case_lacks_is_filled_in(model):
    known = torch.linspace(1.0, -1.0, model.modes, dtype=torch.float64)
    motion, surfaces = placed(model, known, [0.1, 0.1, 0.1, 10, 0, 0])
    del surfaces["sacrum"]
    fit = fit_surface(model, surfaces, QUICK)
    truth = se3.transform(motion, model.instance(known))
    assert (fit.vertices - truth).norm(dim=1).max() < 1.0


def test_the_result_is_the_same_each_time(model):
    one, other = (fit_surface(model, case_surfaces(4), QUICK) for _ in range(2))
    assert torch.equal(one.vertices, other.vertices)


def test_weighted_pairs_measure_the_average_symmetric_distance(model):
    surfaces = model.surfaces(model.mean * 1.1)
    bones = shared_bones(model, surfaces, QUICK)
    pairs = find_pairs(model.mean.numpy(), np.eye(4), bones)
    assert np.isclose(pairs.weights.sum(), 1)
    assert np.isclose(pairs.weights[: len(bones[0].used)].sum(), 0.5 * _share(model, 0), atol=1e-6)
    assert (pairs.goals - pairs.on(model.mean.numpy())).shape == pairs.goals.shape


def _share(model, number: int) -> float:
    meshes = list(model.surfaces(model.mean).values())
    return meshes[number].area / sum(mesh.area for mesh in meshes)


def test_a_case_without_any_of_the_bones_is_refused(model):
    with pytest.raises(ValueError, match=r"none of the model's structures \(sacrum.*it has femur"):
        fit_surface(model, {"femur": trimesh.creation.icosphere(1)}, QUICK)


def test_an_open_mesh_is_refused_by_name(model):
    surfaces = case_surfaces(1)
    hole = surfaces["hip_left"]
    surfaces["hip_left"] = trimesh.Trimesh(hole.vertices, hole.faces[1:], process=False)
    with pytest.raises(ValueError, match="hip_left is not closed: 3 boundary edges"):
        fit_surface(model, surfaces, QUICK)
