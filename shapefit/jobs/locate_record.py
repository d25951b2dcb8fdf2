"""What is written of a located bone: where it is, what shape it has, and how sure that is."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.io.record import camera_entry, landmark_places, new_record
from shapefit.scene.locate import Located
from shapefit.shape_model import ShapeModel
from shapefit.view import View

_TWIST = ("turn x", "turn y", "turn z", "shift x", "shift y", "shift z")


def located_record(
    model: ShapeModel,
    views: Sequence[View],
    images: Sequence[Path],
    located: Located,
    seed: int,
    command: str,
    seconds: float,
) -> dict:
    """The content of fit.json: that of a fit to X-rays, and how sure it is. What was not found is null.

    `covariance` is that of `covariance_of`: turns (rad) and shifts (mm) along the axes of the model's frame,
    then coefficients. `std` of a view is what it makes of the turn about the camera's axes (columns, rows,
    beam; degrees) and of the place of the bone's centre along them (mm), `excess` how many times larger the
    pixels miss than the network predicted.
    """
    found = located.found
    names = [view.name for view in views]
    std = [pose_std(model, located, n) if found else None for n in range(len(views))]
    modes = len(located.coefficients)
    return new_record(command, seed, model) | {
        "coefficients": located.coefficients.tolist() if found else None,
        "coefficients_std": _roots(located.covariance.diagonal()[-modes:]) if found and modes else None,
        "scale": 1.0,
        "world_from_model": located.world_from_model.tolist() if found else None,
        "views": [
            {
                "name": name,
                "image": str(images[n]) if images else None,
                "world_from_camera": located.world_from_camera[n].tolist() if found else None,
                "camera": camera_entry(views[n].camera),
                "loss": None,
                "terms": {},
                "dice": None,
                "inlier_share": float(located.inlier_share[n]),
                "excess": float(located.excess[n]),
                "std": std[n],
            }
            for n, name in enumerate(names)
        ],
        "converged": found,
        "reason": located.reason,
        "uncertainty": uncertainty_in_words([one for one in std if one]),
        "covariance": located.covariance.tolist() if found else None,
        "covariance_of": _parameters(located, names) if found else None,
        "landmarks": landmark_places(model, located.vertices) if found else {},
        "seconds": seconds,
        "history": [],
    }


def pose_std(model: ShapeModel, located: Located, view: int) -> dict[str, list[float | None]]:
    """Standard deviations of the pose in a view: about and along the camera's axes (columns, rows, beam).

    `rotation_deg` in degrees; `translation_mm` of the centre of the mean shape. Null where nothing tells.
    """
    first = 0 if located.posed else 6 * view
    twist = located.covariance[first : first + 6, first : first + 6]
    turned = (se3.inverse(located.world_from_camera[view]) @ located.world_from_model)[:3, :3].double()
    moved = torch.zeros(6, 6, dtype=torch.float64)
    moved[:3, :3] = turned
    # a turn about the model's origin carries the centre along
    moved[3:, :3] = -turned @ se3.hat(model.mean.double().mean(0))
    moved[3:, 3:] = turned
    std = _roots((moved @ twist @ moved.T).diagonal())
    return {
        "rotation_deg": [None if value is None else math.degrees(value) for value in std[:3]],
        "translation_mm": std[3:],
    }


def uncertainty_in_words(std: Sequence[dict[str, list[float | None]]]) -> str:
    """The largest standard deviations of several views as a sentence; nothing for no view."""
    turns = [value for one in std for value in one["rotation_deg"]]
    across = [value for one in std for value in one["translation_mm"][:2]]
    along = [one["translation_mm"][2] for one in std]
    if not std:
        return ""
    if None in turns + across + along:
        return "The images do not tell the pose: its standard deviation is infinite."
    turn, plane, depth = (
        max(value for value in part if value is not None) for part in (turns, across, along)
    )
    return (
        f"The bone's turn is known to {turn:.2g}° and its place to {plane:.2g} mm across and {depth:.2g} mm "
        "along the beam (one standard deviation)."
    )


def _roots(variances: Float[Tensor, " D"]) -> list[float | None]:
    return [math.sqrt(v) if 0 <= v < math.inf else None for v in variances.tolist()]


def _parameters(located: Located, names: Sequence[str]) -> list[str]:
    """What the rows of the covariance are of."""
    poses = ["pose"] if located.posed else [f"pose of {name}" for name in names]
    modes = [f"coefficient {k + 1}" for k in range(len(located.coefficients))]
    return [f"{pose}, {part}" for pose in poses for part in _TWIST] + modes
