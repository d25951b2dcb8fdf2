"""How near landmarks of other cases come to a case's own readings when the model carries them there.

Each case in turn is left out: its landmarks are those of the other cases, averaged on their mean shape.
They are carried to the case twice,

- by its registration: along the vertices of its own registered shape. The error is that of correspondence;
- by the fit: along the vertices of the others' model fitted to the case's surface. What a new bone meets;

and compared with the mean of the case's readings. Beside them stands the readers' spread: the root mean
square distance (mm) of a single reading from the mean of all readings of that landmark in that case.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from shapefit.landmarks import landmarks_on, mean_landmarks
from shapefit.shape_model import Landmarks, ShapeModel

Readings = Mapping[str, Float[ndarray, "R 3"]]
Places = Mapping[str, Float[ndarray, "3"]]


def others_landmarks(
    model: ShapeModel, readings: Mapping[str, Readings | None], shapes: Float[Tensor, "N V 3"]
) -> dict[str, Landmarks]:
    """For each case the landmarks that the other cases give the model (readings and `shapes` in world mm).

    `shapes` are the registered vertices, in the order of `readings`, in which a case may have none.
    """
    training = model.training_shapes()
    own = dict(zip(readings, landmarks_on(list(readings.values()), shapes, model.faces), strict=True))
    carried = {}
    for case in readings:
        rows = [row for row, owner in enumerate(model.owners) if owner != case]
        others = [marks for name, marks in own.items() if name != case]
        carried[case] = mean_landmarks(training[rows].mean(0), model.faces, others)
    return carried


def positions(
    vertices: Float[Tensor, "V 3"], model: ShapeModel, landmarks: Landmarks
) -> dict[str, Float[ndarray, "3"]]:
    """Where landmarks lie (mm) on vertices of this model's mesh, by name."""
    corners = vertices[model.faces[landmarks.face]]
    points = (corners * landmarks.barycentric.to(corners)[..., None]).sum(1)
    return dict(zip(landmarks.names, points.numpy(), strict=True))


def transfer_table(
    readings: Mapping[str, Readings | None], carried: Mapping[str, Mapping[str, Places]]
) -> dict:
    """Distances in mm between readings and landmarks `carried` by "registration" or "fit" (or both), by case.

    For each way `mean`, `median`, `p95` and `max` over all landmarks of all cases, the same for the
    `readers` (their spread), and one row per landmark with the worst case named, the worst landmark first.
    """
    errors: dict[str, dict[str, dict[str, float]]] = {way: {} for way in (*carried, "readers")}
    for case, marks in readings.items():
        for name, points in (marks or {}).items():
            places = {way: cases.get(case, {}).get(name) for way, cases in carried.items()}
            if any(place is None for place in places.values()):
                continue  # a landmark that no other case has, or a case that was not left out
            for way, place in places.items():
                errors[way].setdefault(name, {})[case] = float(np.linalg.norm(place - points.mean(0)))
            errors["readers"].setdefault(name, {})[case] = readers_spread(points)
    rows = []
    for name in errors["readers"]:
        row: dict = {"name": name, "cases": len(errors["readers"][name])}
        for way, by_name in errors.items():
            values = by_name[name]
            worst = max(values, key=values.__getitem__)
            row[way] = {
                "mean": float(np.mean(list(values.values()))),
                "max": values[worst],
                "worst_case": worst,
            }
        rows.append(row)
    rows.sort(key=lambda row: -row[next(iter(errors))]["mean"])
    pooled = {way: [e for name in by_name.values() for e in name.values()] for way, by_name in errors.items()}
    return {way: _spread(values) for way, values in pooled.items() if values} | {"landmarks": rows}


def readers_spread(readings: Float[ndarray, "R 3"]) -> float:
    """Root mean square distance (mm) of the readings of one landmark from their mean."""
    return float(np.sqrt(((readings - readings.mean(0)) ** 2).sum(1).mean()))


def readers_parts(readings: Float[ndarray, "R 3"], raters: Sequence[int]) -> dict[str, float]:
    """The spread split in two: `intra`, of readings about their own reader's mean, `inter`, of those means.

    Root mean squares in mm; with as many readings by each reader, their squares add up to the spread's.
    """
    by_rater = [readings[np.asarray(raters) == rater] for rater in dict.fromkeys(raters)]
    within = np.concatenate([own - own.mean(0) for own in by_rater])
    means = np.array([own.mean(0) for own in by_rater])
    return {"intra": float(np.sqrt((within**2).sum(1).mean())), "inter": readers_spread(means)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    median, p95 = np.percentile(values, [50, 95])
    return {"mean": float(np.mean(values)), "median": float(median), "p95": float(p95), "max": max(values)}
