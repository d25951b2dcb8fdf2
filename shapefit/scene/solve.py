"""Poses and shape together: the most probable ones, given scene coordinates and the shape model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.gaussian import inverse_covariance
from shapefit.mesh import SurfaceTree, closest_on
from shapefit.scene.pnp import Votes
from shapefit.settings import LocateSettings
from shapefit.shape_model import ShapeModel

FREEDOM = 4.0  # of Student's t: how heavy the tails of the coordinates' errors are
GATE = 5.0  # standard deviations, from which a miss is an error of another kind and pulls no more
ROUNDS = 40
SETTLED = 1e-4  # of twice the logarithm of the probability: a hundredth of a standard deviation
GENTLEST, STIFFEST = 1e-3, 1e6  # damping, as a share of the normal matrix's diagonal
MEDIAN = 1.3863  # of chi squared with two degrees of freedom
FARTHEST = 5.0  # medians of the misses, beyond which a vote has no say in how large errors are


class Carried(NamedTuple):
    """Votes whose points ride on a shape model: point + sum_k c_k basis_k."""

    votes: Votes
    point: Float[Tensor, "N 3"]  # mm, of the model's mean
    basis: Float[Tensor, "N 3 K"]  # mm per standard deviation


class Sight(NamedTuple):
    """One image's part in the solution: camera_from_model = camera_from_world @ poses[pose]."""

    carried: Carried
    camera: Camera
    camera_from_world: Float[Tensor, "4 4"]  # identity where the view's own pose is solved for
    pose: int
    worth: float  # independent observations that the votes amount to


class Solution(NamedTuple):
    """The most probable poses and shape, and how far they are to be trusted."""

    poses: Float[Tensor, "P 4 4"]
    coefficients: Float[Tensor, " K"]  # standard deviations
    covariance: Float[Tensor, "D D"]  # of the poses' twists (bone's axes: rad, mm) in turn, then coefficients
    excess: list[float]  # per image: the misses' size over what was predicted, 1 if smaller


def carry(
    found: Votes, model: ShapeModel, tree: SurfaceTree, template: Float[Tensor, "V 3"], modes: int
) -> Carried:
    """Hang votes on a model of the template's mesh, each at the point of the surface that is nearest.

    `tree` holds the template's surface. What lies between a vote and the surface stays as it is.
    """
    place = closest_on(tree, found.point.numpy())
    corners = model.faces[torch.from_numpy(place.face)]
    weights = torch.from_numpy(place.barycentric).double()
    moved = model.mean.double() - template.double()
    basis = torch.zeros(modes, len(corners), 3, dtype=torch.float64)
    shift = torch.zeros(len(corners), 3, dtype=torch.float64)
    for corner, weight in zip(corners.T, weights.T, strict=True):
        basis += model.components[:modes, corner].double() * weight[:, None]
        shift += moved[corner] * weight[:, None]
    basis = basis.permute(1, 2, 0) * model.std[:modes].double()
    return Carried(found, found.point + shift, basis.contiguous())


def shaped(carried: Carried, coefficients: Float[Tensor, " K"]) -> Float[Tensor, "N 3"]:
    """Where a shape takes the votes' points, mm in the model's frame."""
    return carried.point + carried.basis @ coefficients


