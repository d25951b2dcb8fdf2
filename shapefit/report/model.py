"""The page of a shape model: the mean one can turn and bend, how good it is, what it was made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import fast_simplification
import numpy as np

from shapefit.mesh import closest_points
from shapefit.report.colours import structure_colours
from shapefit.report.figures import cell
from shapefit.report.page import (
    LOOK,
    base64_of,
    escape,
    facts,
    number,
    readable,
    section,
    structure_switches,
    write_page,
)
from shapefit.shape_model import ShapeModel

MODES_SHOWN = 6
VERTICES_SHOWN = 12_000  # recomputed at every move of a slider
RANGE = 3.0  # std, ends of the sliders


def model_page(path: str | Path, model: ShapeModel, card: dict, title: str = "") -> None:
    """Write the report of a shape model as one HTML file that needs no network.

    `card` is the model's card; of its entries the page shows, where present, `source`, `license`,
    `subjects`, `compactness`, `generalisation`, `specificity` and `leave_one_out`.
    """
    colours = structure_colours(model.names)
    modes = min(MODES_SHOWN, model.modes)
    curves = _curves(card)
    parts = [
        _lead(card),
        _facts(model, card),
        _explorer(model, modes, colours),
        _quality(curves),
        _leave_one_out(card),
        _subjects(card),
    ]
    name = readable(str(card.get("id") or model.metadata.get("id") or "shape model"))
    write_page(
        path,
        title or f"{name[:1].upper()}{name[1:]}",
        "shapefit · shape model",
        "\n".join(part for part in parts if part),
        {"structures": _packed(model, modes, colours), "modes": modes, "curves": curves},
        ["model.js"],
    )


def _lead(card: Mapping) -> str:
    words = [f"<p>{escape(card[key])}</p>" for key in ("description",) if card.get(key)]
    if card.get("source"):
        words.append(f"<p>Made from {escape(card['source'])}.</p>")
    if card.get("license"):
        words.append(f"<p>Licence: <strong>{escape(card['license'])}</strong>.</p>")
    return "".join(words)


def _facts(model: ShapeModel, card: Mapping) -> str:
    items = [
        ("training shapes", str(len(model.cases) or len(card.get("subjects", []))), ""),
        ("modes", str(model.modes), ""),
        ("vertices", f"{len(model.mean):,}".replace(",", "&thinsp;"), ""),
        ("bones", str(len(model.names)), ""),
        ("landmarks", str(len(model.landmarks.names)), ""),
    ]
    mean = (card.get("leave_one_out") or {}).get("mean")
    if mean:
        items.append(("leave-one-out ASSD", number(mean["assd"]), "mm"))
    return facts(items)


def _explorer(model: ShapeModel, modes: int, colours: dict[str, str]) -> str:
    variance = (model.std**2).numpy()
    share = variance / max(variance.sum(), 1e-12)
    sliders = ""
    for k in range(modes):
        sliders += (
            f'<div class="mode"><label for="mode{k}"><span>Mode {k + 1} <small>{100 * share[k]:.1f} % of the '
            f'variance</small></span><output id="value{k}">0.0</output></label>'
            f'<input type="range" id="mode{k}" min="{-RANGE:g}" max="{RANGE:g}" step="0.05" value="0"></div>'
        )
    sliders += (
        '<button type="button" class="plain" id="reset">Back to the mean</button> '
        '<button type="button" class="plain" id="random">A random shape</button>'
        '<p class="note" style="margin-top:14px">In standard deviations of the training shapes. A random '
        f"shape draws these {modes} modes only.</p>"
    )
    return section(
        "Mean and modes",
        f'<div class="controls">{LOOK}{structure_switches(colours)}</div>'
        f'<div class="modes"><div class="scene" id="shape"></div><div>{sliders}</div></div>',
        "Drag to turn, scroll to come closer. Front, left and right are the patient&rsquo;s; mm.",
    )


def _packed(model: ShapeModel, modes: int, colours: dict[str, str]) -> list[dict]:
    """Each structure's mean and its modes times their standard deviations, light enough to recompute."""
    mean = model.mean.numpy()
    basis = (model.components[:modes] * model.std[:modes, None, None]).numpy()
    faces, structure = model.faces.numpy(), model.structure.numpy()
    keep = min(1.0, VERTICES_SHOWN / len(mean))
    packed = []
    for index, name in enumerate(model.names):
        used, local = np.unique(faces[structure == index], return_inverse=True)
        triangles = local.reshape(-1, 3)
        own_mean, own_basis = mean[used], basis[:, used]
        if keep < 1:
            own_mean, triangles, own_basis = _lighter(own_mean, triangles, own_basis, keep)
        packed.append(
            {
                "name": name,
                "label": readable(name),
                "colour": colours[name],
                "vertices": base64_of(own_mean.astype(np.float32)),
                "faces": base64_of(triangles.astype(np.uint32)),
                "modes": [base64_of(mode.astype(np.float32)) for mode in own_basis],
            }
        )
    return packed


