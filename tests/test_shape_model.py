"""A shape model keeps what it was trained on, and its algebra is that of a Gaussian."""

from dataclasses import replace

import pytest
import torch

from shapefit import se3
from shapefit.pca import best_rotation, procrustes
from shapefit.shape_model import train
from tests.small import LABELS
from tests.small import small_model as bones_model


def ellipsoids(count: int, seed: int = 0) -> tuple:
    """Ellipsoids of varying half axes (mm), in correspondence, each in a pose of its own."""
    import trimesh

    sphere = trimesh.creation.icosphere(2)
    generator = torch.Generator().manual_seed(seed)
    axes = 30 + 5 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    shapes = torch.tensor(sphere.vertices)[None] * axes[:, None]
    twists = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    twists[:, :3] *= 0.1
    twists[:, 3:] *= 50
    shapes = se3.transform(se3.exp(twists), shapes)
    faces = torch.tensor(sphere.faces)
    return shapes, faces, torch.zeros(len(faces), dtype=torch.int64)


def small_model(count: int = 6):
    shapes, faces, structure = ellipsoids(count)
    cases = tuple(f"case{index}" for index in range(count))
    return train(shapes, faces, structure, ("egg",), (1,), cases=cases)


def test_components_are_orthonormal():
    model = small_model()
    flat = model.components.reshape(model.modes, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(model.modes, dtype=flat.dtype), atol=1e-10)


def test_training_shapes_come_back_exactly():
    model = small_model()
    shapes, _, _ = ellipsoids(6)
    for shape, found in zip(shapes, model.training_shapes(), strict=True):
        centred = shape - shape.mean(0)
        assert torch.allclose(centred @ best_rotation(centred, found).T, found, atol=0.01)


def test_size_stays_in_the_model():
    _, faces, structure = ellipsoids(1)
    one = ellipsoids(1)[0][0]
    model = train(torch.stack([one, 1.1 * one, 1.2 * one]), faces, structure, ("egg",), (1,))
    assert model.modes == 1
    extents = model.training_shapes().norm(dim=2).mean(1)
    assert torch.allclose(extents[2] / extents[0], torch.tensor(1.2, dtype=torch.float64), atol=1e-6)


def test_alignment_takes_away_rigid_motion_alone():
    shapes, _, _ = ellipsoids(1)
    twists = torch.zeros(4, 6, dtype=torch.float64)
    twists[:, 2] = torch.tensor([0.0, 0.3, -0.4, 0.2])
    twists[:, 3] = 100 * twists[:, 2]
    aligned = procrustes(se3.transform(se3.exp(twists), shapes[:1]))
    assert (aligned - aligned.mean(0)).abs().max() < 1e-6


def test_the_mean_has_its_centroid_at_the_origin():
    assert small_model().mean.mean(0).abs().max() < 1e-9


def test_coefficients_invert_instance():
    model = small_model()
    coefficients = torch.linspace(-1, 1, model.modes, dtype=torch.float64)
    assert torch.allclose(model.coefficients(model.instance(coefficients)), coefficients, atol=1e-9)


def test_instance_keeps_dtype_batch_and_gradient():
    model = small_model()
    coefficients = torch.zeros(2, model.modes, requires_grad=True)
    vertices = model.instance(coefficients)
    assert vertices.dtype == torch.float32
    assert vertices.shape == (2, *model.mean.shape)
    vertices.square().sum().backward()
    assert torch.isfinite(coefficients.grad).all()


def test_more_coefficients_than_modes_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match=f"has {model.modes} modes, got {model.modes + 1}"):
        model.instance(torch.zeros(model.modes + 1))


def test_scores_have_unit_variance():
    scores = small_model().scores
    assert torch.allclose(scores.var(0), torch.ones(scores.shape[1], dtype=torch.float64), atol=1e-9)


def test_truncation_moves_lost_variance_into_the_noise():
    model = small_model()
    short = model.truncate(2)
    total = (model.std**2).sum() + model.noise_variance * model.mean.numel()
    kept = (short.std**2).sum() + short.noise_variance * short.mean.numel()
    assert short.modes == 2
    assert torch.allclose(torch.as_tensor(total), torch.as_tensor(kept))


def test_a_model_without_a_case_equals_one_trained_on_the_others():
    shapes, faces, structure = ellipsoids(6)
    model = small_model()
    rest = train(shapes[1:], faces, structure, ("egg",), (1,))
    left = model.without("case0")
    assert left.cases == ("case1", "case2", "case3", "case4", "case5")
    assert torch.allclose(left.std, rest.std, rtol=1e-3)
    turned = left.mean @ best_rotation(left.mean, rest.mean).T
    assert torch.allclose(turned, rest.mean, atol=1e-2)


