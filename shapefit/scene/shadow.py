"""Poses and shape once more, so that the bone casts the shadow that is seen: its structures' masks.

Points of the surface that are seen tell a turn out of the image's plane by their depth, which is short;
outlines tell it otherwise, and their errors are others.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shapefit import se3
from shapefit.fit.coarse import coarsened
from shapefit.gaussian import inverse_covariance
from shapefit.render import render_mesh
from shapefit.scene.solve import Sight, Solution
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel

# of each structure: Dice 0.994 with the shadow of a pelvis of 20,000 in all, in a fifth of the time
FACES = 1000
SOFT = 2.0  # pixels, standard deviation of the blur that makes shadows differentiable
ROUNDS, HALVINGS = 3, 3
ALIKE = 20.0  # pixels err alike: of so many, one counts for how sure the answer is
# root mean square at the edges of shadows, of what they differ by from the masks seen in simulated X-rays;
# where they differ more, as in X-rays of a kind that the network does not know, masks tell less
USUAL = 0.16
# rad, mm, standard deviations: differences from which derivatives are taken
TURN, SHIFT, STD = 0.02, 3.0, 0.4
NEAREST = 50.0  # mm from the source that any vertex may lie


class Mask(NamedTuple):
    """Which structures a network sees in an image."""

    probability: Float[Tensor, "S H W"]
    structures: tuple[str, ...]
    valid: Bool[Tensor, "H W"]


def match_shadows(
    sights: Sequence[Sight],
    masks: Sequence[Mask],
    solution: Solution,
    model: ShapeModel,
    settings: LocateSettings,
) -> Solution:
    """Poses and coefficients of highest posterior probability, given those that `solve` found and the masks.

    What was found is the prior, normal with its covariance. Each pixel of the structures' shadows differs
    from their probabilities, both blurred, with the standard deviation `settings.shadow`. Gauss-Newton with
    central differences; a solution with no covariance, or at the source, stays as it is. The less the shadows
    found are like the masks, the less the masks add to the covariance's inverse.
    """
    prior = inverse_covariance(solution.covariance)
    if not torch.isfinite(prior).all():
        return solution
    shared = [_shared(mask, model.names) for mask in masks]
    stage = _Stage(sights, shared, solution, coarsened(model, FACES), settings.shadow)
    twist, told, unlike = torch.zeros(len(prior), dtype=torch.float64), torch.zeros_like(prior), 1.0
    steps = stage.differences()
    for _ in range(ROUNDS):
        around = stage.misses(torch.cat([twist[None], twist + steps.diag(), twist - steps.diag()]))
        if around is None:
            break
        misses, ahead, behind = around[0], *around[1:].chunk(2)
        slope = (ahead - behind) / (2 * steps[:, None])
        told, unlike = slope @ slope.T, _unlike(misses * settings.shadow, slope * steps[:, None])
        step = torch.linalg.solve(told + prior, slope @ misses + prior @ twist)
        cost = float(misses.square().sum() + twist @ prior @ twist)
        for halving in range(HALVINGS):
            tried = twist - step / 2**halving
            found = stage.misses(tried[None])
            if found is not None and float(found.square().sum() + tried @ prior @ tried) < cost:
                twist = tried
                break
    if not told.any():
        return solution
    poses, coefficients = stage.at(twist[None])
    return solution._replace(
        poses=poses[0],
        coefficients=coefficients[0],
        covariance=inverse_covariance(told / (ALIKE * unlike) + prior),
    )


def _unlike(misses: Float[Tensor, " N"], moves: Float[Tensor, "D N"]) -> float:
    """How much larger than `USUAL` the misses' mean square is where shadows can move; at least 1."""
    edge = moves.square().sum(0)
    return max(1.0, float((edge * misses.square()).sum() / edge.sum().clamp(min=1e-9)) / USUAL**2)


class _Shared(NamedTuple):
    """What of an image's masks the model's structures can cast."""

    numbers: list[int]  # of the structures, in the model
    probability: Float[Tensor, "s H W"]
    valid: Bool[Tensor, "H W"]


def _shared(mask: Mask, names: Sequence[str]) -> _Shared:
    both = [name for name in names if name in mask.structures]
    seen = mask.probability[[mask.structures.index(name) for name in both]]
    return _Shared([names.index(name) for name in both], seen, mask.valid)


class _Stage(NamedTuple):
    """What casts shadows, and those it should cast."""

    sights: Sequence[Sight]
    masks: Sequence[_Shared]
    solution: Solution
    model: ShapeModel
    std: float

    def differences(self) -> Float[Tensor, " D"]:
        """Steps from which derivatives are taken: a pixel or so."""
        pose = torch.tensor([TURN, TURN, TURN, SHIFT, SHIFT, SHIFT], dtype=torch.float64)
        modes = torch.full_like(self.solution.coefficients, STD)
        return torch.cat([pose.repeat(len(self.solution.poses)), modes])

    def at(self, twists: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B P 4 4"], Float[Tensor, "B K"]]:
        """Poses and coefficients that are `twists` from the solution."""
        poses, coefficients = self.solution.poses, self.solution.coefficients
        count = len(poses)
        motion = se3.exp(twists[:, : 6 * count].reshape(-1, count, 6))
        return poses @ motion, coefficients + twists[:, 6 * count :]

    def misses(self, twists: Float[Tensor, "B D"]) -> Float[Tensor, "B N"] | None:
        """How far the shadows are from the masks, in standard deviations; None for a bone at the source."""
        poses, coefficients = self.at(twists)
        vertices = self.model.instance(coefficients)
        parts = []
        for sight, mask in zip(self.sights, self.masks, strict=True):
            placed = sight.camera_from_world @ poses[:, sight.pose]
            if float(se3.transform(placed, vertices)[..., 2].min()) < NEAREST:
                return None
            paths = render_mesh(
                vertices.float(), self.model.faces, placed, sight.camera, self.model.structure,
                len(self.model.names),
            )  # fmt: skip
            cast = (paths[:, mask.numbers] > 0).float()
            parts.append(_blurred((cast - mask.probability) * mask.valid).flatten(1).double() / self.std)
        return torch.cat(parts, 1)


def _blurred(images: Float[Tensor, "B S H W"]) -> Float[Tensor, "B S h w"]:
    """Images blurred, at every second pixel: there is nothing finer in them then. Beside them lies 0."""
    rows, columns = (_blur(size).to(images) for size in images.shape[-2:])
    return rows @ images @ columns.T


def _blur(size: int) -> Float[Tensor, "n size"]:
    away = torch.arange(0, size, 2)[:, None] - torch.arange(size)
    return torch.exp(-0.5 * (away / SOFT) ** 2) / (SOFT * math.sqrt(2 * math.pi))
