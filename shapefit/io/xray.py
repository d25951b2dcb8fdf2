"""X-ray pictures, cameras and masks on disk -> View: bone dark, in [0, 1], as seen from the source."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from scipy import ndimage
from torch import Tensor

from shapefit.io.camera import read_camera, write_camera
from shapefit.io.dicom import is_dicom, read_dicom_camera
from shapefit.io.image import IMAGE_SUFFIXES, read_pixels, write_image, write_mask
from shapefit.view import View

__all__ = [
    "detect_polarity",
    "read_camera",
    "read_image",
    "read_mask",
    "read_view",
    "write_camera",
    "write_image",
    "write_mask",
]

POLARITIES = ("auto", "bone-dark", "bone-bright")
SEEN_FROM = ("source", "detector")

# `detect_polarity` answers from this score on, of 2; real views score 0.95 and more
_CERTAIN = 0.2


def read_image(
    path: str | Path, polarity: str = "auto", seen_from: str = "source", frame: int | None = None
) -> Float32[Tensor, "H W"]:
    """Read an X-ray picture as intensity in [0, 1], bone dark, as seen from the source.

    PNG and TIFF (8, 16 bit, float), NIfTI, DICOM, .npy. `polarity` says how bone looks in the file, with
    "auto" from the DICOM tags or `detect_polarity`; `seen_from="detector"` flips the columns. Grey values
    are taken as linear: 8-bit ones are divided by 255, floats within [0, 1] are kept, others are divided
    by the largest (after a shift to 0 if some are negative). `frame` counts from 0.
    Raises ValueError, with the file's name, for what is not a grey image, is empty (also: of one value
    throughout), has NaN or infinite pixels, or whose polarity cannot be told.
    """
    if polarity not in POLARITIES:
        raise ValueError(f"unknown polarity {polarity!r}; expected one of {', '.join(POLARITIES)}")
    pixels = read_pixels(path, frame)
    array = pixels.array.astype(np.float64)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ValueError(f"{path} is an empty image: every pixel is {low:g}")
    if polarity == "auto":
        polarity = pixels.polarity or detect_polarity(array)
        if polarity == "unknown":
            raise ValueError(f"{path}: cannot tell whether bone is dark or bright; say --polarity")
    if low < 0:
        array, high = array - low, high - low
    white = pixels.white or max(high, 1.0)
    array = array / white
    if polarity == "bone-bright":
        array = 1 - array
    return torch.from_numpy(_seen_from_source(array, seen_from).astype(np.float32))


def detect_polarity(image: Shaped[np.ndarray, "H W"]) -> str:
    """Whether bone is dark or bright in a picture: "bone-dark", "bone-bright" or "unknown".

    Two signs. Cortical bone, seen edge on, draws fine lines: dark ones hold more than bright ones where
    bone is dark (black against white top-hat, 5 and 9 px of 192). And what lies beside the patient gets
    all the X-rays: the quartiles of the border lie above those of the interior. A flat rim (blades, a
    round field) is left out of the first; where it takes most of the border, the second hardly counts.
    Where the signs contradict each other the answer is "unknown".
    """
    array = np.asarray(image, dtype=np.float64)
    size = min(array.shape)
    if size > 192:
        array = ndimage.zoom(ndimage.gaussian_filter(array, size / 384), 192 / size, order=1)
    edge = max(1, round(0.03 * min(array.shape)))  # frames of a pixel or two
    array = array[edge:-edge, edge:-edge]
    if array.size == 0 or min(array.shape) < 16 or np.ptp(array) == 0:
        return "unknown"
    rim = np.ones(array.shape, dtype=bool)
    rim[1:-1, 1:-1] = False
    flat = _flat_from(array, rim)
    smooth = ndimage.gaussian_filter(array, 1.0)
    inner = ndimage.binary_erosion(~flat, iterations=8)
    lines = 0.0
    for width in (5, 9):
        dark, bright = (
            float(hat(smooth, width)[inner].sum()) for hat in (ndimage.black_tophat, ndimage.white_tophat)
        )
        lines += 0.5 * (dark - bright) / max(dark + bright, 1e-12)
    border = ndimage.binary_dilation(rim, iterations=max(2, min(array.shape) // 16))
    spread = float(np.ptp(np.percentile(smooth, [5, 95]))) or 1.0
    beside = (
        np.subtract(*(np.percentile(smooth[part], [25, 75]) for part in (border, ~border))).sum() / spread
    )
    collimated = flat[rim].mean() > 0.5
    score = np.clip(lines / 0.15, -1, 1) + (0.3 if collimated else 1.0) * np.clip(beside / 0.5, -1, 1)
    if abs(score) < _CERTAIN:
        return "unknown"
    return "bone-dark" if score > 0 else "bone-bright"


def _flat_from(array: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """What touches the rim at the darkest or brightest value: blades, a round field, burnt-out air."""
    flat = np.zeros(array.shape, dtype=bool)
    for extreme in (array.min(), array.max()):
        parts, _ = ndimage.label(np.abs(array - extreme) <= 0.01 * np.ptp(array))
        flat |= np.isin(parts, np.setdiff1d(parts[rim], 0))
    return flat


def read_mask(path: str | Path, seen_from: str = "source", frame: int | None = None) -> UInt8[Tensor, "H W"]:
    """Read structure ids (1-based, 0 background, 255 ignore) from PNG, TIFF, NIfTI or .npy.

    Raises ValueError, with the file's name, for what is not an image, or not of whole numbers 0 to 255.
    """
    array = read_pixels(path, frame, labels=True).array
    whole = np.rint(array)
    if not np.array_equal(whole, array) or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{path} is not a mask: its values run from {array.min():g} to {array.max():g}; "
            "expected whole numbers, 0 to 255"
        )
    return torch.from_numpy(_seen_from_source(whole.astype(np.uint8), seen_from))


def read_view(
    image_path: str | Path,
    camera_path: str | Path | None = None,
    mask_path: str | Path | None = None,
    polarity: str = "auto",
    seen_from: str = "source",
    frame: int | None = None,
) -> View:
    """Read an X-ray picture, its camera file and, if given, its mask.

    Without a camera file the geometry must be in the picture's DICOM tags. The camera describes the
    picture as held here, seen from the source; `seen_from="detector"` flips picture and mask.
    Raises ValueError as the readers do, and where image, camera and mask differ in size.
    """
    image = read_image(image_path, polarity, seen_from, frame)
    if camera_path is not None:
        camera, pose = read_camera(camera_path)
    elif is_dicom(image_path):
        camera, pose = read_dicom_camera(image_path)
    else:
        raise ValueError(f"{image_path} says nothing of its geometry; give its camera file with --camera")
    size = (camera.height, camera.width)
    if tuple(image.shape) != size:
        raise ValueError(
            f"{image_path} has {image.shape[0]} rows and {image.shape[1]} columns, its camera "
            f"{camera_path or 'tags'} height {size[0]} and width {size[1]}"
        )
    mask = None if mask_path is None else read_mask(mask_path, seen_from)
    if mask is not None and tuple(mask.shape) != size:
        raise ValueError(
            f"{mask_path} has {mask.shape[0]} rows and {mask.shape[1]} columns, its image {image_path} "
            f"{size[0]} and {size[1]}"
        )
    name = Path(image_path).name
    for suffix in IMAGE_SUFFIXES:
        name = name.removesuffix(suffix)
    return View(image=image, camera=camera, world_from_camera=pose, mask=mask, name=name)


def _seen_from_source(array: np.ndarray, seen_from: str) -> np.ndarray:
    if seen_from not in SEEN_FROM:
        raise ValueError(f"unknown seen_from {seen_from!r}; expected one of {', '.join(SEEN_FROM)}")
    return np.ascontiguousarray(array[:, ::-1] if seen_from == "detector" else array)
