"""How many modes of a shape model are more than chance: parallel analysis and cross-validation."""

import math

import numpy as np
import torch

from shapefit.residual import left_out
from shapefit.shape_model import ShapeModel


def parallel_analysis(model: ShapeModel, draws: int = 20, level: float = 0.95, seed: int = 0) -> int:
    """Number of leading modes whose variance chance does not reach.

    Chance: each coordinate of each vertex shuffled among the training shapes, which keeps its spread and
    takes away what coordinates have in common (Horn 1965, Psychometrika 30; Buja & Eyuboglu 1992,
    Multivar. Behav. Res. 27). A mode counts while its variance exceeds the `level` quantile of the same
    mode over `draws` shuffles. Mirror images are no cases of their own and are left out of the shuffling,
    so that the variances compared are those of the cases alone.
    Raises ValueError for a model without training scores.
    """
    rows = [row for row, case in enumerate(model.cases) if not case.endswith("~")]
    if len(rows) < 2:
        raise ValueError(
            "parallel analysis needs the training scores of at least 2 cases, which the model lacks"
        )
    shapes = model.training_shapes()[rows].reshape(len(rows), -1).numpy()
    shapes = shapes - shapes.mean(0)
    found = _variances(shapes)
    random = np.random.default_rng(seed)
    chance = np.array([_variances(random.permuted(shapes, axis=0)) for _ in range(draws)])
    above = found > np.quantile(chance, level, axis=0)
    return int(len(above) if above.all() else above.argmin())


def _variances(shapes: np.ndarray) -> np.ndarray:
    """Variances of the principal components of centred rows, falling; the last, 0 by centring, left out."""
    return np.linalg.eigvalsh(shapes @ shapes.T)[:0:-1] / (len(shapes) - 1)


def cross_validation(model: ShapeModel) -> int:
    """Number of modes under which probabilistic PCA finds left-out cases most likely.

    For each case left out and each number of modes M, the density of the case under the others' first M
    modes and the noise that is the mean of their remaining variances (Tipping & Bishop 1999, J. R. Stat.
    Soc. B 61). With few cases the remaining variances tell too little noise of new bones, and the number
    is small: so much is known well, while further modes still bring left-out bones nearer.
    Raises ValueError for fewer than 3 cases.
    """
    cases = list(left_out(model).values())
    size = model.mean.numel()
    most = min(len(case.std) for case in cases) - 1
    scores = torch.zeros(most + 1, dtype=torch.float64)
    for case in cases:
        variance = case.std**2
        energy = (case.coefficients * case.std) ** 2
        for modes in range(most + 1):
            noise = variance[modes:].sum() / (size - modes)
            outside = energy[modes:].sum() + case.residual.square().sum()
            scores[modes] -= (
                (energy[:modes] / variance[:modes]).sum()
                + variance[:modes].log().sum()
                + outside / noise
                + (size - modes) * (noise.log() + math.log(2 * math.pi))
            ) / 2
    return int(scores.argmax())
