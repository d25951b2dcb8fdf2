"""The wall: a picture of every segmentation side by side, with what is wrong with it."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapefit.anatomy import WORDS
from shapefit.inspection import CaseFindings, StructureFindings
from shapefit.inspection_flags import KINDS, Flag, severity
from shapefit.report.page import choice, escape, facts, number, readable, section, verdict, write_page
from shapefit.report.thumbnail import ALERT, Thumbnail

_TILE = (224.0, 184.0)  # pixels on the screen that most cases fit into at the common scale
_BAR = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # mm, lengths of the scale bar
_PAPER = 22  # pixels of the scale bar, at least


class Looked(NamedTuple):
    """One case as it was looked at."""

    name: str
    path: str
    findings: CaseFindings | None  # None: it could not be read ...
    error: str  # ... and why
    front: Thumbnail | None  # None where there is nothing to see
    side: Thumbnail | None
    seconds: float


def inspection_page(
    path: str | Path,
    cases: Sequence[Looked],
    flags: Mapping[str, Sequence[Flag]],
    colours: Mapping[str, str],
    command: str = "",
    labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Write the wall as one HTML file that needs no network; `flags` by the name of the case.

    Pictures have one scale; cases come in the order of harm. `labels` is what the command line was told, for
    the command that the page proposes.
    """
    ordered = sorted(cases, key=lambda case: (severity(flags[case.name]), case.name))
    scale = _scale(cases)
    tiles = "".join(_tile(case, flags[case.name], rank, scale) for rank, case in enumerate(ordered))
    bar = max((length for length in _BAR if length * scale <= 3 * _PAPER), default=_BAR[0])
    wall = (
        f'<div class="wall" id="wall" style="--mm:{scale:.5f}px" data-mm="{scale:.5f}">{tiles}</div>'
        '<p class="note" id="none" hidden>No case has these flags.</p>'
    )
    flagged = sum(bool(flags[case.name]) for case in cases)
    parts = [
        _verdict(cases, flags),
        _facts(cases, flagged),
        section("The cases", _controls(cases, flags, colours, bar, scale) + wall, _NOTE, "cases"),
        section("What goes into a model", _chosen(labels), _CHOSEN),
        section("The flags", _legend(flags), name="flags"),
        f"<footer><pre>{escape(command)}</pre></footer>" if command else "",
        '<dialog id="closer"></dialog>',
    ]
    data = {
        "cases": [_data(case, flags[case.name]) for case in ordered],
        "labels": list(labels),
        "kinds": KINDS,
    }
    many = f"{len(cases)} segmentation{'s' if len(cases) != 1 else ''}"
    write_page(
        path, title or many, "shapefit · segmentations before they go into a model",
        "\n".join(part for part in parts if part), data, ["inspect.js"], ["inspect.css"], plotly=False,
    )  # fmt: skip


_NOTE = (
    "Seen from the front, the patient's right on the left; the pointer shows the left side. All have one "
    "scale. "
    f'Pieces that stand apart are <span class="swatch" style="background:{ALERT}"></span> red. '
    "A click shows more."
)
_CHOSEN = "The cases without a flag are ticked. The command follows the ticks under the pictures."


def summary(cases: Sequence[Looked], flags: Mapping[str, Sequence[Flag]]) -> str:
    """ "22 cases: 14 without a flag, 8 flagged (2 cropped, 1 islands, ...), 1 of them unreadable"."""
    counts = Counter(kind for case in cases for kind in {flag.kind for flag in flags[case.name]})
    flagged = sum(bool(flags[case.name]) for case in cases)
    listed = ", ".join(f"{counts[kind]} {KINDS[kind]}" for kind in KINDS if counts[kind])
    broken = sum(case.findings is None for case in cases)
    text = f"{len(cases)} case{'s' if len(cases) != 1 else ''}: {flagged} flagged"
    return text + (f" ({listed})" if listed else "") + f", {broken} unreadable"


def _scale(cases: Sequence[Looked]) -> float:
    """Pixels per mm at which nine of ten cases fit into a tile."""
    sizes = [(c.front.width, c.side.width, c.front.height) for c in cases if c.front and c.side]
    if not sizes:
        return 1.0
    across, aside, up = np.percentile(np.array(sizes), 90, axis=0)
    return float(min(_TILE[0] / max(across, aside), _TILE[1] / up))


