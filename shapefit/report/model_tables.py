"""Figures of a shape model's card as curves and tables in HTML."""

from collections.abc import Mapping, Sequence

import numpy as np

from shapefit.report.colours import PALETTE
from shapefit.report.curves import Curve, chart
from shapefit.report.figures import cell
from shapefit.report.page import escape, number, readable, section

INK, BLUE = "#1c1c1e", "#0072B2"
DEFINITIONS = {
    "compactness": "Compactness: share of the variance that the first modes hold.",
    "generalisation": "Generalisation: how far a shape that was left out lies from its best reconstruction.",
    "specificity": "Specificity: how far random shapes, drawn with the model&rsquo;s own variances, lie from "
    "the nearest training shape.",
}
KINDS = {"surface": (INK, "between surfaces"), "vertex": (BLUE, "vertex to vertex")}


def quality_curves(card: Mapping) -> dict[str, list[Curve]]:
    """The curves that a card holds, with their bands, by the names of `DEFINITIONS`."""
    found: dict[str, list[Curve]] = {}
    if shares := card.get("compactness"):
        points = [(0.0, 0.0)] + [(n + 1.0, float(v)) for n, v in enumerate(shares)]
        band = card.get("compactness_band") or []
        around = [(0.0, 0.0)] + [(float(low), float(high)) for low, high in band] if band else []
        found["compactness"] = [Curve("compactness", points, around, INK)]
    for name in ("generalisation", "specificity"):
        entry = card.get(name) or {}
        for kind, (colour, words) in KINDS.items():
            if kind in entry:
                points = [(float(m), float(v)) for m, v in zip(entry["modes"], entry[kind], strict=True)]
                band = [(float(a), float(b)) for a, b in (entry.get("band") or {}).get(kind, [])]
                found.setdefault(name, []).append(Curve(f"{name} {words}", points, band, colour))
    return found


def quality(card: Mapping) -> str:
    """Compactness, generalisation and specificity over the number of modes, drawn and as a table."""
    found = quality_curves(card)
    if not found:
        return ""
    plots = ""
    for name, curves in found.items():
        text = DEFINITIONS[name]
        if len(curves) > 1:
            text += " Black between surfaces, blue vertex to vertex."
        elif name != "compactness":
            text += f" {curves[0].name.removeprefix(name).strip().capitalize()}."
        up = "share of the variance" if name == "compactness" else "mm"
        plots += f"<figure>{chart(curves, 'modes', up)}<figcaption>{text}</figcaption></figure>"
    note = ""
    if enough := card.get("modes_for_90_percent"):
        note = f"The first {enough} modes hold 90 % of the variance. "
    if any(curve.band for curves in found.values() for curve in curves):
        note += "Bands: 95 % of bootstrap repetitions over the training cases."
    return section("How good it is", f'<div class="views">{plots}</div>{_table_of(found)}', note)


