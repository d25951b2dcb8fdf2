"""HDF5 as JSON: what Scalismo writes shape models as since version 0.92 (`.h5.json`).

Layout: hdf5-json.readthedocs.io, of which groups, hard links, attributes and datasets of numbers and
texts are read.
"""

import json
import uuid
from pathlib import Path

import h5py
import numpy as np

_FLOATS = {"H5T_IEEE_F32": "f4", "H5T_IEEE_F64": "f8"}
_DEEPEST = 32  # levels of groups; links could go in a circle


def open_hdf5_json(path: str | Path) -> h5py.File:
    """The content of an HDF5-JSON file as an HDF5 file in memory, to be closed like one.

    Raises ValueError, with the file's name, for what is not such a file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(content, dict) or not {"root", "groups"} <= set(content):
        raise ValueError(f"{path} is not HDF5 as JSON: it names no root or no groups")
    file = h5py.File(f"memory-{uuid.uuid4().hex}", "w", driver="core", backing_store=False)
    try:
        _fill(file, content, content["root"], 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        file.close()
        raise ValueError(f"{path} is not HDF5 as JSON that can be read: {error!r}") from error
    return file


def _fill(group: h5py.Group, content: dict, key: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"groups lie more than {_DEEPEST} deep")
    entry = content["groups"][key]
    for attribute in entry.get("attributes", []):
        group.attrs[attribute["name"]] = _value(attribute)
    for link in entry.get("links", []):
        if link["collection"] == "groups":
            _fill(group.create_group(link["title"]), content, link["id"], depth + 1)
        elif link["collection"] == "datasets":
            group[link["title"]] = _value(content["datasets"][link["id"]])


def _value(entry: dict) -> np.ndarray | str | list[str]:
    base = str(entry["type"].get("base", ""))
    if entry["type"]["class"] == "H5T_STRING":
        return entry["value"]
    dtype = _FLOATS.get(base[:12], "f8") if entry["type"]["class"] == "H5T_FLOAT" else "i8"
    return np.array(entry["value"], dtype=dtype).reshape(entry["shape"].get("dims", []))
