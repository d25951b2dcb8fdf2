"""One closed template mesh deformed onto one closed target mesh, coarse to fine, both directions.

Affine ICP, then a low-rank Gaussian-process deformation with shrinking kernels (Luethi et al. 2018,
IEEE TPAMI 40(8)), then non-rigid ICP with a bi-Laplacian bound on the displacement (after Amberg et
al. 2007, CVPR). Every step pulls template vertices to the target *and* target samples to the
template: one direction alone leaves crests and tips uncovered. All arrays are float64 numpy, in mm.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from shapefit.pairs import SurfaceSamples, corner_cross, find_pairs, unit
from shapefit.settings import BuildSettings


class KernelWarp(NamedTuple):
    """x -> x + sum_g k(x, c_g) w_g with the Gaussian kernel k(x, c) = exp(-|x - c|^2 / (2 width^2))."""

    centers: Float[ndarray, "G 3"]
    weights: Float[ndarray, "G 3"]
    width: float

    def __call__(self, points: Float[ndarray, "N 3"]) -> Float[ndarray, "N 3"]:
        """Points (N,3) moved by the warp, in mm."""
        return points + gaussian(points, self.centers, self.width) @ self.weights


class Warp(NamedTuple):
    """The smooth part of a registration: an affine map and then kernel warps, defined everywhere."""

    affine: Float[ndarray, "4 4"]
    kernels: tuple[KernelWarp, ...]

    def __call__(self, points: Float[ndarray, "N 3"]) -> Float[ndarray, "N 3"]:
        """Template points (N,3) taken to the target's frame, in mm."""
        points = points @ self.affine[:3, :3].T + self.affine[:3, 3]
        for kernel in self.kernels:
            points = kernel(points)
        return points


def gaussian(
    points: Float[ndarray, "N 3"], centers: Float[ndarray, "G 3"], width: float
) -> Float[ndarray, "N G"]:
    """Gaussian kernel matrix between points and centres; width in mm."""
    squared = (points**2).sum(1)[:, None] + (centers**2).sum(1) - 2 * points @ centers.T
    return np.exp(squared / (-2 * width**2))


def _best_affine(source: ndarray, goals: ndarray, weights: ndarray, rigid: bool) -> ndarray:
    total = weights.sum()
    a, b = weights @ source / total, weights @ goals / total
    matrix = np.eye(4)
    covariance = (source - a).T @ ((goals - b) * weights[:, None])
    if rigid:
        u, _, vt = np.linalg.svd(covariance)
        matrix[:3, :3] = vt.T @ np.diag([1, 1, np.linalg.det(vt.T @ u.T)]) @ u.T
    else:
        spread = (source - a).T @ ((source - a) * weights[:, None])
        # a thousandth of the spread pulls flat shapes towards no change, never to a singular matrix
        ridge = 1e-3 * np.trace(spread) / 3 * np.eye(3)
        matrix[:3, :3] = np.linalg.solve(spread + ridge, covariance + ridge).T
    matrix[:3, 3] = b - matrix[:3, :3] @ a
    return matrix


def align(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    target: SurfaceSamples,
    start: Float[ndarray, "4 4"],
    rigid_steps: int = 20,
    affine_steps: int = 15,
) -> Float[ndarray, "4 4"]:
    """Affine map target_from_template by iterated closest points in both directions, rigid first."""
    matrix = start
    for step in range(rigid_steps + affine_steps):
        moved = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        pairs = find_pairs(moved, faces, target, slice(None, 1500), cosine=0.3)
        update = _best_affine(pairs.rows @ moved, pairs.goals, pairs.weights, rigid=step < rigid_steps)
        matrix = update @ matrix
    return matrix


def spread_points(points: Float[ndarray, "N 3"], count: int) -> Int[ndarray, " G"]:
    """Indices of `count` points far from one another (farthest-point order from the first)."""
    count = min(count, len(points))
    chosen = np.zeros(count, dtype=np.int64)
    distance = np.full(len(points), np.inf)
    for k in range(1, count):
        distance = np.minimum(distance, ((points - points[chosen[k - 1]]) ** 2).sum(1))
        chosen[k] = distance.argmax()
    return chosen


