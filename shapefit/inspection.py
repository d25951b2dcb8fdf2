"""What a prepared segmentation is like, in numbers: per structure, of a label map or of meshes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import trimesh
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage

from shapefit.mesh import boundary_edges
from shapefit.orientation import areas, cones, pieces
from shapefit.settings import InspectSettings
from shapefit.surface_distance import voxelise
from shapefit.topology import closed_by_box, topology
from shapefit.volume import Volume

_FLAT = np.cos(np.radians(1.0))  # faces of a cap have its normal within a degree
_LEVEL = 0.3  # mm, and lie as close to the end of the mesh
_FINEST = 400  # voxels along a mesh, at most

Point = tuple[float, float, float]


@dataclass(frozen=True)
class StructureFindings:
    """One structure as it was found; volumes in mm^3, largest first."""

    volume: float  # of all of it, mm^3
    centre: Point  # centroid, RAS mm
    low: Point  # of its bounding box, RAS mm
    high: Point
    islands: tuple[float, ...] = ()  # separate pieces beside the largest
    cavities: tuple[float, ...] = ()  # enclosed voids
    tunnels: int | None = None  # ways through, after narrow ones were closed; None of an open mesh
    border: dict[str, float] = field(default_factory=dict)  # side (R L A P S I) -> mm^2 cut off flat there
    open_edges: int = 0  # of a mesh
    inside_out: bool = False  # of a mesh
    voxels: int | None = None  # of a label map


@dataclass(frozen=True)
class GridFindings:
    """The voxel grid of a label map."""

    shape: tuple[int, int, int]
    spacing: Point  # mm, along i, j, k
    oblique: float  # degrees between the grid's axes and the patient's nearest ones, at most
    sheared: float  # degrees by which two of the grid's axes miss a right angle, at most


@dataclass(frozen=True)
class CaseFindings:
    """A case as it was found."""

    structures: dict[str, StructureFindings]
    missing: tuple[str, ...] = ()  # asked for and not there, or empty
    grid: GridFindings | None = None  # None of meshes
    unexpected: dict[int, int] = field(default_factory=dict)  # label that nobody asked for -> its voxels


def inspect_labels(
    labels: Volume, structures: Mapping[str, int], settings: InspectSettings | None = None
) -> CaseFindings:
    """Findings of a label map; `structures` maps each structure's name to its label.

    Topology is that of closed voxels (26 neighbours); tunnels are counted after a closing by a box as wide
    as `settings.tunnel`. A label that does not occur is `missing`.
    """
    settings = settings or InspectSettings()
    array = labels.data.cpu().numpy()
    boxes = ndimage.find_objects(array)
    found, missing = {}, []
    for name, label in structures.items():
        box = boxes[label - 1] if 0 < label <= len(boxes) else None
        if box is None:
            missing.append(name)
        else:
            found[name] = _of_voxels(array[box] == label, box, labels, settings)
    unexpected = {
        label: int(np.count_nonzero(array[box] == label))
        for label, box in enumerate(boxes, start=1)
        if box is not None and label not in structures.values()
    }
    return CaseFindings(found, tuple(missing), inspect_grid(labels), unexpected)


def inspect_meshes(
    surfaces: Mapping[str, trimesh.Trimesh], settings: InspectSettings | None = None
) -> CaseFindings:
    """Findings of meshes in world mm, which may be open or inside out.

    Tunnels of closed ones are counted in voxels of a third of `settings.tunnel`, as those of a label map.
    """
    settings = settings or InspectSettings()
    return CaseFindings({name: _of_mesh(mesh, settings) for name, mesh in surfaces.items()})


def inspect_grid(labels: Volume) -> GridFindings:
    """Spacing and axes of a grid; flips and permutations of axes are no findings."""
    axes = labels.world_from_voxel[:3, :3].cpu().numpy()
    spacing = np.linalg.norm(axes, axis=0)
    unit = axes / spacing
    angles = np.degrees(np.arccos(np.clip(np.abs(unit.T @ unit)[np.triu_indices(3, 1)], 0, 1)))
    turned = np.degrees(np.arccos(np.clip(np.abs(unit).max(0), 0, 1)))
    return GridFindings(
        tuple(labels.data.shape), tuple(spacing.tolist()), float(turned.max()), float(90 - angles.min())
    )


def _of_voxels(
    inside: Bool[ndarray, "I J K"], box: tuple[slice, ...], labels: Volume, settings: InspectSettings
) -> StructureFindings:
    affine, spacing = labels.world_from_voxel.cpu().numpy(), labels.spacing.cpu().numpy()
    start = np.array([side.start for side in box])
    count = int(np.count_nonzero(inside))
    found = topology(inside)
    tunnels = found.tunnels and _wide_tunnels(inside, spacing, settings)
    weights = [inside.sum(axis=tuple(k for k in range(3) if k != axis)) for axis in range(3)]
    middle = start + [float(w @ np.arange(len(w))) / count for w in weights]
    corners = start + np.indices((2, 2, 2)).reshape(3, 8).T * inside.shape - 0.5
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    unit = labels.voxel_volume
    return StructureFindings(
        volume=count * unit,
        centre=_point(affine[:3, :3] @ middle + affine[:3, 3]),
        low=_point(world.min(0)),
        high=_point(world.max(0)),
        islands=tuple(n * unit for n in found.parts[1:]),
        cavities=tuple(n * unit for n in found.cavities),
        tunnels=tunnels,
        border=_cut(inside, box, labels),
        voxels=count,
    )


def _wide_tunnels(
    inside: Bool[ndarray, "I J K"], spacing: Float[ndarray, " 3"], settings: InspectSettings
) -> int:
    reach = tuple(int(n) for n in np.floor(settings.tunnel / spacing / 2 + 1e-6))
    return topology(closed_by_box(inside, reach)).tunnels


def _cut(inside: Bool[ndarray, "I J K"], box: tuple[slice, ...], labels: Volume) -> dict[str, float]:
    """Area in mm^2 of the structure's voxels in the grid's first and last layers, by the patient's side."""
    axes = labels.world_from_voxel[:3, :3].cpu().numpy()
    found: dict[str, float] = {}
    for axis in range(3):
        nearest = int(np.abs(axes[:, axis]).argmax())
        upward = axes[nearest, axis] > 0
        others = axes[:, [k for k in range(3) if k != axis]]
        face = float(np.linalg.norm(np.cross(others[:, 0], others[:, 1])))
        for end, place in ((0, box[axis].start == 0), (-1, box[axis].stop == labels.data.shape[axis])):
            if place:
                side = "RAS"[nearest] if upward == (end == -1) else "LPI"[nearest]
                found[side] = found.get(side, 0.0) + face * int(np.take(inside, end, axis).sum())
    return found


