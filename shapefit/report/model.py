"""The page of a shape model: the mean one can turn and bend, how good it is, what it was made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shapefit.report.colours import structure_colours
from shapefit.report.correspondence_tables import correspondence, coverage, registration, transfer
from shapefit.report.explorer import explorer_section, pack_model
from shapefit.report.model_tables import calibration, leave_one_out, quality
from shapefit.report.page import escape, facts, number, readable, section, write_page
from shapefit.shape_model import ShapeModel

SCRIPTS = (
    "explorer_shape.js",
    "explorer_view.js",
    "explorer_hand.js",
    "explorer_scatter.js",
    "explorer_save.js",
    "model.js",
)


def model_page(path: str | Path, model: ShapeModel, card: dict, title: str = "") -> None:
    """Write the report of a shape model as one HTML file that needs no network.

    The page bends the mean by itself, in the browser. `card` is the model's card; of its entries the page
    shows, where present, `source`, `license`, `subjects`, `compactness`, `generalisation`, `specificity`,
    `calibration`, `leave_one_out`, `landmark_transfer`, `registration`, `coverage` and `correspondence`.
    """
    colours = structure_colours(model.names)
    parts = [
        _lead(card),
        _facts(model, card),
        explorer_section(model, colours),
        quality(card),
        calibration(card),
        leave_one_out(card),
        transfer(card),
        registration(card),
        coverage(card),
        correspondence(card),
        _subjects(card),
    ]
    name = readable(str(card.get("id") or model.metadata.get("id") or "shape model"))
    write_page(
        path,
        title or f"{name[:1].upper()}{name[1:]}",
        "shapefit · shape model",
        "\n".join(part for part in parts if part),
        {"model": pack_model(model, colours)},
        SCRIPTS,
        styles=["explorer.css"],
        plotly=False,
    )


def _lead(card: Mapping) -> str:
    words = [f"<p>{escape(card[key])}</p>" for key in ("description",) if card.get(key)]
    if card.get("source"):
        words.append(f"<p>Made from {escape(card['source'])}.</p>")
    if card.get("license"):
        words.append(f"<p>Licence: <strong>{escape(card['license'])}</strong>.</p>")
    return "".join(words)


def _facts(model: ShapeModel, card: Mapping) -> str:
    mirrored = sum(name.endswith("~") for name in model.cases)
    shapes = len(model.cases) or len(card.get("subjects", []))
    items = [
        ("training shapes", str(shapes), f"{mirrored} of them mirrored" if mirrored else ""),
        ("modes", str(model.modes), ""),
        ("vertices", f"{len(model.mean):,}".replace(",", "&thinsp;"), ""),
        ("bones", str(len(model.names)), ""),
        ("landmarks", str(len(model.landmarks.names)), ""),
    ]
    mean = (card.get("leave_one_out") or {}).get("mean")
    if mean:
        items.append(("leave-one-out ASSD", number(mean["assd"]), "mm"))
    return facts(items)


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
