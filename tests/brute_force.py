"""What a mesh's X-ray must be, by brute force: every ray against every face, in extended precision.

Shares no formula with the kernels' coverage: a face is hit where the ray passes its three edges on the same
side (signs of tetrahedra's volumes), by vertices that are placed in the camera's frame here.
"""

from typing import NamedTuple

import numpy as np

NEAR = 1e-10  # a ray this near an edge (tangent of the angle) may see it or not: rounding decides
MOVED = 2e-10  # pixels: how far from its centre a pixel may be looked at, to keep ties away
ASIDE = 1e-6  # pixels: how far the neighbours lie that bound what such a ray may carry


class Rays(NamedTuple):
    """What each pixel's ray (P,) meets; lengths in mm."""

    path: np.ndarray  # inside the mesh
    first: np.ndarray  # depth (camera z) of the first entry, 0 for a miss
    last: np.ndarray  # depth of the last exit
    shake: np.ndarray  # mm of path for every mm by which the vertices move, at most
    unclear: np.ndarray  # the ray passes an edge or a vertex within rounding
    misses: np.ndarray  # nothing is near


def trace(vertices, faces, camera_from_world, camera, u, v) -> Rays:
    """Rays through the points (u, v) (P,) in pixels of the detector."""
    real = np.longdouble
    matrix = np.asarray(camera_from_world, real)
    placed = np.asarray(vertices, real) @ matrix[:3, :3].T + matrix[:3, 3]
    a, b, c = np.moveaxis(placed[np.asarray(faces)], 1, 0)
    fx, fy = real(camera.sdd) / real(camera.delx), real(camera.sdd) / real(camera.dely)
    cx = real(camera.width - 1) / 2 + real(camera.x0) / real(camera.delx)
    cy = real(camera.height - 1) / 2 + real(camera.y0) / real(camera.dely)
    d = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(np.shape(u), real)], -1)
    length = np.sqrt((d * d).sum(-1))
    edges = np.stack([np.cross(p, q) for p, q in ((b, c), (c, a), (a, b))])
    face, ray = _pairs(edges.astype(float), d.astype(float))
    sides = np.stack([(e[face] * d[ray]).sum(-1) for e in edges])
    near = NEAR * np.sqrt((edges * edges).sum(-1))[:, face]
    exits = (sides > 0).all(0)
    hit = exits | (sides < 0).all(0)
    surely = (sides > near).all(0) | (sides < -near).all(0)
    maybe = (sides >= -near).all(0) | (sides <= near).all(0)
    unclear = np.zeros(len(d), bool)
    unclear[ray[maybe & ~surely]] = True

    face, ray, exits = face[hit], ray[hit], exits[hit]
    normal = np.cross(b - a, c - a)
    along = (normal[face] * d[ray]).sum(-1)
    depth = (a * normal).sum(-1)[face] / np.where(along != 0, along, 1)
    steepness = np.sqrt((normal * normal).sum(-1))[face] / np.abs(np.where(along != 0, along, 1))
    path, shake, first, last = (np.full(len(d), start, real) for start in (0, 0, np.inf, 0))
    np.add.at(path, ray, np.where(exits, depth, -depth))
    np.add.at(shake, ray, steepness)
    np.minimum.at(first, ray, depth)
    np.maximum.at(last, ray, depth)
    missed = np.isinf(first)
    first[missed] = 0
    made = [array.astype(float) for array in (path * length, first, last, shake * length)]
    return Rays(*made, unclear, missed & ~unclear)


def _pairs(edges, d) -> tuple[np.ndarray, np.ndarray]:
    """Which faces and rays are worth a close look: those that miss by less than a millionth, or hit."""
    near = (1e-6 * np.linalg.norm(edges, axis=-1) + 1e-9)[..., None]
    sides = edges @ d.T
    return np.nonzero((sides > -near).all(0) | (sides < near).all(0))


def pixel_centres(camera) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (H W,) of every pixel."""
    v, u = np.meshgrid(np.arange(float(camera.height)), np.arange(float(camera.width)), indexing="ij")
    return u.reshape(-1), v.reshape(-1)


def bounds(vertices, faces, camera_from_world, camera) -> tuple[np.ndarray, np.ndarray, Rays]:
    """Least and largest path (H W,) in mm that each pixel may show, given float64 arithmetic, and its ray.

    A ray clear of every edge has one path, to what moving it by `MOVED` pixels, or the vertices by 1e-12 of
    their distance, changes. One that passes an edge within rounding may show what its neighbours `ASIDE`
    pixels around it show, and what lies between.
    """
    u, v = pixel_centres(camera)
    rays = trace(vertices, faces, camera_from_world, camera, u, v)
    matrix, points = np.asarray(camera_from_world, float), np.asarray(vertices, float)
    points = points[np.asarray(faces)].reshape(-1, 3)
    furthest = (points @ matrix[2, :3] + matrix[2, 3]).max()
    pixel = furthest * max(camera.delx, camera.dely) / camera.sdd  # mm
    rounding = 1e-12 * max(np.abs(matrix[:3, 3]).max(), np.abs(points).max())
    low, high = rays.path.copy(), rays.path.copy()
    slack = rays.shake * (rounding + MOVED * pixel) + 1e-10
    which = np.flatnonzero(rays.unclear)
    if len(which):
        around = [
            trace(vertices, faces, camera_from_world, camera, u[which] + x, v[which] + y)
            for x, y in (ASIDE * np.stack([np.cos(t), np.sin(t)]) for t in np.arange(8) * np.pi / 4 + 0.1)
        ]
        paths = np.stack([ray.path for ray in around])
        low[which], high[which] = paths.min(0), paths.max(0)
        # between the neighbours the path runs with at most the slope of the faces they hit
        slack[which] += np.stack([ray.shake for ray in around]).max(0) * 2 * ASIDE * pixel
    return low - slack, high + slack, rays


def compare(image, vertices, faces, camera_from_world, camera) -> Rays:
    """Assert that an image (H, W) in mm lies within the bounds and is exactly 0 where nothing is near."""
    low, high, rays = bounds(vertices, faces, camera_from_world, camera)
    shown = np.asarray(image, float).reshape(-1)
    wrong = np.flatnonzero(~((shown >= low) & (shown <= high)))
    lines = [
        f"pixel {divmod(int(p), camera.width)}: {shown[p]:.9g} mm, expected {low[p]:.9g} to {high[p]:.9g}"
        for p in wrong[:5]
    ]
    assert not len(wrong), f"{len(wrong)} pixels of {len(shown)} are wrong\n" + "\n".join(lines)
    assert (shown[rays.misses] == 0).all()
    return rays
