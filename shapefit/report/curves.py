"""Curves with bands as SVG: sharp on screen and paper, a few kilobytes, no script."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from shapefit.report.page import escape

WIDTH, HEIGHT = 350, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 42


class Curve(NamedTuple):
    """Points (x, y) in order of x, and where known the low and the high end of the band around each."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]]
    colour: str


def chart(curves: Sequence[Curve], across: str, up: str) -> str:
    """The curves over common axes that begin at zero; each point tells its values on hovering.

    `across` and `up` name the axes, with units. Raises ValueError without points or for a band of another
    length than its curve.
    """
    for curve in curves:
        if curve.band and len(curve.band) != len(curve.points):
            raise ValueError(
                f"the band of {curve.name} has {len(curve.band)} entries for {len(curve.points)} points"
            )
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + [high for c in curves for _, high in c.band]
    if not xs:
        raise ValueError("a chart needs at least 1 point, got none")
    ticks_x, ticks_y = ticks(float(max(xs)), whole=True), ticks(float(max(ys)))
    right, top = max(max(xs), 1), max(max(ys), ticks_y[-1])

    def at(point: tuple[float, float]) -> str:
        x, y = point
        return (
            f"{LEFT + x / right * (WIDTH - LEFT - RIGHT):.1f} "
            f"{HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM):.1f}"
        )

    drawn = ""
    for tick in ticks_y:
        height = at((0.0, tick)).split()[1]
        drawn += f'<path class="rule" d="M{LEFT} {height}H{WIDTH - RIGHT}"/>'
        drawn += f'<text x="{LEFT - 7}" y="{float(height) + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in ticks_x:
        place = at((tick, 0.0)).split()[0]
        drawn += f'<path class="axis" d="M{place} {HEIGHT - BOTTOM}v4"/>'
        drawn += f'<text x="{place}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>'
    drawn += f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn += f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>'
    drawn += (
        f'<text transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>"
    )
    for curve in curves:
        if curve.band:
            there = [at((x, high)) for (x, _), (_, high) in zip(curve.points, curve.band, strict=True)]
            back = [at((x, low)) for (x, _), (low, _) in zip(curve.points, curve.band, strict=True)]
            outline = "M" + "L".join(there + back[::-1]) + "Z"
            drawn += f'<path d="{outline}" fill="{curve.colour}" fill-opacity="0.16"/>'
    for curve in curves:
        line = "L".join(at((x, y)) for x, y in curve.points)
        drawn += f'<path d="M{line}" fill="none" stroke="{curve.colour}" stroke-width="1.6"/>'
        for n, (x, y) in enumerate(curve.points):
            cx, cy = at((x, y)).split()
            words = f"{curve.name}: {y:.3g} at {x:g}"
            if curve.band:
                words += f" (95 % between {curve.band[n][0]:.3g} and {curve.band[n][1]:.3g})"
            drawn += (
                f'<circle cx="{cx}" cy="{cy}" r="2.2" fill="{curve.colour}"/><circle cx="{cx}" cy="{cy}" '
                f'r="8" fill="transparent"><title>{escape(words)}</title></circle>'
            )
    names = escape("; ".join(curve.name for curve in curves))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{names} over {escape(across)}">{drawn}</svg>'
    )


def ticks(largest: float, whole: bool = False, about: int = 5) -> list[float]:
    """Round numbers from 0 to the first at or beyond `largest`; within it, and whole, if `whole`."""
    if not largest > 0:
        return [0.0, 1.0]
    rough = largest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, float(round(step))) if whole else step
    count = math.floor(largest / step + 1e-9) if whole else math.ceil(largest / step - 1e-9)
    return [round(n * step, 10) for n in range(count + 1)]
