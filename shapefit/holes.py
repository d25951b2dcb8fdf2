"""Holes of a triangle mesh: their rims, and triangles that close them."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from shapefit.mesh import undirected_edges

_LONGEST = 300  # vertices of a rim that is triangulated as a whole: the work grows with the third power


def rims(faces: Int[ndarray, "F 3"]) -> list[Int[ndarray, " N"]]:
    """Closed chains of vertices around each hole, in the direction in which a patch must run.

    Their edges are those that the mesh lacks. A chain that meets itself in a vertex is taken apart there.
    """
    edges, number = undirected_edges(faces)
    ends = np.empty((int(number.max(initial=-1)) + 1, 2), dtype=np.int64)
    ends[number] = np.sort(edges, axis=1)
    surplus = np.bincount(number, np.where(edges[:, 0] <= edges[:, 1], 1, -1)).astype(int)
    following: dict[int, list[int]] = {}
    for (a, b), times in zip(ends[surplus != 0].tolist(), surplus[surplus != 0].tolist(), strict=True):
        if times < 0:
            a, b = b, a
        following.setdefault(b, []).extend([a] * abs(times))
    found = []
    for start in following:
        while following[start]:
            path, place = [start], {start: 0}
            while True:
                vertex = following[path[-1]].pop()
                if vertex in place:  # as many edges lead out of a vertex as into it, so every walk closes
                    loop = path[place[vertex] :]
                    found.append(np.array(loop))
                    for passed in loop[1:]:
                        del place[passed]
                    path = path[: place[vertex] + 1]
                    if vertex == start:
                        break
                else:
                    place[vertex] = len(path)
                    path.append(vertex)
    return found


def width(rim: Float[ndarray, "N 3"]) -> float:
    """The largest distance between two vertices of a rim, mm."""
    points = rim[:: max(1, len(rim) // 1000)]
    return float(np.sqrt(_squared_distances(points).max()))


def triangulated(rim: Float[ndarray, "N 3"]) -> Int[ndarray, "M 3"]:
    """Triangles (N - 2, of rim vertices, wound along it) of smallest area that fill a closed chain.

    By dynamic programming (Barequet and Sharir 1995); among equal areas, as of a flat hole, the one with the
    shorter edges. Of a very long chain, every n-th vertex is taken first, then what lies between.
    """
    n = len(rim)
    if n > _LONGEST:
        step = -(-n // _LONGEST)
        whole = np.append(np.arange(n), 0)
        corners = np.append(np.arange(0, n, step), n)
        parts = [whole[corners[:-1]], *(whole[i : j + 1] for i, j in pairwise(corners.tolist()) if j - i > 1)]
        return np.concatenate([part[triangulated(rim[part])] for part in parts])
    squared = _squared_distances(rim)
    cost, middle = np.zeros((n, n)), np.zeros((n, n), dtype=np.int64)
    for gap in range(2, n):
        i = np.arange(n - gap)[:, None]
        k, j = i + np.arange(1, gap), i + gap
        a, b, c = squared[i, k], squared[k, j], squared[i, j]
        area = 0.25 * np.sqrt(np.maximum(4 * a * b - (a + b - c) ** 2, 0))  # Heron
        total = cost[i, k] + cost[k, j] + area + 1e-6 * (a + b + c)
        best = total.argmin(1)
        cost[i[:, 0], j[:, 0]] = total[i[:, 0], best]
        middle[i[:, 0], j[:, 0]] = i[:, 0] + 1 + best
    triangles, waiting = [], [(0, n - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first > 1:
            between = int(middle[first, last])
            triangles.append((first, between, last))
            waiting += [(first, between), (between, last)]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _squared_distances(points: ndarray) -> ndarray:
    return ((points[:, None] - points[None]) ** 2).sum(-1)
