"""A bone located in X-rays: what is said of it, how surely, and whether it is believed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera
from shapefit.render import render_depths
from shapefit.scene import pnp
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.solve import Sight, Solution, shaped
from shapefit.settings import LocateSettings

LOST = math.radians(20)  # standard deviation of a rotation, all axes together, that is no answer


@dataclass(frozen=True)
class Located:
    """A bone located in X-rays. World and camera poses in mm, RAS; where not `found`, they say nothing.

    `covariance` is of the twists (along the bone's axes, about its model's origin; rad, then mm) that lead
    from the poses given here to the true ones, and of the coefficients: for views whose poses were given
    (`posed`) one twist, world_from_model @ exp(twist), else one per view, camera_from_model @ exp(twist).
    It is infinite in the poses where nothing tells them. Modes that were not solved for stand at 0 +- 1.
    """

    coefficients: Float[Tensor, " K"]  # standard deviations
    world_from_model: Float[Tensor, "4 4"]  # identity where the views' poses were estimated
    world_from_camera: Float[Tensor, "N 4 4"]
    vertices: Float[Tensor, "V 3"]  # world mm
    covariance: Float[Tensor, "D D"]  # D = 6 poses + K
    inlier_share: list[float]  # per view, of the votes in it; 0 where it shows no bone
    found: bool
    reason: str  # why, in words
    excess: list[float]  # per view: how many times larger the misses are than predicted; at least 1
    seen: list[Coordinates]  # per view, B = 1, at the pixels that the network saw
    cameras: list[Camera]  # of these images
    covered: list[Bool[Tensor, "h w"]]  # pixels of them that show the bone
    posed: bool  # whether the views' poses were given

    def spread(self, view: int = 0) -> tuple[float, float, float]:
        """Standard deviations in a view: the bone's rotation (rad), its place across and along the beam (mm).

        That of the rotation is of all three axes together, that across the beam of columns and rows together.
        """
        first = 0 if self.posed else 6 * view
        block = self.covariance[first : first + 6, first : first + 6]
        rotation = (se3.inverse(self.world_from_camera[view]) @ self.world_from_model)[:3, :3]
        variance = (rotation @ block[3:, 3:] @ rotation.T).diagonal()
        if not torch.isfinite(block).all():
            return math.inf, math.inf, math.inf
        turn, across, along = block[:3, :3].trace(), variance[:2].sum(), variance[2]
        return float(turn) ** 0.5, float(across) ** 0.5, float(along) ** 0.5


class Judgement(NamedTuple):
    """Whether a solution is believed, and why."""

    found: bool
    reason: str  # in words
    inlier_share: list[float]  # per sight


def judge(
    sights: Sequence[Sight],
    solution: Solution,
    overlaps: Sequence[float],
    bone: str,
    names: Sequence[str],
    posed: bool,
    settings: LocateSettings,
) -> Judgement:
    """Whether enough pixels agree on a solution, on one that can be, and whose shadow is what is seen.

    Views whose poses are given vote together; otherwise each must agree with its own pose. `overlaps` are
    those of `shadow_overlap`; `bone` and `names` (one per sight) are the words for the bone and the views.
    """
    shares, refusals = [], []
    for sight in sights:
        camera_from_model = sight.camera_from_world @ solution.poses[sight.pose]
        points = shaped(sight.carried, solution.coefficients)
        agree = pnp.inliers(sight.carried.votes, points, camera_from_model, sight.camera, settings)
        shares.append(float(agree.double().mean()))
        depth = se3.transform(camera_from_model, points)[:, 2]
        refusals.append(_impossible(depth, agree, sight))
    asked, where = shares, [f" in {name}" if len(names) > 1 else "" for name in names]
    if posed:
        counts = [len(sight.carried.votes.std) for sight in sights]
        asked = [sum(s * n for s, n in zip(shares, counts, strict=True)) / sum(counts)]
        where = [""]
    lowest = min(asked)
    agreement = f"{lowest:.0%} of the pixels{where[asked.index(lowest)]} agree with the pose"
    if lowest < settings.least_inliers:
        return Judgement(False, f"too few inliers: {agreement}, below {settings.least_inliers:.0%}", shares)
    for refusal in refusals:
        if refusal:
            return Judgement(False, f"the {bone} {refusal}", shares)
    overlap = sum(overlaps) / len(overlaps) if posed else min(overlaps)
    if overlap < settings.least_overlap:
        looks_like = f"no {bone}: where it would lie, its shadow is not what looks like it"
        return Judgement(
            False, f"{looks_like} (Dice {overlap:.2f}, below {settings.least_overlap:g})", shares
        )
    turns = solution.covariance.diagonal()[: 6 * len(solution.poses)].reshape(-1, 6)[:, :3].sum(1)
    if not float(turns.max()) < LOST**2:
        return Judgement(False, f"what is seen of the {bone} does not tell its pose", shares)
    return Judgement(True, f"{agreement}, at least {settings.least_inliers:.0%}", shares)


def shadow_overlap(
    covered: Bool[Tensor, "H W"],
    valid: Bool[Tensor, "H W"],
    camera: Camera,
    camera_from_model: Float[Tensor, "4 4"],
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
) -> float:
    """Dice of a located bone's shadow (vertices in mm, model frame) with the pixels that seem to show it.

    What is no bone may agree on a pose, but seldom fills the bone's shadow.
    """
    if float(se3.transform(camera_from_model, vertices)[:, 2].min()) <= 0:
        return 0.0
    first, _ = render_depths(vertices.float()[None], faces, camera_from_model[None], camera)
    shadow = (first[0, 0] > 0) & valid
    return float(2 * (shadow & covered).sum() / (shadow.sum() + covered.sum()).clamp(min=1))


def _impossible(depth: Float[Tensor, " N"], agree: Bool[Tensor, " N"], sight: Sight) -> str:
    """Why a pose cannot be, though pixels agree with it; empty if it can."""
    if not agree.any():
        return ""
    if float(depth[agree].median()) > float(sight.camera.sdd):
        return "would lie behind the detector"
    half = sight.carried.votes.pairs
    both = agree[:half] & agree[half:]
    if both.any() and float((depth[half:] > depth[:half])[both].double().mean()) < 0.5:
        return "would be seen back to front: rays leave it before they enter"
    return ""


def absence(bone: str, shows: Sequence[bool], names: Sequence[str]) -> str:
    """That there is no bone, in words: in which of the views (`names`), of which some may show it."""
    if not any(shows):
        return f"no {bone} in {'this image' if len(shows) == 1 else 'these images'}"
    empty = [name for name, there in zip(names, shows, strict=True) if not there]
    return f"no {bone} in {', '.join(empty)}, whose pose is to be estimated"


def bone_in_words(structures: Sequence[str]) -> str:
    """What structures are together: "pelvis" with a sacrum and both hips, else their names."""
    if {"sacrum", "hip_left", "hip_right"} <= set(structures):
        return "pelvis"
    words = [name.replace("_", " ") for name in structures]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
