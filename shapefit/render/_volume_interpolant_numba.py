"""The interpolant in one cell: the values at its corners, the value and slope inside, and their adjoint.

Cell (i, j, k) has its corners at voxels i to i + 1, j to j + 1, k to k + 1; those beyond the volume are 0.
Interpolation is in float32 unless the volume is float64; places and sums are float64. A `structure` names the
channel of each voxel, and `each` is what a channel counts.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from shapefit.render._volume_cells_numba import EXACT, fastest
from shapefit.render._volume_torch import GAUSS

NODES = 64  # cells whose nodes are listed at a time: the lists stay in the fastest cache


def value(flat, index):
    """A voxel as a float; 16-bit words are those of half-precision floats."""


@overload(value)
def _value_for(flat, index):
    if flat.dtype == types.uint16:
        return lambda flat, index: _from_half(flat[index])
    if flat.dtype == types.float64:
        return lambda flat, index: flat[index]
    return lambda flat, index: np.float32(flat[index])


@njit(forceinline=True)
def _from_half(word):
    """Exponent and fraction moved to their places in a float32, which 2^112 then scales; subnormals, too."""
    bits = np.uint32(word)
    size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32)
    return (np.float32(-1.0) if bits & np.uint32(0x8000) else np.float32(1.0)) * size * np.float32(2.0**112)


def narrow(flat, x):
    """A place in a cell, as precise as the volume."""


@overload(narrow)
def _narrow_for(flat, x):
    if flat.dtype == types.float64:
        return lambda flat, x: x
    return lambda flat, x: np.float32(x)


@njit(**EXACT)
def room_for_nodes(flat):
    """Lists for the nodes in NODES cells, at most two in each.

    Of a cell: its indices; the flat index of its first corner, -1 where not all corners are voxels; places
    in it, on 3 axes for the first node and 3 for the second; a node's weight; depths.
    """
    cell, base = np.empty((3, NODES), np.int32), np.empty(NODES, np.int64)
    return cell, base, np.full((6, NODES), narrow(flat, 0.0)), np.empty(NODES), np.empty((2, NODES))


@njit(**EXACT)
def gauss_nodes(flat, sizes, source, ray, cells, ends, begin, end, nodes):
    """Two Gauss points, exact for a cubic, in each of the cells `begin` to `end` of a walk.

    Short loops, each of few lists: they are compiled to vector instructions.
    """
    cell, base, place, weight, depth = nodes
    w, count = fastest(ray), end - begin
    inverse, scale, start = 1.0 / ray[w], 0.5 * abs(1.0 / ray[w]), source[w]
    for n in range(count):
        length, middle = ends[begin + n + 1] - ends[begin + n], 0.5 * (ends[begin + n + 1] + ends[begin + n])
        weight[n] = scale * length
        depth[0, n] = (middle - GAUSS * length - start) * inverse
        depth[1, n] = (middle + GAUSS * length - start) * inverse
    for axis in range(3):
        s, d = source[axis], ray[axis]
        for n in range(count):
            cell[axis, n] = cells[axis, begin + n]
        for n in range(count):
            place[axis, n] = narrow(flat, s + depth[0, n] * d - cell[axis, n])
        for n in range(count):
            place[3 + axis, n] = narrow(flat, s + depth[1, n] * d - cell[axis, n])
    for n in range(count):
        base[n] = first_corner(sizes, cell[0, n], cell[1, n], cell[2, n])


@njit(**EXACT)
def march_nodes(flat, sizes, source, ray, low, high, begin, end, step, nodes):
    """Samples `begin` to `end` of a march, one in a cell."""
    cell, base, place, weight, depth = nodes
    s0, s1, s2, d0, d1, d2 = source[0], source[1], source[2], ray[0], ray[1], ray[2]
    l0, l1, l2, h0, h1, h2 = low[0], low[1], low[2], high[0] - 1.0, high[1] - 1.0, high[2] - 1.0
    for n in range(end - begin):
        z = (begin + n + 0.5) * step
        x0, x1, x2 = s0 + z * d0, s1 + z * d1, s2 + z * d2
        # clamped, because rounding may leave the box
        i = min(max(np.floor(x0), l0), h0)
        j = min(max(np.floor(x1), l1), h1)
        k = min(max(np.floor(x2), l2), h2)
        cell[0, n], cell[1, n], cell[2, n] = int(i), int(j), int(k)
        base[n] = first_corner(sizes, int(i), int(j), int(k))
        weight[n], depth[0, n] = step, z
        place[0, n], place[1, n], place[2, n] = (
            narrow(flat, x0 - i),
            narrow(flat, x1 - j),
            narrow(flat, x2 - k),
        )


@njit(forceinline=True, **EXACT)
def first_corner(sizes, i, j, k):
    inside = (i >= 0) & (i < sizes[0] - 1) & (j >= 0) & (j < sizes[1] - 1) & (k >= 0) & (k < sizes[2] - 1)
    return (i * sizes[1] + j) * sizes[2] + k if inside else -1


@njit(forceinline=True, **EXACT)
def counted(flat, structure, each, index):
    """A voxel's value; of one in a structure, times what its channel counts."""
    if structure is None:
        return value(flat, index)
    return each[structure[index]] * value(flat, index) if structure[index] < len(each) else 0.0


