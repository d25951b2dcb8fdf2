"""What a scene-coordinate network sees in an X-ray."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Coordinates(NamedTuple):
    """Where the rays of B images enter and leave the bone, as points of the template (mm), and how surely.

    The values mean something where `structures` is high. The standard deviations are those of each axis.
    """

    entry: Float[Tensor, "B 3 H W"]  # mm
    exit: Float[Tensor, "B 3 H W"]  # mm
    entry_std: Float[Tensor, "B H W"]  # mm
    exit_std: Float[Tensor, "B H W"]  # mm
    structures: Float[Tensor, "B S H W"]  # probability that the ray meets the structure
