"""A fit that begins where a scene-coordinate network saw the bone, and when to look for it elsewhere too."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from shapefit import se3
from shapefit.fit.belief import Belief
from shapefit.fit.descent import Candidates, stepped
from shapefit.gaussian import inverse_covariance
from shapefit.settings import FitSettings


class SceneStart(NamedTuple):
    """Pose and shape read off the X-rays of a fit: `scene.locate`, but anything that knows both will do."""

    coefficients: Float[Tensor, " K"]  # standard deviations; modes beyond them are 0
    world_from_model: Float[Tensor, "4 4"]
    world_from_camera: Float[Tensor, "N 4 4"]
    inlier_share: tuple[float, ...]  # per view, of the pixels that agree with this pose
    alone: bool = False  # the search over views is never asked, however doubtful this is
    # of the poses' twists in turn, along the bone's axes (rad, mm), then of the coefficients; None: unknown
    covariance: Float[Tensor, "D D"] | None = None


def candidates_around(
    scene: SceneStart, modes: int, views: int, free: bool, settings: FitSettings
) -> Candidates:
    """The located poses, and copies of them up to a unit step of the descent away, with the located shape.

    There are `settings.finalists` in all; the copies are drawn with `settings.seed`. Poses are those of the
    model in every camera where views are `free`, else in the world. Raises ValueError for another number of
    views than `views`.
    """
    if len(scene.world_from_camera) != views:
        raise ValueError(f"the network saw {len(scene.world_from_camera)} views, this fit has {views}")
    poses = _poses(scene, free)
    count = max(1, settings.finalists)
    draws = torch.rand(
        count, len(poses), 6, generator=torch.Generator().manual_seed(settings.seed), device="cpu"
    )
    draws[0] = 0.5
    shape = torch.zeros(modes, device="cpu")
    known = scene.coefficients.detach().cpu().float()[:modes]
    shape[: len(known)] = known
    moved = stepped(
        poses.expand(count, -1, -1, -1).to(settings.device), (2 * draws - 1).to(settings.device), free
    )
    return Candidates(moved, shape.expand(count, -1).to(settings.device))


def _poses(scene: SceneStart, free: bool) -> Float[Tensor, "P 4 4"]:
    """Of the model in every camera where views are free, else in the world."""
    world_from_model = scene.world_from_model.detach().cpu().double()
    if not free:
        return world_from_model[None]
    return se3.inverse(scene.world_from_camera.detach().cpu().double()) @ world_from_model


def belief(scene: SceneStart, modes: int, free: bool, settings: FitSettings) -> Belief | None:
    """What a fit of so many modes may expect; nothing where the covariance is not known or infinite.

    None, too, where `settings.belief` is 0. Modes that were not located are standard normal.
    Raises ValueError for a covariance that is not of the poses and all coefficients.
    """
    if settings.belief <= 0 or scene.covariance is None or not torch.isfinite(scene.covariance).all():
        return None
    poses = _poses(scene, free)
    if len(scene.covariance) != 6 * len(poses) + len(scene.coefficients):
        raise ValueError(
            f"the network's covariance is of {len(scene.covariance)} numbers, not of 6 for each of "
            f"{len(poses)} poses and {len(scene.coefficients)} coefficients"
        )
    known = min(len(scene.coefficients), modes)
    kept, more = 6 * len(poses) + known, modes - known
    precision = inverse_covariance(scene.covariance.detach().cpu().double()[:kept, :kept])
    rest = torch.eye(more, dtype=torch.float64, device="cpu")
    coefficients = pad(scene.coefficients.detach().cpu().double()[:known], (0, more))
    parts = poses, coefficients, torch.block_diag(precision, rest)
    return Belief(*(part.to(settings.device) for part in parts))


def apart(scene: SceneStart, poses: Float[Tensor, "P 4 4"], free: bool) -> float:
    """How far poses are from the located ones: Mahalanobis distance, root mean square over the poses.

    0 where the located ones have no covariance, or one that is infinite.
    """
    if scene.covariance is None or not torch.isfinite(scene.covariance).all():
        return 0.0
    twists = se3.log(se3.inverse(_poses(scene, free)) @ poses.detach().cpu().double()).flatten()
    covariance = scene.covariance.detach().cpu().double()[: len(twists), : len(twists)]
    squared = twists @ torch.linalg.solve(covariance, twists)
    return float((squared / len(poses)).sqrt())


def doubt(inlier_share: Sequence[float], terms: Sequence[dict[str, float]], settings: FitSettings) -> str:
    """Why a located bone may be elsewhere, in words; nothing if it is believed.

    `inlier_share` is that of each view, `terms` are those of `judge` for the bone refined on the fine
    images: "agreement" in each view and, where there are masks, "overlap", which then decides.
    """
    share, least = min(inlier_share), settings.trust_inliers
    if not share >= least:
        return f"{100 * share:.0f} % of the pixels agree with the network's pose, below {100 * least:.0f} %"
    masked = any("overlap" in term for term in terms)
    name, what, limit = (
        ("overlap", "overlap with the masks", settings.accept_dice)
        if masked
        else ("agreement", "local correlation on the bone", settings.trust)
    )
    values = [term[name] for term in terms if name in term]
    mean = sum(values) / len(values)
    return "" if mean >= limit else f"mean {what} {mean:.3f}, below {limit:g}"
