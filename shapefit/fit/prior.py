"""What is expected of views and places before an image is seen."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import VIEWS, world_from_view
from shapefit.settings import FitSettings


def view_rotations(settings: FitSettings) -> Float[Tensor, "N 3 3"]:
    """Rotations camera_from_patient of the expected view, or of every standard view."""
    names = VIEWS if settings.view == "any" else (settings.view,)
    origin = torch.zeros(3, dtype=torch.float64)
    return torch.stack([se3.inverse(world_from_view(name, origin, 0.0))[:3, :3] for name in names])


def meeting_point(camera_from_world: Tensor, sdd: float) -> Float[Tensor, "3"]:
    """The point nearest to all principal rays (mm); for one view, or parallel ones, at 3/4 of sdd."""
    world_from_camera = se3.inverse(camera_from_world)
    origin, ray = world_from_camera[:, :3, 3], world_from_camera[:, :3, 2]
    across = torch.eye(3, dtype=ray.dtype) - ray[:, :, None] * ray[:, None, :]
    # a weak pull to the usual depth settles what parallel rays leave open
    usual = (origin + 0.75 * sdd * ray).mean(0)
    matrix = across.sum(0) + 1e-3 * torch.eye(3, dtype=ray.dtype)
    return torch.linalg.solve(matrix, (across @ origin[..., None])[..., 0].sum(0) + 1e-3 * usual)


def departure(
    poses: Float[Tensor, "B P 4 4"],
    camera_from_world: Float[Tensor, "N 4 4"] | None,
    sdd: float,
    settings: FitSettings,
) -> Float[Tensor, "B"]:
    """Zero within the prior of views and places; beyond it a wall that rises over some degrees and cm.

    `poses` take the bone to each camera where views are free, else (P = 1) to the cameras' world.
    Without it a hopeless candidate may drift to the source, where its shadow fills the image.
    """
    if camera_from_world is None:
        near, far = (share * sdd for share in settings.depth_range)
        astray = (poses[..., 2, 3] - poses[..., 2, 3].clamp(near, far)).abs()
        expected = view_rotations(settings)
    else:
        center = meeting_point(camera_from_world, sdd)
        astray = ((poses[..., :3, 3] - center).norm(dim=-1) - settings.translation_range).clamp(min=0)
        expected = torch.eye(3, dtype=poses.dtype)[None]
    cosine = ((poses[:, :, None, :3, :3] * expected).sum((-1, -2)) - 1) / 2
    reach = math.cos(min(math.pi, math.radians(1.5 * settings.rotation_range)))  # three axes may add up
    turned = (reach - cosine.amax(-1)).clamp(min=0)
    return ((astray / 50).square() + (turned / 0.1).square()).sum(1).float()
