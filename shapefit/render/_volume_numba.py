"""The volume kernels on the CPU: the formulas of `_volume_torch`, one ray at a time.

A ray walks along the axis w on which it runs fastest. Between two planes of w it crosses at most one plane of
each of the other axes, u and v: their places are linear in w, with slopes of at most 1, so that rays along
an axis are no exception. A walk lists the cells, and short loops turn the list into an image or a gradient.
Threads share out tiles of pixels, or layers of the volume for its gradient: every sum has one order, and the
result the same bits for any number of them.
"""

from functools import lru_cache

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from shapefit.render import _volume_sums_numba as sums
from shapefit.render._volume_cells_numba import EXACT, samples, walk
from shapefit.render._volume_interpolant_numba import NODES, gauss_nodes, march_nodes, room_for_nodes
from shapefit.render._volume_torch import METHODS

TILE = 16  # pixels along the edge of a tile: its rays share what they load of the volume
RAYS = TILE * TILE  # that a thread takes at a time
LAYERS = 32  # of the volume, for its gradient
SIDDON, TRILINEAR, _ = range(len(METHODS))


def line_integral(
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    count: int,
    method: str,
    step: float,
) -> Tensor:
    """Integrals (B, C, N) over depth, times lengths (N,), of a volume (I, J, K) in C = count structures."""
    image = torch.zeros(len(source), count, len(lengths), dtype=lengths.dtype)
    rays = _rays(source, direction, pixels, lengths, width)
    _render(*_volume(data, structure), *rays, METHODS.index(method), step, image.numpy())
    return image


def line_integral_data_gradient(
    grad: Tensor,
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    method: str,
    step: float,
) -> Tensor:
    """Gradient (I, J, K) of sum(grad * line_integral) in the volume: the weight of each voxel."""
    gradient = torch.zeros(data.shape, dtype=torch.promote_types(data.dtype, torch.float32))
    rays = _rays(source, direction, pixels, lengths, width)
    _, structures, sizes = _volume(data, structure)
    # rays that run along the layers stay in one or two of them
    axis = int(direction[:, :, 2].abs().sum(0).argmin()) if len(source) else 0
    _weigh(
        grad.numpy(), gradient.view(-1).numpy(), structures, sizes, *rays, METHODS.index(method), step, axis
    )
    return gradient.to(data.dtype)


