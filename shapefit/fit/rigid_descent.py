"""How poses of a rigid bone are judged and how they move, many side by side.

A pose moves by tangent steps about the bone's centre, never about the world's origin: there a turn hardly
shifts the picture, so that turns and shifts can be told apart. The axes are the world's, or, for one
view, those of the ray through the centre, along which an X-ray hardly tells a shift.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from shapefit import se3
from shapefit.fit.rigid_likeness import Patches, Seen, features, patches, random_patches, tiles
from shapefit.fit.rigid_matter import line_integrals
from shapefit.fit.start import Bone
from shapefit.settings import RegisterSettings
from shapefit.volume import Volume


class Scene(NamedTuple):
    """A bone and its X-rays at one resolution."""

    matter: Volume | Bone
    seen: list[Seen]
    camera_from_world: Float64[Tensor, "N 4 4"]
    centre: Float64[Tensor, "3"]  # of the bone, in its own mm
    axes: Float64[Tensor, "3 3"]  # columns: directions of tangent steps, in the world
    unit: Float64[Tensor, "6"]  # steps of about the same effect: radians and mm
    settings: RegisterSettings


def drawn(scene: Scene, rays: int, generator: torch.Generator | None) -> list[Patches]:
    """Patches of every view: at random places, as many as `rays` pay for, or all over it."""
    settings, parts = scene.settings, []
    for image in scene.seen:
        pixels = (
            tiles(image, settings.patch)
            if generator is None
            else random_patches(image, settings.patch, rays, generator)
        )
        parts.append(patches(image, pixels, settings.gradient_weight))
    return parts


def described(
    scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]
) -> list[Float[Tensor, "B F"]]:
    """Features of the bone's X-ray at poses world_from_bone, per view."""
    result = []
    for image, camera_from_world, part in zip(scene.seen, scene.camera_from_world, compared, strict=True):
        pixels = part.pixels.flatten()
        lines = line_integrals(scene.matter, camera_from_world @ poses, image.camera, pixels, scene.settings)
        values = lines.unflatten(1, part.pixels.shape)
        result.append(features(values, part.valid, scene.settings.gradient_weight))
    return result


def losses(scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]) -> Float[Tensor, "B N"]:
    """1 - correlation of each pose in each view: 0 is a perfect match, about 1 no likeness at all."""
    found = described(scene, poses, compared)
    return torch.stack([1 - own @ part.features for own, part in zip(found, compared, strict=True)], 1)


def moved(
    scene: Scene, poses: Float64[Tensor, "*batch 4 4"], twist: Float64[Tensor, "*batch 6"]
) -> Float64[Tensor, "*batch 4 4"]:
    """Poses world_from_bone after a turn about the bone's centre and a shift, in the scene's units."""
    step = (twist * scene.unit).unflatten(-1, (2, 3)) @ scene.axes.T
    turn = se3.exp(torch.cat([step[..., 0, :], torch.zeros_like(step[..., 0, :])], -1))[..., :3, :3]
    there = se3.transform(poses, scene.centre[None])[..., 0, :]
    shift = there + step[..., 1, :] - (turn @ there[..., None])[..., 0]
    turned = turn @ poses[..., :3, :]
    top = torch.cat([turned[..., :3], turned[..., 3:] + shift[..., None]], -1)
    return torch.cat([top, poses[..., 3:, :].expand(*top.shape[:-2], 1, 4)], -2)


def descend(
    scene: Scene,
    poses: Float64[Tensor, "B 4 4"],
    steps: int,
    rate: float,
    rays: int,
    generator: torch.Generator,
    track: list[tuple[float, Tensor]],
) -> Float64[Tensor, "B 4 4"]:
    """Adam (Kingma & Ba 2015) on tangent steps with a cosine schedule, every step on patches of its own."""
    twist = torch.zeros(len(poses), 6, dtype=torch.float64, device=poses.device, requires_grad=True)
    optimizer = torch.optim.Adam([twist], lr=rate, betas=(0.8, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1 * rate)
    for _ in range(steps):
        optimizer.zero_grad()
        each = losses(scene, moved(scene, poses, twist), drawn(scene, rays, generator)).mean(1)
        each.sum().backward()
        best = int(each.argmin())
        track.append((float(each[best]), moved(scene, poses, twist)[best].detach()))
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return moved(scene, poses, twist)


@torch.no_grad()
def polish(
    scene: Scene,
    poses: Float64[Tensor, "B 4 4"],
    steps: int,
    compared: list[Patches],
    track: list[tuple[float, Tensor]],
    reach: float = 0.1,
) -> tuple[Float64[Tensor, "B 4 4"], Float64[Tensor, "B"]]:
    """Gauss-Newton with Levenberg's and Marquardt's damping; returns the poses and their losses.

    The features have almost constant length, so that 1 - their product is half the squared distance
    of two vectors: the Jacobian of the features alone gives the curvature. Differences over `reach` units
    make it, one picture per direction.
    """
    batch, device = len(poses), poses.device
    probes = torch.cat([torch.zeros(1, 6), reach * torch.eye(6)]).to(poses)
    damping = torch.full((batch,), 1e-2, dtype=torch.float64, device=device)
    trial, settled = poses, torch.zeros(batch, dtype=torch.bool, device=device)
    best = torch.full((batch,), torch.inf, dtype=torch.float64, device=device)
    hessian = torch.eye(6).to(poses).repeat(batch, 1, 1)
    gradient = torch.zeros(batch, 6).to(poses)
    for _ in range(steps + 1):
        views = described(scene, moved(scene, trial[:, None], probes).flatten(0, 1), compared)
        loss, curve, slope = torch.zeros_like(best), torch.zeros_like(hessian), torch.zeros_like(gradient)
        for own, part in zip(views, compared, strict=True):
            own = own.unflatten(0, (batch, 7))
            jacobian = ((own[:, 1:] - own[:, :1]) / reach).double()
            curve = curve + jacobian @ jacobian.mT / len(compared)
            slope = slope - jacobian @ part.features.double() / len(compared)
            loss = loss + (1 - own[:, 0].double() @ part.features.double()) / len(compared)
        better = loss < best
        settled = better & (best - loss < 1e-6)
        poses = torch.where(better[:, None, None], trial, poses)
        hessian = torch.where(better[:, None, None], curve, hessian)
        gradient = torch.where(better[:, None], slope, gradient)
        best = torch.where(better, loss, best)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-6, 1e6)
        winner = int(best.argmin())
        track.append((float(best[winner]), poses[winner]))
        if settled.all():
            break
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        ridge = torch.diag_embed(damping[:, None] * diagonal + 1e-9)
        step = -torch.linalg.solve(hessian + ridge, gradient)
        trial = moved(scene, poses, step)
    return poses, best
