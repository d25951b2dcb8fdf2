"""The volume kernels in plain torch: the reference that the others are held to. Read this one first.

The ray of pixel (i, j) is x(z) = source + z direction (j, i, 1) in voxel coordinates, z >= 0 being depth in
mm. Its integral is a sum over nodes z with weights w, and a method is a rule that chooses them:

- siddon: voxel k fills [k - 1/2, k + 1/2) with a constant. One node in each voxel, w the length in it.
- trilinear: the interpolant through the voxels' centres, 0 from one voxel beyond the outermost. Between two
  planes of centres it is a cubic in z, for which two Gauss points are exact.
- raymarch: the same interpolant at depths (n + 1/2) step, w = step.

Everything is worked out in float64. A ray parallel to an axis crosses none of its planes; a segment
that lies outside the volume meets zeros; nothing is divided by a number that could be 0.
"""

import itertools

import torch
from torch import Tensor

METHODS = ("siddon", "trilinear", "raymarch")
RAYS = 4096  # worked on at a time
GAUSS = 0.5 / 3**0.5  # of a segment's length, from its middle


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
    image = lengths.new_zeros(len(source), count, len(lengths))
    for b, n, _, s, d in _rays(source, direction, pixels, lengths, width):
        nodes, weights = _rule(data, source[b], direction[b], s, d, method, step)
        for index, basis, _ in _basis(data, s + nodes[..., None] * d, method):
            share = weights * basis * data.flatten()[index].double()
            for c in range(count):
                part = share if structure is None else share * (structure.flatten()[index] == c)
                image[b, c, n] += (part.sum(-1) * lengths[n]).to(image.dtype)
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
    gradient = torch.zeros(data.numel(), dtype=torch.float64, device=data.device)
    for b, n, _, s, d in _rays(source, direction, pixels, lengths, width):
        nodes, weights = _rule(data, source[b], direction[b], s, d, method, step)
        each = (grad[b, :, n] * lengths[n]).double()
        for index, basis, _ in _basis(data, s + nodes[..., None] * d, method):
            gradient.index_add_(0, index.flatten(), (_of(each, structure, index) * weights * basis).flatten())
    return gradient.view(data.shape).to(data.dtype)


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
    in_source, in_direction = torch.zeros_like(source), torch.zeros_like(direction)
    for b, n, pixel, s, d in _rays(source, direction, pixels, lengths, width):
        each = (grad[b, :, n] * lengths[n]).double()
        slope = _siddon_slope if method == "siddon" else _interpolant_slope
        along, moment = slope(data, structure, source[b], direction[b], s, d, each, method, step)
        in_source[b] += along.sum(0)
        in_direction[b] += moment.T @ pixel
    return in_source, in_direction


def _rays(source, direction, pixels, lengths, width):
    """View, rays, pixels (j, i, 1), origin (1, 3) and direction (N, 1, 3), a part of the rays at a time."""
    if pixels is None:
        pixels = torch.arange(len(lengths), device=lengths.device)
    for b in range(len(source)):
        for begin in range(0, len(pixels), RAYS):
            n = slice(begin, begin + RAYS)
            i, j = pixels[n].div(width, rounding_mode="floor"), pixels[n] % width
            pixel = torch.stack([j, i, torch.ones_like(i)], 1).double()
            yield b, n, pixel, source[b], (pixel @ direction[b].T)[:, None]


def _rule(data, source, direction, s, d, method, step):
    """Nodes and weights (N, M) of the integral over depth."""
    if method == "raymarch":
        corners = torch.tensor(list(itertools.product(*[(-1.0, float(n)) for n in data.shape]))).to(s)
        reached = torch.linalg.solve(direction, (corners - source).T)[2].clamp(min=0) / step
        nodes = (torch.arange(int(reached.min()), int(reached.max()) + 1).to(s) + 0.5) * step
        return nodes.expand(len(d), -1), torch.full_like(nodes, step).expand(len(d), -1)
    depth, _ = _crossings(data, s, d, method)
    middle, length = (depth[:, 1:] + depth[:, :-1]) / 2, depth.diff()
    if method == "siddon":
        return middle, length
    nodes = torch.cat([middle - GAUSS * length, middle + GAUSS * length], 1)
    return nodes, torch.cat([length, length], 1) / 2


