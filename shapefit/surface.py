"""Label maps -> closed meshes, one per structure."""

from collections.abc import Mapping
from dataclasses import dataclass

import fast_simplification
import numpy as np
import trimesh
from jaxtyping import Bool, Int
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from shapefit.mesh import require_closed
from shapefit.settings import SurfaceSettings
from shapefit.volume import Volume

Surfaces = dict[str, trimesh.Trimesh]
"""Structure name -> closed, outward-wound mesh in world mm (RAS)."""

# marching cubes passes at least this far (in occupancy) from every voxel centre: no degenerate triangles
_CLEARANCE = 0.05
_THIN_CLEARANCE = 0.15  # where the label is one voxel thin, so that walls keep most of their thickness
_BACK_PROJECTIONS = 2


@dataclass(frozen=True)
class SurfaceFindings:
    """What was met, and changed, on the way from one label to its mesh. Volumes in mm^3, largest first."""

    label_volume: float  # of the voxels that the mesh stands for: largest component, cavities filled
    mesh_volume: float
    islands: tuple[float, ...]  # components left out
    holes: tuple[float, ...]  # cavities filled
    cropped: tuple[str, ...]  # sides (R L A P S I) where the structure meets the end of the volume
    faces: int  # of the mesh

    def warnings(self) -> list[str]:
        """The findings that a person should know of, as sentences; empty for a clean label."""
        found = []
        for what, volumes in (("island(s) left out", self.islands), ("cavities filled", self.holes)):
            if volumes:
                found.append(f"{len(volumes)} {what}, {sum(volumes):.0f} mm^3, the largest {volumes[0]:.0f}")
        if self.cropped:
            found.append(
                f"cut by the end of the volume at {', '.join(self.cropped)}; closed there by a flat face"
            )
        return found


def surfaces_from_labels(
    labels: Volume,
    structures: Mapping[str, int],
    settings: SurfaceSettings | None = None,
    name: str = "the label map",
) -> tuple[Surfaces, dict[str, SurfaceFindings]]:
    """One closed, manifold, outward-wound mesh in world mm per structure, and what was found on the way.

    `structures` maps a structure's name to its label. Each structure is surfaced alone: its largest
    component (parts that meet at a voxel's edge are joined), internal cavities filled, closed flat
    where the volume ends. Marching cubes runs on the smoothed occupancy, corrected so that smoothing it
    again gives back the label's (back-projection, Irani and Peleg 1991: keeps the volume and thin
    walls) and held to the label's side at every voxel centre (Whitaker 2000: the surface stays between
    the centres, so neighbours cannot run into each other). Then quadric decimation to `settings.faces`.
    Raises ValueError for a label that does not occur (`name` says in which file), that is 0, or that
    two structures share, and for labels that are not whole numbers.
    """
    settings = settings or SurfaceSettings()
    array = labels.data.cpu().numpy()
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: labels must be whole numbers, got voxels of type {array.dtype}")
    values = list(structures.values())
    if not values:
        raise ValueError("no structure was asked for; name them as in sacrum=1 hip_left=2 hip_right=3")
    if 0 in values or len(set(values)) < len(values):
        raise ValueError(f"each structure needs a label of its own, and not 0, got {dict(structures)}")
    boxes = ndimage.find_objects(array)
    present = [label for label, box in enumerate(boxes, start=1) if box is not None]
    for structure, label in structures.items():
        if label not in present:
            raise ValueError(
                f"{name} has no label {label} ({structure}); its labels are "
                f"{', '.join(map(str, present)) or 'none'}"
            )
    surfaces, findings = {}, {}
    for structure, label in structures.items():
        box = boxes[label - 1]
        cropped = _cropped(box, labels)
        inside, free = array[box] == label, array[box] == 0
        origin = np.array([side.start for side in box])
        surfaces[structure], findings[structure] = _surface(
            inside, free, origin, cropped, labels, settings, f"{structure} of {name}"
        )
    return surfaces, findings


def labels_in(labels: Volume) -> tuple[int, ...]:
    """The labels that occur in a label map, ascending, without 0."""
    array = labels.data.cpu().numpy()
    if array.dtype == np.uint8:
        return tuple((np.flatnonzero(np.bincount(array.ravel(order="K"))[1:]) + 1).tolist())
    return tuple(int(label) for label in np.unique(array) if label != 0)