def _lighter(
    mean: np.ndarray, faces: np.ndarray, basis: np.ndarray, keep: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A decimated mean; its vertices take their modes from where they lie on the full one."""
    vertices, triangles = fast_simplification.simplify(
        mean.astype(np.float32), faces.astype(np.int32), target_count=max(200, round(keep * len(faces)))
    )
    place = closest_points(vertices, mean, faces)
    weights = place.barycentric[None, :, :, None]
    moved = (basis[:, faces[place.face]] * weights).sum(2)
    return place.point, triangles, moved


def _curves(card: Mapping) -> dict:
    """The quality curves that the card holds: {name: [[modes, value], ...]}."""
    curves: dict[str, list[list[float]]] = {}
    if card.get("compactness"):
        curves["compactness"] = [[0, 0.0]] + [[n + 1, float(v)] for n, v in enumerate(card["compactness"])]
    for name in ("generalisation", "specificity"):
        entry = card.get(name)
        if not entry:
            continue
        for kind in ("vertex", "surface"):
            if kind in entry:
                curves[f"{name} {kind}"] = [
                    [int(m), float(v)] for m, v in zip(entry["modes"], entry[kind], strict=True)
                ]
    return curves


def _quality(curves: dict) -> str:
    if not curves:
        return ""
    texts = {
        "compactness": "Compactness: share of the variance that the first modes hold.",
        "generalisation": "Generalisation: how far a shape that was left out lies from its best "
        "reconstruction, mm; black between surfaces, blue vertex to vertex.",
        "specificity": "Specificity: how far random shapes lie from the nearest training shape, vertex to "
        "vertex, mm.",
    }
    plots = "".join(
        f'<figure><div class="plot" id="{name}" style="height:240px"></div><figcaption>{text}</figcaption>'
        "</figure>"
        for name, text in texts.items()
        if any(curve.startswith(name) for curve in curves)
    )
    rows = ""
    counts = sorted({int(m) for name, c in curves.items() if name != "compactness" for m, _ in c})
    for count in counts:
        values = [dict((int(m), v) for m, v in curve).get(count) for curve in curves.values()]
        digits = [3 if name == "compactness" else 2 for name in curves]
        rows += f"<tr><td>{count}</td>" + "".join(
            f"<td>{number(v, d)}</td>" for v, d in zip(values, digits, strict=True)
        )
        rows += "</tr>"
    heads = "".join(
        f"<th>{escape(name)}{'' if name == 'compactness' else ' <small>mm</small>'}</th>" for name in curves
    )
    table = (
        f"<table><thead><tr><th>modes</th>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    )
    return section("How good it is", f'<div class="views">{plots}</div>{table}')


def _leave_one_out(card: Mapping) -> str:
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


def _subjects(card: Mapping) -> str:
    subjects: Sequence[str] = card.get("subjects") or []
    if isinstance(subjects, str):
        subjects = subjects.split()
    lines = []
    if subjects:
        lines.append(f"<strong>{len(subjects)} subjects:</strong> {escape(', '.join(subjects))}.")
    if card.get("license"):
        lines.append(
            f"<strong>Licence: {escape(card['license'])}.</strong> Whoever passes on the model, or results "
            "that contain its shapes, is bound by it."
        )
    lines.append(
        "The model knows the variation of these subjects and of smooth mixtures of them, and nothing of "
        "fractures, implants, other ages or other populations."
    )
    frame = f"Frame {escape(card.get('frame', 'RAS'))}, units {escape(card.get('units', 'mm'))}."
    if card.get("created_by"):
        frame += f" Made by {escape(card['created_by'])}."
    lines.append(frame)
    body = '<ul class="plain">' + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
    if card.get("command"):
        body += f"<h3>Command</h3><pre>{escape(card['command'])}</pre>"
    return section("Where it comes from", body)
