"""fit.json: what a fit found, and with which command, as one JSON object."""

import json
import math
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit.camera import Camera
from shapefit.io.atomic import write_text
from shapefit.shape_model import ShapeModel
from shapefit.view import View

SCHEMA = 1
FILE = "fit.json"
_LENGTHS = ("sdd", "delx", "dely", "x0", "y0")


def new_record(command: str, seed: int, model: ShapeModel) -> dict:
    """The part of a record that every fit of a model fills in alike."""
    return {
        "schema_version": SCHEMA,
        "package_version": version("shapefit"),
        "command": command,
        "seed": seed,
        "model": model.metadata.get("id", ""),
        "structures": dict(zip(model.names, model.labels, strict=True)),
    }


def landmark_places(model: ShapeModel, vertices: Float[Tensor, "V 3"]) -> dict[str, list[float]]:
    """Landmark name -> its place (mm) on the model's vertices."""
    return dict(zip(model.landmarks.names, model.landmark_positions(vertices).tolist(), strict=True))


def write_record(path: str | Path, record: dict) -> None:
    """Write a record, whole or not at all. Numbers that are not finite become null: JSON has none."""
    write_text(path, json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")


def read_record(path: str | Path) -> dict:
    """Read fit.json, or the one of a folder. Raises ValueError, with the file's name, for anything else."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable record of a fit: {error}") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise ValueError(f"{path} is not a record of a fit: it has no schema_version")
    if record["schema_version"] != SCHEMA:
        raise ValueError(
            f"{path} has schema version {record['schema_version']!r}; this shapefit reads {SCHEMA}"
        )
    return record


def camera_entry(camera: Camera) -> dict[str, float | int]:
    """A camera as plain numbers (mm, px)."""
    return {name: float(getattr(camera, name)) for name in _LENGTHS} | {
        "height": camera.height,
        "width": camera.width,
    }


def recorded_views(record: dict) -> list[View]:
    """The cameras and poses of a record as views with blank images; empty if a pose is not known.

    Raises ValueError for entries that are not cameras and rigid poses.
    """
    views = []
    for n, entry in enumerate(record.get("views") or []):
        if entry.get("world_from_camera") is None:
            return []
        try:
            camera = Camera(**entry["camera"])
            pose = torch.tensor(entry["world_from_camera"], dtype=torch.float64)
            blank = torch.zeros(camera.height, camera.width)
            views.append(View(blank, camera, pose, name=str(entry.get("name", n))))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"view {n} of the record is not a camera with a pose: {error}") from error
    return views


def _plain(value: object) -> object:
    """The value in what JSON knows: tensors and arrays as lists, paths as text, no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
