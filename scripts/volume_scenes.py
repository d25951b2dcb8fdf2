"""What the benchmark of the volume renderers draws: bodies whose line integrals are known, and Siddon again.

A body is a sum of ellipsoids of density rho (1 - r^2)^power, where r is 1 on the ellipsoid's surface and
nothing lies beyond it. `power` 0 has sharp edges, 3 has two continuous derivatives, and along any line the
integral is closed: with b the least r on the line and h = sqrt(1 - b^2), in units of r,

    integral of (1 - b^2 - t^2)^power dt over |t| < h  =  h^(2 power + 1) B(1/2, power + 1).
"""

import math
from typing import NamedTuple

import numpy as np
import torch

import shapefit as sf
from shapefit import se3

SDD, CENTRE = 1020.0, 700.0  # source to detector, and to the centre of the volume; mm
SIDE = 256.0  # edge of the volume, mm, whatever its voxels
FIELD = 360.0  # edge of the detector, mm: every ray meets the volume
SMOOTH, SHARP = 3, 0  # powers
TURNS = ((0.35, -0.2, 0.5), (-0.6, 0.25, 0.1), (1.2, 0.4, -0.3))  # generic rotations of the volume, rad


class Body(NamedTuple):
    centre: torch.Tensor  # (E, 3) mm
    axes: torch.Tensor  # (E, 3) half axes, mm
    turn: torch.Tensor  # (E, 3, 3) world from the ellipsoid's own axes
    density: torch.Tensor  # (E,) at the centre, 1/mm
    power: int


def body(power: int, lumps: int = 8) -> Body:
    """A trunk of 200 mm with lumps of 12 to 30 mm in it, well inside the volume."""
    rng = np.random.default_rng(7)
    centre = np.concatenate([[[3.0, -5.0, 2.0]], rng.uniform(-45, 45, (lumps, 3))])
    axes = np.concatenate([[[105.0, 80.0, 95.0]], rng.uniform(12, 30, (lumps, 3))])
    turn = se3.exp(torch.from_numpy(np.pad(rng.normal(size=(lumps + 1, 3)), ((0, 0), (0, 3)))))[:, :3, :3]
    turn[0] = torch.eye(3)
    density = np.concatenate([[0.02], rng.uniform(0.02, 0.05, lumps)])
    return Body(torch.from_numpy(centre), torch.from_numpy(axes), turn, torch.from_numpy(density), power)


def camera(size: int) -> sf.Camera:
    return sf.Camera(SDD, FIELD / size, FIELD / size, 0.0, 0.0, size, size)


def pose(twist: torch.Tensor, view: int = 0) -> torch.Tensor:
    """camera_from_world (4, 4) of a view, the volume moved by a twist (rad, mm) about its own centre."""
    base = torch.eye(4, dtype=torch.float64)
    base[:3, :3] = se3.exp(torch.tensor([*TURNS[view], 0, 0, 0], dtype=torch.float64))[:3, :3]
    base[:3, 3] = torch.tensor([4.0, -6.0, CENTRE])
    return base.to(twist) @ se3.exp(twist)


