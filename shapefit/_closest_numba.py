"""Nearest point on a triangle mesh by a bounding-box tree. Called by `mesh.closest_points`."""

import numpy as np
from numba import njit, prange

LEAF = 4  # faces in a leaf


@njit(cache=True)
def build_tree(corners):
    """Tree over triangles (F, 3, 3): face order, and per node its box, range of faces and second child."""
    count = len(corners)
    order = np.arange(count)
    centroids = (corners[:, 0] + corners[:, 1] + corners[:, 2]) / 3
    capacity = 2 * count + 1
    low, high = np.empty((capacity, 3)), np.empty((capacity, 3))
    first, last = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
    right = np.zeros(capacity, np.int64)
    stack_lo, stack_hi = np.empty(128, np.int64), np.empty(128, np.int64)
    stack_parent = np.empty(128, np.int64)
    stack_lo[0], stack_hi[0], stack_parent[0], top, nodes = 0, count, -1, 1, 0
    while top:
        top -= 1
        lo, hi, parent = stack_lo[top], stack_hi[top], stack_parent[top]
        node = nodes
        nodes += 1
        if parent >= 0:  # a right child, reached after the whole left subtree
            right[parent] = node
        low[node], high[node] = np.inf, -np.inf
        clow, chigh = np.full(3, np.inf), np.full(3, -np.inf)
        for i in range(lo, hi):
            for axis in range(3):
                for k in range(3):
                    value = corners[order[i], k, axis]
                    low[node, axis] = min(low[node, axis], value)
                    high[node, axis] = max(high[node, axis], value)
                clow[axis] = min(clow[axis], centroids[order[i], axis])
                chigh[axis] = max(chigh[axis], centroids[order[i], axis])
        first[node], last[node] = lo, hi
        if hi - lo > LEAF:
            axis = np.argmax(chigh - clow)
            part = order[lo:hi].copy()
            order[lo:hi] = part[np.argsort(centroids[part, axis])]
            middle = (lo + hi) // 2
            last[node] = lo  # an inner node holds no faces of its own
            stack_lo[top], stack_hi[top], stack_parent[top] = middle, hi, node
            stack_lo[top + 1], stack_hi[top + 1], stack_parent[top + 1] = lo, middle, -1
            top += 2
    return order, low[:nodes], high[:nodes], first[:nodes], last[:nodes], right[:nodes]


@njit(cache=True)
def _box_distance2(p, low, high):
    total = 0.0
    for axis in range(3):
        gap = max(low[axis] - p[axis], 0.0, p[axis] - high[axis])
        total += gap * gap
    return total


@njit(cache=True)
def _closest_on_triangle(p, a, b, c):
    """Barycentric weights of the point of triangle a b c nearest to p (Ericson 2005, 5.1.5).

    Written out in numbers: small arrays would be allocated for every triangle asked.
    """
    abx, aby, abz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    acx, acy, acz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    x, y, z = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    d1, d2 = abx * x + aby * y + abz * z, acx * x + acy * y + acz * z
    if d1 <= 0 and d2 <= 0:
        return 1.0, 0.0, 0.0
    x, y, z = p[0] - b[0], p[1] - b[1], p[2] - b[2]
    d3, d4 = abx * x + aby * y + abz * z, acx * x + acy * y + acz * z
    if d3 >= 0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0 and d1 > d3:  # no edge where two corners are one
        v = d1 / (d1 - d3)
        return 1 - v, v, 0.0
    x, y, z = p[0] - c[0], p[1] - c[1], p[2] - c[2]
    d5, d6 = abx * x + aby * y + abz * z, acx * x + acy * y + acz * z
    if d6 >= 0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0 and d2 > d6:
        w = d2 / (d2 - d6)
        return 1 - w, 0.0, w
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0 and (d4 - d3) + (d5 - d6) > 0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 0.0, 1 - w, w
    total = va + vb + vc
    if total <= 0:
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total


@njit(parallel=True, cache=True)
def closest(points, corners, order, low, high, first, last, right):
    """Face and barycentric weights of the nearest point of the mesh to each of `points` (N, 3)."""
    count = len(points)
    face, weights = np.empty(count, np.int64), np.empty((count, 3))
    for i in prange(count):
        p = points[i]
        best = np.inf
        stack = np.empty(128, np.int64)
        reach = np.empty(128)
        stack[0], reach[0], top = 0, _box_distance2(p, low[0], high[0]), 1
        while top:
            top -= 1
            node = stack[top]
            if reach[top] >= best:
                continue
            for k in range(first[node], last[node]):
                f = order[k]
                a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
                u, v, w = _closest_on_triangle(p, a, b, c)
                distance2 = 0.0
                for axis in range(3):
                    offset = p[axis] - (u * a[axis] + v * b[axis] + w * c[axis])
                    distance2 += offset * offset
                if distance2 < best:
                    best, face[i] = distance2, f
                    weights[i, 0], weights[i, 1], weights[i, 2] = u, v, w
            if right[node]:
                near, far = node + 1, right[node]
                near2, far2 = _box_distance2(p, low[near], high[near]), _box_distance2(p, low[far], high[far])
                if far2 < near2:
                    near, far, near2, far2 = far, near, far2, near2
                stack[top], reach[top] = far, far2
                stack[top + 1], reach[top + 1] = near, near2
                top += 2
    return face, weights
