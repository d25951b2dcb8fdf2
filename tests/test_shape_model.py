"""A shape model keeps what it was trained on, and its algebra is that of a Gaussian."""

import pytest
import torch

from shapefit import se3
from shapefit.pca import best_rotation, procrustes
from shapefit.shape_model import train


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
