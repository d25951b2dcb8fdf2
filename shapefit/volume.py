"""A voxel grid placed in the world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float64, Num, UInt8
from torch import Tensor

from shapefit.grid import block_mean, block_mode, box_above, nearest, pieces
from shapefit.hounsfield import attenuation_from_hu, water_and_bone

NO_STRUCTURE = 255  # number of a voxel that belongs to none


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
        numbers = max(int((piece + 1).max()) for piece in pieces(self.structure))
        if numbers > len(self.names):
            raise ValueError(
                f"a voxel is in structure {numbers - 1}, but there are {len(self.names)} names from 0 "
                f"({', '.join(self.names)}); {NO_STRUCTURE} says that it is in none"
            )

    @staticmethod
    def from_file(path: str | Path) -> "Volume":
        """Read NIfTI, NRRD or a DICOM series (a folder, or a file of it); see `read_volume`."""
        from shapefit.io.volume import read_volume  # a floor above: a door that is opened when it is used

        return read_volume(path)

    @property
    def spacing(self) -> Float64[Tensor, "3"]:
        """Edge lengths of a voxel, mm, along i, j, k."""
        return torch.linalg.vector_norm(self.world_from_voxel[:3, :3], dim=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, mm^3 (positive also for a flipped grid)."""
        return abs(float(torch.linalg.det(self.world_from_voxel[:3, :3])))

    def to(self, device: torch.device | str) -> "Volume":
        """The same volume on another device."""
        structure = None if self.structure is None else self.structure.to(device)
        return Volume(self.data.to(device), self.world_from_voxel.to(device), structure, self.names)

    def attenuation(
        self,
        energy: float = 60.0,
        threshold: float | None = None,
        padding: float | None = None,
        effective_energy: float = 70.0,
        dtype: torch.dtype = torch.float32,
    ) -> "Volume":
        """Linear attenuation in 1/mm at an energy in keV, of a CT in HU; its line integrals are unitless.

        Air (-1000 HU and below) is exactly 0, 0 HU is water; between, water is scaled, and above it is a
        mixture with cortical bone: see `shapefit.hounsfield`. `effective_energy` in keV is the CT's own.
        `threshold`: HU below which everything counts as air, such as 150 for bone alone; a CT whose soft
        tissue was set to 0 HU needs one above 0. `padding`: HU at and below which voxels lie outside the
        scanner's field of view (such as -2000) and count as air. `dtype`: float32, or float16 for half the
        memory. Not differentiable.
        Raises ValueError for HU above 32000, for HU below -1500 that are not said to be air, and for energies
        outside 10 to 150 keV. An image that is not in HU but lies in that range (windowed to 0 to 255, say)
        cannot be told from one that is.
        """
        data = attenuation_from_hu(self.data, energy, threshold, padding, effective_energy, dtype)
        return replace(self, data=data)

    def water_and_bone(
        self,
        threshold: float | None = None,
        padding: float | None = None,
        effective_energy: float = 70.0,
    ) -> tuple["Volume", "Volume"]:
        """Shares by volume of water and of cortical bone in a CT in HU; their line integrals are mm of each.

        Arguments and errors are those of `attenuation`, whose two parts these are.
        """
        water, bone = water_and_bone(self.data, effective_energy, threshold, padding)
        return replace(self, data=water), replace(self, data=bone)

    def with_structures(self, labels: "Volume", structures: Mapping[str, int]) -> "Volume":
        """The same values, divided into the structures of a label map: a channel each, in that order.

        `structures` maps names to labels; voxels of other labels, or outside the label map, are in none.
        A map on another grid is looked up at each voxel's centre (nearest label).
        Raises ValueError for labels that are not whole numbers, a label that the map does not hold or that
        lies nowhere on this volume, one given to two names, and more than 255 structures.
        """
        if labels.data.is_floating_point():
            raise ValueError(f"labels are whole numbers, got {labels.data.dtype}; read them with read_labels")
        if not 1 <= len(structures) <= NO_STRUCTURE or len(set(structures.values())) != len(structures):
            raise ValueError(f"expected 1 to {NO_STRUCTURE} names with a label each, got {dict(structures)}")
        there = torch.unique(labels.data).tolist()
        for name, label in structures.items():
            if label not in there:
                found = ", ".join(str(value) for value in there if value != 0)
                raise ValueError(f"label {label} ({name}) is not in the label map, which holds {found}")
        label_from_voxel = torch.linalg.solve(labels.world_from_voxel.cpu(), self.world_from_voxel.cpu())
        structure = torch.full(self.data.shape, NO_STRUCTURE, dtype=torch.uint8, device=labels.data.device)
        held: set[int] = set()
        done = 0
        for piece in nearest(labels.data, label_from_voxel, tuple(self.data.shape), outside=0):
            numbers = structure[done : done + len(piece)]
            for number, label in enumerate(structures.values()):
                numbers[piece == label] = number
            held |= set(torch.unique(numbers).tolist())
            done += len(piece)
        for number, (name, label) in enumerate(structures.items()):
            if number not in held:
                raise ValueError(
                    f"label {label} ({name}) lies nowhere on the volume: are both of one patient and frame?"
                )
        return replace(self, structure=structure.to(self.data.device), names=tuple(structures))

    def downsampled(self, factor: int | tuple[int, int, int], outside: float = 0.0) -> "Volume":
        """The mean over blocks of voxels, `factor` along each axis, at the blocks' centres.

        The sum of the values times `voxel_volume` stays. Blocks that reach beyond the last voxels are filled
        up with `outside`: 0 is right for attenuation; HU need -1000. A block belongs to the structure of most
        of its voxels. Whole numbers become float32. Differentiable. Raises ValueError for a factor below 1.
        """
        factors = (factor,) * 3 if isinstance(factor, int) else tuple(factor)
        if len(factors) != 3 or min(factors) < 1:
            raise ValueError(f"factors are whole numbers of voxels from 1, one or three, got {factor}")
        affine = self.world_from_voxel.clone()
        # the centre of the first block, in voxels, is (factor - 1) / 2
        scale = affine.new_tensor(factors)
        affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((scale - 1) / 2)
        affine[:3, :3] = affine[:3, :3] * scale
        structure = None if self.structure is None else block_mode(self.structure, factors)
        return Volume(block_mean(self.data, factors, outside), affine, structure, self.names)

    def cropped(
        self,
        low: Sequence[int] | None = None,
        high: Sequence[int] | None = None,
        threshold: float = 0.0,
        margin: int = 1,
    ) -> "Volume":
        """The part from voxel `low` to before voxel `high`, where it was; a copy.

        Where either is absent, that end is that of the voxels above `threshold`, with a margin in voxels as
        far as the volume goes. With margin 1 and threshold 0 every line integral of an attenuation stays.
        Raises ValueError for an empty part, one that reaches beyond the volume, and if no voxel is above
        the threshold.
        """
        shape = self.data.shape
        if low is None or high is None:
            box = box_above(self.data, threshold)
            if box is None:
                raise ValueError(
                    f"no voxel is above {threshold:g}: the largest is {float(self.data.max()):g}"
                )
            low = [max(0, first - margin) for first in box[0]] if low is None else low
            high = (
                [min(n, last + 1 + margin) for last, n in zip(box[1], shape, strict=True)]
                if high is None
                else high
            )
        if not all(0 <= a < b <= n for a, b, n in zip(low, high, shape, strict=True)):
            raise ValueError(
                f"voxels {tuple(low)} to before {tuple(high)} are no part of {tuple(shape)} voxels"
            )
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        affine = self.world_from_voxel.clone()
        affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ affine.new_tensor(list(low))
        structure = None if self.structure is None else self.structure[part].clone()
        return Volume(self.data[part].clone(), affine, structure, self.names)


def _require_finite(data: Tensor) -> None:
    low, high = torch.aminmax(data)  # NaN where there is one
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = sum(int((~torch.isfinite(piece)).sum()) for piece in pieces(data))
        raise ValueError(f"{bad} voxels are NaN or infinite; replace them before use")


def _require_affine(matrix: Tensor) -> None:
    matrix = matrix.detach()
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
