"""The kernels that `_volume_triton` launches, one for each method; WHAT says what it works out.

They take a volume (sizes n, strides s along i, j, k), the rays, and lengths; `grad` is that of the image. Out
comes the image (B, C, N), or the volume's gradient, or the rays' gradients, a row of 12 for each tile.
"""

import triton
import triton.language as tl

from shapefit.render._volume_triton_cells import (
    _add_share,
    _add_shares,
    _add_slopes,
    _beyond,
    _corners,
    _face,
    _integral,
    _interpolant,
    _left,
    _scatter,
    _scatter_corners,
    _slopes,
    _value,
)
from shapefit.render._volume_triton_rays import (
    _add,
    _border,
    _cells,
    _clip,
    _cross,
    _fixed,
    _fraction,
    _inside,
    _lanes,
    _rays,
    _slab,
    _slabs,
    _store_ray_gradient,
    _turned_back,
    _within,
)

IMAGE = tl.constexpr(0)
DATA_GRADIENT = tl.constexpr(1)
RAY_GRADIENT = tl.constexpr(2)
SIZES = ["count", "columns", "tiles", "width", "ni", "nj", "nk", "si", "sj", "sk"]  # one program for all


@triton.jit(do_not_specialize=SIZES)
def siddon(
    data, structure, source, direction, pixels, lengths, grad, out, count, columns, tiles, width,
    ni, nj, nk, si, sj, sk, step,
    WHAT: tl.constexpr, LISTED: tl.constexpr, LABELLED: tl.constexpr, BITS: tl.constexpr,
    REAL: tl.constexpr, INDEX: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Voxels of constant value."""
    view, tile, n, own = _lanes(count, columns, tiles, LANES, COLUMNS)
    rays = _rays(source, direction, pixels, view, n, own, width, LISTED)
    slabs, i, base, thickness, start, place, climb, _, inverse, size, stride, origin, steepest = _slabs(
        rays, ni, nj, nk, si, sj, sk, True, BITS, REAL, INDEX
    )
    channel = tl.program_id(1)
    row = view * tl.num_programs(1) + channel
    factor = tl.load(lengths + n, own, 0).to(REAL) * thickness
    if WHAT != IMAGE:
        factor *= tl.load(grad + row * count + n, own, 0).to(REAL)
    zero = tl.zeros((LANES,), REAL)
    total, rest, before = zero, zero, zero
    along, moment, depth = (
        (zero, zero, zero),
        (zero, zero, zero),
        zero,
    )  # depth is from that of the first slab
    place_j, place_k = place
    for _ in range(0, tl.max(tl.where(own, slabs, 0))):
        j, k, _, _, one, two, first, second = _slab((place_j, place_k), climb, inverse, start, BITS, REAL)
        offset = origin + i * stride[0] + j * stride[1] + k * stride[2]
        within = own & _within(i, size[0])
        in_a = within & _within(j, size[1]) & _within(k, size[2])
        j, k, offset_b = _cross(first, j, k, offset, stride)
        in_b = within & (first[0] | first[1]) & _within(j, size[1]) & _within(k, size[2])
        j, k, offset_c = _cross(second, j, k, offset_b, stride)
        in_c = within & (second[0] | second[1]) & _within(j, size[1]) & _within(k, size[2])
        if WHAT == DATA_GRADIENT:
            _scatter(out, structure, channel, offset, in_a, factor * (one - start), LABELLED)
            _scatter(out, structure, channel, offset_b, in_b, factor * (two - one), LABELLED)
            _scatter(out, structure, channel, offset_c, in_c, factor * (1 - two), LABELLED)
        else:
            a = _value(data, structure, channel, offset, in_a, LABELLED, REAL)
            b = _value(data, structure, channel, offset_b, in_b, LABELLED, REAL)
            c = _value(data, structure, channel, offset_c, in_c, LABELLED, REAL)
            if WHAT == IMAGE:
                total, rest = _add(total, rest, a * (one - start) + b * (two - one) + c * (1 - two))
            else:  # a border at depth z moves by dz/ds = -1 / d, dz/dd = -z / d, if it lies ahead
                jump = tl.where((depth > 0) | (base > 0), before - a, 0.0)
                seen = (one > start) | (start == 0)
                jump_b = tl.where((first[0] | first[1]) & seen, a - b, 0.0)
                seen = (two > start) | (start == 0)
                jump_c = tl.where((second[0] | second[1]) & seen, b - c, 0.0)
                in_j = tl.where(first[0], jump_b, 0.0), tl.where(second[0], jump_c, 0.0)
                in_k = tl.where(first[1], jump_b, 0.0), tl.where(second[1], jump_c, 0.0)
                at_b, at_c = depth + one * thickness, depth + two * thickness
                along = along[0] + jump, along[1] + in_j[0] + in_j[1], along[2] + in_k[0] + in_k[1]
                moment = (
                    moment[0] + depth * jump,
                    moment[1] + at_b * in_j[0] + at_c * in_j[1],
                    moment[2] + at_b * in_k[0] + at_c * in_k[1],
                )
                before = tl.where(second[0] | second[1], c, tl.where(first[0] | first[1], b, a))
        place_j, place_k, i, start = place_j + climb[0], place_k + climb[1], i + 1, start * 0
        depth += thickness
    if WHAT == IMAGE:
        tl.store(out + row * count + n, total * factor, own)
    if WHAT == RAY_GRADIENT:
        factor = -factor.to(tl.float64)
        along = along[0], along[1] * inverse[0], along[2] * inverse[1]
        moment = moment[0], moment[1] * inverse[0], moment[2] * inverse[1]
        along, moment = (
            _turned_back(along, rays, steepest, factor), _turned_back(moment, rays, steepest, factor)
        )  # fmt: skip
        _store_ray_gradient(out, rays, along, moment, base, row * tiles + tile)


@triton.jit(do_not_specialize=SIZES)
def trilinear(
    data, structure, source, direction, pixels, lengths, grad, out, count, columns, tiles, width,
    ni, nj, nk, si, sj, sk, step,
    WHAT: tl.constexpr, LISTED: tl.constexpr, LABELLED: tl.constexpr, BITS: tl.constexpr,
    REAL: tl.constexpr, INDEX: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The interpolant, exactly: cell by cell. Of a cell's voxels, four are those of the one before."""
    view, tile, n, own = _lanes(count, columns, tiles, LANES, COLUMNS)
    rays = _rays(source, direction, pixels, view, n, own, width, LISTED)
    cells, base, unit, cell, place, slope, rest_slope, inverse, stride, offset = _cells(
        rays, ni, nj, nk, si, sj, sk, REAL, INDEX
    )
    size = ni, nj, nk
    channel = tl.program_id(1)
    row = view * tl.num_programs(1) + channel
    factor = tl.load(lengths + n, own, 0).to(REAL) * unit
    if WHAT != IMAGE:
        factor *= tl.load(grad + row * count + n, own, 0).to(REAL)
    zero = tl.zeros((LANES,), REAL)
    total, rest = zero, zero
    along, moment, depth = (zero, zero, zero), (zero, zero, zero), zero  # depth in units, from the border
    low, high = (zero, zero, zero, zero), (zero, zero, zero, zero)
    if WHAT != DATA_GRADIENT:
        inside, ahead = _inside(cell[1], cell[2], size), offset + stride[0]
        near, far = own & _within(cell[0], ni), own & _within(cell[0] + 1, ni)
        low = _corners(data, structure, channel, offset, stride, inside, near, LABELLED, REAL)
        high = _corners(data, structure, channel, ahead, stride, inside, far, LABELLED, REAL)
    for _ in range(0, tl.max(tl.where(own, cells, 0))):
        length, crossing = _border(place, inverse)
        if WHAT == IMAGE:
            total, rest = _add(total, rest, _integral(low, high, place, slope, length))
        elif WHAT == DATA_GRADIENT:
            low, high = _add_shares(low, high, place, slope, length, factor)
            at, inside = _face(crossing, 0, cell, offset, size, stride)
            left = _left(crossing, low, high)
            for c in tl.static_range(4):
                _scatter(out, structure, channel, at[c], own & inside[c], left[c], LABELLED)
            low, high = _beyond(crossing, low, high, (zero, zero, zero, zero))
        else:
            along, moment = _add_slopes(along, moment, low, high, place, slope, length, depth)
        cell = (
            cell[0] + crossing[0].to(tl.int32), cell[1] + crossing[1].to(tl.int32),
            cell[2] + crossing[2].to(tl.int32),
        )  # fmt: skip
        offset += tl.where(crossing[0], stride[0], tl.where(crossing[1], stride[1], stride[2]))
        if WHAT != DATA_GRADIENT:
            at, inside = _face(crossing, 1, cell, offset, size, stride)
            new = (
                _value(data, structure, channel, at[0], own & inside[0], LABELLED, REAL),
                _value(data, structure, channel, at[1], own & inside[1], LABELLED, REAL),
                _value(data, structure, channel, at[2], own & inside[2], LABELLED, REAL),
                _value(data, structure, channel, at[3], own & inside[3], LABELLED, REAL),
            )
            low, high = _beyond(crossing, low, high, new)
        depth += length
        place = (
            tl.where(crossing[0], 0.0, place[0] + (length * slope[0] + length * rest_slope[0])),
            tl.where(crossing[1], 0.0, place[1] + (length * slope[1] + length * rest_slope[1])),
            tl.where(crossing[2], 0.0, place[2] + (length * slope[2] + length * rest_slope[2])),
        )
    if WHAT == IMAGE:
        tl.store(out + row * count + n, total * factor, own)
    if WHAT == RAY_GRADIENT:
        factor, unit = factor.to(tl.float64), unit.to(tl.float64)
        along, moment = _turned_back(along, rays, 0, factor), _turned_back(moment, rays, 0, factor * unit)
        _store_ray_gradient(out, rays, along, moment, base, row * tiles + tile)


@triton.jit(do_not_specialize=[*SIZES, "step"])
def raymarch(
    data, structure, source, direction, pixels, lengths, grad, out, count, columns, tiles, width,
    ni, nj, nk, si, sj, sk, step,
    WHAT: tl.constexpr, LISTED: tl.constexpr, LABELLED: tl.constexpr, BITS: tl.constexpr,
    REAL: tl.constexpr, INDEX: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The interpolant at depths (m + 1/2) step."""
    view, tile, n, own = _lanes(count, columns, tiles, LANES, COLUMNS)
    rays = _rays(source, direction, pixels, view, n, own, width, LISTED)
    _, _, px, py, pz, dx, dy, dz = rays
    size, stride = (ni, nj, nk), (si.to(INDEX), sj.to(INDEX), sk.to(INDEX))
    channel, spacing = tl.program_id(1), tl.load(step)
    row = view * tl.num_programs(1) + channel
    factor = (tl.load(lengths + n, own, 0) * spacing).to(REAL)
    if WHAT != IMAGE:
        factor *= tl.load(grad + row * count + n, own, 0).to(REAL)
    begin, end, hit = _clip(px, py, pz, dx, dy, dz, ni, nj, nk, -1.0)
    first = tl.ceil(begin / spacing - 0.5)
    samples = tl.minimum(tl.floor(end / spacing - 0.5) - first + 1, 2147483647.0)
    samples = tl.where(own & hit, samples, 0.0).to(tl.int32)
    begin = tl.where(samples > 0, first + 0.5, 0.0) * spacing
    x, climb_x = _fixed(px, dx, begin, spacing, ni, BITS)
    y, climb_y = _fixed(py, dy, begin, spacing, nj, BITS)
    z, climb_z = _fixed(pz, dz, begin, spacing, nk, BITS)
    zero = tl.zeros((LANES,), REAL)
    total, rest = zero, zero
    along, moment, depth = (zero, zero, zero), (zero, zero, zero), zero  # depth is from the first sample
    for m in range(0, tl.max(samples)):
        shown = own & (m < samples)
        i, j, k = (x >> BITS).to(tl.int32), (y >> BITS).to(tl.int32), (z >> BITS).to(tl.int32)
        t, u, v = _fraction(x, BITS, REAL), _fraction(y, BITS, REAL), _fraction(z, BITS, REAL)
        near, far, inside = shown & _within(i, ni), shown & _within(i + 1, ni), _inside(j, k, size)
        offset = i * stride[0] + j * stride[1] + k * stride[2]
        ahead = offset + stride[0]
        if WHAT == DATA_GRADIENT:
            low, high = (zero, zero, zero, zero), (zero, zero, zero, zero)
            low, high = _add_share(low, high, t, u, v, factor)
            _scatter_corners(out, structure, channel, offset, stride, inside, near, low, LABELLED)
            _scatter_corners(out, structure, channel, ahead, stride, inside, far, high, LABELLED)
        else:
            low = _corners(data, structure, channel, offset, stride, inside, near, LABELLED, REAL)
            high = _corners(data, structure, channel, ahead, stride, inside, far, LABELLED, REAL)
            if WHAT == IMAGE:
                total, rest = _add(total, rest, _interpolant(low, high, t, u, v))
            else:
                g = _slopes(low, high, t, u, v)
                along = along[0] + g[0], along[1] + g[1], along[2] + g[2]
                moment = moment[0] + depth * g[0], moment[1] + depth * g[1], moment[2] + depth * g[2]
        x, y, z, depth = x + climb_x, y + climb_y, z + climb_z, depth + spacing.to(REAL)
    if WHAT == IMAGE:
        tl.store(out + row * count + n, total * factor, own)
    if WHAT == RAY_GRADIENT:
        factor = factor.to(tl.float64)
        along = factor * along[0], factor * along[1], factor * along[2]
        moment = factor * moment[0], factor * moment[1], factor * moment[2]
        _store_ray_gradient(out, rays, along, moment, begin, row * tiles + tile)
