"""Small shaded pictures of bones, at a stated scale: quick enough for hundreds of cases."""

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from PIL import Image
from scipy import ndimage
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.mesh import boundary_edges
from shapefit.orientation import areas, cones, pieces
from shapefit.render import render_depths
from shapefit.report.colours import rgb
from shapefit.volume import Volume

ALERT = "#D3122A"  # of pieces that stand apart
_GRID = 1.0  # mm between the samples that the surface of a label is cut from, unless its voxels are larger
_AWAY = 20.0  # distance of the source, in sizes of the case: the picture is all but orthographic
_FINE = 2  # drawn so many times larger, then averaged
_SOFT = 2.2  # of those pixels: smoothing of the depth, against facets and stairs
_LIGHT = np.array([-0.42, -0.5, 0.76])  # from the viewer's upper left; columns, rows, towards the viewer
_COARSE = 4  # pixels per block where it is looked for hollows
_HOLLOW = 12.0  # mm, size of the hollows that are darkened

Painted = list[tuple[trimesh.Trimesh, str]]
"""Surfaces in world mm and their colours."""


class Thumbnail(NamedTuple):
    """A picture with its scale."""

    data: bytes  # WebP with transparency
    width: float  # mm
    height: float


def painted_labels(
    labels: Volume, structures: Mapping[str, int], colours: Mapping[str, str], island: float
) -> Painted:
    """Light surfaces of labels, for display; pieces of more than `island` mm^3 beside the largest in red."""
    array = labels.data.cpu().numpy()
    boxes = ndimage.find_objects(array)
    painted = []
    for name, label in structures.items():
        if label > len(boxes) or boxes[label - 1] is None:
            continue
        box = boxes[label - 1]
        inside = array[box] == label
        start = np.array([side.start for side in box])
        parts, _ = ndimage.label(inside, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        apart = np.flatnonzero(sizes * labels.voxel_volume > island) + 1
        apart = apart[apart != sizes.argmax() + 1]
        if len(apart):
            stray = np.isin(parts, apart)
            painted.append((_surface(stray, start, labels), ALERT))
            inside &= ~stray
        painted.append((_surface(inside, start, labels), colours[name]))
    return painted


def painted_meshes(
    surfaces: Mapping[str, trimesh.Trimesh], colours: Mapping[str, str], island: float
) -> Painted:
    """Meshes, open ones too; closed pieces of more than `island` mm^3 beside the largest are red."""
    painted = []
    for name, mesh in surfaces.items():
        points, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        if boundary_edges(triangles):
            # with its own back every surface is closed, and seen from both sides
            triangles = np.concatenate([triangles, triangles[:, ::-1]])
        else:
            piece = pieces(triangles)
            apart = np.abs(np.bincount(piece, cones(points, triangles))) > island
            apart[np.bincount(piece, areas(points, triangles)).argmax()] = False
            if apart.any():
                painted.append((trimesh.Trimesh(points, triangles[apart[piece]], process=False), ALERT))
                triangles = triangles[~apart[piece]]
        used, local = np.unique(triangles, return_inverse=True)
        mesh = trimesh.Trimesh(points[used], local.reshape(-1, 3), process=False)
        painted.append((mesh, colours[name]))
    return painted


def thumbnail(painted: Painted, view: str, pixel: float) -> Thumbnail:
    """Bones as seen in a standard view ("ap", "lateral", ...), `pixel` mm per pixel.

    Raises ValueError where there is nothing to see, and as `render_depths`.
    """
    if not painted:
        raise ValueError("there is nothing to draw")
    paints = list(dict.fromkeys(colour for _, colour in painted))
    counts = np.cumsum([0] + [len(mesh.vertices) for mesh, _ in painted])
    vertices = np.concatenate([np.asarray(mesh.vertices, dtype=np.float64) for mesh, _ in painted])
    faces = np.concatenate(
        [np.asarray(m.faces, dtype=np.int64) + n for (m, _), n in zip(painted, counts, strict=False)]
    )
    paint = np.concatenate([np.full(len(mesh.faces), paints.index(colour)) for mesh, colour in painted])
    low, high = bounds(painted)
    across = 1 if view.startswith("lateral") else 0
    width, height = (int(np.ceil((high - low)[k] * (1 + 1 / _AWAY) / pixel)) + 4 for k in (across, 2))
    away = _AWAY * float((high - low).max())
    fine = pixel / _FINE
    camera = Camera(away, fine, fine, 0.0, 0.0, height * _FINE, width * _FINE)
    pose = world_from_view(view, torch.from_numpy((low + high) / 2), away)
    entry, _ = render_depths(
        torch.from_numpy(vertices)[None], torch.from_numpy(faces), se3.inverse(pose)[None], camera,
        torch.from_numpy(paint), len(paints),
    )  # fmt: skip
    depths = entry[0].numpy()
    depths[depths <= 0] = np.inf
    colours = np.array([rgb(colour) for colour in paints]) / 255.0
    picture = _shaded(depths.min(0), depths.argmin(0), colours, fine)
    picture = picture.reshape(height, _FINE, width, _FINE, 4).mean((1, 3))
    picture[..., :3] /= np.maximum(picture[..., 3:], 1e-6)
    out = io.BytesIO()
    levels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(levels, "RGBA").save(out, "WEBP", quality=78, method=4, alpha_quality=60)
    return Thumbnail(out.getvalue(), width * pixel, height * pixel)


def bounds(painted: Painted) -> tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]:
    """Lowest and highest coordinates of all vertices, mm."""
    return tuple(
        ends([ends(np.asarray(mesh.vertices), axis=0) for mesh, _ in painted], axis=0)
        for ends in (np.min, np.max)
    )


