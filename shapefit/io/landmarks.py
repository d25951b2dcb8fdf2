"""Landmark files <-> named points in world mm, RAS: our landmarks.json, and those of 3D Slicer."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float64

OWN = "landmarks.json"


def folder_landmarks(folder: str | Path) -> dict[str, Float64[np.ndarray, "R 3"]] | None:
    """The landmarks of a case's folder: name -> its readings (mm, RAS); None if the folder has none."""
    path = Path(folder) / OWN
    return read_landmarks(path) if path.is_file() else None


def read_landmarks(path: str | Path) -> dict[str, Float64[np.ndarray, "R 3"]]:
    """Landmark name -> its readings (R, 3) in world mm RAS.

    Layout: {"frame": "RAS" | "LPS", "units": "mm", "readings": [{"points": {name: [x, y, z]}}, ...]}.
    Raises ValueError, with the file's name, for another layout and for points that are not 3 finite numbers.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a landmark file: expected an object with frame, units and readings")
    if content.get("units") != "mm" or content.get("frame") not in ("RAS", "LPS"):
        raise ValueError(
            f"{path} has frame {content.get('frame')!r} and units {content.get('units')!r}; "
            "expected RAS or LPS, and mm"
        )
    flip = np.array([-1.0, -1.0, 1.0] if content["frame"] == "LPS" else [1.0, 1.0, 1.0])
    readings: dict[str, list[np.ndarray]] = {}
    try:
        for reading in content["readings"]:
            for name, point in reading["points"].items():
                place = np.array(point, dtype=np.float64)
                if place.shape != (3,) or not np.isfinite(place).all():
                    raise ValueError(f"{name} is at {point}; expected 3 finite numbers")
                readings.setdefault(name, []).append(place * flip)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a landmark file: {error!s}") from error
    return {name: np.stack(points) for name, points in readings.items()}
