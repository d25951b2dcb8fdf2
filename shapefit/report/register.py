"""The page of a registration: where the bone is, over which images, how well, and what it cannot know."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from numpy import ndarray

from shapefit import se3
from shapefit.report.colours import signed_steps
from shapefit.report.curves import Curve, chart
from shapefit.report.page import escape, facts, number, readable, section, verdict, write_page
from shapefit.report.register_pictures import REACH, WINDOW, webp

STAGE_COLOURS = ("#62625F", "#0072B2", "#D55E00", "#009E73")


class Drawn(NamedTuple):
    """The pictures of one view."""

    name: str
    xray: UInt8[ndarray, "H W"]
    drr: UInt8[ndarray, "H W"]
    start: UInt8[ndarray, "H W 3"]  # edges over the X-ray, at the pose that the search was given
    end: UInt8[ndarray, "H W 3"]  # at the pose that was found
    difference: UInt8[ndarray, "H W 3"]
    depth: float  # mm from the source to the bone's centre


def register_page(
    path: str | Path,
    record: dict,
    drawn: Sequence[Drawn],
    colours: dict[str, str],
    animation: bytes = b"",
    landscape: str = "",
    note: str = "",
) -> None:
    """Write the report of a registration as one HTML file that needs no network.

    `record` is fit.json; `colours` are those of the bone's parts; `animation` is a GIF; `landscape` the name
    of the landscape's page beside this one; `note` a remark in plain text on where image and bone come from.
    """
    parts = [
        _verdict(record, note),
        _facts(record),
        _images(record, drawn, colours),
        _search(record, animation, landscape),
        _pose(record),
        _limits(record, drawn),
        _details(record),
    ]
    views = len(record["views"])
    name = Path(str(record["bone"])).name
    write_page(
        path,
        f"{name} registered to {views} X-ray{'s' if views != 1 else ''}",
        "shapefit · report of a registration",
        "\n".join(part for part in parts if part),
        {},
        ["register.js"],
        ["register.css"],
        plotly=False,
    )


def _verdict(record: dict, note: str) -> str:
    reason = escape(record.get("reason") or "no reason given").rstrip(".")
    if record["converged"]:
        return verdict(True, f"<b>The bone was found:</b> {reason}", escape(note))
    return verdict(False, f"<b>The registration failed: {reason}.</b> Do not use its pose.", escape(note))


def _facts(record: dict) -> str:
    views = record["views"]
    items = [("X-rays", str(len(views)), "")]
    agreement = [view["terms"]["agreement"] for view in views if "agreement" in (view["terms"] or {})]
    if agreement:
        items.append(("correlation on the bone", number(sum(agreement) / len(agreement), 3), ""))
    if math.isfinite(loss := sum(view["loss"] for view in views) / len(views)):
        items.append(("loss", number(loss, 3), ""))
    turn, shift = moved(record)
    items += [("turned from the start by", number(turn, 1), "°"), ("moved by", number(shift, 1), "mm")]
    items.append(("time", number(float(record["seconds"]), 1), "s"))
    return facts(items)


def moved(record: dict) -> tuple[float, float]:
    """By how many degrees and mm the bone's centre was turned and moved from the start to the answer."""
    start, end = (torch.tensor(record[key], dtype=torch.float64) for key in ("start", "world_from_bone"))
    centre = torch.tensor([record["centre"]], dtype=torch.float64)
    turn = se3.rotation_angle((end @ se3.inverse(start))[:3, :3])
    return math.degrees(float(turn)), float(
        (se3.transform(end, centre) - se3.transform(start, centre)).norm()
    )


def _images(record: dict, drawn: Sequence[Drawn], colours: dict[str, str]) -> str:
    body = ""
    for view, entry in zip(drawn, record["views"], strict=True):
        terms = ", ".join(f"{escape(readable(k))} {v:.3f}" for k, v in (entry["terms"] or {}).items())
        camera = entry["camera"]
        loss = f"loss {entry['loss']:.3f}{f' ({terms})' if terms else ''}; "
        about = (
            f"<h3>{escape(view.name)}</h3><p class=note>{loss if math.isfinite(entry['loss']) else ''}"
            f"{camera['width']} &times; {camera['height']} px of "
            f"{camera['delx']:.4g} &times; {camera['dely']:.4g} mm, source to detector "
            f"{camera['sdd']:.4g} mm, source to bone {view.depth:.0f} mm</p>"
        )
        fade = (
            f'<div class="stack">{_image(view.xray, f"X-ray {view.name}")}'
            f"{_image(view.drr, 'X-ray of the bone at the pose found', 'over')}</div>"
        )
        start, end = (_image(image, f"edges of the bone at the {what}")
                      for image, what in ((view.start, "start"), (view.end, "end")))  # fmt: skip
        apart = _image(view.difference, "difference of X-ray and bone")
        figures = (
            (start, "<b>Start.</b> Edges of the bone at the pose given"),
            (end, "<b>End.</b> Edges at the pose found"),
            (fade, "<b>X-ray and bone.</b> The slider fades to the bone&rsquo;s own X-ray (DRR) as found"),
            (apart, "<b>Difference</b>, locally normalised" + _scale()),
        )
        body += about + '<div class="quad">'
        body += "".join(f"<figure>{image}<figcaption>{said}</figcaption></figure>" for image, said in figures)
        body += "</div>"
    swatches = "".join(_swatch(name, colour) for name, colour in colours.items())
    controls = (
        '<div class="controls"><label class="slider">X-ray<input type="range" id="fade" min="0" max="1" '
        'step="0.01" value="0.5" aria-label="fade from the X-ray to the bone">bone</label>'
        '<label><input type="checkbox" id="checks">checkerboard</label>'
        f"{swatches}</div>"
    )
    note = (
        "Images are shown as seen from the X-ray source, bone dark, contrast stretched. In the difference, "
        "red is where the X-ray is denser than the bone at this pose says and blue where it is less dense, "
        f"both less their mean and over their standard deviation in a window of {WINDOW:g} mm on the "
        f"detector; the colours end at {REACH:g}. Edges in pairs of red and blue are a bone out of place; "
        "soft tissue, gas and noise are not the bone&rsquo;s."
    )
    return section("On the images", controls + body, note)


