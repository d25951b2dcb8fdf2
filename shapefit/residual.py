"""What a shape model's modes miss of a new bone: a Gaussian process on the surface, learned by leave-one-out.

Fifteen training shapes span fifteen directions; a new bone leaves that span. How far, and how smoothly,
the training shapes themselves tell: each, taken out, is a new bone to the others. The process that makes
those most likely is added to the modes, so that the model can follow a new bone where data demand it and
its prior is as wide as new bones need (Luethi et al. 2018, IEEE TPAMI 40(8), with kernels set by hand).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.spatial import cKDTree
from torch import Tensor

from shapefit.gaussian import pivoted_cholesky, principal_axes
from shapefit.shape_model import ShapeModel

WIDTHS = (5.0, 10.0, 20.0, 40.0, 80.0)  # mm: from a few vertices of a pelvis to half of a hip
NEIGHBOURS = 100  # vertices over which the residual's size is averaged: fifteen bones say little of one
SEEDS = 30  # vertices, with two neighbours each, at which the likelihood of left-out cases is taken
CASES = 30  # that are left out, evenly chosen where there are more
REGISTRATION_NOISE = 0.1  # mm: no vertex of a training shape is known better


class SurfaceProcess(NamedTuple):
    """Displacements, alike along x, y and z, of covariance std_i std_j sum_l w_l exp(-d^2 / (2 width_l^2)).

    d is the distance of the vertices i and j on the mean. Beside the process the modes keep the variances
    mode_scale (std_k^2 - mode_loss), at least 0: the loss is what the process, at work in the training
    shapes too, lends to every mode.
    """

    widths: Float[Tensor, " L"]  # mm
    weights: Float[Tensor, " L"]  # at least 0, adding up to 1
    std: Float[Tensor, " V"]  # mm, along each axis
    mode_scale: float = 1.0
    mode_loss: float = 0.0  # mm^2


class LeftOut(NamedTuple):
    """A case as the modes of the others see it: its coefficients (std), and what they miss of it (mm)."""

    coefficients: Float[Tensor, " K"]
    std: Float[Tensor, " K"]  # mm, of the others' modes
    residual: Float[Tensor, "V 3"]
    axes: Float[Tensor, "K N"]  # the others' components as sums of all training shapes less the mean


def left_out(model: ShapeModel) -> dict[str, LeftOut]:
    """Training cases, each against the PCA of the others, from one N x N Gram matrix; alignment is kept.

    Mirror images leave with their case. Of more than 30 cases, 30 evenly chosen ones are left out.
    Raises ValueError for fewer than 3 cases.
    """
    owners, names = model.owners, model.subjects()
    if len(names) < 3:
        raise ValueError(f"a left-out case needs at least two others; the model knows {len(names)} case(s)")
    shapes = (model.training_shapes() - model.mean).reshape(len(owners), -1)
    gram = shapes @ shapes.T
    result = {}
    for name in model.subjects(CASES):
        others = torch.tensor([owner != name for owner in owners])
        # each other shape, and the left-out one, less the mean of the others: rows of weights on the shapes
        centred = torch.eye(len(owners), dtype=torch.float64) - others / others.sum()
        own, rest = centred[owners.index(name)], centred[others]
        variance, turn = torch.linalg.eigh(rest @ gram @ rest.T)
        keep = variance > 1e-6 * variance.sum()
        axes = (turn[:, keep] / variance[keep].sqrt()).T @ rest  # orthonormal when applied to the shapes
        scores = axes @ gram @ own
        std = (variance[keep] / (len(rest) - 1)).sqrt()
        missed = (own - scores @ axes) @ shapes
        missed = missed.reshape(model.mean.shape)
        result[name] = LeftOut((scores / std).flip(0), std.flip(0), missed, axes.flip(0))
    return result


def learn_residual(model: ShapeModel, widths: Sequence[float] = WIDTHS) -> SurfaceProcess:
    """The process under which left-out training cases are most likely; `widths` of its kernels in mm.

    Its size from vertex to vertex is that of what the modes of the others miss, averaged over the cases
    and the nearest hundred vertices. The weights of the kernels and what the modes keep of their variance
    (with few shapes, noise lends some to every mode: Yata & Aoshima 2012, J. Multivar. Anal. 105) maximise
    the cross-validated likelihood: of each case at some vertices, under the modes of the others and the
    kernels.
    Raises ValueError for fewer than 3 cases.
    """
    cases = left_out(model)
    missed = torch.stack([case.residual for case in cases.values()])
    places = model.mean.numpy()
    tree = cKDTree(places)
    _, near = tree.query(places, k=min(NEIGHBOURS, len(places)))
    size = missed.square().mean((0, 2))[near].mean(1).sqrt().clamp_min(1e-6)
    chosen = torch.from_numpy(_spread(places, tree))
    squared = torch.cdist(model.mean[chosen], model.mean[chosen]).square()
    widths = torch.tensor(list(widths), dtype=torch.float64)
    kernels = torch.outer(size[chosen], size[chosen]) * torch.exp(squared / (-2 * widths[:, None, None] ** 2))
    shapes = (model.training_shapes() - model.mean)[:, chosen].reshape(len(model.cases), -1)
    components = [case.axes @ shapes for case in cases.values()]
    modes = min(len(each) for each in components)
    deviations = [
        (case.coefficients * case.std) @ own + case.residual[chosen].reshape(-1)
        for case, own in zip(cases.values(), components, strict=True)
    ]
    scale, loss, weights = _most_likely(
        torch.stack(deviations),
        torch.stack([own[:modes] for own in components]),
        torch.stack([case.std[:modes] for case in cases.values()]),
        kernels,
        3 * float(size.square().sum()) / len(model.cases),
    )
    return SurfaceProcess(widths, weights / weights.sum(), size * weights.sum().sqrt(), scale, loss)


def _spread(places: Float[ndarray, "V 3"], tree: cKDTree) -> Int[ndarray, " P"]:
    """Vertices at all distances from one another: random ones, each with one close to it and one less so."""
    draw = np.random.default_rng(0)
    seeds = draw.permutation(len(places))[:SEEDS]
    _, around = tree.query(places[seeds], k=min(60, len(places)))
    close = [around[np.arange(len(seeds)), draw.integers(*reach, len(seeds)) % around.shape[1]]
             for reach in ((1, 8), (8, 60))]  # fmt: skip
    return np.unique(np.concatenate([seeds, *close]))


def _most_likely(
    deviations: Float[Tensor, "C D"],
    components: Float[Tensor, "C K D"],
    std: Float[Tensor, "C K"],
    kernels: Float[Tensor, "L P P"],
    start: float,
) -> tuple[float, float, Float[Tensor, " L"]]:
    """The most likely scale of the modes' variances, loss of each of them, and weights of the kernels."""
    axes = torch.eye(3, dtype=torch.float64)
    kernels = torch.stack([torch.kron(kernel, axes) for kernel in kernels])
    own = REGISTRATION_NOISE**2 * torch.eye(kernels.shape[1], dtype=torch.float64)
    logs = torch.full((2 + len(kernels),), -2.0, dtype=torch.float64)
    logs[0] = 0.0
    logs.requires_grad_()
    search = torch.optim.LBFGS([logs], max_iter=25, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        left = logs[0].exp() * (std.square() - start * logs[1].exp()).clamp_min(0)
        total = (components.mT * left[:, None]) @ components
        total = total + torch.tensordot(logs[2:].exp(), kernels, dims=1) + own
        factor = torch.linalg.cholesky(total)
        white = torch.linalg.solve_triangular(factor, deviations[..., None], upper=False)
        value = (factor.diagonal(dim1=1, dim2=2).log().sum() + white.square().sum() / 2) / deviations.numel()
        value.backward()
        return value

    search.step(loss)
    found = logs.detach().exp()
    return float(found[0]), start * float(found[1]), found[2:]


def with_residual(model: ShapeModel, rank: int = 300, process: SurfaceProcess | None = None) -> ShapeModel:
    """PCA and a low-rank Gaussian process in one: an ordinary model of at most K + 3 rank modes.

    `rank` counts scalar functions on the surface, each a displacement along x, y and z. The process is
    learned from the model's training shapes if absent. What `rank` functions leave out of it goes into
    the noise, so the variance at the vertices stays as learned, in the mean.
    Raises ValueError for a negative rank and, without `process`, for fewer than 3 training cases.
    """
    if rank < 0:
        raise ValueError(f"cannot add {rank} functions")
    process = learn_residual(model) if process is None else process
    places = model.mean

    def column(vertex: int) -> Float[Tensor, " V"]:
        squared = ((places - places[vertex]) ** 2).sum(1)
        alike = torch.exp(squared[:, None] / (-2 * process.widths**2)) @ process.weights
        return process.std[vertex] * process.std * alike

    # more columns than needed, then their principal functions: nearly the best of this rank
    functions = pivoted_cholesky(column, process.std**2, min(3 * rank, len(places)))
    axes = principal_axes(functions)
    functions = (axes.components * axes.std[:, None])[:rank]
    residual = torch.einsum("rv,ij->rivj", functions, torch.eye(3, dtype=torch.float64))
    std = (process.mode_scale * (model.std**2 - process.mode_loss).clamp_min(0)).sqrt()
    modes = model.components * std[:, None, None]
    basis = torch.cat([modes.reshape(model.modes, -1), residual.reshape(-1, places.numel())])
    axes = principal_axes(basis)
    lost = float((process.std**2).sum() - (functions**2).sum()) / len(places)
    shapes = (model.training_shapes() - places).flatten(1)
    scores = shapes @ axes.components.T / axes.std
    return replace(
        model,
        components=axes.components.reshape(-1, *places.shape),
        std=axes.std,
        noise_variance=model.noise_variance + max(lost, 0.0),
        scores=scores,
        metadata={**model.metadata, "residual": f"Gaussian process of rank {rank}"},
    )
