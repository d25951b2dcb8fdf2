"""How far a located bone is from the true one, in the camera's frame, where all vertices correspond."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from scipy.stats import norm

import shapefit as sf
from shapefit import se3
from shapefit.alignment import align_points
from shapefit.mesh import closest_on, sample_surface, surface_tree

SAMPLES = 4000  # points on each surface
LEVELS = (0.5, 0.8, 0.95)
POSE = ("rotation_deg", "translation_mm", "in_plane_mm", "depth_mm", "mpe_mm", "mtre_mm")
SHAPE = ("similarity_assd_mm", "rigid_assd_mm", "absolute_assd_mm")


def pose_errors(found: torch.Tensor, truth: torch.Tensor, camera: sf.Camera) -> dict[str, float]:
    """Of bones (V, 3) in camera mm: the rigid motion from the true one to the found one, about the centre.

    `depth_mm` is along the camera's axis, positive away from the source, `in_plane_mm` across it; `mpe_mm`
    the vertices' mean distance on the detector, infinite if one lies at or behind the source.
    """
    motion = torch.from_numpy(align_points(truth.numpy(), found.numpy()))
    shift = found.mean(0) - truth.mean(0)
    still = torch.eye(4, dtype=torch.float64)
    apart = float("inf")
    if min(found[:, 2].min(), truth[:, 2].min()) > 0:
        pixels = camera.project(still, found) - camera.project(still, truth)
        apart = float((pixels * torch.tensor([float(camera.delx), float(camera.dely)])).norm(dim=1).mean())
    return {
        "rotation_deg": float(sf.rotation_error(motion, still)),
        "translation_mm": float(shift.norm()),
        "in_plane_mm": float(shift[:2].norm()),
        "depth_mm": float(shift[2]),
        "mpe_mm": apart,
        "mtre_mm": float((found - truth).norm(dim=1).mean()),
    }


def shape_errors(found: torch.Tensor, truth: torch.Tensor, faces: torch.Tensor) -> dict[str, float]:
    """Average symmetric surface distance (mm) of bones (V, 3), as they lie and after alignment.

    As defined in `shapefit.surface_distance`, of a pelvis as one surface: the nearest point may be on any of
    its bones. Nearest points keep under similarities: each surface is asked in a frame of its own.
    """
    here, there = found.numpy(), truth.numpy()
    trees = surface_tree(here, faces), surface_tree(there, faces)
    points = [sample_surface(vertices, faces, SAMPLES)[0] for vertices in (here, there)]
    areas = [float(trimesh.Trimesh(v, faces.numpy(), process=False).area) for v in (here, there)]
    figures = {}
    for name, scale in (("similarity", True), ("rigid", False), ("absolute", None)):
        motion = np.eye(4) if scale is None else align_points(here, there, None, scale)
        size, back = np.cbrt(np.linalg.det(motion[:3, :3])), np.linalg.inv(motion)
        forth = closest_on(trees[1], points[0] @ motion[:3, :3].T + motion[:3, 3]).distance.mean()
        reverse = size * closest_on(trees[0], points[1] @ back[:3, :3].T + back[:3, 3]).distance.mean()
        weights = [size**2 * areas[0], areas[1]]
        figures[f"{name}_assd_mm"] = float(np.average([forth, reverse], weights=weights))
    return figures


def surprises(
    pose: torch.Tensor,
    coefficients: torch.Tensor,
    covariance: torch.Tensor,
    true_pose: torch.Tensor,
    true_coefficients: torch.Tensor,
    modes: int,
) -> dict[str, list[float]]:
    """Errors of one view's pose (camera_from_model) and first `modes` coefficients, in predicted deviations.

    The covariance is that of the pose's twist about the bone's axes, pose exp(twist), then the coefficients.
    """
    twist = se3.log(se3.inverse(pose) @ true_pose)
    error = torch.cat([twist, (true_coefficients - coefficients)[:modes]])
    scaled = (error / covariance.diagonal()[: len(error)].sqrt()).tolist()
    return {"rotation": scaled[:3], "translation": scaled[3:6], "coefficients": scaled[6:]}


def summary(records: Sequence[dict], limits: dict[str, float]) -> dict:
    """Figures over runs. Those without an answer count in every share, and in medians as infinitely far off.

    `mean`, `std` and `largest` are over answers; `median`, `p90`, `p95` over all runs (None where infinite);
    `within` is the share of all runs whose errors stay at or below all of `limits`.
    """
    answers = [r["errors"] for r in records if r["errors"] is not None]
    measures = {}
    for name in (*POSE, *SHAPE) if answers else ():
        values = np.abs([a[name] for a in answers])
        everyone = np.concatenate([values, np.full(len(records) - len(values), np.inf)])
        ranks = np.percentile(everyone, [50, 90, 95], method="inverted_cdf")
        measures[name] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "largest": float(values.max()),
        }
        measures[name] |= {
            key: float(v) if np.isfinite(v) else None
            for key, v in zip(("median", "p90", "p95"), ranks, strict=True)
        }
    good = sum(all(abs(a[name]) <= most for name, most in limits.items()) for a in answers)
    return {
        "runs": len(records),
        "answers": len(answers),
        "without_answer": 1 - len(answers) / len(records),
        "reasons": dict(
            Counter(_in_short(r["reason"]) for r in records if r["errors"] is None).most_common()
        ),
        "limits": limits,
        "within": good / len(records),
        "measures": measures,
    }


def _in_short(reason: str) -> str:
    """What precedes the first colon or number of a reason, which runs share."""
    return re.split(r"[:\d]", reason, maxsplit=1)[0].strip() or reason


def calibration(records: Sequence[dict]) -> dict[str, dict]:
    """Share of errors inside the bands that should hold 50, 80 and 95 % of them, and their size."""
    result = {}
    for kind in ("rotation", "translation", "coefficients"):
        found = [r["surprises"][kind] for r in records if r["surprises"] is not None]
        scaled = np.abs([value for row in found for value in row])
        if len(scaled):
            inside = [float((scaled <= norm.ppf(0.5 + level / 2)).mean()) for level in LEVELS]
            result[kind] = {
                "levels": list(LEVELS),
                "inside": inside,
                "median_over_expected": float(np.median(scaled) / norm.ppf(0.75)),
            }
    return result
