"""A shape model conditioned on a few points of a patient: landmarks, or vertices whose place is known."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.gaussian import condition
from shapefit.pca import best_rotation
from shapefit.shape_model import ShapeModel

ROUNDS = 500  # of pose and shape in turn
SETTLED = 1e-6  # mm, by how little the points must move in the last round
FLAT = 1e-3  # share of their spread that points must lie away from a line


class PointFit(NamedTuple):
    """The shapes that pass through points, and the pose in which they do."""

    model: ShapeModel  # conditioned, in the frame of the model it came from
    world_from_model: Float[Tensor, "4 4"]
    distance_before: Float[Tensor, " P"]  # mm, of the mean shape in its best pose
    distance_after: Float[Tensor, " P"]  # mm, of the mean of the conditioned model


def condition_on_points(
    model: ShapeModel,
    corners: Int[Tensor, "P 3"],
    barycentric: Float[Tensor, "P 3"],
    points: Float[Tensor, "P 3"],
    noise: Float[Tensor, " P"],
) -> PointFit:
    """The model of the shapes whose surface points lie at `points` (world mm) up to `noise` (mm, std).

    A point of the surface is three corners and the barycentric coordinates between them. Pose (rigid,
    weighted Procrustes) and shape are found in turn until the points rest: the maximum of the posterior
    of both. The model is then conditioned in this pose, taken as known. Size is part of the shape.
    Raises ValueError for fewer than 3 points, points on a line, and what `ShapeModel.posterior` refuses.
    """
    if len(points) < 3:
        raise ValueError(f"a pose needs at least 3 points, got {len(points)}")
    if not torch.isfinite(points).all():
        raise ValueError("some of the points are not finite; leave them out")
    spread = torch.linalg.svdvals(points - points.mean(0))
    if spread[1] < FLAT * spread[0]:
        raise ValueError("the points lie on a line: they do not tell the pose")
    weights = barycentric.to(model.mean)
    basis = ((model.components * model.std[:, None, None])[:, corners] * weights[..., None]).sum(2)
    mean = (model.mean[corners] * weights[..., None]).sum(1)
    deviation = (noise.to(model.mean) ** 2 + model.noise_variance).sqrt()
    if not (deviation > 0).all():
        raise ValueError(f"the noise of a point must be positive, got {float(noise.min())} mm")
    rows = (basis / deviation[:, None]).reshape(model.modes, -1).T
    shape, target, pose = mean, mean, torch.eye(4, dtype=mean.dtype)
    before = torch.zeros(len(points), dtype=mean.dtype)
    for number in range(ROUNDS):
        pose = _pose(shape, points, 1 / deviation**2)
        target = (points - pose[:3, 3]) @ pose[:3, :3]
        if number == 0:
            before = (shape - target).norm(dim=1)
        coefficients, _ = condition(rows, ((target - mean) / deviation[:, None]).reshape(-1))
        moved = mean + torch.tensordot(coefficients, basis, dims=([0], [0])) - shape
        shape = shape + moved
        if float(moved.abs().max()) < SETTLED:
            break
    fitted = model.posterior(corners, target, noise, barycentric)
    after = ((fitted.mean[corners] * weights[..., None]).sum(1) - target).norm(dim=1)
    return PointFit(fitted, pose, before, after)


def _pose(source: Float[Tensor, "P 3"], target: Float[Tensor, "P 3"], weight: Float[Tensor, " P"]) -> Tensor:
    """target_from_source, 4x4: the rigid motion of least weighted squared distance."""
    share = (weight / weight.sum())[:, None]
    centres = (source * share).sum(0), (target * share).sum(0)
    root = share.sqrt()
    pose = torch.eye(4, dtype=source.dtype)
    pose[:3, :3] = best_rotation((source - centres[0]) * root, (target - centres[1]) * root)
    pose[:3, 3] = centres[1] - pose[:3, :3] @ centres[0]
    return pose
