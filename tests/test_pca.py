"""Principal components are those of the whole matrix, however few shapes are looked at at a time."""

import numpy as np
import pytest
import torch

from shapefit import pca
from shapefit.pca import best_rotation, principal_components, procrustes


def shapes(count: int, vertices: int = 60, seed: int = 0) -> torch.Tensor:
    """Shapes with fast falling variances in ten directions, in poses of their own."""
    generator = torch.Generator().manual_seed(seed)
    mean = 40 * torch.randn(vertices, 3, generator=generator, dtype=torch.float64)
    modes = torch.randn(10, vertices, 3, generator=generator, dtype=torch.float64)
    scores = torch.randn(count, 10, generator=generator, dtype=torch.float64) * 2.0 ** -torch.arange(10)
    return mean + torch.einsum("nk,kvx->nvx", scores, modes) + torch.arange(count)[:, None, None]


def by_svd(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and components, by the singular values of all that is there."""
    _, length, components = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return length**2 / (len(flat) - 1), components


@pytest.mark.parametrize("count", [7, 80])
def test_streamed_components_are_those_of_the_whole_matrix(count, monkeypatch):
    monkeypatch.setattr(pca, "BATCH", 6)
    aligned = procrustes(shapes(count))
    found = principal_components(aligned)
    variance, components = by_svd(aligned.reshape(count, -1).numpy())
    kept = len(found.std)
    assert kept == (variance > 1e-6 * variance.sum()).sum()
    assert np.allclose(found.std.numpy() ** 2, variance[:kept], rtol=1e-9, atol=0)
    overlap = found.components.reshape(kept, -1).numpy() @ components[:kept].T
    assert np.allclose(abs(overlap), np.eye(kept), atol=1e-8)
    rebuilt = found.mean + torch.einsum("nk,kvx->nvx", found.scores * found.std, found.components)
    assert (rebuilt - aligned).abs().max() < 0.05  # what the smallest modes, left out, would add


def test_the_size_of_the_batches_changes_nothing_but_rounding(monkeypatch):
    one = principal_components(procrustes(shapes(40)))
    monkeypatch.setattr(pca, "BATCH", 7)
    other = principal_components(procrustes(shapes(40)))
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_largest_entry_of_a_component_is_positive():
    found = principal_components(procrustes(shapes(12))).components.flatten(1)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_shapes_may_lie_in_a_file_and_are_left_as_they_are(tmp_path):
    known = shapes(9)
    file = np.lib.format.open_memmap(tmp_path / "shapes.npy", mode="w+", dtype=np.float64, shape=known.shape)
    file[:] = known.numpy()
    found = principal_components(procrustes(torch.from_numpy(file)))
    assert np.array_equal(file, known.numpy())
    assert torch.equal(found.std, principal_components(procrustes(known)).std)


def test_alignment_turns_and_moves_and_does_nothing_else():
    known = shapes(6)
    aligned = procrustes(known)
    assert aligned.mean((0, 1)).abs().max() < 1e-9
    for before, after in zip(known, aligned, strict=True):
        centred = before - before.mean(0)
        assert torch.allclose(centred @ best_rotation(centred, after).mT, after, atol=1e-8)
