"""What a network saw of a bone before a fit: its poses and shape, and how surely, kept in the objective."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3


class Belief(NamedTuple):
    """Poses and shape that are expected, and how surely; float64."""

    poses: Float[Tensor, "P 4 4"]  # of the model in every camera where views are free, else in the world
    coefficients: Float[Tensor, " K"]  # standard deviations of the shape model
    precision: Float[Tensor, "D D"]  # of the twists (bone's axes: rad, mm) in turn, then the coefficients

    def surprise(
        self, poses: Float[Tensor, "B P 4 4"], coefficients: Float[Tensor, "B K"]
    ) -> Float[Tensor, " B"]:
        """Half the squared Mahalanobis distance d2, but far off less: D/2 log(1 + d2/D), D numbers in all.

        A network may be wrong by more than it knows, and then what the images say must be able to win
        (Lorentzian: Black & Rangarajan 1996, IJCV 19).
        """
        twists = se3.log(se3.inverse(self.poses) @ poses.to(self.poses))
        away = torch.cat([twists.flatten(1), coefficients.to(self.poses) - self.coefficients], 1)
        count = len(self.precision)
        return 0.5 * count * torch.log1p((away @ self.precision * away).sum(1) / count)
