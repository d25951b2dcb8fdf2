"""What is written on a mesh, as rays see it where they first enter and last leave."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shapefit.camera import Camera, homogeneous_pixels
from shapefit.render._ops import chosen_twin, depth_range
from shapefit.render.mesh import numbered


class SurfaceValues(NamedTuple):
    """Values of a surface along every ray; 0 where a ray misses."""

    entry: Float[Tensor, "B C H W"]  # where the ray first enters any structure
    exit: Float[Tensor, "B C H W"]  # where it last leaves one
    hit: Bool[Tensor, "B S H W"]  # which structures it meets


def render_coordinates(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    camera_from_world: Float[Tensor, "B 4 4"],
    camera: Camera,
    values: Float[Tensor, "V C"],
    structure: Int[Tensor, " F"] | None = None,
    structures: int | None = None,
    backend: str = "auto",
) -> SurfaceValues:
    """Values given at a mesh's vertices, where each ray first enters and last leaves the mesh.

    Between the vertices of a face values are linear. With the vertices of a template as values these are
    scene coordinates (Shotton et al. 2013, CVPR; for X-rays Shrestha, Xie et al. 2023, arXiv:2311.15087):
    which points of the template lie under a pixel, wherever the mesh has moved and however it is bent.
    Arguments and errors are those of `render_mesh`. Not differentiable; dtype is that of the values.
    """
    structure, count = numbered(faces, structure, structures)
    twin = chosen_twin(backend, vertices.device)
    with torch.no_grad():
        points = homogeneous_pixels(camera, camera_from_world.double(), vertices.double())
        depths, hits = depth_range(
            points, faces, structure, count, camera.height, camera.width, torch.float64, twin
        )
        hit = hits[0] >= 0
        # the structure that is entered first, and the one that is left last
        first = torch.where(hit, depths[0], torch.inf).min(1, keepdim=True).indices
        last = torch.where(hit, depths[1], -torch.inf).max(1, keepdim=True).indices
        entry, leave = (
            _values_at(points, faces, image.gather(1, chosen)[:, 0].long(), values)
            for image, chosen in ((hits[0], first), (hits[1], last))
        )
    return SurfaceValues(entry, leave, hit)


def _values_at(points: Tensor, faces: Tensor, face: Tensor, values: Tensor) -> Tensor:
    """Values (B, C, H, W) at the pixel centres, each within the face (B, H, W) that covers it; -1: none."""
    view, i, j = (face >= 0).nonzero(as_tuple=True)
    corners = faces[face[view, i, j]]
    a, b, c = (points[view, corners[:, k]] for k in range(3))
    q = torch.stack([j, i, torch.ones_like(i)], -1).to(points)
    weights = torch.stack([(torch.linalg.cross(*e) * q).sum(-1) for e in ((b, c), (c, a), (a, b))], -1)
    # all have the sign of the face's winding; at a grazing face rounding may say otherwise
    weights = (weights * weights.sum(-1, keepdim=True).sign()).clamp(min=0)
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights / total, 1 / 3).to(values)
    image = values.new_zeros(*face.shape, values.shape[1])
    image[view, i, j] = (weights[..., None] * values[corners]).sum(1)
    return image.movedim(-1, 1).contiguous()
