"""Open meshes -> closed ones: never silently, always with a record of what was changed.

Mended, in this order: vertices that a file holds several times; faces that are flat or doubled; an edge on
which a neighbour has a vertex in between; faces turned against their neighbours; holes; pieces that enclose
nothing; pieces that are inside out. A mesh that is closed already keeps its faces, at most turned. An edge
with four faces is no defect: its rays are counted right.
"""

from dataclasses import dataclass, replace

import numpy as np
import trimesh
from jaxtyping import Shaped
from numpy import ndarray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from shapefit.holes import rims, triangulated, width
from shapefit.interop import accepts_foreign
from shapefit.mesh import as_numpy, boundary_edges, require_closed, require_sound, undirected_edges
from shapefit.orientation import (
    areas,
    cones,
    outward,
    pieces,
    signed_volume,
    wound_alike,
)

_HOLLOW = 1e-6  # a piece whose volume is a smaller part of area^(3/2) encloses nothing; a sphere has 0.094


@dataclass(frozen=True)
class RepairFindings:
    """What was wrong with a mesh, and what was done about it."""

    boundary_edges: int  # before
    merged: int = 0  # vertices that were put together with another one
    removed: int = 0  # faces that were flat, or there twice
    split: int = 0  # edges that were split where a neighbour has a vertex
    turned: int = 0  # faces whose winding was reversed
    holes: tuple[float, ...] = ()  # mm across, of those filled, largest first
    dropped: tuple[float, ...] = ()  # mm^2, of the pieces left out because they enclose nothing
    displacement: float = 0.0  # mm, the farthest that a vertex moved
    area: tuple[float, float] = (0.0, 0.0)  # mm^2, before and after
    volume: tuple[float, float] = (0.0, 0.0)  # mm^3; while a hole is open, as if closed towards the centre

    def warnings(self) -> list[str]:
        """What was done, as sentences; empty for a mesh that was left as it was."""
        found = []
        if self.merged:
            found.append(f"{self.merged} vertices merged, moved by up to {self.displacement:.2g} mm")
        if self.removed:
            found.append(f"{self.removed} flat or doubled faces removed")
        if self.split:
            found.append(f"{self.split} edges split at a neighbour's vertex")
        if self.turned:
            found.append(f"{self.turned} faces turned")
        if self.holes:
            found.append(f"{len(self.holes)} hole(s) filled, the largest {self.holes[0]:.1f} mm across")
        if self.dropped:
            found.append(f"{len(self.dropped)} piece(s) that enclose nothing left out")
        if not found:
            return []
        before, after = self.area
        return [
            f"repaired ({self.boundary_edges} boundary edges): {', '.join(found)}; "
            f"area {before:.0f} -> {after:.0f} mm^2, volume {self.volume[1]:.0f} mm^3"
        ]


@accepts_foreign
def repair_mesh(
    vertices: Shaped[Tensor | ndarray, "V 3"],
    faces: Shaped[Tensor | ndarray, "F 3"],
    name: str = "mesh",
    max_hole: float = 20.0,
    tolerance: float = 1e-3,
) -> tuple[trimesh.Trimesh, RepairFindings]:
    """A closed, outward mesh from an open one (world mm), and what was changed.

    Vertices on open edges are merged within `tolerance` mm; holes of up to `max_hole` mm across are filled
    without new vertices, by a triangulation of smallest area (Barequet and Sharir 1995). Vertices that are
    left keep their order, and a sound mesh stays as it is.
    Raises ValueError, naming the mesh, for a wider hole, a one-sided surface, a mesh that encloses nothing,
    and for what no repair is meant for: no faces, wrong indices, coordinates that are not finite.
    """
    require_sound(vertices, faces, name)
    points, triangles = as_numpy(vertices, np.float64), as_numpy(faces, np.int64)
    before = signed_volume(points, triangles)
    findings = RepairFindings(boundary_edges(triangles), area=(float(areas(points, triangles).sum()),) * 2)
    if findings.boundary_edges or abs(before) < _HOLLOW * findings.area[0] ** 1.5:
        triangles, findings = _closed(points, triangles, findings, name, max_hole, tolerance)
        triangles, findings = _without_hollow_pieces(points, triangles, findings)
        if len(triangles) == 0:
            raise ValueError(f"{name} encloses nothing, so there is nothing to repair")
        used, local = np.unique(triangles, return_inverse=True)
        points, triangles = points[used], local.reshape(-1, 3)
    triangles, inside_out = outward(points, triangles)
    findings = replace(
        findings,
        turned=findings.turned + inside_out,
        area=(findings.area[0], float(areas(points, triangles).sum())),
        volume=(before, signed_volume(points, triangles)),
    )
    require_closed(points, triangles, f"{name}, repaired,")
    return trimesh.Trimesh(points, triangles, process=False), findings


