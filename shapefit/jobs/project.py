"""A segmentation -> what a shape model can say of it at best."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from shapefit import se3
from shapefit.fit.surface import fit_surface
from shapefit.fit.surface_residual import follow_surface
from shapefit.io.atomic import atomic_folder
from shapefit.io.case import read_case
from shapefit.io.mesh import write_surfaces
from shapefit.io.model import read_model
from shapefit.io.record import FILE, landmark_places, new_record, write_record
from shapefit.settings import MeshSettings, ProjectSettings


def project_job(
    model: str | Path,
    case: Path,
    output: Path,
    settings: ProjectSettings,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
    meshes: MeshSettings | None = None,
) -> dict:
    """The model fitted to a segmentation -> meshes (world mm) and fit.json; returns the record.

    With `settings.residual` a Gaussian process follows the surface where the modes cannot; the record's
    coefficients are then those of the model's shape nearest to what was found.
    """
    shape_model = read_model(model)
    read = read_case(case, dict(zip(shape_model.names, shape_model.labels, strict=True)), meshes=meshes)
    with atomic_folder(output, replaces=("report.html", "overlay_*.png")) as folder:
        if progress:
            progress("fitting", 0.1)
        started = time.perf_counter()
        fit = (
            follow_surface(shape_model, read.surfaces, settings)[1]
            if settings.residual
            else fit_surface(shape_model, read.surfaces, settings)
        )
        coefficients = fit.coefficients
        if settings.residual:
            shape = se3.transform(torch.linalg.inv(fit.world_from_model), fit.vertices)
            coefficients = shape_model.coefficients(shape)
        record = new_record(command, settings.seed, shape_model)
        record |= {
            "coefficients": coefficients.tolist(),
            "scale": 1.0,
            "world_from_model": fit.world_from_model.tolist(),
            "views": [],
            "converged": True,
            "reason": "",
            "residual": fit.residual,
            "findings": read.warnings(),
            "landmarks": landmark_places(shape_model, fit.vertices),
            "seconds": time.perf_counter() - started,
            "history": [],
        }
        write_surfaces(folder, shape_model.surfaces(fit.vertices))
        write_record(folder / FILE, record)
    return record
