"""DICOM series of slices, as CTs come, in classic or enhanced multi-frame files -> voxels and their place."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from jaxtyping import Float32, Float64

from shapefit.io.dicom import is_dicom

# mm by which a slice may lie off its place, and the share of the slices' distance: files round positions
_OFF, _SHARE = 0.02, 0.02


class Slice(NamedTuple):
    """Where a slice lies and how its stored values are read, of one file or one frame of it. LPS, mm."""

    path: Path
    frame: int | None  # None: the file is one slice
    size: tuple[int, int]  # rows, columns
    position: np.ndarray  # centre of the first pixel
    orientation: np.ndarray  # directions of growing columns and of growing rows, (2, 3)
    spacing: tuple[float, float]  # between rows, between columns
    slope: float
    intercept: float

    def __str__(self) -> str:
        return self.path.name if self.frame is None else f"{self.path.name} (frame {self.frame})"


def read_dicom_series(
    path: str | Path,
) -> tuple[Float32[np.ndarray, "I J K"], Float64[np.ndarray, "4 4"]]:
    """Values and world_from_voxel (RAS, mm) of the one series in a folder, or of that of a file.

    Values are rescaled slice by slice with RescaleSlope and RescaleIntercept: HU in a CT. Slices are sorted
    by ImagePositionPatient along their normal, whatever the files are called; i runs along columns, j along
    rows. Slices that lie askew on each other, as with a tilted gantry, give a sheared affine: each stays in
    its place. Files that are no DICOM images are passed over, and subfolders.
    Raises ValueError, with names, for several series in a folder without a choice of one, a file that cannot
    be read or decoded, slices without a place, of different sizes, orientations or spacings, two at one
    place, missing ones, and unequal distances.
    """
    path = Path(path)
    slices = [one for file, header in _images(path) for one in _slices(file, header)]
    if len(slices) < 2:
        raise ValueError(f"{path} holds one slice; a volume needs at least 2")
    first = slices[0]
    for other in slices[1:]:
        _require_alike(path, first, other)
    normal = np.cross(*first.orientation)
    if not abs(np.linalg.norm(normal) - 1) < 1e-3:
        raise ValueError(f"{first.path}: ImageOrientationPatient is not of two perpendicular unit vectors")
    slices = sorted(slices, key=lambda one: float(one.position @ normal))
    step = _step(path, slices, normal)
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing[1]
    affine[:3, 1] = first.orientation[1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = slices[0].position
    affine[:2] *= -1  # LPS to RAS
    return _values(slices), affine


def _images(path: Path) -> list[tuple[Path, pydicom.Dataset]]:
    """Files, with their headers, of the one series in a folder, or of that of a file."""
    folder = path if path.is_dir() else path.parent
    wanted = None if path.is_dir() else _header(path).get("SeriesInstanceUID")
    series: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(".") and is_dicom(file):
            header = _header(file)
            uid = header.get("SeriesInstanceUID")
            # reports, plans and directories have no rows
            if "Rows" in header and (file == path or wanted in (None, uid)):
                series.setdefault(str(uid), []).append((file, header))
    if not series:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:5])
        raise ValueError(f"{path} holds no DICOM image" + (f"; its folders: {inside}" if inside else ""))
    if len(series) > 1:
        listed = "; ".join(
            f"{len(files)} files like {files[0][0].name}, '{files[0][1].get('SeriesDescription', '')}'"
            for files in series.values()
        )
        raise ValueError(f"{path} holds {len(series)} series: {listed}; choose one by naming a file of it")
    return next(iter(series.values()))


def _slices(path: Path, header: pydicom.Dataset) -> list[Slice]:
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return [_slice(path, None, header, [header])]
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    return [_slice(path, n, header, _parts(frame) + _parts(shared[0])) for n, frame in enumerate(frames)]


def _parts(groups: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The first item of each functional group, where an enhanced file keeps what a classic one has on top."""
    return [element.value[0] for element in groups if element.VR == "SQ" and element.value]


