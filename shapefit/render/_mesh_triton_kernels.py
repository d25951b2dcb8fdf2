"""The kernels that `_mesh_triton` launches: FACES faces a program, LANES rows of each at once."""

import triton
import triton.language as tl


@triton.jit
def _pixel(x, low, high):
    """The first pixel at or after x, between low and high; clamped before it is an integer."""
    return tl.ceil(tl.minimum(tl.maximum(x, low * 1.0), high * 1.0)).to(tl.int32)


@triton.jit
def _swap(when, a, b):
    return tl.where(when, b, a), tl.where(when, a, b)


@triton.jit
def _edge(screen, a, b):
    """An edge as a line over the rows: v, u and 1/z of its lower-numbered end, and du/dv, d(1/z)/dv.

    Both faces of an edge start from the same end, so they agree to the last bit.
    """
    low, high = screen + 3 * tl.minimum(a, b), screen + 3 * tl.maximum(a, b)
    u, v, iz = tl.load(low), tl.load(low + 1), tl.load(low + 2)
    rise = tl.load(high + 1) - v
    rise = 1.0 / tl.where(rise == 0, 1.0, rise)
    du, diz = (tl.load(high) - u) * rise, (tl.load(high + 2) - iz) * rise
    return v[:, None], u[:, None], iz[:, None], du[:, None], diz[:, None]


@triton.jit
def _faces(screen, faces, f, count, band, bands, height):
    """Faces, (FACES, 1): their rows [begin, bend, end), which way the long edge runs, and three edges."""
    inside = f < count
    a, b, c = (
        tl.load(faces + 3 * f, inside, 0),
        tl.load(faces + 3 * f + 1, inside, 0),
        tl.load(faces + 3 * f + 2, inside, 0),
    )
    va, vb, vc = tl.load(screen + 3 * a + 1), tl.load(screen + 3 * b + 1), tl.load(screen + 3 * c + 1)
    # the corners from top to bottom; each exchange turns the long edge round
    first = vb < va
    a, b = _swap(first, a, b)
    va, vb = _swap(first, va, vb)
    second = vc < vb
    b, c = _swap(second, b, c)
    vb, vc = _swap(second, vb, vc)
    third = vb < va
    a, b = _swap(third, a, b)
    va, vb = _swap(third, va, vb)
    upwards = tl.where(first ^ second ^ third, -1, 1)
    low, high = height * band // bands, height * (band + 1) // bands
    begin, bend, end = _pixel(va, low, high), _pixel(vb, low, high), _pixel(vc, low, high)
    end = tl.where(inside, end, begin)
    long, upper, lower = _edge(screen, a, c), _edge(screen, a, b), _edge(screen, b, c)
    return begin[:, None], bend[:, None], end[:, None], upwards[:, None], long, upper, lower


@triton.jit
def _block(screen, faces, structure, vertices, count, height, FACES: tl.constexpr):
    """What a program works on: its view, its faces' numbers, structures (FACES, 1), and they themselves."""
    view = tl.program_id(1).to(tl.int64)
    f = tl.program_id(0) * FACES + tl.arange(0, FACES)
    face = _faces(screen + 3 * vertices * view, faces, f, count, tl.program_id(2), tl.num_programs(2), height)
    return view, f, tl.load(structure + f, f < count, 0)[:, None], face


@triton.jit
def _spans(face, i, width):
    """Faces in rows i: pixels [begin, end), +1 exit or -1 entry, and 1/z = iz + slope (j - left)."""
    _, bend, last, upwards, long, upper, lower = face
    x, up = i.to(tl.float64), i < bend
    above = x - tl.where(up, upper[0], lower[0])
    u, iz = long[1] + (x - long[0]) * long[3], long[2] + (x - long[0]) * long[4]
    u2 = tl.where(up, upper[1], lower[1]) + above * tl.where(up, upper[3], lower[3])
    iz2 = tl.where(up, upper[2], lower[2]) + above * tl.where(up, upper[4], lower[4])
    slope = (iz2 - iz) / tl.where(u2 == u, 1.0, u2 - u)
    turned = u2 < u
    left, right = _swap(turned, u, u2)
    begin, end = _pixel(left, 0, width), _pixel(right, 0, width)
    end = tl.where(i < last, end, begin)
    return begin, end, tl.where(turned, -upwards, upwards), tl.where(turned, iz2, iz), slope, left


