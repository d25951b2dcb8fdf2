"""Shape models as files: the statismo / Scalismo HDF5 layout, version 0.9, and our extras in /shapefit.

`/model`: mean (absolute, x y z interleaved, mm), pcaBasis (3V, K) with orthonormal columns, pcaVariance
(mm^2), noiseVariance. `/representer`: the mean as a triangle mesh. Statismo writers leave the frame
open; our files state it (RAS).
"""

from pathlib import Path

import h5py
import numpy as np
import torch

from shapefit.io.atomic import atomic_path
from shapefit.shape_model import Landmarks, ShapeModel, no_landmarks


def model_path(path_or_name: str | Path) -> Path:
    """The file of a model given by path, or by its name in `models/` (repository or installed package).

    Raises ValueError naming the models there are.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parents[1]
    known: dict[str, Path] = {}
    for folder in (package / "models", package.parent / "models", Path("models")):
        for file in sorted(folder.glob("*/*.h5")) if folder.is_dir() else []:
            if file.stem == file.parent.name:
                known.setdefault(file.stem, file)
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    names = ", ".join(known) or "none installed"
    raise ValueError(f"{path_or_name}: no such model file, nor the name of a model ({names})")


def write_model(path: str | Path, model: ShapeModel) -> None:
    """Write a model as statismo v0.9 HDF5 (float32, compressed), whole or not at all."""
    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    points = model.mean.numpy().astype(np.float32)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("model")
        group["mean"] = points.reshape(-1)
        basis = model.components.reshape(model.modes, -1).T.numpy().astype(np.float32)
        group.create_dataset("pcaBasis", data=basis, **packed)
        group["pcaVariance"] = (model.std**2).numpy().astype(np.float32)
        group["noiseVariance"] = np.float32(model.noise_variance)
        representer = file.create_group("representer")
        representer.attrs["name"] = "itkStandardMeshRepresenter"
        representer.attrs["datasetType"] = "POLYGON_MESH"
        representer["points"] = points.T.copy()
        representer.create_dataset("cells", data=model.faces.T.numpy().astype(np.uint32), **packed)
        version = file.create_group("version")
        version["majorVersion"], version["minorVersion"] = np.int32(0), np.int32(9)
        file.create_group("modelinfo")
        extras = file.create_group("shapefit")
        extras.create_dataset("structure", data=model.structure.numpy().astype(np.int32), **packed)
        extras["names"] = _strings(model.names)
        extras["labels"] = np.array(model.labels, dtype=np.int64)
        extras["scores"] = model.scores.numpy()
        extras["std"] = model.std.numpy()
        extras["cases"] = _strings(model.cases)
        extras["landmark_names"] = _strings(model.landmarks.names)
        extras["landmark_face"] = model.landmarks.face.numpy()
        extras["landmark_barycentric"] = model.landmarks.barycentric.numpy()
        metadata = extras.create_group("metadata")
        for key, value in model.metadata.items():
            metadata.attrs[key] = value


def read_model(path_or_name: str | Path) -> ShapeModel:
    """Read a model by path or by name (`pelvis`). A plain statismo v0.9 file is one structure, `bone`.

    Raises ValueError that says what is wrong with a file that is cut off, of another version, not a
    model, or incomplete.
    """
    path = model_path(path_or_name)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        with path.open("rb") as start:
            cut = start.read(8) == b"\x89HDF\r\n\x1a\n"
        what = "is cut off or damaged; copy it again" if cut else "is not an HDF5 shape model"
        raise ValueError(f"{path} {what} ({error})") from None
    with file:
        try:
            return _read(path, file)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} is cut off or damaged; copy it again ({error})") from None


def _read(path: Path, file: h5py.File) -> ShapeModel:
    if "model" not in file and "version" not in file:
        raise ValueError(f"{path} is not a shape model: it has neither /model nor /version")
    version = tuple(int(np.ravel(_get(path, file, f"version/{k}Version"))[0]) for k in ("major", "minor"))
    if version != (0, 9):
        raise ValueError(f"{path} is a statismo file of version {version[0]}.{version[1]}; 0.9 is read")
    mean = _get(path, file, "model/mean").astype(np.float64).reshape(-1)
    basis = _get(path, file, "model/pcaBasis").astype(np.float64)
    variance = _get(path, file, "model/pcaVariance").astype(np.float64).reshape(-1)
    noise = float(np.ravel(_get(path, file, "model/noiseVariance"))[0])
    cells = _get(path, file, "representer/cells").astype(np.int64)
    modes = len(variance)
    if len(mean) % 3 or basis.shape != (len(mean), modes) or cells.shape[0] != 3:
        raise ValueError(
            f"{path}: the sizes disagree: mean {mean.shape}, pcaBasis {basis.shape}, "
            f"pcaVariance {variance.shape}, cells {cells.shape}"
        )
    if cells.size and (cells.min() < 0 or cells.max() >= len(mean) // 3):
        raise ValueError(f"{path}: the cells name vertices beyond the {len(mean) // 3} of the mean")
    if not (np.isfinite(mean).all() and np.isfinite(basis).all() and (variance >= 0).all()):
        raise ValueError(f"{path}: mean, pcaBasis or pcaVariance hold values that are not finite or negative")
    # stored in float32; made orthonormal to double precision again
    components = torch.from_numpy(np.ascontiguousarray(_orthonormal(basis).T)).reshape(modes, -1, 3)
    faces = torch.from_numpy(np.ascontiguousarray(cells.T))
    std = torch.from_numpy(np.sqrt(variance))
    mean = torch.from_numpy(mean.reshape(-1, 3))
    if "shapefit" not in file:
        structure = torch.zeros(len(faces), dtype=torch.int64)
        metadata = {"units": "mm", "id": path.stem}
        return ShapeModel(mean, components, std, noise, faces, structure, ("bone",), (1,), metadata=metadata)
    structure = torch.from_numpy(_get(path, file, "shapefit/structure").astype(np.int64))
    if len(structure) != len(faces):
        raise ValueError(f"{path}: /shapefit/structure has {len(structure)} entries for {len(faces)} faces")
    return ShapeModel(
        mean,
        components,
        torch.from_numpy(_get(path, file, "shapefit/std").astype(np.float64)),
        noise,
        faces,
        structure,
        names=_texts(_get(path, file, "shapefit/names")),
        labels=tuple(int(label) for label in _get(path, file, "shapefit/labels")),
        landmarks=_landmarks(path, file),
        scores=torch.from_numpy(_get(path, file, "shapefit/scores").astype(np.float64)),
        cases=_texts(_get(path, file, "shapefit/cases")),
        metadata={key: str(value) for key, value in file["shapefit/metadata"].attrs.items()}
        if "metadata" in file["shapefit"]
        else {},
    )


def _landmarks(path: Path, file: h5py.File) -> Landmarks:
    names = _texts(_get(path, file, "shapefit/landmark_names"))
    if not names:
        return no_landmarks()
    face = torch.from_numpy(_get(path, file, "shapefit/landmark_face").astype(np.int64))
    barycentric = torch.from_numpy(_get(path, file, "shapefit/landmark_barycentric").astype(np.float64))
    return Landmarks(names, face, barycentric)


def _get(path: Path, file: h5py.File, name: str) -> np.ndarray:
    if name not in file:
        raise ValueError(f"{path} lacks /{name}; it is not a complete statismo 0.9 model")
    return np.asarray(file[name][()])


def _orthonormal(basis: np.ndarray) -> np.ndarray:
    if basis.shape[1] == 0:
        return basis
    gram = basis.T @ basis
    if np.abs(gram - np.eye(len(gram))).max() > 1e-2:
        raise ValueError("the columns of pcaBasis are not orthonormal, as version 0.9 says they are")
    values, vectors = np.linalg.eigh(gram)
    return basis @ (vectors / np.sqrt(values)) @ vectors.T


def _strings(texts: tuple[str, ...]) -> np.ndarray:
    return np.array(list(texts), dtype=h5py.string_dtype())


def _texts(array: np.ndarray) -> tuple[str, ...]:
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in array)
