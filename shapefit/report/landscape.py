"""The page of a loss landscape: is the answer at the bottom, how wide is its basin, is there another."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from shapefit.fit.landscape import FREEDOMS, Basin, Landscape, basin, offsets_of
from shapefit.report.colours import DISTANCE_SCALE, even_steps
from shapefit.report.page import escape, facts, number, section, verdict, write_page

TITLES = {
    "rx": ("tilt", "about the image's horizontal axis", "°"),
    "ry": ("turn", "about the image's vertical axis", "°"),
    "rz": ("rotation in the image", "about the beam", "°"),
    "tx": ("shift to the right", "along the image's columns", "mm"),
    "ty": ("shift downwards", "along the image's rows", "mm"),
    "tz": ("depth", "away from the source", "mm"),
}
BOTTOM = 0.05  # share of a basin's rise by which the answer may lie above the slice's minimum


def landscape_page(
    path: str | Path,
    landscape: Landscape,
    start: Float64[Tensor, "4 4"],
    descent: Float64[Tensor, "B 4 4"],
    pixels: int,
    views: Sequence[str] = (),
    bone: str = "",
) -> None:
    """Write the slices of a loss around the answer of a registration as one HTML file that needs no network.

    `start` and `descent` are poses world_from_bone: the one that the search was given, and the way that its
    best candidate took. `pixels` is the longer side of the compared images, `views` are their names.
    """
    basins = {line.axis: basin(line.offsets, line.losses) for line in landscape.lines}
    place = (landscape.answer, landscape.centre, landscape.axes)
    way = offsets_of(torch.cat([start[None], descent]), *place)
    first, way_on = way[0].tolist(), way[1:].tolist()
    every = [loss for line in landscape.lines for loss in line.losses]
    every += [loss for plane in landscape.planes for row in plane.losses for loss in row]
    low, high = min(every), max(every)
    scale = even_steps(DISTANCE_SCALE, 17)
    names = f" of {escape(bone)}" if bone else ""
    parts = [
        _verdict(landscape, basins),
        facts(_widths(basins)),
        section("Along each degree of freedom", _plots("line", FREEDOMS), _lines_note(pixels, views)),
        section(
            "Over two of them",
            _plots("plane", [f"{a}-{b}" for plane in landscape.planes for a, b in [plane.axes]])
            + _legend(scale, low, high),
            "Dark is a high loss, pale a low one. The cross is the answer; the ring is where the search was "
            "told to begin, and the line the way of its best candidate. Its other four degrees of freedom "
            "were not at the answer on the way, so that it need not follow the slope that is drawn.",
        ),
        section("In figures", _table(basins)),
    ]
    write_page(
        path,
        f"The loss around the pose{names}",
        "shapefit · loss landscape of a registration",
        "\n".join(parts),
        {
            "lines": [
                {
                    "axis": line.axis,
                    "title": TITLES[line.axis][0],
                    "unit": TITLES[line.axis][2],
                    "x": _short(line.offsets),
                    "y": _short(line.losses),
                    "basin": [basins[line.axis].low, basins[line.axis].high],
                    "at": basins[line.axis].at,
                    "start": first[k],
                    "way": _short([step[k] for step in way_on]),
                }
                for k, line in enumerate(landscape.lines)
            ],
            "planes": [
                {
                    "axes": list(plane.axes),
                    "titles": [f"{TITLES[axis][0]}, {TITLES[axis][2]}" for axis in plane.axes],
                    "units": [TITLES[axis][2] for axis in plane.axes],
                    "x": _short(plane.across),
                    "y": _short(plane.along),
                    "z": [_short(row) for row in plane.losses],
                    "start": [first[FREEDOMS.index(axis)] for axis in plane.axes],
                    "way": [_short([step[FREEDOMS.index(axis)] for axis in plane.axes]) for step in way_on],
                }
                for plane in landscape.planes
            ],
            "scale": scale,
            "range": [low, high],
            "loss": landscape.loss,
        },
        ["landscape.js"],
        ["landscape.css"],
    )


def at_bottom(landscape: Landscape, basins: dict[str, Basin]) -> dict[str, float]:
    """Degrees of freedom along which the loss falls beside the answer, and by how much.

    Falls of less than 5 % of the basin's rise do not count: the slices are coarser than the fit.
    """
    found = {}
    for line in landscape.lines:
        lowest = min(line.losses)
        rise = max(basins[line.axis].rise, 1e-12)
        if landscape.loss - lowest > BOTTOM * rise:
            found[line.axis] = landscape.loss - lowest
    return found


def _verdict(landscape: Landscape, basins: dict[str, Basin]) -> str:
    beside = at_bottom(landscape, basins)
    turn = max(abs(basins[axis].at) for axis in FREEDOMS[:3])
    shift = max(abs(basins[axis].at) for axis in FREEDOMS[3:])
    others = [
        f"{TITLES[axis][0]} at {number(place, 0)} {TITLES[axis][2]} (loss {number(above, 3)} above)"
        for axis in FREEDOMS
        for place, above in basins[axis].others[:1]
        if above < basins[axis].rise / 2
    ]
    second = (
        f"Further minima along single degrees of freedom: {'; '.join(others)}."
        if others
        else "No slice has a second minimum less than half as high as its basin."
    )
    if not beside:
        return verdict(
            True,
            f"<b>The answer is at the bottom.</b> Along each degree of freedom the lowest loss lies within "
            f"{turn:.1f}° and {shift:.1f} mm of it.",
            second,
        )
    told = "; ".join(
        f"along {what} by {number(beside[axis], 3)} at {number(_lowest(landscape, axis), 1)} {unit}"
        for axis, (what, _, unit) in TITLES.items()
        if axis in beside
    )
    return verdict(False, f"<b>The loss is lower beside the answer:</b> {told}.", second)


def _lowest(landscape: Landscape, axis: str) -> float:
    line = landscape.lines[FREEDOMS.index(axis)]
    return line.offsets[min(range(len(line.losses)), key=line.losses.__getitem__)]


def _widths(basins: dict[str, Basin]) -> list[tuple[str, str, str]]:
    """Width of each basin; one that goes on beyond the slice is at least that."""
    items = []
    for axis in FREEDOMS:
        found = basins[axis]
        more = "&ge; " if any(found.open) else ""
        items.append(
            (f"basin, {TITLES[axis][0]}", f"{more}{number(found.high - found.low, 0)}", TITLES[axis][2])
        )
    return items


def _plots(kind: str, names: Sequence[str]) -> str:
    figures = ""
    for name in names:
        title = ""
        if kind == "line":
            what, how, _ = TITLES[name]
            title = f"<figcaption><b>{escape(what)}</b> {escape(how)}</figcaption>"
        figures += f'<figure>{title}<div class="slice {kind}" id="{kind}-{name}"></div></figure>'
    return f'<div class="slices">{figures}</div>'


def _lines_note(pixels: int, views: Sequence[str]) -> str:
    count = f"{len(views)} views together" if len(views) > 1 else "one view"
    return (
        f"The loss of {count}, on images of {pixels} px, the other five degrees of freedom at the answer. "
        "Rotations go about the bone&rsquo;s centre; axes are those of the first view. Shaded: the basin, "
        "within which the loss rises steadily to both sides (it may fall again by 3 % of the slice&rsquo;s "
        "rise). At the foot: a ring where the search was told to begin, dots along its way to the answer."
    )


def _legend(scale: Sequence[str], low: float, high: float) -> str:
    return (
        f'<div class="scale"><span>{number(low, 2)}</span>'
        f'<span class="bar" style="background:linear-gradient(to right,{",".join(scale)})"></span>'
        f"<span>{number(high, 2)}</span><span>loss</span></div>"
    )


def _table(basins: dict[str, Basin]) -> str:
    rows = ""
    for axis in FREEDOMS:
        found, (what, _, unit) = basins[axis], TITLES[axis]
        ends = [
            f"{'&le; ' if n == 0 and is_open else '&ge; ' if is_open else ''}{number(end, 1)}"
            for n, (end, is_open) in enumerate(zip((found.low, found.high), found.open, strict=True))
        ]
        other = found.others[0] if found.others else (None, None)
        cells = (number(found.at, 2), *ends, number(found.rise, 3), number(other[0], 1), number(other[1], 3))
        rows += f"<tr><td>{escape(what)} <small>{unit}</small></td>"
        rows += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    heads = ("minimum at", "basin from", "to", "rise of the loss", "next minimum at", "its loss above")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return (
        f'<div class="scroll"><table><thead><tr><th>from the answer</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">The minimum is that of the parabola through the lowest sample and its neighbours. '
        "&ge; and &le;: the slice ends before the basin does. Rise: at the lower of the basin&rsquo;s ends."
        "</p>"
    )


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
