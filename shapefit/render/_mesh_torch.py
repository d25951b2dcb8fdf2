"""The mesh kernels in torch: the reference. Short and slow; read it first.

A kernel sees homogeneous pixel points p = K X_camera = (u z, v z, z), in float64. For a face a, b, c and
the pixel centre q = (j, i, 1), with n = (b - a) x (c - a) and D = a . (b x c):

    depth of the hit    z = D / (n . q)
    path through a closed mesh = sum of sign(D) z over the covering faces (exits less entries)

1/z is linear over the face's image. It is interpolated between the two places where the face's edges
cross row i, which stays within the face's depths however grazing the ray.

Coverage is the winding number of the projected triangle about q: an edge that crosses row i (one end
at v <= i, the other beyond) at column t adds its direction, up (+1) or down (-1), to every pixel j >= t.
Both faces of an edge evaluate t from the same end, so they agree to the bit and the winding numbers of a
closed mesh cancel in every pixel, whatever is rounded: no ray leaks, none is counted twice.

Gradient, with w_a = (b x c) . q, and likewise for b and c:

    dz/da = w_a n / (n . q)^2
"""

import torch
from torch import Tensor

CHUNK = 1 << 22  # face-pixels at a time
NEAR_EDGE_ON = 1e-9  # of the terms of n . q: below it, n . q is rounding, and the gradient is left out
UNDERFLOW = 1e-150  # so is anything whose square is no number


def signed_depth(points: Tensor, faces: Tensor, structure: Tensor, count: int, lengths: Tensor) -> Tensor:
    """Depth inside each structure along every pixel's ray, times the pixel's length: (B, S, H, W).

    For points (B, V, 3), faces (F, 3), structure (F,) and lengths (H, W), whose dtype the image has.
    """
    height, width = lengths.shape
    images = []
    for view in points:
        image = view.new_zeros(count, height * width)
        for chunk in torch.arange(len(faces), device=faces.device).split(max(1, CHUNK // (height * width))):
            winding, depth = _hits(view, faces[chunk], height, width)
            image.index_add_(0, structure[chunk], winding * depth)
        images.append(image.view(count, height, width))
    return torch.stack(images).to(lengths.dtype) * lengths


def depth_range(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """First entry and last exit (2, B, S, H, W), 0 where a ray misses, and the face of each, else -1."""
    depths, hits = [], []
    for view in points:
        winding, depth = _hits(view, faces, height, width)
        for s in range(count):
            own = (winding != 0) & (structure == s)[:, None]
            first, first_face = torch.where(own, depth, torch.inf).min(0)
            last, last_face = torch.where(own, depth, -torch.inf).max(0)
            hit = own.any(0)
            depths.append(torch.where(hit, torch.stack([first, last]), 0.0))
            hits.append(torch.where(hit, torch.stack([first_face, last_face]), -1))
    shape = (len(points), count, 2, height, width)
    first_and_last, faces_hit = (torch.stack(x).view(shape).movedim(2, 0) for x in (depths, hits))
    return first_and_last.to(dtype).contiguous(), faces_hit.int().contiguous()


def signed_depth_gradient(
    grad: Tensor, points: Tensor, faces: Tensor, structure: Tensor, lengths: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * signed_depth) in the points."""
    height, width = lengths.shape
    gradient, grad = torch.zeros_like(points), (grad * lengths).flatten(2).to(points.dtype)
    for view, image, total in zip(points, grad, gradient, strict=True):
        for chunk in torch.arange(len(faces), device=faces.device).split(max(1, CHUNK // (height * width))):
            winding, _ = _hits(view, faces[chunk], height, width)
            _add_gradient(total, winding * image[structure[chunk]], view, faces[chunk], height, width)
    return gradient


def depth_range_gradient(
    grad: Tensor, hits: Tensor, points: Tensor, faces: Tensor, structure: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * depths) in the points; `hits` are those of `depth_range`."""
    *_, height, width = grad.shape
    gradient, number = torch.zeros_like(points), torch.arange(len(faces), device=faces.device)
    for images, hit in zip(grad.flatten(3).to(points.dtype), hits.flatten(3), strict=True):
        for b in range(len(points)):
            won = hit[b, structure] == number[:, None]
            _add_gradient(gradient[b], won * images[b, structure], points[b], faces, height, width)
    return gradient


def _add_gradient(
    total: Tensor, grad: Tensor, points: Tensor, faces: Tensor, height: int, width: int
) -> None:
    """Add sum over pixels of grad (F, H W) times dz/da, and b and c, to the vertices' total (V, 3)."""
    a, b, c = points[faces].unbind(1)
    n, q = torch.linalg.cross(b - a, c - a), _pixels(points, height, width)
    nq = n @ q.T
    sure = nq.abs() > NEAR_EDGE_ON * (n.abs() @ q.T) + UNDERFLOW
    moments = torch.where(sure, grad / nq.square(), 0.0) @ q
    edges = torch.stack([torch.linalg.cross(*e) for e in ((b, c), (c, a), (a, b))], 1)
    weights = (edges * moments[:, None]).sum(-1, keepdim=True)
    total.index_add_(0, faces.flatten(), (weights * n[:, None]).flatten(0, 1))


def _pixels(points: Tensor, height: int, width: int) -> Tensor:
    """q = (j, i, 1) of all pixels, (H W, 3)."""
    i, j = (torch.arange(n, dtype=points.dtype, device=points.device) for n in (height, width))
    return torch.stack(torch.broadcast_tensors(j, i[:, None], torch.ones_like(j)), -1).view(-1, 3)


def _hits(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Winding number (+1 exit, -1 entry, 0 uncovered) and depth of each face at each pixel, (F, H W)."""
    i = torch.arange(height, dtype=points.dtype, device=points.device)[None, :]
    j = torch.arange(width, dtype=points.dtype, device=points.device)
    iz = 1 / points[:, 2]
    u, v = ((points[:, k] * iz + 1) - 1 for k in (0, 1))  # no finer than 2^-53: slopes stay finite
    # (column, 1/z) where the face's edges cross the rows, upwards and downwards; nowhere: both at 0
    up, down = points.new_zeros(2, 2, len(faces), height)
    for k in range(3):
        start, end = faces[:, k, None], faces[:, (k + 1) % 3, None]
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        rise = 1 / (v[high] - v[low])
        at = torch.stack([x[low] + (i - v[low]) * ((x[high] - x[low]) * rise) for x in (u, iz)])
        up = torch.where((v[start] > i) & (v[end] <= i), at, up)
        down = torch.where((v[start] <= i) & (v[end] > i), at, down)
    winding = (j >= up[0, ..., None]).to(points.dtype) - (j >= down[0, ..., None]).to(points.dtype)
    swapped = down[0] < up[0]
    left, right = torch.where(swapped, down, up), torch.where(swapped, up, down)
    slope = (right[1] - left[1]) / (right[0] - left[0])
    depth = 1 / (left[1, ..., None] + slope[..., None] * (j - left[0, ..., None]))
    return winding.flatten(1), torch.where(winding != 0, depth, 0.0).flatten(1)
