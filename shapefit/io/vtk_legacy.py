"""VTK's legacy PolyData (.vtk): the mesh that statismo 0.8 keeps inside its model files.

Layout: "VTK File Formats", legacy part (docs.vtk.org): versions up to 4 with polygons as counts and corners,
version 5 with offsets and connectivity; ASCII or big-endian binary.
"""

import re

import numpy as np
from jaxtyping import Float64, Int64

from shapefit.io.vtp import triangle_fans

_DTYPES = {"float": ">f4", "double": ">f8", "int": ">i4", "vtktypeint64": ">i8", "vtktypeint32": ">i4"}


def read_vtk(content: bytes) -> tuple[Float64[np.ndarray, "V 3"], Int64[np.ndarray, "F 3"]]:
    """Points and triangles of a legacy VTK file; polygons with more corners are cut into fans.

    Raises ValueError for anything else, without a file's name.
    """
    head = re.match(
        rb"# vtk DataFile Version (\d+)[^\n]*\n[^\n]*\n\s*(ASCII|BINARY)\s+DATASET\s+POLYDATA", content
    )
    points_at = re.search(rb"\bPOINTS\s+(\d+)\s+(\w+)[^\n]*\n", content)
    if head is None or points_at is None:
        raise ValueError("it is not a legacy VTK file of polygons")
    text = head[2] == b"ASCII"
    values, end = _numbers(content, points_at.end(), 3 * int(points_at[1]), points_at[2].decode(), text)
    polygons_at = re.compile(rb"\bPOLYGONS\s+(\d+)\s+(\d+)[^\n]*\n").search(content, end)
    if polygons_at is None:
        raise ValueError("it has no polygons")
    count, size, start = int(polygons_at[1]), int(polygons_at[2]), polygons_at.end()
    if int(head[1]) >= 5:
        offsets, start = _section(content, start, b"OFFSETS", count, text)
        corners, _ = _section(content, start, b"CONNECTIVITY", size, text)
        faces = triangle_fans(corners.astype(np.int64), offsets.astype(np.int64)[1:])
    else:
        faces = _counted(_numbers(content, start, size, "int", text)[0].astype(np.int64), count)
    return values.astype(np.float64).reshape(-1, 3), faces


def _counted(stored: np.ndarray, count: int) -> np.ndarray:
    """Triangles from polygons that are stored as a count and the corners."""
    if len(stored) == 4 * count and (stored[::4] == 3).all():
        return stored.reshape(-1, 4)[:, 1:]
    kept, ends, at = np.ones(len(stored), bool), np.zeros(count, np.int64), 0
    for number in range(count):
        if at >= len(stored):
            raise ValueError("its polygons are cut off")
        kept[at] = False
        at += int(stored[at]) + 1
        ends[number] = at - number - 1
    return triangle_fans(stored[kept], ends)


def _section(content: bytes, start: int, name: bytes, count: int, text: bool) -> tuple[np.ndarray, int]:
    found = re.compile(rb"\s*" + name + rb"\s+(\w+)[^\n]*\n").match(content, start)
    if found is None:
        raise ValueError(f"it lacks the {name.decode().lower()} of its polygons")
    return _numbers(content, found.end(), count, found[1].decode(), text)


def _numbers(content: bytes, start: int, count: int, kind: str, text: bool) -> tuple[np.ndarray, int]:
    """`count` numbers that lie from `start`, and where they end."""
    dtype = _DTYPES.get(kind.lower())
    if dtype is None:
        raise ValueError(f"it holds numbers of type {kind}")
    if not text:
        if start + count * np.dtype(dtype).itemsize > len(content):
            raise ValueError("it is cut off")
        return np.frombuffer(content, dtype, count, start), start + count * np.dtype(dtype).itemsize
    words = content[start:].split(None, count)
    rest = len(words[count]) if len(words) > count else 0
    if len(words) < count:
        raise ValueError("it is cut off")
    return np.array(words[:count], dtype=dtype), len(content) - rest
