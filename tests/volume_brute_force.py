"""Small volumes before cameras, and what their X-rays must be, by brute force in extended precision.

Shares no formula with the kernels: the weight of each voxel in each ray is worked out for itself, from the
voxel's box (siddon) or from the pieces of its hat function (trilinear), as a dense matrix.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from twins import BACKENDS  # noqa: F401

from shapefit.camera import Camera
from shapefit.render.volume import render_volume
from shapefit.volume import Volume

METHODS = ("siddon", "trilinear", "raymarch")
REAL = np.longdouble
SHAPES = [(1, 1, 1), (2, 3, 5), (1, 5, 3), (7, 1, 1), (1, 1, 11), (5, 7, 3), (4, 4, 4), (3, 2, 2)]


class Scene(NamedTuple):
    volume: Volume
    camera_from_world: torch.Tensor  # (4, 4)
    camera: Camera


def scene(seed: int, size=(6, 7), voxel: float = 1.0, labelled: bool = False) -> Scene:
    """An oblique, sheared and flipped grid of voxels about `voxel` mm wide, that fills most of the field."""
    rng = np.random.default_rng([seed, 5])
    shape = SHAPES[seed % len(SHAPES)]
    data = torch.from_numpy(rng.normal(size=shape))
    structure = torch.from_numpy(rng.choice([0, 1, 2, 255], shape).astype(np.uint8)) if labelled else None
    axes = Rotation.random(rng=rng).as_matrix() @ (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    axes = axes * rng.uniform(0.6, 1.5, 3) * rng.choice([-1, 1], 3) * voxel
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = axes, rng.uniform(-30, 30, 3) * voxel
    centre = place[:3, :3] @ ((np.array(shape) - 1) / 2) + place[:3, 3]
    extents = np.linalg.norm(axes * np.array(shape), axis=0)
    distance, reach = extents.max() * rng.uniform(1.5, 4), extents.prod() ** (1 / 3)
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = Rotation.random(rng=rng).as_matrix()
    aim = np.append(rng.uniform(-0.05, 0.05, 2) * reach, distance)
    camera_from_world[:3, 3] = aim - camera_from_world[:3, :3] @ centre
    sdd = distance * rng.uniform(1.2, 2)
    pitch = 1.3 * reach * sdd / distance / max(size)
    seen_by = Camera(sdd, pitch, pitch * 1.1, pitch * 0.3, -pitch * 0.2, *size)
    names = ("a", "b", "c") if labelled else ()
    volume = Volume(data, torch.from_numpy(place), structure, names)
    return Scene(volume, torch.from_numpy(camera_from_world), seen_by)


def shown(given: Scene, backend: str, method: str = "trilinear", **how) -> torch.Tensor:
    """The image of one view (S, H, W), or (S, N) where pixels are asked for, wherever the backend runs."""
    return views(given, given.camera_from_world[None], backend, method, **how)[0]


def views(given: Scene, poses: torch.Tensor, backend: str, method: str, **how) -> torch.Tensor:
    volume = given.volume
    if backend == "triton" and torch.cuda.is_available():
        structure = None if volume.structure is None else volume.structure.cuda()
        volume = Volume(volume.data.cuda(), volume.world_from_voxel.cuda(), structure, volume.names)
        poses = poses.cuda()
        how = {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in how.items()}
    return render_volume(volume, poses, given.camera, method, backend=backend, **how).cpu()


def rays(given: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source (3,) and directions (P, 3) in voxels for a mm of depth, and mm of ray for a mm of depth (P,)."""
    seen_by, pose = given.camera, np.asarray(given.camera_from_world.detach(), REAL)
    fields = (seen_by.sdd, seen_by.delx, seen_by.dely, seen_by.x0, seen_by.y0)
    sdd, delx, dely, x0, y0 = (REAL(float(field)) for field in fields)
    i, j = np.meshgrid(np.arange(seen_by.height), np.arange(seen_by.width), indexing="ij")
    x = (j.reshape(-1) - (REAL(seen_by.width - 1) / 2 + x0 / delx)) * delx / sdd
    y = (i.reshape(-1) - (REAL(seen_by.height - 1) / 2 + y0 / dely)) * dely / sdd
    beams = np.stack([x, y, np.ones_like(x)], -1)
    place = np.asarray(given.volume.world_from_voxel.detach(), REAL)
    voxel_from_world, world_from_camera = _inverse(place[:3, :3]), _inverse(pose[:3, :3])
    source = voxel_from_world @ (-world_from_camera @ pose[:3, 3] - place[:3, 3])
    return source, beams @ (voxel_from_world @ world_from_camera).T, np.sqrt((beams**2).sum(-1))