def _closed(
    points: ndarray,
    triangles: ndarray,
    findings: RepairFindings,
    name: str,
    max_hole: float,
    tolerance: float,
) -> tuple[ndarray, RepairFindings]:
    triangles, merged, moved = _merged(points, triangles, tolerance)
    triangles, removed = _without_doubles(triangles)
    triangles, split = _split(points, triangles, tolerance)
    triangles, turned = wound_alike(points, triangles, name)
    holes = []
    patches = [triangles]
    for rim in rims(triangles):
        holes.append(width(points[rim]))
        if holes[-1] <= max_hole:
            patches.append(rim[triangulated(points[rim])])
    if wide := [across for across in holes if across > max_hole]:
        raise ValueError(
            f"{name} has {len(wide)} hole(s) wider than {max_hole:g} mm, the largest {max(wide):.0f} mm: "
            "too much to make up; repair it by hand, or allow more (max_hole, --max-hole)"
        )
    triangles, flaps = _without_flaps(np.concatenate(patches))
    return triangles, replace(
        findings, merged=merged, displacement=moved, removed=removed + flaps, split=split, turned=turned,
        holes=tuple(sorted(holes, reverse=True)),
    )  # fmt: skip


def _merged(points: ndarray, triangles: ndarray, tolerance: float) -> tuple[ndarray, int, float]:
    """Vertices on open edges made one within a tolerance; how many went, and how far the farthest moved."""
    edges, number = undirected_edges(triangles)
    ways = np.bincount(number, np.sign(edges[:, 1] - edges[:, 0]))
    rim = np.unique(edges[ways[number] != 0])
    near = cKDTree(points[rim]).query_pairs(tolerance, output_type="ndarray")
    links = sparse.coo_matrix((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(rim),) * 2)
    count, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    target = np.arange(len(points))
    target[rim] = rim[first[group]]
    moved = np.linalg.norm(points[target[rim]] - points[rim], axis=1)
    return target[triangles], len(rim) - count, float(moved.max(initial=0.0))


def _without_doubles(triangles: ndarray) -> tuple[ndarray, int]:
    """Without faces that use a vertex twice, and each set of three vertices once, whatever its winding."""
    a, b, c = triangles.T
    good = triangles[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(good, axis=1), axis=0, return_index=True)
    return good[np.sort(first)], len(triangles) - len(first)


def _without_flaps(triangles: ndarray) -> tuple[ndarray, int]:
    """Without pairs of faces that are each other's back, as a patch makes on a sheet that stands alone."""
    order = np.sort(triangles, axis=1)
    place = np.argmin(triangles, axis=1)
    rows = np.arange(len(triangles))
    sign = np.where(triangles[rows, (place + 1) % 3] < triangles[rows, (place + 2) % 3], 1, -1)
    _, group = np.unique(order, axis=0, return_inverse=True)
    group = group.reshape(-1)
    keep = np.ones(len(triangles), dtype=bool)
    fronts, backs = (np.bincount(group, sign == s) for s in (1, -1))
    for number in np.flatnonzero((fronts > 0) & (backs > 0)):
        pairs = int(min(fronts[number], backs[number]))
        for s in (1, -1):
            keep[np.flatnonzero((group == number) & (sign == s))[:pairs]] = False
    return triangles[keep], int((~keep).sum())


def _split(points: ndarray, triangles: ndarray, tolerance: float) -> tuple[ndarray, int]:
    """Faces cut where a vertex lies on an edge that has no other face: the neighbour's T-junction."""
    total = 0
    while True:
        edges, number = undirected_edges(triangles)
        single = np.flatnonzero(np.bincount(number)[number] == 1)
        rim = np.unique(edges[single])
        if len(rim) == 0:
            return triangles, total
        a, b = points[edges[single, 0]], points[edges[single, 1]]
        length = np.linalg.norm(b - a, axis=1)
        near = cKDTree(points[rim]).query_ball_point((a + b) / 2, length / 2)
        new: dict[int, ndarray] = {}
        for edge, start, along, size, found in zip(single, a, b - a, length, near, strict=True):
            face, corner = divmod(int(edge), 3)
            between = rim[np.array(found, dtype=np.int64)]
            place = (points[between] - start) @ along / size
            away = np.linalg.norm(points[between] - start - place[:, None] * along / size, axis=1)
            on = (place > tolerance) & (place < size - tolerance) & (away <= tolerance)
            if face in new or not on.any():  # one edge of a face at a time; the loop comes back
                continue
            u, v, w = np.roll(triangles[face], -corner)
            chain = np.array([u, *between[on][np.argsort(place[on])], v])
            fan = np.column_stack([chain[:-1], chain[1:], np.full(len(chain) - 1, w)])
            new[face] = fan[(fan[:, 0] != w) & (fan[:, 1] != w)]
            total += 1
        if not new:
            return triangles, total
        triangles = np.concatenate([np.delete(triangles, list(new), axis=0), *new.values()])


def _without_hollow_pieces(
    points: ndarray, triangles: ndarray, findings: RepairFindings
) -> tuple[ndarray, RepairFindings]:
    piece = pieces(triangles)
    area = np.bincount(piece, areas(points, triangles))
    hollow = np.abs(np.bincount(piece, cones(points, triangles))) < _HOLLOW * area**1.5
    dropped = tuple(sorted(area[hollow].tolist(), reverse=True))
    return triangles[~hollow[piece]], replace(findings, dropped=dropped)