@njit(**EXACT)
def _counted_or_0(flat, structure, each, sizes, i, j, k):
    inside = 0 <= i < sizes[0] and 0 <= j < sizes[1] and 0 <= k < sizes[2]
    return narrow(flat, counted(flat, structure, each, (i * sizes[1] + j) * sizes[2] + k) if inside else 0.0)


@njit(forceinline=True, **EXACT)
def neighbours(flat, a, right, up):
    """The values at the corners of a cell inside the volume, k running fastest."""
    b, c, d = a + right, a + up, a + up + right
    return (
        value(flat, a), value(flat, a + 1), value(flat, b), value(flat, b + 1),
        value(flat, c), value(flat, c + 1), value(flat, d), value(flat, d + 1),
    )  # fmt: skip


@njit(forceinline=True, **EXACT)
def corners(flat, structure, each, sizes, base, i, j, k):
    """The eight corners of a cell as `counted`, k running fastest."""
    if structure is None and base >= 0:
        return neighbours(flat, base, sizes[2], sizes[1] * sizes[2])
    return (
        _counted_or_0(flat, structure, each, sizes, i, j, k),
        _counted_or_0(flat, structure, each, sizes, i, j, k + 1),
        _counted_or_0(flat, structure, each, sizes, i, j + 1, k),
        _counted_or_0(flat, structure, each, sizes, i, j + 1, k + 1),
        _counted_or_0(flat, structure, each, sizes, i + 1, j, k),
        _counted_or_0(flat, structure, each, sizes, i + 1, j, k + 1),
        _counted_or_0(flat, structure, each, sizes, i + 1, j + 1, k),
        _counted_or_0(flat, structure, each, sizes, i + 1, j + 1, k + 1),
    )


@njit(forceinline=True, **EXACT)
def _mix(t, a, b):
    return a + t * (b - a)


@njit(forceinline=True, **EXACT)
def interpolated(c, x, y, z):
    low = _mix(y, _mix(z, c[0], c[1]), _mix(z, c[2], c[3]))
    return _mix(x, low, _mix(y, _mix(z, c[4], c[5]), _mix(z, c[6], c[7])))


@njit(forceinline=True, **EXACT)
def inclined(c, x, y, z):
    """The interpolant's slope along the three axes."""
    a, b, e, f = _mix(z, c[0], c[1]), _mix(z, c[2], c[3]), _mix(z, c[4], c[5]), _mix(z, c[6], c[7])
    along_k = _mix(x, _mix(y, c[1] - c[0], c[3] - c[2]), _mix(y, c[5] - c[4], c[7] - c[6]))
    return _mix(y, e, f) - _mix(y, a, b), _mix(x, b - a, f - e), along_k


@njit(forceinline=True, **EXACT)
def shares(x, y, z):
    """What the eight corners contribute to the interpolant."""
    one = np.float32(1)  # the integer 1 would make float64 of float32
    u, v, w = one - x, one - y, one - z
    a, b, c, d = u * v, u * y, x * v, x * y
    return a * w, a * z, b * w, b * z, c * w, c * z, d * w, d * z


@njit(forceinline=True, **EXACT)
def both(s, t):
    return (
        s[0] + t[0], s[1] + t[1], s[2] + t[2], s[3] + t[3],
        s[4] + t[4], s[5] + t[5], s[6] + t[6], s[7] + t[7],
    )  # fmt: skip


@njit(forceinline=True, **EXACT)
def _voxel(sizes, i, j, k, corner):
    """Flat index of a cell's corner, -1 beyond the volume."""
    i, j, k = i + (corner >> 2), j + (corner >> 1 & 1), k + (corner & 1)
    inside = 0 <= i < sizes[0] and 0 <= j < sizes[1] and 0 <= k < sizes[2]
    return (i * sizes[1] + j) * sizes[2] + k if inside else -1


@njit(**EXACT)
def add_values(flat, structure, sizes, i, j, k, weight, shares, total):
    for corner in range(8):
        index = _voxel(sizes, i, j, k, corner)
        if index >= 0:
            channel = 0 if structure is None else structure[index]
            if channel < len(total):
                total[channel] += weight * shares[corner] * value(flat, index)


@njit(forceinline=True, **EXACT)
def add_weights(gradient, structure, each, sizes, base, i, j, k, weight, s):
    if structure is None and base >= 0:
        a = base
        b, c = a + sizes[2], a + sizes[1] * sizes[2]
        d, f = c + sizes[2], narrow(gradient, weight * each[0])
        gradient[a] += f * s[0]
        gradient[a + 1] += f * s[1]
        gradient[b] += f * s[2]
        gradient[b + 1] += f * s[3]
        gradient[c] += f * s[4]
        gradient[c + 1] += f * s[5]
        gradient[d] += f * s[6]
        gradient[d + 1] += f * s[7]
        return
    for corner in range(8):
        index = _voxel(sizes, i, j, k, corner)
        if index >= 0:
            channel = 0 if structure is None else structure[index]
            if channel < len(each):
                gradient[index] += weight * s[corner] * each[channel]
