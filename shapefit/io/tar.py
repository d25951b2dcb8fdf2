"""Tar files whose bytes follow from their content alone, and the places of members in them.

Plain POSIX ustar, as every tar program and the WebDataset libraries read it: no times, no owners.
"""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

BLOCK = 512  # bytes; members begin at multiples of it


class Member(NamedTuple):
    """A file in a tar file."""

    name: str
    start: int  # of its header, bytes from the beginning
    size: int  # bytes of its content, which follows the header

    @property
    def end(self) -> int:
        """Where the next member's header begins."""
        return self.start + BLOCK + -(-self.size // BLOCK) * BLOCK


def write_tar(file: BinaryIO, members: Iterable[tuple[str, bytes]]) -> None:
    """Write names (up to 100 letters) and contents, one after the other as they come."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))


def tar_members(path: Path) -> Iterator[Member]:
    """Name and place of each member, without reading the contents.

    Raises ValueError, with the file's name, for one that is cut off or not a plain tar file.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + BLOCK <= length:
            file.seek(start)
            header = file.read(BLOCK)
            if not header.strip(b"\0"):
                return
            member = _member(header, start)
            if member is None or member.end > length:
                break
            yield member
            start = member.end
    raise ValueError(f"{path} is cut off or not a plain tar file")


def _member(header: bytes, start: int) -> Member | None:
    try:
        entry = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        return None
    return Member(entry.name, start, entry.size) if entry.isreg() else None


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return content.getvalue()


def npy_array(content: bytes) -> np.ndarray:
    """What `npy_bytes` wrote."""
    return np.load(io.BytesIO(content), allow_pickle=False)


def png_bytes(levels: UInt8[np.ndarray, "H W"]) -> bytes:
    """A grey picture as a PNG file without compression, whose bytes would be another with each zlib.

    PNG specification (ISO/IEC 15948); stored blocks of RFC 1951.
    """
    height, width = levels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with the number of its filter, 0: none
    rows[:, 1:] = levels
    plain = rows.tobytes()
    blocks = [plain[at : at + 65535] for at in range(0, len(plain), 65535)]
    stored = b"".join(
        bytes([n == len(blocks) - 1]) + struct.pack("<HH", len(block), 65535 - len(block)) + block
        for n, block in enumerate(blocks)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(plain))
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def png_levels(content: bytes) -> UInt8[np.ndarray, "H W"]:
    """What `png_bytes` wrote."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)
