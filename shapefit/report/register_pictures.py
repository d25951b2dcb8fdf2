"""Pictures of a registration: the bone's edges over the X-ray, its own X-ray, and what differs."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.feature import canny
from torch import Tensor

from shapefit.camera import Camera
from shapefit.io.atomic import atomic_path
from shapefit.report.colours import rgb, signed_steps
from shapefit.report.overlay import picture
from shapefit.view import View

LONGEST, SHORTEST = 640, 256  # px of a drawn picture's longer side, for large and small X-rays
WINDOW = (
    12.0  # mm on the detector, standard width of the windows in which brightness and contrast are equalised
)
REACH = 2.5  # standard deviations at which the difference's colours end
_COMPARED = 384  # px of the longer side on which differences are taken
DARKEST = 0.02  # intensity below which -log I says nothing more
COVERED = 1e-3  # share of a part's largest value from which a pixel counts as its shadow


def drawn_camera(camera: Camera, longest: int | None = None) -> Camera:
    """The same detector with `longest` (640) pixels along its longer side; fewer where it has few itself."""
    native = max(camera.height, camera.width)
    factor = min(longest or LONGEST, max(SHORTEST, 3 * native)) / native
    return camera.resized(*(max(1, round(n * factor)) for n in (camera.height, camera.width)))


def xray_picture(view: View, height: int, width: int) -> UInt8[ndarray, "H W"]:
    """The X-ray, bone dark, contrast stretched, in another size; a dark one is brightened."""
    stretched = picture(view) / 255.0
    middle = float(np.median(stretched[view.valid.cpu().numpy()]))
    power = float(np.clip(np.log(0.45) / np.log(np.clip(middle, 0.02, 0.45)), 0.4, 1.0))
    return np.round(np.clip(_resized(stretched**power, height, width), 0, 1) * 255).astype(np.uint8)


def drr_picture(line: Float[ndarray, "H W"]) -> UInt8[ndarray, "H W"]:
    """Line integrals as an X-ray without anything around the bone (a DRR), bone dark, contrast stretched."""
    shadow = line[line > COVERED * max(float(line.max()), 1e-9)]
    dense = max(float(np.percentile(shadow, 99.0)), 1e-6) if shadow.size else 1.0
    # the square root keeps thin bone visible beside thick
    grey = 1 - 0.9 * np.sqrt(np.clip(line / dense, 0, 1))
    return np.round((0.03 + 0.94 * grey) * 255).astype(np.uint8)


def edges(part: Float[ndarray, "H W"]) -> Float[ndarray, "H W"]:
    """How much of each pixel the edges of a shadow cover, 0 to 1: its outline and its sharp lines.

    Canny 1986 on the square root of the line integrals, which weighs thin and thick bone alike.
    """
    top = float(part.max())
    if top <= 0:
        return np.zeros(part.shape)
    root = np.sqrt(np.clip(part / top, 0, None))
    width = max(part.shape) / 400
    # the border of the picture is no edge of the bone
    padded = np.pad(root, 8, mode="edge")
    found = canny(padded, sigma=1.0 + width, low_threshold=0.045, high_threshold=0.13, mode="nearest")
    found[:8], found[-8:], found[:, :8], found[:, -8:] = False, False, False, False
    line = gaussian_filter(found.astype(np.float64), 0.35 + 0.2 * width)
    return np.clip(line[8:-8, 8:-8] * (1.1 + 0.7 * width), 0, 1)


def overlay(
    grey: UInt8[ndarray, "H W"], parts: Float[ndarray, "S H W"], colours: Sequence[str]
) -> UInt8[ndarray, "H W 3"]:
    """An X-ray with the edges of each part of the bone in its colour, with a dark rim."""
    drawn = np.repeat(grey[..., None].astype(np.float64), 3, axis=2)
    lines = [edges(part) for part in parts]
    rim = np.clip(gaussian_filter(np.max(lines, axis=0), max(grey.shape) / 560), 0, 0.35)[..., None]
    drawn *= 1 - rim
    for line, colour in zip(lines, colours, strict=True):
        drawn += (np.array(rgb(colour)) - drawn) * line[..., None]
    return np.round(np.clip(drawn, 0, 255)).astype(np.uint8)


def difference(
    view: View, line: Float[ndarray, "H W"], pitch: float
) -> tuple[Float[ndarray, "H W"], Float[ndarray, "H W"]]:
    """X-ray less bone, each in standard deviations of its surroundings, and how much each pixel counts.

    Compared are -log I and the line integrals, without the mean and the spread of a Gaussian window of 12 mm
    on the detector, so that exposure and soft tissue play no part. Pixels far from the bone count 0.
    `pitch`: mm per pixel of `line`, which may be finer than the view.
    """
    height, width = line.shape
    usable = view.valid.cpu().numpy()
    intensity = np.where(usable, np.nan_to_num(view.image.detach().cpu().numpy()), 1.0)
    seen = _resized(-np.log(np.clip(intensity, DARKEST, None)), height, width)
    valid = _resized(usable.astype(np.float64), height, width)
    sigma = WINDOW / pitch
    bone = line > COVERED * max(float(line.max()), 1e-9)
    near = np.clip(2 * gaussian_filter(bone.astype(np.float64), sigma / 2), 0, 1) * (valid > 0.5)
    share = np.maximum(gaussian_filter(near, sigma), 1e-6)

    def equalised(values: ndarray) -> ndarray:
        mean = gaussian_filter(values * near, sigma) / share
        variance = np.maximum(gaussian_filter((values - mean) ** 2 * near, sigma) / share, 0)
        typical = float(np.average(variance, weights=near)) if near.any() else 1.0
        return (values - mean) / np.sqrt(variance + 0.1 * typical + 1e-12)

    return equalised(seen) - equalised(line), near


def difference_picture(view: View, line: Float[ndarray, "H W"], pitch: float) -> UInt8[ndarray, "H W 3"]:
    """`difference` in colour: red where the X-ray is denser than the bone says, blue where it is less."""
    height, width = line.shape
    small = [max(1, round(n * min(1.0, _COMPARED / max(height, width)))) for n in (height, width)]
    values, near = difference(view, _resized(line, *small), pitch * width / small[1])
    values = gaussian_filter(
        values, max(0.8, 0.8 * small[1] / view.camera.width)
    )  # the noise of single pixels
    values, near = _resized(values, height, width), _resized(near, height, width)
    steps = np.array([rgb(colour) for colour in signed_steps(65)], dtype=np.float64)
    place = np.clip((values * near / REACH + 1) / 2, 0, 1) * (len(steps) - 1)
    low = np.minimum(place.astype(int), len(steps) - 2)
    between = (place - low)[..., None]
    painted = steps[low] * (1 - between) + steps[low + 1] * between
    return np.round(np.clip(painted, 0, 255)).astype(np.uint8)


def arrays(image: Tensor) -> ndarray:
    """Line integrals as doubles for the functions here."""
    return image.detach().cpu().to(torch.float64).numpy()


def enlarged(parts: Float[ndarray, "S H W"], height: int, width: int) -> Float[ndarray, "S M N"]:
    """Line integrals that were taken on fewer pixels."""
    return np.maximum(np.stack([_resized(part, height, width) for part in parts]), 0.0)


def webp(pixels: UInt8[ndarray, "H W *channels"], quality: int = 84) -> bytes:
    """A picture for a page."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def write_png(path: str | Path, pixels: UInt8[ndarray, "H W *channels"]) -> None:
    """A picture for a folder, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", optimize=True)


def _resized(values: Float[ndarray, "H W"], height: int, width: int) -> Float[ndarray, "M N"]:
    kind = Image.Resampling.BICUBIC if width > values.shape[1] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), kind), np.float64)
