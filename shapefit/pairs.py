"""Which point of one surface belongs to which of another: like-oriented nearest points, both directions.

All arrays are float64 numpy, in mm.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.spatial import cKDTree

from shapefit._pairs_numba import best_candidate
from shapefit.mesh import sample_surface

# Normals count as this many mm of distance in the search for a partner, so that the two faces of a
# thin plate (the iliac fossa is 2-3 mm thick) are not taken for one another.
NORMAL_LENGTH = 10.0


class SurfaceSamples(NamedTuple):
    """Points spread evenly over a surface with their outward normals."""

    points: Float[ndarray, "N 3"]
    normals: Float[ndarray, "N 3"]
    tree: cKDTree
    spacing: float


def corner_cross(vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]) -> Float[ndarray, "F 3"]:
    """Outward face normals whose length is twice the face's area, in mm^2."""
    triangles = vertices[faces]
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def unit(vectors: Float[ndarray, "N 3"]) -> Float[ndarray, "N 3"]:
    """Vectors of length 1; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def vertex_normals(vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]) -> Float[ndarray, "V 3"]:
    """Unit normals at the vertices, the area-weighted mean of the faces around each."""
    cross = corner_cross(vertices, faces)
    index = faces.T.reshape(-1)
    total = [np.bincount(index, np.tile(cross[:, axis], 3), len(vertices)) for axis in range(3)]
    return unit(np.stack(total, axis=1))


def samples_of(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"], count: int, seed: int = 0
) -> SurfaceSamples:
    """`count` area-uniform samples of a mesh, ready for normal-aware nearest-neighbour search."""
    points, face = sample_surface(vertices, faces, count, seed)
    order = np.random.default_rng(seed).permutation(count)  # so that any slice is spread evenly too
    points, face = points[order], face[order]
    cross = corner_cross(vertices, faces)
    normals = unit(cross)[face]
    tree = cKDTree(np.hstack([points, NORMAL_LENGTH * normals]))
    return SurfaceSamples(
        points, normals, tree, float(np.sqrt(np.linalg.norm(cross, axis=1).sum() / 2 / count))
    )


def nearest_on_samples(
    vertices: Float[ndarray, "V 3"], normals: Float[ndarray, "V 3"], target: SurfaceSamples
) -> tuple[Float[ndarray, "V 3"], Float[ndarray, " V"]]:
    """For each vertex the target's nearest like-oriented point and the cosine between the normals."""
    _, near = target.tree.query(np.hstack([vertices, NORMAL_LENGTH * normals]))
    anchor, normal = target.points[near], target.normals[near]
    height = ((vertices - anchor) * normal).sum(1, keepdims=True)
    slide = vertices - height * normal - anchor
    # sliding along the tangent plane removes the samples' graininess, but the plane holds only nearby
    length = np.linalg.norm(slide, axis=1, keepdims=True)
    slide = slide * np.minimum(1, target.spacing / np.maximum(length, 1e-12))
    return anchor + slide, (normals * normal).sum(1)


def nearest_on_mesh(
    points: Float[ndarray, "N 3"],
    normals: Float[ndarray, "N 3"],
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    candidates: int = 6,
) -> tuple[Int[ndarray, " N"], Float[ndarray, "N 3"], Float[ndarray, " N"]]:
    """Face, barycentric coordinates and cosine of normals of the nearest like-oriented point of a mesh."""
    triangles = vertices[faces]
    facing = unit(corner_cross(vertices, faces))
    tree = cKDTree(np.hstack([triangles.mean(1), NORMAL_LENGTH * facing]))
    candidates = min(candidates, len(faces))
    _, near = tree.query(np.hstack([points, NORMAL_LENGTH * normals]), k=candidates)
    near = near.reshape(len(points), candidates)
    face, barycentric = best_candidate(points, normals, triangles, facing, near, NORMAL_LENGTH)
    return face, barycentric, (facing[face] * normals).sum(1)


class Pairs(NamedTuple):
    """What pulls where: `rows @ vertices` should reach `goals`, with one weight per row."""

    rows: sparse.csr_matrix
    goals: Float[ndarray, "N 3"]
    weights: Float[ndarray, " N"]


def find_pairs(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    target: SurfaceSamples,
    back: slice,
    cosine: float,
) -> Pairs:
    """Partners in both directions; the two directions weigh the same in total.

    `back` picks the target samples that search on the template, `cosine` is the least agreement of
    normals. Weights are robust (Cauchy) about three times the median distance, at least 1 mm; from the
    target to the template at least 5 mm, so that a tip that the template does not reach yet still pulls.
    """
    count = len(vertices)
    goals, agreement = nearest_on_samples(vertices, vertex_normals(vertices, faces), target)
    points, normals = target.points[back], target.normals[back]
    face, barycentric, back_agreement = nearest_on_mesh(points, normals, vertices, faces)
    index = np.repeat(np.arange(len(points)), 3), faces[face].reshape(-1)
    rows = sparse.csr_matrix((barycentric.reshape(-1), index), shape=(len(points), count))

    def robust(distance: ndarray, agreement: ndarray, least: float) -> ndarray:
        scale = max(3 * float(np.median(distance)), least)
        return (agreement > cosine) / (1 + (distance / scale) ** 2)

    forward = robust(np.linalg.norm(goals - vertices, axis=1), agreement, 1.0)
    backward = robust(np.linalg.norm(rows @ vertices - points, axis=1), back_agreement, 5.0)
    return Pairs(
        sparse.vstack([sparse.identity(count, format="csr"), rows], format="csr"),
        np.concatenate([goals, points]),
        np.concatenate([forward, backward * (count / len(points))]),
    )
