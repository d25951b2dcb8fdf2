"""The page of an evaluation: failures first, then figures over all cases and of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh

from shapefit.alignment import Alignment
from shapefit.metrics import ALIGNMENTS, ALL, tabulate
from shapefit.report.colours import DISTANCE_SCALE, structure_colours
from shapefit.report.figures import DEFINITIONS, FIGURES, cell, figure_title
from shapefit.report.page import (
    LOOK,
    choice,
    escape,
    facts,
    number,
    readable,
    section,
    structure_switches,
    verdict,
    write_page,
)
from shapefit.report.scene_mesh import error_map, lighten, pack_result

Surfaces = dict[str, trimesh.Trimesh]
IN_TABLE = ("assd", "hd95", "hausdorff", "volume_dice")
KINDS = [("absolute", "as found"), ("rigid", "rigid-aligned"), ("similarity", "similarity-aligned")]


def evaluation_page(
    path: str | Path,
    records: Sequence[dict],
    summary: dict | None = None,
    pairs: Sequence[tuple[Surfaces, Surfaces]] | None = None,
    title: str = "",
) -> None:
    """Write the report of an evaluation as one HTML file that needs no network.

    `records` come from `metrics.compare`, `summary` from `metrics.tabulate` (made here if absent); `pairs`
    are each record's (result, reference) in world mm: with them, the worst and the median case by ASSD as
    found are shown in space.
    """
    if not records:
        raise ValueError("an evaluation needs at least 1 case, got none")
    summary = summary or tabulate(records)
    names = list(dict.fromkeys(s for r in records for s in r["structures"]))
    colours = structure_colours(names)
    scenes = _scenes(records, pairs, colours) if pairs else []
    parts = [
        _verdict(records, summary),
        _facts(summary),
        _failures(records, summary),
        _summary(summary, colours),
        _cases(records, colours),
        _space(scenes, colours),
        _landmarks(records),
    ]
    write_page(
        path,
        title or f"{len(records)} case{'s' if len(records) != 1 else ''} against their references",
        "shapefit · report of an evaluation",
        "\n".join(part for part in parts if part),
        {
            "structures": [[s, readable(s), colours.get(s, "#3A3A3C")] for s in [*names, ALL]],
            "points": _points(records, [*names, ALL]),
            "scenes": scenes,
            "scale": list(DISTANCE_SCALE),
            "top": max([scene["top"] for scene in scenes], default=3.0),
        },
        ["evaluation.js"],
    )


def _failed_cases(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["failed"]]


def _verdict(records: Sequence[dict], summary: dict) -> str:
    failed = len(_failed_cases(records))
    if not failed:
        return verdict(True, f"<b>All {summary['cases']} cases were measured.</b>", "")
    return verdict(
        False,
        f"<b>{failed} of {summary['cases']} case{'s' if summary['cases'] != 1 else ''} failed.</b>",
        "Means and medians are over what could be measured; read them with the failures in mind.",
    )


def _facts(summary: dict) -> str:
    whole = {kind: summary["table"][kind].get(ALL, {}).get("assd", {}) for kind in ALIGNMENTS}
    items = [("cases", str(summary["cases"]), ""), ("failed structures", str(len(summary["failures"])), "")]
    for kind, name in KINDS:
        items.append((f"mean ASSD, {name}", number(whole[kind].get("mean")), "mm"))
    if whole["absolute"].get("worst_case"):
        worst = whole["absolute"]
        items.append(("worst ASSD, as found", number(worst["worst"]), f"mm, {worst['worst_case']}"))
    return facts(items)


def _failures(records: Sequence[dict], summary: dict) -> str:
    failed = _failed_cases(records)
    if not failed:
        return ""
    rows = ""
    for record in failed:
        own = [f for f in summary["failures"] if f["case"] == record["case"]]
        which = ", ".join(escape(readable(f["structure"])) for f in own) or "the case"
        rows += (
            f"<tr><td>{escape(record['case'])}</td><td class='text first'>{which}</td>"
            f"<td class='failed first'>{escape(record['failed'])}</td></tr>"
        )
    table = (
        "<table><thead><tr><th>case</th><th class='text first'>structures</th><th class='text first'>why</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
    return section("Failures", table)


def _summary(summary: dict, colours: Mapping[str, str]) -> str:
    groups = "".join(f'<th class="first" colspan="3">{figure_title(key)}</th>' for key in IN_TABLE)
    heads = '<th class="first">mean</th><th>median</th><th>worst</th>' * len(IN_TABLE)
    tables = ""
    for kind, _ in KINDS:
        rows = ""
        for name, figures in summary["table"][kind].items():
            cells = ""
            for key in IN_TABLE:
                spread, digits = figures.get(key, {}), FIGURES[key][2]
                case = spread.get("worst_case")
                title = f' title="{escape(case)}"' if case else ""
                cells += (
                    f'<td class="first">{number(spread.get("mean"), digits)}</td>'
                    f"<td>{number(spread.get('median'), digits)}</td>"
                    f"<td{title}>{number(spread.get('worst'), digits)}</td>"
                )
            counts = next(iter(figures.values()))
            note = f" <small>{counts['failed']} failed</small>" if counts["failed"] else ""
            css = ' class="total main"' if name == ALL else ""
            rows += f"<tr{css}><td>{_named(name, colours)}{note}</td>{cells}</tr>"
        tables += (
            f'<div class="scroll" data-kind="{kind}"><table><thead><tr class="group"><th></th>{groups}</tr>'
            f"<tr><th>structure</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    plots = (
        '<div class="pair"><figure><div class="plot" id="assd"></div><figcaption>ASSD, mm; one dot per case, '
        'the box from the lower to the upper quartile.</figcaption></figure><figure><div class="plot" '
        'id="hd95"></div><figcaption>HD95, mm; point at a dot for its case.</figcaption></figure></div>'
    )
    controls = f'<div class="controls">{choice("kind", KINDS, "absolute")}</div>'
    return section("Over all cases", controls + tables + plots, DEFINITIONS)


def _cases(records: Sequence[dict], colours: Mapping[str, str]) -> str:
    keys = [key for key in FIGURES if any(key in r["metrics"]["absolute"].get(ALL, {}) for r in records)]
    keys = keys or list(IN_TABLE)
    parts = [
        p for p in ("in_view", "out_of_view") if any(r["metrics"]["absolute"][ALL].get(p) for r in records)
    ]
    heads = "".join(f"<th>{figure_title(key)}</th>" for key in keys)
    heads += "".join(f"<th>ASSD <small>{readable(part)}, mm</small></th>" for part in parts)
    tables = ""
    for kind, _ in KINDS:
        rows = ""
        for record in records:
            for name in [*record["structures"], ALL]:
                figures = record["metrics"][kind][name]
                if figures["failed"]:
                    width = len(keys) + len(parts)
                    cells = f'<td class="failed" colspan="{width}">{escape(figures["failed"])}</td>'
                else:
                    cells = "".join(cell(figures, key) for key in keys)
                    cells += "".join(cell(figures.get(part) or {}, "assd") for part in parts)
                css = ' class="main"' if name == ALL else ""
                rows += (
                    f"<tr{css}><td>{escape(record['case'])}</td>"
                    f'<td class="text">{_named(name, colours)}</td>{cells}</tr>'
                )
        tables += (
            f'<div class="scroll" data-kind="{kind}"><table class="wide" data-sortable><thead><tr>'
            f'<th>case</th><th class="text">structure</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
            "</div>"
        )
    controls = f'<div class="controls">{choice("kind", KINDS, "absolute")}</div>'
    return section(
        "Case by case", controls + tables, "Choose the head of a column to sort by it; failures stay first."
    )


def _named(name: str, colours: Mapping[str, str]) -> str:
    swatch = f'<span class="swatch" style="background:{colours[name]}"></span>' if name in colours else ""
    return swatch + escape("all together" if name == ALL else readable(name))


def _scenes(
    records: Sequence[dict], pairs: Sequence[tuple[Surfaces, Surfaces]], colours: dict[str, str]
) -> list[dict]:
    """The median and the worst case by ASSD of all structures, packed with their error maps."""
    ranked = sorted(
        (r["metrics"]["absolute"][ALL]["assd"], n)
        for n, r in enumerate(records)
        if not r["metrics"]["absolute"][ALL]["failed"]
    )
    if not ranked:
        return []
    chosen = [("median", *ranked[(len(ranked) - 1) // 2])] + (
        [("worst", *ranked[-1])] if len(ranked) > 1 else []
    )
    scenes = []
    for which, assd, n in chosen:
        result, reference = pairs[n]
        light = lighten({s: result[s] for s in records[n]["structures"]})
        distances = error_map(light, reference, {"absolute": Alignment(np.eye(4), "none")})
        scenes.append(
            {
                "which": which,
                "case": records[n]["case"],
                "assd": assd,
                "top": max(3.0, records[n]["metrics"]["absolute"][ALL]["hd95"]),
                "meshes": pack_result(light, colours, distances=distances),
            }
        )
    return scenes


def _space(scenes: Sequence[dict], colours: dict[str, str]) -> str:
    if not scenes:
        return ""
    figures = "".join(
        f'<figure><div class="scene" id="scene{n}" data-together="a"></div><figcaption>'
        f"<b>{escape(s['case'])}</b>, the {s['which']} case: ASSD {number(s['assd'])} mm as found"
        "</figcaption></figure>"
        for n, s in enumerate(scenes)
    )
    return section(
        "In space",
        f'<div class="controls">{LOOK}{structure_switches(colours)}</div>'
        f'<div class="scenes{" one" if len(scenes) == 1 else ""}">{figures}</div>',
        "Distance of each result from its reference, as found. One colour scale for both; drag to turn.",
    )


def _landmarks(records: Sequence[dict]) -> str:
    errors: dict[str, list[float]] = {}
    for record in records:
        for name, entry in (record.get("landmarks") or {}).items():
            errors.setdefault(name, [])
            if not entry["failed"]:
                errors[name].append(entry["distance"])
    if not errors:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{number(float(np.mean(d)) if d else None, 1)}</td>"
        f"<td>{number(max(d) if d else None, 1)}</td><td>{len(d)}</td></tr>"
        for name, d in errors.items()
    )
    head = "<th>landmark</th><th>mean <small>mm</small></th><th>worst <small>mm</small></th><th>cases</th>"
    return section(
        "Landmarks",
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>",
        "Distance of each landmark from the mean of its reference readings, as found.",
    )


def _points(records: Sequence[dict], names: Sequence[str]) -> dict:
    """{alignment: {figure: {structure: [[case, value], ...]}}} for the dots."""
    points: dict = {}
    for kind in ALIGNMENTS:
        points[kind] = {}
        for key in ("assd", "hd95"):
            points[kind][key] = {
                name: [
                    [r["case"], r["metrics"][kind][name][key]]
                    for r in records
                    if name in r["metrics"][kind] and not r["metrics"][kind][name]["failed"]
                ]
                for name in names
            }
    return points