def warp_smoothly(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    target: SurfaceSamples,
    affine: Float[ndarray, "4 4"],
    settings: BuildSettings,
) -> Warp:
    """Kernel warps of `settings.kernel_widths` (mm), widest first, after an affine map that all but fits."""
    affine = align(vertices, faces, target, affine, rigid_steps=0, affine_steps=5)
    current = vertices @ affine[:3, :3].T + affine[:3, 3]
    kernels = []
    for width in settings.kernel_widths:
        rest = current
        extent = np.ptp(rest, axis=0).max()
        centers = rest[spread_points(rest, int(np.clip(4 * (extent / width) ** 2, 16, 300)))]
        phi, gram = gaussian(rest, centers, width), gaussian(centers, centers, width)
        for _ in range(settings.kernel_steps):
            pairs = find_pairs(current, faces, target, slice(None, 4000), cosine=0.3)
            design = pairs.rows @ phi
            normal = design.T @ (design * pairs.weights[:, None])
            right = design.T @ ((pairs.goals - pairs.rows @ rest) * pairs.weights[:, None])
            ridge = settings.kernel_ridge * gram + 1e-6 * len(rest) * np.eye(len(gram))
            weights = np.linalg.solve(normal + ridge, right)
            current = rest + phi @ weights
        kernels.append(KernelWarp(centers, weights, float(width)))
    return Warp(affine, tuple(kernels))


def laplacian(faces: Int[ndarray, "F 3"], count: int) -> sparse.csr_matrix:
    """Uniform graph Laplacian of a mesh (V,V): each vertex minus the mean of its neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    adjacency = sparse.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    adjacency.data[:] = 1
    degree = np.maximum(np.asarray(adjacency.sum(1)).reshape(-1), 1)
    return sparse.identity(count, format="csr") - sparse.diags(1 / degree) @ adjacency


def face_neighbours(faces: Int[ndarray, "F 3"]) -> Int[ndarray, "F 3"]:
    """The face on the other side of each edge (corner k to k + 1) of a closed mesh."""
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    order = np.lexsort((edges.max(1), edges.min(1)))
    other = np.empty(len(edges), dtype=np.int64)
    other[order[0::2]], other[order[1::2]] = order[1::2] // 3, order[0::2] // 3
    return other.reshape(-1, 3)


def flipped_faces(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    neighbours: Int[ndarray, "F 3"] | None = None,
    cosine: float = -0.5,
) -> Int[ndarray, " N"]:
    """Faces of a closed mesh that are folded over or collapsed.

    A face counts when it is turned by more than an angle (120 degrees; here its cosine) against two of its
    three neighbours, or when its area is below a hundredth of the mesh's median.
    """
    neighbours = face_neighbours(faces) if neighbours is None else neighbours
    cross = corner_cross(vertices, faces)
    normals = unit(cross)
    turned = (normals[:, None] * normals[neighbours]).sum(-1)
    area = np.linalg.norm(cross, axis=1)
    return np.flatnonzero(((turned < cosine).sum(1) >= 2) | (area < 0.01 * np.median(area)))


def unfold(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"], rounds: int = 50
) -> Float[ndarray, "V 3"]:
    """Vertices of flipped or collapsed faces evened out among their neighbours until no such face is left."""
    smooth, neighbours = laplacian(faces, len(vertices)), face_neighbours(faces)
    for turn in range(rounds):
        flips = flipped_faces(vertices, faces, neighbours)
        if not len(flips):
            break
        touched = np.unique(faces[flips])
        if turn % 2:  # now and then the ring around them too, for what their own corners cannot mend
            touched = np.unique(faces[np.isin(faces, touched).any(1)])
        vertices = vertices.copy()
        vertices[touched] -= 0.5 * (smooth @ vertices)[touched]
    return vertices


def _factorised(system: sparse.spmatrix) -> SuperLU:
    """LU of a symmetric positive definite matrix: no pivoting, an ordering that keeps it sparse."""
    options = {"SymmetricMode": True}
    return splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)


def register(
    vertices: Float[ndarray, "V 3"],
    faces: Int[ndarray, "F 3"],
    target: SurfaceSamples,
    rest: Float[ndarray, "V 3"],
    settings: BuildSettings,
) -> Float[ndarray, "V 3"]:
    """Template vertices laid on the target surface, starting from `rest` (their smooth warp), in mm.

    Each step solves min_x sum_rows w |row x - goal|^2 + stiffness |L (x - rest)|^2 with L the graph
    Laplacian; stiffness falls from step to step. Vertices of flipped or collapsed faces are held stiffer
    until none is left.
    """
    smooth, neighbours = laplacian(faces, len(vertices)), face_neighbours(faces)
    current, hold = rest, np.ones(len(rest))
    stretch = 1e-4 * sparse.identity(len(rest))
    for stiffness in settings.stiffness:
        for turn in range(settings.stiffness_steps):
            back = slice(turn * 2000, turn * 2000 + 8000)
            pairs = find_pairs(current, faces, target, back, cosine=0.4)
            bending = smooth.T @ sparse.diags(hold) @ smooth
            weighted = pairs.rows.T @ sparse.diags(pairs.weights)
            system = weighted @ pairs.rows + stiffness * bending + stretch
            right = weighted @ (pairs.goals - pairs.rows @ rest)
            current = rest + _factorised(system).solve(right)
            flips = flipped_faces(current, faces, neighbours)
            hold[np.unique(faces[flips])] *= 2
    return unfold(current, faces)
