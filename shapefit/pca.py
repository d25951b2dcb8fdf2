"""Shapes in correspondence -> their common frame, mean and principal components."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor


class PrincipalComponents(NamedTuple):
    """Shapes as mean + sum_k scores_k std_k components_k; `components` are orthonormal when flattened."""

    mean: Float[Tensor, "V 3"]
    components: Float[Tensor, "K V 3"]
    std: Float[Tensor, " K"]
    scores: Float[Tensor, "N K"]


def principal_components(shapes: Float[Tensor, "N V 3"]) -> PrincipalComponents:
    """Principal components of aligned shapes (mm), without modes below a millionth of the variance."""
    pca = PCA(svd_solver="full").fit(shapes.reshape(len(shapes), -1).numpy())
    keep = int((pca.explained_variance_ > 1e-6 * pca.explained_variance_.sum()).sum())
    std = torch.from_numpy(np.sqrt(pca.explained_variance_[:keep]))
    components = torch.from_numpy(pca.components_[:keep])
    mean = torch.from_numpy(pca.mean_)
    scores = (shapes.reshape(len(shapes), -1) - mean) @ components.T / std
    return PrincipalComponents(mean.reshape(-1, 3), components.reshape(keep, -1, 3), std, scores)


def procrustes(shapes: Float[Tensor, "N V 3"], iterations: int = 50) -> Float[Tensor, "N V 3"]:
    """Shapes moved rigidly onto their common mean, which has its centroid at the origin (mm).

    The orientation is that of the mean of the centred shapes as they came, so their axes stay.
    """
    aligned = shapes - shapes.mean(1, keepdim=True)
    mean = first = aligned.mean(0)
    for _ in range(iterations):
        aligned = aligned @ best_rotation(aligned, mean).mT
        update = aligned.mean(0)
        change = float((update - mean).abs().max())
        mean = update
        if change < 1e-9:
            break
    return aligned @ best_rotation(mean, first).mT


def best_rotation(source: Float[Tensor, "*B V 3"], target: Float[Tensor, "V 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotations that take centred points nearest to a centred target (Kabsch 1976), never a mirroring."""
    u, _, vt = torch.linalg.svd(source.mT @ target)
    sign = torch.ones(*u.shape[:-2], 3, dtype=u.dtype)
    sign[..., 2] = torch.det(vt.mT @ u.mT).sign()
    return vt.mT @ torch.diag_embed(sign) @ u.mT
