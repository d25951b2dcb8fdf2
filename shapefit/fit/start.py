"""Where a fit begins: all views within a prior, at all places of the image, by correlation.

Every combination of rotation and depth gives one picture of the mean bone on a field of twice the
image's size. Correlating it with the image by fast Fourier transform scores all its places at once:
without masks by the correlation of locally normalised images, with masks by the Dice overlap.
"""

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from shapefit import se3
from shapefit.fit.objective import Evidence, bone_xray
from shapefit.fit.prior import view_rotations
from shapefit.losses import box_mean, local_moments
from shapefit.settings import FitSettings

TURN_STEP, TILT_STEP, SPIN_STEP = 8.0, 10.0, 10.0  # degrees between the views that are tried
DEPTH_STEP = 0.1  # relative, between the depths that are tried
WINDOWS = (20.0, 40.0)  # mm on the detector, over which images are normalised
TEMPERATURE = 3.0  # mm of bone that count as 63 % in a silhouette


class Bone(NamedTuple):
    """A mesh about its own origin, as the renderer takes it."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    structure: Int[Tensor, "F"]


class Start(NamedTuple):
    """A pose worth refining."""

    score: float
    camera_from_bone: Float[Tensor, "4 4"]


def search(
    bone: Bone, seen: Evidence, poses: Float[Tensor, "P 4 4"], settings: FitSettings, count: int
) -> list[Start]:
    """The best poses of a bone for one X-ray, best first, at most `count`.

    `poses` (camera_from_bone) give rotations and depths; each is shifted to its best place.
    """
    seen = seen if seen.target is None else _halved(seen)  # masks have no detail to lose
    field = _Field(seen)
    scores, places = [], []
    for chunk in poses.split(16):
        attenuation, paths = bone_xray(
            bone.vertices.float().expand(len(chunk), -1, -1), bone.faces, bone.structure, chunk.float(),
            field.camera, settings.shell, settings.interior,
        )  # fmt: skip
        best = field.score(attenuation, paths).flatten(1).max(1)
        scores.append(best.values)
        places.append(best.indices)
    score, place = torch.cat(scores), torch.cat(places)
    starts: list[Start] = []
    for k in score.argsort(descending=True)[:count].tolist():
        row, column = divmod(int(place[k]), 2 * field.reach[1] + 1)
        pose = poses[k].clone()
        pose[0, 3] += (column - field.reach[1]) * seen.camera.delx * pose[2, 3] / seen.camera.sdd
        pose[1, 3] += (row - field.reach[0]) * seen.camera.dely * pose[2, 3] / seen.camera.sdd
        starts.append(Start(float(score[k]), pose))
    return starts


def _halved(seen: Evidence) -> Evidence:
    height, width = (max(1, n // 2) for n in seen.line.shape[1:])

    def shrink(image: Tensor) -> Tensor:
        return interpolate(image, (height, width), mode="area")

    return replace(
        seen,
        camera=seen.camera.resized(height, width),
        line=shrink(seen.line[None])[0],
        valid=shrink(seen.valid[None])[0],
        statistics=(),
        target=shrink(seen.target),
        compared=shrink(seen.compared),
    )


def unposed(settings: FitSettings, sdd: float) -> Float[Tensor, "P 4 4"]:
    """Camera_from_bone on a grid around the expected view, at depths within the stated share of `sdd`."""
    near, far = (share * sdd for share in settings.depth_range)
    count = max(1, round(math.log(far / near) / math.log(1 + DEPTH_STEP)))
    depths = [near * (far / near) ** ((k + 0.5) / count) for k in range(count)]
    return _grid(view_rotations(settings), depths, settings)


def posed(
    camera_from_world: Float[Tensor, "4 4"], center: Float[Tensor, "3"], settings: FitSettings
) -> Float[Tensor, "P 4 4"]:
    """Camera_from_bone on a grid around a given camera pose; the bone's axes are the world's."""
    depth = float(se3.transform(camera_from_world, center[None])[0, 2])
    count = max(1, round(2 * settings.translation_range / (DEPTH_STEP * depth)))
    depths = [depth + settings.translation_range * (2 * (k + 0.5) / count - 1) for k in range(count)]
    return _grid(camera_from_world[None, :3, :3], depths, settings)


def _grid(
    views: Float[Tensor, "N 3 3"], depths: list[float], settings: FitSettings
) -> Float[Tensor, "P 4 4"]:
    """Turns about the patient's long axis, tilts about the left-right axis, spins about the principal ray."""

    def angles(step: float, reach: float) -> list[float]:
        count = math.floor(reach / step + 0.5)
        return [math.radians(step * k) for k in range(-count, count + 1)]

    reach, axes = settings.rotation_range, torch.eye(3, dtype=torch.float64)
    poses = []
    for view, depth, spin, tilt, turn in itertools.product(
        views,
        depths,
        angles(SPIN_STEP, min(reach, SPIN_STEP)),
        angles(TILT_STEP, reach),
        angles(TURN_STEP, reach),
    ):
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = _about(axes[2], spin) @ view @ _about(axes[0], tilt) @ _about(axes[2], turn)
        pose[2, 3] = depth
        poses.append(pose)
    return torch.stack(poses)


