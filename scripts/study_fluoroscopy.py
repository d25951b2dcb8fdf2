"""How well fits explain real fluoroscopy whose bones were outlined by hand: overlap, and agreement of fits.

python scripts/study_fluoroscopy.py masks --data ../shared/data/fluoroscopy/specimen_18-2800.npz -o out/masks
python scripts/study_fluoroscopy.py alone --data ../shared/data/fluoroscopy/specimen_18-2800.npz -o out/alone

`masks`: three disjoint sets of six views, each fitted jointly to image and masks, no pose given; Dice per
view, and the distance between the three reconstructions, which should be one bone. `alone`: every view on
its own from the image alone, with an automatic start; the hand-drawn masks only judge. Dice counts valid
pixels that carry a hemipelvis or nothing; those with another bone's label are left out. No 3D truth exists.
"""

import json
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

import shapefit as sf
from shapefit import se3
from shapefit.fit.result import COVERED
from shapefit.io.atomic import write_text
from shapefit.metrics import ALL, mask_dice
from shapefit.report import write_overlays
from shapefit.view import IGNORE

SETS = ((0, 4, 10, 14, 20, 26), (2, 8, 12, 16, 22, 25), (1, 5, 9, 17, 23, 27))
LEFT, RIGHT = 1, 2  # labels of the hemipelves in the data; larger labels are other bones


def load_views(data: Path, model: sf.ShapeModel) -> list[sf.View]:
    """The views with their masks in the model's numbering; other bones' pixels are to be ignored."""
    archive = np.load(data)
    pitch, (cx, cy) = float(archive["pixel_spacing_mm"]), archive["principal_point_px"]
    height, width = archive["image"].shape[1:]
    x0, y0 = (float(c - (n - 1) / 2) * pitch for c, n in ((cx, width), (cy, height)))
    camera = sf.Camera(float(archive["sdd_mm"]), pitch, pitch, x0, y0, height, width)
    left, right = (model.names.index(name) + 1 for name in ("hip_left", "hip_right"))
    views = []
    for number, image, labels, valid in zip(
        archive["view"], archive["image"], archive["segmentation"], archive["valid"], strict=True
    ):
        mask = np.full(labels.shape, IGNORE, np.uint8)
        mask[labels == 0], mask[labels == LEFT], mask[labels == RIGHT] = 0, left, right
        picture, name = torch.from_numpy(image / np.float32(255)), f"view_{int(number):02d}"
        views.append(sf.View(picture, camera, None, torch.from_numpy(valid), torch.from_numpy(mask), name))
    return views


def shadows(model: sf.ShapeModel, fit: sf.XRayFit, views: list[sf.View]) -> list[torch.Tensor]:
    """Path lengths (S, H, W) of the fitted bones in each view."""
    vertices, poses = fit.vertices[None], se3.inverse(fit.world_from_camera)
    return [
        sf.render_mesh(vertices, model.faces, pose[None], view.camera, model.structure)[0]
        for view, pose in zip(views, poses, strict=True)
    ]


def masks(model: sf.ShapeModel, views: list[sf.View], settings: sf.FitSettings, output: Path) -> dict:
    """Three joint fits, and how far they lie apart after rigid alignment."""
    record, results = {}, []
    for number, chosen in enumerate(SETS):
        six = [views[k] for k in chosen]
        fit = sf.fit_xrays(model, six, settings)
        per_view = {view.name: dice for view, dice in zip(six, fit.dice, strict=True)}
        means = [mean(dice.values()) for dice in fit.dice]
        record[f"set_{number}"] = {"dice": per_view, "mean": mean(means), "worst_view": min(means)}
        print(f"set {number}: mean Dice {mean(means):.3f}, worst view {min(means):.3f}, {fit.seconds:.0f} s")
        folder = output / f"set_{number}"
        sf.write_surfaces(folder, model.surfaces(fit.vertices))
        write_overlays(folder, six, shadows(model, fit, six), list(model.names))
        results.append(model.surfaces(fit.vertices))
    for a, b in combinations(range(len(results)), 2):
        figures = sf.compare(results[a], results[b])["metrics"]["rigid"]
        record[f"sets_{a}_{b}"] = {name: f["assd"] for name, f in figures.items()}
        print(f"sets {a} and {b}: ASSD {figures[ALL]['assd']:.2f} mm after rigid alignment")
    return record


def alone(model: sf.ShapeModel, views: list[sf.View], settings: sf.FitSettings, output: Path) -> dict:
    """Every view on its own, the mask hidden from the fit."""
    record: dict[str, dict] = {}
    for view in views:
        bare = sf.View(view.image, view.camera, valid=view.valid, name=view.name)
        fit = sf.fit_xrays(model, [bare], settings)
        paths = shadows(model, fit, [view])
        dice = mask_dice(paths[0] > COVERED, view.mask, model.names, view.valid)
        record[view.name] = {"dice": dice, "mean": mean(dice.values()), "converged": fit.converged,
                             "agreement": fit.terms[0]["agreement"], "seconds": fit.seconds}  # fmt: skip
        write_overlays(output / view.name, [view], paths, list(model.names))
        print(
            f"{view.name}: Dice {record[view.name]['mean']:.3f} {fit.reason}, {fit.seconds:.0f} s", flush=True
        )
    for what, names in (("all", list(record)), ("even", list(record)[::2]), ("odd", list(record)[1::2])):
        dice = [record[name]["mean"] for name in names]
        poor = [name for name in names if record[name]["mean"] < 0.7]
        print(f"{what} {len(dice)} views: median Dice {median(dice):.3f}; below 0.7: {poor or 'none'}")
    return record


def main(
    what: tyro.conf.Positional[Literal["masks", "alone"]],
    /,
    *,
    data: Path,
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
    model: str = "pelvis",
    settings: Annotated[sf.FitSettings, tyro.conf.arg(name="")] = sf.FitSettings(free_views=True),
) -> None:
    """Fit real fluoroscopy and measure the overlap with hand-drawn masks.

    Args:
        what: fit image and masks of several views jointly, or each image alone
        data: the archive of views (image, segmentation, valid, view, pixel_spacing_mm, sdd_mm)
        output: folder for dice.json and the pictures
        model: a model file, or the name of one that comes with shapefit
    """
    bone = sf.read_model(model)
    study = masks if what == "masks" else alone
    record = study(bone, load_views(data, bone), settings, output)
    write_text(output / "dice.json", json.dumps(record, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
