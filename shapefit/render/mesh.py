"""Meshes seen by X-rays: path lengths and depth ranges, in mm, differentiable in everything."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.camera import Camera, homogeneous_pixels, ray_lengths
from shapefit.interop import accepts_foreign
from shapefit.mesh import boundary_edges
from shapefit.render import _mesh_numba, _mesh_torch

BACKENDS = {"torch": _mesh_torch, "numba": _mesh_numba}


@accepts_foreign
def render_mesh(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None = None,
    backend: str = "auto",
    check: bool = True,
) -> Float[Tensor, "B S H W"]:
    """Length of every detector ray inside each closed structure of a mesh, in mm.

    Vertices are in world mm; faces wind counter-clockwise seen from outside; `structure` numbers
    the bone of each face from 0 (one channel each; one in all if absent). Where parts of one
    structure overlap, their lengths add. `check=False` skips the test for closedness, which takes
    longer than the rendering, in loops over a mesh already checked.
    Raises ValueError for an open mesh, a vertex at or behind the source, or an unknown backend.
    Method: Shetty et al. 2021, arXiv:2102.02912; signed hits as in Freud et al. 2006 (L-buffer).
    """
    kernel, points, structure, count = _prepare(
        vertices, faces, camera_from_world, camera, structure, backend, check
    )
    depth = kernel.signed_depth(points, faces, structure, count, camera.height, camera.width)
    return depth * ray_lengths(camera, depth.dtype, depth.device)


@accepts_foreign
def render_depths(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    structure: Int[Tensor, "F"] | None = None,
    backend: str = "auto",
    check: bool = True,
) -> tuple[Float[Tensor, "B S H W"], Float[Tensor, "B S H W"]]:
    """Depth (camera z, mm) of each ray's first entry into and last exit from each structure.

    Both are 0 where the ray misses. Arguments and errors are those of `render_mesh`. The camera
    point at pixel (i, j) and depth z is z K^-1 (j, i, 1).
    """
    kernel, points, structure, count = _prepare(
        vertices, faces, camera_from_world, camera, structure, backend, check
    )
    return kernel.depth_range(points, faces, structure, count, camera.height, camera.width)


def _prepare(vertices, faces, camera_from_world, camera, structure, backend, check):
    if backend != "auto" and backend not in BACKENDS:
        choices = ", ".join(f"'{name}'" for name in ("auto", *BACKENDS))
        raise ValueError(f"unknown backend {backend!r}; expected one of {choices}")
    kernel = (
        BACKENDS["numba" if vertices.device.type == "cpu" else "torch"]
        if backend == "auto"
        else BACKENDS[backend]
    )
    if structure is None:
        structure = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
    count = int(structure.max()) + 1
    if check and (edges := boundary_edges(faces.cpu())):
        raise ValueError(
            f"the mesh is not closed: {edges} boundary edges; its X-ray is not defined, repair it"
        )
    points = homogeneous_pixels(camera, camera_from_world, vertices)
    nearest = float(points.detach()[..., 2].amin())
    if not nearest > 0:
        raise ValueError(
            f"a vertex lies {-nearest:.1f} mm behind the X-ray source (or is not finite); "
            "every vertex must lie in front of it"
        )
    return kernel, points, structure, count
