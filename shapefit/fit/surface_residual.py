"""A model with a residual process, led from where its modes brought it the rest of the way to a surface."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse
from scipy.linalg import solve

from shapefit import se3
from shapefit.fit.surface import SurfaceFit, fit_surface, surface_residual
from shapefit.fit.surface_pairs import Pairs, find_pairs, shared_bones
from shapefit.residual import with_residual
from shapefit.settings import ProjectSettings
from shapefit.shape_model import ShapeModel


def follow_surface(
    model: ShapeModel, surfaces: Mapping[str, trimesh.Trimesh], settings: ProjectSettings | None = None
) -> tuple[ShapeModel, SurfaceFit]:
    """The model with its residual process, fitted to closed meshes in world mm; and that model.

    First `fit_surface` by the modes alone, which places the bone; then closest points in both directions
    and the most probable shape of all modes in turn, `settings.residual_steps` times. The coefficients
    are those of the model returned. Raises ValueError as `fit_surface`, and for a model without the scores
    of at least 3 training cases.
    """
    settings = settings or ProjectSettings()
    first = fit_surface(model, surfaces, settings)
    full = with_residual(model, settings.residual)
    bones = shared_bones(full, surfaces, settings)
    pose = first.world_from_model.numpy()
    basis = (full.components * full.std[:, None, None]).reshape(full.modes, -1).T.contiguous().numpy()
    coefficients = full.coefficients(se3.transform(torch.linalg.inv(first.world_from_model), first.vertices))
    shape = full.instance(coefficients).numpy()
    found = coefficients.numpy()
    for _ in range(settings.residual_steps):
        pairs = find_pairs(shape, pose, bones)
        found = _most_probable(shape, pairs, basis, found, settings)
        shape = full.mean.numpy() + (basis @ found).reshape(-1, 3)
    return full, replace(
        first,
        coefficients=torch.from_numpy(found),
        vertices=se3.transform(first.world_from_model, torch.from_numpy(shape)),
        residual=surface_residual(shape, pose, bones),
    )


def _most_probable(
    shape: Float[ndarray, "V 3"],
    pairs: Pairs,
    basis: Float[ndarray, "D K"],
    coefficients: Float[ndarray, " K"],
    settings: ProjectSettings,
) -> Float[ndarray, " K"]:
    """Coefficients that bring the points onto their goals, along the way to them, under the prior."""
    offset = pairs.on(shape) - pairs.goals
    distance = np.linalg.norm(offset, axis=1)
    direction = offset / np.maximum(distance, 1e-9)[:, None]
    weight = pairs.weights / np.maximum(distance, settings.softening)
    # row n of `along` @ basis: how far point n moves along its direction, per unit of each coefficient
    row = np.repeat(np.arange(len(offset)), 9)
    column = (3 * pairs.index[:, :, None] + np.arange(3)).reshape(-1)
    entry = (pairs.barycentric[:, :, None] * direction[:, None, :]).reshape(-1)
    along = sparse.csr_matrix((entry, (row, column)), shape=(len(offset), len(basis))) @ basis
    normal = along.T @ (along * weight[:, None])
    normal[np.diag_indices_from(normal)] += settings.residual_prior_weight
    right = along.T @ (weight * (along @ coefficients - distance))
    return solve(normal, right, assume_a="pos")
