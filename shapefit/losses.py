"""How alike two images are, and what a prior says: differentiable, batched, tolerant of unusable pixels.

Images are (B, H, W); `valid` (B, H, W) or (H, W) is 1 where a pixel counts and 0 elsewhere.
Similarities lie in [-1, 1] and are larger for better matches; each returns one number per image.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def box_mean(image: Float[Tensor, "B H W"], window: int) -> Float[Tensor, "B H W"]:
    """Mean over a window of `window` pixels (odd) around each pixel; beyond the border counts as zero.

    Two products with band matrices: for images of some hundred pixels faster than pooling, also backwards.
    """
    rows, columns = (_band(n, window).to(image) for n in image.shape[1:])
    return rows @ image @ columns


def local_moments(
    image: Float[Tensor, "B H W"],
    valid: Float[Tensor, "#B H W"],
    window: int,
    inverse: Float[Tensor, "#B H W"],
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Mean and variance of the valid pixels in each window; `inverse` is 1 / their share of the window."""
    mean = box_mean(image * valid, window) * inverse
    variance = (box_mean(image * image * valid, window) * inverse - mean * mean).clamp(min=0)
    return mean, variance


class LocalStatistics:
    """What `local_correlation` needs to know of a fixed image, computed once."""

    def __init__(self, fixed: Float[Tensor, "B H W"], valid: Float[Tensor, "B H W"], window: int):
        self.window, self.valid = window, valid
        self.inverse = 1 / box_mean(valid, window).clamp(min=1e-6)
        self.mean, variance = local_moments(fixed, valid, window, self.inverse)
        # windows that hardly vary are noise: damp them by a fraction of the typical variation
        typical = (variance * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
        self.inverse_std = (variance + 0.02 * typical[:, None, None] + 1e-12).rsqrt()
        self.fixed = fixed * valid


def local_correlation(
    moving: Float[Tensor, "B H W"], fixed: LocalStatistics, floor: float = 1e-4
) -> Float[Tensor, "B"]:
    """Mean over the valid pixels of the correlation in the window around each (`local_correlations`)."""
    correlation, valid = local_correlations(moving, fixed, floor), fixed.valid
    return (correlation * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def local_correlations(
    moving: Float[Tensor, "B H W"], fixed: LocalStatistics, floor: float = 1e-4
) -> Float[Tensor, "B H W"]:
    """Correlation coefficient of two images in the window around each pixel (local NCC, Cachier et al. 2003).

    `floor` (squared units of `moving`) damps windows in which the moving image is flat: such
    windows count as uncorrelated, so a moving image that leaves the field is not rewarded.
    """
    mean, variance = local_moments(moving, fixed.valid, fixed.window, fixed.inverse)
    covariance = box_mean(moving * fixed.fixed, fixed.window) * fixed.inverse - mean * fixed.mean
    return covariance * fixed.inverse_std * (variance + floor).rsqrt()


def gradient_correlation(
    moving: Float[Tensor, "B H W"], fixed: Float[Tensor, "B H W"], valid: Float[Tensor, "B H W"]
) -> Float[Tensor, "B"]:
    """Correlation of the horizontal and of the vertical image gradients, averaged (Penney et al. 1998)."""
    total = moving.new_zeros(len(moving))
    for axis in (1, 2):
        both = valid.narrow(axis, 0, valid.shape[axis] - 2) * valid.narrow(axis, 2, valid.shape[axis] - 2)
        slopes = [
            (image.narrow(axis, 2, image.shape[axis] - 2) - image.narrow(axis, 0, image.shape[axis] - 2))
            * both
            for image in (moving, fixed)
        ]
        count = both.sum((1, 2), keepdim=True).clamp(min=1)
        a, b = ((s - s.sum((1, 2), keepdim=True) / count) * both for s in slopes)
        norm = ((a * a).sum((1, 2)) * (b * b).sum((1, 2)) + 1e-12).sqrt()
        total = total + (a * b).sum((1, 2)) / norm
    return total / 2


def soft_dice(
    occupancy: Float[Tensor, "B S H W"], target: Float[Tensor, "B S H W"], valid: Float[Tensor, "B S H W"]
) -> Float[Tensor, "B S"]:
    """Overlap 2 |A and B| / (|A| + |B|) of soft masks (Milletari et al. 2016), over valid pixels."""
    a, b = occupancy * valid, target * valid
    squares = (a * a).sum((2, 3)) + (b * b).sum((2, 3))
    return (2 * (a * b).sum((2, 3)) + 1e-6) / (squares + 1e-6)


def coefficient_prior(coefficients: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """Half the squared Mahalanobis distance from the mean shape: -log density, up to a constant."""
    return 0.5 * coefficients.square().sum(-1)


@lru_cache(maxsize=64)
def _band(size: int, window: int) -> Tensor:
    place = torch.arange(size)
    return ((place[:, None] - place).abs() <= window // 2).float() / window
