"""VTK's XML PolyData (.vtp): triangles with values on points and faces, and texts.

Layout: the VTK file formats page (docs.vtk.org, "XML file formats") for inline and appended data, base64
or raw, with the header word that precedes each block and zlib or LZMA compression.
Written: inline base64 of zlib blocks, little-endian, 64-bit.
"""

import base64
import binascii
import lzma
import math
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float64, Int64, Num

_DTYPES = {f"Float{8 * n}": f"f{n}" for n in (4, 8)}
_DTYPES |= {f"{sign}Int{8 * n}": f"{sign.lower() or 'i'}{n}" for n in (1, 2, 4, 8) for sign in ("", "U")}
_NAMES = {code: name for name, code in _DTYPES.items()}
_COMPRESSORS = {"vtkZLibDataCompressor": zlib.decompress, "vtkLZMADataCompressor": lzma.decompress}
_BLOCK = 1 << 15  # bytes, VTK's own


class PolyData(NamedTuple):
    """Triangles as a file holds them; polygons with more corners are cut into fans."""

    points: Float64[np.ndarray, "V 3"]
    faces: Int64[np.ndarray, "F 3"]
    texts: dict[str, list[str]]  # of the field data


def vtp_bytes(
    points: Float64[np.ndarray, "V 3"],
    faces: Int64[np.ndarray, "F 3"],
    point_data: Mapping[str, Num[np.ndarray, "V *C"]] | None = None,
    face_data: Mapping[str, Num[np.ndarray, "F *C"]] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """The content of a .vtp file: points as 64-bit floats, values on points and faces, texts by name."""
    fields = "".join(
        f'<Array type="String" Name={quoteattr(name)} NumberOfTuples="{len(values)}" format="ascii">'
        f"{' '.join(str(byte) for text in values for byte in (*text.encode(), 0))}</Array>\n"
        for name, values in (texts or {}).items()
    )
    offsets = np.arange(3, 3 * len(faces) + 1, 3, dtype=np.int64)
    return (
        '<?xml version="1.0"?>\n<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" '
        'header_type="UInt64" compressor="vtkZLibDataCompressor">\n<PolyData>\n'
        f"<FieldData>\n{fields}</FieldData>\n"
        f'<Piece NumberOfPoints="{len(points)}" NumberOfVerts="0" NumberOfLines="0" NumberOfStrips="0" '
        f'NumberOfPolys="{len(faces)}">\n'
        f"<PointData>\n{''.join(_array(*item) for item in (point_data or {}).items())}</PointData>\n"
        f"<CellData>\n{''.join(_array(*item) for item in (face_data or {}).items())}</CellData>\n"
        f"<Points>\n{_array('Points', points.astype(np.float64))}</Points>\n"
        f"<Polys>\n{_array('connectivity', faces.astype(np.int64).reshape(-1))}{_array('offsets', offsets)}"
        "</Polys>\n</Piece>\n</PolyData>\n</VTKFile>\n"
    ).encode()


def read_vtp(path: str | Path) -> PolyData:
    """The triangles and texts of a .vtp file, all its pieces together.

    Raises ValueError, without the file's name, for what is not such a file or uses what is not read:
    triangle strips, LZ4.
    """
    content = Path(path).read_bytes()
    appended, encoding = b"", ""
    if found := re.search(rb"<AppendedData([^>]*)>\s*_", content):
        encoding = "raw" if b'"raw"' in found[1] else "base64"
        end = content.rfind(b"</AppendedData>")
        appended = content[found.end() : end if end > 0 else None]
        content = content[: found.start()] + b"</VTKFile>"
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not XML ({error})") from None
    if root.tag != "VTKFile" or root.get("type") != "PolyData":
        raise ValueError("it is not a VTK PolyData file")
    blocks = _Blocks(
        order="<" if root.get("byte_order", "LittleEndian") == "LittleEndian" else ">",
        header=_DTYPES[root.get("header_type", "UInt32")],
        compressor=root.get("compressor", ""),
        appended=appended,
        encoding=encoding,
    )
    if blocks.compressor and blocks.compressor not in _COMPRESSORS:
        raise ValueError(f"its compressor {blocks.compressor} is not read; write it with zlib")
    points, faces, count = [], [], 0
    for piece in root.iterfind("PolyData/Piece"):
        if int(piece.get("NumberOfStrips", "0")):
            raise ValueError("it holds triangle strips; write triangles")
        of_piece = _values(piece.find("Points/DataArray"), blocks).reshape(-1, 3)
        points.append(of_piece.astype(np.float64))
        arrays = {entry.get("Name"): entry for entry in piece.iterfind("Polys/DataArray")}
        if int(piece.get("NumberOfPolys", "0")):
            corners = _values(arrays.get("connectivity"), blocks).astype(np.int64)
            ends = _values(arrays.get("offsets"), blocks).astype(np.int64)
            faces.append(triangle_fans(corners, ends) + count)
        count += len(of_piece)
    if not points:
        raise ValueError("it has no points")
    texts = {
        entry.get("Name", ""): _text(entry, blocks)
        for entry in root.iterfind("PolyData/FieldData/Array")
        if entry.get("type") == "String"
    }
    return PolyData(np.concatenate(points), np.concatenate([np.zeros((0, 3), np.int64), *faces]), texts)


def triangle_fans(
    corners: Int64[np.ndarray, " N"], offsets: Int64[np.ndarray, " F"]
) -> Int64[np.ndarray, "T 3"]:
    """Polygons, one after the other in `corners` and ending at `offsets`, cut into triangles.

    Raises ValueError for a polygon with fewer than 3 corners and for corners that are not there.
    """
    sizes = np.diff(offsets, prepend=0)
    if len(offsets) == 0 or len(corners) != offsets[-1] or (sizes < 3).any():
        raise ValueError("its polygons are cut off or have fewer than 3 corners")
    if (sizes == 3).all():
        return corners.reshape(-1, 3)
    first = np.repeat(offsets - sizes, sizes - 2)
    step = np.concatenate([np.arange(1, size - 1) for size in sizes])
    return np.stack([corners[first], corners[first + step], corners[first + step + 1]], 1)


class _Blocks(NamedTuple):
    """How a file stores numbers."""

    order: str
    header: str
    compressor: str
    appended: bytes
    encoding: str


def _array(name: str, values: np.ndarray) -> str:
    values = np.ascontiguousarray(values)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    parts = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    packed = [zlib.compress(part) for part in parts]
    last = len(parts[-1]) % _BLOCK if parts else 0  # 0: the last block is whole
    header = np.array([len(parts), _BLOCK, last, *map(len, packed)], dtype="<u8").tobytes()
    text = (base64.b64encode(header) + base64.b64encode(b"".join(packed))).decode()
    kind = _NAMES[f"{values.dtype.kind}{values.dtype.itemsize}"]
    several = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{several} format="binary">{text}</DataArray>\n'


def _values(entry: ElementTree.Element | None, blocks: _Blocks) -> np.ndarray:
    """The numbers of an array, however they are stored."""
    if entry is None:
        raise ValueError("it lacks points or polygons")
    kind = _DTYPES.get(entry.get("type", ""))
    if kind is None:
        raise ValueError(f"it holds {entry.get('type')} where numbers are expected")
    form, text = entry.get("format", "ascii"), "".join((entry.text or "").split())
    if form == "ascii":
        return np.array((entry.text or "").split(), dtype=kind)
    try:
        if form == "binary":
            data = _unpack(text.encode(), "base64", blocks)
        else:
            data = _unpack(blocks.appended[int(entry.get("offset", "0")) :], blocks.encoding, blocks)
        return np.frombuffer(data, dtype=blocks.order + kind)
    except (binascii.Error, zlib.error, lzma.LZMAError, IndexError) as error:
        raise ValueError(f"its data are cut off or damaged ({error})") from None


def _unpack(stored: bytes, encoding: str, blocks: _Blocks) -> bytes:
    """The bytes of one array: a header, which is encoded by itself if compressed, and what it tells of."""
    word = int(blocks.header[1:])
    header = np.dtype(blocks.order + blocks.header)

    def part(start: int, size: int) -> tuple[bytes, int]:
        """`size` decoded bytes that lie from `start`, and where the next lie."""
        if encoding == "raw":
            return stored[start : start + size], start + size
        length = 4 * math.ceil(size / 3)
        return base64.b64decode(stored[start : start + length])[:size], start + length

    if not blocks.compressor:
        size = int(np.frombuffer(part(0, word)[0], header)[0])
        return part(0, word + size)[0][word:]
    count = int(np.frombuffer(part(0, word)[0], header)[0])
    sizes, start = part(0, (3 + count) * word)
    lengths = np.frombuffer(sizes, header)[3:].astype(np.int64)
    packed, _ = part(start, int(lengths.sum()))
    ends = np.cumsum(lengths)
    unpack = _COMPRESSORS[blocks.compressor]
    return b"".join(unpack(packed[end - size : end]) for end, size in zip(ends, lengths, strict=True))


def _text(entry: ElementTree.Element, blocks: _Blocks) -> list[str]:
    """Texts are stored as bytes, each with a 0 at its end."""
    kept = ElementTree.Element("DataArray", {**entry.attrib, "type": "UInt8"})
    kept.text = entry.text
    return [text.decode(errors="replace") for text in _values(kept, blocks).tobytes().split(b"\0")[:-1]]
