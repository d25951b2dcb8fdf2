"""How far two closed surfaces are apart: area-uniform, point to triangle, in both directions.

Definitions, for surfaces A and B, with d(a, B) the distance of a point of A to the nearest point of any
triangle of B, and integrals over area (so a fine tessellation weighs no more than a coarse one):

- `assd`, average symmetric surface distance: (int_A d(a, B) + int_B d(b, A)) / (|A| + |B|)
- `hd95`: the larger of the two directed 95th percentiles
- `hausdorff`: the larger of the two directed maxima, over samples and vertices
- `surface_dice_<t>mm`: the share of the two surfaces' area that lies within t mm of the other one
- `volume_dice`: 2 |A and B| / (|A| + |B|) of the voxel centres inside

The first three as in Heimann et al., IEEE TMI 28:1251 (2009); surface Dice as in Nikolov et al.,
JMIR 23:e26151 (2021), on triangles instead of voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from shapefit.mesh import closest_points, sample_surface


@dataclass(frozen=True)
class SurfaceSamples:
    """Points spread over one or more surfaces; `weight` is the area in mm^2 that a point stands for.

    Vertices ride along with weight 0: they count for the maximum, where sharp tips matter, and nothing else.
    """

    point: Float[np.ndarray, "N 3"]
    weight: Float[np.ndarray, " N"]

    def moved(self, matrix: Float[np.ndarray, "4 4"]) -> "SurfaceSamples":
        """The samples after a rigid motion or similarity; areas grow with the square of the scale."""
        scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
        return SurfaceSamples(self.point @ matrix[:3, :3].T + matrix[:3, 3], self.weight * scale**2)

    def where(self, keep: Bool[np.ndarray, " N"]) -> "SurfaceSamples":
        return SurfaceSamples(self.point[keep], self.weight[keep])


def sample(mesh: trimesh.Trimesh, count: int, seed: int) -> SurfaceSamples:
    """`count` area-uniform points of a mesh, then its vertices. Depends on the mesh and the seed alone."""
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    points, _ = sample_surface(vertices, np.asarray(mesh.faces), count, seed)
    weight = np.concatenate([np.full(count, mesh.area / count), np.zeros(len(vertices))])
    return SurfaceSamples(np.concatenate([points, vertices]), weight)


def pool(samples: Sequence[SurfaceSamples]) -> SurfaceSamples:
    """Samples of several surfaces as those of one."""
    return SurfaceSamples(
        np.concatenate([s.point for s in samples]), np.concatenate([s.weight for s in samples])
    )


def join(meshes: Sequence[trimesh.Trimesh]) -> trimesh.Trimesh:
    """Several meshes as one, vertices and faces one after the other."""
    start = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return trimesh.Trimesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + offset for m, offset in zip(meshes, start, strict=False)]),
        process=False,
    )


def distances_to(samples: SurfaceSamples, mesh: trimesh.Trimesh) -> Float[np.ndarray, " N"]:
    """Distance in mm of every sample to the nearest point of a mesh."""
    return closest_points(
        samples.point, np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    ).distance


def distances_to_either(
    samples: SurfaceSamples, known: Float[np.ndarray, " N"], others: Sequence[trimesh.Trimesh]
) -> Float[np.ndarray, " N"]:
    """Distance in mm to the nearest of several meshes, of which one's distances are known.

    Another mesh is asked only about samples that are nearer to its bounding box than known.
    """
    nearest = known.copy()
    for mesh in others:
        low, high = mesh.bounds
        to_box = np.maximum(np.maximum(low - samples.point, samples.point - high), 0)
        near = np.linalg.norm(to_box, axis=1) < nearest
        if near.any():
            nearest[near] = np.minimum(nearest[near], distances_to(samples.where(near), mesh))
    return nearest


def summarise(
    forth: Float[np.ndarray, " N"],
    forth_weight: Float[np.ndarray, " N"],
    back: Float[np.ndarray, " M"],
    back_weight: Float[np.ndarray, " M"],
    tolerances: Sequence[float],
) -> dict[str, float] | None:
    """The distances (mm) of both directions in the figures defined above; None where there is no area at all.

    `forth` runs from the result to the reference, `back` from the reference to the result.
    """
    area = forth_weight.sum() + back_weight.sum()
    if area <= 0:
        return None
    both = np.concatenate([forth, back])
    weight = np.concatenate([forth_weight, back_weight])
    directed = [(d, w) for d, w in ((forth, forth_weight), (back, back_weight)) if w.sum() > 0]
    figures = {
        "assd": float(both @ weight / area),
        "hd95": max(weighted_quantile(d, w, 0.95) for d, w in directed),
        "hausdorff": float(both.max()),
    }
    for tolerance in tolerances:
        figures[f"surface_dice_{tolerance:g}mm"] = float(weight[both <= tolerance].sum() / area)
    return figures


def weighted_quantile(
    values: Float[np.ndarray, " N"], weight: Float[np.ndarray, " N"], quantile: float
) -> float:
    """The smallest value that at least this share of the weight does not exceed."""
    order = np.argsort(values)
    cumulated = np.cumsum(weight[order])
    place = np.searchsorted(cumulated, quantile * cumulated[-1] * (1 - 1e-12))
    return float(values[order[min(place, len(values) - 1)]])


def voxelise(
    meshes: Sequence[trimesh.Trimesh],
    origin: Float[np.ndarray, " 3"],
    shape: tuple[int, int, int],
    voxel: float,
) -> Bool[np.ndarray, "I J K"]:
    """Which voxel centres lie inside at least one of several closed meshes.

    Voxel (i, j, k) has its centre at origin + voxel * (i, j, k), mm. Each column of voxels is a line that
    enters and leaves a mesh; the sum of the signed crossings below a centre is its winding number.
    """
    inside = np.zeros(shape, dtype=bool)
    for mesh in meshes:
        # An odd offset keeps grid lines off vertices and edges of meshes with round coordinates.
        corner = (np.asarray(mesh.vertices) - origin) / voxel + (1.2345e-6, 2.7183e-6, 3.1416e-6)
        a, b, c = (corner[mesh.faces[:, n]] for n in range(3))
        low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c)[:, :2]).astype(int), 0)
        high = np.minimum(
            np.floor(np.maximum(np.maximum(a, b), c)[:, :2]).astype(int), np.array(shape[:2]) - 1
        )
        size = np.maximum(high - low + 1, 0)
        count = size.prod(1)
        face = np.repeat(np.arange(len(count)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        i = low[face, 0] + within // size[face, 1]
        j = low[face, 1] + within % size[face, 1]
        a, b, c = a[face], b[face], c[face]
        weights = [
            (q[:, 0] - i) * (r[:, 1] - j) - (q[:, 1] - j) * (r[:, 0] - i) for q, r in ((b, c), (c, a), (a, b))
        ]
        area = weights[0] + weights[1] + weights[2]
        hit = (area != 0) & np.all([w * area > 0 for w in weights], axis=0)
        height = (weights[0] * a[:, 2] + weights[1] * b[:, 2] + weights[2] * c[:, 2])[hit] / area[hit]
        first = np.clip(np.ceil(height).astype(int), 0, shape[2])  # the first centre above the crossing
        winding = np.zeros((shape[0], shape[1], shape[2] + 1), dtype=np.int8)
        # Going up, a face that looks down (negative area) is an entry.
        np.add.at(winding, (i[hit], j[hit], first), np.where(area[hit] < 0, 1, -1).astype(np.int8))
        inside |= np.cumsum(winding[:, :, :-1], axis=2, dtype=np.int8) > 0
    return inside


def volume_dice(
    result: Sequence[trimesh.Trimesh], reference: Sequence[trimesh.Trimesh], voxel: float
) -> float:
    """Overlap of the insides of two sets of closed meshes on one grid of `voxel` mm; 0 if they are apart."""
    bounds = np.array([mesh.bounds for mesh in (*result, *reference)])
    origin = bounds[:, 0].min(0) - 0.5 * voxel
    i, j, k = (int(n) for n in np.ceil((bounds[:, 1].max(0) - origin) / voxel) + 1)
    if np.any(_gap(result, reference) > 0):  # disjoint boxes need no voxels, however far apart
        return 0.0
    a, b = (voxelise(meshes, origin, (i, j, k), voxel) for meshes in (result, reference))
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 0.0


def _gap(result: Sequence[trimesh.Trimesh], reference: Sequence[trimesh.Trimesh]) -> np.ndarray:
    a, b = (np.array([mesh.bounds for mesh in meshes]) for meshes in (result, reference))
    return np.maximum(b[:, 0].min(0) - a[:, 1].max(0), a[:, 0].min(0) - b[:, 1].max(0))