def _table_of(found: Mapping[str, Sequence[Curve]]) -> str:
    counts = sorted(
        {m for name, cs in found.items() if name != "compactness" for c in cs for m, _ in c.points}
    )
    if not counts:
        return ""
    curves = [(curve, 3 if name == "compactness" else 2) for name, cs in found.items() for curve in cs]
    heads = "".join(
        f"<th>{escape(c.name)}{'' if c.name == 'compactness' else ' <small>mm</small>'}</th>"
        for c, _ in curves
    )
    body = ""
    for count in counts:
        body += f"<tr><td>{count:g}</td>"
        for curve, digits in curves:
            values = dict(curve.points)
            body += f"<td>{number(values.get(count), digits)}"
            if curve.band and count in values:
                low, high = dict(zip([m for m, _ in curve.points], curve.band, strict=True))[count]
                if low < high:
                    body += f" <small>{number(low, digits)} to {number(high, digits)}</small>"
            body += "</td>"
        body += "</tr>"
    return (
        f'<div class="scroll"><table><thead><tr><th>modes</th>{heads}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def leave_one_out(card: Mapping) -> str:
    table = card.get("leave_one_out") or {}
    rows = table.get("cases") or []
    if not rows:
        return ""
    figures = ("assd", "hd95", "hausdorff")
    bones = list(rows[0].get("structures", {}))
    body = ""
    for row in rows:
        body += f"<tr><td>{escape(row['case'])}</td>" + "".join(cell(row, key) for key in figures)
        body += "".join(cell(row["mean_shape"], key, "first" if key == "assd" else "") for key in figures)
        body += "".join(cell(row["structures"][b], "assd", "first" if b == bones[0] else "") for b in bones)
        body += "</tr>"
    mean, base = table.get("mean") or {}, table.get("mean_shape") or {}
    per_bone = [{"assd": float(np.mean([r["structures"][b]["assd"] for r in rows]))} for b in bones]
    body += '<tr class="total main"><td>mean</td>' + "".join(cell(mean, key) for key in figures)
    body += "".join(cell(base, key, "first" if key == "assd" else "") for key in figures)
    body += "".join(cell(value, "assd", "" if n else "first") for n, value in enumerate(per_bone)) + "</tr>"
    heads = "<th>ASSD</th><th>HD95</th><th>HD</th>"
    again = heads.replace("<th>", '<th class="first">', 1)
    named = "".join(
        f"<th{'' if n else ' class=first'}>{escape(readable(bone))}</th>" for n, bone in enumerate(bones)
    )
    head = (
        '<tr class="group"><th></th><th colspan="3">fitted, mm</th>'
        '<th class="first" colspan="3">mean shape, mm</th>'
        f'<th class="first" colspan="{len(bones)}">ASSD of each bone, fitted, mm</th></tr>'
        f"<tr><th>case</th>{heads}{again}{named}</tr>"
    )
    note = (
        "Each case fitted in 3D by the model of the others: the best that this model can say of a new bone."
    )
    if table.get("note"):
        note += f" {escape(table['note'][:1].upper() + table['note'][1:])}."
    return section(
        "Leave one out",
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>',
        note,
    )


QUESTIONS = {
    "prior": "before anything is seen",
    "landmarks": "its landmarks seen",
    "structure": "one structure seen, of the others",
}


def calibration(card: Mapping) -> str:
    """Whether the bands that the model states hold, of cases left out, the share that they promise."""
    entry = card.get("calibration") or {}
    levels = [100 * float(level) for level in entry.get("levels", [])]
    asked = {key: item for key, item in entry.items() if isinstance(item, Mapping) and "inside" in item}
    if not levels or not asked:
        return section("Calibration", entries(entry), name="calibration") if entry else ""
    curves = [Curve("as promised", [(0.0, 0.0), (100.0, 100.0)], [], "#c9c8c4")]
    body = ""
    for (question, item), colour in zip(asked.items(), PALETTE, strict=False):
        words = QUESTIONS.get(question, readable(question))
        inside = [100 * float(share) for share in item["inside"]]
        curves.append(Curve(words, list(zip(levels, inside, strict=True)), [], colour))
        body += f'<tr><td><span class="swatch" style="background:{colour}"></span>{escape(words)}</td>'
        for n, share in enumerate(inside):
            cases = [100 * float(row[n]) for row in item.get("cases", [])]
            spread = f" <small>{min(cases):.0f} to {max(cases):.0f}</small>" if cases else ""
            body += f"<td>{number(share, 1)}{spread}</td>"
        body += f"<td>{number(item.get('error'))}</td></tr>"
    heads = "".join(f"<th>{level:g} % band</th>" for level in levels)
    plot = chart(curves, "band, %", "inside, %")
    return section(
        "Calibration",
        f'<div class="views one"><div class="scroll"><table><thead><tr><th>of a case left out</th>{heads}'
        f"<th>error <small>mm</small></th></tr></thead><tbody>{body}</tbody></table></div>{plot}</div>",
        "Share (%) of the coordinates of cases left out that lie inside the bands which the model of the "
        "others states, mean over the cases and from the lowest to the highest. Error: mean distance of the "
        "vertices from where they were predicted.",
        "calibration",
    )


def entries(value: Mapping) -> str:
    """Any nest of figures as HTML: rows of like keys as tables, single figures as a list, text as it is."""
    single, blocks = "", ""
    for key, item in value.items():
        name = escape(readable(str(key)))
        rows = _rows(item)
        if rows:
            columns = list(dict.fromkeys(column for _, row in rows for column in row))
            heads = "".join(f"<th{_text(rows, column)}>{escape(readable(column))}</th>" for column in columns)
            body = "".join(
                f"<tr><td>{escape(label)}</td>"
                + "".join(f"<td{_text(rows, column)}>{_figure(row.get(column))}</td>" for column in columns)
                + "</tr>"
                for label, row in rows
            )
            blocks += (
                f'<h3>{name}</h3><div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead>'
                f"<tbody>{body}</tbody></table></div>"
            )
        elif isinstance(item, Mapping):
            blocks += f"<h3>{name}</h3>{entries(item)}" if item else ""
        elif isinstance(item, str) and len(item) > 40:
            blocks += f"<p>{escape(item)}</p>"
        else:
            single += f"<tr><td>{name}</td><td>{_figure(item)}</td></tr>"
    return (f"<table><tbody>{single}</tbody></table>" if single else "") + blocks


def _rows(item: object) -> list[tuple[str, Mapping]]:
    """Named rows of single figures, if that is what an entry holds."""
    if isinstance(item, Mapping):
        rows = [(readable(str(name)), row) for name, row in item.items()]
    elif isinstance(item, list) and item and all(isinstance(row, Mapping) and row for row in item):
        rows = []
        for row in item:
            first = next(iter(row))
            rows.append((str(row[first]), {key: v for key, v in row.items() if key != first}))
    else:
        return []
    plain = (str, int, float, type(None))
    flat = all(isinstance(r, Mapping) and all(isinstance(v, plain) for v in r.values()) for _, r in rows)
    return rows if rows and flat else []


def _text(rows: Sequence[tuple[str, Mapping]], column: str) -> str:
    return ' class="text"' if any(isinstance(row.get(column), str) for _, row in rows) else ""


def _figure(value: object) -> str:
    if value is None or isinstance(value, str | bool | int):
        return "&ndash;" if value is None else escape(value)
    if isinstance(value, float):
        return number(value, 2 if abs(value) >= 0.1 or value == 0 else 3)
    return ", ".join(_figure(one) for one in value) if isinstance(value, list) else escape(value)