def _of_mesh(mesh: trimesh.Trimesh, settings: InspectSettings) -> StructureFindings:
    vertices, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    share = areas(vertices, triangles)
    middle = (vertices[triangles].mean(1) * share[:, None]).sum(0) / max(share.sum(), 1e-12)
    edges = boundary_edges(triangles)
    volumes = np.bincount(pieces(triangles), cones(vertices, triangles))
    whole = float(volumes.sum())
    islands, cavities, tunnels = (), (), None
    if edges == 0:
        main = int(np.abs(volumes).argmax())
        others = np.delete(volumes, main) * np.sign(volumes[main])
        islands, cavities = _largest_first(others[others > 0]), _largest_first(-others[others < 0])
        tunnels = _tunnels_of(vertices, triangles if whole > 0 else triangles[:, ::-1], settings)
    return StructureFindings(
        volume=abs(whole),
        centre=_point(middle),
        low=_point(vertices[triangles].min((0, 1))),
        high=_point(vertices[triangles].max((0, 1))),
        islands=islands,
        cavities=cavities,
        tunnels=tunnels,
        border=_caps(vertices, triangles, share),
        open_edges=edges,
        inside_out=bool(edges == 0 and whole < 0),
    )


def _tunnels_of(vertices: ndarray, triangles: ndarray, settings: InspectSettings) -> int:
    low, high = vertices[triangles].min((0, 1)), vertices[triangles].max((0, 1))
    voxel = max(settings.tunnel / 3, float((high - low).max()) / _FINEST)
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel) + 1)
    inside = voxelise([trimesh.Trimesh(vertices, triangles, process=False)], low, shape, voxel)
    return _wide_tunnels(inside, np.full(3, voxel), settings)


def _caps(vertices: ndarray, triangles: ndarray, share: Float[ndarray, " F"]) -> dict[str, float]:
    """Area in mm^2 of faces that end the mesh flat along an axis of the patient, as a cut leaves them."""
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.abs(normals) / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    found = {}
    for axis in range(3):
        heights = corners[..., axis]
        flat = normals[:, axis] > _FLAT
        for side, end in (("LPI"[axis], heights.min()), ("RAS"[axis], heights.max())):
            level = flat & (np.abs(heights - end) < _LEVEL).all(1)
            if level.any():
                found[side] = float(share[level].sum())
    return found


def _point(values: ndarray) -> Point:
    x, y, z = values.tolist()
    return x, y, z


def _largest_first(volumes: ndarray) -> tuple[float, ...]:
    return tuple(sorted(map(float, volumes), reverse=True))
