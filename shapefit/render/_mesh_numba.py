"""The mesh kernels on the CPU: the same formulas as `_mesh_torch`, row span by row span.

Within a row a face covers the pixels between the crossings of two of its edges, and 1/z is linear
between them, so the inner loop has no test in it. Rows are shared out between threads for the image
and faces for the gradient: every sum has a fixed order, so results do not depend on the thread count.
"""

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor


def signed_depth(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int
) -> Tensor:
    """Depth inside each structure along every pixel's ray: (B, V, 3), (F, 3), (F,) -> (B, S, H, W)."""
    return _SignedDepth.apply(points, faces, structure, count, height, width)


def depth_range(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Depth of the first entry into and the last exit from each structure, 0 where the ray misses it."""
    return _DepthRange.apply(points, faces, structure, count, height, width)


class _SignedDepth(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, faces, structure, count, height, width):
        p, f, s = _arrays(points, faces, structure)
        image = np.zeros((len(p), count, height, width), _numpy_dtype(points))
        _sum_depths(_screen(p), f, s, image, _bands(len(p), height))
        ctx.arrays, ctx.dtype = (p, f, s), points.dtype
        return torch.from_numpy(image)

    @staticmethod
    def backward(ctx, grad):
        p, f, s = ctx.arrays
        gradient = _sum_depths_gradient(p, _screen(p), f, s, grad.contiguous().numpy())
        return torch.from_numpy(gradient).to(ctx.dtype), None, None, None, None, None


class _DepthRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, faces, structure, count, height, width):
        p, f, s = _arrays(points, faces, structure)
        shape = (len(p), count, height, width)
        first, last = np.full(shape, np.inf, _numpy_dtype(points)), np.zeros(shape, _numpy_dtype(points))
        hit = np.full((2, *shape), -1, np.int32)
        _nearest_and_farthest(_screen(p), f, s, first, last, hit, _bands(len(p), height))
        first[hit[0] < 0] = 0
        ctx.arrays, ctx.hit, ctx.dtype = (p, f), hit, points.dtype
        return torch.from_numpy(first), torch.from_numpy(last)

    @staticmethod
    def backward(ctx, grad_first, grad_last):
        p, f = ctx.arrays
        gradient = np.zeros_like(p)
        for hit, grad in zip(ctx.hit, (grad_first, grad_last), strict=True):
            _hit_gradient(p, f, hit, grad.contiguous().numpy(), gradient)
        return torch.from_numpy(gradient).to(ctx.dtype), None, None, None, None, None


def _arrays(points, faces, structure):
    return (
        np.ascontiguousarray(points.detach().numpy(), np.float64),
        np.ascontiguousarray(faces.numpy(), np.int64),
        np.ascontiguousarray(structure.numpy(), np.int64),
    )


def _numpy_dtype(tensor):
    return np.float64 if tensor.dtype == torch.float64 else np.float32


def _bands(batch, height):
    """Bands of rows per view: enough work items for every thread, and no more."""
    return min(height, max(1, -(-4 * get_num_threads() // batch)))


@njit(parallel=True, cache=True)
def _screen(points):
    """(u z, v z, z) -> (u, v, 1 / z), all linear across a face's image."""
    screen = np.empty_like(points)
    for b in prange(len(points)):
        for k in range(points.shape[1]):
            inverse = 1.0 / points[b, k, 2]
            screen[b, k, 0], screen[b, k, 1] = points[b, k, 0] * inverse, points[b, k, 1] * inverse
            screen[b, k, 2] = inverse
    return screen


@njit(inline="always")
def _rows(screen, face, first, last):
    """Rows from `first` to before `last` that the face crosses, clamped as floats: nothing overflows."""
    v0, v1, v2 = screen[face[0], 1], screen[face[1], 1], screen[face[2], 1]
    low, high = min(v0, v1, v2), max(v0, v1, v2)
    begin = int(np.ceil(min(max(low, float(first)), float(last))))
    end = int(np.ceil(min(max(high, float(first)), float(last))))
    return begin, end


@njit(inline="always")
def _crossing(screen, face, k, i):
    """Where edge k crosses row i: (column, 1/z, +1 upwards, -1 downwards, 0 not at all)."""
    a, b = face[k], face[(k + 1) % 3]
    below = screen[a, 1] <= i
    if below == (screen[b, 1] <= i):
        return 0.0, 0.0, 0
    low, high = min(a, b), max(a, b)  # the same order in both faces of the edge
    fraction = (i - screen[low, 1]) / (screen[high, 1] - screen[low, 1])
    column = screen[low, 0] + fraction * (screen[high, 0] - screen[low, 0])
    return column, screen[low, 2] + fraction * (screen[high, 2] - screen[low, 2]), -1 if below else 1


@njit(inline="always")
def _span(screen, face, i, width):
    """The face in row i: first pixel, pixel after the last, sign (+1 exit), 1/z at column 0, its slope."""
    left, left_iz, right, right_iz, sign = 0.0, 0.0, 0.0, 0.0, 0
    for k in range(3):
        column, iz, direction = _crossing(screen, face, k, i)
        if direction > 0:
            left, left_iz, sign = column, iz, 1
        elif direction < 0:
            right, right_iz = column, iz
    if sign == 0:
        return 0, 0, 0, 0.0, 0.0
    if right < left:
        left, left_iz, right, right_iz, sign = right, right_iz, left, left_iz, -1
    begin = int(np.ceil(min(max(left, 0.0), float(width))))
    end = int(np.ceil(min(max(right, 0.0), float(width))))
    slope = (right_iz - left_iz) / (right - left) if end > begin else 0.0
    return begin, end, sign, left_iz - slope * left, slope


@njit(parallel=True, cache=True)
def _sum_depths(screen, faces, structure, image, bands):
    batch, _, height, width = image.shape
    for job in prange(batch * bands):
        b, band = job // bands, job % bands
        points = screen[b]
        for f in range(len(faces)):
            begin_row, end_row = _rows(points, faces[f], height * band // bands, height * (band + 1) // bands)
            for i in range(begin_row, end_row):
                begin, end, sign, iz, slope = _span(points, faces[f], i, width)
                row = image[b, structure[f], i]
                for j in range(begin, end):
                    row[j] += sign / (iz + slope * j)


@njit(inline="always")
def _face_terms(points, face):
    """n = (b - a) x (c - a) and e_a = b x c, e_b = c x a, e_c = a x b, whose sum it is."""
    a, b, c = points[face[0]], points[face[1]], points[face[2]]
    edges = np.empty((3, 3))
    for row, (p, q) in enumerate(((b, c), (c, a), (a, b))):
        edges[row, 0] = p[1] * q[2] - p[2] * q[1]
        edges[row, 1] = p[2] * q[0] - p[0] * q[2]
        edges[row, 2] = p[0] * q[1] - p[1] * q[0]
    n = np.empty(3)
    for x in range(3):
        y, z = (x + 1) % 3, (x + 2) % 3
        n[x] = (b[y] - a[y]) * (c[z] - a[z]) - (b[z] - a[z]) * (c[y] - a[y])
    return n, edges


@njit(parallel=True, cache=True)
def _sum_depths_gradient(points, screen, faces, structure, grad):
    """dz/da = w_a n / (n . q)^2 with w_a = e_a . q, summed over the pixels of each face, then over faces."""
    batch, _, height, width = grad.shape
    corner = np.zeros((batch, len(faces), 3))
    normal = np.empty((batch, len(faces), 3))
    for job in prange(batch * len(faces)):
        b, f = job // len(faces), job % len(faces)
        begin_row, end_row = _rows(screen[b], faces[f], 0, height)
        if begin_row == end_row:
            continue
        n, edges = _face_terms(points[b], faces[f])
        normal[b, f] = n
        for i in range(begin_row, end_row):
            begin, end, sign, _, _ = _span(screen[b], faces[f], i, width)
            if end <= begin:
                continue
            row = grad[b, structure[f], i]
            constant = n[1] * i + n[2]
            total, moment = 0.0, 0.0
            for j in range(begin, end):
                nq = constant + n[0] * j
                share = row[j] / (nq * nq) if nq != 0.0 else 0.0
                total += share
                moment += share * j
            for k in range(3):
                corner[b, f, k] += sign * (edges[k, 0] * moment + (edges[k, 1] * i + edges[k, 2]) * total)
    gradient = np.zeros_like(points)
    for b in prange(batch):
        for f in range(len(faces)):
            for k in range(3):
                if corner[b, f, k] != 0.0:
                    for x in range(3):
                        gradient[b, faces[f, k], x] += corner[b, f, k] * normal[b, f, x]
    return gradient


@njit(parallel=True, cache=True)
def _nearest_and_farthest(screen, faces, structure, first, last, hit, bands):
    batch, _, height, width = first.shape
    for job in prange(batch * bands):
        b, band = job // bands, job % bands
        for f in range(len(faces)):
            s = structure[f]
            begin_row, end_row = _rows(
                screen[b], faces[f], height * band // bands, height * (band + 1) // bands
            )
            for i in range(begin_row, end_row):
                begin, end, _, iz, slope = _span(screen[b], faces[f], i, width)
                for j in range(begin, end):
                    z = 1.0 / (iz + slope * j)
                    if z < first[b, s, i, j]:
                        first[b, s, i, j], hit[0, b, s, i, j] = z, f
                    if z > last[b, s, i, j]:
                        last[b, s, i, j], hit[1, b, s, i, j] = z, f


@njit(parallel=True, cache=True)
def _hit_gradient(points, faces, hit, grad, gradient):
    batch, count, height, width = grad.shape
    for b in prange(batch):
        for s in range(count):
            for i in range(height):
                for j in range(width):
                    f = hit[b, s, i, j]
                    if f < 0 or grad[b, s, i, j] == 0.0:
                        continue
                    n, edges = _face_terms(points[b], faces[f])
                    nq = n[0] * j + n[1] * i + n[2]
                    if nq == 0.0:
                        continue
                    for k in range(3):
                        w = edges[k, 0] * j + edges[k, 1] * i + edges[k, 2]
                        for x in range(3):
                            gradient[b, faces[f, k], x] += grad[b, s, i, j] * w / (nq * nq) * n[x]
