"""Landmark files <-> named points in world mm, RAS: our landmarks.json, and the two formats of 3D Slicer.

- `landmarks.json`: {"frame": "RAS" | "LPS", "units": "mm", "readings": [{"points": {name: [x, y, z]}}, ...]}
- `.mrk.json`: Slicer's markups (schema markups-v1.0.0 to 1.0.3). The point lists (type Fiducial) are the
  readings; a control point whose position is not defined is skipped; LPS where the file states no frame,
  as the schema says.
- `.fcsv`: Slicer's older table, one reading. Its frame is a name or, up to Slicer 4.10, a number: 0 RAS,
  1 LPS (Slicer's documentation of file formats, Markups).

All files that are written are RAS and say so.
"""

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from shapefit.io.atomic import write_text
from shapefit.io.frame import FRAMES, to_ras

OWN = "landmarks.json"
MARKUPS, TABLE = ".mrk.json", ".fcsv"
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)
_COLUMNS = (
    "id",
    "x",
    "y",
    "z",
    "ow",
    "ox",
    "oy",
    "oz",
    "vis",
    "sel",
    "lock",
    "label",
    "desc",
    "associatedNodeID",
)
_Readings = list[dict[str, np.ndarray]]


def folder_landmarks(folder: str | Path) -> dict[str, Float64[np.ndarray, "R 3"]] | None:
    """The landmarks of a case's folder: name -> its readings (mm, RAS); None if the folder has none.

    `landmarks.json` comes first; without it all `.mrk.json` and `.fcsv` files, each a reading or more.
    Slicer's lines, curves and planes in the folder are no landmarks and are passed over.
    """
    folder = Path(folder)
    if (folder / OWN).is_file():
        return read_landmarks(folder / OWN)
    files = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and _holds_points(p)]
    found: dict[str, list[np.ndarray]] = {}
    for path in files:
        for name, points in read_landmarks(path).items():
            found.setdefault(name, []).append(points)
    return {name: np.concatenate(points) for name, points in found.items()} if files else None


