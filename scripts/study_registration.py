"""How far off a registration of a CT may start, and where it ends: simulated X-rays of a known pose.

python scripts/study_registration.py --ct CT/pelvis_bone.nii.gz --box 0 256 0 200 0 175 -o out/registration

(--box cuts away the rails of the patient table, which this CT shows and which would give the pose away.)

The X-rays come from another forward model than the one that is fitted: a tube's spectrum through mixtures
of water and cortical bone, voxels of constant value, two rays per pixel each way, blur, noise, a body of
soft tissue with bowel gas, and a display of unknown exponent. What is fitted is the exact integral of the
trilinear interpolant at one energy. Every set of X-rays has a patient's pose and a second view of its own.
Starts are off by a turn about the bone's centre and a shift, each of a size drawn from the same bin (mm and
degrees) and of random direction. mTRE is over the bone's voxels. A run that did not converge or broke off
counts as failed. The study goes on where it was interrupted: runs.jsonl has one line per run; with a smaller
--per-bin it tells what there is.
"""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

import shapefit as sf
from shapefit import se3
from shapefit.io.atomic import atomic_path, prepare_output_dir, write_text

MEASURES = ("mtre_mm", "rotation_deg", "translation_mm", "depth_mm", "mpe_mm", "mrpd_mm")


@dataclass(frozen=True)
class Study:
    """What is simulated."""

    bins: tuple[float, ...] = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0)
    """edges of the bins of starts, in mm and in degrees"""
    per_bin: int = 40
    """starts in each bin, each on X-rays of its own"""
    views: tuple[int, ...] = (2, 1)
    """numbers of views to register from"""
    threshold: float = 1.0
    """HU below which the CT counts as air, in the X-rays and in the fit"""
    box: tuple[int, ...] = ()
    """voxels of the CT that are kept: first and one past the last along i, j, k; cuts a patient table away"""
    body: bool = True
    """put soft tissue and bowel gas around the CT; for a CT of bone alone"""
    turned: float = 10.0
    """degrees and mm, by how much a patient lies off the CT's own frame"""
    second: tuple[float, float] = (45.0, 90.0)
    """degrees between the first view, from in front, and the second"""
    pixels: int = 256
    """rows and columns of an X-ray"""
    pitch: float = 1.2
    """mm, size of a pixel"""
    sdd: float = 1020.0
    """mm, from source to detector; the bone's centre is at 0.7 of it"""
    kv: float = 80.0
    """kV of the tube, behind 3 mm of aluminium and 0.1 mm of copper"""
    photons: float = 1000.0
    """per ray, four of which make a pixel, in the median over the image"""
    blur: float = 0.7
    """pixels, standard width of the detector's point spread"""
    seed: int = 0
    """of poses, starts and X-rays"""


def targets(ct: sf.Volume) -> torch.Tensor:
    """Some thousand points of bone, in mm."""
    index = torch.nonzero(ct.data > 200.0)
    chosen = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:2000]
    return se3.transform(ct.world_from_voxel, index[chosen].double())


def off(centre: torch.Tensor, size: tuple[float, float], rng: np.random.Generator) -> torch.Tensor:
    """A rigid motion by so many mm and degrees in random directions, the turn about a point."""
    along, about = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = torch.from_numpy(np.concatenate([about * math.radians(size[1]), np.zeros(3)]))
    motion = se3.exp(turn)
    motion[:3, 3] = centre - motion[:3, :3] @ centre + torch.from_numpy(along * size[0])
    return motion


def xrays(
    ct: sf.Volume, centre: torch.Tensor, number: int, study: Study
) -> tuple[torch.Tensor, list[sf.View]]:
    """The true pose world_from_ct of a patient and two X-rays of it."""
    rng = np.random.default_rng((study.seed, number, 0))
    truth = off(centre, tuple(rng.uniform(0, study.turned, 2)), rng)
    camera = sf.Camera(study.sdd, study.pitch, study.pitch, 0.0, 0.0, study.pixels, study.pixels)
    fine = camera.resized(2 * study.pixels, 2 * study.pixels)
    beam = sf.spectrum(study.kv, 3.0, 0.1)
    exposure = sf.Exposure(spectrum=beam, photons=study.photons, blur=2 * study.blur)
    views = []
    for n, angle in enumerate((0.0, rng.uniform(*study.second))):
        ahead = sf.world_from_view("ap", torch.zeros(3, dtype=torch.float64), 0.7 * study.sdd)
        turn = se3.exp(torch.tensor([0, 0, math.radians(angle), 0, 0, 0], dtype=torch.float64))
        pose = turn @ ahead
        pose[:3, 3] += centre
        picture = sf.simulate_radiograph(
            ct, se3.inverse(truth) @ pose, fine, 1000 * study.seed + 2 * number + n, exposure,
            threshold=study.threshold, body=study.body, method="siddon",
        )  # fmt: skip
        image = picture.image.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))
        views.append(sf.View(image, camera, pose, name=f"view {n}"))
    return truth, views


