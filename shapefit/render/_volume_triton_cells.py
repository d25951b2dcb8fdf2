"""What the volume kernels for the GPU do in a cell: eight voxels, the interpolant amid them, its gradients.

A cell has four corners in a layer of voxels, 00, 10, 01 and 11 along (j, k), and two layers, low and high.
"""

import triton
import triton.language as tl

GAUSS = tl.constexpr(0.5 / 3**0.5)  # of a segment's length, from its middle


@triton.jit
def _value(data, structure, channel, offset, inside, LABELLED: tl.constexpr, REAL: tl.constexpr):
    """Voxels as REAL; 0 outside, and in other structures."""
    value = tl.load(data + offset, inside, 0).to(REAL)
    if LABELLED:
        value = tl.where(tl.load(structure + offset, inside, 255) == channel, value, 0.0)
    return value


@triton.jit
def _scatter(out, structure, channel, offset, inside, x, LABELLED: tl.constexpr):
    """Add to voxels, those of the structure alone."""
    if LABELLED:
        inside = inside & (tl.load(structure + offset, inside, 255) == channel)
    tl.atomic_add(out + offset, x, inside, sem="relaxed")


@triton.jit
def _corners(
    data, structure, channel, offset, stride, inside, layer, LABELLED: tl.constexpr, REAL: tl.constexpr
):
    """Voxels of a layer at the corners 00, 10, 01, 11 of a cell."""
    return (
        _value(data, structure, channel, offset, layer & inside[0], LABELLED, REAL),
        _value(data, structure, channel, offset + stride[1], layer & inside[1], LABELLED, REAL),
        _value(data, structure, channel, offset + stride[2], layer & inside[2], LABELLED, REAL),
        _value(data, structure, channel, offset + stride[1] + stride[2], layer & inside[3], LABELLED, REAL),
    )


@triton.jit
def _scatter_corners(out, structure, channel, offset, stride, inside, layer, corners, LABELLED: tl.constexpr):
    """Add shares of the corners of a cell in a layer to the gradient."""
    _scatter(out, structure, channel, offset, layer & inside[0], corners[0], LABELLED)
    _scatter(out, structure, channel, offset + stride[1], layer & inside[1], corners[1], LABELLED)
    _scatter(out, structure, channel, offset + stride[2], layer & inside[2], corners[2], LABELLED)
    aside = offset + stride[1] + stride[2]
    _scatter(out, structure, channel, aside, layer & inside[3], corners[3], LABELLED)