def _tile(case: Looked, flags: Sequence[Flag], rank: int, scale: float) -> str:
    kinds = [kind for kind in KINDS if any(flag.kind == kind for flag in flags)]
    chips = "".join(
        f'<span class="chip" data-kind="{kind}" title="{escape(_reasons(flags, kind))}">{KINDS[kind]}</span>'
        for kind in kinds
    )
    volume = sum(s.volume for s in case.findings.structures.values()) if case.findings else 0.0
    name = escape(case.name)
    ticked = "" if flags else " checked"
    return (
        f'<figure class="tile{" flagged" if flags else ""}" data-rank="{rank}" data-name="{name}" '
        f'data-kinds="{" ".join(kinds)}" data-volume="{volume:.0f}">'
        f'<button type="button" class="shot" aria-label="{name} in large">{_shot(case, scale)}</button>'
        f'<figcaption><label><input type="checkbox" data-use="{rank}"{ticked}> <b>{name}</b></label>'
        f'<span class="chips">{chips}</span></figcaption></figure>'
    )


def _shot(case: Looked, scale: float) -> str:
    if case.front is None or case.side is None:
        return (
            f'<span class="nothing">{escape(case.error or "nothing of what was asked for is in it")}</span>'
        )
    largest = max(case.front.width, case.side.width) * scale / _TILE[0], case.front.height * scale / _TILE[1]
    shrink = 1.0 if max(largest) <= 1.08 else 1.0 / max(largest)
    note = f'<span class="shrunk">drawn at {shrink:.2g} of the scale</span>' if shrink < 1 else ""
    return (
        "".join(
            f'<img class="{kind}" alt="{escape(case.name)} from the {kind}" src="{_url(picture)}" '
            f'decoding="async" style="--w:{picture.width * shrink:.1f};--h:{picture.height * shrink:.1f}">'
            for kind, picture in (("front", case.front), ("side", case.side))
        )
        + note
    )


def _controls(
    cases: Sequence[Looked],
    flags: Mapping[str, Sequence[Flag]],
    colours: Mapping[str, str],
    bar: int,
    scale: float,
) -> str:
    counts = Counter(kind for case in cases for kind in {flag.kind for flag in flags[case.name]})
    flagged = sum(bool(flags[case.name]) for case in cases)
    buttons = [
        ("", "all", len(cases)),
        ("flagged", "flagged", flagged),
        ("clean", "no flag", len(cases) - flagged),
    ]
    buttons += [(kind, KINDS[kind], counts[kind]) for kind in KINDS if counts[kind]]
    filters = "".join(
        f'<button type="button" class="filter{" chip" if kind in KINDS else ""}" data-filter="{kind}" '
        f'aria-pressed="{str(not kind).lower()}">{text} <small>{count}</small></button>'
        for kind, text, count in buttons
    )
    order = choice("order", [("rank", "Worst first"), ("name", "Name"), ("volume", "Volume")], "rank")
    view = choice("view", [("front", "Front"), ("side", "Side")], "front")
    shown = [name for name in colours if any(c.findings and name in c.findings.structures for c in cases)]
    swatches = "".join(
        f'<span><i class="swatch" style="background:{colours[name]}"></i> {escape(readable(name))}</span>'
        for name in shown[:8]
    )
    more = f"<span>and {len(shown) - 8} more</span>" if len(shown) > 8 else ""
    return (
        f'<div class="controls filters">{filters}</div><div class="controls">{order}{view}'
        '<label class="slider">size '
        '<input type="range" id="zoom" min="0.5" max="2.5" step="0.05" value="1"></label>'
        '<label>name <input type="search" id="search" placeholder="any"></label></div>'
        f'<div class="controls legend">{swatches}{more}<span class="bar" data-bar="{bar}" '
        f'style="--w:{bar};--mm:{scale:.5f}px"><i></i>{bar} mm</span></div>'
    )


