"""Camera files (JSON) <-> Camera and pose."""

import json
import math
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit.camera import Camera
from shapefit.io.atomic import write_text
from shapefit.se3 import is_rigid

REQUIRED = ("sdd", "delx", "dely", "x0", "y0", "height", "width", "frame", "units")
_OPTIONAL = ("world_from_camera", "name", "comment")


def read_camera(path: str | Path) -> tuple[Camera, Float64[Tensor, "4 4"] | None]:
    """Camera and world_from_camera (mm, RAS; None if the file gives none) of a camera file.

    JSON with `sdd, delx, dely, x0, y0` (mm), `height, width` (px), `"frame": "RAS"` (or "LPS", converted),
    `"units": "mm"` and, optionally, `world_from_camera` (4x4), `name`, `comment`.
    Raises ValueError, with the file's name, for a missing or unknown key, values that are not numbers,
    lengths that are not positive, another frame or unit, and a pose that is not rigid.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable JSON camera file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a camera file: expected an object with {', '.join(REQUIRED)}")
    if missing := [key for key in REQUIRED if key not in content]:
        raise ValueError(f"{path}: the camera file has no {', '.join(missing)}")
    if unknown := [key for key in content if key not in REQUIRED + _OPTIONAL]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; expected {', '.join(REQUIRED + _OPTIONAL)}")
    if content["units"] != "mm":
        raise ValueError(f"{path}: units are {content['units']!r}; expected 'mm'")
    if content["frame"] not in ("RAS", "LPS"):
        raise ValueError(f"{path}: frame is {content['frame']!r}; expected 'RAS' or 'LPS'")
    sdd, delx, dely, x0, y0 = (_number(path, content, key) for key in ("sdd", "delx", "dely", "x0", "y0"))
    height, width = (_number(path, content, key) for key in ("height", "width"))
    if height != int(height) or width != int(width):
        raise ValueError(f"{path}: height and width must be whole pixels, got {height:g} and {width:g}")
    try:
        camera = Camera(sdd=sdd, delx=delx, dely=dely, x0=x0, y0=y0, height=int(height), width=int(width))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return camera, _pose(path, content)


def write_camera(
    path: str | Path, camera: Camera, world_from_camera: Float64[Tensor, "4 4"] | None = None
) -> None:
    """Write a camera file (RAS, mm), whole or not at all; without a pose if there is none."""
    lengths = ("sdd", "delx", "dely", "x0", "y0")
    content: dict[str, object] = {key: float(getattr(camera, key)) for key in lengths}
    content |= {"height": camera.height, "width": camera.width, "frame": "RAS", "units": "mm"}
    if world_from_camera is not None:
        content["world_from_camera"] = world_from_camera.tolist()
    write_text(path, json.dumps(content, indent=2) + "\n")


def _number(path: Path, content: dict, key: str) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: {key} must be a finite number, got {value!r}")
    return float(value)


def _pose(path: Path, content: dict) -> Tensor | None:
    if content.get("world_from_camera") is None:
        return None
    try:
        pose = torch.tensor(content["world_from_camera"], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: world_from_camera must be 4 rows of 4 numbers") from error
    if pose.shape != (4, 4):
        raise ValueError(f"{path}: world_from_camera must be 4x4, got shape {tuple(pose.shape)}")
    if not is_rigid(pose):
        raise ValueError(
            f"{path}: world_from_camera is not a rigid motion in mm: it scales, mirrors or shears "
            f"(determinant {float(torch.linalg.det(pose[:3, :3])):.4g}), or its last row is not 0 0 0 1"
        )
    if content["frame"] == "LPS":
        pose = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)) @ pose
    return pose
