"""A shape model fitted to the surfaces of a 3D segmentation: the most that the model can say of a bone.

Minimised over pose and shape: the average symmetric surface distance, softened near zero, plus a small
prior on the shape. Iterated closest points in both directions, reweighted Gauss-Newton steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from shapefit import se3
from shapefit.mesh import closest_points, require_closed, sample_surface
from shapefit.settings import ProjectSettings
from shapefit.shape_model import ShapeModel


@dataclass(frozen=True)
class SurfaceFit:
    """A model laid on a segmentation. `residual` holds mm: assd, p95 and max of both directions.

    `world_from_mean` is the best rigid placement of the mean shape, for comparison.
    """

    coefficients: Float[Tensor, " K"]
    world_from_model: Float[Tensor, "4 4"]
    vertices: Float[Tensor, "V 3"]
    residual: dict[str, float]
    world_from_mean: Float[Tensor, "4 4"]
    mean_shape_residual: dict[str, float]


class _Bones:
    """The structures that model and case share, as arrays: who may be nearest to whom."""

    def __init__(
        self, model: ShapeModel, surfaces: Mapping[str, trimesh.Trimesh], settings: ProjectSettings
    ) -> None:
        shared = [name for name in model.names if name in surfaces]
        if not shared:
            raise ValueError(
                f"the case has none of the model's structures ({', '.join(model.names)}); "
                f"it has {', '.join(surfaces) or 'none'}"
            )
        faces, structure = model.faces.numpy(), model.structure.numpy()
        total = sum(float(surfaces[name].area) for name in shared)
        self.bones = []
        self.used = np.zeros(len(model.mean), dtype=bool)
        for name in shared:
            mesh = surfaces[name]
            vertices, target_faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
            require_closed(vertices, target_faces, name)
            own = faces[structure == model.names.index(name)]
            used, local = np.unique(own, return_inverse=True)
            count = max(200, round(settings.samples * float(mesh.area) / total))
            points = sample_surface(vertices, target_faces, count, settings.seed)[0]
            points = points[np.random.default_rng(settings.seed).permutation(count)]
            self.bones.append((used, local.reshape(-1, 3), vertices, target_faces, points))
            self.used[used] = True
        self.points = np.concatenate([bone[4] for bone in self.bones])

    def pairs(self, vertices: Float[ndarray, "V 3"], thin: int = 1) -> "_Pairs":
        """Nearest points in both directions for model vertices (V,3) in world mm; `thin` takes every n-th."""
        index, barycentric, goals, weights = [], [], [], []
        area = _vertex_areas(vertices, self.bones)
        for (used, local, target, target_faces, points), own_area in zip(self.bones, area, strict=True):
            ahead = closest_points(vertices[used][::thin], target, target_faces)
            index.append(np.repeat(used[::thin, None], 3, axis=1))
            barycentric.append(np.tile([1.0, 0.0, 0.0], (len(ahead.point), 1)))
            goals.append(ahead.point)
            weights.append(own_area[::thin] / sum(a[::thin].sum() for a in area) / 2)
            back = closest_points(points[::thin], vertices[used], local)
            index.append(used[local[back.face]])
            barycentric.append(back.barycentric)
            goals.append(points[::thin])
            count = sum(len(bone[4][::thin]) for bone in self.bones)
            weights.append(np.full(len(goals[-1]), 0.5 / count))
        return _Pairs(*(np.concatenate(part) for part in (index, barycentric, goals, weights)))


@dataclass(frozen=True)
class _Pairs:
    index: Int[ndarray, "N 3"]
    barycentric: Float[ndarray, "N 3"]
    goals: Float[ndarray, "N 3"]
    weights: Float[ndarray, " N"]

    def at(self, vertices: Float[ndarray, "V 3"]) -> Float[ndarray, "N 3"]:
        return np.einsum("nk,nkd->nd", self.barycentric, vertices[self.index])


def fit_surface(
    model: ShapeModel, surfaces: Mapping[str, trimesh.Trimesh], settings: ProjectSettings | None = None
) -> SurfaceFit:
    """Pose and shape of a model that lie nearest to closed meshes in world mm (structure name -> mesh).

    The placement is found from the meshes alone, in any orientation. Structures that the case lacks are
    filled in by the model. Raises ValueError if no structure is shared or a mesh is not closed.
    """
    settings = settings or ProjectSettings()
    bones = _Bones(model, surfaces, settings)
    mean = model.mean.numpy()
    pose = placed = _place(mean, bones, settings)
    modes = min(settings.modes, model.modes) if settings.modes else model.modes
    basis = (model.components[:modes] * model.std[:modes, None, None]).permute(1, 2, 0).numpy()
    coefficients = np.zeros(modes)
    for step in range(settings.steps):
        # few modes first: the gross shape and the pose settle before details are asked for
        active = modes if step >= settings.steps // 3 else max(1, modes // 4)
        shape = mean + basis[..., :active] @ coefficients[:active]
        thin = 3 if step < settings.steps // 2 else 1
        update, coefficients[:active] = _joint_step(
            shape, basis[..., :active], coefficients[:active], pose, bones, thin, settings
        )
        pose = pose @ update
    world_from_model = torch.from_numpy(pose)
    full = torch.zeros(model.modes, dtype=torch.float64)
    full[:modes] = torch.from_numpy(coefficients)
    vertices = se3.transform(world_from_model, model.instance(full))
    rigid = _rigid(mean, placed, bones, settings.rigid_steps // 2, 1, settings)
    return SurfaceFit(
        full,
        world_from_model,
        vertices,
        _residual(vertices.numpy(), bones),
        torch.from_numpy(rigid),
        _residual(_move(rigid, mean), bones),
    )


def _move(matrix: ndarray, points: ndarray) -> ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _vertex_areas(vertices: ndarray, bones: list) -> list[ndarray]:
    areas = []
    for used, local, *_ in bones:
        corners = vertices[used][local]
        face = (
            np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 6
        )
        areas.append(np.bincount(local.reshape(-1), np.repeat(face, 3), len(used)))
    return areas


def _place(mean: ndarray, bones: _Bones, settings: ProjectSettings) -> ndarray:
    """The best rigid placement of the mean shape over several starting orientations."""
    own = mean[bones.used]
    center = bones.points.mean(0)
    turns = [np.eye(3)]
    here, there = (np.linalg.eigh(np.cov((p - p.mean(0)).T))[1] for p in (own, bones.points))
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        turned = there * np.array([*signs, 1.0])
        turned[:, 2] *= np.sign(np.linalg.det(turned) * np.linalg.det(here))
        turns.append(turned @ here.T)
    found = []
    for turn in turns[: max(1, settings.starts)]:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, center - turn @ own.mean(0)
        pose = _rigid(mean, pose, bones, 10, 20, settings)
        found.append((_distance(_move(pose, mean), bones, 20), pose))
    best = min(found, key=lambda one: one[0])[1]
    return _rigid(mean, best, bones, settings.rigid_steps, 5, settings)


def _rigid(
    mean: ndarray, pose: ndarray, bones: _Bones, steps: int, thin: int, settings: ProjectSettings
) -> ndarray:
    for _ in range(steps):
        update, _ = _joint_step(mean, np.zeros((len(mean), 3, 0)), np.zeros(0), pose, bones, thin, settings)
        pose = pose @ update
    return pose


def _distance(vertices: ndarray, bones: _Bones, thin: int = 1) -> float:
    pairs = bones.pairs(vertices, thin)
    return float(pairs.weights @ np.linalg.norm(pairs.at(vertices) - pairs.goals, axis=1))


def _joint_step(
    shape: ndarray,
    basis: ndarray,
    coefficients: ndarray,
    pose: ndarray,
    bones: _Bones,
    thin: int,
    settings: ProjectSettings,
) -> tuple[ndarray, ndarray]:
    """One Gauss-Newton step: rigid update (4x4, right of the pose) and new coefficients."""
    pairs = bones.pairs(_move(pose, shape), thin)
    inverse = np.linalg.inv(pose)
    points, goals = pairs.at(shape), _move(inverse, pairs.goals)
    offset = points - goals
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / np.maximum(distance, 1e-9)[:, None]
    weight = pairs.weights / np.maximum(distance, settings.softening)
    # rows d(point)/d(rotation, translation, coefficients), along the offset and, weakly, across it:
    # a distance is blind across its direction, and the weak rows keep the step from sliding far
    skew = np.zeros((len(points), 3, 3))
    x, y, z = points.T
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 0] = z, -y, -z
    skew[:, 1, 2], skew[:, 2, 0], skew[:, 2, 1] = x, y, -x
    modes = np.einsum("nk,nkdm->ndm", pairs.barycentric, basis[pairs.index]) if basis.shape[-1] else basis[:0]
    modes = modes if len(modes) else np.zeros((len(points), 3, 0))
    jacobian = np.concatenate([skew, np.broadcast_to(np.eye(3), skew.shape), modes], axis=2)
    along = np.einsum("nd,ndm->nm", direction, jacobian)
    normal = along.T @ (along * weight[:, None])
    across = jacobian.reshape(-1, jacobian.shape[2])
    normal += 0.1 * (across.T @ (across * np.repeat(weight, 3)[:, None]))
    gradient = along.T @ (weight * distance)
    prior = np.r_[np.zeros(6), np.full(len(coefficients), settings.prior_weight)]
    gradient += prior * np.r_[np.zeros(6), coefficients]
    step = -np.linalg.solve(normal + np.diag(prior + 1e-9), gradient)
    update = se3.exp(torch.from_numpy(step[:6])).numpy()
    return update, coefficients + step[6:]


def _residual(vertices: ndarray, bones: _Bones) -> dict[str, float]:
    pairs = bones.pairs(vertices)
    distance = np.linalg.norm(pairs.at(vertices) - pairs.goals, axis=1)
    order = np.argsort(distance)
    share = np.cumsum(pairs.weights[order])
    return {
        "assd": float(pairs.weights @ distance),
        "p95": float(distance[order][np.searchsorted(share, 0.95 * share[-1])]),
        "max": float(distance.max()),
    }
