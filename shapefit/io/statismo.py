"""Shape models of statismo and Scalismo: HDF5 of versions 0.8, 0.9 and 1.x, and HDF5 as JSON.

What the versions hold, read off the programs that write and read them (statismo v0.11 StatismoIO.h, v0.8
StatisticalModel.txx; Scalismo 0.16 to 1.0-RC1 StatismoIO.scala; scalismo-faces MoMoIO.scala):

- `model/pcaBasis` is U sqrt(lambda) in 0.8 and U in 0.9 and 1.x; a file without a version is 0.8 (statismo).
  No published program writes 1.x; Scalismo reads it as 0.9.
- `model/pcaVariance` is lambda without the noise: probabilistic PCA takes it off (PCAModelBuilder).
- `model/noiseVariance` is a number (statismo) or an array of one (Scalismo), mm^2.
- `model/mean` are places, not displacements from the reference, for every mesh of shapes, in all versions;
  of scalismo-faces' expression models (gravis::MeshExpressionRepresenter) they are displacements.
- `representer/points` (3,V) and `cells` (3,F), int32 or uint32; in 0.8 `representer/reference`, the bytes of
  a legacy VTK file; gravis' old `reference-mesh/vertex-coordinates` (V,3) and `triangle-list` (F,3).
- U need not be orthonormal: Scalismo also stores Gaussian processes approximated on few points. Such
  models are turned to their principal axes; the shapes and how likely they are stay.
- Several models in one file stand in groups, which `catalog` names with their types.
- No file states a frame. Meshes that came through ITK are LPS; ours carry the attribute SPACE.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Float64, Int64

from shapefit.io.frame import FRAMES, to_ras
from shapefit.io.vtk_legacy import read_vtk

ORTHONORMAL = 1e-2  # how far U^T U of 32-bit files may lie from the identity
NEGLIGIBLE = 1e-12  # share of the largest variance below which a mode is none


class Statismo(NamedTuple):
    """What such a file says, in mm and RAS."""

    mean: Float64[np.ndarray, "V 3"]
    components: Float64[np.ndarray, "K V 3"]  # orthonormal when flattened
    std: Float64[np.ndarray, " K"]  # mm
    noise_variance: float  # mm^2
    faces: Int64[np.ndarray, "F 3"]
    version: str
    frame: str  # of the file
    stated: bool  # whether the file says so


def read_statismo(path: Path, file: h5py.File, frame: str | None = None, inside: str = "") -> Statismo:
    """The model of an open file, which is taken as RAS if neither the file nor `frame` says LPS.

    `inside` is the group of the model, where the file holds several. Raises ValueError, with the file's
    name, for what is incomplete, of another version, not a model of shapes, or in a frame other than stated.
    """
    group = _model_group(path, file, inside)
    version = _version(path, file, group)
    points, faces, representer = _reference(path, group)
    mean = _numbers(path, group, "model/mean").reshape(-1)
    variance = _numbers(path, group, "model/pcaVariance").reshape(-1)
    basis = _numbers(path, group, "model/pcaBasis")
    if basis.ndim == 1:
        basis = basis[:, None]
    if basis.shape != (len(mean), len(variance)) and basis.shape == (len(variance), len(mean)):
        basis = basis.T
    count = len(mean) // 3
    if len(mean) % 3 or basis.shape != (len(mean), len(variance)) or (len(points) and len(points) != count):
        raise ValueError(
            f"{path}: the sizes disagree: mean {mean.shape}, pcaBasis {basis.shape}, "
            f"pcaVariance {variance.shape}, points of the mesh {points.shape}"
        )
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        raise ValueError(f"{path}: the cells name vertices beyond the {count} of the mean")
    if not (np.isfinite(mean).all() and np.isfinite(basis).all() and (variance >= 0).all()):
        raise ValueError(f"{path}: mean, pcaBasis or pcaVariance hold values that are not finite or negative")
    places = _places(path, mean.reshape(-1, 3), points, faces, representer)
    noise = _noise(path, group)
    components, std = _principal(path, version, basis, variance)
    said = _text(group["representer"].attrs.get("SPACE"))
    if said and said not in FRAMES:
        raise ValueError(f"{path} is in frame {said!r}; expected RAS or LPS")
    if said and frame and frame != said:
        raise ValueError(f"{path} states that it is {said}; it cannot be read as {frame}")
    frame = said or frame or "RAS"
    scale = _millimetres(group)
    return Statismo(
        to_ras(places * scale, frame),
        to_ras(components.T.reshape(-1, count, 3), frame),
        std * scale,
        noise * scale**2,
        faces,
        ".".join(map(str, version)),
        frame,
        bool(said),
    )


def _model_group(path: Path, file: h5py.File, inside: str) -> h5py.Group:
    """The group that holds the model: the root, the one named, or the only one with shapes."""
    if inside:
        if inside.strip("/") not in file or "model" not in file[inside.strip("/")]:
            raise ValueError(f"{path} has no model {inside!r}; it holds {', '.join(_models(file)) or 'none'}")
        return file[inside.strip("/")]
    if "model" in file:
        return file
    models = _models(file)
    shapes = [name for name, kind in models.items() if kind in ("POLYGON_MESH_MODEL", "")]
    if len(shapes) == 1:
        return file[shapes[0]]
    if models:
        raise ValueError(f"{path} holds {len(models)} models: {', '.join(models)}; say which (inside)")
    if "version" in file:
        raise ValueError(f"{path} lacks /model; it is not a complete statismo model")
    raise ValueError(f"{path} is not a shape model: it has neither /model nor /version")


def _models(file: h5py.File) -> dict[str, str]:
    """Group of each model that the file holds -> its type, empty if the file's catalog does not say."""
    named = {}
    for entry in file["catalog"].values() if "catalog" in file else []:
        where = _text(entry["modelPath"][()]).strip("/") if "modelPath" in entry else ""
        if where and where in file and "model" in file[where]:
            named[where] = _text(entry["modelType"][()]) if "modelType" in entry else ""
    return named or {
        name: "" for name, group in file.items() if isinstance(group, h5py.Group) and "model" in group
    }


