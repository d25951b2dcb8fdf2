"""One bone as a shape model without modes: the patient-specific case of scene coordinates."""

from collections.abc import Mapping

import numpy as np
import torch

from shapefit.shape_model import ShapeModel
from shapefit.surface import Surfaces


def rigid_model(
    surfaces: Surfaces, labels: Mapping[str, int] | None = None, metadata: Mapping[str, str] | None = None
) -> ShapeModel:
    """A model whose only shape is the one given: closed meshes in mm, each a structure.

    As in every model the origin is the mean's centroid; `origin_in_file` of the metadata says where that lies
    in the frame of the meshes (mm, RAS). Labels are 1, 2, ... if absent.
    """
    vertices = np.concatenate([np.asarray(mesh.vertices, dtype=np.float64) for mesh in surfaces.values()])
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in surfaces.values())])
    faces = np.concatenate(
        [np.asarray(mesh.faces) + start for mesh, start in zip(surfaces.values(), starts[:-1], strict=True)]
    )
    structure = np.repeat(np.arange(len(surfaces)), [len(mesh.faces) for mesh in surfaces.values()])
    origin = vertices.mean(0)
    numbers = labels or {name: n for n, name in enumerate(surfaces, 1)}
    return ShapeModel(
        mean=torch.from_numpy(vertices - origin),
        components=torch.zeros(0, len(vertices), 3, dtype=torch.float64),
        std=torch.zeros(0, dtype=torch.float64),
        noise_variance=0.0,
        faces=torch.from_numpy(faces.astype(np.int64)),
        structure=torch.from_numpy(structure),
        names=tuple(surfaces),
        labels=tuple(int(numbers[name]) for name in surfaces),
        metadata={
            "frame": "RAS",
            "units": "mm",
            "origin_in_file": " ".join(f"{x:.9g}" for x in origin),
            **(metadata or {}),
        },
    )
