"""X-rays as in a mirror: those of the mirrored bones (x -> -x), whose left and right change names."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from shapefit.anatomy import counterpart

SYMMETRIC = 1.0  # mm, mean distance of a template from its mirror image, above which it is not symmetric


def mirrored_points(points: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch 3 H W"]:
    """Scene coordinates (mm) in a mirrored image, of the mirrored bones."""
    return points.flip(-1) * torch.tensor([-1.0, 1.0, 1.0]).to(points)[:, None, None]


def counterparts(structures: Sequence[str]) -> list[int]:
    """For each structure the number of what it is in a mirror: of `hip_left`, `hip_right`'s; or its own."""
    place = {name: number for number, name in enumerate(structures)}
    return [place.get(counterpart(name) or name, number) for name, number in place.items()]


def check_symmetric(template: Float[Tensor, "V 3"]) -> None:
    """Raise ValueError where a template is not its own mirror image about x = 0.

    The mean of a model that was built with mirror images is; else coordinates on it would not be those of
    the mirrored bone.
    """
    vertices = template.numpy()
    apart = float(cKDTree(vertices).query(vertices * [-1, 1, 1])[0].mean())
    if apart > SYMMETRIC:
        raise ValueError(
            f"the template lies {apart:.1f} mm from its mirror image (at most {SYMMETRIC:g}): X-rays of it "
            "are not those of the same bones in a mirror; train with --mirrored 0, or on a model that was "
            "built with mirror images"
        )
