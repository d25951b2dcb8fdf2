"""The rigid motion or similarity that brings one set of surfaces onto another.

An error after alignment answers another question than an absolute one: rigid alignment takes the pose out,
similarity alignment also the size, which one X-ray leaves nearly free.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float

from shapefit import _closest_numba, se3
from shapefit.mesh import sample_surface


@dataclass(frozen=True)
class Alignment:
    """`matrix` (4, 4) acts on the result, mm; `method` says which pairs of points it was fitted to."""

    matrix: Float[np.ndarray, "4 4"]
    method: str

    @property
    def scale(self) -> float:
        return float(np.cbrt(np.linalg.det(self.matrix[:3, :3])))

    @property
    def rotation_deg(self) -> float:
        return float(torch.rad2deg(se3.rotation_angle(torch.from_numpy(self.matrix[:3, :3] / self.scale))))

    def displacement(self, point: Float[np.ndarray, " 3"]) -> float:
        """How far the alignment moves a point, mm."""
        return float(np.linalg.norm(self.matrix[:3, :3] @ point + self.matrix[:3, 3] - point))


def align_points(
    source: Float[np.ndarray, "N 3"],
    target: Float[np.ndarray, "N 3"],
    weight: Float[np.ndarray, " N"] | None = None,
    scale: bool = False,
) -> Float[np.ndarray, "4 4"]:
    """The least-squares rigid motion (or similarity) that takes source points to target points, mm.

    Method: Umeyama, IEEE PAMI 13:376 (1991); never a reflection.
    """
    weight = np.full(len(source), 1.0 / len(source)) if weight is None else weight / weight.sum()
    source_mean, target_mean = weight @ source, weight @ target
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd((b * weight[:, None]).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    factor = float(singular @ sign) / float(weight @ (a * a).sum(1)) if scale else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = factor * rotation
    matrix[:3, 3] = target_mean - factor * rotation @ source_mean
    return matrix


def align(
    source: trimesh.Trimesh,
    target: trimesh.Trimesh,
    scale: bool = False,
    samples: int = 3000,
    seed: int = 0,
    start: Float[np.ndarray, "4 4"] | None = None,
) -> Alignment:
    """Bring `source` onto `target`: by correspondence when both have the same faces, else by closest points.

    Correspondence weighs each vertex with the area around it. Closest points are taken in both directions
    (in one direction alone, a similarity would shrink the source into the target): a few point-to-point
    steps from `start` (coinciding centroids if absent), then point-to-plane steps until nothing moves, first
    on a tenth of the `samples` points of each surface, then on all; the best alignment of all is kept.
    Method: Besl and McKay, IEEE PAMI 14:239 (1992); Chen and Medioni, Image Vis. Comput. 10:145 (1992).
    """
    if source.faces.shape == target.faces.shape and np.array_equal(source.faces, target.faces):
        weight = _vertex_areas(source) + _vertex_areas(target)
        matrix = align_points(np.asarray(source.vertices), np.asarray(target.vertices), weight, scale)
        return Alignment(matrix, "correspondence")
    nearest = _nearest_on(source), _nearest_on(target)
    matrix = start
    if matrix is None:
        matrix = np.eye(4)
        matrix[:3, 3] = _centroid(target) - _centroid(source)
    for count in (max(samples // 10, 200), samples):
        matrix = _closest_point_steps(source, target, matrix, scale, count, seed, nearest)
    return Alignment(matrix, "closest points")


def _closest_point_steps(
    source: trimesh.Trimesh,
    target: trimesh.Trimesh,
    matrix: np.ndarray,
    scale: bool,
    samples: int,
    seed: int,
    nearest: tuple[Callable, Callable],
) -> np.ndarray:
    """From one alignment to a better one; of all steps' alignments, that with the least squared distance."""
    source_points, _ = sample_surface(np.asarray(source.vertices), np.asarray(source.faces), samples, seed)
    target_points, target_face = sample_surface(
        np.asarray(target.vertices), np.asarray(target.faces), samples, seed
    )
    normals = np.asarray(target.face_normals, dtype=np.float64)
    best, best_error, last_error = matrix, np.inf, np.inf
    for step in range(30):
        moved = _moved(matrix, source_points)
        onto_target, face = nearest[1](moved)
        # Nearest points keep under similarities: ask in the source's own frame, where its tree was built.
        onto_source, _ = nearest[0](_moved(np.linalg.inv(matrix), target_points))
        p = np.concatenate([moved, _moved(matrix, onto_source)])
        q = np.concatenate([onto_target, target_points])
        error = float(((p - q) ** 2).sum(1).mean())
        if error < best_error:
            best, best_error = matrix, error
        if step > 5 and abs(last_error - error) <= 1e-5 * max(error, 1e-9):
            break
        last_error = error
        if step < 4:
            increment = align_points(p, q, None, scale)
        else:
            increment = _plane_step(p, q, normals[np.concatenate([face, target_face])], scale)
        matrix = increment @ matrix
    return best


def _plane_step(p: np.ndarray, q: np.ndarray, normal: np.ndarray, scale: bool) -> np.ndarray:
    """One linearised step along the normals: rotation, translation and, if free, growth about the centre."""
    centre = p.mean(0)
    arm = p - centre
    columns = [np.cross(arm, normal), normal]
    if scale:
        columns.append((arm * normal).sum(1, keepdims=True))
    system, residual = np.concatenate(columns, axis=1), ((q - p) * normal).sum(1)
    # Least squares of minimum norm: a sphere's rotation has no evidence and stays as it is.
    radius = np.sqrt((arm**2).sum(1).mean())
    unit = np.array([radius] * 3 + [1.0] * 3 + [radius] * scale)  # mm of surface moved by each unknown
    move = np.linalg.lstsq(system / unit, residual, rcond=1e-6)[0] / unit
    rotation = se3.exp(torch.from_numpy(np.concatenate([move[:3], np.zeros(3)]))).numpy()[:3, :3]
    linear = rotation * (np.exp(np.clip(move[6], -0.2, 0.2)) if scale else 1.0)
    step = np.eye(4)
    step[:3, :3] = linear
    step[:3, 3] = centre + move[3:6] - linear @ centre
    return step


def _nearest_on(mesh: trimesh.Trimesh) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A query that keeps its tree: points -> nearest points of the mesh, and their faces."""
    corners = np.asarray(mesh.vertices, dtype=np.float64)[mesh.faces]
    tree = _closest_numba.build_tree(corners)

    def nearest(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        face, barycentric = _closest_numba.closest(np.ascontiguousarray(points), corners, *tree)
        return np.einsum("nk,nkd->nd", barycentric, corners[face]), face

    return nearest


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _centroid(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.asarray(mesh.triangles_center).T @ mesh.area_faces / mesh.area


def _vertex_areas(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.bincount(mesh.faces.ravel(), np.repeat(mesh.area_faces / 3, 3), minlength=len(mesh.vertices))
