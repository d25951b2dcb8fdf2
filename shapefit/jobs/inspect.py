"""Prepared segmentations -> a wall of pictures with what is wrong with each."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

from shapefit.anatomy import TOTALSEGMENTATOR, TOTALSEGMENTATOR_BONES
from shapefit.inspection import CaseFindings, inspect_labels, inspect_meshes
from shapefit.inspection_flags import Flag, flags_beside, flags_of
from shapefit.io.atomic import atomic_folder, write_text
from shapefit.io.case import case_holds_meshes, case_names, mesh_names, read_parts
from shapefit.io.label_names import Structures
from shapefit.io.mesh import mesh_files, read_mesh
from shapefit.report.colours import PALETTE
from shapefit.report.inspect import Looked, inspection_page, summary
from shapefit.report.thumbnail import Painted, bounds, painted_labels, painted_meshes, thumbnail
from shapefit.settings import InspectSettings
from shapefit.template import reason
from shapefit.workers import Workers

# neighbours come in colours of their own
_ORDER = ["sacrum", "hip_left", "hip_right", "femur_left", "femur_right", *TOTALSEGMENTATOR_BONES]


def inspect_job(
    cases: Sequence[Path],
    labels: Mapping[str, int | None] | None,
    output: Path,
    settings: InspectSettings,
    source: str = "auto",
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> dict:
    """Look at every case -> inspect.html, inspect.json, inspect.csv; returns what inspect.json holds.

    Without `labels`, all meshes of a folder, all segments that a file names, or all masks of a folder that
    are called like bones. A case that cannot be read is one of the findings, whatever the reason.
    Raises ValueError for no case, and for one that is given twice.
    """
    if not cases:
        raise ValueError("no case was given; name at least one label map or folder")
    report = progress or (lambda what, fraction: None)
    names = case_names(cases)
    structures = dict(labels) if labels else None
    asked = [name for name in structures or () if name != TOTALSEGMENTATOR]
    looked: list[Looked] = []
    with atomic_folder(output) as folder:
        jobs = [
            (Path(path), name, structures, source, settings) for path, name in zip(cases, names, strict=True)
        ]
        with Workers(min(settings.workers, len(cases)), settings.cluster) as pool:
            for (path, name, *_), one in zip(jobs, pool.outcomes(look_at, jobs), strict=True):
                if isinstance(one, Exception):  # it ended its worker, or ours is the mistake
                    one = Looked(name, str(path), None, reason(one), None, None, 0.0)
                looked.append(one)
                report(name, 0.95 * len(looked) / len(cases))
        flags = _flags(looked, settings)
        shown = list(
            dict.fromkeys(name for one in looked if one.findings for name in one.findings.structures)
        )
        colours = {name: colour_of(name, asked) for name in shown}
        given = [name if label is None else f"{name}={label}" for name, label in (labels or {}).items()]
        inspection_page(folder / "inspect.html", looked, flags, colours, command, given)
        table = {
            "schema_version": 1,
            "package_version": version("shapefit"),
            "command": command,
            "settings": asdict(settings),
            "summary": summary(looked, flags),
            "cases": [_entry(one, flags[one.name]) for one in looked],
        }
        write_text(folder / "inspect.json", json.dumps(table, indent=2, allow_nan=False) + "\n")
        write_text(folder / "inspect.csv", _csv(looked, flags))
    return table


def look_at(
    path: Path, name: str, structures: Mapping[str, int | None] | None, source: str, settings: InspectSettings
) -> Looked:
    """One case: findings and pictures, or why there are none."""
    began = time.perf_counter()
    try:
        found, painted = _read(path, structures, source, settings)
        front = side = None
        if painted:
            low, high = bounds(painted)
            pixel = float((high - low).max()) / settings.picture
            front, side = (thumbnail(painted, view, pixel) for view in ("ap", "lateral"))
        return Looked(name, str(path), found, "", front, side, time.perf_counter() - began)
    except Exception as error:  # one spoiled file must not hide what is wrong with the others
        return Looked(name, str(path), None, reason(error), None, None, time.perf_counter() - began)


def colour_of(name: str, asked: Sequence[str]) -> str:
    """The colour of a structure: by its place among those asked for or among the known bones."""
    for order in (asked, _ORDER):
        if name in order:
            return PALETTE[list(dict.fromkeys(order)).index(name) % len(PALETTE)]
    return PALETTE[crc32(name.encode()) % len(PALETTE)]


def _read(
    path: Path, structures: Structures, source: str, settings: InspectSettings
) -> tuple[CaseFindings, Painted]:
    asked = [name for name in structures or () if name != TOTALSEGMENTATOR]
    if case_holds_meshes(path, source):
        files = mesh_files(path)
        wanted = mesh_names(path, structures)
        names = list(files) if wanted is None else wanted
        surfaces = {name: read_mesh(files[name], closed=False) for name in names if name in files}
        found = inspect_meshes(surfaces, settings)
        missing = tuple(name for name in names if name not in files)
        colours = {name: colour_of(name, asked) for name in surfaces}
        return CaseFindings(found.structures, missing), painted_meshes(surfaces, colours, settings.island)
    every: dict = {}
    missing = ()
    painted: Painted = []
    unexpected: dict[int, int] = {}
    grid = None
    by_number = bool(structures) and all(label is not None for label in dict(structures).values())
    for part in read_parts(path, structures, source):
        found = inspect_labels(part.volume, part.labels, settings)
        every |= found.structures
        missing += part.missing + found.missing
        grid = grid or found.grid
        if by_number and not part.names:
            unexpected |= found.unexpected
        colours = {name: colour_of(name, asked) for name in part.labels}
        painted += painted_labels(part.volume, part.labels, colours, settings.island)
    if asked:
        every = {name: every[name] for name in [*asked, *every] if name in every}
    return CaseFindings(every, missing, grid, unexpected), painted


def _flags(looked: Sequence[Looked], settings: InspectSettings) -> dict[str, list[Flag]]:
    flags = {
        one.name: flags_of(one.findings, settings) if one.findings else [Flag("unreadable", one.error)]
        for one in looked
    }
    beside = flags_beside({one.name: one.findings for one in looked if one.findings}, settings)
    return {name: own + beside.get(name, []) for name, own in flags.items()}


def _entry(one: Looked, flags: Sequence[Flag]) -> dict:
    return {
        "case": one.name,
        "path": one.path,
        "error": one.error or None,
        "flags": [asdict(flag) for flag in flags],
        "findings": asdict(one.findings) if one.findings else None,
        "seconds": round(one.seconds, 3),
    }


def _csv(looked: Sequence[Looked], flags: Mapping[str, Sequence[Flag]]) -> str:
    """One row per case and structure, and one without a structure for what concerns a whole case."""
    rows = []
    for one in looked:
        own = {flag.structure for flag in flags[one.name]}
        found = one.findings.structures if one.findings else {}
        for name in [None, *dict.fromkeys([*found, *sorted(s for s in own if s)])]:
            of_it = [flag for flag in flags[one.name] if flag.structure == name]
            row: dict[str, object] = {"case": one.name, "structure": name or ""}
            row["flags"] = " ".join(dict.fromkeys(flag.kind for flag in of_it))
            row["reasons"] = "; ".join(flag.reason for flag in of_it)
            if name in found:
                each = found[name]
                row |= {"volume_mm3": each.volume, "tunnels": each.tunnels, "open_edges": each.open_edges}
                row |= {"islands_mm3": sum(each.islands), "cavities_mm3": sum(each.cavities)}
                row |= {"cut_mm2": sum(each.border.values()), "cut_sides": "".join(each.border)}
                row |= dict(zip(("x_mm", "y_mm", "z_mm"), each.centre, strict=True))
            row["path"] = one.path
            rows.append(row)
    text = io.StringIO()
    columns = [
        "case", "structure", "flags", "reasons", "volume_mm3", "tunnels", "open_edges", "islands_mm3",
        "cavities_mm3", "cut_mm2", "cut_sides", "x_mm", "y_mm", "z_mm", "path",
    ]  # fmt: skip
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
