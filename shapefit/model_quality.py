"""How good a shape model is: compactness, generalisation, specificity and the leave-one-out table.

Definitions (Davies 2002, ch. 5; Styner et al. 2003, IPMI), each as a curve over the number of modes M:

- compactness: share of the total variance that the first M modes hold.
- generalisation: mean distance (mm) between a training shape and its best reconstruction by the first M
  modes of the model of the other cases, once vertex to vertex and once as surface distance (ASSD).
- specificity: mean distance (mm) between a random shape of the first M modes (coefficients standard
  normal, so the model's own variances) and the training shape nearest to it, vertex to vertex.

Mirror images leave together with their case, and never count as a case of their own.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from shapefit import se3
from shapefit.fit.surface import fit_surface
from shapefit.mesh import closest_points, sample_surface
from shapefit.pca import best_rotation
from shapefit.settings import ProjectSettings
from shapefit.shape_model import ShapeModel
from shapefit.surface import Surfaces
from shapefit.surface_distance import distances_to, join, sample, summarise
from shapefit.surface_distance import pool as pool_samples
from shapefit.workers import Workers


def mode_counts(model: ShapeModel) -> list[int]:
    """The numbers of modes at which curves are drawn: 0, 1, 2, 5, 10, 20, 50, 100 and all."""
    steps = [0, 1, 2, 5, 10, 20, 50, 100]
    return [count for count in steps if count < model.modes] + [model.modes]


def compactness(model: ShapeModel) -> Float[Tensor, " K"]:
    """Share of the total variance (0 to 1) in the first 1, 2, ... K modes."""
    variance = model.std**2
    return torch.cumsum(variance, 0) / variance.sum()


def generalisation(model: ShapeModel, modes: Sequence[int]) -> dict[str, list[float]]:
    """Leave-one-out reconstruction error in mm at each number of modes: `vertex` and `surface` (ASSD).

    The correspondence of the left-out case is used, so this is what PCA alone costs.
    """
    shapes = model.training_shapes()
    errors: dict[str, list[list[float]]] = {"vertex": [], "surface": []}
    for row, case in enumerate(model.cases):
        if case.endswith("~"):
            continue
        others = model.without(case)
        centred = shapes[row] - shapes[row].mean(0)
        aligned = centred @ best_rotation(centred, others.mean).mT
        coefficients = others.coefficients(aligned)
        vertex, surface = [], []
        for count in modes:
            found = others.instance(coefficients[:count])
            vertex.append(float((found - aligned).norm(dim=1).mean()))
            surface.append(_surface_distance(found, aligned, model.faces))
        errors["vertex"].append(vertex)
        errors["surface"].append(surface)
    return {name: np.mean(values, axis=0).tolist() for name, values in errors.items()}


def _surface_distance(a: Float[Tensor, "V 3"], b: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> float:
    one, other, triangles = a.numpy(), b.numpy(), faces.numpy()
    there = closest_points(one[::4], other, triangles).distance.mean()
    back = closest_points(other[::4], one, triangles).distance.mean()
    return float(there + back) / 2


def specificity(model: ShapeModel, modes: Sequence[int], count: int = 100, seed: int = 0) -> list[float]:
    """Mean distance in mm from random shapes to the nearest training shape, at each number of modes."""
    shapes = model.training_shapes()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, model.modes, generator=generator, dtype=model.mean.dtype)
    curve = []
    for number in modes:
        distances = []
        for coefficients in draws[:, :number]:
            offset = model.instance(coefficients) - shapes
            distances.append(float(offset.norm(dim=-1).mean(-1).min()))
        curve.append(float(np.mean(distances)))
    return curve


def leave_one_out(
    model: ShapeModel,
    cases: Mapping[str, Surfaces],
    settings: ProjectSettings | None = None,
    workers: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> list[dict]:
    """Each case fitted with the model of the others: what a new bone of this kind would meet.

    `cases` are the segmentations' surfaces (world mm) by case name. Alignment and PCA are redone without
    the case; the template and the others' registration are kept. Each row holds `case` and in mm `assd`,
    `hd95`, `hausdorff` over all structures, the `structures` one by one, and the `mean_shape`'s figures.
    """
    settings = settings or ProjectSettings()
    jobs = [(model.without(name), name, surfaces, settings) for name, surfaces in cases.items()]
    rows = []
    with Workers(workers) as pool:
        for row in pool.stream(_left_out, jobs):
            rows.append(row)
            if progress:
                progress(f"leave-one-out {row['case']}", len(rows) / len(jobs))
    return rows


def _left_out(model: ShapeModel, name: str, surfaces: Surfaces, settings: ProjectSettings) -> dict:
    fit = fit_surface(model, surfaces, settings)
    rigid = model.surfaces(se3.transform(fit.world_from_mean, model.mean))
    return (
        {"case": name}
        | distances(model.surfaces(fit.vertices), surfaces)
        | {"mean_shape": distances(rigid, surfaces)}
    )


def distances(found: Surfaces, reference: Surfaces, count: int = 8000) -> dict:
    """Absolute ASSD, HD95 and Hausdorff distance in mm, over all structures and by structure.

    As defined in `surface_distance`; over all, the nearest point may be on any structure.
    """
    own = {name: sample(mesh, count, 0) for name, mesh in found.items()}
    other = {name: sample(reference[name], count, 0) for name in found}

    def figures(names: Sequence[str]) -> dict[str, float]:
        here, there = join([found[name] for name in names]), join([reference[name] for name in names])
        a, b = pool_samples([own[name] for name in names]), pool_samples([other[name] for name in names])
        summary = summarise(distances_to(a, there), a.weight, distances_to(b, here), b.weight, ())
        return {key: (summary or {})[key] for key in ("assd", "hd95", "hausdorff")}

    return figures(list(found)) | {"structures": {name: figures([name]) for name in found}}


def registration_residual(
    shape: Float[Tensor, "V 3"],
    model: ShapeModel,
    surfaces: Mapping[str, trimesh.Trimesh],
    samples: int = 20_000,
) -> dict[str, dict[str, float]]:
    """How far a training shape (world mm) lies from its segmentation: mean, p95, max in both directions."""
    found = model.surfaces(shape)
    ahead, back = [], []
    for name, mesh in found.items():
        target = surfaces[name]
        own, other = (np.asarray(m.vertices, np.float64) for m in (mesh, target))
        count = samples // len(found)
        ahead.append(closest_points(sample_surface(own, mesh.faces, count)[0], other, target.faces).distance)
        back.append(closest_points(sample_surface(other, target.faces, count)[0], own, mesh.faces).distance)
    result = {}
    for name, parts in (("model_to_segmentation", ahead), ("segmentation_to_model", back)):
        distance = np.concatenate(parts)
        result[name] = {
            "mean": float(distance.mean()),
            "p95": float(np.percentile(distance, 95)),
            "max": float(distance.max()),
        }
    return result