def _inverse(m: np.ndarray) -> np.ndarray:
    cofactors = np.stack([np.cross(m[1], m[2]), np.cross(m[2], m[0]), np.cross(m[0], m[1])])
    return (cofactors / (cofactors[0] @ m[0])).T


def weights(given: Scene, method: str, step: float = 1.0) -> np.ndarray:
    """mm of each ray's length that fall to each voxel (P, voxels)."""
    source, directions, lengths = rays(given)
    centres = np.stack(np.unravel_index(np.arange(given.volume.data.numel()), given.volume.data.shape), -1)
    rule = {"siddon": _lengths_in_boxes, "trilinear": _hat_integrals}.get(method)
    rows = []
    for direction in directions:
        if rule:
            rows.append(rule(source, direction, centres.astype(REAL)))
        else:
            rows.append(_hat_samples(source, direction, centres.astype(REAL), REAL(step)))
    return np.stack(rows) * lengths[:, None]


def expected(given: Scene, method: str, step: float = 1.0) -> np.ndarray:
    """What `shown` must be: (S, H, W)."""
    matrix, volume = weights(given, method, step), given.volume
    data = volume.data.detach().double().numpy().reshape(-1)
    channels = [data]
    if volume.structure is not None:
        label = volume.structure.numpy().reshape(-1)
        channels = [np.where(label == s, data, 0) for s in range(len(volume.names))]
    images = [(matrix @ channel).astype(float) for channel in channels]
    return np.stack(images).reshape(-1, given.camera.height, given.camera.width)


def _lengths_in_boxes(source, direction, centres):
    begin, end = np.zeros(len(centres), REAL), np.full(len(centres), np.inf, REAL)
    for axis in range(3):
        low, high = centres[:, axis] - 0.5, centres[:, axis] + 0.5
        if direction[axis] == 0:  # a voxel owns its lower border
            end = np.where((source[axis] >= low) & (source[axis] < high), end, 0)
            continue
        one, two = ((side - source[axis]) / direction[axis] for side in (low, high))
        begin, end = np.maximum(begin, np.minimum(one, two)), np.minimum(end, np.maximum(one, two))
    return np.maximum(end - begin, 0)


def _hat(x):
    return np.maximum(1 - np.abs(x), 0).prod(-1)


def _hat_integrals(source, direction, centres):
    moving = np.flatnonzero(direction)
    borders = (centres[:, moving, None] + np.array([-1, 0, 1]) - source[moving, None]) / direction[
        moving, None
    ]
    depth = np.sort(np.maximum(borders.reshape(len(centres), -1), 0), 1)
    nodes, shares = np.polynomial.legendre.leggauss(4)
    middle, half = (depth[:, 1:] + depth[:, :-1]) / 2, np.diff(depth) / 2
    total = np.zeros(len(centres), REAL)
    for node, share in zip(nodes, shares, strict=True):
        z = middle + REAL(node) * half
        x = source + z[..., None] * direction
        total += (REAL(share) * half * _hat(x - centres[:, None])).sum(1)
    return total


def _hat_samples(source, direction, centres, step):
    corners = np.array([centres.min(0) - 1, centres.max(0) + 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (corners - source) / direction
    depth = depth[:, direction != 0]
    first, last = max(depth.min(0).max(), 0), depth.max(0).min()
    samples = np.arange(np.floor(first / step) - 1, np.floor(last / step) + 2) if last > first else []
    total = np.zeros(len(centres), REAL)
    for n in samples:
        if n >= 0:
            total += step * _hat(source + (n + REAL(0.5)) * step * direction - centres)
    return total
