"""A voxel grid placed in the world."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Num, UInt8
from torch import Tensor

NO_STRUCTURE = 255  # number of a voxel that belongs to none
_SLAB = 2**22  # voxels looked at together, so that checks need no second volume


@dataclass(frozen=True)
class Volume:
    """Values on a voxel grid and the map from voxel indices to world mm (RAS).

    `data` is indexed as nibabel does, (i, j, k); voxel centres are integers and
    `world = world_from_voxel @ (i, j, k, 1)`. The map may rotate, stretch, shear and flip. Data are floats of
    16, 32 or 64 bits, or whole numbers. `structure` numbers the structure that each voxel belongs to, from 0
    in the order of `names`, 255 where it is in none; a volume without it is one structure.
    Raises ValueError for data that is not 3-D, is empty or not finite, for an affine that is not a finite,
    invertible 4x4 with last row 0 0 0 1, and for structures of another shape, device or type, without a name
    each, or whose names repeat.
    """

    data: Num[Tensor, "I J K"]
    world_from_voxel: Float64[Tensor, "4 4"]
    structure: UInt8[Tensor, "I J K"] | None = None  # from 0; 255: in none
    names: tuple[str, ...] = ()  # of the structures

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"a volume needs 3 axes, got {self.data.ndim} (shape {tuple(self.data.shape)})")
        if self.data.numel() == 0:
            raise ValueError(f"a volume needs at least one voxel, got shape {tuple(self.data.shape)}")
        if self.data.is_complex() or self.data.dtype == torch.bool:
            raise ValueError(f"a volume holds floats or whole numbers, got {self.data.dtype}")
        if self.data.is_floating_point():
            _require_finite(self.data.detach())
        _require_affine(self.world_from_voxel)
        self._require_structures()

    def _require_structures(self) -> None:
        if self.structure is None:
            if len(self.names) > 1:
                raise ValueError(
                    f"{len(self.names)} names ({', '.join(self.names)}) but no structure of the voxels"
                )
            return
        if self.structure.dtype != torch.uint8:
            raise ValueError(f"structures are numbered in uint8, got {self.structure.dtype}")
        if self.structure.shape != self.data.shape or self.structure.device != self.data.device:
            raise ValueError(
                f"structures {tuple(self.structure.shape)} on {self.structure.device} do not fit "
                f"data {tuple(self.data.shape)} on {self.data.device}"
            )
        if not 1 <= len(self.names) <= NO_STRUCTURE or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"structures need 1 to {NO_STRUCTURE} names that differ, got {len(self.names)}: {self.names}"
            )
        # in uint8, 255 + 1 is 0: the largest number of a structure, plus 1
        numbers = max(int((slab + 1).max()) for slab in _slabs(self.structure))
        if numbers > len(self.names):
            raise ValueError(
                f"a voxel is in structure {numbers - 1}, but there are {len(self.names)} names from 0 "
                f"({', '.join(self.names)}); {NO_STRUCTURE} says that it is in none"
            )

    @property
    def spacing(self) -> Float64[Tensor, "3"]:
        """Edge lengths of a voxel, mm, along i, j, k."""
        return torch.linalg.vector_norm(self.world_from_voxel[:3, :3], dim=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, mm^3 (positive also for a flipped grid)."""
        return abs(float(torch.linalg.det(self.world_from_voxel[:3, :3])))


def _slabs(array: Tensor) -> tuple[Tensor, ...]:
    return array.split(max(1, _SLAB // max(1, array[0].numel())))


def _require_finite(data: Tensor) -> None:
    low, high = torch.aminmax(data)  # NaN where there is one
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = sum(int((~torch.isfinite(slab)).sum()) for slab in _slabs(data))
        raise ValueError(f"{bad} voxels are NaN or infinite; replace them before use")


def _require_affine(matrix: Tensor) -> None:
    if matrix.shape != (4, 4):
        raise ValueError(f"world_from_voxel must be 4x4, got shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise ValueError("world_from_voxel holds NaN or infinite numbers")
    if not torch.equal(matrix[3], matrix.new_tensor([0.0, 0.0, 0.0, 1.0])):
        raise ValueError(f"the last row of world_from_voxel must be 0 0 0 1, got {matrix[3].tolist()}")
    # relative to the voxel's edges, so that micrometre voxels are as welcome as metre ones
    edges = torch.linalg.vector_norm(matrix[:3, :3], dim=0)
    if (edges == 0).any() or abs(float(torch.linalg.det(matrix[:3, :3] / edges))) < 1e-6:
        raise ValueError(f"world_from_voxel is singular: its voxel axes are {matrix[:3, :3].T.tolist()} mm")
