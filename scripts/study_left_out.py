"""How near fits to simulated X-rays come to bones that the model has not seen.

python scripts/study_left_out.py --views 2 -o out/left_out_two
python scripts/study_left_out.py --views 1 -o out/left_out_one

Each training subject in turn: the model of the others (its mirror image left out too) is fitted to
simulated X-rays of it, an AP view, or that and one turned by 45 degrees about the patient's long axis,
with known camera poses, soft tissue, gas, blur and noise, from the images alone. The patient is turned
by up to 10 degrees and shifted by up to 25 mm at random. Beside each fit stand the mean shape in the
true pose and, similarity-aligned, the mean shape. Finished cases are kept: a second run goes on.
"""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import torch
import tyro

import shapefit as sf
from shapefit import se3
from shapefit.io.atomic import write_text
from shapefit.metrics import ALL

CAMERA = sf.Camera(sdd=1020.0, delx=1.552, dely=1.552, x0=0.0, y0=0.0, height=192, width=192)
SOURCE_TO_CENTRE = 720.0  # mm
QUICK = sf.EvaluateSettings(samples=6000, voxel=2.0)


def one_case(model: sf.ShapeModel, case: str, views: int, settings: sf.FitSettings) -> dict:
    """Fit and baselines of one left-out subject."""
    row = model.cases.index(case)
    rng = np.random.default_rng(row)
    turn, shift = np.radians(rng.uniform(-10, 10, 3)), rng.uniform(-25, 25, 3)
    world_from_patient = se3.exp(torch.from_numpy(np.concatenate([turn, shift])))
    truth = se3.transform(world_from_patient, model.training_shapes()[row])
    others = model.without(case)

    ap = sf.world_from_view("ap", torch.zeros(3), SOURCE_TO_CENTRE)
    oblique = se3.exp(torch.tensor([0, 0, math.pi / 4, 0, 0, 0], dtype=torch.float64)) @ ap
    seen = [
        sf.simulate_view(truth, model.faces, model.structure, pose, CAMERA, 100 * row + n)
        for n, pose in enumerate([ap, oblique][:views])
    ]
    fit = sf.fit_xrays(others, seen, settings)

    reference = model.surfaces(truth)
    mean_shape = others.surfaces(se3.transform(world_from_patient, others.mean))
    record = {"converged": fit.converged, "reason": fit.reason, "seconds": fit.seconds}
    for name, surfaces in (("fit", others.surfaces(fit.vertices)), ("mean shape", mean_shape)):
        metrics = sf.compare(surfaces, reference, QUICK)["metrics"]
        record[name] = {kind: metrics[kind][ALL] for kind in metrics}
    return record


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    views: int = 2,
    model: str = "pelvis",
    settings: Annotated[sf.FitSettings, tyro.conf.arg(name="")] = sf.FitSettings(),
) -> None:
    """Leave-one-out fits to simulated X-rays.

    Args:
        output: folder for one file per case, and the table
        views: 1 (AP) or 2 (AP and 45 degrees oblique)
        model: a model file with its training shapes, or the name of one that comes with shapefit
    """
    bone = sf.read_model(model)
    records = {}
    for case in bone.subjects():
        kept = output / f"{case}.json"
        if not kept.exists():
            write_text(kept, json.dumps(one_case(bone, case, views, settings)))
        records[case] = json.loads(kept.read_text())
        figures = {name: records[case][name]["absolute"] for name in ("fit", "mean shape")}
        shown = [f"{name} {f['assd']:.2f} / {f['hausdorff']:.1f}" for name, f in figures.items()]
        print(f"{case}: ASSD / Hausdorff in mm: {', '.join(shown)}; {records[case]['reason']}", flush=True)
    print(f"\n{'mean of ' + str(len(records)):<12}{'':16}{'ASSD':>8}{'HD95':>8}{'HD':>8}   mm")
    for name in ("fit", "mean shape"):
        for kind in ("absolute", "similarity"):
            row = [
                mean(r[name][kind][figure] for r in records.values())
                for figure in ("assd", "hd95", "hausdorff")
            ]
            print(f"{name:<12}{kind:<16}" + "".join(f"{value:8.2f}" for value in row))
    failed = [case for case, record in records.items() if not record["converged"]]
    print("failed:", failed or "none")


if __name__ == "__main__":
    tyro.cli(main)
