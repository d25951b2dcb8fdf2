"""What the modes miss of left-out shapes is found again, and the model then follows new ones."""

import numpy as np
import pytest
import torch
import trimesh
from sklearn.decomposition import PCA

from shapefit.calibration import coverage
from shapefit.fit.surface import fit_surface
from shapefit.fit.surface_residual import follow_surface
from shapefit.gaussian import pivoted_cholesky, principal_axes
from shapefit.residual import SurfaceProcess, learn_residual, left_out, with_residual
from shapefit.settings import ProjectSettings
from shapefit.shape_model import train

SIZE, WIDTH = 2.0, 20.0  # mm: of the process that the eggs below are drawn from, along each axis
SPHERE = trimesh.creation.icosphere(3, radius=50.0)


def eggs(count: int, seed: int) -> torch.Tensor:
    """Spheres with two modes of 6 and 4 mm and smooth bumps of 2 mm, (N, V, 3) in mm."""
    draw = torch.Generator().manual_seed(seed)
    rest = torch.tensor(SPHERE.vertices)
    waves = torch.stack([rest * rest[:, :1] ** 2, rest * rest[:, 1:2] * rest[:, 2:]])
    waves = waves / waves.square().mean((1, 2), keepdim=True).sqrt()
    modes = torch.randn(count, 2, generator=draw, dtype=torch.float64) * torch.tensor([6.0, 4.0])
    kernel = SIZE**2 * torch.exp(-(torch.cdist(rest, rest) ** 2) / (2 * WIDTH**2))
    root = torch.linalg.cholesky(kernel + 1e-6 * torch.eye(len(rest)))
    bumps = root @ torch.randn(count, len(rest), 3, generator=draw, dtype=torch.float64)
    return rest + torch.tensordot(modes, waves, dims=1) + bumps


@pytest.fixture(scope="module")
def model():
    faces = torch.tensor(SPHERE.faces)
    cases = tuple(f"egg{number}" for number in range(14))
    return train(eggs(14, 0), faces, torch.zeros(len(faces), dtype=torch.int64), ("egg",), (1,), cases=cases)


@pytest.fixture(scope="module")
def process(model):
    return learn_residual(model)


@pytest.fixture(scope="module")
def full(model, process):
    return with_residual(model, 150, process)


def test_a_left_out_case_is_seen_as_a_pca_of_the_others_sees_it(model):
    shapes = model.training_shapes().reshape(14, -1).numpy()
    found = left_out(model)["egg3"]
    pca = PCA(n_components=12, svd_solver="full").fit(np.delete(shapes, 3, axis=0))
    scores = pca.transform(shapes[3:4])[0]
    assert np.allclose(found.std, np.sqrt(pca.explained_variance_[: len(found.std)]), atol=1e-6)
    assert np.allclose(
        (found.coefficients * found.std).abs().numpy(), np.abs(scores[: len(found.std)]), atol=1e-6
    )
    missed = shapes[3] - pca.inverse_transform(scores[None])[0]
    assert np.allclose(found.residual.reshape(-1), missed, atol=1e-6)


def test_mirror_images_leave_with_their_case(model):
    shapes = model.training_shapes()
    cases = tuple(name + mark for mark in ("", "~") for name in ("a", "b", "c"))
    mixed = train(shapes[:6], model.faces, model.structure, ("egg",), (1,), cases=cases)
    seen = left_out(mixed)
    assert list(seen) == ["a", "b", "c"]
    assert all(len(case.std) == 3 for case in seen.values())  # four others span three directions


def test_the_process_that_made_the_shapes_is_found_again(model, process):
    # size and correlation together: the covariance at distances from none to far
    assert process.weights.sum() == pytest.approx(1)
    assert (process.weights >= 0).all()
    # a little more than was put in: where the two modes point is not known exactly either
    assert SIZE**2 < float(process.std.square().mean()) < 2 * SIZE**2
    assert int((model.std**2 > process.mode_loss).sum()) == 2  # the other eleven modes are bumps alone
    near = float(torch.exp(-(10.0**2) / (2 * process.widths**2)) @ process.weights)
    far = float(torch.exp(-(80.0**2) / (2 * process.widths**2)) @ process.weights)
    assert near > 0.7 and far < 0.35


def test_bands_hold_as_many_new_shapes_as_they_say(model, full):
    new = eggs(60, 2)
    # new shapes as they come: the modes and bumps do not turn the eggs enough for alignment to matter
    inside = np.mean([coverage(full, shape) for shape in new], axis=0)
    assert np.allclose(inside, (0.5, 0.8, 0.95), atol=0.05)