def run(
    matter: sf.Volume,
    views: list[sf.View],
    truth: torch.Tensor,
    init: torch.Tensor,
    points: torch.Tensor,
    settings: sf.RegisterSettings,
) -> dict:
    """What one registration came to, and what it began with."""
    camera_from_world = se3.inverse(views[0].world_from_camera)
    began, cpu = time.monotonic(), time.process_time()
    try:
        fit = sf.register_views(matter, views, settings, init=init)
        pose, converged, reason = fit.world_from_bone, fit.converged, fit.reason
    except ValueError as error:
        pose, converged, reason = None, False, str(error)
    spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    there = None if pose is None else camera_from_world @ pose
    found, start = (
        sf.registration_errors(x, camera_from_world @ truth, points, views[0].camera)
        for x in (there, camera_from_world @ init)
    )
    return {"found": found, "start": start, "converged": converged, "reason": reason, **spent}


def summary(runs: list[dict], study: Study) -> dict:
    """Tables by bin, rates and capture range of the runs with each number of views."""
    result: dict = {}
    for count in study.views:
        mine = [r for r in runs if r["views"] == count]
        if not mine:
            continue
        offset, converged = (np.array([r[key] for r in mine]) for key in ("offset_mm", "converged"))
        initial, error = (np.array([r[k]["mtre_mm"] for r in mine]) for k in ("start", "found"))
        found = [r["found"] for r in mine]
        near = np.array([max(r["offset_mm"], r["offset_deg"]) <= 10.0 for r in mine])
        result[f"{count}_views"] = {
            "bins": sf.registration_table(offset, found, study.bins, converged=converged),
            "before": sf.registration_table(offset, [r["start"] for r in mine], study.bins),
            "starts_within_10_mm_and_deg": {
                "runs": int(near.sum()),
                "success_rate": sf.success_rate(error[near], converged=converged[near])
                if near.any()
                else None,
            },
            "capture_range_mtre_mm": sf.capture_range(initial, error, bin_width=4.0, converged=converged),
            "wrong_but_converged": int((converged & ~(error < 10.0)).sum()),
            "right_but_not_converged": int((~converged & (error < 1.0)).sum()),
            "median_cpu_seconds": float(np.median([r["cpu_seconds"] for r in mine])),
        }
    return result


def table(result: dict) -> str:
    """The summary as Markdown."""
    lines = []
    for name, part in result.items():
        near = part["starts_within_10_mm_and_deg"]
        lines += [
            f"## {name.replace('_', ' ')}\n",
            "| start, mm and deg | runs | mTRE before | mTRE | 95 % | rotation, deg | translation, mm "
            "| depth, mm | mPE, mm | mRPD, mm | below 1 mm | gross or failed |",
            "|---" * 12 + "|",
        ]
        for row, before in zip(part["bins"], part["before"], strict=True):
            figures = [before["median_mtre_mm"], row["median_mtre_mm"], row["p95_mtre_mm"]]
            figures += [row[f"median_{m}"] for m in MEASURES[1:]]
            cells = [f"{row['from']:g} to {row['to']:g}", str(row["runs"]), *(f"{x:.2f}" for x in figures)]
            cells += [f"{100 * row[k]:.1f} %" for k in ("success_rate", "gross_failure_rate")]
            lines.append("| " + " | ".join(cells) + " |")
        rate = "" if near["success_rate"] is None else f"{100 * near['success_rate']:.1f} % below 1 mm; "
        lines.append(
            f"\nMedians over runs. Starts within 10 mm and 10 deg: {near['runs']} runs, {rate}"
            f"capture range (95 % below 1 mm, bins of 4 mm of initial mTRE): "
            f"{part['capture_range_mtre_mm']:g} mm; 10 mm or more off and yet converged: "
            f"{part['wrong_but_converged']}; below 1 mm and yet not: {part['right_but_not_converged']}; "
            f"median {part['median_cpu_seconds']:.1f} s of CPU.\n"
        )
    return "\n".join(lines)


