"""Landmarks read on single cases, carried to a model through the cases' own registrations."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from shapefit.mesh import closest_points
from shapefit.shape_model import Landmarks, ShapeModel, no_landmarks


def carry_landmarks(
    model: ShapeModel,
    landmarks: Sequence[Mapping[str, Float[ndarray, "R 3"]] | None],
    shapes: Float[Tensor, "N V 3"],
) -> Landmarks:
    """Landmarks of the cases, carried to the mean: by each case's own registration, then averaged.

    `landmarks` holds each case's readings (world mm) by name; readings are averaged first. `shapes` are
    the registered vertices of the same cases, in world mm. A name need not occur in every case.
    """
    return mean_landmarks(model.mean, model.faces, landmarks_on(landmarks, shapes, model.faces))


def landmarks_on(
    landmarks: Sequence[Mapping[str, Float[ndarray, "R 3"]] | None],
    shapes: Float[Tensor, "N V 3"],
    faces: Int[Tensor, "F 3"],
) -> list[Landmarks]:
    """Where on the template each case has its landmarks: nearest to the mean of their readings (world mm)."""
    found = []
    for readings, shape in zip(landmarks, shapes.numpy(), strict=True):
        if not readings:
            found.append(no_landmarks())
            continue
        points = np.array([np.asarray(each).mean(0) for each in readings.values()])
        found.append(_nearest(tuple(readings), points, shape, faces))
    return found


def mean_landmarks(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], landmarks: Sequence[Landmarks]
) -> Landmarks:
    """Landmarks that several cases have on one template, averaged on these vertices (mm) and laid on them."""
    places: dict[str, list[ndarray]] = {}
    for marks in landmarks:
        corners = vertices[faces[marks.face]]
        points = (corners * marks.barycentric.to(corners)[..., None]).sum(1)
        for name, point in zip(marks.names, points.numpy(), strict=True):
            places.setdefault(name, []).append(point)
    if not places:
        return no_landmarks()
    return _nearest(
        tuple(places), np.array([np.mean(each, axis=0) for each in places.values()]), vertices.numpy(), faces
    )


def _nearest(names: tuple[str, ...], points: ndarray, vertices: ndarray, faces: Tensor) -> Landmarks:
    found = closest_points(points, vertices, faces.numpy())
    return Landmarks(names, torch.from_numpy(found.face), torch.from_numpy(found.barycentric))
