"""What X-rays are simulated of, as it lies on disk: a shape model, meshes, a label map or a CT."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from shapefit.io.case import read_case
from shapefit.io.label_names import Structures
from shapefit.io.mesh import MESH_SUFFIXES, mesh_files
from shapefit.io.model import read_model
from shapefit.io.volume import is_volume_path
from shapefit.jobs.bone import divided, read_bone
from shapefit.scene.ct import ct_matter
from shapefit.scene.rigid import rigid_model
from shapefit.scene.simulate import Stage, stage_of_model
from shapefit.settings import CTSettings, MeshSettings, SimulateSettings, SurfaceSettings
from shapefit.shape_model import ShapeModel
from shapefit.surface import surfaces_from_labels
from shapefit.volume import NO_STRUCTURE, Volume


class Source(NamedTuple):
    """A source that is read and prepared."""

    kind: str  # "model", "meshes", "label map" or "ct"
    model: ShapeModel  # its mean is the template; without modes if the source is one bone
    stage: Stage
    findings: dict[str, list[str]]  # structure -> what was met and changed

    def digest(self) -> str:
        """SHA-256 of what samples depend on."""
        digest = hashlib.sha256(" ".join(self.model.names).encode())
        model = self.model
        parts = [model.mean, model.components, model.std, model.faces, model.structure]
        if self.stage.ct is not None:
            volume = self.stage.ct.water
            parts += [volume.data, self.stage.ct.cortex.data, volume.structure, volume.world_from_voxel]
        for part in parts:
            digest.update(np.ascontiguousarray(part.numpy()).data)
        return digest.hexdigest()


def read_source(
    path: str | Path,
    settings: SimulateSettings,
    labels: Structures = None,
    segmentation: Path | None = None,
    ct: CTSettings | None = None,
    surface: SurfaceSettings | None = None,
    meshes: MeshSettings | None = None,
) -> Source:
    """A model by file or name, or one bone as `read_bone` reads it.

    Raises ValueError, with the file's name, for what is absent or not readable.
    """
    place = Path(path)
    mesh = place.suffix.lower() in MESH_SUFFIXES
    if not (place.is_dir() or mesh or is_volume_path(place)):
        if labels or segmentation:
            raise ValueError(f"{path} is a shape model, which has its structures: leave --labels away")
        model = read_model(path)
        return Source("model", model, stage_of_model(model, settings), {})
    if not place.exists():
        raise ValueError(f"{place} does not exist; expected a shape model, a mesh, a label map or a CT")
    ct = ct or CTSettings()
    if not mesh and _is_ct(place, labels, segmentation, ct):
        return _read_ct(place, settings, labels, segmentation, ct, surface)
    read = read_bone(place, labels, segmentation, ct, meshes, surface)
    model = rigid_model(read.matter, read.labels, _told(place))
    kind = "label map" if is_volume_path(place) else "meshes"
    return Source(kind, model, stage_of_model(model, settings), read.findings)


def _is_ct(place: Path, labels: Structures, segmentation: Path | None, ct: CTSettings) -> bool:
    if place.is_dir() and mesh_files(place):
        return False
    images = is_volume_path(place) or not any(is_volume_path(file) for file in place.iterdir())
    return segmentation is not None or ct.threshold is not None or (images and labels is None)


def _read_ct(
    place: Path,
    settings: SimulateSettings,
    labels: Structures,
    segmentation: Path | None,
    ct: CTSettings,
    surface: SurfaceSettings | None,
) -> Source:
    """A CT, whose bone is what is segmented, or the largest piece of what is as dense as the threshold."""
    if segmentation is None and (ct.threshold is None or labels is not None):
        raise ValueError(
            f"{place}: which of its voxels are the bone? Say --segmentation, a label map of the CT, or "
            "--threshold in HU; a label map is read with --labels"
        )
    volume = Volume.from_file(place)
    findings: dict[str, list[str]]
    if segmentation is not None:
        case = read_case(segmentation, labels, "labels", surface)
        surfaces, numbers, findings = dict(case.surfaces), case.labels, case.warnings()
        bone = divided(volume, segmentation, labels)[0].structure != NO_STRUCTURE
    else:
        bone, name = volume.data >= ct.threshold, place.name.split(".")[0]
        if not bool(bone.any()):
            most = float(volume.data.max())
            raise ValueError(f"{place} has no voxel at {ct.threshold:g} HU or above; its HU end at {most:g}")
        found = Volume(bone.to(torch.uint8), volume.world_from_voxel)
        surfaces, told = surfaces_from_labels(found, {name: 1}, surface, str(place))
        numbers, findings = {name: 1}, {name: told[name].warnings()}
    model = rigid_model(surfaces, numbers, _told(place))
    origin = torch.tensor([float(x) for x in model.metadata["origin_in_file"].split()], dtype=torch.float64)
    try:
        matter = ct_matter(volume, bone, origin, settings, ct.padding)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    stage = replace(stage_of_model(model, settings), ct=matter)
    return Source("ct", model, stage, {name: said for name, said in findings.items() if said})


def _told(place: Path) -> dict[str, str]:
    return {"id": place.name.split(".")[0], "source": str(place)}
