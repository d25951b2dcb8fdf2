"""Gradients of a volume's X-ray: against central differences, adjoints and weights worked out by brute force.

The interpolant's integral has a continuous derivative in everything, so that a small step tests it to many
digits. The integral of constant voxels has kinks, where a ray meets an edge of a voxel: generic rays keep
clear of them by far more than a step.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_render_volume_adversarial import CASES, QUICK, facing
from twins import BACKENDS, NO_TRITON
from volume_brute_force import METHODS, Scene, scene, shown, views, weights

from shapefit import se3
from shapefit.camera import Camera, ray_lengths
from shapefit.render._volume_ops import line_integral
from shapefit.render.volume import render_volume, voxel_rays
from shapefit.volume import Volume

STEP = 1e-6
# rad / 100, mm / 10 for the pose; sdd, pixel, principal point; entries of the affine: each moves much alike
UNITS = torch.tensor([0.02] * 3 + [0.1] * 3 + [0.5, 0.01, 0.01, 0.1, 0.1] + [0.02] * 9 + [0.1] * 3).double()


def image_at(given: Scene, backend: str, method: str, x: torch.Tensor, step: float = 0.37) -> torch.Tensor:
    """The image (S, H, W) with pose (6), intrinsics (5) and affine (12) moved by x (23,) in `UNITS`."""
    p = x * UNITS
    c = given.camera
    seen_by = Camera(c.sdd + p[6], c.delx + p[7], c.dely + p[8], c.x0 + p[9], c.y0 + p[10], c.height, c.width)
    moved = torch.cat([p[11:20].view(3, 3), p[20:, None]], 1)
    place = given.volume.world_from_voxel + torch.cat([moved, torch.zeros(1, 4, dtype=torch.float64)])
    volume = replace(given.volume, world_from_voxel=place)
    pose = given.camera_from_world @ se3.exp(p[:6])
    return shown(Scene(volume, pose, seen_by), backend, method, step=step)


def value(image: torch.Tensor) -> torch.Tensor:
    """A smooth functional of an image, that no symmetry of the image can make 0."""
    n = torch.arange(image.numel(), dtype=torch.float64).view(image.shape)
    return (image * torch.cos(0.37 * n)).sum() + 0.1 * image.square().sum()


def compare(given, backend, method, directions, tolerance):
    at = torch.zeros(len(UNITS), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(image_at(given, backend, method, at)), at)
    assert (gradient != 0).sum() > len(UNITS) / 2
    with torch.no_grad():
        after, before = (
            torch.stack([value(image_at(given, backend, method, h * d)) for d in directions])
            for h in (STEP, -STEP)
        )
    quotients = (after - before) / (2 * STEP)
    error = (directions @ gradient - quotients).abs() / gradient.abs().max()
    assert error.max() <= tolerance, error
    if len(directions) == len(UNITS):  # each component for itself, too, where it is not all but 0
        clear = gradient.abs() > 1e-2 * gradient.abs().max()
        assert ((gradient - quotients).abs() <= 5e-3 * gradient.abs())[clear].all()


ALL = torch.eye(len(UNITS), dtype=torch.float64)
SOME = torch.randn(2, len(UNITS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DIRECTIONS = {"torch": SOME, "numba": ALL, "triton": SOME[:1]}  # the slow ones are asked for less


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [5, 6])
@pytest.mark.parametrize("backend", QUICK)
def test_pose_intrinsics_and_affine_agree_with_central_differences(backend, seed, method, labelled):
    compare(
        scene(seed, labelled=labelled),
        backend,
        method,
        DIRECTIONS[backend],
        1e-6 if method == "trilinear" else 1e-5,
    )


@NO_TRITON
@pytest.mark.parametrize("method", METHODS)
def test_the_gpus_pose_gradients_agree_with_central_differences(method):
    compare(scene(7, labelled=method == "siddon"), "triton", method, DIRECTIONS["triton"], 1e-5)


@pytest.mark.parametrize("turn", [0, 7, 46])
@pytest.mark.parametrize("backend", QUICK)
def test_poses_along_the_axes_have_gradients_as_good_as_any(backend, turn):
    # no ray lies in a plane of voxel centres, where the interpolant's slope has a left and a right
    given = facing((4, 5, 3), turn, (0.3, -1.2, 0.4), pitch=0.43, size=(8, 8))
    compare(given, backend, "trilinear", DIRECTIONS[backend], 1e-6)


@pytest.mark.parametrize("backend", QUICK)
def test_a_ray_in_a_plane_of_voxel_centres_has_a_slope_between_those_of_both_sides(backend):
    given = facing((3, 3, 3), offset=(-1.0, -1.0, 0.0), size=(1, 1))

    def moved(x):
        pose = given.camera_from_world.clone()
        pose[0, 3] += x
        return shown(given._replace(camera_from_world=pose), backend, "trilinear").sum()

    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(moved(x), x)
    sides = [float((moved(h) - moved(0.0)) / h) for h in (1e-7, -1e-7)]
    assert min(sides) - 1e-5 <= slope <= max(sides) + 1e-5 and abs(sides[0] - sides[1]) > 0.1


@pytest.mark.parametrize("method", ["trilinear", "raymarch"])
@pytest.mark.parametrize("backend", QUICK)
def test_a_source_inside_the_volume_has_gradients_as_good_as_any(backend, method):
    given = scene(5, size=(7, 8))
    centre = given.volume.world_from_voxel @ torch.tensor([2.2, 3.1, 0.8, 1.0], dtype=torch.float64)
    pose = given.camera_from_world.clone()
    pose[:3, 3] = -pose[:3, :3] @ centre[:3]
    wide = Camera(2.0, 0.5, 0.6, 0.1, -0.2, 7, 8)
    compare(Scene(given.volume, pose, wide), backend, method, DIRECTIONS[backend], 1e-6)


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_the_volumes_gradient_is_the_adjoint_of_its_image(backend, method):
    # <A x, y> = <x, A^T y>, and A^T y has each voxel's weights
    given = scene(5 if backend != "triton" else 7, labelled=backend != "triton")
    data = given.volume.data.clone().requires_grad_()
    image = shown(given._replace(volume=replace(given.volume, data=data)), backend, method, step=0.37)
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((image * y).sum(), data)
    product = (image.detach() * y).sum()
    assert ((gradient * data.detach()).sum() - product).abs() <= 1e-12 * (image.detach() * y).abs().sum()
    matrix = torch.from_numpy(weights(given, method, 0.37).astype(float))
    if given.volume.structure is None:
        true = matrix.T @ y.flatten()
    else:
        each = torch.cat([matrix.T @ y.flatten(1).T, torch.zeros(len(matrix.T), 1)], 1)
        label = given.volume.structure.flatten().long().clamp(max=3)
        true = each.gather(1, label[:, None])[:, 0]
    assert (gradient.flatten() - true).abs().max() <= 1e-10 * true.abs().max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_gradients_of_a_batch_are_the_sums_of_those_of_its_views(backend, method):
    given = scene(6)
    turns = se3.exp(0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    poses = (given.camera_from_world @ turns).requires_grad_()
    data = given.volume.data.clone().requires_grad_()
    given = given._replace(volume=replace(given.volume, data=data))
    chosen = torch.tensor([3, 17, 30, 8])
    both = torch.autograd.grad(
        views(given, poses, backend, method, pixels=chosen).square().sum(), (poses, data)
    )
    alone = [
        torch.autograd.grad(
            views(given, poses[b : b + 1], backend, method, pixels=chosen).square().sum(), (poses, data)
        )
        for b in range(3)
    ]
    for together, parts in zip(both, zip(*alone, strict=True), strict=True):
        assert (together - sum(parts)).abs().max() <= 1e-12 * together.abs().max()


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_single_precision_gradients_are_those_of_double(backend, method):
    given, results = scene(6 if backend != "triton" else 0), []
    for dtype in (torch.float64, torch.float32):
        data = given.volume.data.float().to(dtype).clone().requires_grad_()
        poses = given.camera_from_world[None].to(dtype).requires_grad_()
        image = views(given._replace(volume=replace(given.volume, data=data)), poses, backend, method)
        assert image.dtype == dtype
        results.append(torch.autograd.grad(value(image.double()), (data, poses)))
    for double, single in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert (single - double).norm() <= (2e-2 if method == "siddon" else 1e-4) * double.norm()


# --- as operators of torch --------------------------------------------------------------------------------


def operands(method, listed=False, seed=7):
    """What the operator takes: two structures, two views of a tiny volume."""
    given = scene(seed, size=(3, 4), labelled=True)
    poses = torch.stack(
        [given.camera_from_world, given.camera_from_world @ se3.exp(0.03 * torch.ones(6).double())]
    )
    source, direction = voxel_rays(given.volume, poses, given.camera)
    pixels = torch.tensor([1, 7, 5]) if listed else None
    lengths = ray_lengths(given.camera).flatten()
    lengths = lengths[pixels] if listed else lengths
    tensors = [given.volume.data.clone(), source.clone(), direction.clone(), lengths]
    data, source, direction, lengths = (tensor.contiguous().clone().requires_grad_() for tensor in tensors)
    return data, given.volume.structure, source, direction, pixels, lengths, 4, 3, method, 0.37


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_derivatives_pass_gradcheck(backend, method):
    data, structure, source, direction, pixels, lengths, *how = operands(method)

    def image(d, s, r, n):
        return line_integral(d, structure, s, r, pixels, n, *how, backend)

    assert torch.autograd.gradcheck(
        image, (data, source, direction, lengths), eps=1e-6, atol=1e-5, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators_are_registered_as_torch_expects(backend):
    if backend == "triton":  # one voxel: it is slow where it is interpreted
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(line_integral, (*operands("siddon", True, 0), backend), test_utils=checks)
        return
    # one listed and one full, each with what the other has not
    for method, listed in (("siddon", True), ("trilinear", False)):
        torch.library.opcheck(line_integral, (*operands(method, listed), backend))


@pytest.mark.parametrize("backend", QUICK)
def test_integrals_compile_into_one_graph(backend):
    data, structure, source, direction, pixels, lengths, *how = operands("trilinear")

    def loss(d, s, r):
        return line_integral(d, structure, s, r, pixels, lengths.detach(), *how, backend).square().mean()

    results = []
    # the graph with its backward graph, without the minute that generating C++ would take
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        result = function(data, source, direction)
        results.append((result.detach(), *torch.autograd.grad(result, (data, source, direction))))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_integer_volumes_have_gradients_in_the_pose_alone(backend, method):
    place = torch.eye(4, dtype=torch.float64)
    data = torch.randint(0, 9, (1, 2, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = facing((1, 2, 1), size=(3, 3), offset=(0.1, 0.2, 0.0))
    poses = given.camera_from_world[None].clone().requires_grad_()
    volume = Volume(data, place @ given.volume.world_from_voxel)
    image = views(given._replace(volume=volume), poses, backend, method)
    (gradient,) = torch.autograd.grad(image.double().square().sum(), poses)
    assert torch.isfinite(gradient).all() and (image != 0).any()


def test_nothing_is_asked_of_autograd_where_nothing_needs_it():
    given = scene(0)
    image = render_volume(given.volume, given.camera_from_world[None], given.camera)
    assert not image.requires_grad and np.isfinite(image.numpy()).all()
