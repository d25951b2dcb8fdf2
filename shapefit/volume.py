"""A voxel grid placed in the world."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Num
from torch import Tensor


@dataclass(frozen=True)
class Volume:
    """Values on a voxel grid and the map from voxel indices to world mm (RAS).

    `data` is indexed as nibabel does, (i, j, k); voxel centres are integers and
    `world = world_from_voxel @ (i, j, k, 1)`. The map may rotate, stretch, shear and flip.
    Raises ValueError for data that is not 3-D, is empty or not finite, and for an affine that is not
    a finite, invertible 4x4 with last row 0 0 0 1.
    """

    data: Num[Tensor, "I J K"]
    world_from_voxel: Float64[Tensor, "4 4"]

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"a volume needs 3 axes, got {self.data.ndim} (shape {tuple(self.data.shape)})")
        if self.data.numel() == 0:
            raise ValueError(f"a volume needs at least one voxel, got shape {tuple(self.data.shape)}")
        if self.data.is_floating_point():
            bad = int((~torch.isfinite(self.data)).sum())
            if bad:
                raise ValueError(f"{bad} voxels are NaN or infinite; replace them before use")
        matrix = self.world_from_voxel
        if matrix.shape != (4, 4):
            raise ValueError(f"world_from_voxel must be 4x4, got shape {tuple(matrix.shape)}")
        if not torch.isfinite(matrix).all():
            raise ValueError("world_from_voxel holds NaN or infinite numbers")
        if not torch.equal(matrix[3], matrix.new_tensor([0.0, 0.0, 0.0, 1.0])):
            raise ValueError(f"the last row of world_from_voxel must be 0 0 0 1, got {matrix[3].tolist()}")
        # relative to the voxel's edges, so that micrometre voxels are as welcome as metre ones
        edges = torch.linalg.vector_norm(matrix[:3, :3], dim=0)
        if (edges == 0).any() or abs(float(torch.linalg.det(matrix[:3, :3] / edges))) < 1e-6:
            raise ValueError(
                f"world_from_voxel is singular: its voxel axes are {matrix[:3, :3].T.tolist()} mm"
            )

    @property
    def spacing(self) -> Float64[Tensor, "3"]:
        """Edge lengths of a voxel, mm, along i, j, k."""
        return torch.linalg.vector_norm(self.world_from_voxel[:3, :3], dim=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, mm^3 (positive also for a flipped grid)."""
        return abs(float(torch.linalg.det(self.world_from_voxel[:3, :3])))
