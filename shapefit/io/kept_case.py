"""Cases that were read once and kept in files: as many as there are, they take no memory."""

import gc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import trimesh

from shapefit.io.case import Case, read_case
from shapefit.io.label_names import Structures
from shapefit.io.mesh import MESH_SUFFIXES
from shapefit.io.pieces import Piece, Pieces
from shapefit.io.volume import VOLUME_SUFFIXES
from shapefit.settings import MeshSettings, SurfaceSettings
from shapefit.workers import Workers

_drawn = count(1)


class KeptSurfaces(Mapping):
    """Structure name -> closed mesh in world mm, read from a piece each time that it is asked for."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.names = tuple(str(name) for name in piece.arrays("structures")["structures"])

    def __getitem__(self, name: str) -> trimesh.Trimesh:
        if name not in self.names:
            raise KeyError(name)
        if next(_drawn) % 16 == 0:
            gc.collect()  # a trimesh.Trimesh refers to itself: those done with would pile up for long
        number = self.names.index(name)
        vertices, faces = self.piece.arrays(f"vertices{number}", f"faces{number}").values()
        return trimesh.Trimesh(vertices, faces, process=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def read_cases(
    paths: Sequence[Path],
    names: Sequence[str],
    structures: Structures,
    settings: SurfaceSettings,
    meshes: MeshSettings,
    workers: Workers,
    pieces: Pieces,
) -> Iterator[tuple[Case, dict[str, list[str]]] | Exception]:
    """Each case with its warnings by structure, or why it could not be read; as `io.case.read_case`."""
    jobs = ((path, case_digest(path), structures, settings, meshes) for path in paths)
    for name, found in zip(names, pieces.complete(workers, _read, jobs), strict=True):
        yield found if isinstance(found, Exception) else _kept(name, found)


def case_digest(path: Path) -> str:
    """Of the content of all that a case may be read from: meshes, label maps and the landmarks beside."""
    landmarks = ("landmarks.json", ".mrk.json", ".fcsv")
    kinds = (*MESH_SUFFIXES, *VOLUME_SUFFIXES, ".raw", ".raw.gz", ".img", *landmarks)  # .raw: under a header
    digest = hashlib.sha256()
    if path.exists():
        for file in sorted(path.iterdir() if path.is_dir() else path.parent.iterdir()):
            name, own = file.name, path.is_dir() or file.name.startswith(path.name.split(".")[0] + ".")
            if file.is_file() and name.lower().endswith(kinds if own else landmarks):
                with file.open("rb") as content:
                    digest.update(name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _read(
    path: Path,
    digest: str,
    structures: Structures,
    settings: SurfaceSettings,
    meshes: MeshSettings,
) -> dict[str, np.ndarray]:
    case = read_case(path, structures, settings=settings, meshes=meshes)
    landmarks = case.landmarks
    arrays = {
        "structures": np.array(list(case.surfaces), dtype=str),
        "landmarks": np.array(list(landmarks or {}), dtype=str),
        "has_landmarks": np.array(landmarks is not None),
        "told": np.array(json.dumps({"warnings": case.warnings(), "labels": case.labels})),
    }
    for number, mesh in enumerate(case.surfaces.values()):
        arrays[f"vertices{number}"] = np.asarray(mesh.vertices)
        arrays[f"faces{number}"] = np.asarray(mesh.faces)
    for number, readings in enumerate((landmarks or {}).values()):
        arrays[f"readings{number}"] = readings
    gc.collect()
    return arrays


def _kept(name: str, piece: Piece) -> tuple[Case, dict[str, list[str]]]:
    head = piece.arrays("landmarks", "has_landmarks", "told")
    landmarks = None
    if head["has_landmarks"]:
        names = [str(mark) for mark in head["landmarks"]]
        landmarks = {mark: piece.arrays(f"readings{n}")[f"readings{n}"] for n, mark in enumerate(names)}
    told = json.loads(str(head["told"]))
    return Case(name, KeptSurfaces(piece), landmarks, labels=told["labels"]), told["warnings"]
