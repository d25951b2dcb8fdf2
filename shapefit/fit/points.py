"""A shape model conditioned on a few points of a patient: landmarks, or vertices whose place is known."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit import se3
from shapefit.pca import best_rotation
from shapefit.shape_model import ShapeModel

ROUNDS = 50  # of Gauss and Newton; a handful is enough from a Procrustes start
SETTLED = 1e-7  # mm and radians: the last step
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

    A point of the surface is three corners and the barycentric coordinates between them. The rigid pose
    that, with its best shape, makes the posterior of both largest is found by Gauss-Newton steps from the
    weighted Procrustes pose of the mean. The model is then conditioned in this pose, taken as known. Size
    is part of the shape.
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
    pose = _pose(mean, points, 1 / deviation**2)
    before = (mean - (points - pose[:3, 3]) @ pose[:3, :3]).norm(dim=1)
    prior = torch.cat([torch.zeros(6), torch.ones(model.modes)]).to(mean)  # none on the pose
    columns = torch.cat([basis.new_zeros(6, *mean.shape), basis])
    columns[3:6] = torch.eye(3).to(mean)[:, None]
    for _ in range(ROUNDS):
        # a small motion of the model moves its points by rotation x point + translation
        target = (points - pose[:3, 3]) @ pose[:3, :3]
        columns[:3] = torch.linalg.cross(torch.eye(3).to(mean)[:, None], target[None], dim=-1)
        rows = (columns / deviation[:, None]).flatten(1).T
        offset = ((target - mean) / deviation[:, None]).flatten()
        step = torch.linalg.solve(rows.T @ rows + prior.diag(), rows.T @ offset)[:6]
        pose = pose @ se3.exp(step)
        if float(step.abs().max()) < SETTLED:
            break
    target = (points - pose[:3, 3]) @ pose[:3, :3]
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
