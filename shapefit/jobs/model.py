"""What one does with a shape model: look at it, draw from it, show its modes, hand it on."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shapefit.io.atomic import atomic_folder, write_text
from shapefit.io.landmarks import write_landmarks
from shapefit.io.mesh import MESH_SUFFIXES, write_surfaces, write_vtp
from shapefit.io.model import read_model, write_model
from shapefit.io.scores import write_scores
from shapefit.mesh import boundary_edges
from shapefit.settings import (
    ExportSettings,
    ModelFileSettings,
    ModesSettings,
    SampleSettings,
)
from shapefit.shape_model import ShapeModel

SHOWN_MODES = 5  # modes that go into mean.vtp as vectors, to warp by


def read_model_file(model: str | Path, file: ModelFileSettings | None = None) -> ShapeModel:
    """A model as `read_model` reads it, with what the settings say of files of other programs."""
    file = file or ModelFileSettings()
    return read_model(model, file.frame or None, file.inside)


def model_info(model: str | Path, file: ModelFileSettings | None = None) -> dict:
    """What a model is, as plain numbers and texts: frame, licence, structures, modes, noise, subjects."""
    shape_model = read_model_file(model, file)
    subjects = shape_model.subjects()
    structures = {}
    for name, label, mesh in zip(
        shape_model.names,
        shape_model.labels,
        shape_model.surfaces(shape_model.mean).values(),
        strict=True,
    ):
        open_edges = boundary_edges(mesh.faces)
        structures[name] = {
            "label": label,
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
            "open_edges": open_edges,
            "volume_ml": None if open_edges else float(mesh.volume) / 1000,
        }
    known = ("id", "frame", "units", "license", "source", "read_from", "frame_of_file", "origin_in_file")
    return {
        **{key: shape_model.metadata.get(key) for key in known},
        "structures": structures,
        "vertices": len(shape_model.mean),
        "faces": len(shape_model.faces),
        "modes": shape_model.modes,
        "noise_std_mm": shape_model.noise_variance**0.5,
        "vertex_std_mm": float((shape_model.vertex_std() ** 2).mean().sqrt()),
        "variance": variance_table(shape_model),
        "landmarks": list(shape_model.landmarks.names),
        "subjects": subjects,
        "mirrored": any(case.endswith("~") for case in shape_model.cases),
        "metadata": {
            key: value for key, value in shape_model.metadata.items() if key not in (*known, "subjects")
        },
    }


def sample_job(
    model: str | Path,
    output: Path,
    settings: SampleSettings,
    count: int = 10,
    file: ModelFileSettings | None = None,
) -> Float[Tensor, "N K"]:
    """Random shapes -> a folder of meshes each (mm, model frame), coefficients.csv; returns the coefficients.

    The same seed draws the same coefficients whatever `settings.modes` is.
    """
    if count < 1:
        raise ValueError(f"cannot draw {count} samples")
    shape_model = read_model_file(model, file)
    suffix, modes = _suffix(settings.format), _modes(settings.modes, shape_model)
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randn(count, shape_model.modes, generator=generator, dtype=torch.float64)[:, :modes]
    digits = len(str(count))
    names = [f"sample_{number + 1:0{digits}d}" for number in range(count)]
    with atomic_folder(output, replaces=_meshes("sample_*", shape_model)) as folder:
        for name, coefficients in zip(names, drawn, strict=True):
            surfaces = shape_model.surfaces(shape_model.instance(coefficients))
            write_surfaces(folder / name, surfaces, suffix)
        write_scores(folder / "coefficients.csv", names, drawn, shape_model.std[:modes])
    return drawn


def modes_job(
    model: str | Path,
    output: Path,
    settings: ModesSettings,
    file: ModelFileSettings | None = None,
) -> list[dict]:
    """The mean and the mean -+ k std along each mode -> a folder of meshes each, variance.csv (returned)."""
    shape_model = read_model_file(model, file)
    suffix, modes = _suffix(settings.format), _modes(settings.modes, shape_model)
    if settings.std <= 0:
        raise ValueError(f"--std must be positive, got {settings.std:g}")
    shapes = {"mean": shape_model.mean}
    for mode in range(modes):
        for sign, word in ((-1, "minus"), (1, "plus")):
            coefficients = torch.zeros(shape_model.modes, dtype=torch.float64)
            coefficients[mode] = sign * settings.std
            name = f"mode_{mode + 1:02d}_{word}_{settings.std:g}_std"
            shapes[name] = shape_model.instance(coefficients)
    replaces = (*_meshes("mode_*", shape_model), *_meshes("mean", shape_model))
    with atomic_folder(output, replaces=replaces) as folder:
        for name, shape in shapes.items():
            write_surfaces(folder / name, shape_model.surfaces(shape), suffix)
        return _write_variance(folder, shape_model)


def export_job(
    model: str | Path,
    output: Path,
    settings: ExportSettings,
    file: ModelFileSettings | None = None,
) -> list[Path]:
    """A model for other programs -> one folder (mm, model frame, RAS); returns the files.

    The mean as <structure>.<format>, and whole as mean.vtp with the structure of each face, the std of each
    vertex (mm) and the first modes as vectors (mm per std); landmarks.mrk.json and .fcsv; scores.csv;
    variance.csv; statismo.h5 if wanted.
    """
    shape_model = read_model_file(model, file)
    suffix = _suffix(settings.format)
    mine = [f"{name}{ending}" for name in shape_model.names for ending in MESH_SUFFIXES]
    rest = ["mean.vtp", "landmarks.mrk.json", "landmarks.fcsv", "scores.csv", "statismo.h5"]
    with atomic_folder(output, replaces=(*mine, *rest)) as folder:
        write_surfaces(folder, shape_model.surfaces(shape_model.mean), suffix)
        shown = (shape_model.components * shape_model.std[:, None, None])[:SHOWN_MODES]
        write_vtp(
            folder / "mean.vtp",
            shape_model.mean.numpy(),
            shape_model.faces.numpy(),
            {
                "std_mm": shape_model.vertex_std().numpy().astype(np.float32),
                **{f"mode_{k + 1}": mode.numpy().astype(np.float32) for k, mode in enumerate(shown)},
            },
            {"structure": shape_model.structure.numpy().astype(np.int32)},
            {"structures": list(shape_model.names)},
        )
        if shape_model.landmarks.names:
            places = shape_model.landmark_positions(shape_model.mean).numpy()
            named = dict(zip(shape_model.landmarks.names, places[:, None], strict=True))
            for ending in (".mrk.json", ".fcsv"):
                write_landmarks(folder / f"landmarks{ending}", named)
        if len(shape_model.cases):
            write_scores(folder / "scores.csv", shape_model.cases, shape_model.scores, shape_model.std)
        _write_variance(folder, shape_model)
        if settings.statismo:
            write_model(folder / "statismo.h5", shape_model, extras=False)
        names = sorted(path.name for path in folder.iterdir())
    return [output / name for name in names]


def variance_table(model: ShapeModel) -> list[dict]:
    """Each mode's std in mm, its root mean square over the vertices in mm, and its share of all variance."""
    variance = model.std**2
    whole = float(variance.sum()) + model.noise_variance * model.mean.numel()
    cumulative = variance.cumsum(0)
    return [
        {
            "mode": k + 1,
            "std_mm": float(model.std[k]),
            "vertex_rms_mm": float(model.std[k]) / len(model.mean) ** 0.5,
            "share": float(variance[k]) / whole,
            "cumulative": float(cumulative[k]) / whole,
        }
        for k in range(model.modes)
    ]


def _write_variance(folder: Path, model: ShapeModel) -> list[dict]:
    table = variance_table(model)
    text = io.StringIO()
    columns = ["mode", "std_mm", "vertex_rms_mm", "share", "cumulative"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / "variance.csv", text.getvalue())
    return table


def _suffix(name: str) -> str:
    suffix = f".{name.lower().lstrip('.')}"
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"unknown format {name!r}; expected {', '.join(s[1:] for s in MESH_SUFFIXES)}")
    return suffix


def _modes(wanted: int, model: ShapeModel) -> int:
    if not 0 <= wanted <= model.modes:
        raise ValueError(f"the model has {model.modes} modes, got --modes {wanted}")
    return wanted or model.modes


def _meshes(folders: str, model: ShapeModel) -> Sequence[str]:
    return tuple(f"{folders}/{name}{ending}" for name in model.names for ending in MESH_SUFFIXES)