def read_landmarks(path: str | Path) -> dict[str, Float64[np.ndarray, "R 3"]]:
    """Landmark name -> its readings (R, 3) in world mm RAS, from a file of one of the three layouts.

    The layout is told by the name: `.fcsv`, `.mrk.json`, any other is ours. Raises ValueError, with the
    file's name, for another layout, a frame or unit that is not known, a name that one reading has twice,
    and points that are not 3 finite numbers.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = text if kind == "table" else json.loads(text)
    except (OSError, ValueError) as error:
        what = "text" if kind == "table" else "JSON"
        raise ValueError(f"{path} is not a readable {what} file: {error}") from error
    if kind == "own" and isinstance(content, dict) and "markups" in content:
        kind = "markups"  # Slicer's, under another name
    read = {"table": _table, "markups": _markups, "own": _own}[kind]
    together: dict[str, list[np.ndarray]] = {}
    for reading in read(path, content):
        for name, point in reading.items():
            together.setdefault(name, []).append(point)
    return {name: np.stack(points) for name, points in together.items()}


def write_landmarks(path: str | Path, landmarks: Mapping[str, Float64[np.ndarray, "R 3"]]) -> None:
    """Write landmarks (mm, RAS) in the layout that the file's name tells, whole or not at all.

    Raises ValueError for several readings in an `.fcsv`, which holds one, and for points that are not
    finite.
    """
    path = Path(path)
    kind = _kind(path)
    for name, points in landmarks.items():
        if not np.isfinite(points).all():
            raise ValueError(f"landmark {name} is not finite; cannot write {path.name}")
    count = max((len(points) for points in landmarks.values()), default=0)
    readings = [{n: p[i].tolist() for n, p in landmarks.items() if i < len(p)} for i in range(count)]
    if kind == "table":
        if count > 1:
            raise ValueError(f"{path.name} holds one reading and there are {count}; write {MARKUPS} or {OWN}")
        write_text(path, _table_text(readings[0] if readings else {}))
        return
    content: dict = {"frame": "RAS", "units": "mm", "readings": [{"points": reading} for reading in readings]}
    if kind == "markups":
        content = {"@schema": _SCHEMA, "markups": [_markup(reading) for reading in readings]}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _kind(path: Path) -> str:
    name = path.name.lower()
    return "table" if name.endswith(TABLE) else "markups" if name.endswith(MARKUPS) else "own"


def _holds_points(path: Path) -> bool:
    """Whether a file of a folder is to be read: what cannot be read at all is, to say so."""
    if _kind(path) != "markups":
        return _kind(path) == "table"
    try:
        return any(entry["type"] == "Fiducial" for entry in json.loads(path.read_bytes())["markups"])
    except (ValueError, KeyError, TypeError):
        return True


def _own(path: Path, content: object) -> _Readings:
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a landmark file: expected an object with frame, units and readings")
    if content.get("units") != "mm" or content.get("frame") not in FRAMES:
        raise ValueError(
            f"{path} has frame {content.get('frame')!r} and units {content.get('units')!r}; "
            "expected RAS or LPS, and mm"
        )
    try:
        return [
            {name: _place(name, point, content["frame"]) for name, point in reading["points"].items()}
            for reading in content["readings"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a landmark file: {error!s}") from error


def _markups(path: Path, content: object) -> _Readings:
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list) or not all(isinstance(entry, dict) for entry in lists):
        raise ValueError(f"{path} is not a markups file of 3D Slicer: it has no list of markups")
    points = [entry for entry in lists if entry.get("type") == "Fiducial"]
    if not points:
        types = ", ".join(sorted({str(entry.get("type")) for entry in lists})) or "nothing"
        raise ValueError(f"{path} has no point list (type Fiducial); it holds {types}")
    readings = []
    for entry in points:
        frame, units = entry.get("coordinateSystem", "LPS"), entry.get("coordinateUnits", "mm")
        units = units[0] if isinstance(units, list) and units else units
        if frame not in FRAMES or units != "mm":
            raise ValueError(f"{path} has frame {frame!r} and units {units!r}; expected RAS or LPS, and mm")
        reading: dict[str, np.ndarray] = {}
        for number, point in enumerate(entry.get("controlPoints") or []):
            if not isinstance(point, dict):
                raise ValueError(f"{path}: control point {number} is not an object")
            if point.get("positionStatus", "defined") == "defined":
                _add(path, reading, number, point.get("label"), point.get("position"), frame)
        readings.append(reading)
    return readings


def _table(path: Path, text: str) -> _Readings:
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    stated = re.search(r"^#\s*CoordinateSystem\s*=\s*(\S+)", head, re.MULTILINE)
    if not re.search(r"^#\s*Markups fiducial file version\s*=", head, re.MULTILINE) or not stated:
        raise ValueError(f"{path} is not a fiducial table of 3D Slicer: it states no version or frame")
    frame = {"0": "RAS", "1": "LPS"}.get(stated[1], stated[1])
    if frame not in FRAMES:
        raise ValueError(f"{path} has frame {stated[1]}; expected RAS, LPS, or 0 or 1, which mean the same")
    named = re.search(r"^#\s*columns\s*=\s*(.+)$", head, re.MULTILINE)
    columns = [name.strip() for name in named[1].split(",")] if named else list(_COLUMNS)
    if missing := [name for name in ("x", "y", "z", "label") if name not in columns]:
        raise ValueError(f"{path} has no column {missing[0]}")
    reading: dict[str, np.ndarray] = {}
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for number, row in enumerate(csv.reader(rows)):
        entry = dict(zip(columns, row, strict=False))
        try:
            point: object = [float(entry[axis]) for axis in "xyz"]
        except (KeyError, ValueError):
            point = ", ".join(row[1:4])
        _add(path, reading, number, entry.get("label"), point, frame)
    return [reading]


def _add(
    path: Path, reading: dict[str, np.ndarray], number: int, label: object, point: object, frame: str
) -> None:
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"{path}: point {number} has no label; landmarks are matched by name")
    name = label.strip()
    if name in reading:
        raise ValueError(f"{path}: one point list has two points named {name}")
    try:
        reading[name] = _place(name, point, frame)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _place(name: str, point: object, frame: str) -> np.ndarray:
    try:
        place = np.array(point, dtype=np.float64)
    except (TypeError, ValueError):
        place = np.zeros(0)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise ValueError(f"{name} is at {point}; expected 3 finite numbers")
    return to_ras(place, frame)


def _markup(reading: Mapping[str, list[float]]) -> dict:
    return {
        "type": "Fiducial",
        "coordinateSystem": "RAS",
        "coordinateUnits": "mm",
        "labelFormat": "%N-%d",
        "controlPoints": [
            {"id": str(n + 1), "label": name, "position": point, "positionStatus": "defined"}
            for n, (name, point) in enumerate(reading.items())
        ],
    }


def _table_text(reading: Mapping[str, list[float]]) -> str:
    text = io.StringIO()
    # RAS by name is read rightly by old versions too: they take any name for number 0, RAS
    text.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n")
    text.write(f"# columns = {','.join(_COLUMNS)}\n")
    rows = csv.writer(text, lineterminator="\n")
    for number, (name, point) in enumerate(reading.items()):
        rows.writerow([number + 1, *map(repr, point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return text.getvalue()
