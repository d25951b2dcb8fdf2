"""Tables of surface distances, as `metrics.compare` returns them, in HTML."""

from collections.abc import Mapping, Sequence

from shapefit.metrics import ALIGNMENTS, ALL
from shapefit.report.page import escape, number, readable

ALIGNMENT_TITLES = {
    "absolute": "as found, in world mm",
    "rigid": "after rigid alignment",
    "similarity": "after similarity alignment",
}
FIGURES = {
    "assd": ("ASSD", "mm", 2),
    "hd95": ("HD95", "mm", 2),
    "hausdorff": ("HD", "mm", 2),
    "surface_dice_1mm": ("surface Dice", "1 mm", 3),
    "surface_dice_2mm": ("surface Dice", "2 mm", 3),
    "surface_dice_3mm": ("surface Dice", "3 mm", 3),
    "volume_dice": ("volume Dice", "", 3),
}
DEFINITIONS = (
    "ASSD: mean distance between the surfaces, both directions, every mm² counting alike. HD95: the larger "
    "of the two directed 95th percentiles. HD: the largest distance. Surface Dice: share of the two "
    "surfaces within the stated distance of each other. All are exact from points to triangles; volume "
    "Dice is counted in voxels. &ldquo;As found&rdquo; includes the error of position; rigid alignment "
    "takes position out; similarity alignment also takes out size."
)


def figure_title(key: str) -> str:
    name, unit, _ = FIGURES.get(key, (key.replace("_", " "), "", 3))
    return f"{name} <small>{unit}</small>" if unit else name


def cell(row: Mapping, key: str, css: str = "") -> str:
    value = row.get(key)
    digits = FIGURES.get(key, ("", "", 3))[2]
    exact = "" if value is None else f' data-value="{value:.6g}"'
    return f"<td{f' class={chr(34)}{css}{chr(34)}' if css else ''}{exact}>{number(value, digits)}</td>"


def rows_by_alignment(
    rows: Sequence[tuple[str, dict | None, str]],
    keys: Mapping[str, Sequence[str]],
    head: str,
) -> str:
    """A table with a group of columns per alignment.

    Each row is (HTML of its name, {alignment: figures} or None, its class); `keys` says which figures each
    alignment shows. A row that failed says why, across its columns.
    """
    kinds = [kind for kind in ALIGNMENTS if keys.get(kind)]
    groups = "".join(f'<th class="first" colspan="{len(keys[k])}">{ALIGNMENT_TITLES[k]}</th>' for k in kinds)
    heads = "".join(
        f"<th{' class=first' if n == 0 else ''}>{figure_title(key)}</th>"
        for k in kinds
        for n, key in enumerate(keys[k])
    )
    width = sum(len(keys[k]) for k in kinds)
    body = ""
    for name, by_kind, css in rows:
        reason = "not measured" if by_kind is None else by_kind[kinds[0]].get("failed")
        if reason:
            cells = f'<td class="failed first" colspan="{width}">{escape(reason)}</td>'
        else:
            cells = "".join(
                cell(by_kind[k], key, "first" if n == 0 else "")
                for k in kinds
                for n, key in enumerate(keys[k])
            )
        body += f"<tr{f' class={chr(34)}{css}{chr(34)}' if css else ''}><td>{name}</td>{cells}</tr>"
    return (
        f'<div class="scroll"><table><thead><tr class="group"><th></th>{groups}</tr>'
        f"<tr><th>{head}</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def structure_rows(record: dict, colours: Mapping[str, str]) -> list[tuple[str, dict, str]]:
    """Rows of one record: each structure, then all together."""
    metrics = record["metrics"]
    rows = []
    for name in [*record["structures"], ALL]:
        swatch = f'<span class="swatch" style="background:{colours[name]}"></span>' if name in colours else ""
        rows.append(
            (
                f"{swatch}{escape('all together' if name == ALL else readable(name))}",
                {kind: metrics[kind][name] for kind in ALIGNMENTS},
                "total main" if name == ALL else "",
            )
        )
    return rows


def part_rows(record: dict) -> list[tuple[str, dict, str]]:
    """Rows of what the views show of all structures together and of what they do not; none without views."""
    rows = []
    for part, title in (("in_view", "in view"), ("out_of_view", "out of view")):
        found = {kind: record["metrics"][kind][ALL].get(part) for kind in ALIGNMENTS}
        if all(found.values()):
            share = 100 * found["absolute"]["area_share"]
            rows.append((f"{title} <small>({share:.0f} % of the area)</small>", found, ""))
    return rows
