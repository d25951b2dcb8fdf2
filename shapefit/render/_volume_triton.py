"""The volume kernels on the GPU: the integrals of `_volume_torch`, a ray a lane, from cell to cell.

Rays are set up in float64; what they sum is float32, compensated, unless the volume is float64. Images and
the rays' gradients are the same bits on every run. The volume's gradient is summed in memory by whichever
ray comes first, so its last bits vary from run to run.

With TRITON_INTERPRET=1 in the environment the same kernels run on the CPU, slowly: for tests.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from shapefit.render import _volume_triton_kernels as kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LANES = 1024 if INTERPRETED else 64  # rays of a program: a tile of the image
COLUMNS = 32 if INTERPRETED else 8
BITS = {torch.float32: 32, torch.float64: 44}  # of the fixed point after a voxel's number
INDEXABLE = (1 << 31) - (1 << 20)  # voxels that 32 bits number, and some beyond the volume


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
    image = lengths.new_empty(len(source), count, len(lengths))
    scene = (data, structure, source, direction, pixels, lengths)
    _launch(kernels.IMAGE, scene, None, image, width, count, method, step)
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
    gradient = lengths.new_zeros(data.shape)
    # its strides stand for those of the volume, which is not read
    scene = (gradient, structure, source, direction, pixels, lengths)
    _launch(kernels.DATA_GRADIENT, scene, grad, gradient, width, grad.shape[1], method, step)
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
    _, tiles = _tiles(pixels, len(lengths), width)
    sums = source.new_empty(len(source), grad.shape[1], tiles, 12)
    scene = (data, structure, source, direction, pixels, lengths)
    _launch(kernels.RAY_GRADIENT, scene, grad, sums, width, grad.shape[1], method, step)
    sums = sums.sum((1, 2))
    return sums[:, :3].clone(), sums[:, 3:].unflatten(1, (3, 3)).clone()


def _tiles(pixels, rays, width):
    """Columns that the rays are laid out in, and tiles that they fill."""
    columns = COLUMNS if pixels is not None else width
    rows = triton.cdiv(rays, columns)
    return columns, triton.cdiv(columns, COLUMNS) * triton.cdiv(rows, LANES // COLUMNS)


def _launch(what, scene, grad, out, width, count, method, step):
    data, structure, source, direction, pixels, lengths = scene
    if not (data.is_cuda or INTERPRETED):
        raise ValueError(f"backend 'triton' needs a CUDA device, got tensors on '{data.device}'")
    columns, tiles = _tiles(pixels, len(lengths), width)
    if tiles * len(source) * count == 0:
        return
    if structure is not None and structure.stride() != data.stride():
        data, structure = data.contiguous(), structure.contiguous()
    listed, labelled = pixels is not None, structure is not None
    extent = sum((n - 1) * stride for n, stride in zip(data.shape, data.stride(), strict=True))
    # the one that is not there is not read
    getattr(kernels, method)[(tiles * len(source), count)](
        data, structure if labelled else data, source.contiguous(), direction.contiguous(),
        pixels.contiguous() if listed else lengths, lengths.contiguous(),
        lengths if grad is None else grad.contiguous(), out,
        len(lengths), columns, tiles, width, *data.shape, *data.stride(),
        torch.full((1,), step, dtype=torch.float64, device=data.device),
        what, listed, labelled, min(BITS[lengths.dtype], 61 - sum(data.shape).bit_length()),
        tl.float64 if lengths.dtype == torch.float64 else tl.float32,
        tl.int64 if extent > INDEXABLE else tl.int32, LANES, COLUMNS,
        num_warps=LANES // 32,
    )  # fmt: skip
