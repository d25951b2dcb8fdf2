"""How a set of voxels hangs together: parts, tunnels, cavities.

Voxels are closed boxes: two of them that share a corner belong together (26 neighbours), and what is outside
belongs together through faces (6 neighbours).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from scipy import ndimage

_CORNERS = np.ones((3, 3, 3))


class Topology(NamedTuple):
    """The Betti numbers of a set of voxels, with the sizes of its parts and cavities."""

    parts: tuple[int, ...]  # voxels of each connected part, largest first
    tunnels: int  # independent ways through: 1 for a torus, 0 for a ball and for a hollow ball
    cavities: tuple[int, ...]  # voxels of each enclosed void, largest first


def topology(inside: Bool[ndarray, "I J K"]) -> Topology:
    """Parts, tunnels and cavities; tunnels = parts + cavities - Euler characteristic (Euler, Poincare)."""
    parts, count = ndimage.label(inside, _CORNERS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    outside, _ = ndimage.label(~np.pad(inside, 1))
    voids = np.bincount(outside.ravel())
    voids[[0, outside[0, 0, 0]]] = 0
    voids = voids[voids > 0]
    return Topology(
        _largest_first(sizes), count + len(voids) - euler_characteristic(inside), _largest_first(voids)
    )


def euler_characteristic(inside: Bool[ndarray, "I J K"]) -> int:
    """Corners - edges + faces - boxes of the voxels: 1 for a ball, 2 for a hollow one, 0 for a ring."""
    boxes = np.pad(inside, 1)
    x, y, z = (_either(boxes, axis) for axis in range(3))
    faces = _count(x) + _count(y) + _count(z)
    xy = _either(x, 1)
    edges = _count(xy) + _count(_either(x, 2)) + _count(_either(y, 2))
    return _count(_either(xy, 2)) - edges + faces - _count(boxes)


def closed_by_box(inside: Bool[ndarray, "I J K"], reach: tuple[int, int, int]) -> Bool[ndarray, "M N O"]:
    """Morphological closing by a box that reaches so many voxels to either side: narrow tunnels close.

    The result is padded by the reach and one more voxel, so that what closes at the array's border is kept.
    """
    grown = np.pad(inside, [(n + 1, n + 1) for n in reach])
    for axis, n in enumerate(reach):
        grown = _spread(grown, axis, n)
    outside = ~grown
    for axis, n in enumerate(reach):
        outside = _spread(outside, axis, n)
    return ~outside


def _spread(inside: ndarray, axis: int, reach: int) -> ndarray:
    ahead, behind = _shifted(axis)
    for _ in range(reach):
        grown = inside.copy()
        grown[ahead] |= inside[behind]
        grown[behind] |= inside[ahead]
        inside = grown
    return inside


def _either(inside: ndarray, axis: int) -> ndarray:
    """Whether a voxel or its neighbour along an axis is inside: the cells between, which the boxes touch."""
    ahead, behind = _shifted(axis)
    return inside[ahead] | inside[behind]


def _shifted(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the first, and all but the last, along an axis."""
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    return tuple(ahead), tuple(behind)


def _count(flags: ndarray) -> int:
    return int(np.count_nonzero(flags))


def _largest_first(sizes: ndarray) -> tuple[int, ...]:
    return tuple(sorted(map(int, sizes), reverse=True))
