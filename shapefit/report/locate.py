"""The page of a located bone: where it is, what the network saw of it, and how sure that is."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from torch import Tensor

from shapefit.report.colours import DISTANCE_SCALE, UNSEEN, even_steps, structure_colours
from shapefit.report.fit_text import fit_caption, fit_details, fit_limits
from shapefit.report.locate_pictures import TOP_STD
from shapefit.report.overlay import stack
from shapefit.report.page import (
    LOOK,
    escape,
    facts,
    number,
    readable,
    section,
    structure_switches,
    verdict,
    write_page,
)
from shapefit.report.register_pictures import webp
from shapefit.report.scene_mesh import lighten, pack_result, unseen_share
from shapefit.scene.locate import bone_in_words
from shapefit.view import View

Surfaces = dict[str, trimesh.Trimesh]
Maps = Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
_SAID = {
    "structures": "<b>Structures.</b> What the network takes for which bone",
    "entry": "<b>Entry.</b> Where rays come into the bone, as places of the mean shape",
    "exit": "<b>Exit.</b> Where they leave it",
    "std": "<b>Spread.</b> How far these places may be off along each axis, one standard deviation",
}


def locate_page(
    path: str | Path,
    record: dict,
    surfaces: Surfaces,
    views: Sequence[View],
    paths: Sequence[Float[Tensor, "S H W"]],
    maps: Sequence[Maps],
    structures: Sequence[str],
    note: str = "",
) -> None:
    """Write the report of `locate` as one HTML file that needs no network.

    `record` is fit.json; `surfaces` (world mm) and `paths` (mm, of each view) are empty if the bone was not
    found; `maps` are the pictures of `coordinate_maps`, one set per view; `structures` the network's.
    """
    colours = structure_colours(list(surfaces))
    entries = record["views"]
    posed = [_posed(view, entry) for view, entry in zip(views, entries, strict=True)]
    known = [view for view in posed if view.world_from_camera is not None] if surfaces else []
    unseen = unseen_share(surfaces, known) if known else None
    parts = [
        _verdict(record, structures, note),
        _facts(record, unseen),
        _images(posed, entries, paths, colours),
        _seen(entries, maps, structures),
    ]
    if surfaces:
        parts += [_scene(colours, unseen), _sure(record)]
    parts += [fit_limits(record, surfaces, known), _network(record) + fit_details(record)]
    write_page(
        path,
        _title(record, structures),
        "shapefit · report of a location",
        "\n".join(parts),
        {
            "result": pack_result(lighten(surfaces), colours, known),
            "truth": [],
            "unseen": UNSEEN,
            "history": [],
            "coefficients": [float(c) for c in record.get("coefficients") or []],
            "coefficients_std": [float(c) for c in record.get("coefficients_std") or []],
        },
        ["fit.js"],
        ["locate.css"],
    )


def _posed(view: View, entry: dict) -> View:
    found = entry.get("world_from_camera")
    return view if found is None else view.posed(torch.tensor(found, dtype=torch.float64))


def _title(record: dict, structures: Sequence[str]) -> str:
    bone, count = bone_in_words(structures), len(record["views"])
    looked = "located" if record["converged"] else "looked for"
    return f"{bone[:1].upper()}{bone[1:]} {looked} in {count} X-ray{'s' if count != 1 else ''}"


def _verdict(record: dict, structures: Sequence[str], note: str) -> str:
    reason = escape(record.get("reason") or "no reason given").rstrip(".")
    if record["converged"]:
        said = f"<b>The {escape(bone_in_words(structures))} was found:</b> {reason}"
        return verdict(True, said, escape(note))
    return verdict(False, f"<b>Nothing was located: {reason}.</b>", escape(note))


def _facts(record: dict, unseen: float | None) -> str:
    views = record["views"]
    items = [("X-rays", str(len(views)), "")]
    shares = [view["inlier_share"] for view in views if view.get("inlier_share") is not None]
    if shares:
        items.append(("places that agree", f"{100 * sum(shares) / len(shares):.0f}", "%"))
    std = [view["std"] for view in views if view.get("std")]
    worst = [
        ("turn, std", 1, "°", [value for one in std for value in one["rotation_deg"]]),
        ("across the beam, std", 1, "mm", [value for one in std for value in one["translation_mm"][:2]]),
        ("along the beam, std", 1, "mm", [one["translation_mm"][2] for one in std]),
    ]
    for name, digits, unit, values in worst:
        if values and None not in values:
            items.append((name, number(max(values), digits), unit))
    if unseen is not None:
        items.append(("surface outside every view", f"{100 * unseen:.0f}", "%"))
    items.append(("time", number(float(record["seconds"]), 1), "s"))
    return facts(items)


def _images(
    views: Sequence[View], entries: Sequence[dict], paths: Sequence[Tensor], colours: dict[str, str]
) -> str:
    figures = ""
    for view, entry, of_view in zip(views, entries, list(paths) or [None] * len(views), strict=True):
        lines = [fit_caption(view, entry)]
        if entry.get("inlier_share") is not None:
            lines.append(f"{100 * entry['inlier_share']:.0f} % of the places agree with one pose")
        figures += (
            f"<figure>{stack(view, of_view, colours)}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
        )
    count = {1: "one", 2: "two"}.get(len(views), "many")
    controls = ""
    if paths:
        controls = (
            '<div class="controls"><label class="slider">X-ray<input type="range" id="fade" min="0" max="1" '
            'step="0.01" value="0" aria-label="fade from the X-ray to the projection of the located bones">'
            'located bones alone</label><label><input type="checkbox" checked data-layer="outline">outlines'
            '</label><label><input type="checkbox" data-layer="fill">filled</label>'
            f"{structure_switches(colours)}</div>"
        )
    shown = "Images are shown as seen from the X-ray source, bone dark, contrast stretched."
    lines = "Coloured lines bound the shadow of each located bone. " if paths else ""
    return section("On the images", f'{controls}<div class="views {count}">{figures}</div>', lines + shown)


def _seen(entries: Sequence[dict], maps: Sequence[Maps], structures: Sequence[str]) -> str:
    swatches = "".join(
        f'<span class="part"><span class="swatch" style="background:{colour}"></span>'
        f"{escape(readable(name))}</span>"
        for name, colour in structure_colours(structures).items()
    )
    ramp = ",".join(even_steps(DISTANCE_SCALE[1:], 17))
    legends = {
        "structures": f"<br>{swatches}",
        "entry": "<br>" + _axes(),
        "exit": "<br>" + _axes(),
        "std": f'<br><span class="scale"><span>0</span><span class="bar" style="background:linear-gradient('
        f'to right,{ramp})"></span><span>{TOP_STD:g} mm</span></span>',
    }
    body = ""
    for entry, of_view in zip(entries, maps, strict=True):
        if len(entries) > 1:
            body += f"<h3>{escape(entry['name'])}</h3>"
        body += '<div class="maps">'
        for name, pixels in of_view.items():
            data = base64.b64encode(webp(pixels)).decode("ascii")
            alt = f"{name} of {escape(entry['name'])}, as the network sees it"
            body += (
                f'<figure><img alt="{alt}" src="data:image/webp;base64,{data}">'
                f"<figcaption>{_SAID[name]}{legends[name]}</figcaption></figure>"
            )
        body += "</div>"
    note = (
        "For every pixel the network says which point of the mean shape its ray meets first and last; a "
        "point keeps its colour wherever the bone lies and however it is bent. Pose and shape follow from "
        "where these points come to lie, and from the structures' outlines."
    )
    return section("What the network saw", body, note)


def _axes() -> str:
    """What the colours of places mean."""
    ends = (("left", "right", "#0f8080", "#f58080"), ("back", "front", "#800f80", "#80f580"),
            ("foot", "head", "#80800f", "#8080f5"))  # fmt: skip
    return " ".join(
        f'<span class="scale"><span>{low}</span><span class="bar short" style="background:linear-gradient('
        f'to right,{start},{end})"></span><span>{high}</span></span>'
        for low, high, start, end in ends
    )


def _scene(colours: dict[str, str], unseen: float | None) -> str:
    note = "Drag to turn, scroll to come closer. World mm; front, left and right are the patient's."
    if unseen is not None and unseen >= 0.005:
        note += (
            f" <strong>Grey: {100 * unseen:.0f} % of the surface lies outside every image.</strong> "
            "Nothing was seen there; the shape model filled it in."
        )
    place = '<figure><div class="scene" id="result" data-together="a"></div></figure>'
    controls = f'<div class="controls">{LOOK}{structure_switches(colours)}</div>'
    return section("In space", f'{controls}<div class="scenes one">{place}</div>', note)


def _sure(record: dict) -> str:
    rows = ""
    for entry in record["views"]:
        if entry.get("std"):
            turn, place = entry["std"]["rotation_deg"], entry["std"]["translation_mm"]
            cells = "".join(f"<td>{number(v, 2)}</td>" for v in turn)
            cells += f'<td class="first">{number(place[0], 2)}</td>'
            cells += "".join(f"<td>{number(v, 2)}</td>" for v in place[1:])
            rows += f"<tr><td>{escape(entry['name'])}</td>{cells}</tr>"
    table = ""
    if rows:
        axes = "<th>columns</th><th>rows</th><th>beam</th>"
        table = (
            '<div class="scroll"><table><thead><tr class="group"><th></th><th colspan="3">turn about, °</th>'
            '<th class="first" colspan="3">place of the bone&rsquo;s centre along, mm</th></tr>'
            f"<tr><th>view</th>{axes}{axes.replace('<th>', '<th class=first>', 1)}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )
    plot = ""
    if record.get("coefficients"):
        plot = (
            '<figure class="plain"><div class="plot" id="coefficients"></div><figcaption>Shape coefficients '
            "in standard deviations of the training shapes; the whiskers are one standard deviation of each. "
            "A whisker of 1 about 0 is a mode that the images say nothing of.</figcaption></figure>"
        )
    note = escape(record.get("uncertainty") or "") + (
        " Standard deviations, from the spread that the network predicts and the shapes that the model "
        "expects; they do not know of what the network was never shown."
    )
    return section("How sure", table + plot, note)


def _network(record: dict) -> str:
    lines = [("network", record.get("network")), ("licence of its weights", record.get("network_licence"))]
    body = facts([(name, escape(value), "") for name, value in lines if value])
    return section("Network", body) if body else ""
