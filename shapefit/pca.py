"""Shapes in correspondence -> their common frame, mean and principal components."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BATCH = 32  # shapes, or components, that are worked on at a time


class PrincipalComponents(NamedTuple):
    """Shapes as mean + sum_k scores_k std_k components_k; `components` are orthonormal when flattened."""

    mean: Float[Tensor, "V 3"]
    components: Float[Tensor, "K V 3"]
    std: Float[Tensor, " K"]
    scores: Float[Tensor, "N K"]


def principal_components(shapes: Float[Tensor, "N V 3"]) -> PrincipalComponents:
    """Principal components of aligned shapes (mm), without modes below a millionth of the variance.

    By the method of snapshots (Sirovich 1987, Q. Appl. Math. 45): the components are combinations of the
    shapes, with the eigenvectors of the shapes' N x N Gram matrix as weights. Unlike incremental PCA or a
    randomised SVD it leaves nothing to the order of the shapes or to chance, and beside the components it
    takes N^2 numbers and a batch of shapes, which may be mapped to a file: 4,000 shapes of 10,000 vertices
    are an eigenproblem of 128 MB and a minute. Squaring costs digits only far below the modes that are
    kept: their variances are right to about 1e-10. Of each component the largest entry is positive.
    """
    flat = shapes.reshape(len(shapes), -1)
    mean = _mean(flat)
    batches = list(torch.arange(len(flat)).split(BATCH))
    gram = flat.new_empty(len(flat), len(flat))
    for number, rows in enumerate(batches):
        own = flat[rows] - mean
        for columns in batches[: number + 1]:
            products = own @ (flat[columns] - mean).T
            gram[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = products
            gram[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1] = products.T
    variance, weights = (found.flip(-1) for found in torch.linalg.eigh(gram))  # the largest first
    keep = int((variance > 1e-6 * variance.clamp(min=0).sum()).sum())
    length, weights = variance[:keep].sqrt(), weights[:, :keep]
    components = flat.new_zeros(keep, flat.shape[1])
    for rows in batches:
        components += (weights[rows] / length).T @ (flat[rows] - mean)
    for component in components.split(BATCH):
        component *= component.gather(1, component.abs().argmax(1, keepdim=True)).sign()
    std = length / (len(flat) - 1) ** 0.5
    scores = torch.cat([(flat[rows] - mean) @ components.T for rows in batches]) / std
    return PrincipalComponents(mean.reshape(-1, 3), components.reshape(keep, -1, 3), std, scores)


def _mean(flat: Float[Tensor, "N M"]) -> Float[Tensor, " M"]:
    """Mean of the rows, the sums in their order."""
    total = flat.new_zeros(flat.shape[1])
    for row in flat:
        total += row
    return total / len(flat)


def procrustes(shapes: Float[Tensor, "N V 3"], iterations: int = 50) -> Float[Tensor, "N V 3"]:
    """Shapes moved rigidly onto their common mean, which has its centroid at the origin (mm).

    The orientation is that of the mean of the centred shapes as they came, so their axes stay. What is
    returned is the only copy of the shapes that is made.
    """
    aligned = torch.empty_like(shapes)
    for shape, place in zip(shapes, aligned, strict=True):
        place[:] = shape - shape.mean(0)
    mean = first = _mean(aligned.reshape(len(shapes), -1)).reshape(-1, 3)
    for _ in range(iterations):
        _turn(aligned, mean)
        update = _mean(aligned.reshape(len(shapes), -1)).reshape(-1, 3)
        change = float((update - mean).abs().max())
        mean = update
        if change < 1e-9:
            break
    back = best_rotation(mean, first).mT
    for some in aligned.split(BATCH):
        some[:] = some @ back
    return aligned


def _turn(aligned: Float[Tensor, "N V 3"], mean: Float[Tensor, "V 3"]) -> None:
    for some in aligned.split(BATCH):
        some[:] = some @ best_rotation(some, mean).mT


def aligned_to(mean: Float[Tensor, "V 3"], shape: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """A shape (mm) moved rigidly onto a mean that has its centroid at the origin."""
    centred = shape - shape.mean(0)
    return centred @ best_rotation(centred, mean).mT


def best_rotation(source: Float[Tensor, "*B V 3"], target: Float[Tensor, "V 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotations that take centred points nearest to a centred target (Kabsch 1976), never a mirroring."""
    u, _, vt = torch.linalg.svd(source.mT @ target)
    sign = torch.ones(*u.shape[:-2], 3, dtype=u.dtype)
    sign[..., 2] = torch.det(vt.mT @ u.mT).sign()
    return vt.mT @ torch.diag_embed(sign) @ u.mT