@triton.jit
def sum_depths(
    screen, faces, structure, scale, total, vertices, count, structures, height, width,
    FACES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add sign z of every face at every pixel, in fixed point."""
    view, _, s, face = _block(screen, faces, structure, vertices, count, height, FACES)
    first, last = face[0], face[2]
    step = tl.load(scale)
    for r in range(0, tl.max(last - first), LANES):
        i = first + r + tl.arange(0, LANES)[None, :]
        begin, end, sign, iz, slope, left = _spans(face, i, width)
        row = total + ((view * structures + s) * height + i) * width
        for k in range(0, tl.max(end - begin)):
            j = begin + k
            z = tl.where(j < end, step / (iz + slope * (j - left)) + 0.5, 0.0).to(tl.int64)
            tl.atomic_add(row + j, sign * z, mask=j < end, sem="relaxed")


@triton.jit
def from_fixed(total, scale, lengths, image, count, plane, PIXELS: tl.constexpr):
    """Fixed point to numbers, times the lengths of the pixels' rays."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    depth = tl.load(total + pixel, pixel < count, 0).to(tl.float64) / tl.load(scale)
    length = tl.load(lengths + pixel % plane, pixel < count, 0.0)
    tl.store(image + pixel, (depth * length).to(image.dtype.element_ty), pixel < count)


@triton.jit
def extreme_depths(
    screen, faces, structure, bits, hits, vertices, count, structures, height, width, plane,
    NAMING: tl.constexpr, FACES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Lower and raise the first and last depths; or, NAMING, the lowest-numbered faces that have them."""
    view, f, s, face = _block(screen, faces, structure, vertices, count, height, FACES)
    first, last = face[0], face[2]
    for r in range(0, tl.max(last - first), LANES):
        i = first + r + tl.arange(0, LANES)[None, :]
        begin, end, _, iz, slope, left = _spans(face, i, width)
        row = ((view * structures + s) * height + i) * width
        for k in range(0, tl.max(end - begin)):
            j = begin + k
            z = (1.0 / (iz + slope * (j - left))).to(tl.int64, bitcast=True)
            near, far = bits + row + j, bits + plane + row + j
            if NAMING:
                name = tl.broadcast_to(f[:, None], z.shape)
                first_hit, last_hit = tl.load(near, j < end, 0) == z, tl.load(far, j < end, 0) == z
                tl.atomic_min(hits + row + j, name, mask=(j < end) & first_hit, sem="relaxed")
                tl.atomic_min(hits + plane + row + j, name, mask=(j < end) & last_hit, sem="relaxed")
            else:
                tl.atomic_min(near, z, mask=j < end, sem="relaxed")
                tl.atomic_max(far, z, mask=j < end, sem="relaxed")


@triton.jit
def _cross(a0, a1, a2, b0, b1, b2):
    return a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0


@triton.jit
def _corners(points, faces, f, inside):
    """The corners of faces, x y z of each."""
    a, b, c = (
        points + 3 * tl.load(faces + 3 * f, inside, 0),
        points + 3 * tl.load(faces + 3 * f + 1, inside, 0),
        points + 3 * tl.load(faces + 3 * f + 2, inside, 0),
    )
    return (
        tl.load(a), tl.load(a + 1), tl.load(a + 2), tl.load(b), tl.load(b + 1), tl.load(b + 2),
        tl.load(c), tl.load(c + 1), tl.load(c + 2),
    )  # fmt: skip


@triton.jit
def _normals(p):
    """n = (b - a) x (c - a)"""
    return _cross(p[3] - p[0], p[4] - p[1], p[5] - p[2], p[6] - p[0], p[7] - p[1], p[8] - p[2])


@triton.jit
def sum_corners(
    points, screen, faces, structure, grad, lengths, hits, corners,
    vertices, count, structures, height, width,
    HITS: tl.constexpr, NEAR_EDGE_ON: tl.constexpr, UNDERFLOW: tl.constexpr,
    FACES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sum of g w_k / (n . q)^2 over the pixels q of each face, for its three corners k.

    Of exits less entries, and times lengths; or, with HITS, of the pixels that the face won.
    """
    view, f, s, face = _block(screen, faces, structure, vertices, count, height, FACES)
    first, last = face[0], face[2]
    p = _corners(points + 3 * vertices * view, faces, f, f < count)
    n0, n1, n2 = _normals(p)
    n0, n1, n2 = n0[:, None], n1[:, None], n2[:, None]
    one = tl.zeros((FACES, LANES), tl.float64)  # sums of g / (n . q)^2, times 1, i and j
    row_moment, column_moment = one, one
    for r in range(0, tl.max(last - first), LANES):
        i = first + r + tl.arange(0, LANES)[None, :]
        begin, end, sign, _, _, _ = _spans(face, i, width)
        row = ((view * structures + s) * height + i) * width
        for k in range(0, tl.max(end - begin)):
            j = begin + k
            g = tl.load(grad + row + j, j < end, 0).to(tl.float64)
            if HITS:
                g = tl.where(tl.load(hits + row + j, j < end, -1) == f[:, None], g, 0.0)
            else:
                g *= sign * tl.load(lengths + i * width + j, j < end, 0.0).to(tl.float64)
            nq = n0 * j + n1 * i + n2
            sure = tl.abs(nq) > NEAR_EDGE_ON * (tl.abs(n0) * j + tl.abs(n1) * i + tl.abs(n2)) + UNDERFLOW
            share = tl.where(sure, g / tl.where(sure, nq * nq, 1.0), 0.0)
            one += share
            row_moment += share * i
            column_moment += share * j
    one, i, j = tl.sum(one, 1), tl.sum(row_moment, 1), tl.sum(column_moment, 1)
    band = tl.program_id(2) * tl.num_programs(1) + view
    out = corners + 3 * (band * count + f)
    for k in tl.static_range(3):
        # corner k's edge runs from the next corner to the one after: w_k = (next x after) . q
        e = _cross(
            p[(3 * k + 3) % 9],
            p[(3 * k + 4) % 9],
            p[(3 * k + 5) % 9],
            p[(3 * k + 6) % 9],
            p[(3 * k + 7) % 9],
            p[(3 * k + 8) % 9],
        )
        tl.store(out + k, e[0] * j + e[1] * i + e[2] * one, f < count)


@triton.jit
def gather_corners(corners, points, faces, corner, start, gradient, vertices, count, VERTICES: tl.constexpr):
    """dz/da = w_a n / (n . q)^2: at each vertex the sums of its corners times the normals of their faces."""
    view = tl.program_id(1).to(tl.int64)
    v = tl.program_id(0) * VERTICES + tl.arange(0, VERTICES)
    begin = tl.load(start + v, v < vertices, 0)
    end = tl.load(start + v + 1, v < vertices, 0)
    x = tl.zeros((VERTICES,), tl.float64)
    y, z = x, x
    for k in range(0, tl.max(end - begin)):
        inside = begin + k < end
        c = tl.load(corner + begin + k, inside, 0)
        n = _normals(_corners(points + 3 * vertices * view, faces, c // 3, inside))
        w = tl.load(corners + 3 * count * view + c, inside, 0.0)
        x += w * n[0]
        y += w * n[1]
        z += w * n[2]
    out = gradient + 3 * (vertices * view + v)
    tl.store(out, x, v < vertices)
    tl.store(out + 1, y, v < vertices)
    tl.store(out + 2, z, v < vertices)