def solve(
    sights: Sequence[Sight],
    poses: Float[Tensor, "P 4 4"],
    center: Float[Tensor, "3"],
    settings: LocateSettings,
) -> Solution:
    """Poses and coefficients of highest posterior probability, from poses near them.

    Every vote misses its pixel by Student's t with the covariance that its point's standard deviation
    has in the image, what the model does not contain, and the pixel's own size, up to a gate: wrong points
    lie about more widely than the bone, and together would shrink it. Votes of one image weigh together
    as `worth` independent ones. Coefficients are standard normal. Where a single image
    tells a pose, the depth of `center` (mm, model frame) is normal about the one that settings expect.
    Gauss-Newton on reweighted squares (Lange, Little & Taylor 1989), damped where a step does not pay;
    the covariance is the inverse of the normal matrix. It is infinite where nothing tells a direction.
    """
    modes = sights[0].carried.basis.shape[-1]
    posterior = _Posterior(sights, center, settings)
    at = _State(poses.double(), torch.zeros(modes, dtype=torch.float64))
    damping = 0.0
    misses = posterior.misses(at)
    for _ in range(ROUNDS):
        scales = [_excess(miss.squared) for miss in misses]
        cost = posterior.cost(at, misses, scales)
        matrix, right = posterior.normal(at, misses, scales)
        gain = 0.0
        while damping <= STIFFEST:
            factor, failed = torch.linalg.cholesky_ex(matrix + damping * matrix.diagonal().diag())
            tried = at.moved(torch.cholesky_solve(right[:, None], factor)[:, 0])
            further = posterior.misses(tried)
            gain = cost - posterior.cost(tried, further, scales)
            if not int(failed) and gain > -SETTLED:
                at, misses, damping = tried, further, damping / 10
                break
            damping = max(10 * damping, GENTLEST)
        if gain < SETTLED:
            break
    scales = [_excess(miss.squared) for miss in misses]
    matrix, _ = posterior.normal(at, misses, scales)
    return Solution(at.poses, at.coefficients, inverse_covariance(matrix), scales)


class _State(NamedTuple):
    """What is solved for."""

    poses: Float[Tensor, "P 4 4"]
    coefficients: Float[Tensor, " K"]

    def moved(self, step: Float[Tensor, " D"]) -> "_State":
        """Another one: the poses' twists in turn, then the coefficients' changes."""
        turned = 6 * len(self.poses)
        return _State(self.poses @ se3.exp(step[:turned].reshape(-1, 6)), self.coefficients + step[turned:])


class _Misses(NamedTuple):
    """How far votes miss their pixels, in standard deviations that are independent, and why."""

    bone: Float[Tensor, "N 3"]  # mm, model frame
    image_from_bone: Float[Tensor, "N 2 3"]  # standard deviations of the miss per mm of the bone
    miss: Float[Tensor, "N 2"]
    squared: Float[Tensor, " N"]


def _misses(sight: Sight, at: _State, settings: LocateSettings) -> _Misses:
    camera_from_model = sight.camera_from_world @ at.poses[sight.pose]
    bone = shaped(sight.carried, at.coefficients)
    x, y, z = se3.transform(camera_from_model, bone).T
    z = z.clamp_min(1.0)  # mm: a step that takes points behind the source costs much and is not taken
    k = sight.camera.intrinsics()
    x, y, fx, fy = x / z, y / z, k[0, 0] / z, k[1, 1] / z
    # covariance of the miss: that of a point, the same along each axis, as the image sees it, and the pixel's
    variance = sight.carried.votes.std.square() + settings.beyond**2
    along_x = variance * fx.square() * (1 + x.square()) + settings.pixel**2
    along_y = variance * fy.square() * (1 + y.square()) + settings.pixel**2
    mixed = variance * fx * fy * x * y
    first = along_x.rsqrt()  # rows of the inverse of its Cholesky root
    slope = mixed / along_x
    second = (along_y - mixed * slope).rsqrt()
    zero = torch.zeros_like(z)
    u = torch.stack([fx, zero, -fx * x], 1) * first[:, None]
    v = torch.stack([-slope * fx, fy, slope * fx * x - fy * y], 1) * second[:, None]
    away = torch.stack([k[0, 0] * x + k[0, 2], k[1, 1] * y + k[1, 2]], 1) - sight.carried.votes.pixel
    miss = torch.stack([away[:, 0] * first, (away[:, 1] - slope * away[:, 0]) * second], 1)
    rotation = camera_from_model[:3, :3]
    return _Misses(bone, torch.stack([u, v], 1) @ rotation, miss, miss.square().sum(1))


