"""Voxel arrays as such: in pieces, in blocks, their boxes, and one looked up from another's voxels."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float64, Num, UInt8
from torch import Tensor
from torch.nn.functional import pad

PIECE = 2**20  # voxels worked on together, so that work on a volume needs no second volume


def pieces(array: Tensor) -> tuple[Tensor, ...]:
    """Views of an array along its first axis, of about a million elements each, or of one row."""
    return array.split(max(1, PIECE // max(1, array[0].numel())))


def block_mean(
    data: Num[Tensor, "I J K"], factors: tuple[int, int, int], outside: float = 0.0
) -> Num[Tensor, "I2 J2 K2"]:
    """Mean over blocks of voxels; what the last blocks lack counts as `outside`. Floats keep their type.

    Means are taken in float32 at least. Differentiable.
    """
    dtype = data.dtype if data.is_floating_point() else torch.float32
    work = torch.promote_types(dtype, torch.float32)
    means = (block.to(work).mean(-1) for block in _blocks(data, factors, outside))
    return _assembled(means, data, factors, dtype)


def block_mode(data: UInt8[Tensor, "I J K"], factors: tuple[int, int, int]) -> UInt8[Tensor, "I2 J2 K2"]:
    """The value of most voxels in each block, the smaller one where two are level; what lacks is 255."""
    modes = (torch.mode(block, -1).values for block in _blocks(data, factors, 255))
    return _assembled(modes, data, factors, torch.uint8)


def _assembled(
    rows: Iterator[Tensor], data: Tensor, factors: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    # filled as it comes: results kept beside temporaries would leave holes in memory, and more than double it
    shape = [-(-size // factor) for size, factor in zip(data.shape, factors, strict=True)]
    whole = torch.empty(shape, dtype=dtype, device=data.device)
    at = 0
    for part in rows:
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _blocks(data: Tensor, factors: tuple[int, int, int], outside: float | int) -> Iterator[Tensor]:
    """(rows, J2, K2, voxels of a block), rows of blocks at a time."""
    lacking = [-size % factor for size, factor in zip(data.shape, factors, strict=True)]
    rows = factors[0] * max(1, PIECE // max(1, data[0].numel() * factors[0]))
    for piece in data.split(rows):
        here = -len(piece) % factors[0]
        full = pad(piece, (0, lacking[2], 0, lacking[1], 0, here), value=outside)
        for axis in (2, 1, 0):
            full = full.unflatten(axis, (-1, factors[axis]))
        yield full.permute(0, 2, 4, 1, 3, 5).flatten(3)


def box_above(data: Num[Tensor, "I J K"], threshold: float) -> tuple[list[int], list[int]] | None:
    """First and last index, along each axis, of the voxels above a threshold; None if there are none."""
    rows: list[Bool[Tensor, " I"]] = []
    planes = torch.zeros(data.shape[1:], dtype=torch.bool, device=data.device)
    for piece in pieces(data.detach()):
        above = piece > threshold
        rows.append(above.flatten(1).any(1))
        planes |= above.any(0)
    marks = (torch.cat(rows), planes.any(1), planes.any(0))
    if not marks[0].any():
        return None
    found = [mark.nonzero()[:, 0] for mark in marks]
    return [int(index[0]) for index in found], [int(index[-1]) for index in found]


def nearest(
    data: Num[Tensor, "I J K"],
    index_from_index: Float64[Tensor, "4 4"],
    shape: tuple[int, int, int],
    outside: int,
) -> Iterator[Num[Tensor, "N J2 K2"]]:
    """Values at another grid's voxels by nearest voxel, in pieces along its first axis, or `outside`."""
    rows = max(1, PIECE // (shape[1] * shape[2]))
    where = index_from_index.to(data.device)
    size = torch.tensor(data.shape, device=data.device)
    for first in range(0, shape[0], rows):
        axes = (range(first, min(first + rows, shape[0])), range(shape[1]), range(shape[2]))
        steps = [torch.tensor(list(axis), dtype=torch.float64, device=data.device) for axis in axes]
        i, j, k = (step[:, None] * where[:3, n] for n, step in enumerate(steps))
        place = i[:, None, None] + j[None, :, None] + k[None, None] + where[:3, 3]
        at = torch.floor(place + 0.5).long()
        inside = ((at >= 0) & (at < size)).all(-1)
        at = torch.where(inside[..., None], at, 0)
        found = data[at[..., 0], at[..., 1], at[..., 2]]
        yield torch.where(inside, found, torch.full_like(found, outside))
