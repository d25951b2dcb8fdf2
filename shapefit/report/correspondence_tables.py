"""Tables of how well a model's shapes correspond: cases registered, places covered, landmarks carried."""

from collections.abc import Mapping

from shapefit.report.model_tables import entries
from shapefit.report.page import escape, number, readable, section

WAYS = {
    "model_to_segmentation": "model to segmentation, mm",
    "segmentation_to_model": "segmentation to model, mm",
    "thin": "thin and sharp parts, mm",
    "normals": "between normals, &deg;",
}


def registration(card: Mapping) -> str:
    """How truly the template lies on each training case."""
    rows = card.get("registration") or {}
    if not rows:
        return ""
    some = next(iter(rows.values()))
    ways = {way: title for way, title in WAYS.items() if isinstance(some.get(way), dict)}
    figures, first = ("mean", "p95", "max"), ' class="first"'

    def line(name: str, row: Mapping, css: str = "") -> str:
        cells = "".join(
            f"<td{first if figure == 'mean' else ''}>{number((row.get(way) or {}).get(figure))}</td>"
            for way in ways
            for figure in figures
        )
        folds = "" if row.get("flipped_faces") is None else str(row["flipped_faces"])
        return f'<tr{css}><td>{escape(name)}</td>{cells}<td class="first">{folds}</td></tr>'

    body = "".join(line(name, row) for name, row in rows.items())
    if mean := card.get("registration_mean"):
        body += line("mean", mean, ' class="total main"')
    radius = (card.get("coverage") or {}).get("thin_radius")
    thin = (
        f" Thin and sharp parts: where a ball of {radius:g} mm would not fit inside the bone."
        if radius and "thin" in ways
        else ""
    )
    groups = "".join(f'<th class="first" colspan="3">{title}</th>' for title in ways.values())
    heads = '<th class="first">mean</th><th>95 %</th><th>max</th>' * len(ways)
    return section(
        "Training cases, as registered",
        '<div class="scroll"><table><thead><tr class="group"><th></th>'
        f'{groups}<th class="first">flipped</th></tr><tr><th>case</th>{heads}'
        f'<th class="first">faces</th></tr></thead><tbody>{body}</tbody></table></div>',
        "Distance between the surface in correspondence and the surface of the segmentation; 95 %: the 95th "
        "percentile." + thin,
        "registration",
    )


def coverage(card: Mapping) -> str:
    """How near the template comes to the places where templates fail: landmarks, ends, rims."""
    entry = card.get("coverage") or {}
    places = entry.get("places") or []
    if not places:
        return ""
    body = ""
    for row in sorted(places, key=lambda place: -place["max"]):
        cells = "".join(f"<td>{number(row[figure])}</td>" for figure in ("mean", "p95", "max"))
        body += f"<tr><td>{escape(readable(row['place']))}</td>{cells}"
        body += f'<td class="text">{escape(row.get("worst_case", ""))}</td></tr>'
    return section(
        "Places that are hard to cover",
        '<div class="scroll"><table><thead><tr><th>place</th><th>mean</th><th>95 %</th><th>max</th>'
        f'<th class="text">worst case</th></tr></thead><tbody>{body}</tbody></table></div>',
        f"Distance from the segmentation to the model, mm, within {entry.get('place_radius', 0):g} mm of "
        "each place, over the training cases. The crest of the ilium is the superior end of a hip bone, the "
        "tip of the sacrum its inferior end.",
        "coverage",
    )


TRANSFERS = {
    "registration": "carried by registration, mm",
    "fit": "carried by the fit, mm",
    "readers": "readers&rsquo; own spread, mm",
}


def transfer(card: Mapping) -> str:
    """Landmarks of the other cases carried to each case, against its own readings."""
    entry = card.get("landmark_transfer") or {}
    rows = entry.get("landmarks") or []
    ways = {way: title for way, title in TRANSFERS.items() if way in entry}
    if not rows or not ways:
        return ""

    def line(name: str, row: Mapping, css: str = "") -> str:
        cells = ""
        for way in ways:
            figures = row.get(way) or {}
            worst = f" <small>{escape(figures['worst_case'])}</small>" if "worst_case" in figures else ""
            cells += f'<td class="first">{number(figures.get("mean"))}</td>'
            cells += f"<td>{number(figures.get('max'))}{worst}</td>"
        return f"<tr{css}><td>{escape(name)}</td><td>{row.get('cases', '')}</td>{cells}</tr>"

    body = "".join(line(row["name"], row) for row in rows)
    body += line("all", entry, ' class="total main"')
    groups = "".join(f'<th class="first" colspan="2">{title}</th>' for title in ways.values())
    heads = '<th class="first">mean</th><th>max</th>' * len(ways)
    return section(
        "Landmarks carried from case to case",
        f'<div class="scroll"><table><thead><tr class="group"><th></th><th></th>{groups}</tr><tr>'
        f"<th>landmark</th><th>cases</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>",
        "Each case left out in turn: where the landmarks of the other cases come to lie on it, by its own "
        "registration and by the others&rsquo; model fitted to its surface, against the mean of its "
        "readings. The readers&rsquo; spread is the root mean square distance of a reading from that mean.",
        "landmarks",
    )


def correspondence(card: Mapping) -> str:
    """What the card says of correspondence across cases: places covered, landmarks carried."""
    entry = card.get("correspondence") or {}
    return section("Correspondence", entries(entry), name="correspondence") if entry else ""