def test_bands_hold_what_they_say_after_a_part_was_seen_too(model, full):
    front = model.mean[:, 0] > 0
    seen, rest = torch.nonzero(front)[::3, 0], torch.nonzero(~front)[:, 0]
    inside = {"modes": [], "full": []}
    for shape in eggs(8, 2):
        for name, prior in (("modes", model), ("full", full)):
            told = prior.posterior(seen, shape[seen], 0.5)
            inside[name].append(coverage(told, shape, vertices=rest))
    assert np.allclose(np.mean(inside["full"], axis=0), (0.5, 0.8, 0.95), atol=0.1)
    assert np.mean(inside["modes"], axis=0)[1] < 0.4  # the modes alone are far too sure


def test_the_model_with_its_process_is_an_ordinary_model(model, process, full):
    flat = full.components.reshape(full.modes, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(full.modes, dtype=flat.dtype), atol=1e-8)
    kept = int((model.std**2 > process.mode_loss).sum())
    assert full.modes == kept + 3 * 150
    assert torch.allclose(full.training_shapes(), model.training_shapes(), atol=0.5)
    modes = process.mode_scale * (model.std**2 - process.mode_loss).clamp_min(0).sum() / len(model.mean)
    told = modes + 3 * process.std**2
    assert (full.vertex_std() ** 2).mean() == pytest.approx(float(told.mean()), rel=1e-6)


def test_no_functions_leave_the_modes_and_all_else_is_noise(model, process):
    plain = with_residual(model, 0, process)
    kept = model.std**2 > process.mode_loss
    assert torch.allclose(plain.std**2, process.mode_scale * (model.std[kept] ** 2 - process.mode_loss))
    assert plain.noise_variance == pytest.approx(float((process.std**2).mean()))
    with pytest.raises(ValueError, match="cannot add -1"):
        with_residual(model, -1, process)


def test_a_new_surface_is_followed_where_the_modes_cannot(model):
    surface = {"egg": trimesh.Trimesh(eggs(1, 9)[0].numpy(), SPHERE.faces, process=False)}
    settings = ProjectSettings(samples=2000, residual=100)
    modes_alone = fit_surface(model, surface, settings)
    full, followed = follow_surface(model, surface, settings)
    assert followed.residual["assd"] < 0.3 * modes_alone.residual["assd"]
    # and as likely a shape as the prior says: not a wild one
    assert followed.coefficients.square().mean() < 3
    assert len(followed.coefficients) == full.modes


def test_too_few_cases_are_an_error(model):
    two = train(model.training_shapes()[:2], model.faces, model.structure, ("egg",), (1,), cases=("a", "b"))
    with pytest.raises(ValueError, match="at least two others; the model knows 2"):
        learn_residual(two)


def test_a_kernel_by_hand_needs_no_training_shapes(model):
    bare = model.posterior(torch.tensor([0]), model.mean[:1], 1.0)  # knows no cases
    process = SurfaceProcess(
        torch.tensor([15.0], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        torch.full((len(model.mean),), 1.5, dtype=torch.float64),
    )
    wide = with_residual(bare, 60, process)
    grown = wide.vertex_std() ** 2 - bare.vertex_std() ** 2
    assert grown.mean() == pytest.approx(3 * 1.5**2, rel=1e-6)


def test_a_pivoted_cholesky_factor_gives_the_matrix_back():
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.exp(-torch.cdist(points, points))
    rows = pivoted_cholesky(lambda k: matrix[k], matrix.diagonal().clone(), 60)
    assert torch.allclose(rows.T @ rows, matrix, atol=1e-9)
    part = pivoted_cholesky(lambda k: matrix[k], matrix.diagonal().clone(), 20)
    left = matrix - part.T @ part
    assert left.diagonal().min() > -1e-9 and left.trace() < 0.35 * matrix.trace()
    low = matrix[:, :2] @ matrix[:, :2].T  # of rank 2: it stops by itself
    assert len(pivoted_cholesky(lambda k: low[k], low.diagonal().clone(), 60)) == 2


def test_principal_axes_turn_a_basis_into_orthogonal_ones():
    basis = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.cat([basis, basis[:1]])  # one direction twice
    axes = principal_axes(basis)
    assert len(axes.std) == 5
    assert torch.allclose((axes.components.T * axes.std**2) @ axes.components, basis.T @ basis, atol=1e-9)
    z = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose((axes.rotation @ z * axes.std) @ axes.components, z @ basis, atol=1e-9)


def named(*cases: str):
    """A model that knows training cases of these names."""
    shapes = eggs(len(cases), 0)
    faces = torch.tensor(SPHERE.faces)
    return train(shapes, faces, torch.zeros(len(faces), dtype=torch.int64), ("egg",), (1,), cases=cases)


def test_names_are_chosen_evenly():
    assert named(*"abcdefghi").subjects(3) == ["a", "e", "i"]
    assert named("a", "b", "b~").subjects(30) == ["a", "b"]
