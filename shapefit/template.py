"""Signed distances of sampled surfaces, and the closed mesh at a level of their mean.

A mean of distances belongs to no single subject and to no order of subjects. All arrays are float64
numpy, in mm.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes


def signed_distance(
    points: Float[ndarray, "N 3"],
    samples: Float[ndarray, "S 3"],
    normals: Float[ndarray, "S 3"],
    spacing: float,
) -> Float[ndarray, " N"]:
    """Distance in mm to a surface given by samples `spacing` mm apart; negative inside, cut off at `CUT`.

    The sign is the vote of the normals at the four nearest samples.
    """
    count = min(4, len(samples))
    distance, near = cKDTree(samples).query(points, k=count)
    distance, near = distance.reshape(-1, count), near.reshape(-1, count)
    height = ((points[:, None] - samples[near]) * normals[near]).sum(-1)
    # close by, the height over the tangent plane is free of the samples' graininess
    close = distance[:, 0] < 2 * spacing
    return np.clip(np.where(close, height[:, 0], distance[:, 0] * np.sign(height.sum(1))), -CUT, CUT)


def zero_surface(
    mean_distance: Callable[[ndarray], ndarray],
    low: Float[ndarray, "3"],
    high: Float[ndarray, "3"],
    spacing: float,
    level: float,
) -> tuple[Float[ndarray, "V 3"], Int[ndarray, "F 3"]]:
    """Closed mesh where `mean_distance` of points (N,3) equals `level`, in mm.

    `low` and `high` bound the shape. The function is evaluated on a coarse grid, and on the fine one only
    near its zero. Only the largest connected piece is kept.
    """
    coarse_axes = _axes(low, high, 3 * spacing)
    coarse = mean_distance(_grid(coarse_axes)).reshape([len(axis) for axis in coarse_axes])
    axes = [np.arange(axis[0], axis[-1], spacing) for axis in coarse_axes]
    points = _grid(axes)
    values = RegularGridInterpolator(coarse_axes, coarse)(points)
    near = np.abs(values) < 2.25 * spacing  # the fine mean is only needed about its zero
    values[near] = mean_distance(points[near])
    # a rim of "outside" closes the mesh whatever the mean does there
    values = np.pad(values.reshape([len(axis) for axis in axes]), 1, constant_values=CUT)
    vertices, faces, _, _ = marching_cubes(values, level)
    vertices = (vertices.astype(np.float64) - 1) * spacing + np.array([axis[0] for axis in axes])
    return largest_piece(vertices, outward(vertices, faces.astype(np.int64)))


# Signed distances are cut off here (mm), so that one case that is far away cannot move the mean.
CUT = 10.0


def _axes(low: ndarray, high: ndarray, spacing: float) -> list[ndarray]:
    return [np.arange(a - 2 * spacing, b + 3 * spacing, spacing) for a, b in zip(low, high, strict=True)]


def _grid(axes: list[ndarray]) -> ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def outward(vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]) -> Int[ndarray, "F 3"]:
    """The faces wound counter-clockwise seen from outside (all reversed if the volume is negative)."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return faces if (a * np.cross(b, c)).sum() > 0 else faces[:, ::-1].copy()


def largest_piece(
    vertices: Float[ndarray, "V 3"], faces: Int[ndarray, "F 3"]
) -> tuple[Float[ndarray, "V2 3"], Int[ndarray, "F2 3"]]:
    """The connected piece with the most vertices, and only its vertices."""
    links = sparse.coo_matrix(
        (np.ones(len(faces) * 2), (faces[:, [0, 1]].T.ravel(), faces[:, [1, 2]].T.ravel())),
        shape=(len(vertices), len(vertices)),
    )
    _, piece = connected_components(links, directed=False)
    keep = piece == np.bincount(piece).argmax()
    number = np.cumsum(keep) - 1
    return vertices[keep], number[faces[keep[faces[:, 0]]]]