def _version(path: Path, file: h5py.File, group: h5py.Group) -> tuple[int, int]:
    place = group if "version" in group else file
    if "version" not in place:
        return 0, 8
    major, minor = (
        int(np.ravel(_numbers(path, place, f"version/{which}Version"))[0]) for which in ("major", "minor")
    )
    if (major, minor) not in ((0, 8), (0, 9)) and major != 1:
        raise ValueError(f"{path} is a statismo file of version {major}.{minor}; 0.8, 0.9 and 1.x are read")
    return major, minor


def _reference(path: Path, group: h5py.Group) -> tuple[np.ndarray, np.ndarray, str]:
    """Points (none where the file has none), faces, and the name of the representer."""
    if "representer" not in group:
        raise ValueError(f"{path} lacks /representer; it is not a complete statismo model")
    representer = group["representer"]
    kind, name = (_text(representer.attrs.get(key)) for key in ("datasetType", "name"))
    if kind not in ("", "POLYGON_MESH", "POLYGON_MESH_DATA"):
        raise ValueError(f"{path} is a model of {kind}; models of surfaces (POLYGON_MESH) are read")
    if "Color" in name:
        raise ValueError(f"{path} is a model of colours ({name}), not of shapes")
    if "reference" in representer:
        try:
            return *read_vtk(np.ascontiguousarray(representer["reference"][()]).tobytes()), name
        except ValueError as error:
            raise ValueError(f"{path}: the mesh in /representer/reference is not readable: {error}") from None
    if "reference-mesh" in representer:
        mesh = representer["reference-mesh"]
        points = _numbers(path, mesh, "vertex-coordinates")
        return points, _numbers(path, mesh, "triangle-list").astype(np.int64), name
    cells = _numbers(path, group, "representer/cells").astype(np.int64)
    points = _numbers(path, group, "representer/points") if "points" in representer else np.zeros((3, 0))
    return _rows(path, "points", points), _rows(path, "cells", cells), name


