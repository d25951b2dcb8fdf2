"""How alike a bone's line integrals and an X-ray are: correlation within patches, of values and of slopes.

An X-ray is compared as -log I. Within a patch, offset and gain of either side do not matter, so that neither
the exposure, nor the display's window, nor smooth soft tissue is asked for. A patch with its mean taken away
and scaled to unit length is a vector, and the correlation of two patches is their product. All patches
together are one vector of features, for images and bones alike: the loss is 1 - the product of two vectors of
about unit length, and both gradient descent and Gauss-Newton steps follow from it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from shapefit.camera import Camera
from shapefit.view import View

DARKEST = 0.02  # intensity below which -log I says nothing more
FLOOR = 1e-3  # variance of line integrals below which a patch of the bone's X-ray counts as flat
QUIET = 0.02  # variance of a patch of the X-ray, relative to the typical one, below which it counts as noise
USABLE = 0.5  # share of a patch's pixels that must be valid
STRUCTURED = 10 * FLOOR  # variance of line integrals from which a patch counts as showing bone


class Seen(NamedTuple):
    """One X-ray at one resolution."""

    camera: Camera
    line: Float[Tensor, "H W"]  # -log I, 0 where not valid
    valid: Float[Tensor, "H W"]  # 1 or 0


class Patches(NamedTuple):
    """Square parts of an X-ray and what is compared in them."""

    pixels: Int[Tensor, "P E E"]  # flat indices i * W + j
    valid: Float[Tensor, "P E E"]
    features: Float[Tensor, "F"]  # of the X-ray


def seen(view: View, pixels: int) -> Seen:
    """A view at `pixels` along its longer side, never finer than it is."""
    longest = max(view.camera.height, view.camera.width)
    factor = min(1.0, pixels / longest)
    height, width = (max(1, round(n * factor)) for n in (view.camera.height, view.camera.width))

    def resample(values: Tensor) -> Tensor:
        return interpolate(values[None, None].float(), (height, width), mode="area")[0, 0]

    share = resample(view.valid)
    line = -torch.where(view.valid, view.image, 1.0).clamp(min=DARKEST).log()
    valid = (share > USABLE).float()
    return Seen(view.camera.resized(height, width), resample(line) / share.clamp(min=1e-3) * valid, valid)


def tiles(image: Seen, edge: int) -> Int[Tensor, "P E E"]:
    """Patches that cover the whole image, evenly spread; the last ones overlap where they must."""
    height, width = image.line.shape
    edge = _fitting(edge, height, width)
    rows, columns = (
        torch.linspace(0, n - edge, -(-n // edge)).round().long().to(image.line.device)
        for n in (height, width)
    )
    corners = (rows[:, None] * width + columns).flatten()
    return _squares(corners, edge, width)


def random_patches(image: Seen, edge: int, rays: int, generator: torch.Generator) -> Int[Tensor, "P E E"]:
    """As many patches at random places as `rays` pay for; `tiles`, where they pay for all or are 0."""
    height, width = image.line.shape
    edge = _fitting(edge, height, width)
    if not 0 < rays < height * width:
        return tiles(image, edge)
    count = max(1, rays // edge**2)
    rows, columns = (torch.randint(n - edge + 1, (count,), generator=generator) for n in (height, width))
    return _squares((rows * width + columns).to(image.line.device), edge, width)


def patches(image: Seen, pixels: Int[Tensor, "P E E"], gradient_weight: float) -> Patches:
    """The X-ray's side of the comparison."""
    values, valid = image.line.flatten()[pixels], image.valid.flatten()[pixels]
    mean = (values * valid).sum() / valid.sum().clamp(min=1)
    spread = ((values - mean).square() * valid).sum() / valid.sum().clamp(min=1)
    return Patches(pixels, valid, features(values[None], valid, gradient_weight, QUIET * float(spread))[0])


def features(
    values: Float[Tensor, "B P E E"],
    valid: Float[Tensor, "P E E"],
    gradient_weight: float,
    floor: float = FLOOR,
) -> Float[Tensor, "B F"]:
    """Patches and their quarters, and slopes in patches, each without its mean and of unit length or less.

    The squared length of all together is at most 1. `floor` is a variance that makes flat patches short.
    """
    edge = values.shape[-1]
    parts = [_unit(blocks(values, size), blocks(valid[None], size)[0], floor) for size in (edge, edge // 2)]
    steep = []
    for axis in (-2, -1):
        both = valid.narrow(axis, 0, edge - 1) * valid.narrow(axis, 1, edge - 1)
        # a slope is the difference of two pixels, so its variance is judged by about that of a pixel's noise
        steep.append(_unit(values.diff(dim=axis).flatten(2), both.flatten(1), floor / 10))
    total = 2 * (1 + gradient_weight)
    weights = [1 / total, 1 / total, gradient_weight / total, gradient_weight / total]
    return torch.cat([w**0.5 * part.flatten(1) for w, part in zip(weights, parts + steep, strict=True)], 1)


def agreement(values: Float[Tensor, "P E E"], here: Patches, gradient_weight: float) -> float:
    """Mean correlation of the quarters of patches in which the bone shows; 0 if it shows in none."""
    edge = values.shape[-1]
    block, valid = blocks(values[None], edge // 2)[0], blocks(here.valid[None], edge // 2)[0]
    count = valid.sum(-1)
    mean = (block * valid).sum(-1) / count.clamp(min=1)
    variance = ((block - mean[:, None]).square() * valid).sum(-1) / count.clamp(min=1)
    shows = (variance > STRUCTURED) & (count > USABLE * block.shape[-1])
    if not shows.any():
        return 0.0
    size = block.numel()
    start = edge * edge * len(values)
    length = (2 * (1 + gradient_weight)) ** 0.5
    fixed = here.features[start : start + size].view_as(block) * length
    own = _unit(block[None], valid, FLOOR)[0]
    # each vector was scaled by the number of usable patches, which is taken back
    usable = (count > USABLE * block.shape[-1]).sum()
    return float((own * fixed).sum(-1)[shows].mean() * usable)


def blocks(values: Float[Tensor, "B P E E"], size: int) -> Float[Tensor, "B Q N"]:
    """Square blocks of `size` pixels' edge, each flattened."""
    return (
        values.unflatten(-1, (-1, size)).unflatten(-3, (-1, size)).transpose(-3, -2).flatten(1, 3).flatten(2)
    )


def _unit(block: Float[Tensor, "B Q N"], valid: Float[Tensor, "Q N"], floor: float) -> Float[Tensor, "B Q N"]:
    """Blocks without their mean, of unit length, all divided by the square root of how many can be used."""
    count = valid.sum(-1)
    usable = (count > USABLE * block.shape[-1]).to(block)
    count = count.clamp(min=1)
    centred = (block - ((block * valid).sum(-1) / count)[..., None]) * valid
    variance = centred.square().sum(-1) / count
    scale = (count * (variance + floor)).rsqrt() * usable / usable.sum().clamp(min=1).sqrt()
    return centred * scale[..., None]


def _fitting(edge: int, height: int, width: int) -> int:
    return 2 * max(1, min(edge, height, width) // 2)


def _squares(corners: Int[Tensor, "P"], edge: int, width: int) -> Int[Tensor, "P E E"]:
    along = torch.arange(edge, device=corners.device)
    return corners[:, None, None] + (along[:, None] * width + along)
