"""The best of a few candidate triangles for each point. Called by `pairs.nearest_on_mesh`."""

import numpy as np
from numba import njit

from shapefit._closest_numba import _closest_on_triangle


@njit(cache=True)
def best_candidate(points, normals, corners, facing, candidates, normal_length):
    """Face and barycentric weights with the least squared distance in place and (scaled) in normal."""
    count, width = candidates.shape
    face, weights = np.empty(count, np.int64), np.empty((count, 3))
    for i in range(count):
        best = np.inf
        for k in range(width):
            f = candidates[i, k]
            u, v, w = _closest_on_triangle(points[i], corners[f, 0], corners[f, 1], corners[f, 2])
            cost = 0.0
            for axis in range(3):
                place = u * corners[f, 0, axis] + v * corners[f, 1, axis] + w * corners[f, 2, axis]
                cost += (points[i, axis] - place) ** 2
                cost += (normal_length * (normals[i, axis] - facing[f, axis])) ** 2
            if cost < best:
                best, face[i] = cost, f
                weights[i, 0], weights[i, 1], weights[i, 2] = u, v, w
    return face, weights