def _verdict(cases: Sequence[Looked], flags: Mapping[str, Sequence[Flag]]) -> str:
    flagged = [case for case in cases if flags[case.name]]
    if not flagged:
        return verdict(True, f"<b>Nothing was found</b> in {len(cases)} cases.", "Look at them all the same.")
    counts = Counter(kind for case in cases for kind in {flag.kind for flag in flags[case.name]})
    listed = ", ".join(f"{counts[kind]} {KINDS[kind]}" for kind in KINDS if counts[kind])
    return verdict(
        False,
        f"<b>{len(flagged)} of {len(cases)} cases</b> must be looked at before they go into a model.",
        escape(listed),
    )


def _facts(cases: Sequence[Looked], flagged: int) -> str:
    read = [case.findings for case in cases if case.findings]
    spacings = [max(found.grid.spacing) for found in read if found.grid]
    items = [
        ("cases", str(len(cases)), ""),
        ("without a flag", str(len(cases) - flagged), ""),
        ("unreadable", str(len(cases) - len(read)), ""),
        ("structures", str(len({name for found in read for name in found.structures})), ""),
    ]
    if spacings:
        items.append(("longest edge of a voxel", f"{min(spacings):.2g} to {max(spacings):.2g}", "mm"))
    return facts(items)


def _chosen(labels: Sequence[str]) -> str:
    return (
        '<div class="controls"><button type="button" class="plain" id="tick">tick all without a flag</button>'
        '<button type="button" class="plain" id="tickall">tick all</button>'
        '<button type="button" class="plain" id="copy">copy</button><span id="ticked"></span></div>'
        '<pre id="command"></pre>'
    )


def _legend(flags: Mapping[str, Sequence[Flag]]) -> str:
    """Every flag as a table, for paper and for those who search a page."""
    rows = "".join(
        f'<tr><td>{escape(case)}</td><td class="text">'
        f'<span class="chip" data-kind="{flag.kind}">{KINDS[flag.kind]}</span></td>'
        f'<td class="text">{escape(flag.reason)}</td><td>{_value(flag.value)}</td>'
        f'<td>{_value(flag.threshold)}</td><td class="text">{escape(flag.unit)}</td></tr>'
        for case, found in sorted(flags.items(), key=lambda item: (severity(item[1]), item[0]))
        for flag in found
    )
    if not rows:
        return '<p class="note">There are none.</p>'
    head = '<th>case</th><th class="text">flag</th><th class="text">why</th><th>found</th><th>let pass</th>'
    return (
        f'<div class="scroll"><table class="wide"><thead><tr>{head}<th class="text">unit</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _value(value: float | int | None) -> str:
    whole = value is None or abs(value) >= 100 or value == int(value)
    return number(None if value is None else float(value), 0 if whole else 1)


def _reasons(flags: Sequence[Flag], kind: str) -> str:
    return "; ".join(flag.reason for flag in flags if flag.kind == kind)


def _data(case: Looked, flags: Sequence[Flag]) -> dict:
    found = case.findings
    return {
        "name": case.name,
        "path": case.path,
        "error": case.error,
        "flags": [[flag.kind, flag.reason] for flag in flags],
        "structures": [_row(name, s) for name, s in found.structures.items()] if found else [],
        "missing": list(found.missing) if found else [],
        "grid": _grid(found) if found else "",
    }


def _row(name: str, found: StructureFindings) -> list:
    cut = ", ".join(f"{WORDS[side]} {area:.0f}" for side, area in found.border.items() if area >= 1)
    size = " x ".join(f"{b - a:.0f}" for a, b in zip(found.low, found.high, strict=True))
    islands = ", ".join(f"{size:.0f}" for size in found.islands[:3])
    tunnels = "" if found.tunnels is None else str(found.tunnels)
    cavities = f"{sum(found.cavities):.0f}"
    edges = str(found.open_edges)
    return [readable(name), f"{found.volume / 1000:.1f}", size, tunnels, islands, cavities, cut, edges]


def _grid(found: CaseFindings) -> str:
    if found.grid is None:
        return "meshes"
    shape = " x ".join(map(str, found.grid.shape))
    return f"{shape} voxels of {' x '.join(f'{edge:.3g}' for edge in found.grid.spacing)} mm"


def _url(picture: Thumbnail) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture.data).decode("ascii")
