"""Shape models as files: the statismo / Scalismo HDF5 layout, version 0.9, and our extras in /shapefit.

`/model`: mean (absolute, x y z interleaved, mm), pcaBasis (3V, K) with orthonormal columns, pcaVariance
(mm^2), noiseVariance. `/representer`: the mean as a triangle mesh. Statismo writers leave the frame
open; our files state it (attribute SPACE of /representer: RAS). 32-bit floats, 32-bit signed cells and an
array of one for the noise are what statismo, Scalismo and scalismo-faces all read: Scalismo's reader
gives unsigned cells up.
"""

from pathlib import Path

import h5py
import numpy as np
import torch

from shapefit.io.atomic import atomic_path
from shapefit.io.hdf5_json import open_hdf5_json
from shapefit.io.shipped import shipped_file
from shapefit.io.statismo import Statismo, read_statismo
from shapefit.shape_model import Landmarks, ShapeModel, no_landmarks

CENTRED = 1e-3  # mm, how near the origin a centroid must lie to be there already


def model_path(path_or_name: str | Path) -> Path:
    """The file of a model given by path, or by its name in `models/` (repository or installed package).

    Raises ValueError naming the models there are.
    """
    return shipped_file(path_or_name, ".h5", "model file", "a model")


def write_model(path: str | Path, model: ShapeModel, extras: bool = True) -> None:
    """Write a model as statismo v0.9 HDF5 (float32, compressed), whole or not at all.

    Without `extras` it is a plain statismo file: one mesh, without structures, landmarks and training cases.
    """
    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    points = model.mean.numpy().astype(np.float32)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("model")
        group["mean"] = points.reshape(-1)
        basis = model.components.reshape(model.modes, points.size).T.numpy().astype(np.float32)
        group.create_dataset("pcaBasis", data=basis, **(packed if basis.size else {}))
        group["pcaVariance"] = (model.std**2).numpy().astype(np.float32)
        group["noiseVariance"] = np.array([model.noise_variance], dtype=np.float32)
        representer = file.create_group("representer")
        representer.attrs["name"] = "itkStandardMeshRepresenter"
        representer.attrs["version"] = "0.9"
        representer.attrs["datasetType"] = "POLYGON_MESH"
        representer.attrs["SPACE"] = "RAS"
        representer["points"] = points.T.copy()
        representer.create_dataset("cells", data=model.faces.T.numpy().astype(np.int32), **packed)
        version = file.create_group("version")
        version["majorVersion"], version["minorVersion"] = np.int32(0), np.int32(9)
        info = file.create_group("modelinfo")
        if model.scores.numel():
            info["scores"] = model.scores.T.numpy().astype(np.float32)
        if extras:
            _write_extras(file.create_group("shapefit"), model, packed)


def _write_extras(extras: h5py.Group, model: ShapeModel, packed: dict) -> None:
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


def read_model(path_or_name: str | Path, frame: str | None = None, inside: str = "") -> ShapeModel:
    """Read a model by path or by name (`pelvis`): ours, or of statismo or Scalismo (0.8, 0.9, 1.x, JSON).

    A foreign file is one structure, `bone`; one that states no frame is taken as RAS, or as `frame` says
    (LPS for meshes that came through ITK). It is moved so that the mean's centroid is the origin. What was
    taken and moved stands in the metadata: `read_from`, `frame_of_file`, `origin_in_file` (mm, RAS).
    `inside` names the group of the model where a file holds several.
    Raises ValueError that says what is wrong with a file that is cut off, of another version, not a
    model, incomplete, or in another frame than `frame`.
    """
    path = model_path(path_or_name)
    with _open(path) as file:
        try:
            read = read_statismo(path, file, frame, inside)
            return _ours(path, file, read) if "shapefit" in file and not inside else _foreign(path, read)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} is cut off or damaged; copy it again ({error})") from None


def _open(path: Path) -> h5py.File:
    if path.suffix.lower() == ".json":
        return open_hdf5_json(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        with path.open("rb") as start:
            cut = start.read(8) == b"\x89HDF\r\n\x1a\n"
        what = "is cut off or damaged; copy it again" if cut else "is not an HDF5 shape model"
        raise ValueError(f"{path} {what} ({error})") from None


def _foreign(path: Path, read: Statismo) -> ShapeModel:
    faces = torch.from_numpy(read.faces)
    metadata = {
        "id": path.name.removesuffix(".json").removesuffix(".h5"),
        "frame": "RAS",
        "units": "mm",
        "read_from": f"statismo {read.version}",
        "frame_of_file": f"{read.frame}{'' if read.stated else ', which the file does not state'}",
    }
    origin = read.mean.mean(0)
    if np.abs(origin).max() > CENTRED:
        metadata["origin_in_file"] = " ".join(f"{x:.6g}" for x in origin)
    else:
        origin = np.zeros(3)
    falling = np.argsort(-read.std, kind="stable")
    return ShapeModel(
        torch.from_numpy(read.mean - origin),
        torch.from_numpy(read.components[falling]),
        torch.from_numpy(read.std[falling]),
        read.noise_variance,
        faces,
        torch.zeros(len(faces), dtype=torch.int64),
        ("bone",),
        (1,),
        metadata=metadata,
    )


def _ours(path: Path, file: h5py.File, read: Statismo) -> ShapeModel:
    structure = torch.from_numpy(_get(path, file, "shapefit/structure").astype(np.int64))
    std = torch.from_numpy(_get(path, file, "shapefit/std").astype(np.float64))
    if len(structure) != len(read.faces) or len(std) != len(read.std):
        raise ValueError(
            f"{path}: /shapefit has {len(structure)} faces and {len(std)} modes, /model has "
            f"{len(read.faces)} and {len(read.std)}"
        )
    return ShapeModel(
        torch.from_numpy(read.mean),
        torch.from_numpy(read.components),
        std,
        read.noise_variance,
        torch.from_numpy(read.faces),
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


def _strings(texts: tuple[str, ...]) -> np.ndarray:
    return np.array(list(texts), dtype=h5py.string_dtype())


def _texts(array: np.ndarray) -> tuple[str, ...]:
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in array)