def _crossings(data, s, d, method):
    """Depths at which rays cross the planes between cells, and the source's, in order; their axes."""
    depths, axes = [torch.zeros_like(d[..., 0])], [0]
    for axis, size in enumerate(data.shape):
        first, planes = (-0.5, size + 1) if method == "siddon" else (-1.0, size + 2)
        place = first + torch.arange(planes).to(s)
        parallel = d[..., axis] == 0
        depth = (place - s[axis]) / torch.where(parallel, 1.0, d[..., axis])
        depths.append(torch.where(parallel, 0.0, depth).clamp(min=0))  # what lies behind the source is empty
        axes += [axis] * planes
    depth, order = torch.cat(depths, 1).sort(1)
    return depth, torch.tensor(axes, device=order.device)[order]


def _basis(data, x, method):
    """Of each voxel that has a share in the value at x: flat index, share, and slope of the share (3)."""
    sizes = torch.tensor(data.shape, device=x.device)
    if method == "siddon":
        index, inside = _voxel((x + 0.5).floor(), sizes)
        yield index, inside, None
        return
    for corner in itertools.product((0.0, 1.0), repeat=3):
        upper = torch.tensor(corner).to(x)
        voxel, sign = x.floor() + upper, 2 * upper - 1
        f = 1 - (x - voxel).abs()
        index, inside = _voxel(voxel, sizes)
        slope = sign * torch.stack([f[..., 1] * f[..., 2], f[..., 2] * f[..., 0], f[..., 0] * f[..., 1]], -1)
        yield index, f.prod(-1) * inside, slope * inside[..., None]


def _voxel(place, sizes):
    """Flat index of voxels, 0 for those outside, and whether they are inside, as a number."""
    inside = ((place >= 0) & (place < sizes)).all(-1)
    i, j, k = torch.where(inside[..., None], place, 0.0).long().unbind(-1)
    return (i * sizes[1] + j) * sizes[2] + k, inside.double()


def _of(each, structure, index):
    """The gradient of the channel that voxels belong to: (C, N) -> (N, M)."""
    if structure is None:
        return each[0][:, None]
    channel = structure.flatten()[index].long()
    rays = torch.arange(len(index), device=index.device)[:, None]
    return torch.where(channel < len(each), each[channel.clamp(max=len(each) - 1), rays], 0.0)


def _interpolant_slope(data, structure, source, direction, s, d, each, method, step):
    """Integral over depth of the interpolant's slope, and of depth times slope: (N, 3) each.

    The interpolant is continuous, so that the ends of the segments do not matter; z times its slope is
    a cubic, too, so that the same nodes are exact.
    """
    nodes, weights = _rule(data, source, direction, s, d, method, step)
    along, moment = torch.zeros_like(d[:, 0]), torch.zeros_like(d[:, 0])
    for index, _, slope in _basis(data, s + nodes[..., None] * d, method):
        share = _of(each, structure, index) * weights * data.flatten()[index].double()
        along += (share[..., None] * slope).sum(1)
        moment += ((share * nodes)[..., None] * slope).sum(1)
    return along, moment


def _siddon_slope(data, structure, source, direction, s, d, each, method, step):
    """A border at depth z of plane p on axis a moves by dz/ds_a = -1 / d_a, dz/dd_a = -z / d_a; the
    integral follows by what lies before the border less what lies behind it.
    """
    depth, axis = _crossings(data, s, d, method)
    middle = (depth[:, 1:] + depth[:, :-1]) / 2
    ((index, inside, _),) = _basis(data, s + middle[..., None] * d, method)
    value = _of(each, structure, index) * inside * data.flatten()[index].double()
    jump = -torch.nn.functional.pad(value, (1, 1)).diff()
    component = d[:, 0].gather(1, axis)
    moves = (depth > 0) & (component != 0)
    shift = torch.where(moves, -jump / torch.where(moves, component, 1.0), 0.0)
    along, moment = torch.zeros_like(d[:, 0]), torch.zeros_like(d[:, 0])
    return along.scatter_add(1, axis, shift), moment.scatter_add(1, axis, shift * depth)
