"""Pose from scene coordinates: pixels that vote, and the pose that most of them agree on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import poselib
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera, homogeneous_pixels
from shapefit.scene.coordinates import Coordinates
from shapefit.settings import LocateSettings

SURE = 2.0  # predicted standard deviations by which an inlier may miss, beside the pixels that all may
LOOSEST = 3.0  # times the allowed pixels: being unsure excuses no more
MOST_TRIALS, FEWEST_TRIALS = 3000, 100  # of the consensus
FEWEST = 6  # correspondences, below which no pose is sought


class Votes(NamedTuple):
    """Correspondences of one image: N/2 pixels, first with their entries, then with their exits."""

    pixel: Float[Tensor, "N 2"]  # column, row
    point: Float[Tensor, "N 3"]  # of the template, mm
    std: Float[Tensor, " N"]  # of each axis of the point, mm

    @property
    def pairs(self) -> int:
        """Number of pixels."""
        return len(self.std) // 2


def covered_pixels(
    seen: Coordinates, threshold: float, valid: Bool[Tensor, "H W"] | None = None
) -> Bool[Tensor, "H W"]:
    """Where a single image shows any structure with at least this probability, within its valid pixels."""
    covered = (seen.structures[0] >= threshold).any(0)
    return covered if valid is None else covered & valid


def votes(seen: Coordinates, covered: Bool[Tensor, "H W"], most: int) -> Votes:
    """The surest pixel of every cell of a grid over the covered ones, at most `most` of a single image."""
    row, column = (index.numpy() for index in covered.nonzero(as_tuple=True))
    flat = torch.from_numpy(row * covered.shape[1] + column)
    variance = (seen.entry_std[0].square() + seen.exit_std[0].square()).flatten()[flat].numpy()
    points = torch.cat([seen.entry[0], seen.exit[0]]).flatten(1)
    usable = np.isfinite(variance) & torch.isfinite(points[:, flat]).all(0).numpy()
    order = np.argsort(variance, kind="stable")
    order = order[usable[order]]
    size = max(1, math.ceil(math.sqrt(len(order) / max(most, 1))))
    while True:  # the covered part of the image seldom fills its cells
        cell = (row // size) * covered.shape[1] + column // size
        first = np.unique(cell[order], return_index=True)[1]
        if len(first) <= most:
            break
        size += 1
    kept = flat[torch.from_numpy(order[first])]
    pixel = torch.stack([kept % covered.shape[1], kept // covered.shape[1]], 1).double()
    point = points[:, kept].double()
    std = torch.stack([seen.entry_std[0].flatten()[kept], seen.exit_std[0].flatten()[kept]]).double()
    return Votes(pixel.repeat(2, 1), torch.cat([point[:3], point[3:]], 1).T.contiguous(), std.flatten())


def allowance(found: Votes, camera: Camera, settings: LocateSettings) -> Float[Tensor, " N"]:
    """Pixels by which each correspondence may miss and still be an inlier: the surer, the fewer."""
    spread = found.std / (settings.depth * float(camera.delx + camera.dely) / 2)
    return (settings.reprojection**2 + (SURE * spread) ** 2).sqrt().clamp(max=LOOSEST * settings.reprojection)


def inliers(
    found: Votes,
    points: Float[Tensor, "N 3"],
    camera_from_model: Float[Tensor, "4 4"],
    camera: Camera,
    settings: LocateSettings,
) -> Bool[Tensor, " N"]:
    """Which correspondences a pose explains: in front of the source and near their pixels."""
    seen = homogeneous_pixels(camera, camera_from_model, points)
    miss = torch.linalg.vector_norm(seen[:, :2] / seen[:, 2:] - found.pixel, dim=1)
    return (seen[:, 2] > 0) & (miss <= allowance(found, camera, settings))


def consensus_pose(found: Votes, camera: Camera, settings: LocateSettings) -> Float[Tensor, "4 4"] | None:
    """Camera_from_model that most correspondences of one image agree on; None if there is none.

    LO-RANSAC over three points (Chum, Matas & Kittler 2003; P3P of Ding et al. 2023), by PoseLib.
    """
    if len(found.std) < FEWEST:
        return None
    pose, _ = poselib.estimate_absolute_pose(
        found.pixel.numpy(), found.point.numpy(), _pinhole(camera), *_options([found], [camera], settings)
    )
    return _matrix(pose)


def consensus_motion(
    found: Sequence[Votes],
    cameras: Sequence[Camera],
    camera_from_world: Sequence[Float[Tensor, "4 4"]],
    settings: LocateSettings,
) -> Float[Tensor, "4 4"] | None:
    """World_from_model that most correspondences of several posed images agree on; None if there is none.

    As `consensus_pose`, with rays that do not meet in one point (GP3P of Kukelova et al. 2016).
    """
    if sum(len(one.std) for one in found) < FEWEST:
        return None
    ransac, bundle = _options(found, cameras, settings)
    pose, _ = poselib.estimate_generalized_absolute_pose(
        [one.pixel.numpy() for one in found],
        [one.point.numpy() for one in found],
        [_pose(matrix) for matrix in camera_from_world],
        [_pinhole(camera) for camera in cameras],
        ransac,
        bundle,
    )
    return _matrix(pose)


def _options(
    found: Sequence[Votes], cameras: Sequence[Camera], settings: LocateSettings
) -> tuple[dict, dict]:
    typical = torch.cat(
        [allowance(one, camera, settings) for one, camera in zip(found, cameras, strict=True)]
    )
    threshold = float(typical.median())
    ransac = {
        "max_reproj_error": threshold,
        "max_iterations": MOST_TRIALS,
        "min_iterations": FEWEST_TRIALS,
        "seed": settings.seed,
    }
    return ransac, {"loss_type": "CAUCHY", "loss_scale": threshold / 2}


def _pinhole(camera: Camera) -> dict:
    k = camera.intrinsics()
    params = [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])]
    return {"model": "PINHOLE", "width": camera.width, "height": camera.height, "params": params}


def _pose(matrix: Float[Tensor, "4 4"]) -> "poselib.CameraPose":
    pose = poselib.CameraPose()
    pose.R, pose.t = matrix[:3, :3].double().numpy(), matrix[:3, 3].double().numpy()
    return pose


def _matrix(pose: "poselib.CameraPose") -> Float[Tensor, "4 4"] | None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.from_numpy(np.array(pose.Rt, dtype=np.float64))
    return matrix if se3.is_rigid(matrix) else None
