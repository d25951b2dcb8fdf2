"""What a network saw of a bone before a fit: a Gaussian about poses and shape, kept in the objective."""

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
        """Half the squared Mahalanobis distance: -log density, up to a constant."""
        twists = se3.log(se3.inverse(self.poses) @ poses.to(self.poses))
        away = torch.cat([twists.flatten(1), coefficients.to(self.poses) - self.coefficients], 1)
        return 0.5 * (away @ self.precision * away).sum(1)
