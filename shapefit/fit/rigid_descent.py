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
from shapefit.fit.belief import Belief
from shapefit.fit.rigid_likeness import Patches, Seen, features, patches, random_patches, tiles
from shapefit.fit.rigid_matter import line_integrals
from shapefit.fit.start import Bone
from shapefit.settings import RegisterSettings
from shapefit.volume import Volume

PROBE = 0.1  # units over which the features' change is taken
RENEWED = 3  # steps for which a curvature serves
LONGEST = 1.5  # units, the longest step
SETTLED = 2e-6  # change of the loss that ends a descent


class Scene(NamedTuple):
    """A bone and its X-rays at one resolution."""

    matter: Volume | Bone
    seen: list[Seen]
    camera_from_world: Float64[Tensor, "N 4 4"]
    centre: Float64[Tensor, "3"]  # of the bone, in its own mm
    axes: Float64[Tensor, "3 3"]  # columns: directions of tangent steps, in the world
    unit: Float64[Tensor, "6"]  # steps of about the same effect: radians and mm
    settings: RegisterSettings
    belief: Belief | None = None  # of a network, in the pose world_from_bone


def drawn(scene: Scene, rays: int, generator: torch.Generator | None = None) -> list[Patches]:
    """Patches of every view: at random places, as many as `rays` for all views pay for, or all over it.

    Of a mesh every ray is traced at once, so that a few would save nothing.
    """
    settings, parts = scene.settings, []
    rays = 0 if isinstance(scene.matter, Bone) else rays
    for image in scene.seen:
        pixels = (
            tiles(image, settings.patch)
            if generator is None
            else random_patches(image, settings.patch, rays // len(scene.seen), generator)
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


def costs(scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]) -> Float64[Tensor, "B"]:
    """What is descended: the losses' mean, and how far poses are from where a network saw the bone."""
    loss = losses(scene, poses, compared).double().mean(1)
    if scene.belief is None:
        return loss
    surprise = scene.belief.surprise(poses[:, None], poses.new_zeros(len(poses), 0))
    return loss + scene.settings.belief * surprise


def moved(
    scene: Scene, poses: Float64[Tensor, "*batch 4 4"], twist: Float64[Tensor, "*twists 6"]
) -> Float64[Tensor, "*moved 4 4"]:
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
    compared: list[Patches],
    track: list[tuple[float, Tensor]],
) -> tuple[Float64[Tensor, "B 4 4"], Float64[Tensor, "B"]]:
    """Gradient descent in the metric of Gauss and Newton, damped (Levenberg 1944, Marquardt 1963).

    The gradient is the renderer's own, exact at every step. The curvature follows from how the features
    change: they have almost constant length, so that the loss is half the squared distance of two vectors.
    It is renewed every few steps, by one picture per direction. A step that does not lower the loss is taken
    back. Returns the best poses and their losses; `track` takes the least loss of each step and its pose.
    """
    batch, curvature = len(poses), torch.eye(6).to(poses).repeat(len(poses), 1, 1)
    best, gradient = torch.full((batch,), torch.inf).to(poses), torch.zeros(batch, 6).to(poses)
    damping, stretch = torch.full((batch,), 1e-2).to(poses), torch.full((batch,), 2.0).to(poses)
    trial, renewed = poses, -RENEWED
    for k in range(steps + 1):
        loss, slope = _slope(scene, trial, compared)
        better = loss < best  # never where the loss is not a number
        settled = better & (best - loss < SETTLED)
        poses = torch.where(better[:, None, None], trial, poses)
        gradient = torch.where(better[:, None], slope, gradient)
        best = torch.where(better, loss, best)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-4, 1e8)
        # noise is no part of the bone's features: where the best match is poor, full steps are too short
        stretch = torch.where(better, stretch * 1.6, stretch / 3).clamp(0.5, 10.0)
        winner = int(best.argmin())
        track.append((float(best[winner]), poses[winner]))
        if k == steps or (settled | (damping > 1e4)).all():
            break
        if k - renewed >= RENEWED:
            curvature, renewed = _curvature(scene, poses, compared), k
        ridge = damping[:, None] * curvature.diagonal(dim1=1, dim2=2) + 1e-6
        step = -torch.linalg.solve(curvature + torch.diag_embed(ridge), gradient)
        step = stretch[:, None] * step
        step = step / (step.norm(dim=1, keepdim=True) / LONGEST).clamp(min=1)
        trial = moved(scene, poses, step)
    return poses, best


def _slope(
    scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B 6"]]:
    """What is descended, and its gradient in a step's twist."""
    twist = torch.zeros(len(poses), 6).to(poses).requires_grad_()
    with torch.enable_grad():
        loss = costs(scene, moved(scene, poses, twist), compared)
        (gradient,) = torch.autograd.grad(loss.sum(), twist)
    return loss.detach(), gradient


@torch.no_grad()
def _curvature(
    scene: Scene, poses: Float64[Tensor, "B 4 4"], compared: list[Patches]
) -> Float64[Tensor, "B 6 6"]:
    """Products of the features' derivatives in each direction of a step, and the belief's own curvature."""
    probes = torch.cat([torch.zeros(1, 6), PROBE * torch.eye(6)]).to(poses)
    probed = moved(scene, poses[:, None], probes).flatten(0, 1)
    total = torch.zeros(len(poses), 6, 6).to(poses)
    if scene.belief is not None:
        away = scene.belief.away(probed[:, None], poses.new_zeros(len(probed), 0)).unflatten(0, (-1, 7))
        slope = (away[:, 1:] - away[:, :1]).mT / PROBE
        total = scene.settings.belief * scene.belief.curvature(away[:, 0], slope)
    for own in described(scene, probed, compared):
        own = own.unflatten(0, (len(poses), 7))
        jacobian = ((own[:, 1:] - own[:, :1]) / PROBE).double()
        total = total + jacobian @ jacobian.mT / len(compared)
    return total
