"""The mesh kernels on the CPU: the formulas of `_mesh_torch`, one row of one face at a time.

A face's corners are sorted by row. Its long edge and one of the short ones bound the pixels of a row, and
1/z is linear between them, so the inner loop has no test in it. Threads share out bands of rows for the
image, faces for the gradient: every sum has one order, and the result the same bits for any of them.
"""

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from shapefit.render._mesh_torch import NEAR_EDGE_ON, UNDERFLOW


def signed_depth(points: Tensor, faces: Tensor, structure: Tensor, count: int, lengths: Tensor) -> Tensor:
    """Depth inside each structure along every pixel's ray, times the pixel's length: (B, S, H, W)."""
    p, f, s, scale = _arrays(points, faces, structure, lengths)
    image = np.empty((len(p), count, *scale.shape), scale.dtype)
    for views in _groups(len(p)):
        screen = _screen(p[views])
        rows, bands = _rows(screen, f, *scale.shape), _bands(len(screen))
        _sum_depths(screen, f, s, rows, scale, image[views], bands)
    return torch.from_numpy(image)


def depth_range(
    points: Tensor, faces: Tensor, structure: Tensor, count: int, height: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """First entry and last exit (2, B, S, H, W), 0 where a ray misses, and the face of each, else -1."""
    p, f, s = _arrays(points, faces, structure)
    depths = torch.zeros(2, len(p), count, height, width, dtype=dtype)
    hits = torch.full_like(depths, -1, dtype=torch.int32)
    for views in _groups(len(p)):
        screen = _screen(p[views])
        rows, bands = _rows(screen, f, height, width), _bands(len(screen))
        _nearest_and_farthest(screen, f, s, rows, depths.numpy(), hits.numpy(), views.start, bands)
    return depths, hits


def signed_depth_gradient(
    grad: Tensor, points: Tensor, faces: Tensor, structure: Tensor, lengths: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * signed_depth) in the points."""
    p, f, s, g, scale = _arrays(points, faces, structure, grad, lengths)
    gradient = np.zeros(p.shape)
    for views in _groups(len(p)):
        corners = np.zeros((len(p[views]), len(f), 3))
        _add_corners(p[views], _screen(p[views]), f, s, g[views], scale, None, corners)
        _to_vertices(corners, p[views], f, gradient[views])
    return torch.from_numpy(gradient)


def depth_range_gradient(
    grad: Tensor, hits: Tensor, points: Tensor, faces: Tensor, structure: Tensor
) -> Tensor:
    """Gradient (B, V, 3) of sum(grad * depths) in the points; `hits` are those of `depth_range`."""
    p, f, s, g, won = _arrays(points, faces, structure, grad, hits)
    gradient = np.zeros(p.shape)
    for views in _groups(len(p)):
        screen, corners = _screen(p[views]), np.zeros((len(p[views]), len(f), 3))
        for k in range(2):
            _add_corners(p[views], screen, f, s, g[k, views], None, won[k, views], corners)
        _to_vertices(corners, p[views], f, gradient[views])
    return torch.from_numpy(gradient)


def _arrays(*tensors):
    return [np.ascontiguousarray(tensor.detach().numpy()) for tensor in tensors]


def _groups(batch):
    """Views that are worked on at a time: what is kept of them does not grow with the batch."""
    size = 4 * get_num_threads()
    return [slice(b, b + size) for b in range(0, batch, size)]


def _bands(batch):
    """Bands of rows per view, in an order that gives each thread bands from all over the image."""
    threads = get_num_threads()
    return np.zeros(1, np.int64) if batch >= 4 * threads else np.arange(2 * threads).reshape(2, -1).T.ravel()


@njit(parallel=True, cache=True, error_model="numpy")
def _screen(points):
    """(u z, v z, z) -> (u, v, 1/z); u and v are no finer than 2^-53, so that slopes stay finite."""
    screen = np.empty_like(points)
    for b in prange(len(points)):
        for k in range(points.shape[1]):
            inverse = 1.0 / points[b, k, 2]
            screen[b, k, 0] = (points[b, k, 0] * inverse + 1.0) - 1.0
            screen[b, k, 1] = (points[b, k, 1] * inverse + 1.0) - 1.0
            screen[b, k, 2] = inverse
    return screen


@njit(forceinline=True, error_model="numpy")
def _pixel(x, low, high):
    """The first pixel at or after x, between low and high; clamped before it is an integer."""
    return int(np.ceil(min(max(x, float(low)), float(high))))


@njit(parallel=True, cache=True, error_model="numpy")
def _rows(screen, faces, height, width):
    """Rows [begin, end) that each face crosses within the image, (B, F, 2); none if it covers no pixel."""
    rows = np.zeros((len(screen), len(faces), 2), np.int32)
    for job in prange(len(screen) * len(faces)):
        b, f = job // len(faces), job % len(faces)
        view, k0, k1, k2 = screen[b], faces[f, 0], faces[f, 1], faces[f, 2]
        u0, u1, u2 = view[k0, 0], view[k1, 0], view[k2, 0]
        if _pixel(min(u0, u1, u2), 0, width) < _pixel(max(u0, u1, u2), 0, width):
            v0, v1, v2 = view[k0, 1], view[k1, 1], view[k2, 1]
            rows[b, f, 0] = _pixel(min(v0, v1, v2), 0, height)
            rows[b, f, 1] = _pixel(max(v0, v1, v2), 0, height)
    return rows


@njit(forceinline=True, error_model="numpy")
def _by_row(screen, a, b, c):
    """The corners from top to bottom, and which way the long edge runs in the face: +1 up, -1 down.

    Written without branches: nothing about the order of corners can be foreseen.
    """
    first = screen[b, 1] < screen[a, 1]
    a, b = (b, a) if first else (a, b)
    second = screen[c, 1] < screen[b, 1]
    b, c = (c, b) if second else (b, c)
    third = screen[b, 1] < screen[a, 1]
    a, b = (b, a) if third else (a, b)
    return a, b, c, -1.0 if first ^ second ^ third else 1.0


@njit(forceinline=True, error_model="numpy")
def _edge(screen, a, b):
    """An edge as a line over the rows: v, u and 1/z of its lower-numbered end, and du/dv, d(1/z)/dv.

    Both faces of an edge start from the same end, so they agree to the last bit.
    """
    low, high = min(a, b), max(a, b)
    v, u, iz = screen[low, 1], screen[low, 0], screen[low, 2]
    rise = 1.0 / (screen[high, 1] - v)
    return v, u, iz, (screen[high, 0] - u) * rise, (screen[high, 2] - iz) * rise


@njit(forceinline=True, error_model="numpy")
def _spans(screen, faces, f, rows, width, pixels, lines):
    """The face in each of the rows that it covers pixels of; how many there are.

    Row n of `pixels` is (i, first j, j after the last), of `lines` (sign: +1 exit or -1 entry, u0, iz,
    slope), with 1/z = iz + slope (j - u0).
    """
    top, middle, bottom, upwards = _by_row(screen, faces[f, 0], faces[f, 1], faces[f, 2])
    begin_row, end_row = rows
    bend, n = _pixel(screen[middle, 1], begin_row, end_row), 0
    long = _edge(screen, top, bottom)
    for half in range(2):
        first, last = (begin_row, bend) if half == 0 else (bend, end_row)
        if first == last:
            continue
        short = _edge(screen, top, middle) if half == 0 else _edge(screen, middle, bottom)
        for i in range(first, last):
            u, iz = long[1] + (i - long[0]) * long[3], long[2] + (i - long[0]) * long[4]
            u2, iz2 = short[1] + (i - short[0]) * short[3], short[2] + (i - short[0]) * short[4]
            swap = u2 < u
            left, right = (u2, u) if swap else (u, u2)
            begin, end = _pixel(left, 0, width), _pixel(right, 0, width)
            if begin < end:
                pixels[n, 0], pixels[n, 1], pixels[n, 2] = i, begin, end
                lines[n, 0], lines[n, 1] = -upwards if swap else upwards, left
                lines[n, 2], lines[n, 3] = iz2 if swap else iz, (iz2 - iz) / (u2 - u)
                n += 1
    return n


@njit(parallel=True, cache=True)
def _sum_depths(screen, faces, structure, rows, lengths, image, bands):
    for job in prange(len(image) * len(bands)):
        b, band, height = job // len(bands), bands[job % len(bands)], image.shape[2]
        begin_row, end_row = height * band // len(bands), height * (band + 1) // len(bands)
        _sum_band(screen[b], faces, structure, rows[b], lengths, image[b], begin_row, end_row)


@njit(error_model="numpy")
def _sum_band(screen, faces, structure, rows, lengths, image, first_row, last_row):
    pixels, lines = np.empty((last_row - first_row, 3), np.int64), np.empty((last_row - first_row, 4))
    image[:, first_row:last_row] = 0
    for f in range(len(faces)):
        within = max(rows[f, 0], first_row), min(rows[f, 1], last_row)
        if within[0] >= within[1]:
            continue
        plane = image[structure[f]]
        for n in range(_spans(screen, faces, f, within, image.shape[2], pixels, lines)):
            i, sign, u0, iz, slope = pixels[n, 0], lines[n, 0], lines[n, 1], lines[n, 2], lines[n, 3]
            for j in range(pixels[n, 1], pixels[n, 2]):
                plane[i, j] += sign / (iz + slope * (j - u0))
    band = image[:, first_row:last_row]
    np.multiply(band, lengths[first_row:last_row], band)


@njit(parallel=True, cache=True)
def _nearest_and_farthest(screen, faces, structure, rows, depths, hits, start, bands):
    for job in prange(len(screen) * len(bands)):
        b, band, height = job // len(bands), bands[job % len(bands)], depths.shape[3]
        begin_row, end_row = height * band // len(bands), height * (band + 1) // len(bands)
        depth, hit = depths[:, start + b], hits[:, start + b]
        _range_band(screen[b], faces, structure, rows[b], depth, hit, begin_row, end_row)


@njit(error_model="numpy")
def _range_band(screen, faces, structure, rows, depths, hits, first_row, last_row):
    pixels, lines = np.empty((last_row - first_row, 3), np.int64), np.empty((last_row - first_row, 4))
    for f in range(len(faces)):
        within = max(rows[f, 0], first_row), min(rows[f, 1], last_row)
        if within[0] >= within[1]:
            continue
        s = structure[f]
        for n in range(_spans(screen, faces, f, within, depths.shape[3], pixels, lines)):
            i, u0, iz, slope = pixels[n, 0], lines[n, 1], lines[n, 2], lines[n, 3]
            for j in range(pixels[n, 1], pixels[n, 2]):
                z = 1.0 / (iz + slope * (j - u0))
                if hits[0, s, i, j] < 0 or z < depths[0, s, i, j]:
                    depths[0, s, i, j], hits[0, s, i, j] = z, f
                if hits[1, s, i, j] < 0 or z > depths[1, s, i, j]:
                    depths[1, s, i, j], hits[1, s, i, j] = z, f


@njit(forceinline=True, error_model="numpy")
def _cross(p, q):
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@njit(forceinline=True, error_model="numpy")
def _corner(points, k):
    return points[k, 0], points[k, 1], points[k, 2]


@njit(forceinline=True, error_model="numpy")
def _normal(a, b, c):
    """n = (b - a) x (c - a)"""
    return _cross((b[0] - a[0], b[1] - a[1], b[2] - a[2]), (c[0] - a[0], c[1] - a[1], c[2] - a[2]))


@njit(parallel=True, cache=True)
def _add_corners(points, screen, faces, structure, grad, lengths, hit, corners, parts=64):
    """Add the sums of g w_k / (n . q)^2 over the pixels q of each face, for its three corners k: (B, F, 3).

    Of exits less entries, and times lengths; or, with `hit`, of the pixels that the face won.
    """
    for job in prange(len(points) * parts):
        b, part = job // parts, job % parts
        begin, end = len(faces) * part // parts, len(faces) * (part + 1) // parts
        _corner_part(points[b], screen[b], faces, structure, grad[b], lengths, hit, b, corners[b], begin, end)


@njit(error_model="numpy")
def _corner_part(points, screen, faces, structure, grad, lengths, hit, b, corners, first_face, last_face):
    _, height, width = grad.shape
    pixels, lines = np.empty((height, 3), np.int64), np.empty((height, 4))
    for f in range(first_face, last_face):
        s, k0, k1, k2 = structure[f], faces[f, 0], faces[f, 1], faces[f, 2]
        v0, v1, v2 = screen[k0, 1], screen[k1, 1], screen[k2, 1]
        within = _pixel(min(v0, v1, v2), 0, height), _pixel(max(v0, v1, v2), 0, height)
        if within[0] >= within[1]:
            continue
        p, q, r = _corner(points, k0), _corner(points, k1), _corner(points, k2)
        n, e0, e1, e2 = _normal(p, q, r), _cross(q, r), _cross(r, p), _cross(p, q)
        for m in range(_spans(screen, faces, f, within, width, pixels, lines)):
            i, end, sign = pixels[m, 0], pixels[m, 2], lines[m, 0]
            constant = n[1] * i + n[2]
            least = NEAR_EDGE_ON * (abs(n[0]) * end + abs(n[1]) * i + abs(n[2])) + UNDERFLOW
            total, moment = 0.0, 0.0
            for j in range(pixels[m, 1], end):
                if hit is not None and hit[b, s, i, j] != f:
                    continue
                nq = n[0] * j + constant
                weight = 1.0 if lengths is None else lengths[i, j]
                share = grad[s, i, j] * (weight / (nq * nq)) if abs(nq) > least else 0.0
                total += share
                moment += share * j
            if hit is None:
                total, moment = sign * total, sign * moment
            corners[f, 0] += e0[0] * moment + (e0[1] * i + e0[2]) * total
            corners[f, 1] += e1[0] * moment + (e1[1] * i + e1[2]) * total
            corners[f, 2] += e2[0] * moment + (e2[1] * i + e2[2]) * total


@njit(parallel=True, cache=True, error_model="numpy")
def _to_vertices(corners, points, faces, gradient):
    """dz/da = w_a n / (n . q)^2: each corner's sum times its face's normal, in the order of the faces."""
    for b in prange(len(points)):
        for f in range(len(faces)):
            if corners[b, f, 0] == 0.0 and corners[b, f, 1] == 0.0 and corners[b, f, 2] == 0.0:
                continue
            p, k0, k1, k2 = points[b], faces[f, 0], faces[f, 1], faces[f, 2]
            n = _normal(_corner(p, k0), _corner(p, k1), _corner(p, k2))
            for k in range(3):
                for x in range(3):
                    gradient[b, faces[f, k], x] += corners[b, f, k] * n[x]
