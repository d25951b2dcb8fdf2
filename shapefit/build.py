"""Segmentations of many cases -> a shape model and the record (card) that tells how good it is."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from shapefit.correspondence import correspond
from shapefit.io.case import Case
from shapefit.mesh import closest_points
from shapefit.model_quality import (
    compactness,
    generalisation,
    leave_one_out,
    mode_counts,
    registration_residual,
    specificity,
)
from shapefit.registration import flipped_faces
from shapefit.settings import BuildSettings
from shapefit.shape_model import Landmarks, ShapeModel, no_landmarks, train

Progress = Callable[[str, float], None]


def build_model(
    cases: Sequence[Case],
    settings: BuildSettings | None = None,
    labels: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> tuple[ShapeModel, dict]:
    """Shape model of cases (closed meshes in world mm), and its JSON-able card.

    `labels` are the structures' ids in segmentations, which also give their order (1, 2, ... in the order
    of the first case if absent). The card holds frame, units, licence, source, subjects, registration
    residuals in mm, quality curves, the leave-one-out table and times in seconds.
    Raises ValueError for fewer than 2 cases, for names that occur twice and for a missing structure.
    """
    settings = settings or BuildSettings()
    report = progress or (lambda what, fraction: None)
    names = _names(cases, labels)
    started = time.perf_counter()
    surfaces = [{name: case.surfaces[name] for name in names} for case in cases]
    laid = correspond(surfaces, settings, lambda what, fraction: report(what, 0.7 * fraction))
    registered = time.perf_counter()
    rows = [cases[row].name + ("~" if m else "") for row, m in zip(laid.rows, laid.mirrored, strict=True)]
    shapes, faces = torch.from_numpy(laid.shapes), torch.from_numpy(laid.faces)
    metadata = {
        "id": settings.name,
        "license": settings.license,
        "source": settings.source,
        "subjects": " ".join(case.name for case in cases),
        "created_by": f"shapefit {version('shapefit')}",
    }
    model = train(
        shapes,
        faces,
        torch.from_numpy(laid.structure),
        names,
        [labels[name] for name in names] if labels else range(1, len(names) + 1),
        cases=rows,
        metadata=metadata,
    )
    marks = carry_landmarks(model, [case.landmarks for case in cases], shapes[: len(cases)])
    model = replace(model, landmarks=marks)
    card: dict = metadata | {
        "frame": "RAS",
        "units": "mm",
        "subjects": [case.name for case in cases],
        "structures": dict(zip(model.names, model.labels, strict=True)),
        "vertices": len(model.mean),
        "faces": len(model.faces),
        "modes": model.modes,
        "landmarks": list(marks.names),
        "std": model.std.tolist(),
        "settings": {key: _plain(value) for key, value in asdict(settings).items()},
    }
    card["registration"] = {
        case.name: registration_residual(shape, model, case.surfaces)
        | {"flipped_faces": len(flipped_faces(shape.numpy(), laid.faces))}
        for case, shape in zip(cases, shapes, strict=False)
    }
    card["registration_mean"] = {
        way: {
            figure: float(np.mean([row[way][figure] for row in card["registration"].values()]))
            for figure in ("mean", "p95", "max")
        }
        for way in ("model_to_segmentation", "segmentation_to_model")
    }
    report("quality", 0.72)
    card |= _quality(model, cases, settings, lambda what, f: report(what, 0.75 + 0.25 * f))
    finished = time.perf_counter()
    card["seconds"] = {"correspondence": registered - started, "quality": finished - registered}
    report("done", 1.0)
    return model, card


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _names(cases: Sequence[Case], labels: Mapping[str, int] | None) -> list[str]:
    if len(cases) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(cases)}")
    called = [case.name for case in cases]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ValueError(f"several cases are called {', '.join(twice)}; each needs a name of its own")
    names = list(labels or cases[0].surfaces)
    for case in cases:
        if missing := [name for name in names if name not in case.surfaces]:
            raise ValueError(
                f"case {case.name} lacks {', '.join(missing)}; it has {', '.join(case.surfaces) or 'nothing'}"
            )
    return names


def carry_landmarks(
    model: ShapeModel,
    landmarks: Sequence[Mapping[str, Float[ndarray, "R 3"]] | None],
    shapes: Float[Tensor, "N V 3"],
) -> Landmarks:
    """Landmarks of the cases, carried to the mean: by each case's own registration, then averaged.

    `landmarks` holds each case's readings (world mm) by name; readings are averaged first. `shapes` are
    the registered vertices of the same cases, in world mm. A name need not occur in every case.
    """
    faces, mean = model.faces.numpy(), model.mean.numpy()
    places: dict[str, list[ndarray]] = {}
    for readings, shape in zip(landmarks, shapes.numpy(), strict=True):
        for name, points in (readings or {}).items():
            found = closest_points(np.asarray(points).mean(0, keepdims=True), shape, faces)
            places.setdefault(name, []).append(found.barycentric[0] @ mean[faces[found.face[0]]])
    if not places:
        return no_landmarks()
    found = closest_points(np.array([np.mean(each, axis=0) for each in places.values()]), mean, faces)
    return Landmarks(tuple(places), torch.from_numpy(found.face), torch.from_numpy(found.barycentric))


def _quality(model: ShapeModel, cases: Sequence[Case], settings: BuildSettings, report: Progress) -> dict:
    modes = mode_counts(model)
    quality: dict = {"compactness": compactness(model).tolist()}
    quality["specificity"] = {"modes": modes, "vertex": specificity(model, modes, seed=settings.seed)}
    if len(cases) < 3:  # nothing is left to train on without one of two
        return quality
    counts = [m for m in modes if m <= model.without(cases[0].name).modes]
    quality["generalisation"] = {"modes": counts} | generalisation(model, counts)
    if settings.leave_one_out:
        surfaces = {case.name: {name: case.surfaces[name] for name in model.names} for case in cases}
        rows = leave_one_out(model, surfaces, workers=settings.workers, progress=report)
        figures = ("assd", "hd95", "hausdorff")
        quality["leave_one_out"] = {
            "note": "alignment and PCA redone without the case; template and registrations kept",
            "cases": rows,
            "mean": {f: float(np.mean([row[f] for row in rows])) for f in figures},
            "mean_shape": {f: float(np.mean([row["mean_shape"][f] for row in rows])) for f in figures},
        }
    return quality
