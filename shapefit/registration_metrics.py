"""How far a registration of one rigid thing is off, and how often registrations succeed.

A run compares two rigid maps of the same points into the same space: `found` and `truth`, such as
camera_from_world or world_from_ct. With k target points p,

    mTRE = mean |found p - truth p|                       mean target registration error, mm
    mPE  = mean |pixel(found p) - pixel(truth p)|         mean projection error, mm ON THE DETECTOR
    mRPD = mean distance of truth p to the ray            mean reprojection distance, mm IN THE PATIENT
           from the source through found p

The literature calls both of the last two mRPE. mPE is larger by about the magnification. Neither sees depth,
of which one view says little: points moved along their rays have both at 0 and their full mTRE. mTRE, mRPD,
success and capture range after van de Kraats et al. 2005, "Standardized evaluation methodology for 2-D-3-D
registration", IEEE Trans. Med. Imaging 24(9):1177.

Over runs, one without a result (None, NaN, infinite, or not converged) is a failure like any other: it is
counted in every rate, and as infinitely far off in every median.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shapefit import se3
from shapefit.camera import Camera, homogeneous_pixels

Errors = dict[str, float]
MEASURES = (
    "rotation_deg", "translation_mm", "depth_mm", "in_plane_mm", "mtre_mm", "mpe_mm", "mrpd_mm",
)  # fmt: skip


def mtre(
    found: Float[Tensor, "*batch 4 4"], truth: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "N 3"]
) -> Float[Tensor, "*batch"]:
    """Mean target registration error: mean distance (mm) of points under two rigid maps (of mm)."""
    moved = se3.transform(found.double(), points.double()) - se3.transform(truth.double(), points.double())
    return moved.norm(dim=-1).mean(-1)


def rotation_error(
    found: Float[Tensor, "*batch 4 4"], truth: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch"]:
    """Angle (degrees, 0 to 180) of the rotation from one rigid map to the other, whatever its axis."""
    relative = found[..., :3, :3].double() @ truth[..., :3, :3].double().mT
    return torch.rad2deg(se3.rotation_angle(relative))


def translation_error(
    found: Float[Tensor, "*batch 4 4"], truth: Float[Tensor, "*batch 4 4"], center: Float[Tensor, "3"]
) -> Float[Tensor, "*batch"]:
    """How far two rigid maps take `center` (mm) from each other, mm.

    A translation means nothing without the point that is said to be moved: take the middle of the targets,
    not the origin of a scanner, about which a small turn is a long way.
    """
    return mtre(found, truth, center[None])


def mean_projection_error(
    found: Float[Tensor, "*batch 4 4"],
    truth: Float[Tensor, "*batch 4 4"],
    points: Float[Tensor, "N 3"],
    camera: Camera,
) -> Float[Tensor, "*batch"]:
    """mPE: mean distance, in mm on the detector, of world points projected under two camera_from_world.

    Infinite where a point lies at or behind the source in either.
    """
    pixels = [homogeneous_pixels(camera, pose.double(), points.double()) for pose in (found, truth)]
    pitch = pixels[0].new_tensor([float(camera.delx), float(camera.dely)])
    ahead = (pixels[0][..., 2] > 0) & (pixels[1][..., 2] > 0)
    apart = (pixels[0][..., :2] / pixels[0][..., 2:] - pixels[1][..., :2] / pixels[1][..., 2:]) * pitch
    return torch.where(ahead, apart.norm(dim=-1), torch.inf).mean(-1)


def mean_reprojection_distance(
    found: Float[Tensor, "*batch 4 4"], truth: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "N 3"]
) -> Float[Tensor, "*batch"]:
    """mRPD: mean distance, in mm in the patient, of points where they are to the rays that should meet them.

    The ray of a point goes from the source through where `found` (camera_from_world) puts it, and so through
    its picture on any detector; the distance to it is that of where `truth` puts the point. Infinite where
    `found` puts a point at or behind the source.
    """
    seen, true = (se3.transform(pose.double(), points.double()) for pose in (found, truth))
    away = torch.linalg.cross(seen, true).norm(dim=-1) / seen.norm(dim=-1)
    return torch.where(seen[..., 2] > 0, away, torch.inf).mean(-1)


def pose_errors(
    camera_from_world: Float[Tensor, "4 4"],
    truth: Float[Tensor, "4 4"],
    points: Float[Tensor, "N 3"],
) -> Errors:
    """How far a pose is from the true one, as the camera sees it move the given world points (mm).

    `rotation_deg` is the angle between the two; `translation_mm` the shift of the points' mean, `depth_mm`
    its part along the camera's axis (positive away from the source) and `in_plane_mm` the rest, across it;
    `mtre_mm` the mean distance over the points (mean target registration error).
    """
    found, true, points = camera_from_world.double(), truth.double(), points.double()
    center = points.mean(0, keepdim=True)
    shift = (se3.transform(found, center) - se3.transform(true, center))[0]
    return {
        "rotation_deg": float(rotation_error(found, true)),
        "translation_mm": float(shift.norm()),
        "depth_mm": float(shift[2]),
        "in_plane_mm": float(shift[:2].norm()),
        "mtre_mm": float(mtre(found, true, points)),
    }


def registration_errors(
    camera_from_world: Float[Tensor, "4 4"] | None,
    truth: Float[Tensor, "4 4"],
    points: Float[Tensor, "N 3"],
    camera: Camera,
) -> Errors:
    """What `pose_errors` tells, with `mpe_mm` on the detector and `mrpd_mm` in the patient (one view's).

    A run without a result (None, or a pose that is not finite) has NaN throughout.
    """
    if camera_from_world is None or not torch.isfinite(camera_from_world).all():
        return dict.fromkeys(MEASURES, float("nan"))
    return {
        **pose_errors(camera_from_world, truth, points),
        "mpe_mm": float(mean_projection_error(camera_from_world, truth, points, camera)),
        "mrpd_mm": float(mean_reprojection_distance(camera_from_world, truth, points)),
    }


def success_rate(
    errors: Float[np.ndarray, " N"], threshold: float = 1.0, converged: Bool[np.ndarray, " N"] | None = None
) -> float:
    """Share (0 to 1) of runs that converged with an error (mTRE in mm) below the threshold.

    Raises ValueError if there are no runs.
    """
    return float((_counted(errors, converged) < threshold).mean())


def gross_failure_rate(
    errors: Float[np.ndarray, " N"], threshold: float = 10.0, converged: Bool[np.ndarray, " N"] | None = None
) -> float:
    """Share (0 to 1) of runs that did not converge, or whose error (mTRE in mm) is the threshold or more.

    Raises ValueError if there are no runs.
    """
    return float((_counted(errors, converged) >= threshold).mean())


def capture_range(
    offsets: Float[np.ndarray, " N"],
    errors: Float[np.ndarray, " N"],
    threshold: float = 1.0,
    bin_width: float = 1.0,
    share: float = 0.95,
    converged: Bool[np.ndarray, " N"] | None = None,
) -> float:
    """How far off (in the unit of the offsets) runs may start so that 95 % of them succeed.

    Starts are put into bins [n w, (n + 1) w) by their offset: initial mTRE in mm in van de Kraats et al. The
    range is the upper end of the last bin before the first one in which fewer than `share` of the runs end
    with an error below `threshold`; 0 if that is the first bin. Bins without starts say nothing, and do not
    extend the range. Raises ValueError for no runs, and offsets that are negative or not finite.
    """
    if not (np.isfinite(offsets).all() and (offsets >= 0).all()):
        raise ValueError("initial offsets must be finite and 0 or more, in failed runs, too")
    good = _counted(errors, converged) < threshold
    bins = np.floor(offsets / bin_width).astype(int)
    reached = 0.0
    for n in np.unique(bins):
        if good[bins == n].mean() < share:
            break
        reached = (int(n) + 1) * bin_width
    return reached


def registration_table(
    offsets: Float[np.ndarray, " N"],
    runs: Sequence[Mapping[str, float] | None],
    edges: Sequence[float],
    threshold: float = 1.0,
    gross: float = 10.0,
    converged: Bool[np.ndarray, " N"] | None = None,
) -> list[dict[str, float]]:
    """Rates and medians of runs by initial offset: a row for each bin between `edges`, and one of all.

    `runs` are those of `registration_errors` (None: no result). A row has `from`, `to` (a bin holds its lower
    edge), `runs`, `without_result`, `success_rate` (mTRE below `threshold` mm), `gross_failure_rate` (`gross`
    mm or more, or no result), and `median_<measure>` and `p95_<measure>` of the size of every measure there:
    the smallest value that at least half, or 95 %, of the runs do not exceed, those without a result being
    infinite. Rates and medians of an empty bin are NaN.
    Raises ValueError for edges that do not rise, numbers that do not fit, and a start beyond the edges.
    """
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"the edges of bins must rise, got {list(edges)}")
    if len(offsets) != len(runs):
        raise ValueError(f"{len(runs)} runs need as many initial offsets, got {len(offsets)}")
    if not ((offsets >= edges[0]) & (offsets < edges[-1])).all():
        raise ValueError(
            f"initial offsets run from {offsets.min():g} to {offsets.max():g}, bins from {edges[0]:g} to "
            f"{edges[-1]:g}: no run may be left out"
        )
    names = list(dict.fromkeys(name for run in runs if run is not None for name in run)) or ["mtre_mm"]
    values = {
        name: _counted(
            np.array([np.nan if run is None else run.get(name, np.nan) for run in runs], dtype=np.float64),
            converged,
        )
        for name in names
    }
    rows = []
    for low, high in [*pairwise(edges), (edges[0], edges[-1])]:
        here = (offsets >= low) & (offsets < high)
        error = values["mtre_mm"][here]
        row = {
            "from": float(low),
            "to": float(high),
            "runs": int(here.sum()),
            "without_result": int(np.isinf(error).sum()),
            "success_rate": success_rate(error, threshold) if len(error) else float("nan"),
            "gross_failure_rate": gross_failure_rate(error, gross) if len(error) else float("nan"),
        }
        for name in names:
            size = values[name][here]
            for label, at in (("median", 50), ("p95", 95)):
                # an order statistic: between a number and infinity there is no mean
                value = np.percentile(size, at, method="inverted_cdf") if len(size) else np.nan
                row[f"{label}_{name}"] = float(value)
        rows.append(row)
    return rows


def _counted(errors: np.ndarray, converged: np.ndarray | None) -> np.ndarray:
    """Sizes of errors, infinite for runs without a result."""
    if len(errors) == 0:
        raise ValueError("rates need at least one run")
    there = np.isfinite(errors) if converged is None else np.isfinite(errors) & converged
    return np.where(there, np.abs(errors), np.inf)
