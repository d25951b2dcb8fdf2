"""The card of a shape model: what it is, what it was made from, and how good it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float
from torch import Tensor

from shapefit.calibration import calibration_table
from shapefit.correspondence_quality import coverage, registration_means, registration_quality
from shapefit.io.case import Case
from shapefit.landmark_transfer import others_landmarks, positions, transfer_table
from shapefit.mode_count import cross_validation, parallel_analysis
from shapefit.model_quality import (
    compactness,
    generalisation,
    leave_one_out,
    mode_counts,
    specificity,
)
from shapefit.quality_bands import compactness_band, generalisation_band, specificity_band
from shapefit.settings import BuildSettings
from shapefit.shape_model import ShapeModel
from shapefit.workers import Workers

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

    It holds frame, units, licence, source, subjects, the quality of each registration, what of thin and
    sharp places is covered, quality curves with their bands, the number of modes above chance, the
    leave-one-out table, how well landmarks are carried and whether bands of uncertainty are as wide as they
    say; all distances in mm. Rows of `shapes` beyond the cases are their mirror images.
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
    own = shapes[: len(cases)]
    mesh = model.truncate(0)  # faces and structures alone: modes would be sent along with every case
    with Workers(settings.workers, settings.cluster) as pool:
        jobs = ((shape, mesh, case.surfaces, case.landmarks) for case, shape in zip(cases, own, strict=True))
        measured = pool.stream(registration_quality, jobs)
        registered = {case.name: row for case, row in zip(cases, measured, strict=True)}
    card["coverage"] = coverage(registered)
    card["registration"] = {
        name: {key: value for key, value in row.items() if key != "places"}
        for name, row in registered.items()
    }
    card["registration_mean"] = registration_means(list(registered.values()))
    card |= _curves(model, settings)
    if len(cases) > 2:  # nothing is left to train on without one of two
        counted = {"parallel_analysis": parallel_analysis(model), "cross_validation": cross_validation(model)}
        card["modes_suggested"] = counted
        rest = settings.calibration if settings.leave_one_out and len(cases) > 3 else 0
        share = 0.6 if rest else 1.0
        card |= _left_out(model, cases, own, settings, lambda what, f: progress(what, share * f))
        if rest:
            card["calibration"] = calibration_table(
                model,
                rest,
                settings.workers,
                settings.cluster,
                lambda what, f: progress(what, share + (1 - share) * f),
            )
    return card


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _curves(model: ShapeModel, settings: BuildSettings) -> dict:
    modes, compact, seed = mode_counts(model), compactness(model).tolist(), settings.seed
    specific = specificity(model, modes, seed=seed)
    quality: dict = {
        "compactness": compact,
        "compactness_band": compactness_band(model, compact, seed=seed),
        "modes_for_90_percent": int(np.searchsorted(compact, 0.9)) + 1,
        "specificity": {"modes": modes}
        | specific
        | {"band": {"vertex": specificity_band(model, modes, specific["vertex"], seed=seed)}},
    }
    cases = model.subjects(settings.leave_one_out_cases)
    if len(model.subjects()) > 2:
        counts = [m for m in modes if m <= model.without(cases[0]).modes]
        errors = generalisation(model, counts, cases)
        quality["generalisation"] = {"modes": counts}
        quality["generalisation"] |= {name: values.mean(0).tolist() for name, values in errors.items()}
        quality["generalisation"]["band"] = {
            name: generalisation_band(values, seed=seed) for name, values in errors.items()
        }
    return quality


def _left_out(
    model: ShapeModel,
    cases: Sequence[Case],
    shapes: Float[Tensor, "N V 3"],
    settings: BuildSettings,
    report: Progress,
) -> dict:
    by_name = {case.name: (case, shape) for case, shape in zip(cases, shapes, strict=True)}
    readings = {case.name: case.landmarks for case in cases}
    marks = others_landmarks(model, readings, shapes) if any(readings.values()) else {}
    carried = {"registration": {n: positions(by_name[n][1], model, own) for n, own in marks.items()}}
    quality: dict = {}
    if settings.leave_one_out:
        chosen = model.subjects(settings.leave_one_out_cases)
        surfaces = {n: {part: by_name[n][0].surfaces[part] for part in model.names} for n in chosen}
        rows = leave_one_out(
            model,
            surfaces,
            workers=settings.workers,
            progress=report,
            landmarks=marks,
            cluster=settings.cluster,
        )
        carried["fit"] = {row["case"]: row.pop("landmarks", {}) for row in rows}
        figures = ("assd", "hd95", "hausdorff")
        few = f"; {len(rows)} of {len(cases)} cases, evenly chosen" if len(rows) < len(cases) else ""
        quality["leave_one_out"] = {
            "note": f"alignment and PCA redone without the case; template and registrations kept{few}",
            "cases": rows,
            "mean": {f: float(np.mean([row[f] for row in rows])) for f in figures},
            "mean_shape": {f: float(np.mean([row["mean_shape"][f] for row in rows])) for f in figures},
        }
    if marks:
        quality["landmark_transfer"] = transfer_table(readings, carried)
    return quality
