"""One ray through a volume: the cells that it crosses, the samples that lie inside."""

import numpy as np
from numba import njit

# fused multiply-adds are welcome; the order of sums is not to be touched
EXACT = {"error_model": "numpy", "fastmath": {"contract"}, "cache": True}
START = 3  # instead of an axis, for an end of a ray that is no plane: the source


@njit(**EXACT)
def clip(source, direction, low, high):
    """Depths between which a ray is in the box [low, high), and the axes of the planes at either end.

    The box is empty for a ray that misses it: the first depth is not below the second.
    """
    begin, end, enters, leaves = 0.0, np.inf, START, START
    for axis in range(3):
        if direction[axis] == 0.0:
            if not low[axis] <= source[axis] < high[axis]:
                return 1.0, 0.0, START, START
            continue
        inverse = 1.0 / direction[axis]
        near, far = (low[axis] - source[axis]) * inverse, (high[axis] - source[axis]) * inverse
        if near > far:
            near, far = far, near
        if near > begin:
            begin, enters = near, axis
        if far < end:
            end, leaves = far, axis
    return begin, end, enters, leaves


@njit(**EXACT)
def fastest(direction):
    """The axis on which a ray runs fastest."""
    i, j, k = abs(direction[0]), abs(direction[1]), abs(direction[2])
    return 0 if i >= j and i >= k else 1 if j >= k else 2


@njit(forceinline=True)
def within(x, low, high):
    """The cell of x among those from low to high; clamped before it is an integer."""
    return int(min(max(np.floor(x), float(low)), float(high)))


@njit(**EXACT)
def walk(source, direction, low, high, cells, ends, crossed):
    """List the unit cells [k, k + 1) of the box [low, high) that a ray crosses; their number.

    In order of rising place on the ray's fastest axis w: of cell m its indices cells[:, m] on the three
    axes, the places ends[m] and ends[m + 1] on w between which the ray is in it, and the axes crossed[m]
    and crossed[m + 1] of the planes there.
    """
    begin, end, enters, leaves = clip(source, direction, low, high)
    if not begin < end:
        return 0
    w = fastest(direction)
    u, v = (w + 1) % 3, (w + 2) % 3
    inverse = 1.0 / direction[w]
    first = min(max(source[w] + begin * direction[w], low[w]), high[w])
    last = min(max(source[w] + end * direction[w], low[w]), high[w])
    if inverse < 0.0:
        first, last, enters, leaves = last, first, leaves, enters
    # u and v along w, and w along u and v
    slope_u, slope_v = direction[u] * inverse, direction[v] * inverse
    u0, v0 = source[u] - source[w] * slope_u, source[v] - source[w] * slope_v
    back_u = 1.0 / slope_u if slope_u != 0.0 else 0.0
    back_v = 1.0 / slope_v if slope_v != 0.0 else 0.0
    low_u, high_u, low_v, high_v = int(low[u]), int(high[u]) - 1, int(low[v]), int(high[v]) - 1
    begin_layer, end_layer = int(np.floor(first)), int(np.ceil(last))
    m, here = 0, first
    cell_u, cell_v = (
        within(u0 + first * slope_u, low_u, high_u),
        within(v0 + first * slope_v, low_v, high_v),
    )
    ends[0], crossed[0] = first, enters
    for layer in range(begin_layer, end_layer):
        there = min(float(layer + 1), last)
        next_u = within(u0 + there * slope_u, low_u, high_u)
        next_v = within(v0 + there * slope_v, low_v, high_v)
        if next_u != cell_u or next_v != cell_v:
            # a slope of 1 and rounding may skip a cell: what lies before it has no length
            turn_u, turn_v = there, there
            if next_u != cell_u:
                cell_u = next_u - 1 if next_u > cell_u else next_u + 1
                turn_u = min(max((max(cell_u, next_u) - u0) * back_u, here), there)
            if next_v != cell_v:
                cell_v = next_v - 1 if next_v > cell_v else next_v + 1
                turn_v = min(max((max(cell_v, next_v) - v0) * back_v, here), there)
            for turn in range(2):
                if (turn == 0) == (turn_u <= turn_v):
                    if next_u != cell_u:
                        cells[w, m], cells[u, m], cells[v, m] = layer, cell_u, cell_v
                        m += 1
                        ends[m], crossed[m], cell_u = turn_u, u, next_u
                elif next_v != cell_v:
                    cells[w, m], cells[u, m], cells[v, m] = layer, cell_u, cell_v
                    m += 1
                    ends[m], crossed[m], cell_v = turn_v, v, next_v
        cells[w, m], cells[u, m], cells[v, m] = layer, cell_u, cell_v
        m += 1
        ends[m], crossed[m], here = there, w, there
    crossed[m] = leaves if m else START
    return m


@njit(**EXACT)
def samples(source, direction, low, high, step):
    """Samples n whose depths (n + 1/2) step are in the box: the first, and one after the last."""
    begin, end, _, _ = clip(source, direction, low, high)
    if not begin < end:
        return 0, 0
    return int(np.ceil(begin / step - 0.5)), int(np.ceil(end / step - 0.5))
