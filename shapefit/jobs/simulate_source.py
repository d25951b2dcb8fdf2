"""What X-rays are simulated of, as it lies on disk: a shape model, meshes, a label map or a CT."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapefit.io.label_names import Structures
from shapefit.io.mesh import MESH_SUFFIXES
from shapefit.io.model import read_model
from shapefit.io.volume import is_volume_path
from shapefit.jobs.bone import read_bone
from shapefit.scene.rigid import rigid_model
from shapefit.scene.simulate import Stage, stage_of_model
from shapefit.settings import CTSettings, MeshSettings, SimulateSettings, SurfaceSettings
from shapefit.shape_model import ShapeModel
from shapefit.volume import Volume


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
        for part in (model.mean, model.components, model.std, model.faces, model.structure):
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
    read = read_bone(place, labels, segmentation, ct, meshes, surface)
    if isinstance(read.matter, Volume):
        raise ValueError(f"{path} is a CT")
    model = rigid_model(read.matter, read.labels, {"id": place.name.split(".")[0], "source": str(path)})
    kind = "label map" if is_volume_path(place) else "meshes"
    return Source(kind, model, stage_of_model(model, settings), read.findings)