def _rows(path: Path, what: str, values: np.ndarray) -> np.ndarray:
    """(3,N) as the layout has it, or (N,3), as (N,3)."""
    if values.ndim != 2 or 3 not in values.shape:
        raise ValueError(f"{path}: the {what} of its mesh are {values.shape}; expected 3 x N, of triangles")
    return np.ascontiguousarray(values.T if values.shape[0] == 3 else values)


def _places(
    path: Path, mean: np.ndarray, points: np.ndarray, faces: np.ndarray, representer: str
) -> np.ndarray:
    """Where the vertices of the mean lie. Raises ValueError where they look like displacements."""
    if "Expression" in representer:
        return mean + points
    if len(points) and len(faces) and _area(mean, faces) < 1e-2 * _area(points, faces):
        raise ValueError(
            f"{path}: the mean is a surface of next to no area on a mesh that has one; it seems to hold "
            "displacements, where statismo and Scalismo keep places. Add the points of the mesh to it"
        )
    return mean


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def _noise(path: Path, group: h5py.Group) -> float:
    if "model/noiseVariance" not in group:
        return 0.0
    noise = np.ravel(_numbers(path, group, "model/noiseVariance"))
    if noise.size != 1 or not np.isfinite(noise[0]) or noise[0] < 0:
        raise ValueError(f"{path}: noiseVariance is {noise}; expected one number that is not negative")
    return float(noise[0])


def _principal(
    path: Path, version: tuple[int, int], basis: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns and standard deviations, whatever the version scales and however U lies."""
    keep = variance > NEGLIGIBLE * variance.max(initial=0)
    basis, std = basis[:, keep], np.sqrt(variance[keep])
    if not len(std):
        return basis, std
    scaled = version == (0, 8)
    unit, other = (basis / std, basis) if scaled else (basis, basis / std)
    gram = unit.T @ unit
    if _off(gram) < ORTHONORMAL:
        # stored in 32 bits; made orthonormal to 64 again, each column as near as can be to its own
        values, vectors = np.linalg.eigh(gram)
        return unit @ (vectors / np.sqrt(values)) @ vectors.T, std
    if _off(other.T @ other) < ORTHONORMAL:
        holds, says = ("U", "0.8") if scaled else ("U sqrt(lambda)", "0.9 or later")
        raise ValueError(f"{path}: pcaBasis is {holds}, but /version says {says}; put the version right")
    u, singular, _ = np.linalg.svd(unit * std, full_matrices=False)
    keep = singular**2 > NEGLIGIBLE * singular[0] ** 2
    return u[:, keep], singular[keep]


def _off(gram: np.ndarray) -> float:
    return float(np.abs(gram - np.eye(len(gram))).max())


def _millimetres(group: h5py.Group) -> float:
    """mm per unit of length: scalismo-faces' old writer states it in metres."""
    stated = group["representer"].get("length-unit")
    return 1.0 if stated is None else 1000.0 * float(np.ravel(stated[()])[0])


def _numbers(path: Path, group: h5py.Group, name: str) -> np.ndarray:
    if name not in group:
        where = f"{group.name.rstrip('/')}/{name}"
        raise ValueError(f"{path} lacks {where}; it is not a complete statismo model")
    values = np.asarray(group[name][()])
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {name} does not hold numbers")
    return values.astype(np.float64)


def _text(value: object) -> str:
    """A text however it was stored: fixed or variable length, alone or in an array of one."""
    first = np.ravel(np.asarray(value, dtype=object))[0] if value is not None else ""
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return text.rstrip("\0").strip()
