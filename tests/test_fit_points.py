"""A model conditioned on points of a patient passes through them, in the patient's place."""

from dataclasses import replace

import pytest
import torch

from shapefit import se3
from shapefit.fit.points import condition_on_points
from tests.small import small_model

POSE = se3.exp(torch.tensor([0.4, -0.7, 0.2, 120.0, -300.0, 55.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def model():
    return small_model(8)


def on_surface(model, count: int, seed: int = 0):
    """Corners and weights of points spread over the surface."""
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randperm(len(model.faces), generator=generator)[:count]
    weights = torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.1
    return model.faces[faces], weights / weights.sum(1, keepdim=True)


def seen(shape, corners, weights, pose=POSE):
    places = (shape[corners] * weights[..., None]).sum(1)
    return places @ pose[:3, :3].T + pose[:3, 3]


def noise(count: int, value: float):
    return torch.full((count,), value, dtype=torch.float64)


def test_pose_and_shape_are_recovered_from_exact_points(model):
    corners, weights = on_surface(model, 60)
    truth = torch.linspace(-1, 1, model.modes, dtype=torch.float64)
    shape = model.instance(truth)
    fit = condition_on_points(model, corners, weights, seen(shape, corners, weights), noise(60, 1e-3))
    placed = fit.model.mean @ fit.world_from_model[:3, :3].T + fit.world_from_model[:3, 3]
    wanted = shape @ POSE[:3, :3].T + POSE[:3, 3]
    assert (placed - wanted).norm(dim=1).max() < 0.01  # mm
    assert fit.distance_after.max() < 0.01 < fit.distance_before.max()
    assert fit.model.vertex_std().max() < 0.05


def test_points_on_the_mean_leave_the_mean_and_tell_the_pose(model):
    corners, weights = on_surface(model, 12)
    fit = condition_on_points(model, corners, weights, seen(model.mean, corners, weights), noise(12, 1.0))
    assert torch.allclose(fit.world_from_model, POSE, atol=1e-6)
    assert (fit.model.mean - model.mean).abs().max() < 1e-6


def test_noise_without_end_leaves_the_model_as_it_was(model):
    corners, weights = on_surface(model, 12)
    points = seen(model.instance(torch.ones(model.modes, dtype=torch.float64)), corners, weights)
    fit = condition_on_points(model, corners, weights, points, noise(12, 1e6))
    assert (fit.model.mean - model.mean).abs().max() < 1e-3
    assert torch.allclose(fit.model.vertex_covariance(), model.vertex_covariance(), rtol=1e-4, atol=1e-6)


def test_what_is_found_is_the_maximum_of_the_posterior_of_pose_and_shape(model):
    model = replace(model, noise_variance=0.3)
    corners, weights = on_surface(model, 10)
    clean = seen(model.instance(torch.ones(model.modes, dtype=torch.float64)), corners, weights)
    points = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    deviation = torch.linspace(0.5, 3, 10, dtype=torch.float64)
    fit = condition_on_points(model, corners, weights, points, deviation)

    def energy(twist, coefficients):
        pose = fit.world_from_model @ se3.exp(twist)
        off = seen(model.instance(coefficients), corners, weights, pose) - points
        variance = deviation**2 + model.noise_variance
        return 0.5 * (off.square().sum(1) / variance).sum() + 0.5 * coefficients.square().sum()

    twist = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    coefficients = model.coefficients(fit.model.mean).requires_grad_()
    slopes = torch.autograd.grad(energy(twist, coefficients), (twist, coefficients))
    assert slopes[0][3:].abs().max() < 1e-5 and slopes[1].abs().max() < 1e-5  # per mm, per std
    assert slopes[0][:3].abs().max() < 1e-4  # per radian, at a radius of tens of mm


def test_sure_points_count_more_than_unsure_ones(model):
    corners, weights = on_surface(model, 20)
    points = seen(model.mean, corners, weights)
    points[0] += torch.tensor([0.0, 0.0, 15.0])
    deviation = noise(20, 1.0)
    even = condition_on_points(model, corners, weights, points, deviation)
    deviation[0] = 100.0
    wise = condition_on_points(model, corners, weights, points, deviation)
    assert wise.distance_after[1:].max() < 0.1 * even.distance_after[1:].max()


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_points_are_refused(model, count):
    corners, weights = on_surface(model, count)
    with pytest.raises(ValueError, match=f"a pose needs at least 3 points, got {count}"):
        condition_on_points(model, corners, weights, seen(model.mean, corners, weights), noise(count, 1.0))


def test_points_that_tell_no_pose_are_refused(model):
    corners, weights = on_surface(model, 4)
    line = torch.arange(4, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for points, message in ((line, "on a line"), (line * float("nan"), "points are not finite")):
        with pytest.raises(ValueError, match=message):
            condition_on_points(model, corners, weights, points, noise(4, 1.0))
    with pytest.raises(ValueError, match=r"noise of a point must be positive, got 0\.0 mm"):
        condition_on_points(model, corners, weights, seen(model.mean, corners, weights), noise(4, 0.0))