def still(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.zeros(6, dtype=dtype)


def world_from_voxel(count: int) -> torch.Tensor:
    """The grid of count^3 voxels that fills the cube of SIDE mm about the origin of the world."""
    matrix = torch.eye(4, dtype=torch.float64) * (SIDE / count)
    matrix[:3, 3] = (SIDE / count - SIDE) / 2
    matrix[3, 3] = 1
    return matrix


def share_seen() -> float:
    """The share of the volume that rays of a detector meet at the first pose."""
    place = (torch.arange(64, dtype=torch.float64) + 0.5) * SIDE / 64 - SIDE / 2
    shadow = camera(1000).project(pose(still()), torch.cartesian_prod(place, place, place))
    return float(((shadow > -0.5) & (shadow < 999.5)).all(-1).double().mean())


def weight(size: int) -> torch.Tensor:
    """A smooth weight of each pixel (H, W), of mean about a half: gradients are taken of its mean product."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.exp(-((place[:, None] - 0.4) ** 2 + (place[None, :] - 0.45) ** 2) / 0.1) / size**2


def rays(camera_from_world: torch.Tensor, seen: sf.Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """The source (3,) and each pixel's direction per mm of depth (H, W, 3), in the world; differentiable."""
    world_from_camera = se3.inverse(camera_from_world)
    j, i = torch.arange(seen.width).to(camera_from_world), torch.arange(seen.height).to(camera_from_world)
    q = torch.stack(
        [*torch.broadcast_tensors(j[None, :], i[:, None]), torch.ones_like(i)[:, None].expand(-1, len(j))], -1
    )
    inward = torch.linalg.inv(seen.intrinsics().to(camera_from_world))
    return world_from_camera[:3, 3], q @ (world_from_camera[:3, :3] @ inward).mT


def integrals(of: Body, camera_from_world: torch.Tensor, seen: sf.Camera) -> torch.Tensor:
    """Line integrals of the body itself along every ray (H, W), float64, differentiable in the pose."""
    source, direction = rays(camera_from_world, seen)
    beta = math.sqrt(math.pi) * math.gamma(of.power + 1) / math.gamma(of.power + 1.5)
    image = torch.zeros_like(direction[..., 0])
    for centre, axes, turn, density in zip(*of[:4], strict=True):
        u, v = ((source - centre) @ turn) / axes, (direction @ turn) / axes
        square = (v * v).sum(-1)
        inside = 1 - u @ u + (v @ u) ** 2 / square
        image = image + density * beta * inside.clamp(min=0) ** (of.power + 0.5) / square.sqrt()
    return image * direction.norm(dim=-1)


def voxels(of: Body, count: int, fine: int = 4) -> torch.Tensor:
    """Values of count^3 voxels, float32: at their centres, but means of fine^3 points across sharp edges."""
    grid = torch.zeros((count,) * 3)
    spacing = SIDE / count
    parts = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine - 0.5
    offsets = torch.cartesian_prod(parts, parts, parts) * spacing
    for centre, axes, turn, density in zip(*of[:4], strict=True):
        reach = ((turn * axes) ** 2).sum(-1).sqrt()
        low = ((centre - reach + SIDE / 2) / spacing - 0.5).floor().long().clamp(min=0)
        high = ((centre + reach + SIDE / 2) / spacing - 0.5).ceil().long().clamp(max=count - 1)
        places = [
            (torch.arange(a, b + 1) + 0.5) * spacing - SIDE / 2 - c
            for a, b, c in zip(low.tolist(), high.tolist(), centre.tolist(), strict=True)
        ]
        across = turn / axes
        plane = places[1][:, None, None] * across[1] + places[2][None, :, None] * across[2]
        box = grid[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1]
        for layer, x in zip(box, places[0], strict=True):
            point = plane + x * across[0]
            squared = (point * point).sum(-1)
            if of.power:
                layer += (density * (1 - squared).clamp(min=0) ** of.power).float()
                continue
            near = (squared.sqrt() - 1).abs() < 0.9 * spacing / float(axes.min())
            within = (squared < 1).double()
            finer = point[near][:, None] + offsets @ across
            within[near] = ((finer * finer).sum(-1) < 1).double().mean(-1)
            layer += (density * within).float()
    return grid


def siddon(
    data: np.ndarray, world_from_voxel: np.ndarray, source: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Integrals of constant voxels along rays (N, 3) from one source, in float64: all crossings, sorted.

    Each ray's crossings with every plane between voxels are sorted, and the voxel of each piece is that of
    its middle: slow and plain, not the walk from voxel to voxel of the library's kernels.
    """
    voxel_from_world = np.linalg.inv(world_from_voxel)
    start = voxel_from_world[:3, :3] @ source + voxel_from_world[:3, 3]
    result = np.zeros(len(direction))
    for n, along in enumerate(direction @ voxel_from_world[:3, :3].T):
        crossings = [
            (np.arange(size + 1) - 0.5 - s) / d
            for size, s, d in zip(data.shape, start, along, strict=True)
            if d
        ]
        z = np.sort(np.concatenate(crossings))
        z = z[z > 0]
        index = np.floor(start + 0.5 * (z[1:] + z[:-1])[:, None] * along + 0.5).astype(np.int64)
        kept = ((index >= 0) & (index < data.shape)).all(-1)
        values = data[tuple(index[kept].T)].astype(np.float64)
        result[n] = (values * np.diff(z)[kept]).sum() * np.linalg.norm(direction[n])
    return result
