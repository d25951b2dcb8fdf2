"""PLY, STL, OBJ and VTP surfaces <-> our meshes. The only place that knows those files' frames and habits.

The frame stands in the file as 3D Slicer writes and reads it (vtkMRMLModelStorageNode): `SPACE=RAS` or
`SPACE=LPS` in a comment of a PLY or OBJ and in the header of an STL, the text `SPACE` in a VTP's field data.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Num

from shapefit.io.atomic import atomic_path, prepare_output_dir
from shapefit.io.frame import to_ras
from shapefit.io.vtp import read_vtp, vtp_bytes
from shapefit.mesh import require_closed
from shapefit.repair import RepairFindings, repair_mesh
from shapefit.settings import MeshSettings
from shapefit.surface import Surfaces

MESH_SUFFIXES = (".ply", ".stl", ".obj", ".vtp")
HEADER = "shapefit SPACE=RAS UNIT=mm"


def read_mesh(path: str | Path, closed: bool = True) -> trimesh.Trimesh:
    """Read a triangle mesh in world mm RAS; the order of a PLY's, OBJ's or VTP's vertices is kept.

    A file that says SPACE=LPS (3D Slicer writes it) is obeyed; a file that says nothing is taken as
    RAS. STL has no shared vertices, so identical ones are merged.
    Raises ValueError, with the file's name, for a file that is absent or not a mesh and, unless
    `closed=False`, for an open or inside-out surface.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"{path} is not a mesh that can be read; expected {', '.join(MESH_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        vertices, faces, space = _vtp(path) if suffix == ".vtp" else _trimesh(path)
    except Exception as error:  # trimesh passes on whatever its parsers raise
        raise ValueError(f"{path} is not a readable {suffix[1:].upper()} mesh: {error}") from error
    if len(faces) == 0:
        raise ValueError(f"{path} is not a triangle mesh: it has no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{path} is not a readable mesh: its faces name vertices that it does not have")
    if suffix == ".stl":
        vertices, number = np.unique(vertices, axis=0, return_inverse=True)
        faces = number.reshape(-1)[faces]
    vertices = to_ras(vertices, space)
    if closed:
        require_closed(vertices, faces, str(path), "repair it, or pass --repair")
    return trimesh.Trimesh(vertices, faces, process=False)


def read_closed(
    path: str | Path, settings: MeshSettings | None = None
) -> tuple[trimesh.Trimesh, RepairFindings | None]:
    """Read a mesh as `read_mesh`, repaired if the settings say so, and what was changed, None if nothing.

    Raises ValueError as `read_mesh`, and for a mesh that `repair_mesh` cannot or may not close.
    """
    if settings is None or not settings.repair:
        return read_mesh(path), None
    mesh, findings = repair_mesh(read_mesh(path, closed=False), str(path), settings.max_hole)
    return mesh, findings if findings.warnings() else None


def read_surfaces(folder: str | Path, names: Sequence[str] | None = None) -> Surfaces:
    """Read `<structure>.ply` (or .stl, .obj) from a folder: those named, or all in alphabetical order.

    Raises ValueError for a folder without the meshes, a structure with two files, and as `read_mesh`.
    """
    return read_closed_surfaces(folder, names)[0]


def read_closed_surfaces(
    folder: str | Path, names: Sequence[str] | None = None, settings: MeshSettings | None = None
) -> tuple[Surfaces, dict[str, RepairFindings]]:
    """Read a folder as `read_surfaces`, repaired if the settings say so, and what changed, by structure."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = mesh_files(folder)
    if names is None:
        names = tuple(files)
        if not names:
            raise ValueError(f"{folder} holds no mesh; expected <structure>{' or '.join(MESH_SUFFIXES)}")
    for name in names:
        if name not in files:
            raise ValueError(f"{folder} has no mesh {name}.ply; its meshes are {', '.join(files) or 'none'}")
    read = {name: read_closed(files[name], settings) for name in names}
    return {name: mesh for name, (mesh, _) in read.items()}, {name: f for name, (_, f) in read.items() if f}


def mesh_files(folder: str | Path) -> dict[str, Path]:
    """Structure name -> mesh file of a folder, alphabetical. Raises ValueError for a name in two formats."""
    files: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in MESH_SUFFIXES and not path.name.startswith("."):
            if path.stem in files:
                raise ValueError(f"{folder} holds both {files[path.stem].name} and {path.name}; remove one")
            files[path.stem] = path
    return files


def write_mesh(path: str | Path, mesh: trimesh.Trimesh) -> None:
    """Write a mesh (world mm, RAS) in the format that the suffix names; whole or not at all.

    The file says SPACE=RAS. PLY and STL are binary with 32-bit floats; OBJ and VTP keep all 64 bits.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"cannot write a mesh as {path.name}; expected {', '.join(MESH_SUFFIXES)}")
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    if suffix == ".vtp":
        write_vtp(path, vertices, faces)
        return
    content = {".ply": _ply, ".stl": _stl, ".obj": _obj}[suffix](vertices, faces)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_vtp(
    path: str | Path,
    vertices: Num[np.ndarray, "V 3"],
    faces: Num[np.ndarray, "F 3"],
    vertex_data: Mapping[str, Num[np.ndarray, "V *C"]] | None = None,
    face_data: Mapping[str, Num[np.ndarray, "F *C"]] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a mesh (world mm, RAS) with values on its vertices and faces as VTP, whole or not at all."""
    content = vtp_bytes(
        vertices.astype(np.float64),
        faces.astype(np.int64),
        vertex_data,
        face_data,
        {"SPACE": ["RAS"], "UNIT": ["mm"], **(texts or {})},
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_surfaces(
    folder: str | Path, surfaces: Mapping[str, trimesh.Trimesh], suffix: str = ".ply"
) -> dict[str, Path]:
    """Write each structure as `<structure><suffix>` into a folder, made if absent; returns the files."""
    folder = prepare_output_dir(folder)
    paths = {name: folder / f"{name}{suffix}" for name in surfaces}
    for name, mesh in surfaces.items():
        write_mesh(paths[name], mesh)
    return paths


def _trimesh(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    mesh = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    vertices, faces = np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)
    if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
        vertices, faces = np.array(mesh.vertices, dtype=np.float64), np.array(mesh.faces, dtype=np.int64)
    with path.open("rb") as file:
        beginning = file.read(4096).split(b"end_header")[0]
    spaces = re.findall(rb"SPACE\s*=\s*(RAS|LPS)\b", beginning)
    space = spaces[0].decode() if spaces else "RAS"
    return vertices, faces, space


def _vtp(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    read = read_vtp(path)
    said = " ".join(read.texts.get("SPACE", []))
    return read.points, read.faces, "LPS" if "LPS" in said else "RAS"


# written here, not by trimesh, because a reader must learn the frame from the file


def _ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment shapefit\ncomment SPACE=RAS\ncomment units mm\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    records = np.empty(len(faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    records["count"], records["index"] = 3, faces
    return header.encode("ascii") + vertices.astype("<f4").tobytes() + records.tobytes()


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    records = np.zeros(
        len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("colour", "<u2")]
    )
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records["normal"], records["corners"] = normals / np.where(lengths > 0, lengths, 1), corners
    return HEADER.encode().ljust(80) + np.array(len(faces), "<u4").tobytes() + records.tobytes()


def _obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = [f"# {HEADER}", *(f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist())]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")
