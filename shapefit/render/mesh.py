"""Meshes seen by X-rays: path lengths and depth ranges, in mm, differentiable in everything."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.camera import Camera, homogeneous_pixels, ray_lengths
from shapefit.interop import accepts_foreign
from shapefit.render._ops import chosen_twin, depth_range, signed_depth


@accepts_foreign
def render_mesh(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None = None,
    structures: int | None = None,
    backend: str = "auto",
) -> Float[Tensor, "B S H W"]:
    """Length of every detector ray inside each closed structure of a mesh, in mm.

    Vertices are in world mm; faces wind counter-clockwise seen from outside; `structure` numbers
    the bone of each face from 0 (one channel each; one in all if absent), `structures` says how many
    there are (otherwise they are counted, which torch.compile cannot). Where parts of one structure
    overlap, their lengths add; a structure wound inside out counts negative. The image has the dtype
    of the vertices (at least float32); geometry is worked out in float64.
    Raises ValueError for an open structure, a vertex at or behind the source, one that is not finite,
    faces without vertices or structure, and an unknown backend ('auto', 'torch', 'numba', 'triton').
    Method: Shetty et al. 2021, arXiv:2102.02912; signed hits as in Freud et al. 2006 (L-buffer).
    """
    scene, dtype, twin = _prepare(vertices, faces, camera_from_world, camera, structure, structures, backend)
    points, faces, structure, count = scene
    return signed_depth(points, faces, structure, ray_lengths(camera, dtype, points.device), count, twin)


@accepts_foreign
def render_depths(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None = None,
    structures: int | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B S H W"], Float[Tensor, "B S H W"]]:
    """Depth (camera z, mm) of each ray's first entry into and last exit from each structure.

    Both are 0 where the ray misses. Arguments and errors are those of `render_mesh`. The camera
    point at pixel (i, j) and depth z is z K^-1 (j, i, 1).
    """
    scene, dtype, twin = _prepare(vertices, faces, camera_from_world, camera, structure, structures, backend)
    depths, _ = depth_range(*scene, camera.height, camera.width, dtype, twin)
    return depths[0], depths[1]


def _prepare(vertices, faces, camera_from_world, camera, structure, structures, backend):
    twin = chosen_twin(backend, vertices.device)
    structure, structures = numbered(faces, structure, structures)
    # in float64 also because autocast leaves it alone
    points = homogeneous_pixels(camera, camera_from_world.double(), vertices.double())
    dtype = torch.promote_types(vertices.dtype, torch.float32)
    return (points, faces, structure, structures), dtype, twin


def numbered(
    faces: Int[Tensor, "F 3"], structure: Int[Tensor, "F"] | None, structures: int | None = None
) -> tuple[Int[Tensor, "F"], int]:
    """The structure of each face, 0 if none is given, and how many there are, counted if not given."""
    if structure is None:
        return torch.zeros(len(faces), dtype=torch.int64, device=faces.device), structures or 1
    if structures is None:
        structures = int(structure.max()) + 1 if len(structure) else 1
    return structure, structures
