"""DICOM X-ray pictures (XA, RF, CR, DX): pixels, and geometry where the tags give it."""

from pathlib import Path

import numpy as np
import pydicom
import torch
from jaxtyping import Float64, Num
from torch import Tensor

from shapefit.camera import Camera


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its content ("DICM" after 128 bytes) or its suffix .dcm."""
    path = Path(path)
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"


def read_dicom_pixels(
    path: str | Path, frame: int | None = None
) -> tuple[Num[np.ndarray, "H W"], str | None]:
    """The picture as a viewer shows it (rescaled, MONOCHROME1 inverted), and its polarity where known.

    The polarity comes from PixelIntensityRelationshipSign: 1 if low stored values mean few X-rays.
    Raises ValueError, with the file's name, for a file without pixels, in colour, or of several frames
    without a choice of one (`frame` counts from 0).
    """
    data = _dataset(path)
    if "PixelData" not in data:
        raise ValueError(f"{path} is DICOM without an image: the tag PixelData is missing")
    kind = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{path} is a {kind} image; expected MONOCHROME1 or MONOCHROME2")
    try:
        array = data.pixel_array
    except Exception as error:  # each transfer syntax has decoders and errors of its own
        raise ValueError(f"{path}: its pixels cannot be decoded: {error}") from error
    if array.ndim == 3:
        if frame is None and array.shape[0] > 1:
            raise ValueError(f"{path} holds {array.shape[0]} frames; choose one (from 0)")
        frame = frame or 0
        if not 0 <= frame < array.shape[0]:
            raise ValueError(f"{path} has no frame {frame}; it holds 0 to {array.shape[0] - 1}")
        array = array[frame]
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    array = array * slope + intercept
    sign = data.get("PixelIntensityRelationshipSign")
    bone_dark = None if sign not in (1, -1) else (sign * slope > 0)
    if kind == "MONOCHROME1":
        array = array.max() + array.min() - array
        bone_dark = None if bone_dark is None else not bone_dark
    return array, None if bone_dark is None else ("bone-dark" if bone_dark else "bone-bright")


def read_dicom_camera(path: str | Path) -> tuple[Camera, Float64[Tensor, "4 4"] | None]:
    """Camera of a DICOM X-ray and, where the tags give it, its pose.

    Needs DistanceSourceToDetector, ImagerPixelSpacing (the detector's pitch; PixelSpacing may be
    scaled to the patient), Rows and Columns; the principal point is taken at the image's centre.
    With DistanceSourceToPatient, PositionerPrimaryAngle and PositionerSecondaryAngle the pose is that in
    a world whose axes are the patient's (RAS) and whose origin is the isocentre (supine, head first).
    Raises ValueError that names the missing tag.
    """
    data = _dataset(path)
    for tag in ("DistanceSourceToDetector", "ImagerPixelSpacing", "Rows", "Columns"):
        if data.get(tag) in (None, ""):
            raise ValueError(f"{path} has no geometry: the tag {tag} is missing; give a camera file")
    row_pitch, column_pitch = (float(value) for value in data.ImagerPixelSpacing)
    try:
        camera = Camera(
            sdd=float(data.DistanceSourceToDetector), delx=column_pitch, dely=row_pitch, x0=0.0, y0=0.0,
            height=int(data.Rows), width=int(data.Columns),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give a camera file") from error
    tags = ("DistanceSourceToPatient", "PositionerPrimaryAngle", "PositionerSecondaryAngle")
    values = [data.get(tag) for tag in tags]
    if any(value in (None, "") or isinstance(value, pydicom.multival.MultiValue) for value in values):
        return camera, None
    distance, primary, secondary = (float(value) for value in values)
    return camera, pose_of_positioner(np.deg2rad(primary), np.deg2rad(secondary), distance)


def pose_of_positioner(
    primary: float, secondary: float, source_to_isocenter: float
) -> Float64[Tensor, "4 4"]:
    """world_from_camera of a C-arm at DICOM positioner angles (radians); the isocentre is the origin.

    At 0, 0 the detector is in front of the patient; primary > 0 takes it to the patient's left (LAO),
    secondary > 0 towards the head (cranial). The image's rows run towards the feet.
    """
    sin_1, cos_1, sin_2, cos_2 = np.sin(primary), np.cos(primary), np.sin(secondary), np.cos(secondary)
    beam = np.array([-sin_1 * cos_2, cos_1 * cos_2, sin_2])
    # turns with the arm, so that it is also defined for a beam along the patient
    down = np.array([-sin_1 * sin_2, cos_1 * sin_2, -cos_2])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = np.cross(down, beam), down, beam
    pose[:3, 3] = -source_to_isocenter * beam
    return torch.from_numpy(pose)


def _dataset(path: str | Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path)
    except Exception as error:  # pydicom raises its own, and OSError
        raise ValueError(f"{path} is not a readable DICOM file: {error}") from error