def _swatch(name: str, colour: str) -> str:
    box = f'<span class="swatch" style="background:{colour}"></span>'
    return f'<span class="part">{box}{escape(readable(name))}</span>'


def _image(pixels: ndarray, what: str, css: str = "") -> str:
    data = base64.b64encode(webp(pixels)).decode("ascii")
    shown = f' class="{css}"' if css else ""
    return f'<img{shown} alt="{escape(what)}" src="data:image/webp;base64,{data}">'


def _scale() -> str:
    colours = ",".join(signed_steps(17))
    return (
        '<span class="scale"><span>bone denser</span><span class="bar" style="background:'
        f'linear-gradient(to right,{colours})"></span><span>X-ray denser</span></span>'
    )


def _search(record: dict, animation: bytes, landscape: str) -> str:
    history = [
        h for h in record.get("history") or [] if h.get("loss") is not None and math.isfinite(h["loss"])
    ]
    body = ""
    if animation:
        data = base64.b64encode(animation).decode("ascii")
        body += (
            f'<figure class="film"><img alt="the edges of the bone on the way to the answer" '
            f'src="data:image/gif;base64,{data}"><figcaption>The way of the best candidate, after the pose '
            "that was given. Below, its loss; stages are lines of their own.</figcaption></figure>"
        )
    if history:
        curves = []
        for n, stage in enumerate(dict.fromkeys(h["stage"] for h in history)):
            points = [(float(k), float(h["loss"])) for k, h in enumerate(history) if h["stage"] == stage]
            curves.append(Curve(stage, points, [], STAGE_COLOURS[n % len(STAGE_COLOURS)]))
        names = "".join(_swatch(curve.name, curve.colour) for curve in curves)
        body += (
            f"<figure>{chart(curves, 'step, all stages in a row', 'loss')}<figcaption>Loss along the search: "
            f"{names}<br>Finer images show more noise, so levels compare within a stage only."
            "</figcaption></figure>"
        )
    if landscape:
        body += (
            f'<p class="wide"><a href="{escape(landscape)}">The loss around the answer</a>: whether it is at '
            "the bottom, how wide its basin is, and whether there is another.</p>"
        )
    return section("How it was found", f'<div class="found">{body}</div>') if body else ""


def _pose(record: dict) -> str:
    if not record["converged"]:
        return ""
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{number(value, 6 if k < 3 else 3)}</td>" for k, value in enumerate(row))
        + "</tr>"
        for row in record["world_from_bone"]
    )
    return section(
        "The pose",
        f'<div class="scroll"><table class="matrix"><tbody>{rows}</tbody></table></div>',
        "world_from_bone: takes the bone&rsquo;s file (mm, RAS) into the world of the cameras. "
        "<code>pose.json</code> holds these numbers. <code>pose.tfm</code> is the same motion for 3D Slicer: "
        "applied to the CT or mesh there, it moves it to where the X-rays saw it. As every ITK file it "
        "stores the inverse, in LPS.",
    )


def _limits(record: dict, drawn: Sequence[Drawn]) -> str:
    items = []
    if len(drawn) == 1:
        depth, camera = drawn[0].depth, record["views"][0]["camera"]
        pixel = camera["delx"] * depth / camera["sdd"]
        width = pixel * camera["width"]
        items.append(
            "<strong>One view says little of depth.</strong> A shadow as wide as the image grows by one "
            f"pixel ({pixel:.2f} of {width:.0f} mm at the bone) when the bone comes "
            f"{depth * pixel / width:.1f} mm closer to the source: read the position along the beam with "
            "that in mind, or add a second view."
        )
    else:
        items.append(
            f"<strong>{len(drawn)} views fix the depth as well as their geometry is known.</strong> An error "
            "in the cameras&rsquo; places relative to one another becomes an error of the pose."
        )
    items += [
        "The bone is taken as rigid and unchanged: an implant, a fracture or another posture since the CT is "
        "seen as a difference, not corrected.",
        "A high correlation does not prove a pose; look at the edges, and for another basin in the landscape."
        if record["converged"]
        else "A wrong start is the commonest reason; look at its edges, and give a better one with --init.",
        "Research software; not a medical device.",
    ]
    return section(
        "What this cannot know",
        '<ul class="plain">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>",
    )


def _details(record: dict) -> str:
    lines = [("bone", record["bone"]), ("seed", record["seed"]), ("shapefit", record["package_version"])]
    body = facts([(name, escape(value), "") for name, value in lines])
    if record.get("command"):
        body += f"<h3>Command</h3><pre>{escape(record['command'])}</pre>"
    return section("Details", body)
