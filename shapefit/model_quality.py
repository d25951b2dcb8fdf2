"""How good a shape model is: compactness, generalisation, specificity and the leave-one-out table.

Definitions (Davies 2002, ch. 5; Styner et al. 2003, IPMI), each as a curve over the number of modes M:

- compactness: share of the total variance that the first M modes hold.
- generalisation: mean distance (mm) between a training shape and its best reconstruction by the first M
  modes of the model of the other cases, once vertex to vertex and once as surface distance (ASSD).
- specificity: mean distance (mm) between a random shape of the first M modes (coefficients standard
  normal, so the model's own variances) and the training shape nearest to it, once vertex to vertex and
  once as the surface distance to that shape.

Mirror images leave together with their case, and never count as a case of their own. How far the curves
would move with other cases: see `quality_bands`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from shapefit import se3
from shapefit.fit.surface import fit_surface
from shapefit.mesh import closest_points
from shapefit.pca import aligned_to
from shapefit.settings import ProjectSettings
from shapefit.shape_model import Landmarks, ShapeModel, no_landmarks
from shapefit.surface import Surfaces
from shapefit.surface_distance import distances_to, join, sample, summarise
from shapefit.surface_distance import pool as pool_samples
from shapefit.workers import Workers

NEAREST = 5  # training shapes near a random one by root mean square, among which the nearest is looked for


def mode_counts(model: ShapeModel) -> list[int]:
    """The numbers of modes at which curves are drawn: 0, 1, 2, 5, 10, 20, 50, 100 and all."""
    steps = [0, 1, 2, 5, 10, 20, 50, 100]
    return [count for count in steps if count < model.modes] + [model.modes]


def compactness(model: ShapeModel) -> Float[Tensor, " K"]:
    """Share of the total variance (0 to 1) in the first 1, 2, ... K modes."""
    variance = model.std**2
    return torch.cumsum(variance, 0) / variance.sum()


def generalisation(
    model: ShapeModel, modes: Sequence[int], cases: Sequence[str] | None = None
) -> dict[str, Float[ndarray, "N M"]]:
    """Leave-one-out reconstruction error in mm of each case at each number of modes: `vertex`, `surface`.

    Their means over cases are the curves. `cases` are those left out (all if absent). The correspondence of
    the left-out case is used, so this is what PCA alone costs.
    """
    shapes = model.training_shapes()
    errors: dict[str, list[list[float]]] = {"vertex": [], "surface": []}
    for case in model.subjects() if cases is None else cases:
        others = model.without(case)
        aligned = aligned_to(others.mean, shapes[model.cases.index(case)])
        coefficients = others.coefficients(aligned)
        vertex, surface = [], []
        for count in modes:
            found = others.instance(coefficients[:count])
            vertex.append(float((found - aligned).norm(dim=1).mean()))
            surface.append(_surface_distance(found, aligned, model.faces))
        errors["vertex"].append(vertex)
        errors["surface"].append(surface)
    return {name: np.array(values) for name, values in errors.items()}


def _surface_distance(a: Float[Tensor, "V 3"], b: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> float:
    one, other, triangles = a.numpy(), b.numpy(), faces.numpy()
    there = closest_points(one[::4], other, triangles).distance.mean()
    back = closest_points(other[::4], one, triangles).distance.mean()
    return float(there + back) / 2


def specificity(
    model: ShapeModel, modes: Sequence[int], count: int = 100, seed: int = 0, surfaces: int = 20
) -> dict[str, list[float]]:
    """Mean distance in mm from random shapes to the nearest training shape, at each number of modes.

    `vertex` of `count` random shapes, `surface` of the first `surfaces` of them.
    """
    shapes, places = model.training_shapes(), model.scores * model.std
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, model.modes, generator=generator, dtype=model.mean.dtype)
    curves: dict[str, list[float]] = {"vertex": [], "surface": []}
    for number in modes:
        kept = draws * (torch.arange(model.modes) < number)
        near = torch.cdist(kept * model.std, places).argsort(dim=1)[:, :NEAREST]
        vertex, surface = [], []
        for index, coefficients in enumerate(kept):
            found = model.instance(coefficients)
            distances = (found - shapes[near[index]]).norm(dim=-1).mean(-1)
            vertex.append(float(distances.min()))
            if index < surfaces:
                nearest = shapes[near[index, distances.argmin()]]
                surface.append(_surface_distance(found, nearest, model.faces))
        curves["vertex"].append(float(np.mean(vertex)))
        curves["surface"].append(float(np.mean(surface)))
    return curves


def leave_one_out(
    model: ShapeModel,
    cases: Mapping[str, Surfaces],
    settings: ProjectSettings | None = None,
    workers: int = 1,
    progress: Callable[[str, float], None] | None = None,
    landmarks: Mapping[str, Landmarks] | None = None,
    cluster: str = "",
) -> list[dict]:
    """Each case fitted with the model of the others: what a new bone of this kind would meet.

    `cases` are the segmentations' surfaces (world mm) by case name. Alignment and PCA are redone without
    the case; the template and the others' registration are kept. Each row holds `case` and in mm `assd`,
    `hd95`, `hausdorff` over all structures, the `structures` one by one, and the `mean_shape`'s figures.
    `landmarks` are those of the other cases, by the case that is left out; a row then says in `landmarks`
    where the fit puts them, in world mm.
    """
    settings = settings or ProjectSettings()

    def jobs() -> Iterator[tuple]:
        for name, surfaces in cases.items():
            others = replace(model.without(name), landmarks=(landmarks or {}).get(name) or no_landmarks())
            yield others, name, surfaces, settings

    rows = []
    with Workers(workers, cluster) as pool:
        for row in pool.stream(_left_out, jobs()):
            rows.append(row)
            if progress:
                progress(f"leave-one-out {row['case']}", len(rows) / len(cases))
    return rows


def _left_out(model: ShapeModel, name: str, surfaces: Surfaces, settings: ProjectSettings) -> dict:
    fit = fit_surface(model, surfaces, settings)
    rigid = model.surfaces(se3.transform(fit.world_from_mean, model.mean))
    row = (
        {"case": name}
        | distances(model.surfaces(fit.vertices), surfaces)
        | {"mean_shape": distances(rigid, surfaces)}
    )
    if model.landmarks.names:
        places = model.landmark_positions(fit.vertices)
        row["landmarks"] = dict(zip(model.landmarks.names, places.tolist(), strict=True))
    return row


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
