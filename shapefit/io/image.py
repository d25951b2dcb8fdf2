"""Grey pictures on disk <-> arrays: PNG, TIFF, NIfTI, DICOM and .npy, without any idea of what they show."""

from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import tifffile
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from shapefit.io.atomic import atomic_path
from shapefit.io.dicom import is_dicom, read_dicom_pixels

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm", ".npy")
WRITE_SUFFIXES = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".npy")
_SCALE = "scale"  # text chunk of our PNG files: value of one grey level


class Pixels(NamedTuple):
    """A grey picture as its file shows it, row 0 at the top."""

    array: Shaped[np.ndarray, "H W"]
    white: float | None  # the value that stands for full intensity, where the file or its type says so
    polarity: str | None  # "bone-dark" or "bone-bright", where the file says so


def read_pixels(path: str | Path, frame: int | None = None, labels: bool = False) -> Pixels:
    """Read one grey picture by its suffix (or, for DICOM, its content); `frame` counts from 0.

    `labels=True` keeps the indices of a palette picture, which are the labels of many masks.
    Raises ValueError, with the file's name, for what is absent, not an image, in colour, empty, of
    several frames without a choice of one, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: 0 bytes")
    if is_dicom(path):
        array, polarity = read_dicom_pixels(path, frame)
        return Pixels(_checked(path, array, None), None, polarity)
    name = path.name.lower()
    try:
        if name.endswith(".png"):
            array, white = _read_png(path, labels)
        elif name.endswith((".tif", ".tiff")):
            array, white = _read_tiff(path), None
        elif name.endswith((".nii", ".nii.gz")):
            # NIfTI counts columns first; (i, j) of the file is (column, row) of the picture
            array, white = np.asanyarray(nibabel.load(path).dataobj).T, None
        elif name.endswith(".npy"):
            array, white = np.load(path, allow_pickle=False), None
        else:
            raise ValueError(f"expected a name that ends in {', '.join(IMAGE_SUFFIXES)}")
    except Exception as error:  # every library has errors of its own
        raise ValueError(f"{path} is not a readable image: {error}") from error
    array = _checked(path, array, frame)
    if white is None and array.dtype == np.uint8:
        white = 255.0
    return Pixels(array, white, None)


def write_image(
    path: str | Path, image: Float[Tensor, "H W"], spacing: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Write a picture by suffix, whole or not at all; returns the value of one grey level.

    TIFF, NIfTI and .npy keep the values as float32 (returns 1). PNG has 16 bit: values in [0, 1] are written
    against 1, larger ones against the largest, and the value of a grey level is kept in the file (text
    "scale"), so that `value = scale * level`. `spacing` is (row, column) mm per pixel, for NIfTI.
    Raises ValueError for another suffix, values that are not finite and, in PNG, negative ones.
    """
    path = Path(path)
    array = image.detach().cpu().numpy().astype(np.float32)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"cannot write {path}: {bad} values are NaN or infinite")
    name = path.name.lower()
    if not name.endswith(WRITE_SUFFIXES):
        raise ValueError(f"cannot write an image as {path.name}; expected {', '.join(WRITE_SUFFIXES)}")
    scale = 1.0
    with atomic_path(path) as temporary:
        if name.endswith(".png"):
            if array.min() < 0:
                raise ValueError(f"cannot write {path}: PNG holds no negative values; use .tif or .npy")
            scale = max(float(array.max()), 1.0) / 65535
            text = PngImagePlugin.PngInfo()
            text.add_text(_SCALE, repr(scale))
            levels = np.rint(array / scale).astype(np.uint16)
            Image.fromarray(levels).save(temporary, format="PNG", pnginfo=text)
        elif name.endswith((".tif", ".tiff")):
            tifffile.imwrite(temporary, array, photometric="minisblack")
        elif name.endswith(".npy"):
            np.save(temporary, array, allow_pickle=False)
        else:
            # upright in viewers: columns run to -x and rows to -y of RAS, as ITK writes pictures
            affine = np.diag([-float(spacing[1]), -float(spacing[0]), 1.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(array.T[:, :, None], affine), temporary)
    return scale


def write_mask(path: str | Path, mask: UInt8[Tensor, "H W"]) -> None:
    """Write structure ids as an 8-bit PNG or as .npy, whole or not at all."""
    path = Path(path)
    array = mask.cpu().numpy()
    if path.suffix.lower() not in (".png", ".npy"):
        raise ValueError(f"cannot write a mask as {path.name}; expected .png or .npy")
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".png":
            Image.fromarray(array).save(temporary, format="PNG")
        else:
            np.save(temporary, array, allow_pickle=False)


def _read_png(path: Path, labels: bool) -> tuple[np.ndarray, float | None]:
    with Image.open(path) as image:
        if image.format != "PNG":
            raise ValueError(f"it is a {image.format} file with the name of a PNG")
        scale = image.info.get(_SCALE)
        if image.mode == "P":
            image = image if labels else image.convert("RGB")
        elif image.mode in ("LA", "PA"):
            image = image.convert("L")
        array = np.array(image)
    if scale is not None and array.dtype.kind in "ui":
        return array * float(scale), None
    return array, None


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        array = file.asarray()
        inverted = file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if inverted and array.dtype.kind == "u":
        return np.iinfo(array.dtype).max - array
    return array


def _checked(path: Path, array: np.ndarray, frame: int | None) -> np.ndarray:
    """The one grey picture that an array is, or an error that says why it is none."""
    if array.dtype.kind not in "buif":
        raise ValueError(f"{path} is not an image: its values are of type {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{path} is an empty image, of shape {array.shape}")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        red, green, blue = (array[..., k] for k in range(3))
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            raise ValueError(f"{path} is a colour image; export it in grey")
        array = red
    array = array.squeeze() if array.ndim > 2 else array
    if array.ndim == 3:
        if frame is None:
            raise ValueError(f"{path} holds {array.shape[0]} frames; choose one (from 0)")
        if not 0 <= frame < array.shape[0]:
            raise ValueError(f"{path} has no frame {frame}; it holds 0 to {array.shape[0] - 1}")
        array = array[frame]
    if array.ndim != 2:
        raise ValueError(f"{path} is not an image: its shape is {array.shape}; expected rows and columns")
    if array.dtype.kind == "f" and (bad := int((~np.isfinite(array)).sum())):
        raise ValueError(f"{path} has {bad} pixels that are NaN or infinite; replace them")
    return array.astype(np.uint8) if array.dtype == bool else array
