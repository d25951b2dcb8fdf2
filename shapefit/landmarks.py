"""Landmarks read on single cases, carried to a model through the cases' own registrations."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
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