def line_integral_ray_gradient(
    grad: Tensor,
    data: Tensor,
    structure: Tensor | None,
    source: Tensor,
    direction: Tensor,
    pixels: Tensor | None,
    lengths: Tensor,
    width: int,
    method: str,
    step: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of sum(grad * line_integral) in the sources (B, 3) and the directions (B, 3, 3)."""
    rays = _rays(source, direction, pixels, lengths, width)
    parts = np.zeros((len(source), -(-len(lengths) // RAYS), 3, 4))
    _lean(grad.numpy(), *_volume(data, structure), *rays, METHODS.index(method), step, parts)
    total = torch.from_numpy(parts.sum(1))
    return total[:, :, 3].clone(), total[:, :, :3].clone()


def _volume(data, structure):
    """The voxels in a row: half floats as their bits, since Numba has none; other types copied as float32."""
    if data.dtype not in (torch.float16, torch.float32, torch.float64):
        data = data.float()
    flat = data.contiguous().view(-1)
    flat = (flat.view(torch.uint16) if data.dtype == torch.float16 else flat).numpy()
    return flat, None if structure is None else structure.contiguous().view(-1).numpy(), tuple(data.shape)


def _rays(source, direction, pixels, lengths, width):
    """Sources, directions, each ray's place in the results and its pixel in the order of work, lengths."""
    if pixels is None:
        place = pixel = _tiles(len(lengths), width)
    else:
        place, pixel = np.arange(len(pixels), dtype=np.int32), pixels.to(torch.int32).numpy()
    return source.contiguous().numpy(), direction.contiguous().numpy(), place, pixel, lengths.numpy(), width


@lru_cache(maxsize=4)
def _tiles(count, width):
    """All pixels, tile by tile; rows of tiles in an order that gives each thread some from everywhere."""
    i, j = np.divmod(np.arange(count, dtype=np.int32), width)
    row = i // TILE
    return np.lexsort((j, i, j // TILE, row, row % 8)).astype(np.int32)


@njit(**EXACT)
def _lattice(sizes, method):
    """What is added to voxel coordinates so that cells lie between integers; the box of all cells."""
    shift = 0.5 if method == SIDDON else 0.0
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        low[axis], high[axis] = (0.0 if method == SIDDON else -1.0), float(sizes[axis])
    return shift, low, high


@njit(**EXACT)
def _aim(direction, pixel, width, ray):
    """The ray's direction: voxels per mm of depth."""
    i, j = pixel // width, pixel % width
    for axis in range(3):
        ray[axis] = direction[axis, 0] * j + direction[axis, 1] * i + direction[axis, 2]


@njit(parallel=True, **EXACT)
def _render(flat, structure, sizes, source, direction, place, pixel, lengths, width, method, step, image):
    parts = -(-len(place) // RAYS)
    for job in prange(len(source) * parts):
        b, part = job // parts, slice(job % parts * RAYS, (job % parts + 1) * RAYS)
        rays = place[part], pixel[part], lengths, width
        _render_part(flat, structure, sizes, source[b], direction[b], rays, method, step, image[b])


@njit(**EXACT)
def _render_part(flat, structure, sizes, source, direction, rays, method, step, image):
    place, pixel, lengths, width = rays
    shift, low, high = _lattice(sizes, method)
    start, ray, total = source + shift, np.empty(3), np.empty(len(image))
    cells, ends, crossed, nodes = _lists(flat, sizes)
    for o in range(len(place)):
        n, p = place[o], pixel[o]
        _aim(direction, p, width, ray)
        total[:] = 0.0
        if method == SIDDON:
            m = walk(start, ray, low, high, cells, ends, crossed)
            sums.siddon_sum(flat, structure, sizes, ray, cells, ends, m, total)
        else:
            line = start, ray, low, high, step
            begin, end, per = _stretch(line, method, cells, ends, crossed)
            while begin < end:
                m = _list(flat, sizes, line, method, cells, ends, begin, end, nodes)
                sums.interpolant_sum(flat, structure, sizes, nodes, m, per, total)
                begin += m
        for c in range(len(total)):
            image[c, n] = total[c] * lengths[n]


@njit(parallel=True, **EXACT)
def _lean(
    grad, flat, structure, sizes, source, direction, place, pixel, lengths, width, method, step, sum_of
):
    """Sums (3, 4) over the rays of each part: of the slope with depth times (j, i, 1), and of the slope."""
    parts = sum_of.shape[1]
    for job in prange(len(source) * parts):
        b, part = job // parts, slice(job % parts * RAYS, (job % parts + 1) * RAYS)
        rays = place[part], pixel[part], lengths, width
        total = sum_of[b, job % parts]
        _lean_part(grad[b], flat, structure, sizes, source[b], direction[b], rays, method, step, total)


@njit(**EXACT)
def _lean_part(grad, flat, structure, sizes, source, direction, rays, method, step, total):
    place, pixel, lengths, width = rays
    shift, low, high = _lattice(sizes, method)
    start, ray, each, slope = source + shift, np.empty(3), np.empty(len(grad)), np.empty((2, 3))
    cells, ends, crossed, nodes = _lists(flat, sizes)
    for o in range(len(place)):
        n, p = place[o], pixel[o]
        _aim(direction, p, width, ray)
        slope[:] = 0.0
        for c in range(len(each)):
            each[c] = grad[c, n] * lengths[n]
        if method == SIDDON:
            m = walk(start, ray, low, high, cells, ends, crossed)
            sums.siddon_slope(flat, structure, each, sizes, start, ray, cells, ends, crossed, m, slope)
        else:
            line = start, ray, low, high, step
            begin, end, per = _stretch(line, method, cells, ends, crossed)
            while begin < end:
                m = _list(flat, sizes, line, method, cells, ends, begin, end, nodes)
                sums.interpolant_slope(flat, structure, each, sizes, nodes, m, per, slope)
                begin += m
        if structure is None:
            slope *= each[0]
        i, j = p // width, p % width
        for axis in range(3):
            total[axis, 0] += slope[1, axis] * j
            total[axis, 1] += slope[1, axis] * i
            total[axis, 2] += slope[1, axis]
            total[axis, 3] += slope[0, axis]


@njit(parallel=True, **EXACT)
def _weigh(
    grad, gradient, structure, sizes, source, direction, place, pixel, lengths, width, method, step, axis
):
    """Add every ray's weights to the voxels. Even layers and odd ones take turns: neighbours share voxels."""
    first = 0 if method == SIDDON else -1
    layers = max(1, min(LAYERS, (sizes[axis] - first) // 2))
    for turn in range(2):
        for job in prange((layers - turn + 1) // 2):
            layer, cut = 2 * job + turn, sizes[axis] - first
            within = axis, first + cut * layer // layers, first + cut * (layer + 1) // layers
            rays = place, pixel, lengths, width
            for b in range(len(source)):
                _weigh_layer(
                    grad[b], gradient, structure, sizes, source[b], direction[b], rays, method, step, within
                )


@njit(**EXACT)
def _weigh_layer(grad, gradient, structure, sizes, source, direction, rays, method, step, within):
    place, pixel, lengths, width = rays
    shift, low, high = _lattice(sizes, method)
    low[within[0]], high[within[0]] = within[1], within[2]  # of one layer alone
    start, ray, each = source + shift, np.empty(3), np.empty(len(grad))
    cells, ends, crossed, nodes = _lists(gradient, sizes)
    for o in range(len(place)):
        n, p = place[o], pixel[o]
        _aim(direction, p, width, ray)
        for c in range(len(each)):
            each[c] = grad[c, n] * lengths[n]
        if method == SIDDON:
            m = walk(start, ray, low, high, cells, ends, crossed)
            sums.siddon_spread(gradient, structure, each, sizes, ray, cells, ends, m)
        else:
            line = start, ray, low, high, step
            begin, end, per = _stretch(line, method, cells, ends, crossed)
            while begin < end:
                m = _list(gradient, sizes, line, method, cells, ends, begin, end, nodes)
                sums.interpolant_spread(gradient, structure, each, sizes, nodes, m, per)
                begin += m


@njit(**EXACT)
def _lists(flat, sizes):
    """Room for the longest walk, which crosses at most 3 cells in each layer, and for some of its nodes."""
    most = 3 * (max(sizes) + 2)
    cells, ends, crossed = np.empty((3, most), np.int32), np.empty(most + 1), np.empty(most + 1, np.int8)
    return cells, ends, crossed, room_for_nodes(flat)


@njit(**EXACT)
def _stretch(line, method, cells, ends, crossed):
    """Walk, or see which samples a march takes: the first, one after the last, how many nodes to a cell."""
    source, ray, low, high, step = line
    if method == TRILINEAR:
        return 0, walk(source, ray, low, high, cells, ends, crossed), 2
    begin, end = samples(source, ray, low, high, step)
    return begin, end, 1


@njit(**EXACT)
def _list(flat, sizes, line, method, cells, ends, begin, end, nodes):
    """List the nodes from cell `begin` on, as far as there is room; how many cells they lie in."""
    source, ray, low, high, step = line
    end = min(begin + NODES, end)
    if method == TRILINEAR:
        gauss_nodes(flat, sizes, source, ray, cells, ends, begin, end, nodes)
    else:
        march_nodes(flat, sizes, source, ray, low, high, begin, end, step, nodes)
    return end - begin
