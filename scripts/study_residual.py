"""How near a model with a Gaussian-process residual comes to segmentations of cases that were left out.

python scripts/study_residual.py z*/segmentation.nii.gz --labels sacrum=1 hip_left=2 hip_right=3 -o out/r.json

Each case in turn: alignment and PCA of the others, their residual process learned anew, and the fit to the
case's surface by the modes alone and with the process. `likely` is the mean square of the coefficients: 1
where a shape is as usual as the prior says; `landmarks` the mean distance of the other cases' landmarks,
carried by either fit, from the mean readings of this one. Finished cases are kept: a second run goes on.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import tyro

import shapefit as sf
from shapefit import se3
from shapefit.fit.surface import place
from shapefit.fit.surface_pairs import shared_bones
from shapefit.io.atomic import write_text
from shapefit.io.case import case_names
from shapefit.landmark_transfer import others_landmarks, positions, transfer_table
from shapefit.model_quality import distances
from shapefit.shape_model import Landmarks
from shapefit.workers import Workers

FIGURES = ("assd", "hd95", "hausdorff")


def placed(model: sf.ShapeModel, case: sf.Case) -> torch.Tensor:
    """A training case's shape as the model holds it, laid on the case's surface (world mm)."""
    shape = model.training_shapes()[model.cases.index(case.name)]
    settings = sf.ProjectSettings()
    pose = place(shape.numpy(), shared_bones(model, case.surfaces, settings), settings)
    return se3.transform(torch.from_numpy(pose), shape)


def one_case(model: sf.ShapeModel, case: sf.Case, marks: Landmarks | None, rank: int) -> dict:
    """Distances in mm of a left-out case from both fits; `marks` are the landmarks of the other cases."""
    others, surfaces = model.without(case.name), case.surfaces
    alone = sf.fit_surface(others, surfaces)
    _, followed = sf.follow_surface(others, surfaces, sf.ProjectSettings(residual=rank))
    row: dict = {"case": case.name, "likely": float(followed.coefficients.square().mean())}
    for way, fit in (("modes", alone), ("residual", followed)):
        found = distances(others.surfaces(fit.vertices), surfaces)
        row[way] = {figure: found[figure] for figure in FIGURES}
        if marks and case.landmarks:
            carried = {"fit": {case.name: positions(fit.vertices, others, marks)}}
            row[way]["landmarks"] = transfer_table({case.name: case.landmarks}, carried)["fit"]["mean"]
    return row


def main(
    cases: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    labels: tuple[str, ...],
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    model: str = "pelvis",
    rank: int = 300,
    workers: int = 2,
) -> None:
    """Leave-one-out fits to surfaces, with and without the residual process.

    Args:
        cases: label maps, or folders of closed meshes, of the model's training cases
        labels: which label is which structure, as in sacrum=1
        output: file of the figures, .json
        model: a model with its training shapes: a file, or the name of one that comes with shapefit
        rank: functions of the residual process
        workers: cases side by side
    """
    numbers = {name: int(label) for name, label in (entry.split("=") for entry in labels)}
    whole = sf.read_model(model)
    rows = json.loads(output.read_text())["cases"] if output.is_file() else []
    done = {row["case"] for row in rows}
    read = {
        name: replace(sf.read_case(path, numbers), name=name)
        for name, path in zip(case_names(cases), cases, strict=True)
    }
    readings = {name: case.landmarks for name, case in read.items()}
    marks: dict = {}
    if any(readings.values()):
        marks = others_landmarks(
            whole, readings, torch.stack([placed(whole, case) for case in read.values()])
        )
    jobs = [(whole, case, marks.get(name), rank) for name, case in read.items() if name not in done]
    table: dict = {"rank": rank}
    with Workers(workers) as pool:
        for row in pool.stream(one_case, jobs):
            rows.append(row)
            print(f"{row['case']}: {_words(row)}", flush=True)
            write_text(output, json.dumps(table | {"cases": rows}, indent=1))
    for way in ("modes", "residual"):
        table[way] = {figure: mean(row[way][figure] for row in rows) for figure in rows[0][way]}
    table["likely"] = mean(row["likely"] for row in rows)
    print(f"mean of {len(rows)}: {_words(table)}")
    write_text(output, json.dumps(table | {"cases": rows}, indent=1))


def _words(row: dict) -> str:
    ways = [
        f"{way} " + ", ".join(f"{figure} {value:.2f}" for figure, value in row[way].items())
        for way in ("modes", "residual")
    ]
    return "; ".join(ways) + f" mm; likely {row['likely']:.2f}"


if __name__ == "__main__":
    tyro.cli(main)
