"""The page of a fit: what was found, over which images, how well, and what it cannot know."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from shapefit.alignment import Alignment
from shapefit.metrics import ALL, compare
from shapefit.report.colours import DISTANCE_SCALE, UNSEEN, structure_colours
from shapefit.report.figures import DEFINITIONS, part_rows, rows_by_alignment, structure_rows
from shapefit.report.fit_text import fit_caption, fit_details, fit_facts, fit_limits, fit_title, fit_verdict
from shapefit.report.overlay import stack
from shapefit.report.page import LOOK, choice, escape, section, structure_switches, write_page
from shapefit.report.scene_mesh import error_map, lighten, pack_result, pack_truth, unseen_share
from shapefit.settings import EvaluateSettings
from shapefit.view import View

Surfaces = dict[str, trimesh.Trimesh]


def fit_page(
    path: str | Path,
    record: dict,
    surfaces: Surfaces,
    views: Sequence[View],
    paths: Sequence[Float[Tensor, "S H W"]],
    history: Sequence[dict] | None = None,
    truth: Surfaces | None = None,
    baselines: dict | None = None,
    metrics: dict | None = None,
    title: str = "",
    note: str = "",
) -> None:
    """Write the report of a fit as one HTML file that needs no network.

    `record` is fit.json; `surfaces` (world mm) in the model's order, empty if nothing was found; `paths` the
    rendered path lengths in mm of each view at the fit, empty likewise; `history` [{stage, step, loss}], the
    record's own if absent. With `truth`, `metrics` is `compare(surfaces, truth, views=...)`, made here if
    absent, and `baselines` holds such records by name (e.g. "mean shape at the same pose"). `note` is a
    remark in plain text on where image and truth come from.
    """
    colours = structure_colours(list(surfaces))
    posed = _posed(views, record)
    known = [view for view in posed if view.world_from_camera is not None] if surfaces else []
    history = record.get("history", []) if history is None else list(history)
    if truth and metrics is None:
        metrics = compare(surfaces, truth, EvaluateSettings(), list(truth), known, name="fit")
    unseen = unseen_share(surfaces, known) if known else None
    light = lighten(surfaces)
    distances = error_map(light, truth, _alignments(metrics)) if truth else {}

    parts = [
        fit_verdict(record, note),
        fit_facts(record, unseen, metrics),
        _images(record, posed, paths, colours),
    ]
    if surfaces:
        parts.append(_scenes(colours, truth is not None, unseen))
    if metrics:
        parts.append(_distances(metrics, baselines or {}, colours))
    parts += [_search(record, history), fit_limits(record, surfaces, known), fit_details(record)]
    write_page(
        path,
        title or fit_title(record, len(views)),
        "shapefit · report of a fit",
        "\n".join(parts),
        {
            "result": pack_result(light, colours, known, distances),
            "truth": pack_truth(truth) if truth and surfaces else [],
            "unseen": UNSEEN,
            "scale": list(DISTANCE_SCALE),
            "top": {kind: _top(of) for kind, of in distances.items() if of},
            "history": [
                {"stage": str(h["stage"]), "loss": float(h["loss"])} for h in history if _finite(h["loss"])
            ],
            "coefficients": [float(c) for c in record.get("coefficients") or []],
        },
        ["fit.js"],
    )


def _posed(views: Sequence[View], record: dict) -> list[View]:
    posed = []
    for n, view in enumerate(views):
        found = (record.get("views") or [{}] * len(views))[n].get("world_from_camera")
        posed.append(view if found is None else view.posed(torch.tensor(found, dtype=torch.float64)))
    return posed


def _images(record: dict, views: list[View], paths: Sequence[Tensor], colours: dict[str, str]) -> str:
    drawn = list(paths) or [None] * len(views)
    masked = any(view.mask is not None for view in views)
    found = (record.get("views") or []) + [{}] * len(views)
    figures = ""
    for view, of_view, entry in zip(views, drawn, found, strict=False):
        caption = f"<figcaption>{fit_caption(view, entry)}</figcaption>"
        figures += f"<figure>{stack(view, of_view, colours)}{caption}</figure>"
    layers = '<label><input type="checkbox" checked data-layer="outline">outlines</label>'
    layers += '<label><input type="checkbox" data-layer="fill">filled</label>'
    if masked:
        layers += '<label><input type="checkbox" data-layer="given">given masks (white dashes)</label>'
    fade = (
        '<label class="slider">X-ray<input type="range" id="fade" min="0" max="1" step="0.01" value="0" '
        'aria-label="fade from the X-ray to the projection of the fitted bones">fitted bones alone</label>'
    )
    controls = f'<div class="controls">{fade}{layers}{structure_switches(colours)}</div>' if paths else ""
    count = {1: "one", 2: "two"}.get(len(views), "many")
    shown = (
        "Images are shown as seen from the X-ray source, bone dark, contrast stretched; pale parts were not "
        "used."
    )
    lines = "Coloured lines bound the shadow of each fitted bone. " if paths else ""
    return section("On the images", f'{controls}<div class="views {count}">{figures}</div>', lines + shown)


def _scenes(colours: dict[str, str], measured: bool, unseen: float | None) -> str:
    switches = structure_switches(colours)
    ghost = '<label><input type="checkbox" id="ghost">true surface</label>' if measured else ""
    aligned = [("absolute", "as found"), ("rigid", "rigid-aligned"), ("similarity", "similarity-aligned")]
    note = "Drag to turn, scroll to come closer. World mm; front, left and right are the patient's."
    if unseen is not None and unseen >= 0.005:
        note += (
            f" <strong>Grey: {100 * unseen:.0f} % of the surface lies outside every image.</strong> "
            "Nothing was measured there; the shape model filled it in."
        )
    place = '<figure><div class="scene" id="{}" data-together="a"></div><figcaption>{}</figcaption></figure>'
    scenes = place.format("result", "The result")
    if measured:
        scenes += place.format("error", "Distance of the result from the true surface")
        ghost += f"<label>error map {choice('aligned', aligned, 'absolute')}</label>"
    return section(
        "In space",
        f'<div class="controls">{LOOK}{switches}{ghost}</div>'
        f'<div class="scenes{"" if measured else " one"}">{scenes}</div>',
        note,
    )


def _distances(metrics: dict, baselines: dict, colours: dict[str, str]) -> str:
    keys = {
        "absolute": ("assd", "hd95", "hausdorff", "volume_dice"),
        "rigid": ("assd", "hd95"),
        "similarity": ("assd", "hd95"),
    }

    def overall(m: dict | None) -> dict | None:
        return None if m is None else {kind: m["metrics"][kind][ALL] for kind in keys}

    rows = [("this fit", overall(metrics), "main")]
    rows += [(escape(name), overall(m), "") for name, m in baselines.items()]
    body = rows_by_alignment(rows, keys, "all bones together")
    body += "<h3>This fit, bone by bone</h3>"
    per_structure = {
        "absolute": ("assd", "hd95", "hausdorff", "surface_dice_2mm", "volume_dice"),
        "similarity": ("assd", "hd95", "surface_dice_2mm"),
    }
    body += rows_by_alignment(structure_rows(metrics, colours), per_structure, "bone")
    if parts := part_rows(metrics):
        short = {"absolute": ("assd", "hd95", "hausdorff"), "similarity": ("assd", "hd95")}
        body += rows_by_alignment(parts, short, "part of the surface")
    alignment = metrics["alignment"]
    if alignment:
        rigid, similar = alignment["rigid"], alignment["similarity"]
        body += (
            f'<p class="note">Rigid alignment ({rigid["method"]}) turned the result by '
            f"{rigid['rotation_deg']:.2f}° and moved its centre by {rigid['displacement_mm']:.2f} mm; "
            f"similarity alignment ({similar['method']}) also scaled it by {similar['scale']:.4f}.</p>"
        )
    return section("How far from the truth", body, DEFINITIONS)


def _search(record: dict, history: list[dict]) -> str:
    plots = ""
    if history:
        plots += (
            '<figure><div class="plot" id="history"></div><figcaption>Loss along the search. Stages differ '
            "in resolution and terms, so levels compare within a stage only.</figcaption></figure>"
        )
    if record.get("coefficients"):
        plots += (
            '<figure><div class="plot" id="coefficients"></div><figcaption>Shape coefficients in standard '
            "deviations of the training shapes. Beyond ±3 (orange) a shape is unlike them."
            "</figcaption></figure>"
        )
    return section("How it was found", f'<div class="pair">{plots}</div>') if plots else ""


def _alignments(metrics: dict | None) -> dict[str, Alignment]:
    found = {"absolute": Alignment(np.eye(4), "none")}
    for kind, entry in (metrics or {}).get("alignment", {}).items():
        found[kind] = Alignment(np.array(entry["matrix"]), entry["method"])
    return found


def _top(by_structure: dict[str, np.ndarray]) -> float:
    """The end of a colour scale, mm: nearly the largest distance, at least 3."""
    return max(3.0, float(np.percentile(np.concatenate(list(by_structure.values())), 99)))


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
