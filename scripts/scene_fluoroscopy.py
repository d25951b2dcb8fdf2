"""A scene network on real fluoroscopy with bones outlined by hand: its own masks, its pose, and fits."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import torch
from scene_runs import begin
from study_fluoroscopy import load_views
from torch.nn.functional import interpolate

import shapefit as sf
from shapefit import se3
from shapefit.fit.result import COVERED
from shapefit.io.atomic import write_text
from shapefit.metrics import mask_dice
from shapefit.report import write_overlays
from shapefit.scene.coordinates import Coordinates
from shapefit.scene.locate import locate_views
from shapefit.scene.network import SceneNetwork
from shapefit.settings import FitSettings, LocateSettings

POOR = 0.7  # mean Dice of the hemipelves below which a view has failed
STAGES = ("network", "located", "fitted")


def own_masks(seen: Coordinates, view: sf.View, threshold: float) -> torch.Tensor:
    """The network's structures (S, H, W) on the view's own pixels."""
    size = tuple(view.image.shape)
    return interpolate(seen.structures, size, mode="bilinear", align_corners=False)[0] >= threshold


def shadow(
    model: sf.ShapeModel, vertices: torch.Tensor, world_from_camera: torch.Tensor, view: sf.View
) -> torch.Tensor:
    """Path lengths (S, H, W) of a bone in world mm."""
    pose = se3.inverse(world_from_camera.double())[None]
    return sf.render_mesh(vertices.double()[None], model.faces, pose, view.camera, model.structure)[0]


def one_view(
    network: SceneNetwork,
    model: sf.ShapeModel,
    view: sf.View,
    locate: LocateSettings,
    fit: FitSettings,
    init: str,
    output: Path,
) -> dict:
    """Dice after each stage of a view of which the pose is unknown; the mask is hidden from all of them."""
    bare = sf.View(view.image, view.camera, valid=view.valid, name=view.name)
    located = locate_views(network, model, [bare], locate)
    record: dict = {"view": view.name, "found": bool(located.found), "reason": located.reason}
    record["inliers"] = float(located.inlier_share[0])
    dice = {}
    order = [network.structures.index(name) for name in model.names]
    own = own_masks(located.seen[0], view, locate.structure_threshold)[order]
    dice["network"] = mask_dice(own, view.mask, model.names, view.valid)
    pictures = {}
    if located.found:
        pictures["located"] = shadow(model, located.vertices, located.world_from_camera[0], view)
    record |= {"converged": False, "start": None}
    if init != "none" and (located.found or init != "scene"):
        result = sf.fit_xrays(model, [bare], fit, init=begin(located, init))
        pictures["fitted"] = shadow(model, result.vertices, result.world_from_camera[0], view)
        record |= {"converged": result.converged, "agreement": result.terms[0]["agreement"]}
        record |= {"seconds": result.seconds, "start": dict(result.start)}
    for stage, paths in pictures.items():
        dice[stage] = mask_dice(paths > COVERED, view.mask, model.names, view.valid)
        write_overlays(output / stage / view.name, [view], [paths], list(model.names))
    record["dice"] = dice
    return record


def half(records: Sequence[dict]) -> dict:
    """Medians and failures of each stage; a view without an answer or a fit counts as 0 there."""
    figures: dict = {"views": len(records)}
    fitted = any(r["start"] is not None for r in records)
    for stage in STAGES if fitted else STAGES[:-1]:
        values = [mean(r["dice"][stage].values()) if stage in r["dice"] else 0.0 for r in records]
        sides = sorted({name for r in records for name in r["dice"].get(stage, {})})
        figures[stage] = {
            "median": median(values),
            "least": min(values),
            "below_0.7": sorted(r["view"] for r, v in zip(records, values, strict=True) if v < POOR),
            "sides": {
                side: median(r["dice"].get(stage, {}).get(side, 0.0) for r in records) for side in sides
            },
        }
    figures["not_located"] = sorted(r["view"] for r in records if not r["found"])
    figures["fit_not_converged"] = sorted(r["view"] for r in records if fitted and not r["converged"])
    return figures


def table(result: dict) -> str:
    """Both halves as Markdown."""
    lines = [
        "| views | stage | median Dice | least | below 0.7 |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, figures in result["halves"].items():
        for stage in filter(figures.get, STAGES):
            row = figures[stage]
            lines.append(
                f"| {name}, {figures['views']} | {stage} | {row['median']:.3f} | {row['least']:.3f} | "
                f"{len(row['below_0.7'])} |"
            )
    all_views = result["halves"]["all"]
    lines.append(
        "\nMean Dice of the hemipelves in a view. A view that was not located counts as 0 there: "
        f"{', '.join(all_views['not_located']) or 'none'}. "
        f"Fits that are not believed: {', '.join(all_views['fit_not_converged']) or 'none'}.\n"
    )
    return "\n".join(lines)


def study(
    network: SceneNetwork,
    model: sf.ShapeModel,
    data: Path,
    locate: LocateSettings,
    fit: FitSettings,
    init: str,
    output: Path,
    done: list[dict],
) -> dict:
    """All views that are not done yet, then scene.json and scene.md."""
    views = load_views(data, model)
    had = {record["view"] for record in done}
    for view in views:
        if view.name in had:
            continue
        record = one_view(network, model, view, locate, fit, init, output)
        done.append(record)
        with (output / "runs.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        shown = ", ".join(f"{stage} {mean(d.values()):.3f}" for stage, d in record["dice"].items())
        print(f"{view.name}: Dice {shown}; {record['reason']}", flush=True)
    order = {view.name: k for k, view in enumerate(views)}
    done.sort(key=lambda record: order[record["view"]])
    parts = {"all": done, "even (tuned on)": done[::2], "odd (held out)": done[1::2]}
    result = {"halves": {name: half(records) for name, records in parts.items() if records}, "views": done}
    write_text(output / "scene.json", json.dumps(result, indent=1))
    write_text(output / "scene.md", table(result))
    print(table(result))
    return result
