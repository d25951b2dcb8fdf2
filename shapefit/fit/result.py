"""What a fit to X-rays gives back, and whether it is believed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.image_metrics import mask_dice
from shapefit.render import render_mesh
from shapefit.settings import FitSettings
from shapefit.shape_model import ShapeModel
from shapefit.view import View

COVERED = 0.5  # mm of path from which a pixel counts as covered by a bone


@dataclass(frozen=True)
class XRayFit:
    """A bone found in X-rays. World and camera poses in mm, RAS."""

    coefficients: Float[Tensor, "K"]  # standard deviations
    scale: float  # 1: size is part of the shape model
    world_from_model: Float[Tensor, "4 4"]
    world_from_camera: Float[Tensor, "N 4 4"]
    vertices: Float[Tensor, "V 3"]  # world mm
    losses: list[float]  # per view
    terms: list[dict[str, float]]  # per view
    dice: list[dict[str, float] | None]  # per view with a mask: structure -> Dice
    converged: bool
    reason: str  # why, in words
    history: list[dict]  # stage, step, loss
    seconds: float
    start: dict = field(default_factory=dict)  # "kind": prior, scene or record; "doubt" of a scene's start


def mask_overlap(
    model: ShapeModel, vertices: Float[Tensor, "V 3"], world_from_camera: Float[Tensor, "4 4"], view: View
) -> dict[str, float] | None:
    """Dice of each bone's shadow with the view's mask; None for a view without a mask."""
    if view.mask is None:
        return None
    camera_from_world = se3.inverse(world_from_camera)[None]
    paths = render_mesh(vertices[None], model.faces, camera_from_world, view.camera, model.structure)
    return mask_dice(paths[0] > COVERED, view.mask, model.names, view.valid)


def verdict(
    terms: Sequence[dict[str, float]],
    dice: Sequence[dict[str, float] | None],
    vertices: Float[Tensor, "V 3"],
    settings: FitSettings,
) -> tuple[bool, str]:
    """Whether a fit explains its images, and why: by Dice with the masks, else by local correlation."""
    if not torch.isfinite(vertices).all():
        return False, "the descent left the finite numbers"
    scores = [value for view in dice if view is not None for value in view.values()]
    if scores:
        what, mean, limit = "Dice with the masks", sum(scores) / len(scores), settings.accept_dice
    else:
        what, limit = "local correlation on the bone", settings.accept
        mean = sum(term["agreement"] for term in terms) / len(terms)
    good = mean >= limit
    return good, f"mean {what} {mean:.3f}, {'at least' if good else 'below'} {limit}"
