"""Are a model's bands of uncertainty as wide as they say? Measured on bones that were left out.

A band of level p about the mean holds a coordinate of a vertex with probability p: |x - mean| <= z_p std,
with std from the model's covariance there and z_p the normal quantile. Calibrated means that of many
left-out bones a share p of the coordinates lies inside.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor

from shapefit.pca import aligned_to
from shapefit.residual import CASES, with_residual
from shapefit.shape_model import ShapeModel
from shapefit.workers import Workers

LEVELS = (0.5, 0.8, 0.95)


def coverage(
    model: ShapeModel,
    shape: Float[Tensor, "V 3"],
    levels: Sequence[float] = LEVELS,
    vertices: Int[Tensor, " P"] | None = None,
) -> list[float]:
    """Share of the coordinates of a shape (mm, model frame) inside the model's bands, level by level.

    Only at `vertices` where they are given.
    """
    std = model.vertex_covariance().diagonal(dim1=1, dim2=2).sqrt()
    beyond = (shape - model.mean).abs() / std
    beyond = beyond if vertices is None else beyond[vertices]
    return [float((beyond <= norm.ppf(0.5 + level / 2)).double().mean()) for level in levels]


def calibration_table(
    model: ShapeModel,
    rank: int = 100,
    workers: int = 1,
    cluster: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> dict:
    """Coverage of training cases (at most 30, evenly chosen) by the bands of a model of the others.

    Alignment, PCA and residual process are redone without the case, its correspondence is kept. Three
    questions are asked: of the prior (`prior`), after the landmarks were seen to 2 mm (`landmarks`, if
    there are any), and, after the first structure was seen to 1 mm, of the others (`structure`, if there
    are any). JSON-able: `levels`, and for each question `inside` (mean over the cases), `cases` and the
    mean distance in mm of the vertices from where they are told, `error`.
    Raises ValueError for fewer than 4 cases: the others must be able to leave one out in turn.
    """
    names = model.subjects(CASES)
    if len(names) < 4:
        raise ValueError(f"calibration needs at least 4 cases, got {len(names)}")
    rows = []
    with Workers(workers, cluster) as pool:
        for row in pool.stream(_asked, [(model, name, rank) for name in names]):
            rows.append(row)
            if progress:
                progress("calibration", len(rows) / len(names))
    result: dict = {"levels": list(LEVELS), "cases": names}
    for question in rows[0]:
        inside = [row[question][0] for row in rows]
        result[question] = {
            "inside": np.mean(inside, axis=0).tolist(),
            "cases": inside,
            "error": float(np.mean([row[question][1] for row in rows])),
        }
    return result


def _asked(model: ShapeModel, name: str, rank: int) -> dict[str, tuple[list[float], float]]:
    """Question -> coverage of a left-out case, and its vertices' mean distance from where they are told."""
    others = with_residual(model.without(name), rank)
    shape = aligned_to(others.mean, model.training_shapes()[model.cases.index(name)])
    everywhere = torch.arange(len(shape))

    def answer(told: ShapeModel, asked: Int[Tensor, " P"]) -> tuple[list[float], float]:
        error = (shape - told.mean)[asked].norm(dim=1).mean()
        return coverage(told, shape, vertices=asked), float(error)

    answers = {"prior": answer(others, everywhere)}
    marks = model.landmarks
    if marks.names:
        seen = others.posterior(
            model.faces[marks.face], model.landmark_positions(shape), 2.0, marks.barycentric
        )
        answers["landmarks"] = answer(seen, everywhere)
    if len(model.names) > 1:
        first = torch.unique(model.faces[model.structure == 0])
        shown = first[:: max(1, len(first) // 500)]
        seen = others.posterior(shown, shape[shown], 1.0)
        answers["structure"] = answer(seen, everywhere[~torch.isin(everywhere, first)])
    return answers
