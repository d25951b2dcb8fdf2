"""The card of a shape model: what it is, what it was made from, and how good it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float
from torch import Tensor

from shapefit.io.case import Case
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
from shapefit.shape_model import ShapeModel

Progress = Callable[[str, float], None]


def model_card(
    model: ShapeModel,
    cases: Sequence[Case],
    shapes: Float[Tensor, "N V 3"],
    settings: BuildSettings,
    metadata: Mapping[str, str],
    progress: Progress,
) -> dict:
    """JSON-able record of a model that was built from cases, whose registered `shapes` are in world mm.

    It holds frame, units, licence, source, subjects, registration residuals in mm, quality curves and the
    leave-one-out table. Rows of `shapes` beyond the cases are their mirror images.
    """
    card: dict = dict(metadata) | {
        "frame": "RAS",
        "units": "mm",
        "subjects": [case.name for case in cases],
        "structures": dict(zip(model.names, model.labels, strict=True)),
        "vertices": len(model.mean),
        "faces": len(model.faces),
        "modes": model.modes,
        "landmarks": list(model.landmarks.names),
        "std": model.std.tolist(),
        "settings": {key: _plain(value) for key, value in asdict(settings).items()},
    }
    card["registration"] = {
        case.name: registration_residual(shape, model, case.surfaces)
        | {"flipped_faces": len(flipped_faces(shape.numpy(), model.faces.numpy()))}
        for case, shape in zip(cases, shapes, strict=False)
    }
    card["registration_mean"] = {
        way: {
            figure: float(np.mean([row[way][figure] for row in card["registration"].values()]))
            for figure in ("mean", "p95", "max")
        }
        for way in ("model_to_segmentation", "segmentation_to_model")
    }
    return card | _quality(model, cases, settings, progress)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


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