class _Posterior(NamedTuple):
    """How probable poses and shape are."""

    sights: Sequence[Sight]
    center: Float[Tensor, "3"]  # mm, model frame
    settings: LocateSettings

    def misses(self, at: _State) -> list[_Misses]:
        return [_misses(sight, at, self.settings) for sight in self.sights]

    def cost(self, at: _State, misses: Sequence[_Misses], scales: Sequence[float]) -> float:
        """Twice the negative logarithm of the posterior, up to a constant, for errors of the given scales."""
        cost = float(at.coefficients.square().sum())
        for sight, miss, scale in zip(self.sights, misses, scales, strict=True):
            tails = torch.log1p(miss.squared.clamp(max=(GATE * scale) ** 2) / (FREEDOM * scale**2)).mean()
            cost += sight.worth * (FREEDOM + 2) * float(tails)
        for _, _, away in self._depths(at):
            cost += float(away**2)
        return cost

    def normal(
        self, at: _State, misses: Sequence[_Misses], scales: Sequence[float]
    ) -> tuple[Float[Tensor, "D D"], Float[Tensor, " D"]]:
        """The normal equations of a step in (twists, coefficients)."""
        count, modes = len(at.poses), len(at.coefficients)
        matrix = torch.zeros(6 * count + modes, 6 * count + modes, dtype=torch.float64)
        right = torch.zeros(len(matrix), dtype=torch.float64)
        matrix.diagonal()[6 * count :] = 1
        right[6 * count :] = -at.coefficients
        for sight, seen, scale in zip(self.sights, misses, scales, strict=True):
            weight = sight.worth / len(seen.bone) * (FREEDOM + 2) / (FREEDOM * scale**2 + seen.squared)
            weight = weight * (seen.squared <= (GATE * scale) ** 2)
            root = weight.sqrt()[:, None]
            rows = _slopes(seen.bone, seen.image_from_bone * root[..., None], sight.carried.basis)
            place = torch.cat([6 * sight.pose + torch.arange(6), 6 * count + torch.arange(modes)])
            matrix[place[:, None], place] += rows.T @ rows
            right[place] -= rows.T @ (seen.miss * root).flatten()
        for pose, row, away in self._depths(at):
            place = 6 * pose + torch.arange(6)
            matrix[place[:, None], place] += torch.outer(row, row)
            right[place] -= away * row
        return matrix, right

    def _depths(self, at: _State) -> Iterator[tuple[int, Float[Tensor, "6"], Float[Tensor, ""]]]:
        """Poses that a single image tells, with their depths' derivative and miss in standard deviations."""
        for number, pose in enumerate(at.poses):
            of_pose = [sight for sight in self.sights if sight.pose == number]
            if len(of_pose) != 1 or self.settings.depth_std <= 0:
                continue
            sdd = float(of_pose[0].camera.sdd)
            camera_from_model = of_pose[0].camera_from_world @ pose
            axis = camera_from_model[2, :3]
            std = self.settings.depth_std * sdd
            depth = axis @ self.center + camera_from_model[2, 3]
            row = torch.cat([torch.linalg.cross(self.center, axis), axis]) / std
            yield number, row, (depth - self.settings.depth * sdd) / std


def _slopes(
    bone: Float[Tensor, "N 3"], image_from_bone: Float[Tensor, "N 2 3"], basis: Float[Tensor, "N 3 K"]
) -> Float[Tensor, "2*N 6+K"]:
    """Derivatives of the misses by a pose's twist and the coefficients."""
    rows = torch.empty(len(bone), 2, 6 + basis.shape[-1], dtype=torch.float64)
    rows[..., :3] = torch.linalg.cross(bone[:, None], image_from_bone)
    rows[..., 3:6] = image_from_bone
    # thousands of products of small matrices, without more large arrays than the result
    torch.mul(image_from_bone[:, :, 0, None], basis[:, None, 0], out=rows[..., 6:])
    for axis in (1, 2):
        rows[..., 6:].addcmul_(image_from_bone[:, :, axis, None], basis[:, None, axis])
    return rows.flatten(0, 1)


def _excess(squared: Float[Tensor, " N"]) -> float:
    """How many times larger than predicted the misses are; at least 1, since part of them was fitted away."""
    near = squared[squared <= FARTHEST**2 * squared.median()]
    return max(1.0, float((near.median() / MEDIAN).sqrt()))