@triton.jit
def _turned_up(
    data, structure, channel, offset, stride, crossing, inside, layer, corners,
    LABELLED: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Voxels at the corners of the cell beyond a crossing: two are new."""
    layer = layer & (crossing[0] | crossing[1])
    aside = offset + tl.where(crossing[0], stride[1], stride[2])
    shown = layer & ((crossing[0] & inside[1]) | (crossing[1] & inside[2]))
    new = _value(data, structure, channel, aside, shown, LABELLED, REAL)
    aside = offset + stride[1] + stride[2]
    return _beyond(
        crossing, corners, new, _value(data, structure, channel, aside, layer & inside[3], LABELLED, REAL)
    )


@triton.jit
def _beyond(crossing, corners, new, last):
    """Corners 00, 10, 01, 11 after a crossing, that turns up the corner in its direction and the last."""
    in_j, in_k = crossing
    return (
        tl.where(in_j, corners[1], tl.where(in_k, corners[2], corners[0])),
        tl.where(in_j, new, tl.where(in_k, corners[3], corners[1])),
        tl.where(in_j, corners[3], tl.where(in_k, new, corners[2])),
        tl.where(in_j | in_k, last, corners[3]),
    )


@triton.jit
def _polynomial(low, high):
    """The interpolant as c0 + c1 u + c2 v + c3 u v at the low layer, and what it gains up to the high one."""
    c = low[0], low[1] - low[0], low[2] - low[0], low[3] - low[2] - low[1] + low[0]
    in_u, in_v = high[1] - high[0], high[2] - high[0]
    twist = high[3] - high[2] - in_u
    return c, (high[0] - c[0], in_u - c[1], in_v - c[2], twist - c[3])


@triton.jit
def _interpolant(low, high, t, u, v):
    """Value amid eight corners."""
    c, d = _polynomial(low, high)
    return c[0] + t * d[0] + u * (c[1] + t * d[1]) + v * (c[2] + t * d[2] + u * (c[3] + t * d[3]))


@triton.jit
def _integral(low, high, u, v, slope, begin, end):
    """Of the interpolant over a segment of a cell; (u, v) + t slope is where the ray is."""
    c, d = _polynomial(low, high)
    middle, length = 0.5 * (begin + end), end - begin
    total = begin * 0
    for node in tl.static_range(2):
        t = middle + (2 * node - 1) * GAUSS * length
        x, y = u + t * slope[0], v + t * slope[1]
        total += c[0] + t * d[0] + x * (c[1] + t * d[1]) + y * (c[2] + t * d[2] + x * (c[3] + t * d[3]))
    return 0.5 * length * total


@triton.jit
def _slopes(low, high, t, u, v):
    """Slopes of the interpolant along its three axes."""
    c, d = _polynomial(low, high)
    twist = c[3] + t * d[3]
    return d[0] + u * d[1] + v * (d[2] + u * d[3]), c[1] + t * d[1] + v * twist, c[2] + t * d[2] + u * twist


@triton.jit
def _add_slopes(along, moment, low, high, u, v, slope, begin, end, depth, thickness):
    """Add the integrals of the interpolant's slopes over a segment, and of depth times them."""
    c, d = _polynomial(low, high)
    middle, length = 0.5 * (begin + end), end - begin
    for node in tl.static_range(2):
        t = middle + (2 * node - 1) * GAUSS * length
        x, y = u + t * slope[0], v + t * slope[1]
        weight, twist = 0.5 * length, c[3] + t * d[3]
        g = (
            weight * (d[0] + x * d[1] + y * (d[2] + x * d[3])),
            weight * (c[1] + t * d[1] + y * twist),
            weight * (c[2] + t * d[2] + x * twist),
        )
        z = depth + t * thickness
        along = along[0] + g[0], along[1] + g[1], along[2] + g[2]
        moment = moment[0] + z * g[0], moment[1] + z * g[1], moment[2] + z * g[2]
    return along, moment


@triton.jit
def _add_shares(low, high, u, v, slope, begin, end, factor):
    """Add the shares of eight corners in the integral over a segment, times a factor, to `low` and `high`."""
    middle, length = 0.5 * (begin + end), end - begin
    for node in tl.static_range(2):
        t = middle + (2 * node - 1) * GAUSS * length
        x, y = u + t * slope[0], v + t * slope[1]
        low, high = _add_share(low, high, t, x, y, 0.5 * length * factor)
    return low, high


@triton.jit
def _add_share(low, high, t, u, v, weight):
    """Add the shares of eight corners in a value, times a weight."""
    in_u, in_v, in_uv = weight * u, weight * v, weight * u * v
    c = weight - in_u - in_v + in_uv, in_u - in_uv, in_v - in_uv, in_uv
    d = t * c[0], t * c[1], t * c[2], t * c[3]
    return (
        (low[0] + c[0] - d[0], low[1] + c[1] - d[1], low[2] + c[2] - d[2], low[3] + c[3] - d[3]),
        (high[0] + d[0], high[1] + d[1], high[2] + d[2], high[3] + d[3]),
    )


@triton.jit
def _left_behind(
    out, structure, channel, offset, stride, crossing, inside, layer, corners, LABELLED: tl.constexpr
):
    """Add the shares of the corners that a crossing leaves behind to the gradient; the others' go on."""
    layer = layer & (crossing[0] | crossing[1])
    _scatter(out, structure, channel, offset, layer & inside[0], corners[0], LABELLED)
    aside = offset + tl.where(crossing[0], stride[2], stride[1])
    shown = layer & ((crossing[0] & inside[2]) | (crossing[1] & inside[1]))
    share = tl.where(crossing[0], corners[2], corners[1])
    _scatter(out, structure, channel, aside, shown, share, LABELLED)
    return _beyond(crossing, corners, corners[0] * 0, corners[0] * 0)