class _Field:
    """The image's side of the correlations, transformed once."""

    def __init__(self, seen: Evidence):
        camera = seen.camera
        self.seen, self.height, self.width = seen, camera.height, camera.width
        self.reach = (self.height // 2, self.width // 2)  # pixels that the bone's origin may be off the axis
        field = (self.height + 2 * self.reach[0], self.width + 2 * self.reach[1])
        self.camera = replace(camera, height=field[0], width=field[1])
        self.size = field  # large enough: no shift within reach looks beyond the field
        if seen.target is None:
            self.windows = [max(5, 2 * round(w / float(camera.delx) / 2) + 1) for w in WINDOWS]
            self.images = [_normalise(seen.line, seen.valid, w, 1e-4).clamp(-3, 3) for w in self.windows]
            self.spectra = [torch.fft.rfft2(x, s=self.size) for x in self.images]
            self.valid = torch.fft.rfft2(seen.valid, s=self.size)
        else:
            self.masks = torch.fft.rfft2((seen.target * seen.compared)[0], s=self.size)
            self.compared = torch.fft.rfft2(seen.compared[0], s=self.size)
            self.areas = (seen.target * seen.compared)[0].sum((1, 2))

    def score(self, attenuation: Tensor, paths: Tensor) -> Tensor:
        """Scores of a batch of pictures of the bone at every place within reach: (B, rows, columns)."""
        if self.seen.target is None:
            total = torch.zeros(())
            support = (attenuation > 0).float()
            for window, image, spectrum in zip(self.windows, self.images, self.spectra, strict=True):
                picture = _normalise(attenuation, torch.ones_like(attenuation), window, 1.0) * support
                product = self._places(spectrum, picture)
                inside = self._places(self.valid, picture.square()).clamp(min=0)
                # half the energy outside the field counts, so that leaving it does not pay
                energy = inside + 0.5 * picture.square().sum((1, 2))[:, None, None]
                total = total + product / (image.square().sum() * energy + 1e-9).sqrt()
            return total / len(self.windows)
        occupancy = 1 - torch.exp(-paths / TEMPERATURE)
        total, wanted = torch.zeros(()), [s for s, used in enumerate(self.seen.masked.tolist()) if used]
        for s in wanted:
            both = self._places(self.masks[s], occupancy[:, s])
            alone = self._places(self.compared[s], occupancy[:, s])
            total = total + 2 * both / (alone + self.areas[s] + 1e-6)
        return total / len(wanted)

    def _places(self, spectrum: Tensor, pictures: Tensor) -> Tensor:
        product = torch.fft.irfft2(spectrum * torch.fft.rfft2(pictures, s=self.size).conj(), s=self.size)
        rows, columns = (
            (torch.arange(-reach, reach + 1) - reach) % size  # the field's margin is as wide as the reach
            for reach, size in zip(self.reach, self.size, strict=True)
        )
        return product[:, rows][:, :, columns]


def _normalise(image: Tensor, valid: Tensor, window: int, floor: float) -> Tensor:
    mean, variance = local_moments(image, valid, window, 1 / box_mean(valid, window).clamp(min=1e-3))
    return (image - mean) * (variance + floor).rsqrt() * valid


def _about(axis: Tensor, angle: float) -> Tensor:
    return se3.exp(torch.cat([axis * angle, torch.zeros(3, dtype=axis.dtype)]))[:3, :3]
