"""A shape model and some points of a patient -> the shape model of that patient."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from shapefit.fit.points import PointFit, condition_on_points
from shapefit.io.landmarks import read_landmarks
from shapefit.io.model import write_model
from shapefit.jobs.model import read_model_file
from shapefit.residual import with_residual
from shapefit.settings import ModelFileSettings, PosteriorSettings
from shapefit.shape_model import ShapeModel

MODEL_SUFFIXES = (".h5", ".hdf5")


class _Seen(NamedTuple):
    """A point of the surface and where it was seen."""

    corners: list[int]
    barycentric: list[float]
    place: list[float]  # world mm, RAS
    noise: float  # mm


def posterior_job(
    model: str | Path,
    output: Path,
    settings: PosteriorSettings,
    landmarks: Path | None = None,
    points: Path | None = None,
    file: ModelFileSettings | None = None,
) -> tuple[ShapeModel, dict]:
    """A model conditioned on landmarks and vertices in world mm -> a model file; returns it and the finding.

    `landmarks` is a file that `read_landmarks` knows, matched by name, readings averaged; `points` a CSV with
    the columns vertex, x, y, z and, if wanted, noise (mm). The pose is found from all of them.
    With `settings.residual` the model may leave its modes, as `with_residual` says: wider, nearer the truth.
    Raises ValueError for names and columns that do not fit, and as `condition_on_points`.
    """
    if output.suffix.lower() not in MODEL_SUFFIXES:
        raise ValueError(f"{output} does not end like a shape model; expected {' or '.join(MODEL_SUFFIXES)}")
    if settings.noise <= 0:
        raise ValueError(f"--noise must be positive, got {settings.noise:g} mm")
    shape_model = read_model_file(model, file)
    if settings.residual:
        shape_model = with_residual(shape_model, settings.residual)
    used: list[str] = []
    missing: list[str] = []
    seen: list[_Seen] = []
    if landmarks is not None:
        used, missing, seen = _landmarks(landmarks, shape_model, settings.noise)
    if points is not None:
        seen = seen + _vertices(points, shape_model, settings.noise)
    real = {"dtype": torch.float64}
    found = condition_on_points(
        shape_model,
        torch.tensor([point.corners for point in seen], dtype=torch.int64).reshape(-1, 3),
        torch.tensor([point.barycentric for point in seen], **real).reshape(-1, 3),
        torch.tensor([point.place for point in seen], **real).reshape(-1, 3),
        torch.tensor([point.noise for point in seen], **real),
    )
    conditioned = _told(found, settings)
    write_model(output, conditioned)
    return conditioned, {
        "landmarks": used,
        "not_in_model": missing,
        "points": len(seen) - len(used),
        "world_from_model": found.world_from_model.tolist(),
        "distance_before_mm": float(found.distance_before.square().mean().sqrt()),
        "distance_after_mm": float(found.distance_after.square().mean().sqrt()),
        "vertex_std_before_mm": float((shape_model.vertex_std() ** 2).mean().sqrt()),
        "vertex_std_after_mm": float((conditioned.vertex_std() ** 2).mean().sqrt()),
    }


def _landmarks(path: Path, model: ShapeModel, noise: float) -> tuple[list[str], list[str], list[_Seen]]:
    """Names that the model has, names that it has not, and the points of the first."""
    read, own = read_landmarks(path), model.landmarks
    used = [name for name in own.names if name in read]
    if not used:
        raise ValueError(
            f"{path} names no landmark of the model: it has {', '.join(read) or 'none'}, "
            f"the model {', '.join(own.names) or 'none'}"
        )
    seen = []
    for name in used:
        index = own.names.index(name)
        corners, weights = model.faces[own.face[index]].tolist(), own.barycentric[index].tolist()
        seen.append(_Seen(corners, weights, read[name].mean(0).tolist(), noise))
    return used, [name for name in read if name not in own.names], seen


def _vertices(path: Path, model: ShapeModel, noise: float) -> list[_Seen]:
    """A table's vertices, with their own noise where a column gives it."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable table: {error}") from error
    if not rows or not {"vertex", "x", "y", "z"} <= set(rows[0]):
        raise ValueError(f"{path} has no rows with the columns vertex, x, y, z")
    seen = []
    for number, row in enumerate(rows, start=2):
        try:
            vertex, place = int(row["vertex"]), [float(row[axis]) for axis in "xyz"]
            deviation = float(row.get("noise") or noise)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if not 0 <= vertex < len(model.mean):
            raise ValueError(f"{path}, line {number}: vertices are numbered from 0 to {len(model.mean) - 1}")
        seen.append(_Seen([vertex] * 3, [1.0, 0.0, 0.0], place, deviation))
    return seen


def _told(found: PointFit, settings: PosteriorSettings) -> ShapeModel:
    """The conditioned model, which says how it came about."""
    pose = " ".join(f"{value:.9g}" for value in found.world_from_model.flatten().tolist())
    told = {"posterior_noise_mm": f"{settings.noise:g}", "world_from_model": pose}
    return replace(found.model, metadata={**found.model.metadata, **told})