def _slice(path: Path, frame: int | None, header: pydicom.Dataset, parts: Sequence[pydicom.Dataset]) -> Slice:
    def numbers(tag: str, count: int, default: tuple[float, ...] | None = None) -> np.ndarray:
        for part in parts:
            if part.get(tag) not in (None, ""):
                values = np.array(part[tag].value, dtype=np.float64).reshape(-1)
                if len(values) == count and np.isfinite(values).all():
                    return values
                raise ValueError(f"{path}: the tag {tag} holds {part[tag].value}; expected {count} numbers")
        if default is None:
            raise ValueError(f"{path} does not say where its slice lies: the tag {tag} is missing")
        return np.array(default)

    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise ValueError(f"{path} is a {header.get('PhotometricInterpretation')} image; expected grey slices")
    spacing = numbers("PixelSpacing", 2)
    return Slice(
        path=path,
        frame=frame,
        size=(int(header.Rows), int(header.Columns)),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6).reshape(2, 3),
        spacing=(float(spacing[0]), float(spacing[1])),
        slope=float(numbers("RescaleSlope", 1, (1.0,))[0]),
        intercept=float(numbers("RescaleIntercept", 1, (0.0,))[0]),
    )


def _require_alike(path: Path, one: Slice, other: Slice) -> None:
    if one.size != other.size:
        a, b = (f"{s} has {s.size[0]} rows and {s.size[1]} columns" for s in (one, other))
        raise ValueError(f"{path}: the slices of a series differ in size: {a}, {b}")
    if not np.allclose(one.orientation, other.orientation, atol=1e-3):
        a, b = (f"{s} {s.orientation.ravel().tolist()}" for s in (one, other))
        raise ValueError(f"{path}: the slices of a series are turned against each other: {a}, {b}")
    if not np.allclose(one.spacing, other.spacing, rtol=1e-3):
        a, b = (f"{s} {s.spacing[0]:g} x {s.spacing[1]:g} mm" for s in (one, other))
        raise ValueError(f"{path}: the pixels of a series differ in size: {a}, {b}")


def _step(path: Path, slices: list[Slice], normal: np.ndarray) -> np.ndarray:
    """From each slice to the next, mm, LPS; checks that it is the same between all."""
    positions = np.array([one.position for one in slices])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    pairs = list(zip(slices[:-1], slices[1:], gaps.tolist(), strict=True))
    for a, b, gap in pairs:
        if gap < _OFF:
            raise ValueError(f"{path}: {a} and {b} lie at one place; are several scans in one series?")
    allowed = max(_OFF, _SHARE * usual)
    holes = []
    for a, b, gap in pairs:
        if abs(gap - usual) > allowed:
            missing = round(gap / usual) - 1
            if missing < 1 or abs(gap - (missing + 1) * usual) > allowed * (missing + 1):
                raise ValueError(
                    f"{path}: slices are unequally far apart: {gap:g} mm from {a} to {b}, elsewhere {usual:g}"
                )
            holes.append(f"{missing} between {a} and {b}")
    if holes:
        raise ValueError(
            f"{path}: slices are missing, {'; '.join(holes)} ({usual:g} mm apart elsewhere); "
            "copy the whole series"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if off.max() > max(allowed, 0.1):
        raise ValueError(
            f"{path}: {slices[int(off.argmax())]} lies {off.max():.2g} mm off the line of the other slices"
        )
    return step


def _values(slices: list[Slice]) -> np.ndarray:
    rows, columns = slices[0].size
    values = np.empty((columns, rows, len(slices)), np.float32)
    held: tuple[Path, np.ndarray] | None = None
    for k, one in enumerate(slices):
        if held is None or held[0] != one.path:
            held = (one.path, _pixels(one.path))
        stored = held[1] if one.frame is None else held[1].reshape(-1, rows, columns)[one.frame]
        if stored.shape != (rows, columns):
            raise ValueError(f"{one.path} holds pixels {stored.shape}; expected ({rows}, {columns})")
        values[:, :, k] = (stored * np.float64(one.slope) + one.intercept).T
    return values


def _header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises its own, and OSError
        raise ValueError(f"{path} is not a readable DICOM file: {error}") from error


def _pixels(path: Path) -> np.ndarray:
    kind = "unknown"
    try:
        data = pydicom.dcmread(path)
        kind = data.file_meta.TransferSyntaxUID.name
        return data.pixel_array
    except Exception as error:  # each transfer syntax has decoders and errors of its own
        reason = " ".join(str(error).split())  # pydicom lists its decoders in lines
        raise ValueError(
            f"{path}: its pixels ({kind}) cannot be decoded: {reason}. Where a decoder is missing: "
            "pip install python-gdcm, or decompress the files, such as with gdcmconv --raw"
        ) from error
