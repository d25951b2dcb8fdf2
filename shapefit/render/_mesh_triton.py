"""The mesh kernels on the GPU: the formulas of `_mesh_torch`, a block of faces and rows at a time.

A program takes FACES faces, LANES rows of each at once, and walks along the pixels of each row. Results
are the same bits on every run, although programs meet in pixels in any order: depths are summed as
64-bit integers (fixed point), the first and last hits are minima and maxima of integers, and gradients
are summed per face, then per vertex, in one order. Arithmetic is in float64 throughout, and without
fused multiply-adds, so that both faces of an edge agree on it to the last bit.

With TRITON_INTERPRET=1 in the environment the same kernels run on the CPU, slowly: for tests.
"""

import os

import torch
import triton
from torch import Tensor

from shapefit.render import _mesh_triton_kernels as kernels
from shapefit.render._mesh_torch import NEAR_EDGE_ON, UNDERFLOW

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FACES = 256 if INTERPRETED else 8  # faces of a program
LANES = 8  # rows of a face that are worked on side by side
VERTICES = 256  # vertices of a program that gathers gradients
PIXELS = 1024  # pixels of a program that converts images
PROGRAMS = 4 if INTERPRETED else 2048  # fewer than these, and each takes a band of rows only
BITS = 52  # of the fixed point, for the largest depth; the other 11 are room for overlapping parts
ACCUMULATOR = 1 << 24  # pixels summed at a time


def signed_depth(points: Tensor, faces: Tensor, structure: Tensor, count: int, lengths: Tensor) -> Tensor:
    """Depth inside each structure along every pixel's ray, times the pixel's length: (B, S, H, W)."""
    scene, screen, (height, width) = _scene(points, faces, structure), _screen(points), lengths.shape
    scale = torch.ldexp(points.new_ones(()), BITS - torch.frexp(points[..., 2].amax()).exponent)
    image = lengths.new_empty(len(points), count, height, width)
    views = max(1, ACCUMULATOR // (count * height * width))
    for part, out in zip(screen.split(views), image.split(views), strict=True):
        total = torch.zeros(out.shape, dtype=torch.int64, device=points.device)
        grid = _grid(len(part), len(faces), height)
        kernels.sum_depths[grid](
            part, *scene[1:], scale, total, points.shape[1], len(faces), count, height, width,
            FACES, LANES, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        kernels.from_fixed[(triton.cdiv(out.numel(), PIXELS),)](
            total, scale, lengths.contiguous(), out, out.numel(), height * width, PIXELS
        )
    return image


def depth_range(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """First entry and last exit (2, B, S, H, W), 0 where a ray misses, and the face of each, else -1."""
    scene, screen = _scene(points, faces, structure), _screen(points)
    shape = (2, len(points), count, height, width)
    # positive numbers have the order of their bits, taken as integers
    bits = torch.zeros(shape, dtype=torch.int64, device=points.device)
    bits[0] = torch.iinfo(torch.int64).max
    hits = torch.full(shape, len(faces), dtype=torch.int32, device=points.device)
    grid = _grid(len(points), len(faces), height)
    for naming in (False, True):  # the depths, then the first of the faces that have them
        kernels.extreme_depths[grid](
            screen, *scene[1:], bits, hits, points.shape[1], len(faces), count, height, width,
            bits[0].numel(), naming, FACES, LANES, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    missed = bits[1] == 0
    return bits.masked_fill_(missed, 0).view(torch.float64).to(dtype), hits.masked_fill_(missed, -1)


def signed_depth_gradient(
    grad: Tensor, points: Tensor, faces: Tensor, structure: Tensor, lengths: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * signed_depth) in the points."""
    scene = _scene(points, faces, structure)
    return _to_vertices(_corner_sums(grad, lengths, None, scene, _screen(points)), scene)


def depth_range_gradient(
    grad: Tensor, hits: Tensor, points: Tensor, faces: Tensor, structure: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * depths) in the points; `hits` are those of `depth_range`."""
    scene, screen = _scene(points, faces, structure), _screen(points)
    corners = _corner_sums(grad[0], None, hits[0], scene, screen)
    corners += _corner_sums(grad[1], None, hits[1], scene, screen)
    return _to_vertices(corners, scene)


def _scene(points, faces, structure):
    if not (points.is_cuda or INTERPRETED):
        raise ValueError(f"backend 'triton' needs a CUDA device, got tensors on '{points.device}'")
    return points.contiguous(), faces.long().contiguous(), structure.long().contiguous()


def _screen(points):
    """(u z, v z, z) -> (u, v, 1/z), all linear across a face's image.

    Both are rounded to 2^-53: no two differ by less, so that slopes stay finite.
    """
    inverse = 1 / points[..., 2:]
    return torch.cat([(points[..., :2] * inverse + 1) - 1, inverse], -1)


def _grid(batch, faces, height):
    """Programs: blocks of faces, views, and bands of rows where there are too few blocks."""
    blocks = triton.cdiv(faces, FACES)
    bands = max(1, min(PROGRAMS // (blocks * batch), triton.cdiv(height, LANES)))
    return blocks, batch, bands


def _corner_sums(grad, lengths, hit, scene, screen):
    points, faces, structure = scene
    batch, count, height, width = grad.shape
    grid = _grid(batch, len(faces), height)
    corners = points.new_empty(grid[2], batch, len(faces), 3)
    # the one that is not there is not read
    grad, lengths, hit = (x if x is None else x.contiguous() for x in (grad, lengths, hit))
    kernels.sum_corners[grid](
        points, screen, faces, structure, grad, grad if lengths is None else lengths,
        grad if hit is None else hit, corners,
        points.shape[1], len(faces), count, height, width,
        hit is not None, NEAR_EDGE_ON, UNDERFLOW, FACES, LANES, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return corners[0] if grid[2] == 1 else corners.sum(0)


def _to_vertices(corners, scene):
    """Sum over the corners at each vertex, in the order of the faces."""
    points, faces, _ = scene
    batch, count, _ = points.shape
    vertex, corner = faces.flatten().sort(stable=True)
    start = torch.searchsorted(vertex, torch.arange(count + 1, device=vertex.device))
    gradient = torch.empty_like(points)
    kernels.gather_corners[(triton.cdiv(count, VERTICES), batch)](
        corners, points, faces, corner, start, gradient, count, len(faces), VERTICES, enable_fp_fusion=False
    )
    return gradient
