"""How near a model with a Gaussian-process residual comes to segmentations of cases that were left out.

python scripts/study_residual.py z*/segmentation.nii.gz --labels sacrum=1 hip_left=2 hip_right=3 -o out/r.json

Each case in turn: alignment and PCA of the others, their residual process learned anew, and the fit to the
case's surface by the modes alone and with the process. `likely` is the mean square of the coefficients: 1
where a shape is as usual as the prior says. Finished cases are kept: a second run goes on.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import tyro

import shapefit as sf
from shapefit.io.atomic import write_text
from shapefit.io.case import case_names
from shapefit.model_quality import distances
from shapefit.workers import Workers

FIGURES = ("assd", "hd95", "hausdorff")


def one_case(model: sf.ShapeModel, name: str, path: Path, labels: dict, rank: int) -> dict:
    """Distances in mm of a left-out case from both fits."""
    torch.set_num_threads(1)
    others, surfaces = model.without(name), sf.read_case(path, labels).surfaces
    alone = sf.fit_surface(others, surfaces)
    _, followed = sf.follow_surface(others, surfaces, sf.ProjectSettings(residual=rank))
    rows = {
        way: {f: found[f] for f in FIGURES}
        for way, fit in (("modes", alone), ("residual", followed))
        for found in [distances(others.surfaces(fit.vertices), surfaces)]
    }
    return {"case": name} | rows | {"likely": float(followed.coefficients.square().mean())}


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
    jobs = [
        (whole, name, path, numbers, rank)
        for name, path in zip(case_names(cases), cases, strict=True)
        if name not in done
    ]
    table = {"rank": rank}
    with Workers(workers) as pool:
        for row in pool.stream(one_case, jobs):
            rows.append(row)
            print(f"{row['case']}: {_words(row)}", flush=True)
            write_text(output, json.dumps(table | {"cases": rows}, indent=1))
    for way in ("modes", "residual"):
        table[way] = {figure: mean(row[way][figure] for row in rows) for figure in FIGURES}
    table["likely"] = mean(row["likely"] for row in rows)
    print(f"mean of {len(rows)}: {_words(table)}")
    write_text(output, json.dumps(table | {"cases": rows}, indent=1))


def _words(row: dict) -> str:
    ways = [
        f"{way} " + ", ".join(f"{figure} {row[way][figure]:.2f}" for figure in FIGURES)
        for way in ("modes", "residual")
    ]
    return "; ".join(ways) + f" mm; likely {row['likely']:.2f}"


if __name__ == "__main__":
    tyro.cli(main)