def plot(runs: list[dict], study: Study, path: Path) -> None:
    """Every run: mTRE before and after."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(study.views), figsize=(4.6 * len(study.views), 3.8), squeeze=False)
    for axis, count in zip(axes[0], study.views, strict=True):
        for converged, colour in ((True, "#1f77b4"), (False, "#d62728")):
            mine = [r for r in runs if r["views"] == count and r["converged"] == converged]
            before, after = ([r[key]["mtre_mm"] for r in mine] for key in ("start", "found"))
            axis.plot(
                before, after, ".", color=colour, ms=5, label="converged" if converged else "not converged"
            )
        axis.axhline(1.0, color="0.6", lw=0.8)
        axis.set(
            yscale="log", xlabel="mTRE of the start, mm", ylabel="mTRE found, mm",
            title=f"{count} view{'s' * (count > 1)}",
        )  # fmt: skip
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _kind(about: dict) -> dict:
    """What runs must share; more of them, and with other numbers of views, may join them."""
    return about | {"study": {k: v for k, v in about["study"].items() if k not in ("per_bin", "views")}}


def main(
    ct: Path,
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    study: Annotated[Study, tyro.conf.arg(name="")] = Study(),
    settings: Annotated[sf.RegisterSettings, tyro.conf.arg(name="register")] = sf.RegisterSettings(),
) -> None:
    """Register simulated X-rays of a CT from many starts.

    Args:
        ct: a CT in HU
        output: folder for runs.jsonl, registration.json, registration.md and registration.png
    """
    prepare_output_dir(output)
    log, about = output / "runs.jsonl", {"ct": ct.name, "study": asdict(study), "register": asdict(settings)}
    about = json.loads(json.dumps(about))
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [about]
    if _kind(lines[0]) != _kind(about):
        sys.exit(f"{log} holds runs of another study or other settings; choose another folder or delete it")
    runs = lines[1:]
    if not log.exists():
        write_text(log, json.dumps(about) + "\n")
    done = {(r["bin"], r["number"], r["views"]) for r in runs}
    volume = sf.Volume.from_file(ct)
    if study.box:
        volume = volume.cropped(study.box[::2], study.box[1::2])
    volume = volume.cropped(threshold=study.threshold)
    matter, points = volume.attenuation(threshold=study.threshold), targets(volume)
    centre = points.mean(0)
    for number in range(study.per_bin):
        wanted = [
            (b, c) for c in study.views for b in range(len(study.bins) - 1) if (b, number, c) not in done
        ]
        if not wanted:
            continue
        truth, views = xrays(volume, centre, number, study)
        for b, count in wanted:
            rng = np.random.default_rng((study.seed, number, 1 + b))
            size = tuple(rng.uniform(study.bins[b], study.bins[b + 1], 2))
            init = off(se3.transform(truth, centre[None])[0], size, rng) @ truth
            record = {"bin": b, "number": number, "views": count, "offset_mm": size[0], "offset_deg": size[1]}
            record |= run(matter, views[:count], truth, init, points, settings)
            runs.append(record)
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                f"{number:3d} {count} view{'s' * (count > 1)}, off by {size[0]:4.1f} mm {size[1]:4.1f} deg: "
                f"mTRE {record['start']['mtre_mm']:5.1f} -> {record['found']['mtre_mm']:6.2f} mm, "
                f"{record['cpu_seconds']:.1f} s, {record['reason']}",
                flush=True,
            )
    runs = [r for r in runs if r["number"] < study.per_bin and r["views"] in study.views]
    result = about | summary(runs, study)
    write_text(output / "registration.json", json.dumps(result, indent=1))
    write_text(output / "registration.md", table(summary(runs, study)))
    plot(runs, study, output / "registration.png")
    print(table(summary(runs, study)))


if __name__ == "__main__":
    tyro.cli(main)
