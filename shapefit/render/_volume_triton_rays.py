"""How the volume kernels for the GPU walk through a volume: a tile of rays a program, one lane each.

A ray is turned so that it climbs along all axes. What lies outside the volume is not loaded, and is 0.

- Constant voxels, in slabs: with its steepest axis first, (i, j, k), a ray meets in each slab i at most
  three voxels, (j, k) where it enters, and one more for every border that it crosses on the way: the same few
  instructions for every ray. Where it is in j and k is held in fixed point, which neither drifts nor lets two
  slabs disagree on a voxel: a wrong border would show.
- The interpolant, from border to border: its place in a cell is three fractions, reset to 0 where it crosses.
  They may be rounded, for the integral hardly moves with a border where the interpolant is continuous.
"""

import triton
import triton.language as tl

OUT = tl.constexpr(4)  # voxels beyond the volume: nothing is there


@triton.jit
def _lanes(count, columns, tiles, LANES: tl.constexpr, COLUMNS: tl.constexpr):
    """View, tile, and the tile's rays: COLUMNS wide, so that neighbours share what they load."""
    tile, lane = tl.program_id(0) % tiles, tl.arange(0, LANES)
    across = tl.cdiv(columns, COLUMNS)
    row = tile // across * (LANES // COLUMNS) + lane // COLUMNS
    column = tile % across * COLUMNS + lane % COLUMNS
    n = row * columns + column
    return (tl.program_id(0) // tiles).to(tl.int64), tile, n, (column < columns) & (n < count)


@triton.jit
def _rays(source, direction, pixels, view, n, own, width, LISTED: tl.constexpr):
    """Pixels (j, i), origins, and voxels along each axis for a mm of depth; all in float64."""
    pixel = tl.load(pixels + n, own, 0).to(tl.int64) if LISTED else n.to(tl.int64)
    i, j = (pixel // width).to(tl.float64), (pixel % width).to(tl.float64)
    s, d = source + 3 * view, direction + 9 * view
    dx = tl.load(d) * j + tl.load(d + 1) * i + tl.load(d + 2)
    dy = tl.load(d + 3) * j + tl.load(d + 4) * i + tl.load(d + 5)
    dz = tl.load(d + 6) * j + tl.load(d + 7) * i + tl.load(d + 8)
    return i, j, tl.load(s), tl.load(s + 1), tl.load(s + 2), dx, dy, dz


@triton.jit
def _range(p, d, low, high):
    """Depths between which p + z d lies in [low, high), from 0; the end is before the begin if nowhere."""
    along = tl.where(d == 0, 1.0, d)
    one, two = (low - p) / along, (high - p) / along
    still = tl.where((p >= low) & (p < high), float("inf"), -1.0)
    begin = tl.where(d == 0, 0.0, tl.maximum(tl.minimum(one, two), 0.0))
    return begin, tl.where(d == 0, still, tl.maximum(one, two))


@triton.jit
def _clip(px, py, pz, dx, dy, dz, ni, nj, nk, low):
    """Depths of entry into and exit from the volume; both 0 where it is missed; whether it is met."""
    begin_x, end_x = _range(px, dx, low, ni * 1.0)
    begin_y, end_y = _range(py, dy, low, nj * 1.0)
    begin_z, end_z = _range(pz, dz, low, nk * 1.0)
    begin = tl.maximum(tl.maximum(begin_x, begin_y), begin_z)
    end = tl.minimum(tl.minimum(end_x, end_y), end_z)
    hit = (begin < end) & (end < float("inf"))
    return tl.where(hit, begin, 0.0), tl.where(hit, end, 0.0), hit


@triton.jit
def _place(p, n, d, z):
    """p + z d, near the volume whatever is given."""
    return tl.minimum(tl.maximum(p + z * d, -OUT * 1.0), n * 1.0 + OUT)


@triton.jit
def _fixed(p, d, begin, step, n, BITS: tl.constexpr):
    """p + begin d, and what a step of depth adds, in fixed point; no longer than across the volume."""
    across = n * 1.0 + OUT
    climb = tl.minimum(tl.maximum(step * d, -across), across)
    one = 1.0 * (1 << BITS)
    return (
        tl.floor(_place(p, n, d, begin) * one + 0.5).to(tl.int64),
        tl.floor(climb * one + 0.5).to(tl.int64),
    )


@triton.jit
def _upwards(p, d, n, stride):
    """An axis turned so that the ray climbs along it: place, direction, stride, and voxel 0's offset."""
    down = d < 0
    return (
        tl.where(down, n - 1 - p, p), tl.abs(d), tl.where(down, -stride, stride),
        tl.where(down, (n - 1) * stride, 0),
    )  # fmt: skip


@triton.jit
def _order(steepest, x, y, z):
    """Of a number for each axis: that of the steepest first, the others in order."""
    return (
        tl.where(steepest == 0, x, tl.where(steepest == 1, y, z)),
        tl.where(steepest == 0, y, x),
        tl.where(steepest == 2, y, z),
    )


@triton.jit
def _slabs(
    rays, ni, nj, nk, si, sj, sk,
    SIDDON: tl.constexpr, BITS: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The way of rays through slabs.

    Slabs; the first slab, its depth and thickness in depth, where in it the source is; (j, k) at its lower
    end and what a slab adds, in fixed point; slopes and their inverses; sizes, strides, voxel 0; axis.
    """
    _, _, sx, sy, sz, dx, dy, dz = rays
    px, dx, si, oi = _upwards(sx, dx, ni, si.to(INDEX))
    py, dy, sj, oj = _upwards(sy, dy, nj, sj.to(INDEX))
    pz, dz, sk, ok = _upwards(sz, dz, nk, sk.to(INDEX))
    if SIDDON:  # a voxel's centre lies amid its cell; a cell of the interpolant begins at one
        px, py, pz = px + 0.5, py + 0.5, pz + 0.5
    begin, end, hit = _clip(px, py, pz, dx, dy, dz, ni, nj, nk, 0.0 if SIDDON else -1.0)
    steepest = tl.where((dx >= dy) & (dx >= dz), 0, tl.where(dy >= dz, 1, 2))
    sizes = _order(steepest, ni, nj, nk)
    strides = _order(steepest, si, sj, sk)
    p, pu, pv = _order(steepest, px, py, pz)
    d, du, dv = _order(steepest, dx, dy, dz)
    first = tl.floor(_place(p, sizes[0], d, begin))
    # the slab after the last is outside, and the way back to the value there is complete
    count = tl.where(hit, tl.floor(_place(p, sizes[0], d, end)) - first + 2, 0).to(tl.int32)
    depth = 1.0 / tl.where(hit, d, 1.0)
    su, sv = tl.where(hit, du * depth, 0.0), tl.where(hit, dv * depth, 0.0)
    u, v = _place(pu, sizes[1], su, first - p), _place(pv, sizes[2], sv, first - p)
    one = 1.0 * (1 << BITS)
    places = tl.floor(u * one + 0.5).to(tl.int64), tl.floor(v * one + 0.5).to(tl.int64)
    steps = tl.floor(su * one + 0.5).to(tl.int64), tl.floor(sv * one + 0.5).to(tl.int64)
    # a slope that rounds to 0 crosses nothing
    inverses = (1 / tl.maximum(su, 0.5 / one)).to(REAL), (1 / tl.maximum(sv, 0.5 / one)).to(REAL)
    start = tl.minimum(tl.maximum(p - first, 0.0), 1.0)
    return (
        count, tl.where(hit, first.to(tl.int32), sizes[0] + OUT), (first - p) * depth,
        depth.to(REAL), start.to(REAL), places, steps, (su.to(REAL), sv.to(REAL)), inverses, sizes, strides,
        oi + oj + ok, steepest,
    )  # fmt: skip


@triton.jit
def _cells(rays, ni, nj, nk, si, sj, sk, REAL: tl.constexpr, INDEX: tl.constexpr):
    """The way of rays through the cells of the interpolant, from one border to the next.

    How many cells at most; the depth of the first border, and what a ray's unit of length is in depth, the
    time to cross a cell along the steepest axis; the first cell, the place in it, slopes, what
    rounding them left out, their inverses; strides, and the offset of the cell.
    """
    _, _, sx, sy, sz, dx, dy, dz = rays
    px, dx, si, oi = _upwards(sx, dx, ni, si.to(INDEX))
    py, dy, sj, oj = _upwards(sy, dy, nj, sj.to(INDEX))
    pz, dz, sk, ok = _upwards(sz, dz, nk, sk.to(INDEX))
    begin, end, hit = _clip(px, py, pz, dx, dy, dz, ni, nj, nk, -1.0)
    unit = 1.0 / tl.where(hit, tl.maximum(tl.maximum(dx, dy), dz), 1.0)
    i, t, slope_i, rest_i, inverse_i, count_i = _axis(px, dx, begin, end, ni, hit, unit, REAL)
    j, u, slope_j, rest_j, inverse_j, count_j = _axis(py, dy, begin, end, nj, hit, unit, REAL)
    k, v, slope_k, rest_k, inverse_k, count_k = _axis(pz, dz, begin, end, nk, hit, unit, REAL)
    count = tl.where(hit, count_i + count_j + count_k + OUT, 0)
    return (
        count, begin, unit.to(REAL), (i, j, k), (t, u, v), (slope_i, slope_j, slope_k),
        (rest_i, rest_j, rest_k), (inverse_i, inverse_j, inverse_k), (si, sj, sk),
        oi + oj + ok + i * si + j * sj + k * sk,
    )  # fmt: skip


@triton.jit
def _axis(p, d, begin, end, n, hit, unit, REAL: tl.constexpr):
    """Along one axis: first cell, place in it, slope, its rounding, its inverse, and cells to cross."""
    place = _place(p, n, d, begin)
    cell = tl.floor(place)
    slope = tl.where(hit, d * unit, 0.0)
    rounded = slope.to(REAL)
    count = (tl.floor(_place(p, n, d, end)) - cell).to(tl.int32)
    return (
        tl.where(hit, cell.to(tl.int32), n + OUT), (place - cell).to(REAL), rounded,
        (slope - rounded.to(tl.float64)).to(REAL), (1 / tl.maximum(slope, 1e-30)).to(REAL), count,
    )  # fmt: skip


@triton.jit
def _border(place, inverse):
    """The way to the next border of a cell, and which it is."""
    # rounding may have left a place a little beyond
    i, j, k = (
        tl.maximum(1 - place[0], 0.0) * inverse[0],
        tl.maximum(1 - place[1], 0.0) * inverse[1],
        tl.maximum(1 - place[2], 0.0) * inverse[2],
    )
    in_i = i <= tl.minimum(j, k)
    in_j = (j <= k) & (in_i == 0)
    return tl.minimum(i, tl.minimum(j, k)), (in_i, in_j, (in_i | in_j) == 0)


@triton.jit
def _fraction(x, BITS: tl.constexpr, REAL: tl.constexpr):
    if BITS == 32:  # the low word, for free
        return x.to(tl.uint32).to(REAL) * (1.0 / (1 << BITS))
    else:
        return (x & ((1 << BITS) - 1)).to(REAL) * (1.0 / (1 << BITS))


@triton.jit
def _within(x, n):
    """0 <= x < n, in one comparison: what is negative is a large unsigned number."""
    return x.to(tl.uint32, bitcast=True) < n.to(tl.uint32, bitcast=True)


@triton.jit
def _slab(place, step, inverse, start, BITS: tl.constexpr, REAL: tl.constexpr):
    """The cell (j, k) and the fractions at a slab's lower end, the ends of the first two of its three
    segments, and whether each of the two crossings is one in j, in k, or none.
    """
    j, k = (place[0] >> BITS).to(tl.int32), (place[1] >> BITS).to(tl.int32)
    u, v = _fraction(place[0], BITS, REAL), _fraction(place[1], BITS, REAL)
    # whole numbers decide what is crossed; where, may be rounded
    cross_j = ((place[0] + step[0]) >> BITS).to(tl.int32) > j
    cross_k = ((place[1] + step[1]) >> BITS).to(tl.int32) > k
    at_j = tl.where(cross_j, tl.minimum((1 - u) * inverse[0], 1.0), 2.0)
    at_k = tl.where(cross_k, tl.minimum((1 - v) * inverse[1], 1.0), 2.0)
    first_j = cross_j & (at_j <= at_k)
    first_k = cross_k & (at_j > at_k)
    one = tl.maximum(tl.minimum(tl.minimum(at_j, at_k), 1.0), start)
    two = tl.maximum(tl.minimum(tl.maximum(at_j, at_k), 1.0), start)
    return j, k, u, v, one, two, (first_j, first_k), (cross_j & first_k, cross_k & first_j)


@triton.jit
def _add(total, rest, x):
    """Compensated summation (Kahan): hundreds of terms in single precision, and no digit lost."""
    x = x - rest
    sum = total + x
    return sum, (sum - total) - x


@triton.jit
def _cross(crossing, j, k, offset, stride):
    """The cell beyond a crossing."""
    j, k = j + crossing[0].to(tl.int32), k + crossing[1].to(tl.int32)
    return j, k, offset + tl.where(crossing[0], stride[1], 0) + tl.where(crossing[1], stride[2], 0)


@triton.jit
def _inside(j, k, size):
    """Which corners of the cell (j, k) are columns of voxels: 00, 10, 01, 11."""
    j0, j1 = _within(j, size[1]), _within(j + 1, size[1])
    k0, k1 = _within(k, size[2]), _within(k + 1, size[2])
    return j0 & k0, j1 & k0, j0 & k1, j1 & k1


@triton.jit
def _store_ray_gradient(out, rays, along, moment, begin, tile):
    """Sums over a tile of the rays' gradients in the source, and in the direction, as a row of 12.

    The moments are about the depth `begin`, which single precision would not hold well enough.
    """
    i, j = rays[0], rays[1]
    moment = moment[0] + begin * along[0], moment[1] + begin * along[1], moment[2] + begin * along[2]
    for a in tl.static_range(3):
        tl.store(out + 12 * tile + a, tl.sum(along[a]))
        tl.store(out + 12 * tile + 3 + 3 * a, tl.sum(moment[a] * j))
        tl.store(out + 12 * tile + 4 + 3 * a, tl.sum(moment[a] * i))
        tl.store(out + 12 * tile + 5 + 3 * a, tl.sum(moment[a]))


@triton.jit
def _turned_back(x, rays, steepest, factor):
    """Components along the axes (steepest, j, k) -> along the volume's own, times a factor, in float64."""
    i, j, k = x
    x = (
        tl.where(steepest == 0, i, j),
        tl.where(steepest == 1, i, tl.where(steepest == 0, j, k)),
        tl.where(steepest == 2, i, k),
    )
    return (
        tl.where(rays[5] < 0, -factor, factor) * x[0],
        tl.where(rays[6] < 0, -factor, factor) * x[1],
        tl.where(rays[7] < 0, -factor, factor) * x[2],
    )
