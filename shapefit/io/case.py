"""One patient on disk -> closed meshes and landmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from shapefit.io.landmarks import folder_landmarks
from shapefit.io.mesh import mesh_files, read_closed_surfaces
from shapefit.io.volume import VOLUME_SUFFIXES, is_volume_path, read_labels
from shapefit.repair import RepairFindings
from shapefit.settings import MeshSettings, SurfaceSettings
from shapefit.surface import SurfaceFindings, Surfaces, surfaces_from_labels

SOURCES = ("auto", "meshes", "labels")


@dataclass(frozen=True)
class Case:
    """The structures of one patient in world mm (RAS), and landmarks where they were read."""

    name: str
    surfaces: Surfaces
    landmarks: dict[str, Float64[np.ndarray, "R 3"]] | None = None  # name -> its readings, mm
    # by structure: of meshes made from a label map, and of meshes that were repaired
    findings: dict[str, SurfaceFindings] | dict[str, RepairFindings] | None = None

    def warnings(self) -> dict[str, list[str]]:
        """What a person should know of the meshes, as sentences, by structure; empty if there is nothing."""
        found = {name: findings.warnings() for name, findings in (self.findings or {}).items()}
        return {name: sentences for name, sentences in found.items() if sentences}


def read_case(
    path: str | Path,
    structures: Mapping[str, int] | Sequence[str] | None = None,
    source: str = "auto",
    settings: SurfaceSettings | None = None,
    meshes: MeshSettings | None = None,
) -> Case:
    """Read a label map, or a folder of closed `<structure>.ply|.stl|.obj` or with one label map in it.

    `structures` names what to read, with the labels (needed for a label map); without it all meshes of a
    folder. A folder that holds both is read from its meshes, unless `source` is "labels". `meshes` says
    whether open ones are repaired.
    Landmarks in the folder (as `folder_landmarks` finds them), or beside a label map that is the only one in
    its folder, are read too.
    Raises ValueError, with the file's name, for what is absent, open, inside out or not readable.
    """
    path = Path(path)
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a label map or a folder of meshes")
    if path.is_file():
        if source == "meshes":
            raise ValueError(f"{path} is a file; to read meshes, give their folder")
        alone = len(_volumes(path.parent)) == 1
        landmarks = folder_landmarks(path.parent) if alone else None
        return _from_labels(path, structures, settings, case_name(path), landmarks)
    landmarks = folder_landmarks(path)
    if source == "meshes" or (source == "auto" and mesh_files(path)):
        names = None if structures is None else list(structures)
        surfaces, findings = read_closed_surfaces(path, names, meshes)
        return Case(case_name(path), surfaces, landmarks, findings or None)
    volumes = _volumes(path)
    if len(volumes) != 1:
        found = ", ".join(v.name for v in volumes) or "none"
        wanted = "no mesh, so one label map is needed in it" if source == "auto" else "to hold one label map"
        raise ValueError(f"{path} has {wanted} ({', '.join(VOLUME_SUFFIXES)}); found {found}")
    return _from_labels(volumes[0], structures, settings, case_name(path), landmarks)


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


def _from_labels(
    path: Path,
    structures: Mapping[str, int] | Sequence[str] | None,
    settings: SurfaceSettings | None,
    name: str,
    landmarks: dict[str, np.ndarray] | None,
) -> Case:
    if not isinstance(structures, Mapping):
        raise ValueError(f"{path} is a label map: say which label is what, as in sacrum=1 hip_left=2")
    surfaces, findings = surfaces_from_labels(read_labels(path), structures, settings, str(path))
    return Case(name, surfaces, landmarks, findings)