def _surface(inside: Bool[ndarray, "I J K"], start: Int[ndarray, " 3"], labels: Volume) -> trimesh.Trimesh:
    """The surface of some voxels, in mm; `start` is the first of them in the grid."""
    spacing = labels.spacing.cpu().numpy()
    steps = np.maximum(1, np.round(_GRID / spacing)).astype(int)
    field = np.pad(inside, [(2 * s, 2 * s + (-n) % s) for n, s in zip(inside.shape, steps, strict=True)])
    blocks = [size for n, s in zip(field.shape, steps, strict=True) for size in (n // s, s)]
    field = field.reshape(blocks).mean((1, 3, 5), dtype=np.float32)
    smooth = gaussian_filter(field, 0.8, truncate=2.5)
    # walls as thin as a voxel stay whole: a hole in the picture is one in the label
    np.maximum(smooth, 0.52, out=smooth, where=field >= 0.5)
    level = min(0.5, float(smooth.max()) / 2)
    vertices, faces, _, _ = marching_cubes(smooth, level, allow_degenerate=False)
    affine = labels.world_from_voxel.cpu().numpy()
    voxels = vertices * steps + (steps - 1) / 2 - 2 * steps + start
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    turned = np.linalg.det(affine[:3, :3]) > 0  # marching cubes winds inwards where the axes are right-handed
    return trimesh.Trimesh(world, faces[:, ::-1] if turned else faces, process=False)


def _shaded(
    depth: Float[ndarray, "H W"], paint: Int[ndarray, "H W"], paints: Float[ndarray, "P 3"], pixel: float
) -> Float[ndarray, "H W 4"]:
    """Colours, times alpha: lit from the upper left, darker in hollows (unsharp depth, Luft et al. 2006)."""
    seen = np.isfinite(depth)
    weight = seen.astype(np.float32)
    z = np.where(seen, depth, 0.0).astype(np.float32)
    smooth = gaussian_filter(z, _SOFT, truncate=2.5) / np.maximum(
        gaussian_filter(weight, _SOFT, truncate=2.5), 1e-6
    )
    smooth = np.where(seen, smooth, z.max(initial=0.0) + 30.0)
    rows, columns = np.gradient(smooth, pixel)
    lit = np.clip(
        (_LIGHT[0] * columns + _LIGHT[1] * rows + _LIGHT[2]) / np.sqrt(columns**2 + rows**2 + 1), 0, 1
    )
    around = _enlarged(
        gaussian_filter(_reduced(z), _HOLLOW / 2 / pixel / _COARSE, truncate=2.5)
        / np.maximum(gaussian_filter(_reduced(weight), _HOLLOW / 2 / pixel / _COARSE, truncate=2.5), 1e-6),
        z.shape,
    )
    hollow = np.clip((around - z) / _HOLLOW, -1.0, 0.35)
    light = (0.36 + 0.78 * lit) * (1 + 0.45 * hollow)
    base = paints[paint]
    colour = base * np.minimum(light, 1.0)[..., None]
    colour += (1 - base) * np.clip(light - 1.0, 0, 1)[..., None] + 0.10 * (lit**24)[..., None]
    return np.concatenate([np.clip(colour, 0, 1) * weight[..., None], weight[..., None]], -1)


def _reduced(values: Float[ndarray, "H W"]) -> Float[ndarray, "M N"]:
    """Means of blocks of pixels."""
    rows, columns = values.shape
    padded = np.pad(values, [(0, -rows % _COARSE), (0, -columns % _COARSE)], mode="edge")
    height, width = padded.shape
    return padded.reshape(height // _COARSE, _COARSE, width // _COARSE, _COARSE).mean((1, 3))


def _enlarged(values: Float[ndarray, "M N"], shape: tuple[int, int]) -> Float[ndarray, "H W"]:
    """Blocks spread over their pixels again, linearly between."""
    size = values.shape[1] * _COARSE, values.shape[0] * _COARSE
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))[: shape[0], : shape[1]]
