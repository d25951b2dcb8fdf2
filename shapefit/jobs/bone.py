"""What is to be registered, as it lies on disk: a CT, one bone of it, or closed meshes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from shapefit.io.case import read_case, read_parts
from shapefit.io.label_names import Structures
from shapefit.io.mesh import MESH_SUFFIXES, mesh_files, read_closed
from shapefit.io.volume import VOLUME_SUFFIXES, is_volume_path
from shapefit.settings import CTSettings, MeshSettings, SurfaceSettings
from shapefit.surface import Surfaces
from shapefit.volume import NO_STRUCTURE, Volume

Matter = Volume | Surfaces


class BoneFile(NamedTuple):
    """A CT as attenuation in 1/mm, or closed meshes in mm, and its parts."""

    matter: Matter
    labels: dict[str, int]  # part -> its label in the file; 1, 2, ... where the file has none
    findings: dict[str, list[str]]  # part -> what was met and changed


def read_bone(
    path: str | Path,
    structures: Structures = None,
    segmentation: Path | None = None,
    ct: CTSettings | None = None,
    meshes: MeshSettings | None = None,
    surface: SurfaceSettings | None = None,
) -> BoneFile:
    """Read a CT in HU (NIfTI, NRRD, a DICOM folder), a closed mesh, a folder of meshes, or a label map.

    A volume with `structures` is a label map, from which the meshes of these are made. With `segmentation`, a
    label map of the CT, the CT is that of these structures alone (of all that it names without
    `structures`). Raises ValueError, with the file's name, for what is absent or not readable, is not in
    HU, is empty, or does not hold a structure.
    """
    path, ct = Path(path), ct or CTSettings()
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a CT, a mesh, or a folder of either")
    volume = is_volume_path(path) or (path.is_dir() and not mesh_files(path) and not _volumes(path))
    if volume and (structures is None or segmentation is not None):
        return _read_ct(path, structures, segmentation, ct)
    if segmentation is not None:
        raise ValueError(f"{path} is not a CT: --segmentation says which voxels of a CT are the bone")
    if ct.threshold is not None:
        what = "a label map" if volume else "a mesh"
        raise ValueError(f"{path} is {what}, which has no Hounsfield units: --threshold is of a CT")
    if path.is_file() and path.suffix.lower() in MESH_SUFFIXES:
        if structures is not None:
            raise ValueError(f"{path} is one mesh; --labels chooses structures of a label map or of a folder")
        mesh, found = read_closed(path, meshes)
        return BoneFile({path.stem: mesh}, {path.stem: 1}, {path.stem: found.warnings()} if found else {})
    if path.is_file() and not volume:
        raise ValueError(
            f"{path} is neither a CT nor a mesh; expected {', '.join((*VOLUME_SUFFIXES, *MESH_SUFFIXES))}, "
            "or a folder of DICOM files or meshes"
        )
    case = read_case(path, structures, settings=surface, meshes=meshes)
    numbered = {name: n for n, name in enumerate(case.surfaces, 1)}
    return BoneFile(dict(case.surfaces), {**numbered, **(case.labels or {})}, case.warnings())


def _read_ct(path: Path, structures: Structures, segmentation: Path | None, settings: CTSettings) -> BoneFile:
    volume = Volume.from_file(path)
    labels = {path.name.split(".")[0] or "ct": 1}
    if segmentation is not None:
        volume, labels = divided(volume, segmentation, structures)
    try:
        attenuation = volume.attenuation(settings.energy, settings.threshold, settings.padding)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    data = attenuation.data
    if volume.structure is not None:
        data = torch.where(volume.structure == NO_STRUCTURE, 0, data)
    if not bool((data > 0).any()):
        what = f"no voxel of {', '.join(labels)}" if segmentation is not None else "no voxel"
        limit = "above air" if settings.threshold is None else f"at {settings.threshold:g} HU or above"
        raise ValueError(
            f"{path} is empty: {what} is {limit} (its HU run from {float(volume.data.min()):g} to "
            f"{float(volume.data.max()):g})"
        )
    return BoneFile(replace(attenuation, data=data).cropped(), labels, {})


def divided(volume: Volume, segmentation: Path, structures: Structures) -> tuple[Volume, dict[str, int]]:
    """A CT with the structures of a label map, or of several on grids of their own."""
    labels: dict[str, int] = {}
    number = torch.full_like(volume.data, NO_STRUCTURE, dtype=torch.uint8)
    for part in read_parts(segmentation, structures, source="labels"):
        if part.missing:
            raise ValueError(
                f"{part.path} has nothing called {', '.join(part.missing)}; it names {', '.join(part.names)}"
            )
        try:
            placed = volume.with_structures(part.volume, part.labels).structure
        except ValueError as error:
            raise ValueError(f"{part.path}: {error}") from error
        assert placed is not None
        number = torch.where(placed == NO_STRUCTURE, number, placed + len(labels))
        labels |= part.labels
    return replace(volume, structure=number.to(torch.uint8), names=tuple(labels)), labels


def _volumes(folder: Path) -> Sequence[Path]:
    return [p for p in folder.iterdir() if is_volume_path(p) and not p.name.startswith(".")]