def test_the_mirror_image_leaves_with_its_case():
    shapes, faces, structure = ellipsoids(3)
    mirrored = shapes * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    names = ("a", "b", "c", "a~", "b~", "c~")
    model = train(torch.cat([shapes, mirrored]), faces, structure, ("egg",), (1,), cases=names)
    assert model.without("b").cases == ("a", "c", "a~", "c~")


def test_an_unknown_case_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no training case 'nobody'; it has case0, case1"):
        small_model(3).without("nobody")


def test_one_shape_is_no_model():
    shapes, faces, structure = ellipsoids(1)
    with pytest.raises(ValueError, match="a shape model needs at least 2 shapes, got 1"):
        train(shapes, faces, structure, ("egg",), (1,))


def test_samples_have_the_models_variances_and_depend_on_the_seed_alone():
    model = small_model()
    shapes = model.sample(4000, seed=3)
    found = (((shapes - model.mean).reshape(4000, -1)) @ model.components.reshape(model.modes, -1).T).std(0)
    assert torch.allclose(found, model.std, rtol=0.1)
    assert torch.equal(model.sample(3, seed=5), model.sample(3, seed=5))


def test_surfaces_split_the_mesh_by_structure_and_stay_closed():
    shapes, faces, structure = ellipsoids(3)
    count = shapes.shape[1]
    double = torch.cat([shapes, shapes + 200], dim=1)
    model = train(
        double,
        torch.cat([faces, faces + count]),
        torch.cat([structure, structure + 1]),
        ("one", "two"),
        (4, 9),
    )
    meshes = model.surfaces(model.mean)
    assert list(meshes) == ["one", "two"]
    assert all(mesh.is_watertight and mesh.volume > 0 for mesh in meshes.values())
    assert sum(len(mesh.vertices) for mesh in meshes.values()) == len(model.mean)


def dense(model) -> torch.Tensor:
    """The covariance of all coordinates (3V,3V), written out."""
    basis = (model.components * model.std[:, None, None]).reshape(model.modes, -1)
    return basis.T @ basis


def many_modes():
    """A model of irregular eggs, 20 modes."""
    shapes, faces, structure = ellipsoids(21)
    generator = torch.Generator().manual_seed(1)
    shapes = shapes + torch.randn(shapes.shape, generator=generator, dtype=torch.float64)
    cases = tuple(f"case{index}" for index in range(21))
    return train(shapes, faces, structure, ("egg",), (1,), cases=cases)


@pytest.mark.parametrize("kind", ["one", "each", "covariances", "with noise of the mesh"])
def test_the_posterior_is_that_of_a_gaussian_written_out(kind):
    model = many_modes()
    if kind == "with noise of the mesh":
        model = replace(model, noise_variance=0.7)
    seen = torch.tensor([3, 50, 120])
    points = model.mean[seen] + torch.tensor([[3.0, -2, 1], [0, 4, 0], [-1, -1, 5]], dtype=torch.float64)
    root = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = {
        "each": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
        "covariances": root @ root.mT + 0.1 * torch.eye(3),
    }.get(kind, 1.5)
    noise = (
        given
        if kind == "covariances"
        else torch.as_tensor(given).expand(3)[:, None, None] ** 2 * torch.eye(3)
    )
    noise = torch.block_diag(*noise.double()) + model.noise_variance * torch.eye(9)
    covariance = dense(model)
    at = (seen[:, None] * 3 + torch.arange(3)).reshape(-1)
    gain = covariance[:, at] @ torch.linalg.inv(covariance[at][:, at] + noise)
    expected = model.mean.reshape(-1) + gain @ (points - model.mean[seen]).reshape(-1)
    found = model.posterior(seen, points, given)
    assert torch.allclose(found.mean.reshape(-1), expected, atol=1e-9)
    assert torch.allclose(dense(found), covariance - gain @ covariance[at], atol=1e-8)
    flat = found.components.reshape(found.modes, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(found.modes, dtype=flat.dtype), atol=1e-8)
    assert (found.std.diff() <= 1e-12).all()


def test_seeing_points_one_after_another_or_at_once_is_the_same():
    model = many_modes()
    points = model.sample(1, seed=4)[0]
    first, second = torch.tensor([1, 40]), torch.tensor([80, 150, 151])
    both = torch.cat([first, second])
    at_once = model.posterior(both, points[both], 0.3)
    in_turn = model.posterior(first, points[first], 0.3).posterior(second, points[second], 0.3)
    assert torch.allclose(at_once.mean, in_turn.mean, atol=1e-8)
    assert torch.allclose(dense(at_once), dense(in_turn), atol=1e-8)


