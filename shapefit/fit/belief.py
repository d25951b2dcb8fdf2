"""What a network saw of a bone before a fit: its poses and shape, and how surely, kept in the objective."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.gaussian import inverse_covariance


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
        count = len(self.precision)
        return 0.5 * count * torch.log1p(self.squared(self.away(poses, coefficients)) / count)

    def curvature(self, away: Float[Tensor, "B D"], slope: Float[Tensor, "B D N"]) -> Float[Tensor, "B N N"]:
        """Of the surprise, by Gauss and Newton, in N numbers: from `away` and its derivatives in them."""
        farther = 1 + self.squared(away) / len(self.precision)
        return slope.mT @ self.precision @ slope / farther[:, None, None]

    def away(
        self, poses: Float[Tensor, "B P 4 4"], coefficients: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B D"]:
        """Twists in turn from the poses expected, then differences of the coefficients."""
        twists = se3.log(se3.inverse(self.poses) @ poses.to(self.poses))
        return torch.cat([twists.flatten(1), coefficients.to(self.poses) - self.coefficients], 1)

    def squared(self, away: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Mahalanobis distances, squared."""
        return (away @ self.precision * away).sum(1)


def rigid_belief(
    covariance: Float[Tensor, "D D"],
    world_from_bone: Float[Tensor, "4 4"],
    bone_from_model: Float[Tensor, "4 4"],
) -> Belief | None:
    """What is expected of a known bone's pose; None where the covariance is infinite.

    The covariance begins with that of a twist along the axes of the model by which the bone was seen (rad,
    mm), about that model's origin.
    """
    covariance = covariance[:6, :6].double()
    if not torch.isfinite(covariance).all():
        return None
    carried = se3.adjoint(bone_from_model.double())
    precision = inverse_covariance(carried @ covariance @ carried.mT)
    return Belief(world_from_bone.double()[None], covariance.new_zeros(0), precision)
