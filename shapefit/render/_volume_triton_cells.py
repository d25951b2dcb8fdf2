"""What the volume kernels for the GPU do in a cell: eight voxels, the interpolant amid them, its gradients.

A cell has four corners in a layer of voxels, 00, 10, 01 and 11 along (j, k), and two layers, low and high.
A place in it is three fractions of its edges.
"""

import triton
import triton.language as tl

from shapefit.render._volume_triton_rays import _within

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
def _face(crossing, side, cell, offset, size, stride):
    """Where the four voxels of a cell's face are that a ray crosses, and which are inside the volume.

    The face that is left (side = 0) or, of the cell beyond, the new one (side = 1); corners 00, 10, 01
    and 11 along the two other axes.
    """
    in_i, in_j, in_k = crossing
    a, b = tl.where(in_i, cell[1], cell[0]), tl.where(in_k, cell[1], cell[2])
    size_a, size_b = tl.where(in_i, size[1], size[0]), tl.where(in_k, size[1], size[2])
    stride_a, stride_b = tl.where(in_i, stride[1], stride[0]), tl.where(in_k, stride[1], stride[2])
    c = tl.where(in_i, cell[0], tl.where(in_j, cell[1], cell[2])) + side
    layer = _within(c, tl.where(in_i, size[0], tl.where(in_j, size[1], size[2])))
    offset += side * tl.where(in_i, stride[0], tl.where(in_j, stride[1], stride[2]))
    a0, a1 = layer & _within(a, size_a), layer & _within(a + 1, size_a)
    b0, b1 = _within(b, size_b), _within(b + 1, size_b)
    return (
        (offset, offset + stride_a, offset + stride_b, offset + stride_a + stride_b),
        (a0 & b0, a1 & b0, a0 & b1, a1 & b1),
    )


@triton.jit
def _beyond(crossing, low, high, new):
    """The corners of the cell beyond a crossing, of which the face `new` is new."""
    in_i, in_j, in_k = crossing
    return (
        (
            tl.where(in_i, high[0], tl.where(in_j, low[1], low[2])),
            tl.where(in_i, high[1], tl.where(in_j, new[0], low[3])),
            tl.where(in_i, high[2], tl.where(in_j, low[3], new[0])),
            tl.where(in_i, high[3], new[2]),
        ),
        (
            tl.where(in_i, new[0], tl.where(in_j, high[1], high[2])),
            tl.where(in_k, high[3], new[1]),
            tl.where(in_i, new[2], tl.where(in_j, high[3], new[1])),
            new[3],
        ),
    )


@triton.jit
def _left(crossing, low, high):
    """The face that a crossing leaves behind."""
    in_i, in_j, in_k = crossing
    return (
        low[0],
        tl.where(in_i, low[1], high[0]),
        tl.where(in_k, low[1], low[2]),
        tl.where(in_i, low[3], tl.where(in_j, high[2], high[1])),
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
def _integral(low, high, place, slope, length):
    """Of the interpolant along a ray of this length from a place in the cell."""
    c, d = _polynomial(low, high)
    total = length * 0
    for node in tl.static_range(2):
        s = (0.5 + (2 * node - 1) * GAUSS) * length
        t, u, v = place[0] + s * slope[0], place[1] + s * slope[1], place[2] + s * slope[2]
        total += c[0] + t * d[0] + u * (c[1] + t * d[1]) + v * (c[2] + t * d[2] + u * (c[3] + t * d[3]))
    return 0.5 * length * total


@triton.jit
def _slopes(low, high, t, u, v):
    """Slopes of the interpolant along its three axes."""
    c, d = _polynomial(low, high)
    twist = c[3] + t * d[3]
    return d[0] + u * d[1] + v * (d[2] + u * d[3]), c[1] + t * d[1] + v * twist, c[2] + t * d[2] + u * twist


@triton.jit
def _add_slopes(along, moment, low, high, place, slope, length, depth):
    """Add the integrals of the interpolant's slopes along a ray, and of depth times them."""
    c, d = _polynomial(low, high)
    for node in tl.static_range(2):
        s = (0.5 + (2 * node - 1) * GAUSS) * length
        t, u, v = place[0] + s * slope[0], place[1] + s * slope[1], place[2] + s * slope[2]
        weight, twist = 0.5 * length, c[3] + t * d[3]
        g = (
            weight * (d[0] + u * d[1] + v * (d[2] + u * d[3])),
            weight * (c[1] + t * d[1] + v * twist),
            weight * (c[2] + t * d[2] + u * twist),
        )
        z = depth + s
        along = along[0] + g[0], along[1] + g[1], along[2] + g[2]
        moment = moment[0] + z * g[0], moment[1] + z * g[1], moment[2] + z * g[2]
    return along, moment


@triton.jit
def _add_shares(low, high, place, slope, length, factor):
    """Add the shares of eight corners in the integral along a ray, times a factor, to `low` and `high`."""
    for node in tl.static_range(2):
        s = (0.5 + (2 * node - 1) * GAUSS) * length
        t, u, v = place[0] + s * slope[0], place[1] + s * slope[1], place[2] + s * slope[2]
        low, high = _add_share(low, high, t, u, v, 0.5 * length * factor)
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
