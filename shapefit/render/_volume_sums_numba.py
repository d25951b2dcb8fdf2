"""What one ray sees of a volume, by each method: its sum, the sum's slope in the ray, and the adjoint.

`cells` (M, 3) and `ends` (M + 1) are those of a walk; in Siddon's, cell (i, j, k) is that voxel, else
its corners are voxels i to i + 1, j to j + 1, k to k + 1. `total` has a number for each channel.
"""

import numpy as np
from numba import njit

from shapefit.render._volume_cells_numba import EXACT, START, fastest
from shapefit.render._volume_interpolant_numba import (
    add_slope,
    add_values,
    add_weights,
    both,
    corners,
    counted,
    gauss,
    inclined,
    interpolated,
    place,
    shares,
    value,
)
from shapefit.render._volume_torch import GAUSS


@njit(**EXACT)
def siddon_sum(flat, structure, sizes, ray, cells, ends, count, total):
    """Add the length in each voxel, times its value, to the total of its channel."""
    scale = abs(1.0 / ray[fastest(ray)])
    for m in range(count):
        index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
        channel = 0 if structure is None else structure[index]
        if channel < len(total):
            total[channel] += scale * (ends[m + 1] - ends[m]) * value(flat, index)


@njit(**EXACT)
def siddon_spread(gradient, structure, each, sizes, ray, cells, ends, count):
    """Add to each voxel the length in it, times what its channel counts."""
    scale = abs(1.0 / ray[fastest(ray)])
    for m in range(count):
        index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
        channel = 0 if structure is None else structure[index]
        if channel < len(each):
            gradient[index] += scale * (ends[m + 1] - ends[m]) * each[channel]


@njit(**EXACT)
def siddon_slope(flat, structure, each, sizes, source, ray, cells, ends, crossed, count, slope):
    """Add the derivatives in the source and in the direction to slope[0] and slope[1].

    A plane of axis a, at depth z, moves by -1 / d_a and -z / d_a, and the integral follows by what lies
    before it less what lies behind it.
    """
    w = fastest(ray)
    before, forwards = 0.0, 1.0 if ray[w] > 0.0 else -1.0
    for m in range(count + 1 if count else 0):
        behind = 0.0
        if m < count:
            index = (cells[m, 0] * sizes[1] + cells[m, 1]) * sizes[2] + cells[m, 2]
            behind = counted(flat, structure, each, index)
        axis = crossed[m]
        if axis != START:
            shift = (behind - before) * forwards / ray[axis]
            slope[0, axis] += shift
            slope[1, axis] += shift * (ends[m] - source[w]) / ray[w]
        before = behind


@njit(**EXACT)
def trilinear_sum(flat, structure, sizes, source, ray, cells, ends, count, total):
    """Add the integral of the interpolant: in each cell two Gauss points, exact for a cubic."""
    w, one, plain = fastest(ray), np.ones(1), 0.0
    scale = 0.5 * abs(1.0 / ray[w])
    for m in range(count):
        i, j, k, weight = cells[m, 0], cells[m, 1], cells[m, 2], scale * (ends[m + 1] - ends[m])
        x, y, z, _ = gauss(flat, source, ray, w, i, j, k, ends[m], ends[m + 1], -GAUSS)
        p, q, r, _ = gauss(flat, source, ray, w, i, j, k, ends[m], ends[m + 1], GAUSS)
        if structure is None:
            eight = corners(flat, None, one, sizes, i, j, k)
            plain += weight * (interpolated(eight, x, y, z) + interpolated(eight, p, q, r))
        else:
            parts = both(shares(x, y, z), shares(p, q, r))
            add_values(flat, structure, sizes, i, j, k, weight, parts, total)
    total[0] += plain


@njit(**EXACT)
def trilinear_spread(gradient, structure, each, sizes, source, ray, cells, ends, count):
    """Add to each voxel its weight in the integral, times what its channel counts."""
    w = fastest(ray)
    scale = 0.5 * abs(1.0 / ray[w])
    for m in range(count):
        i, j, k, weight = cells[m, 0], cells[m, 1], cells[m, 2], scale * (ends[m + 1] - ends[m])
        x, y, z, _ = gauss(gradient, source, ray, w, i, j, k, ends[m], ends[m + 1], -GAUSS)
        p, q, r, _ = gauss(gradient, source, ray, w, i, j, k, ends[m], ends[m + 1], GAUSS)
        parts = both(shares(x, y, z), shares(p, q, r))
        add_weights(gradient, structure, each, sizes, i, j, k, weight, parts)


@njit(**EXACT)
def trilinear_slope(flat, structure, each, sizes, source, ray, cells, ends, count, slope):
    """Add the integrals of the interpolant's slope, and of depth times it, to slope[0] and slope[1].

    They are cubics in depth, too; and what the ends of the cells contribute cancels.
    """
    w = fastest(ray)
    scale = 0.5 * abs(1.0 / ray[w])
    a0, a1, a2, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for m in range(count):
        i, j, k, weight = cells[m, 0], cells[m, 1], cells[m, 2], scale * (ends[m + 1] - ends[m])
        eight = corners(flat, structure, each, sizes, i, j, k)
        x, y, z, depth = gauss(flat, source, ray, w, i, j, k, ends[m], ends[m + 1], -GAUSS)
        p, q, r, deeper = gauss(flat, source, ray, w, i, j, k, ends[m], ends[m + 1], GAUSS)
        (f0, f1, f2), (g0, g1, g2) = inclined(eight, x, y, z), inclined(eight, p, q, r)
        a0 += weight * (f0 + g0)
        a1 += weight * (f1 + g1)
        a2 += weight * (f2 + g2)
        b0 += weight * (depth * f0 + deeper * g0)
        b1 += weight * (depth * f1 + deeper * g1)
        b2 += weight * (depth * f2 + deeper * g2)
    add_slope(slope, (a0, a1, a2), (b0, b1, b2))


@njit(**EXACT)
def raymarch_sum(flat, structure, sizes, source, ray, low, high, begin, end, step, total):
    """Add the interpolant at samples `begin` to `end`, times the step."""
    one, plain = np.ones(1), 0.0
    for n in range(begin, end):
        i, j, k, x, y, z = place(flat, source, ray, low, high, (n + 0.5) * step)
        if structure is None:
            plain += step * interpolated(corners(flat, None, one, sizes, i, j, k), x, y, z)
        else:
            add_values(flat, structure, sizes, i, j, k, step, shares(x, y, z), total)
    total[0] += plain


@njit(**EXACT)
def raymarch_spread(gradient, structure, each, sizes, source, ray, low, high, begin, end, step):
    """Add to each voxel its weight in the sum, times what its channel counts."""
    for n in range(begin, end):
        i, j, k, x, y, z = place(gradient, source, ray, low, high, (n + 0.5) * step)
        add_weights(gradient, structure, each, sizes, i, j, k, step, shares(x, y, z))


@njit(**EXACT)
def raymarch_slope(flat, structure, each, sizes, source, ray, low, high, begin, end, step, slope):
    """Add the sums of the interpolant's slope, and of depth times it, to slope[0] and slope[1]."""
    a0, a1, a2, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(begin, end):
        depth = (n + 0.5) * step
        i, j, k, x, y, z = place(flat, source, ray, low, high, depth)
        f0, f1, f2 = inclined(corners(flat, structure, each, sizes, i, j, k), x, y, z)
        a0 += step * f0
        a1 += step * f1
        a2 += step * f2
        b0 += step * depth * f0
        b1 += step * depth * f1
        b2 += step * depth * f2
    add_slope(slope, (a0, a1, a2), (b0, b1, b2))
