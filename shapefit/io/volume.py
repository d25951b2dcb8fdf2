"""NIfTI and NRRD volumes and label maps, DICOM series. Knows how such files place voxels in space."""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import torch

from shapefit.io.atomic import atomic_path
from shapefit.io.dicom import is_dicom
from shapefit.io.dicom_series import read_dicom_series
from shapefit.volume import Volume

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
VOLUME_SUFFIXES = NIFTI + NRRD

# millimetres per unit, as NIfTI headers name them; files that say nothing mean mm
_MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 1e-3, "unknown": 1.0}
# RAS from the three anatomical spaces that NRRD knows
_NRRD_SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}


def is_volume_path(path: str | Path) -> bool:
    """Whether the name ends like a volume file (.nii, .nii.gz, .nrrd, .nhdr)."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI or NRRD volume, or a DICOM series, as float32 in world mm RAS.

    A series is its folder, or any file of it: see `read_dicom_series`.
    Raises ValueError, with the file's name, for a file that is absent or not a volume, has more than
    3 axes, NaN or infinite voxels, or does not say how its voxels lie in space.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and not is_volume_path(path) and is_dicom(path)):
        array, affine = read_dicom_series(path)
    else:
        array, affine = _read(path)
    return _volume(path, array.astype(np.float32, copy=False), affine)


def read_labels(path: str | Path) -> Volume:
    """Read a label map: whole numbers >= 0 (uint8 where they fit, else int32) in world mm RAS.

    Raises ValueError as `read_volume` does, and for voxels that are not whole numbers.
    """
    array, affine = _read(Path(path))
    return _volume(Path(path), _labels(Path(path), array), affine)


def read_label_layers(path: str | Path) -> list[Volume]:
    """Read a label map as `read_labels`; one that 3D Slicer wrote in layers, as overlaps need, is several."""
    path = Path(path)
    array, affine = _read(path)
    labels = _labels(path, array)
    if labels.ndim == 4 and path.name.lower().endswith(NRRD):
        return [_volume(path, labels[..., n], affine) for n in range(labels.shape[3])]
    return [_volume(path, labels, affine)]


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write NIfTI (.nii, .nii.gz) or NRRD (.nrrd) by suffix, in RAS mm; whole or not at all.

    Integers keep their type (int64 becomes int32); floats are written as float32. The structure is
    not written: it is a label map of its own.
    """
    path = Path(path)
    data = volume.data.detach().cpu()
    array = (data.float() if data.is_floating_point() else data).numpy()
    array = array.astype(np.int32) if array.dtype == np.int64 else array
    affine = volume.world_from_voxel.detach().cpu().numpy()
    name = path.name.lower()
    if name.endswith(NIFTI):
        image = nibabel.Nifti1Image(array, affine)
        image.set_sform(affine, code="scanner")
        image.header.set_xyzt_units("mm")
        with atomic_path(path) as temporary:
            nibabel.save(image, temporary)
    elif name.endswith(".nrrd"):
        header = {
            "space": "right-anterior-superior",
            "space directions": affine[:3, :3].T,
            "space origin": affine[:3, 3],
            "space units": ["mm", "mm", "mm"],
            "kinds": ["domain"] * 3,
        }
        with atomic_path(path) as temporary:
            nrrd.write(str(temporary), array, header)
    else:
        raise ValueError(f"cannot write a volume as {path.name}; expected .nii, .nii.gz or .nrrd")


def _labels(path: Path, array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.integer):
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {int((~np.isfinite(array)).sum())} voxels are NaN or infinite")
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            example = array[whole != array].flat[0]
            raise ValueError(
                f"{path} is not a label map: it holds values such as {example:g}; is it an image?"
            )
        array = whole
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ValueError(f"{path} is not a label map: its values run from {low} to {high}; expected >= 0")
    return array.astype(np.uint8 if high < 256 else np.int32)


def _volume(path: Path, array: np.ndarray, affine: np.ndarray) -> Volume:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ValueError(f"{path} has {array.ndim} axes {array.shape}; expected one 3-D volume")
    try:
        return Volume(torch.from_numpy(np.ascontiguousarray(array)), torch.from_numpy(affine))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _read_nifti(path)
    if name.endswith(NRRD):
        return _read_nrrd(path)
    raise ValueError(f"{path} is not a volume that can be read; expected {', '.join(VOLUME_SUFFIXES)}")


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel, gzip and zlib each have errors of their own
        raise ValueError(f"{path} is not a readable NIfTI file: {error}") from error
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        # nibabel would guess; a wrong guess swaps the patient's left and right
        raise ValueError(f"{path} does not say how its voxels lie in space: sform_code and qform_code are 0")
    scale = _MILLIMETRES[header.get_xyzt_units()[0]]
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= scale
    return array, affine


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        array, header = nrrd.read(str(path))
    except Exception as error:  # pynrrd, gzip, bz2 and numpy each have errors of their own
        raise ValueError(f"{path} is not a readable NRRD file: {error}") from error
    for field in ("space", "space directions", "space origin"):
        if field not in header:
            raise ValueError(f"{path} has no field '{field}', so where its voxels lie is unknown")
    space = str(header["space"]).lower()
    if space not in _NRRD_SPACES:
        raise ValueError(f"{path} is in the space '{space}'; expected one of {', '.join(_NRRD_SPACES)}")
    units = {str(unit).strip('"').lower() for unit in header.get("space units", [])} - {"", "mm"}
    if units:
        raise ValueError(f"{path} is in units of {', '.join(sorted(units))}; expected mm")
    directions = np.asarray(header["space directions"], dtype=np.float64)
    if array.ndim == 4 and directions.shape == (4, 3) and np.isnan(directions[0]).all():
        array, directions = np.moveaxis(array, 0, -1), directions[1:]  # a list of volumes on one grid
    if directions.shape != (3, 3) or array.ndim not in (3, 4) or not np.isfinite(directions).all():
        raise ValueError(f"{path} has {array.ndim} axes {array.shape}; expected one 3-D volume")
    affine = np.eye(4)
    affine[:3, :3] = directions.T  # NRRD lists one row per axis
    affine[:3, 3] = header["space origin"]
    affine[:3] *= np.array(_NRRD_SPACES[space])[:, None]
    return array, affine