def is_manifold(faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether every edge lies in exactly two faces."""
    edges = np.sort(np.asarray(faces, dtype=np.int64)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges[:, 0] * (edges.max(initial=0) + 1) + edges[:, 1], return_counts=True)
    return bool((count == 2).all())


def _surface(
    inside: Bool[np.ndarray, "I J K"],
    free: Bool[np.ndarray, "I J K"],
    origin: Int[np.ndarray, "3"],
    cropped: tuple[str, ...],
    labels: Volume,
    settings: SurfaceSettings,
    name: str,
) -> tuple[trimesh.Trimesh, SurfaceFindings]:
    margin = 1 + int(np.ceil(3 * settings.smoothing))  # the smoothing sees background on every side
    inside, islands = _largest_component(np.pad(_bridged(inside, free), margin))
    inside, holes = _fill_cavities(inside)
    # lorensen, not lewiner: on unsmoothed noise the other gives edges to four faces
    vertices, faces, _, _ = marching_cubes(
        _occupancy(inside, settings.smoothing), 0.0, allow_degenerate=False, method="lorensen"
    )
    affine, edge = labels.world_from_voxel.cpu().numpy(), labels.spacing.cpu().numpy()
    # lengths must be true and numbers small for the decimation, which works in float32
    vertices, faces, pieces = _largest_piece(vertices * edge, faces.astype(np.int64))
    vertices, faces = _decimate(vertices, faces, settings.faces)
    vertices = (vertices / edge + origin - margin) @ affine[:3, :3].T + affine[:3, 3]
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if mesh.volume < 0:  # from the order of the axes, or a flipped grid
        mesh = trimesh.Trimesh(vertices, faces[:, ::-1], process=False)
    require_closed(mesh.vertices, mesh.faces, name)
    unit = labels.voxel_volume
    scale = unit / float(np.prod(edge))  # below 1 for a sheared grid
    return mesh, SurfaceFindings(
        label_volume=float(inside.sum()) * unit,
        mesh_volume=float(mesh.volume),
        islands=_largest_first([n * unit for n in islands] + [v * scale for v in pieces if v > 0]),
        holes=_largest_first([n * unit for n in holes] + [-v * scale for v in pieces if v < 0]),
        cropped=cropped,
        faces=len(mesh.faces),
    )


def _largest_first(volumes: list[float]) -> tuple[float, ...]:
    return tuple(sorted(map(float, volumes), reverse=True))


def _cropped(box: tuple[slice, ...], labels: Volume) -> tuple[str, ...]:
    """Sides of the patient at which the structure reaches the last voxel of the grid."""
    sides = []
    for axis in range(3):
        direction = labels.world_from_voxel[:3, axis].cpu().numpy()
        world = int(np.abs(direction).argmax())
        last, first = ("RAS", "LPI") if direction[world] > 0 else ("LPI", "RAS")
        if box[axis].start == 0:
            sides.append(first[world])
        if box[axis].stop == labels.data.shape[axis]:
            sides.append(last[world])
    return tuple(sides)


def _largest_component(inside: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The largest component (voxels that share a corner belong together) and the sizes of the others."""
    components, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count == 1:
        return inside, []
    sizes = np.bincount(components.ravel())[1:]
    kept = int(sizes.argmax())
    return components == kept + 1, np.delete(sizes, kept).tolist()


def _bridged(inside: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The structure with voxels of background added where parts of it touch the largest by an edge alone.

    No surface runs through an edge: without the bridge the tip of a coccyx is lost for one voxel.
    """
    parts, count = ndimage.label(inside)
    if count == 1:
        return inside
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    between = ndimage.binary_dilation(largest) & ndimage.binary_dilation(inside & ~largest)
    return inside | (between & free)


def _fill_cavities(inside: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The structure without its internal cavities, and their sizes. Tunnels stay: they are anatomy."""
    outside, count = ndimage.label(~inside)
    if count == 1:
        return inside, []
    sizes = np.bincount(outside.ravel())
    around = outside[0, 0, 0]  # the margin is background
    sizes[[0, around]] = 0
    return outside != around, sizes[sizes > 0].tolist()


def _occupancy(inside: np.ndarray, smoothing: float) -> np.ndarray:
    """A smooth field, positive inside and negative outside, whose zero surface keeps the label's volume."""
    label = inside.astype(np.float32)
    field = label - 0.5
    if smoothing > 0:
        field = ndimage.gaussian_filter(label, smoothing, truncate=3.0) - 0.5
        # slope of a smoothed plane at its middle: turns the field into a sharp occupancy again
        width = smoothing * float(np.sqrt(2 * np.pi))
        for _ in range(_BACK_PROJECTIONS):
            missing = label - np.clip(field * width + 0.5, 0, 1)
            field += ndimage.gaussian_filter(missing, smoothing, truncate=3.0)
    np.minimum(field, -_CLEARANCE, out=field, where=~inside)
    np.maximum(field, _CLEARANCE, out=field, where=inside)
    np.maximum(field, _THIN_CLEARANCE, out=field, where=_thin(inside))
    return field


def _thin(inside: np.ndarray) -> np.ndarray:
    """Voxels of the structure that lie in no 2 x 2 x 2 block of it."""
    blocks = inside
    for axis in range(3):
        blocks = blocks & np.roll(blocks, -1, axis)  # the margin is background: nothing wraps round
    for axis in range(3):
        blocks = blocks | np.roll(blocks, 1, axis)
    return inside & ~blocks


def _largest_piece(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The connected piece of largest volume, and the volumes of the others: negative for a cavity in it."""
    ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = sparse.coo_matrix((np.ones(len(ends[0])), ends), shape=(len(vertices), len(vertices)))
    count, piece = connected_components(links, directed=False)
    if count == 1:
        return vertices, faces, []
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volumes = np.bincount(piece[faces[:, 0]], weights=(a * np.cross(b, c)).sum(1) / 6, minlength=count)
    kept = int(np.abs(volumes).argmax())
    others = np.delete(volumes, kept) * np.sign(volumes[kept])
    use = piece == kept
    number = np.cumsum(use) - 1
    return vertices[use], number[faces[use[faces[:, 0]]]], others.tolist()


def _decimate(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` faces by quadric error; less decimation where more would break the mesh."""
    centre = vertices.mean(0)
    for aggression, target in ((7, count), (5, count), (5, 2 * count), (3, 4 * count)):
        if target >= len(faces):
            break
        fewer, remaining = fast_simplification.simplify(
            (vertices - centre).astype(np.float32),
            faces.astype(np.int32),
            target_count=target,
            agg=aggression,
        )
        fewer, remaining = fewer.astype(np.float64) + centre, remaining.astype(np.int64)
        if is_manifold(remaining) and len(remaining) >= 4:
            return fewer, remaining
    return vertices, faces
