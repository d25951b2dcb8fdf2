"""The prior of C-arm views: from where a bone is looked at, drawn at random."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.settings import SimulateSettings

FARTHEST = 3.0  # standard deviations at which normal draws end
TRIES = 50  # poses drawn until enough of the bone lies in the field


def draw_camera(settings: SimulateSettings, rng: np.random.Generator) -> Camera:
    """A square detector of `settings.pixels` pixels, its principal point within 2 % of its middle."""
    sdd, width = rng.uniform(*settings.sdd), rng.uniform(*settings.detector)
    pitch = width / settings.pixels
    x0, y0 = rng.normal(0.0, 0.007 * width, 2).clip(-0.02 * width, 0.02 * width)
    return Camera(sdd, pitch, pitch, float(x0), float(y0), settings.pixels, settings.pixels)


def draw_pose(camera: Camera, settings: SimulateSettings, rng: np.random.Generator) -> Float[Tensor, "4 4"]:
    """A pose camera_from_bone (mm) of a bone about its own origin, from the prior that the settings state.

    The bone is turned about the patient's long axis, tilted about the left-right axis, then looked at as in
    the settings' view, and the image is spun about the principal ray.
    """
    turn, tilt = (math.radians(rng.uniform(-reach, reach)) for reach in (settings.turn, settings.tilt))
    spin = math.radians(settings.spin * _normal(rng))
    origin = torch.zeros(3, dtype=torch.float64)
    view = se3.inverse(world_from_view(settings.view, origin, 0.0))
    pose = _about(2, spin) @ view @ _about(0, tilt) @ _about(2, turn)
    pose[:3, 3] = torch.tensor([settings.shift[0] * _normal(rng), settings.shift[1] * _normal(rng), 0.0])
    pose[2, 3] = (settings.depth + settings.depth_std * _normal(rng)) * float(camera.sdd)
    return pose


def draw_visible_pose(
    vertices: Float[Tensor, "V 3"], camera: Camera, settings: SimulateSettings, rng: np.random.Generator
) -> Float[Tensor, "4 4"]:
    """A pose of the prior that has `settings.least_visible` of the vertices (mm) in the field.

    Raises ValueError if the prior hardly holds such poses.
    """
    size = torch.tensor([camera.width - 1.0, camera.height - 1.0])
    for _ in range(TRIES):
        pose = draw_pose(camera, settings, rng)
        if se3.transform(pose, vertices)[:, 2].min() <= 0:
            continue
        places = camera.project(pose, vertices)
        inside = ((places >= 0) & (places <= size)).all(-1)
        if inside.float().mean() >= settings.least_visible:
            return pose
    raise ValueError(
        f"none of {TRIES} poses of the prior shows {settings.least_visible:.0%} of the bone: it is beyond "
        "the field or the source; change --depth, --detector, --shift or --least-visible"
    )


def _normal(rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(), -FARTHEST, FARTHEST))


def _about(axis: int, angle: float) -> Tensor:
    twist = torch.zeros(6, dtype=torch.float64)
    twist[axis] = angle
    return se3.exp(twist)
