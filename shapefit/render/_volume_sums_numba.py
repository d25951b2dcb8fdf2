"""What the nodes of one ray see of a volume: sums, their slopes, and their adjoint.

`cells` (M, 3) are those of a walk: lattice cell (i, j, k) has its corners at voxels i to i + 1 and so on; in
Siddon's walk it is voxel (i, j, k). `nodes` are rows (place in the cell on three axes, weight, depth), `per`
of them to a cell. Beyond the volume all is 0.
"""

import numpy as np
from numba import njit

from shapefit.render._volume_cells_numba import EXACT, START, fastest, value


@njit(forceinline=True)
def _share(flat, structure, each, index):
    """A voxel's value, times what the channel of its structure counts."""
    if structure is None:
        return each[0] * value(flat, index)
    return each[structure[index]] * value(flat, index) if structure[index] < len(each) else 0.0


@njit(**EXACT)
def _share_or_0(flat, structure, each, sizes, i, j, k):
    if not (0 <= i < sizes[0] and 0 <= j < sizes[1] and 0 <= k < sizes[2]):
        return 0.0
    return _share(flat, structure, each, (i * sizes[1] + j) * sizes[2] + k)


@njit(forceinline=True)
def _corners(flat, structure, each, sizes, i, j, k):
    """The eight corners of a cell, k running fastest."""
    inside = 0 <= i < sizes[0] - 1 and 0 <= j < sizes[1] - 1 and 0 <= k < sizes[2] - 1
    if inside:
        n = (i * sizes[1] + j) * sizes[2] + k
        up, far = sizes[2], sizes[1] * sizes[2]
        return (
            _share(flat, structure, each, n), _share(flat, structure, each, n + 1),
            _share(flat, structure, each, n + up), _share(flat, structure, each, n + up + 1),
            _share(flat, structure, each, n + far), _share(flat, structure, each, n + far + 1),
            _share(flat, structure, each, n + far + up), _share(flat, structure, each, n + far + up + 1),
        )  # fmt: skip
    return (
        _share_or_0(flat, structure, each, sizes, i, j, k),
        _share_or_0(flat, structure, each, sizes, i, j, k + 1),
        _share_or_0(flat, structure, each, sizes, i, j + 1, k),
        _share_or_0(flat, structure, each, sizes, i, j + 1, k + 1),
        _share_or_0(flat, structure, each, sizes, i + 1, j, k),
        _share_or_0(flat, structure, each, sizes, i + 1, j, k + 1),
        _share_or_0(flat, structure, each, sizes, i + 1, j + 1, k),
        _share_or_0(flat, structure, each, sizes, i + 1, j + 1, k + 1),
    )


@njit(forceinline=True)
def _mix(t, a, b):
    return a + t * (b - a)


@njit(forceinline=True)
def _corner(sizes, i, j, k, x, y, z, corner):
    """A corner's voxel, -1 where there is none, and its share at place (x, y, z) of the cell."""
    i, x = (i + 1, x) if corner & 4 else (i, 1.0 - x)
    j, y = (j + 1, y) if corner & 2 else (j, 1.0 - y)
    k, z = (k + 1, z) if corner & 1 else (k, 1.0 - z)
    inside = 0 <= i < sizes[0] and 0 <= j < sizes[1] and 0 <= k < sizes[2]
    return (i * sizes[1] + j) * sizes[2] + k if inside else -1, x * y * z


@njit(**EXACT)
def of_cells(flat, structure, sizes, cells, ends, count, scale, total):
    """Add the lengths in each voxel, times its value, to the total of its structure."""
    for m in range(count):
        index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
        channel = 0 if structure is None else structure[index]
        if channel < len(total):
            total[channel] += scale * (ends[m + 1] - ends[m]) * value(flat, index)


