"""What must hold of a mesh before it is rendered; quick enough to be asked every time."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from shapefit.mesh import boundary_edges

NEAREST = 1e-3  # mm from the plane of the source
FARTHEST = 1e15  # of a homogeneous pixel coordinate: beyond it, arithmetic could overflow


def require_renderable(points: Tensor, faces: Tensor, structure: Tensor, count: int) -> None:
    """Raise ValueError unless each structure is closed and all of it lies in front of the source."""
    if len(faces) == 0:
        raise ValueError("the mesh has no faces")
    if len(structure) != len(faces):
        raise ValueError(f"structure numbers {len(structure)} faces, and the mesh has {len(faces)}")
    unpaired, first, last, lowest, highest = _audit(faces, structure)
    if first < 0 or last >= points.shape[1]:
        raise ValueError(f"faces name vertices {first} to {last}, and the mesh has {points.shape[1]}, from 0")
    if lowest < 0 or highest >= count:
        raise ValueError(
            f"faces are of structures {lowest} to {highest}; expected 0 to {count - 1} (structures={count})"
        )
    if unpaired:
        for s in structure.unique().tolist():
            if edges := boundary_edges(faces[structure == s]):
                name = "the mesh" if count == 1 else f"structure {s}"
                raise ValueError(
                    f"{name} is not closed: {edges} boundary edges; its X-ray is not defined, see repair_mesh"
                )
    low, high = points.aminmax()
    nearest = points[..., 2].amin()
    low, high, nearest = torch.stack([low, high, nearest]).tolist()
    if not max(-low, high) < FARTHEST:
        bad = int((~(points.abs() < FARTHEST)).any(-1).sum())
        raise ValueError(f"{bad} projected vertices are not finite: see the vertices, the poses, the camera")
    if nearest < NEAREST:
        behind = int((points[..., 2] < NEAREST).sum())
        raise ValueError(
            f"{behind} vertices lie at or behind the X-ray source, by up to {max(0.0, -nearest):.1f} mm; "
            "the whole mesh must lie in front of it: see the pose, or cut the mesh"
        )


def _audit(faces: Tensor, structure: Tensor) -> tuple[bool, int, int, int, int]:
    """Whether edges lack partners; the extreme vertices; the extreme structures.

    Every directed edge a -> b adds +h, its opposite b -> a adds -h, h being 64 scrambled bits of (a, b,
    structure): the sum is 0 if all are paired, and otherwise with a chance of 2^-64.
    """
    if faces.device.type == "cpu":
        total, *extremes = _sum_edges(faces.numpy(), structure.numpy())
        return (total != 0, *extremes)
    return _audit_anywhere(faces, structure)


def _audit_anywhere(faces: Tensor, structure: Tensor) -> tuple[bool, int, int, int, int]:
    """The same in torch, for other devices."""
    start = faces.long()
    end = start.roll(-1, 1)
    key = _mixed((torch.minimum(start, end) << 32) + torch.maximum(start, end))
    total = (torch.sign(end - start) * _mixed(key + structure[:, None])).sum()
    found = torch.stack([total, *start.aminmax(), *structure.long().aminmax()]).tolist()
    return (found[0] != 0, *found[1:])


def _mixed(x: Tensor) -> Tensor:
    """A one-to-one scramble of 64-bit numbers in two multiply-and-fold rounds, as in splitmix64."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 31)


@njit(parallel=True, cache=True)
def _sum_edges(faces, structure):
    total = np.uint64(0)
    first, last, lowest, highest = faces[0, 0], faces[0, 0], structure[0], structure[0]
    for f in prange(len(faces)):
        lowest, highest = min(lowest, structure[f]), max(highest, structure[f])
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            first, last = min(first, a), max(last, a)
            x = (np.uint64(min(a, b)) << np.uint64(32)) + np.uint64(max(a, b))
            x = _scrambled(_scrambled(x) + np.uint64(structure[f]))
            total += x if a < b else np.uint64(0) - x if b < a else np.uint64(0)
    return total, first, last, lowest, highest


@njit(forceinline=True)
def _scrambled(x):
    """The same scramble on unsigned numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
