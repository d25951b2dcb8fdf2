"""Measures in images: overlap of shadows, what a detector covers."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from shapefit import se3
from shapefit.camera import homogeneous_pixels
from shapefit.view import IGNORE, View


def mask_dice(
    predicted: Bool[Tensor, "S H W"],
    mask: UInt8[Tensor, "H W"],
    names: Sequence[str],
    valid: Bool[Tensor, "H W"] | None = None,
    compared: Sequence[str] | None = None,
    hidden: str = "count",
) -> dict[str, float]:
    """Dice of each structure's shadow and its mask, 0 to 1, over pixels that are valid and not 255.

    `mask` holds structure k of `names` as k + 1 and 0 where there is none. Structures that do not occur in
    the mask are left out, unless named in `compared`; one that occurs in the mask and is not predicted has 0.
    A mask has one label per pixel although shadows overlap: `hidden="count"` takes a pixel with another
    structure's label as free of this one (strict), `hidden="ignore"` as unknown.
    """
    if hidden not in ("count", "ignore"):
        raise ValueError(f"unknown treatment of hidden pixels {hidden!r}; expected 'count' or 'ignore'")
    if len(names) != len(predicted):
        raise ValueError(
            f"{len(predicted)} predicted shadows for {len(names)} structures ({', '.join(names)})"
        )
    known = mask != IGNORE
    if valid is not None:
        known = known & valid
    dice = {}
    for k, name in enumerate(names):
        truth = mask == k + 1
        region = known & (truth | (mask == 0)) if hidden == "ignore" else known
        p, t = predicted[k] & region, truth & region
        total = int(p.sum()) + int(t.sum())
        if t.any() or (compared is not None and name in compared):
            dice[name] = 2 * int((p & t).sum()) / total if total else 1.0
    return dice


def in_view(points: Float[np.ndarray, "N 3"], views: Sequence[View]) -> Bool[np.ndarray, " N"]:
    """Which world points (mm) project inside the detector of at least one view; all need their pose."""
    world = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
    seen = np.zeros(len(points), bool)
    for view in views:
        if view.world_from_camera is None:
            raise ValueError(f"{view.name} has no pose, so what it shows of the surface is not known")
        pixels = homogeneous_pixels(view.camera, se3.inverse(view.world_from_camera.double()), world).numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            column, row = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
        inside = (column >= -0.5) & (column <= view.camera.width - 0.5) & (row >= -0.5)
        seen |= (pixels[:, 2] > 0) & inside & (row <= view.camera.height - 0.5)
    return seen