@njit(**EXACT)
def of_nodes(flat, structure, sizes, cells, nodes, count, per, total):
    """Add the interpolant at each node, times its weight, to the totals of the structures."""
    one, plain = np.ones(1), 0.0
    for n in range(count):
        m = n // per
        i, j, k, x, y, z = cells[m, 0], cells[m, 1], cells[m, 2], nodes[n, 0], nodes[n, 1], nodes[n, 2]
        if structure is None:
            c = _corners(flat, None, one, sizes, i, j, k)
            plain += nodes[n, 3] * _mix(x, _mix(y, _mix(z, c[0], c[1]), _mix(z, c[2], c[3])),
                                        _mix(y, _mix(z, c[4], c[5]), _mix(z, c[6], c[7])))  # fmt: skip
            continue
        for corner in range(8):
            index, share = _corner(sizes, i, j, k, x, y, z, corner)
            if index >= 0 and structure[index] < len(total):
                total[structure[index]] += nodes[n, 3] * share * value(flat, index)
    if structure is None:
        total[0] += plain


@njit(**EXACT)
def slope_of_nodes(flat, structure, each, sizes, cells, nodes, count, per, slope):
    """Add the interpolant's slope (3) at each node, times its weight, to slope[0]; times depth, to slope[1].

    Each voxel counts what the gradient `each` of its structure's channel says.
    """
    for n in range(count):
        m, x, y, z = n // per, nodes[n, 0], nodes[n, 1], nodes[n, 2]
        c = _corners(flat, structure, each, sizes, cells[m, 0], cells[m, 1], cells[m, 2])
        # along k, then j, then i: the edges' slopes and the faces' values
        low0, low1, high0, high1 = (
            _mix(z, c[0], c[1]),
            _mix(z, c[2], c[3]),
            _mix(z, c[4], c[5]),
            _mix(z, c[6], c[7]),
        )
        in_i = _mix(y, high0, high1) - _mix(y, low0, low1)
        in_j = _mix(x, low1 - low0, high1 - high0)
        in_k = _mix(x, _mix(y, c[1] - c[0], c[3] - c[2]), _mix(y, c[5] - c[4], c[7] - c[6]))
        weight, moment = nodes[n, 3], nodes[n, 3] * nodes[n, 4]
        slope[0, 0] += weight * in_i
        slope[0, 1] += weight * in_j
        slope[0, 2] += weight * in_k
        slope[1, 0] += moment * in_i
        slope[1, 1] += moment * in_j
        slope[1, 2] += moment * in_k


@njit(**EXACT)
def slope_of_cells(flat, structure, each, sizes, source, direction, cells, ends, crossed, count, slope):
    """The same for constant voxels: a plane of axis a, at depth z, moves by -1 / d_a and -z / d_a, and the
    integral by what lies before it less what lies behind it.
    """
    w = fastest(direction)
    before, forwards = 0.0, 1.0 if direction[w] > 0.0 else -1.0
    for m in range(count + 1 if count else 0):
        behind = 0.0
        if m < count:
            index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
            behind = _share(flat, structure, each, index)
        axis = crossed[m]
        if axis != START:
            shift = (behind - before) * forwards / direction[axis]
            slope[0, axis] += shift
            slope[1, axis] += shift * (ends[m] - source[w]) / direction[w]
        before = behind


@njit(**EXACT)
def spread_cells(gradient, structure, each, sizes, cells, ends, count, scale):
    """Add to each voxel the length in it, times what its structure's channel counts."""
    for m in range(count):
        index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
        channel = 0 if structure is None else structure[index]
        if channel < len(each):
            gradient[index] += scale * (ends[m + 1] - ends[m]) * each[channel]


@njit(**EXACT)
def spread_nodes(gradient, structure, each, sizes, cells, nodes, count, per):
    """Add to each corner of a node's cell its share, times weight and what its structure's channel counts."""
    for n in range(count):
        m, x, y, z = n // per, nodes[n, 0], nodes[n, 1], nodes[n, 2]
        for corner in range(8):
            index, share = _corner(sizes, cells[m, 0], cells[m, 1], cells[m, 2], x, y, z, corner)
            if index >= 0:
                channel = 0 if structure is None else structure[index]
                if channel < len(each):
                    gradient[index] += nodes[n, 3] * share * each[channel]
