"""One patient on disk -> closed meshes and landmarks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float64

from shapefit.anatomy import TOTALSEGMENTATOR, TOTALSEGMENTATOR_BONES
from shapefit.io.label_names import Structures, names_in_file, places
from shapefit.io.landmarks import folder_landmarks
from shapefit.io.mesh import mesh_files, read_closed_surfaces
from shapefit.io.volume import VOLUME_SUFFIXES, is_volume_path, read_label_layers, read_labels
from shapefit.repair import RepairFindings
from shapefit.settings import MeshSettings, SurfaceSettings
from shapefit.surface import SurfaceFindings, Surfaces, labels_in, surfaces_from_labels
from shapefit.volume import Volume

SOURCES = ("auto", "meshes", "labels")


@dataclass(frozen=True)
class Case:
    """The structures of one patient in world mm (RAS), and landmarks where they were read."""

    name: str
    surfaces: Mapping[str, trimesh.Trimesh]
    landmarks: dict[str, Float64[np.ndarray, "R 3"]] | None = None  # name -> its readings, mm
    # by structure: of meshes made from a label map, and of meshes that were repaired
    findings: dict[str, SurfaceFindings] | dict[str, RepairFindings] | None = None
    labels: dict[str, int] | None = None  # of a label map: the label of each structure in it

    def warnings(self) -> dict[str, list[str]]:
        """What a person should know of the meshes, as sentences, by structure; empty if there is nothing."""
        found = {name: findings.warnings() for name, findings in (self.findings or {}).items()}
        return {name: sentences for name, sentences in found.items() if sentences}


def read_case(
    path: str | Path,
    structures: Structures = None,
    source: str = "auto",
    settings: SurfaceSettings | None = None,
    meshes: MeshSettings | None = None,
) -> Case:
    """Read a label map, or a folder of closed `<structure>.ply|.stl|.obj|.vtp`, masks or one label map.

    `structures` names what to read. A label map needs their labels, unless its header names them (3D Slicer,
    TotalSegmentator) or TotalSegmentator's table does: then a name without a number will do (see `places`).
    Masks, as TotalSegmentator writes them, are `<structure>.nii.gz`, each with one structure. Without
    `structures`, all meshes of a folder, or all segments of a file that names them.
    A folder that holds meshes and label maps is read from its meshes, unless `source` is "labels". `meshes`
    says whether open ones are repaired. Landmarks in the folder (as `folder_landmarks` finds them), or beside
    a label map that is the only one in its folder, are read too.
    Raises ValueError, with the file's name, for what is absent, open, inside out or not readable.
    """
    path = Path(path)
    holds_meshes = case_holds_meshes(path, source)
    if path.is_file():
        landmarks = folder_landmarks(path.parent) if len(_volumes(path.parent)) == 1 else None
    else:
        landmarks = folder_landmarks(path)
    if holds_meshes:
        closed, findings = read_closed_surfaces(path, mesh_names(path, structures), meshes)
        return Case(case_name(path), closed, landmarks, findings or None)
    surfaces: Surfaces = {}
    told: dict[str, SurfaceFindings] = {}
    labels: dict[str, int] = {}
    for part in read_parts(path, structures, source):
        if part.missing:
            has = ", ".join(part.names)
            raise ValueError(f"{part.path} has nothing called {', '.join(part.missing)}; it names {has}")
        made, found = surfaces_from_labels(part.volume, part.labels, settings, str(part.path))
        surfaces, told, labels = surfaces | made, told | found, labels | part.labels
    if structures is not None and TOTALSEGMENTATOR not in structures:
        surfaces = {name: surfaces[name] for name in structures}
    if not surfaces:
        raise ValueError(f"{path} holds none of the structures asked for")
    return Case(case_name(path), surfaces, landmarks, told, labels)


def model_labels(structures: Structures, case: Case) -> dict[str, int] | None:
    """The labels that a model of such cases remembers: as given, or as the case's file has them.

    1, 2, ... in the order of the structures where files have no numbers or the same one twice, as masks have;
    None without a choice of structures, and for a case that was read from meshes.
    """
    given = structures if isinstance(structures, Mapping) else {}
    known = case.labels or {}
    names = list(case.surfaces)
    numbers = [
        known[name] if given.get(name) is None and name in known else given.get(name) for name in names
    ]
    if structures is None or all(number is None for number in numbers):
        return None
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = range(1, len(names) + 1)
    return dict(zip(names, numbers, strict=True))


class Part(NamedTuple):
    """Structures that share a voxel grid."""

    path: Path
    volume: Volume
    labels: dict[str, int]  # structure -> its label, which need not occur
    names: tuple[str, ...] = ()  # all that the file names
    missing: tuple[str, ...] = ()  # asked for, and not among the names


def case_holds_meshes(path: str | Path, source: str = "auto") -> bool:
    """Whether a case is read from meshes rather than label maps.

    Raises ValueError for a path that does not exist, and for an unknown source.
    """
    path = Path(path)
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a label map or a folder of meshes")
    if path.is_file() and source == "meshes":
        raise ValueError(f"{path} is a file; to read meshes, give their folder")
    return path.is_dir() and (source == "meshes" or (source == "auto" and bool(mesh_files(path))))


def mesh_names(folder: str | Path, structures: Structures) -> list[str] | None:
    """The meshes of a folder that are asked for; None for all."""
    if structures is None:
        return None
    if TOTALSEGMENTATOR not in structures:
        return list(structures)
    return [name for name in mesh_files(folder) if name in TOTALSEGMENTATOR_BONES or name in structures]


def read_parts(path: str | Path, structures: Structures = None, source: str = "auto") -> Iterator[Part]:
    """The voxels of a case, one grid after the other: of a label map's layers, or of masks in a folder.

    Raises ValueError as `read_case`, but not for structures that are not there.
    """
    path = Path(path)
    if path.is_dir():
        volumes = _volumes(path)
        if masks := _masks(volumes, structures):
            yield from _read_masks(path, masks, structures)
            return
        if len(volumes) != 1:
            found = ", ".join(v.name for v in volumes) or "none"
            wanted = "no mesh, so one label map is needed in it"
            wanted = wanted if source == "auto" else "to hold one label map"
            raise ValueError(f"{path} has {wanted} ({', '.join(VOLUME_SUFFIXES)}); found {found}")
        path = volumes[0]
    layers = read_label_layers(path)
    named = names_in_file(path)
    places_found = places(structures, named, [labels_in(layer) for layer in layers], path)
    asked = [name for name in structures or () if name != TOTALSEGMENTATOR]
    missing = tuple(name for name in asked if name not in places_found)
    for n, layer in enumerate(layers):
        labels = {name: place.label for name, place in places_found.items() if place.layer == n}
        if labels or missing or len(layers) == 1:
            yield Part(path, layer, labels, tuple(named), missing)
            missing = ()


def case_name(path: str | Path) -> str:
    """A folder's name; a label map's without its suffix."""
    path = Path(path).resolve()
    suffix = next((s for s in VOLUME_SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def case_names(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """A name of its own for each case: as `case_name`, led by as many folders as it takes to tell them apart.

    Raises ValueError for a path that is given twice.
    """
    resolved = [Path(path).resolve() for path in paths]
    if twice := [str(p) for i, p in enumerate(resolved) if p in resolved[:i]]:
        raise ValueError(f"the case {twice[0]} is given twice")
    last = [case_name(path) for path in resolved]
    names, folders = last, 0
    # label maps that are all called segmentation.nii.gz are told apart by their folders alone
    if len(last) > 1 and len(set(last)) == 1:
        names = [path.parent.name for path in resolved]
    while len(set(names)) < len(names):
        folders += 1
        names = ["/".join((*p.parent.parts[-folders:], n)) for p, n in zip(resolved, last, strict=True)]
    return tuple(names)


def _volumes(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if is_volume_path(p) and not p.name.startswith(".")]


def _masks(volumes: Sequence[Path], structures: Structures) -> dict[str, Path]:
    """The masks among a folder's volumes: those that are called like a structure asked for."""
    by_name = {case_name(path): path for path in volumes}
    wanted = list(structures or ())
    if TOTALSEGMENTATOR in wanted or (structures is None and len(volumes) > 1):
        wanted += TOTALSEGMENTATOR_BONES
    return {name: by_name[name] for name in dict.fromkeys(wanted) if name in by_name}


def _read_masks(folder: Path, masks: Mapping[str, Path], structures: Structures) -> Iterator[Part]:
    asked = [name for name in structures or () if name != TOTALSEGMENTATOR]
    missing = tuple(name for name in asked if name not in masks)
    if missing:
        nothing = read_labels(next(iter(masks.values())))
        yield Part(folder, nothing, {}, tuple(masks), missing)
    for name, path in masks.items():
        mask = read_labels(path)
        mask = Volume((mask.data != 0).to(mask.data.dtype), mask.world_from_voxel)
        # TotalSegmentator writes an empty file for what it did not find
        if name in asked or mask.data.any():
            yield Part(path, mask, {name: 1})
