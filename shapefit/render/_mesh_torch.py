"""The mesh kernels in torch: the reference. Shortest, slow, any dtype; read it first.

A kernel sees homogeneous pixel points p = K X_camera = (u z, v z, z). For a face a, b, c and the
pixel centre q = (j, i, 1), with n = (b - a) x (c - a) and D = a . (b x c):

    depth of the hit    z = D / (n . q)
    path through a closed mesh = sum of sign(D) z over the covering faces (exits less entries)

Coverage is the winding number of the projected triangle about q: an edge that crosses row i (one end
at v <= i, the other beyond) at column t adds its direction, up (+1) or down (-1), to every pixel j >= t. Both
faces of an edge evaluate t from the same end first, so they agree to the bit and the winding numbers
of a closed mesh cancel in every pixel, whatever is rounded: no ray leaks, none is counted twice.
"""

import torch
from torch import Tensor

CHUNK = 1 << 22  # face-pixels at a time


def signed_depth(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int
) -> Tensor:
    """Depth inside each structure along every pixel's ray: (B, V, 3), (F, 3), (F,) -> (B, S, H, W)."""
    images = []
    for view in points.double():
        image = view.new_zeros(count, height * width)
        for chunk in torch.arange(len(faces), device=faces.device).split(max(1, CHUNK // (height * width))):
            winding, depth = _hits(view, faces[chunk], height, width)
            image = image.index_add(0, structure[chunk], winding * depth)
        images.append(image.view(count, height, width))
    return torch.stack(images).to(points.dtype)


def depth_range(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Depth of the first entry into and the last exit from each structure, 0 where the ray misses it."""
    first, last = [], []
    for view in points.double():
        winding, depth = _hits(view, faces, height, width)
        for s in range(count):
            hit, z = winding[structure == s] != 0, depth[structure == s]
            missed = ~hit.any(0)
            near = torch.where(hit, z, torch.inf).amin(0)
            far = torch.where(hit, z, -torch.inf).amax(0)
            first.append(torch.where(missed, 0.0, near).view(height, width))
            last.append(torch.where(missed, 0.0, far).view(height, width))
    shape = (len(points), count, height, width)
    return torch.stack(first).view(shape).to(points.dtype), torch.stack(last).view(shape).to(points.dtype)


def _hits(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Winding number (+1 exit, -1 entry, 0 uncovered) and depth of each face at each pixel, (F, H W)."""
    i = torch.arange(height, dtype=points.dtype, device=points.device)
    j = torch.arange(width, dtype=points.dtype, device=points.device)
    u, v = (points[:, :2] / points[:, 2:]).detach().unbind(-1)
    winding = points.new_zeros(len(faces), height, width)
    for k in range(3):
        ends = faces[:, k], faces[:, (k + 1) % 3]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        below = [v[end, None] <= i for end in ends]
        crosses = below[0] != below[1]
        fraction = (i - v[low, None]) / (v[high] - v[low])[:, None]
        column = u[low, None] + fraction * (u[high] - u[low])[:, None]
        direction = torch.where(crosses, torch.where(below[0], -1.0, 1.0), 0.0)
        winding = winding + direction[:, :, None] * (crosses[:, :, None] & (j >= column[:, :, None]))
    a, b, c = points[faces].unbind(1)
    n = torch.linalg.cross(b - a, c - a)
    q = torch.stack(torch.broadcast_tensors(j, i[:, None], torch.ones_like(j)), -1).view(-1, 3)
    nq, d = n @ q.T, (a * torch.linalg.cross(b, c)).sum(-1, keepdim=True)
    winding = winding.flatten(1)
    hit = (winding != 0) & (nq != 0)
    depth = d / torch.where(hit, nq, torch.ones_like(nq))
    nearest, farthest = points[faces][..., 2].aminmax(dim=1, keepdim=True)
    return winding, torch.where(hit, depth, 0.0).clamp(nearest.detach(), farthest.detach())
