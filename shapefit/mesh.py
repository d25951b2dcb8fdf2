"""Triangle-mesh geometry on arrays: normals, area, volume, closedness, sampling, closest points.

A mesh is `vertices` (V, 3) in mm and `faces` (F, 3), counter-clockwise seen from outside; or one mesh object
in their place, see `interop`. Differentiable functions take tensors; queries (sampling, closest points) take
either and work in NumPy, float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from shapefit import _closest_numba
from shapefit.interop import accepts_foreign

Array = Tensor | np.ndarray


def as_numpy(array: Array, dtype: type) -> np.ndarray:
    """A tensor's or array's numbers in NumPy, without its gradients."""
    return np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array, dtype=dtype)


@accepts_foreign
def face_normals(
    vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"], unit: bool = True
) -> Float[Tensor, "*batch F 3"]:
    """Outward normals of the faces; with `unit=False` their length is twice the face's area."""
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    normals = torch.linalg.cross(b - a, c - a)
    return torch.nn.functional.normalize(normals, dim=-1) if unit else normals


@accepts_foreign
def vertex_normals(
    vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "*batch V 3"]:
    """Unit normals of the vertices: the area-weighted mean of the faces around each."""
    if vertices.ndim == 3 and len(vertices) > 1 and vertices.stride(0) == 0:  # one mesh, in many poses
        return vertex_normals(vertices[:1], faces).expand_as(vertices)
    normals = face_normals(vertices, faces, unit=False).reshape(-1, 3)
    # all meshes of the batch as rows of one: adding along any other axis is ten times slower
    total = torch.zeros_like(vertices).reshape(-1, 3)
    first = torch.arange(0, len(total), vertices.shape[-2], device=faces.device)[:, None]
    for k in range(3):
        total = total.index_add(0, (first + faces[:, k]).flatten(), normals)
    return torch.nn.functional.normalize(total, dim=-1).view_as(vertices)


@accepts_foreign
def area(vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "*batch"]:
    """Surface area in mm^2."""
    return 0.5 * torch.linalg.vector_norm(face_normals(vertices, faces, unit=False), dim=-1).sum(-1)


@accepts_foreign
def volume(vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "*batch"]:
    """Volume in mm^3 inside a closed mesh (divergence theorem); negative if it is inside out."""
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    return (a * torch.linalg.cross(b, c)).sum((-1, -2)) / 6


@accepts_foreign
def boundary_edges(faces: Shaped[Array, "F 3"]) -> int:
    """How many edges keep the mesh from being closed and consistently wound.

    In a closed mesh each directed edge a -> b occurs as often as its opposite b -> a;
    the count is that of the directed edges left without a partner.
    """
    edges, number = undirected_edges(as_numpy(faces, np.int64))
    return int(np.abs(np.bincount(number, np.where(edges[:, 0] <= edges[:, 1], 1, -1))).sum())


def undirected_edges(faces: Int[np.ndarray, "F 3"]) -> tuple[Int[np.ndarray, "E 2"], Int[np.ndarray, "E"]]:
    """The directed edges, three of each face in turn, and a number that both directions of an edge share.

    Numbers ascend with the lower, then the higher vertex of the edge.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    keys = edges.min(1) * (int(faces.max(initial=0)) + 1) + edges.max(1)
    return edges, np.unique(keys, return_inverse=True)[1].reshape(-1)


@accepts_foreign
def require_sound(vertices: Shaped[Array, "V 3"], faces: Shaped[Array, "F 3"], name: str = "mesh") -> None:
    """Raise ValueError, naming the mesh, unless it has faces, of vertices that are there and finite."""
    vertices, faces = as_numpy(vertices, np.float64), as_numpy(faces, np.int64)
    if len(faces) == 0:
        raise ValueError(f"{name} has no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{name} has faces that name vertices beyond its {len(vertices)}")
    if count := int((~np.isfinite(vertices)).any(1).sum()):
        raise ValueError(f"{name} has {count} vertices that are not finite")


@accepts_foreign
def require_closed(
    vertices: Shaped[Array, "V 3"],
    faces: Shaped[Array, "F 3"],
    name: str = "mesh",
    advice: str = "see repair_mesh",
) -> None:
    """Raise ValueError, naming the mesh and with advice, unless it is finite, closed and wound outwards."""
    require_sound(vertices, faces, name)
    vertices = torch.from_numpy(as_numpy(vertices, np.float64))
    faces = torch.from_numpy(as_numpy(faces, np.int64))
    if count := boundary_edges(faces):
        raise ValueError(f"{name} is not closed: {count} boundary edges; {advice}")
    if (inside := float(volume(vertices, faces))) <= 0:
        raise ValueError(f"{name} is inside out (volume {inside:.0f} mm^3): reverse its faces")


@accepts_foreign
def sample_surface(
    vertices: Shaped[Array, "V 3"], faces: Shaped[Array, "F 3"], count: int, seed: int = 0
) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "N"]]:
    """`count` points uniform in area (mm), and the face of each; stratified: one per equal share of area."""
    vertices, faces = as_numpy(vertices, np.float64), as_numpy(faces, np.int64)
    rng = np.random.default_rng(seed)
    corners = vertices[faces]
    weight = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    place = (np.arange(count) + rng.random(count)) / count * weight.sum()
    face = np.minimum(np.searchsorted(np.cumsum(weight), place), len(faces) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = corners[face].transpose(1, 0, 2)
    return a + u * (b - a) + v * (c - a), face


class ClosestPoints(NamedTuple):
    """The point of a surface nearest to each query point."""

    point: Float[np.ndarray, "N 3"]  # mm
    face: Int[np.ndarray, "N"]
    barycentric: Float[np.ndarray, "N 3"]  # of `point` in its face
    distance: Float[np.ndarray, "N"]  # mm


class SurfaceTree(NamedTuple):
    """A triangle mesh prepared for many queries by `closest_on`."""

    corners: Float[np.ndarray, "F 3 3"]  # mm
    nodes: tuple


@accepts_foreign
def surface_tree(vertices: Shaped[Array, "V 3"], faces: Shaped[Array, "F 3"]) -> SurfaceTree:
    """The bounding-box tree of a mesh (mm); building it costs as much as some ten thousand queries."""
    corners = as_numpy(vertices, np.float64)[as_numpy(faces, np.int64)]
    return SurfaceTree(corners, _closest_numba.build_tree(corners))


def closest_on(tree: SurfaceTree, points: Shaped[Array, "N 3"]) -> ClosestPoints:
    """Exact nearest points on a prepared mesh; `points` in mm."""
    points = np.ascontiguousarray(as_numpy(points, np.float64))
    face, barycentric = _closest_numba.closest(points, tree.corners, *tree.nodes)
    point = np.einsum("nk,nkd->nd", barycentric, tree.corners[face])
    return ClosestPoints(point, face, barycentric, np.linalg.norm(points - point, axis=1))


@accepts_foreign
def closest_points(
    points: Shaped[Array, "N 3"], vertices: Shaped[Array, "V 3"], faces: Shaped[Array, "F 3"]
) -> ClosestPoints:
    """Exact nearest points on a triangle mesh, by a bounding-box tree; `points` and `vertices` in mm."""
    return closest_on(surface_tree(vertices, faces), points)
