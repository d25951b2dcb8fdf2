"""Where a bone lies in the world: pose.json, pose.tfm and what else says it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit.io.atomic import write_text
from shapefit.io.record import FILE
from shapefit.io.tfm import read_tfm
from shapefit.se3 import is_rigid

_KEYS = ("world_from_bone", "world_from_model", "matrix")


def write_pose(
    path: str | Path, world_from_bone: Float64[Tensor, "4 4"], bone: str, names: Sequence[str] = ()
) -> None:
    """Write pose.json: the motion (mm, RAS) that carries the bone's file into the world of the cameras.

    `bone` is the file that was registered, `names` its structures. Whole or not at all.
    """
    content = {
        "world_from_bone": world_from_bone.tolist(),
        "bone": bone,
        "structures": list(names),
        "frame": "RAS",
        "units": "mm",
    }
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_pose(path: str | Path) -> Float64[Tensor, "4 4"]:
    """Read world_from_bone (mm, RAS) from a .tfm, a pose.json, the record of a fit, or a plain 4x4 in JSON.

    A folder stands for the fit.json in it. Of a record, `world_from_bone` (of a registration) or
    `world_from_model` (of a fit) is read; an object may say `"frame": "LPS"`. Raises ValueError, with the
    file's name, for a file that gives no pose and for a pose that is not rigid.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if path.suffix.lower() in (".tfm", ".txt"):
        pose, frame = read_tfm(path), "RAS"
    else:
        pose, frame = _from_json(path)
    if not is_rigid(pose):
        raise ValueError(
            f"{path}: the pose is not a rigid motion in mm: it scales, mirrors or shears "
            f"(determinant {float(torch.linalg.det(pose[:3, :3])):.4g}), or its last row is not 0 0 0 1"
        )
    if frame == "LPS":
        flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
        pose = flip @ pose @ flip
    return pose


def _from_json(path: Path) -> tuple[Tensor, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable pose (.tfm, or JSON): {error}") from error
    frame, matrix = "RAS", content
    if isinstance(content, Mapping):
        frame = content.get("frame", "RAS")
        matrix = next((content[key] for key in _KEYS if content.get(key) is not None), None)
        if matrix is None:
            raise ValueError(f"{path} gives no pose: it has none of {', '.join(_KEYS)}")
        if frame not in ("RAS", "LPS"):
            raise ValueError(f"{path}: frame is {frame!r}; expected 'RAS' or 'LPS'")
        if content.get("units", "mm") != "mm":
            raise ValueError(f"{path}: units are {content['units']!r}; expected 'mm'")
    try:
        pose = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the pose must be 4 rows of 4 numbers") from error
    if pose.shape != (4, 4):
        raise ValueError(f"{path}: the pose must be 4x4, got shape {tuple(pose.shape)}")
    return pose, frame
