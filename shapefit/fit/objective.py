"""How well a bone in a pose explains an X-ray.

The bone's own X-ray is modelled as a cortical shell around a weaker interior: path lengths through
the outer surface and through a copy of it offset inwards along the normals. It is compared with
-log I by correlations in windows of several widths and of image gradients, which no gain, window
level or smooth soft tissue disturbs; with masks, by the overlap of soft silhouettes, bone by bone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from shapefit.camera import Camera
from shapefit.losses import (
    LocalStatistics,
    box_mean,
    gradient_correlation,
    local_correlation,
    local_correlations,
    soft_dice,
)
from shapefit.render.xray import shell_and_interior
from shapefit.settings import FitSettings
from shapefit.view import IGNORE, View

DARKEST = 0.02  # intensity below which -log I says nothing more


@dataclass(frozen=True)
class Evidence:
    """One X-ray, resampled for one step of a fit, with all that does not depend on the bone."""

    camera: Camera
    line: Float[Tensor, "1 H W"]  # -log I, 0 where not valid
    valid: Float[Tensor, "1 H W"]
    statistics: tuple[LocalStatistics, ...]  # one per window
    target: Float[Tensor, "1 S H W"] | None  # share of each pixel in each structure's mask
    compared: Float[Tensor, "1 S H W"] | None  # 1 where the mask speaks of the structure
    masked: Bool[Tensor, "S"] | None  # structures that occur in the masks


def evidence(
    view: View, settings: FitSettings, pixels: int, structures: int, masked: Bool[Tensor, "S"] | None
) -> Evidence:
    """A view at `pixels` along its longer side; `masked` names the structures that its mask speaks of."""
    longest = max(view.camera.height, view.camera.width)
    factor = min(1.0, pixels / longest)
    height, width = (max(1, round(n * factor)) for n in (view.camera.height, view.camera.width))
    camera = view.camera.resized(height, width)

    def resample(values: Tensor) -> Tensor:
        return interpolate(values[None].float(), (height, width), mode="area")[0]

    usable = view.valid[None].float()
    share = resample(usable)
    line = -torch.where(view.valid, view.image, 1.0).clamp(min=DARKEST).log()[None]
    valid = (share > 0.5).float()
    line = resample(line * usable) / share.clamp(min=1e-3) * valid
    pitch = float(camera.delx)
    statistics = tuple(
        LocalStatistics(line, valid, max(5, 2 * round(window / pitch / 2) + 1)) for window in settings.windows
    )
    target = compared = None
    if view.mask is not None:
        ids = torch.arange(1, structures + 1)[:, None, None]
        speaks = (view.mask != IGNORE) & view.valid
        target = resample((view.mask == ids) & speaks)[None]
        compared = resample(speaks.expand(structures, -1, -1))[None] * masked[None, :, None, None]
    return Evidence(camera, line, valid, statistics, target, compared, masked)


def bone_xray(
    vertices: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    structure: Int[Tensor, "F"],
    camera_from_bone: Float[Tensor, "B 4 4"],
    camera: Camera,
    shell: float,
    interior: float,
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B S H W"]]:
    """Attenuation (mm of cortex) and path length in each structure (mm) of shell-and-interior bones.

    `shell` is the thickness of the cortex in mm, `interior` the attenuation inside relative to it.
    """
    outer, inside = shell_and_interior(vertices, faces, camera_from_bone, camera, shell, structure)
    return outer.sum(1) - (1 - interior) * inside[:, 0], outer


def similarity(attenuation: Float[Tensor, "B H W"], seen: Evidence) -> dict[str, Float[Tensor, "B"]]:
    """Local correlation (mean over windows) and gradient correlation of bones with an X-ray."""
    batch = len(attenuation)
    valid = seen.valid.expand(batch, -1, -1)
    local = torch.stack([local_correlation(attenuation, s, floor=1.0) for s in seen.statistics]).mean(0)
    return {"local": local, "gradient": gradient_correlation(attenuation, seen.line.expand_as(valid), valid)}


def agreement(attenuation: Float[Tensor, "B H W"], seen: Evidence) -> Float[Tensor, "B"]:
    """Local correlation where the bone casts a shadow, by which a fit is accepted; 0 if it casts none.

    Unlike `similarity` it does not depend on how much of the image is bone.
    """
    on_bone = (attenuation > 0) * seen.valid
    maps = torch.stack([local_correlations(attenuation, s, floor=1.0) for s in seen.statistics]).mean(0)
    return (maps * on_bone).sum((1, 2)) / on_bone.sum((1, 2)).clamp(min=1)


def overlap(
    paths: Float[Tensor, "B S H W"], seen: Evidence, temperature: float, blur: int
) -> Float[Tensor, "B"]:
    """Soft Dice of silhouettes with the masks, mean over the structures that the masks speak of.

    A path of `temperature` mm counts as 63 % bone; both sides are smoothed over `blur` pixels so
    that silhouettes feel masks that they do not touch yet.
    """
    occupancy = (1 - torch.exp(-paths / temperature)) * seen.compared
    target = (seen.target * seen.compared).expand_as(occupancy)
    if blur > 1:
        occupancy, target = (_smooth(x, blur) for x in (occupancy, target))
    dice = soft_dice(occupancy, target, torch.ones_like(occupancy))
    return (dice * seen.masked).sum(1) / seen.masked.sum()


def _smooth(image: Tensor, window: int) -> Tensor:
    flat = image.flatten(0, 1)
    return box_mean(box_mean(flat, window), window).view_as(image)
