"""ITK's text transforms (.tfm): the only place that knows which way they point, and in which frame.

3D Slicer shows a transform as the motion that it applies to whatever is placed under it ("to parent"), in
RAS. Its files follow ITK: LPS, and the motion that maps points of the fixed image to the moving one, which
is the inverse ("linear transforms are inverted as needed and written as an AffineTransform":
https://slicer.readthedocs.io/en/latest/developer_guide/modules/transforms.html). So a file of ours holds

    F inv(world_from_bone) F,  F = diag(-1, -1, 1, 1),

and Slicer, which inverts it again, moves a CT or a mesh of the bone to where the X-rays saw it; ITK's
resampling filters take it as it is to draw the bone's image on a grid of the world.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit.io.atomic import write_text

HEADER = "#Insight Transform File V1.0"
_LINEAR = ("AffineTransform", "MatrixOffsetTransformBase")
_KINDS = (*_LINEAR, "Euler3DTransform", "VersorRigid3DTransform")
_FLIP = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


def write_tfm(path: str | Path, world_from_bone: Float64[Tensor, "4 4"]) -> None:
    """Write the motion (RAS, mm) that carries the bone into the world, as an ITK AffineTransform in LPS.

    3D Slicer displays it as `world_from_bone`. Whole or not at all. Raises ValueError for a matrix that
    cannot be inverted.
    """
    stored = _FLIP @ _inverse(world_from_bone, "world_from_bone") @ _FLIP
    numbers = [*stored[:3, :3].flatten().tolist(), *stored[:3, 3].tolist()]
    write_text(
        path,
        f"{HEADER}\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(repr(number + 0.0) for number in numbers)}\nFixedParameters: 0 0 0\n",
    )


def read_tfm(path: str | Path) -> Float64[Tensor, "4 4"]:
    """Read world_from_bone (RAS, mm) from an ITK text transform, as 3D Slicer would display it.

    Understood are one AffineTransform, MatrixOffsetTransformBase, Euler3DTransform or
    VersorRigid3DTransform, with a centre of rotation. Raises ValueError, with the file's name, for anything
    else: another kind, several transforms, numbers that are missing or not finite, a singular matrix.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable text transform: {error}") from error
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ValueError(f"{path} is not an ITK text transform: its first line is not '{HEADER}'")
    entries = [line.partition(":") for line in lines if line.strip() and not line.startswith("#")]
    found = [(key.strip(), value.split()) for key, _, value in entries]
    kinds = [" ".join(value) for key, value in found if key == "Transform"]
    if len(kinds) != 1:
        raise ValueError(f"{path} holds {len(kinds)} transforms; expected one: harden them into one first")
    kind = kinds[0].partition("_")[0]
    if kind not in _KINDS or not kinds[0].endswith("_3_3"):
        raise ValueError(f"{path} holds a {kinds[0]}; expected one of {', '.join(_KINDS)} in 3D")
    values = dict(found)
    linear = kind in _LINEAR
    numbers = _numbers(path, values, "Parameters", (12,) if linear else (6,))
    # the fourth fixed number of an Euler3DTransform says the order of its axes
    fixed = _numbers(path, values, "FixedParameters", (3, 4) if kind == "Euler3DTransform" else (3,))
    if linear:
        matrix = torch.tensor(numbers[:9], dtype=torch.float64).reshape(3, 3)
    elif kind == "Euler3DTransform":
        matrix = _euler(numbers[:3], zyx=len(fixed) == 4 and fixed[3] != 0)
    else:
        matrix = _versor(numbers[:3])
    centre = torch.tensor(fixed[:3], dtype=torch.float64)
    stored = torch.eye(4, dtype=torch.float64)
    stored[:3, :3] = matrix
    stored[:3, 3] = torch.tensor(numbers[-3:], dtype=torch.float64) + centre - matrix @ centre
    return _FLIP @ _inverse(stored, str(path)) @ _FLIP


def _inverse(matrix: Tensor, what: str) -> Tensor:
    if not torch.isfinite(matrix).all() or abs(float(torch.linalg.det(matrix[:3, :3]))) < 1e-9:
        raise ValueError(f"{what} cannot be inverted: {matrix[:3].tolist()}")
    inverse = torch.eye(4, dtype=torch.float64)
    inverse[:3, :3] = torch.linalg.inv(matrix[:3, :3])
    inverse[:3, 3] = -inverse[:3, :3] @ matrix[:3, 3]
    return inverse


def _numbers(path: Path, values: dict[str, list[str]], key: str, counts: Sequence[int]) -> list[float]:
    try:
        numbers = [float(text) for text in values.get(key, [])]
    except ValueError as error:
        raise ValueError(f"{path}: its {key} are not all numbers: {error}") from error
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{path}: {key} must be {' or '.join(map(str, counts))} finite numbers, got {len(numbers)}"
        )
    return numbers


def _euler(angles: Sequence[float], zyx: bool) -> Float64[Tensor, "3 3"]:
    """itk::Euler3DTransform: radians about x, y, z, composed as Z X Y, or as Z Y X where it says so."""
    about_x, about_y, about_z = (_turn(axis, angle) for axis, angle in enumerate(angles))
    return about_z @ (about_y @ about_x if zyx else about_x @ about_y)


def _turn(axis: int, angle: float) -> Float64[Tensor, "3 3"]:
    matrix = torch.eye(3, dtype=torch.float64)
    j, k = (axis + 1) % 3, (axis + 2) % 3
    matrix[j, j] = matrix[k, k] = math.cos(angle)
    matrix[j, k], matrix[k, j] = -math.sin(angle), math.sin(angle)
    return matrix


def _versor(vector: Sequence[float]) -> Float64[Tensor, "3 3"]:
    """itk::VersorRigid3DTransform: the vector part of a unit quaternion whose scalar part is not negative."""
    x, y, z = vector
    w = math.sqrt(max(0.0, 1 - x * x - y * y - z * z))
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