def test_exact_points_are_kept_and_vague_ones_change_nothing():
    model = many_modes()
    shape = model.sample(1, seed=3)[0]
    seen = torch.arange(0, len(shape), 4)
    sure = model.posterior(seen, shape[seen], 1e-4)
    assert torch.allclose(sure.mean, shape, atol=1e-3)  # more coordinates than modes: all is known
    assert sure.vertex_std().max() < 1e-3
    vague = model.posterior(seen, shape[seen], 1e7)
    assert torch.allclose(vague.mean, model.mean, atol=1e-6)
    assert torch.allclose(vague.vertex_std(), model.vertex_std(), atol=1e-6)


def test_a_point_between_vertices_is_seen_where_it_lies():
    model = many_modes()
    corners = model.faces[:4]
    weights = torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64)
    shape = model.sample(1, seed=5)[0]
    points = (shape[corners] * weights[..., None]).sum(1)
    found = model.posterior(corners, points, 1e-5, weights)
    assert torch.allclose((found.mean[corners] * weights[..., None]).sum(1), points, atol=1e-6)
    on_vertices = model.posterior(
        corners[:, :1].repeat(1, 3), shape[corners[:, 0]], 0.5, torch.eye(3)[[0] * 4]
    )
    assert torch.allclose(on_vertices.mean, model.posterior(corners[:, 0], shape[corners[:, 0]], 0.5).mean)


@pytest.mark.parametrize(
    "vertices, noise, words",
    [
        ([162], 1.0, "numbered from 0 to 161; got 162"),
        ([-1], 1.0, "got -1"),
        ([0], 0.0, "positive length in mm, got 0.0"),
        ([0], float("nan"), "positive length"),
    ],
)
def test_what_cannot_be_seen_is_refused(vertices, noise, words):
    model = small_model()
    with pytest.raises(ValueError, match=words):
        model.posterior(torch.tensor(vertices), torch.zeros(1, 3, dtype=torch.float64), noise)


def test_points_that_are_not_finite_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="not finite"):
        model.posterior(torch.tensor([0]), torch.full((1, 3), float("nan"), dtype=torch.float64), 1.0)


def test_a_cut_model_has_the_noise_of_probabilistic_pca():
    model = many_modes()
    cut = model.truncate(5)
    left = (model.std[5:] ** 2).sum() / (model.mean.numel() - 5)
    assert cut.noise_variance == pytest.approx(float(left))
    assert torch.allclose(cut.std**2, model.std[:5] ** 2 - left)
    # all variance is still there, and the training shapes are cut, not moved
    total = (model.std**2).sum()
    assert torch.allclose((cut.std**2).sum() + cut.noise_variance * model.mean.numel(), total)
    kept = torch.einsum("nk,kvd->nvd", model.scores[:, :5] * model.std[:5], model.components[:5])
    assert torch.allclose(cut.training_shapes() - cut.mean, kept, atol=1e-9)
    again = model.truncate(12).truncate(5)
    assert again.noise_variance == pytest.approx(cut.noise_variance)
    assert torch.allclose(again.std, cut.std)


def test_the_model_of_one_structure_says_of_it_what_the_whole_says():
    model = bones_model(6)
    part = model.marginal(["hip_right"])
    assert part.names == ("hip_right",) and part.labels == (LABELS["hip_right"],)
    used = torch.unique(model.faces[model.structure == model.names.index("hip_right")])
    assert torch.allclose(part.mean, model.mean[used])
    assert torch.allclose(part.vertex_covariance(), model.vertex_covariance()[used], atol=1e-9)
    assert torch.allclose(part.training_shapes(), model.training_shapes()[:, used], atol=1e-8)
    flat = part.components.reshape(part.modes, -1)
    assert torch.allclose(flat @ flat.T, torch.eye(part.modes, dtype=flat.dtype), atol=1e-8)
    for name, place in zip(part.landmarks.names, part.landmark_positions(part.mean), strict=True):
        whole = model.landmark_positions(model.mean)[model.landmarks.names.index(name)]
        assert torch.allclose(place, whole)


def test_the_model_of_all_structures_is_the_model():
    model = bones_model(5)
    same = model.marginal(model.names)
    assert torch.allclose(same.mean, model.mean) and (same.faces == model.faces).all()
    assert torch.allclose(same.std, model.std) and (same.structure == model.structure).all()


def test_a_structure_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no femur; it has sacrum, hip_left, hip_right"):
        bones_model(3).marginal(["femur"])
    with pytest.raises(ValueError, match="name at least one"):
        bones_model(3).marginal([])


def test_samples_have_the_covariance_that_the_model_says():
    model = replace(many_modes().truncate(4), noise_variance=2.0)
    drawn = model.sample(4000, seed=1, noise=True)
    spread = (drawn - model.mean).square().mean(0).sum(1)
    assert torch.allclose(spread, model.vertex_std() ** 2, rtol=0.15)
    assert (model.sample(2, seed=7) == model.sample(2, seed=7)).all()
