"""Low-rank Gaussians: x = mean + B z with z standard normal. What one can do to them in closed form.

A basis B is held as its rows B_k, (K,D): principal axes times standard deviations, or any other root of
the covariance B^T B. Everything is float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NEGLIGIBLE = 1e-10  # axes with less than this share of the largest variance are rounding


class Axes(NamedTuple):
    """Principal axes of a low-rank Gaussian: `basis` = rotation^T (std * components)."""

    components: Float[Tensor, "M D"]  # orthonormal rows
    std: Float[Tensor, " M"]  # falling
    rotation: Float[Tensor, "M K"]  # coefficients in the axes = rotation @ coefficients in the basis


def principal_axes(basis: Float[Tensor, "K D"]) -> Axes:
    """Principal axes of the covariance B^T B, by the eigenvectors of the small matrix B B^T."""
    variance, turn = torch.linalg.eigh(basis @ basis.T)
    keep = variance > NEGLIGIBLE * variance.max().clamp_min(1e-300) if len(variance) else variance > 0
    std = variance[keep].sqrt().flip(0)
    rotation = turn[:, keep].flip(1).T
    return Axes(rotation @ basis / std[:, None], std, rotation)


def condition(
    rows: Float[Tensor, "N K"], offset: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K K"]]:
    """Mean and covariance of z ~ N(0, I) after seeing `rows @ z + e = offset` with e ~ N(0, I).

    Observations with other noise are whitened first: divided by its standard deviation.
    """
    precision = rows.T @ rows
    precision.diagonal().add_(1)
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve((rows.T @ offset)[:, None], factor)[:, 0]
    return mean, torch.cholesky_inverse(factor)


def inverse_covariance(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Of a normal matrix the covariance, or the other way round; infinite where nothing tells a direction."""
    root = matrix.diagonal().clamp_min(1e-300).rsqrt()  # radians and mm have different sizes
    factor, failed = torch.linalg.cholesky_ex(matrix * root[:, None] * root)
    if int(failed):
        return torch.diag(torch.full((len(matrix),), torch.inf, dtype=torch.float64))
    return torch.cholesky_inverse(factor) * root[:, None] * root


def pivoted_cholesky(
    kernel: Callable[[int], Float[Tensor, " D"]], diagonal: Float[Tensor, " D"], rank: int
) -> Float[Tensor, "R D"]:
    """At most `rank` rows L with L^T L close to a covariance, from its diagonal and `rank` of its columns.

    Each step takes the point that is least explained so far (Harbrecht, Peters & Schneider 2012, Appl.
    Numer. Math. 62), so the trace of what is left out falls as fast as a greedy choice can make it.
    """
    left = diagonal.clone()
    rows = torch.zeros(min(rank, len(left)), len(left), dtype=left.dtype)
    for k in range(len(rows)):
        pivot = int(left.argmax())
        if left[pivot] <= 1e-12 * diagonal.max():
            return rows[:k]
        rows[k] = (kernel(pivot) - rows[:k, pivot] @ rows[:k]) / left[pivot].sqrt()
        left = (left - rows[k] ** 2).clamp_min(0)
    return rows


def noise_root(
    noise: float | Float[Tensor, " P"] | Float[Tensor, "P 3 3"], count: int
) -> Float[Tensor, "P 3 3"]:
    """A root of each point's noise covariance: given as one standard deviation, one each, or covariances.

    Raises ValueError for noise that is not positive (definite).
    """
    given = torch.as_tensor(noise, dtype=torch.float64)
    if given.ndim == 3:
        root, failed = torch.linalg.cholesky_ex(given)
        if bool((failed > 0).any()):
            raise ValueError("noise covariances must be symmetric and positive definite")
        return root
    if not bool((torch.isfinite(given) & (given > 0)).all()):
        raise ValueError(f"noise must be a positive length in mm, got {noise}")
    return given.expand(count)[:, None, None] * torch.eye(3, dtype=torch.float64)
