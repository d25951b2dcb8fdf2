"""A shape model fitted to the surfaces of a 3D segmentation: the most that the model can say of a bone.

Minimised over pose and shape: the average symmetric surface distance, softened near zero, plus a small
prior on the shape. Iterated closest points in both directions, reweighted Gauss-Newton steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from shapefit import se3
from shapefit.fit.surface_pairs import Bone, Pairs, find_pairs, shape_trees, shared_bones
from shapefit.settings import ProjectSettings
from shapefit.shape_model import ShapeModel

ACROSS = 0.1  # a distance is blind across its direction; this share of it keeps steps from sliding far
AS_IT_LIES = 0.8  # a case is taken to lie as its axes say unless another orientation is a fifth better


@dataclass(frozen=True)
class SurfaceFit:
    """A model laid on a segmentation; residuals are `assd`, `p95` and `max` of both directions, in mm.

    `world_from_mean` is the best rigid placement of the mean shape, for comparison.
    """

    coefficients: Float[Tensor, " K"]
    world_from_model: Float[Tensor, "4 4"]
    vertices: Float[Tensor, "V 3"]
    residual: dict[str, float]
    world_from_mean: Float[Tensor, "4 4"]
    mean_shape_residual: dict[str, float]


def fit_surface(
    model: ShapeModel, surfaces: Mapping[str, trimesh.Trimesh], settings: ProjectSettings | None = None
) -> SurfaceFit:
    """Pose and shape of a model that lie nearest to closed meshes in world mm (structure name -> mesh).

    The placement is found from the meshes alone, in any orientation. Structures that the case lacks are
    filled in by the model. Raises ValueError if no structure is shared or a mesh is not closed.
    """
    settings = settings or ProjectSettings()
    bones = shared_bones(model, surfaces, settings)
    mean = model.mean.numpy()
    placed = place(mean, bones, settings)
    modes = min(settings.modes, model.modes) if settings.modes else model.modes
    basis = (model.components[:modes] * model.std[:modes, None, None]).permute(1, 2, 0).numpy()
    coefficients, pose = np.zeros(modes), placed
    for step in range(settings.steps):
        # few modes and points first: gross shape and pose settle before details are asked for
        active = modes if step >= settings.steps // 3 else max(1, modes // 4)
        thin = 3 if step < settings.steps // 2 else 1
        shape, part = mean + basis[..., :active] @ coefficients[:active], basis[..., :active]
        pairs = find_pairs(shape, pose, bones, thin=thin)
        update, coefficients[:active] = _step(shape, pairs, part, coefficients[:active], settings)
        pose = pose @ update
    found = torch.zeros(model.modes, dtype=torch.float64)
    found[:modes] = torch.from_numpy(coefficients)
    vertices = model.instance(found)
    world_from_model = torch.from_numpy(pose)
    return SurfaceFit(
        coefficients=found,
        world_from_model=world_from_model,
        vertices=se3.transform(world_from_model, vertices),
        residual=surface_residual(vertices.numpy(), pose, bones),
        world_from_mean=torch.from_numpy(placed),
        mean_shape_residual=surface_residual(mean, placed, bones),
    )


def place(
    shape: Float[ndarray, "V 3"], bones: Sequence[Bone], settings: ProjectSettings
) -> Float[ndarray, "4 4"]:
    """The best rigid placement world_from_model of a shape over several starting orientations."""
    own = shape[np.concatenate([bone.used for bone in bones])]
    points = np.concatenate([bone.points for bone in bones])
    here, there = (np.linalg.eigh(np.cov((p - p.mean(0)).T))[1] for p in (own, points))
    turns = [np.eye(3)]
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        turned = there * np.array([*signs, 1.0])
        turned[:, 2] *= np.sign(np.linalg.det(turned) * np.linalg.det(here))
        turns.append(turned @ here.T)
    trees = shape_trees(shape, bones)
    no_modes = np.zeros((*shape.shape, 0))

    def settle(pose: ndarray, steps: int, thin: int) -> ndarray:
        for _ in range(steps):
            pairs = find_pairs(shape, pose, bones, trees, thin)
            pose = pose @ _step(shape, pairs, no_modes, np.zeros(0), settings)[0]
        return pose

    found: list[tuple[float, ndarray]] = []
    for turn in turns[: max(1, settings.starts)]:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, points.mean(0) - turn @ own.mean(0)
        pose = settle(pose, 10, 20)
        pairs = find_pairs(shape, pose, bones, trees, 20)
        distance = float(pairs.weights @ pairs.distances(shape))
        found.append((distance * (1 if found else AS_IT_LIES), pose))
    best = min(found, key=lambda one: one[0])[1]
    return settle(settle(best, settings.rigid_steps, 10), settings.rigid_steps // 4, 2)


def _step(
    shape: ndarray, pairs: Pairs, basis: ndarray, coefficients: ndarray, settings: ProjectSettings
) -> tuple[ndarray, ndarray]:
    """One Gauss-Newton step: a rigid update (4x4, applied before the pose) and the new coefficients."""
    points = pairs.on(shape)
    offset = points - pairs.goals
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / np.maximum(distance, 1e-9)[:, None]
    weight = pairs.weights / np.maximum(distance, settings.softening)
    # d(point) / d(rotation, translation, coefficients)
    turn = np.zeros((len(points), 3, 3))
    x, y, z = points.T
    turn[:, 0, 1], turn[:, 0, 2], turn[:, 1, 0] = z, -y, -z
    turn[:, 1, 2], turn[:, 2, 0], turn[:, 2, 1] = x, y, -x
    modes = np.zeros((len(points), 3, basis.shape[2]))
    for corner in range(3):
        modes += pairs.barycentric[:, corner, None, None] * basis[pairs.index[:, corner]]
    jacobian = np.concatenate([turn, np.broadcast_to(np.eye(3), turn.shape), modes], axis=2)
    along = np.einsum("nd,ndm->nm", direction, jacobian)
    across = jacobian.reshape(-1, jacobian.shape[2])
    normal = along.T @ (along * weight[:, None])
    normal += ACROSS * (across.T @ (across * np.repeat(weight, 3)[:, None]))
    prior = np.r_[np.zeros(6), np.full(len(coefficients), settings.prior_weight)]
    gradient = along.T @ (weight * distance) + prior * np.r_[np.zeros(6), coefficients]
    step = -np.linalg.solve(normal + np.diag(prior + 1e-9), gradient)
    return se3.exp(torch.from_numpy(step[:6])).numpy(), coefficients + step[6:]


def surface_residual(shape: ndarray, pose: ndarray, bones: Sequence[Bone]) -> dict[str, float]:
    """`assd`, `p95` and `max` of a shape at a pose world_from_model, both directions, in mm."""
    pairs = find_pairs(shape, pose, bones)
    distance = pairs.distances(shape)
    order = np.argsort(distance)
    share = np.cumsum(pairs.weights[order])
    return {
        "assd": float(pairs.weights @ distance),
        "p95": float(distance[order][np.searchsorted(share, 0.95 * share[-1])]),
        "max": float(distance.max()),
    }
