"""What one ray sees of a volume, by each method: its sum, the sum's slope in the ray, and the adjoint.

`cells` (3, M) and `ends` (M + 1) are those of a walk; in Siddon's, cell (i, j, k) is that voxel, else
its corners are voxels i to i + 1, j to j + 1, k to k + 1, and it holds one node or two (`per`) of an integral
over depth. `total` has a number for each channel, `each` what a channel counts; in a slope it only tells
structures apart, and a volume without them is left to the caller to weigh.
"""

from numba import njit

from shapefit.render._volume_cells_numba import EXACT, START, fastest
from shapefit.render._volume_interpolant_numba import (
    add_values,
    add_weights,
    both,
    corners,
    counted,
    inclined,
    interpolated,
    neighbours,
    shares,
    value,
)


@njit(**EXACT)
def siddon_sum(flat, structure, sizes, ray, cells, ends, count, total):
    """Add the length in each voxel, times its value, to the total of its channel."""
    scale, plain = abs(1.0 / ray[fastest(ray)]), 0.0
    for m in range(count):
        index = (cells[0, m] * sizes[1] + cells[1, m]) * sizes[2] + cells[2, m]
        share = (ends[m + 1] - ends[m]) * value(flat, index)
        if structure is None:
            plain += share
        elif structure[index] < len(total):
            total[structure[index]] += scale * share
    total[0] += scale * plain


@njit(**EXACT)
def siddon_spread(gradient, structure, each, sizes, ray, cells, ends, count):
    """Add to each voxel the length in it, times what its channel counts."""
    scale = abs(1.0 / ray[fastest(ray)])
    for m in range(count):
        index = (cells[0, m] * sizes[1] + cells[1, m]) * sizes[2] + cells[2, m]
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
            index = (cells[0, m] * sizes[1] + cells[1, m]) * sizes[2] + cells[2, m]
            behind = counted(flat, structure, each, index)
        axis = crossed[m]
        if axis != START:
            shift = (behind - before) * forwards / ray[axis]
            slope[0, axis] += shift
            slope[1, axis] += shift * (ends[m] - source[w]) / ray[w]
        before = behind


@njit(**EXACT)
def interpolant_sum(flat, structure, sizes, nodes, count, per, total):
    """Add the interpolant at every node, times its weight."""
    cell, base, place, weight, _ = nodes
    right, up = sizes[2], sizes[1] * sizes[2]
    plain = 0.0
    if structure is None:  # in cells inside the volume, which are nearly all
        for m in range(count):
            if base[m] >= 0:
                eight = neighbours(flat, base[m], right, up)
                here = interpolated(eight, place[0, m], place[1, m], place[2, m])
                if per == 2:
                    here += interpolated(eight, place[3, m], place[4, m], place[5, m])
                plain += weight[m] * here
    for m in range(count):
        if structure is not None or base[m] < 0:
            i, j, k = cell[0, m], cell[1, m], cell[2, m]
            parts = shares(place[0, m], place[1, m], place[2, m])
            if per == 2:
                parts = both(parts, shares(place[3, m], place[4, m], place[5, m]))
            add_values(flat, structure, sizes, i, j, k, weight[m], parts, total)
    total[0] += plain


@njit(**EXACT)
def interpolant_spread(gradient, structure, each, sizes, nodes, count, per):
    """Add to each voxel its weight in that sum, times what its channel counts."""
    cell, base, place, weight, _ = nodes
    for m in range(count):
        x, y, z, p, q, r = place[0, m], place[1, m], place[2, m], place[3, m], place[4, m], place[5, m]
        parts = both(shares(x, y, z), shares(p, q, r)) if per == 2 else shares(x, y, z)
        i, j, k = cell[0, m], cell[1, m], cell[2, m]
        add_weights(gradient, structure, each, sizes, base[m], i, j, k, weight[m], parts)


@njit(**EXACT)
def interpolant_slope(flat, structure, each, sizes, nodes, count, per, slope):
    """Add the sums of the interpolant's slope, and of depth times it, to slope[0] and slope[1].

    For Gauss points they are exact integrals, too, being those of cubics; what the ends of the cells
    contribute to a derivative cancels, since the interpolant is continuous.
    """
    cell, base, place, weight, depth = nodes
    a0, a1, a2, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for m in range(count):
        eight = corners(flat, structure, each, sizes, base[m], cell[0, m], cell[1, m], cell[2, m])
        f0, f1, f2 = inclined(eight, place[0, m], place[1, m], place[2, m])
        w, z = weight[m], depth[0, m]
        a0, a1, a2 = a0 + w * f0, a1 + w * f1, a2 + w * f2
        b0, b1, b2 = b0 + w * z * f0, b1 + w * z * f1, b2 + w * z * f2
        if per == 2:
            f0, f1, f2 = inclined(eight, place[3, m], place[4, m], place[5, m])
            z = depth[1, m]
            a0, a1, a2 = a0 + w * f0, a1 + w * f1, a2 + w * f2
            b0, b1, b2 = b0 + w * z * f0, b1 + w * z * f1, b2 + w * z * f2
    slope[0, 0] += a0
    slope[0, 1] += a1
    slope[0, 2] += a2
    slope[1, 0] += b0
    slope[1, 1] += b1
    slope[1, 2] += b2
