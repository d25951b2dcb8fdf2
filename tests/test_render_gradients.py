"""Gradients are right: against central differences, against what a sweep gains, and finite where rays graze.

The image is continuous and piecewise smooth in every parameter, with kinks where an edge passes a pixel
centre. A central difference is exact to O(h^2) where no kink lies within h, so small steps test the gradient
to many digits (`STEP`); that nothing is lost at the kinks is tested by adding gradients up along a sweep.
"""

import numpy as np
import pytest
import torch
from closed_meshes import BACKENDS, box, camera, centred, closed_mesh, frontal, pose, sphere
from scipy.spatial.transform import Rotation

from shapefit import se3
from shapefit.camera import Camera
from shapefit.io.model import read_model
from shapefit.mesh import volume
from shapefit.render import render_depths, render_mesh

KINDS = ("box", "dented sphere", "torus", "bumpy torus", "union", "difference", "shell", "components")
TYPICAL = {
    "torch": 2e-4,
    "numba": 1e-5,
}  # median disagreement; the reference's depths, D / (n . q), round more
STEP = 2e-6  # of a parameter's unit: rounding of F / STEP stays below 1e-5 of a gradient, kinks are rare
# units: rad / 100, mm; sdd 10 mm, pixel 0.01 mm, principal point mm: each moves the image by about a mm
UNITS = torch.tensor([0.01, 0.01, 0.01, 1.0, 1.0, 1.0, 10.0, 0.01, 0.01, 1.0, 1.0], dtype=torch.float64)
SIZES = {"torch": (14, 16), "numba": (60, 66), "triton": (5, 6)}
CASES = [(b, kind) for b in BACKENDS for kind in KINDS if b == "numba" or kind == "box"]


def weighted_sum(image: torch.Tensor) -> torch.Tensor:
    """A Gaussian-weighted sum of each image (..., H, W), off the middle."""
    return (image * _bell(*image.shape[-2:])).sum((-2, -1))


def correlation(image: torch.Tensor) -> torch.Tensor:
    """The correlation coefficient of each image (..., H, W) with a smooth pattern."""
    height, width = image.shape[-2:]
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pattern = torch.sin(7 * i / height + 1) * torch.cos(5 * j / width) + _bell(height, width)
    a, b = image - image.mean((-2, -1), keepdim=True), pattern - pattern.mean()
    return (a * b).sum((-2, -1)) / (a.square().sum((-2, -1)) * b.square().sum()).sqrt()


def _bell(height, width):
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.exp(-4 * ((i / height - 0.45).square() + (j / width - 0.55).square())).double()


FUNCTIONALS = [weighted_sum, correlation]


class Scene:
    """A mesh before a camera, as a function of 6 twist components, 5 intrinsics and the vertices."""

    def __init__(self, kind: str, seed: int, size: tuple[int, int], backend: str):
        rng = np.random.default_rng([seed, 3])
        self.vertices, self.faces = closed_mesh(kind, seed)
        self.camera, self.backend = camera(rng, *size), backend
        self.pose = pose(rng, self.camera)

    def images(self, parameters: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
        """(B, H, W) of vertices (B, V, 3), all with the same parameters (11,) in `UNITS`."""
        p = parameters * UNITS.to(parameters)
        seen_by = Camera(
            self.camera.sdd + p[6], self.camera.delx + p[7], self.camera.dely + p[8],
            self.camera.x0 + p[9], self.camera.y0 + p[10], self.camera.height, self.camera.width,
        )  # fmt: skip
        camera_from_world = (self.pose.to(p) @ se3.exp(p[:6])).expand(len(vertices), -1, -1)
        return render_mesh(vertices, self.faces, camera_from_world, seen_by, backend=self.backend)[:, 0]


def agree(gradient: torch.Tensor, quotient: torch.Tensor, typical: float) -> None:
    """Within 0.5 % in every component, and far nearer in most: STEP leaves them some 1e-6 apart."""
    scale = gradient.abs().clamp(min=1e-3 * float(gradient.abs().max()))
    error = (gradient - quotient).abs() / scale
    assert error.max() <= 5e-3, error
    assert error.median() <= typical, error


@pytest.mark.parametrize("functional", FUNCTIONALS)
@pytest.mark.parametrize(("backend", "kind"), CASES)
def test_pose_and_intrinsics_agree_with_central_differences(backend, functional, kind):
    scene = Scene(kind, 0, SIZES[backend], backend)
    vertices = scene.vertices[None]
    at = torch.zeros(11, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional(scene.images(at, vertices)).sum(), at)
    assert gradient.abs().min() > 0
    steps = STEP * torch.cat([torch.eye(11), -torch.eye(11)]).double()
    values = torch.cat([functional(scene.images(step, vertices)) for step in steps])
    agree(gradient, (values[:11] - values[11:]) / (2 * STEP), TYPICAL.get(backend, 1e-3))


@pytest.mark.parametrize("functional", FUNCTIONALS)
@pytest.mark.parametrize(("backend", "kind"), CASES)
def test_vertices_agree_with_central_differences(backend, functional, kind):
    scene = Scene(kind, 0, SIZES[backend], backend)
    still = torch.zeros(11, dtype=torch.float64)
    v = scene.vertices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional(scene.images(still, v[None])).sum(), v)
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for _ in range(4)]
    # single coordinates: those with the largest gradients, and some at random
    seen = torch.nonzero(gradient.flatten().abs() > 0.05 * gradient.abs().max())[:, 0]
    chosen = seen[torch.randperm(len(seen), generator=generator)[:6]].tolist()
    for k in [*gradient.flatten().abs().topk(4).indices.tolist(), *chosen]:
        directions.append(torch.zeros_like(scene.vertices).index_put_(
            (torch.tensor(k // 3), torch.tensor(k % 3)), torch.tensor(1.0).double()))  # fmt: skip
    directions = torch.stack(directions)
    steps = STEP * torch.cat([directions, -directions])
    plus, minus = functional(scene.images(still, scene.vertices + steps)).chunk(2)
    agree((directions * gradient).sum((1, 2)), (plus - minus) / (2 * STEP), TYPICAL.get(backend, 1e-3))


@pytest.mark.parametrize("functional", FUNCTIONALS)
def test_shape_modes_of_a_pelvis_agree_with_central_differences(functional):
    model = read_model("pelvis")
    rng = np.random.default_rng(2)
    seen_by = Camera(1020.0, 4.1, 4.0, 15.0, -8.0, 90, 96)
    camera_from_world = frontal(720.0)
    camera_from_world[0, :3, :3] = torch.from_numpy(Rotation.random(rng=rng).as_matrix())
    start = torch.from_numpy(rng.normal(size=8))

    def value(x):  # (B, 14): modes in std, then the pose
        vertices = model.instance(start + x[:, :8])
        moved = camera_from_world @ se3.exp(x[:, 8:] * UNITS[:6])
        image = render_mesh(vertices, model.faces, moved, seen_by, model.structure)
        return functional(image.sum(1)) + 0.1 * functional(image[:, 0])

    at = torch.zeros(1, 14, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(at).sum(), at)
    plus, minus = value(STEP * torch.cat([torch.eye(14), -torch.eye(14)]).double()).chunk(2)
    agree(gradient[0], (plus - minus) / (2 * STEP), 1e-4)


@pytest.mark.parametrize("kind", ["box", "dented sphere", "union", "components"])
@pytest.mark.parametrize("k", [3, 5])
def test_gradients_along_a_sweep_add_up_to_what_it_gains(kind, k):
    # edges pass hundreds of pixel centres on the way: a gradient that missed what happens there (a jump
    # of coverage, a soft edge) would add up to something else. 1,600 samples of a gradient with spikes like
    # 1 / sqrt(distance) leave some 1 %.
    scene = Scene(kind, 1, (40, 44), "numba")
    count, span = 1600, 4.0
    places = torch.cat([(torch.arange(count) + 0.5) / count - 0.5, torch.tensor([-0.5, 0.5])]) * span
    x = places.double().requires_grad_()
    poses = scene.pose @ se3.exp(x[:, None] * (torch.eye(6).double()[k] * UNITS[:6]))
    vertices = scene.vertices.expand(count + 2, -1, -1)
    value = weighted_sum(render_mesh(vertices, scene.faces, poses, scene.camera)[:, 0])
    slopes = torch.autograd.grad(value.sum(), x)[0][:count]
    gained = slopes.mean() * span
    assert (gained - (value[-1] - value[-2])).abs() < 0.03 * slopes.abs().mean() * span


def test_the_gradient_of_an_images_sum_is_that_of_the_volume():
    # rays from a megametre away are all but parallel: sum x pixel area is the volume
    vertices, faces = closed_mesh("dented sphere", 0)
    side = 400
    far = Camera(1e6, 240.0 / side, 240.0 / side, 0.13, -0.21, side, side)
    turn = se3.exp(torch.tensor([[0.5, -0.9, 0.3, 0.0, 0.0, 0.0]], dtype=torch.float64))
    v = vertices.clone().requires_grad_()
    image = render_mesh(v[None], faces, frontal(1e6) @ turn, far)
    (shown,) = torch.autograd.grad(image.sum() * (240.0 / side) ** 2, v)
    (true,) = torch.autograd.grad(volume(v, faces), v)
    # each vertex is the sum of its few pixels, so the noise is that of sampling: less with more pixels
    assert (shown - true).norm() < 0.15 * true.norm()
    swelling = (shown * vertices).sum() / (true * vertices).sum()
    assert swelling == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_gradients_are_those_of_double(kind):
    scene = Scene(kind, 0, (60, 66), "numba")
    results = []
    for dtype in (torch.float64, torch.float32):
        x = torch.zeros(11, dtype=dtype, requires_grad=True)
        v = scene.vertices.to(dtype).clone().requires_grad_()
        image = scene.images(x, v[None])
        assert image.dtype == dtype
        results.append(torch.autograd.grad(weighted_sum(image).sum(), (x, v)))
    for double, single in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert (single - double).norm() <= 1e-3 * double.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scene", ["walls", "sheet", "flat", "needles", "slivers", "points", "tilted walls"])
def test_gradients_are_finite_where_rays_graze(backend, dtype, scene):
    seen_by, camera_from_world = centred(21, 25, pitch=4.0), frontal(1024.0)
    if scene in ("walls", "tilted walls"):  # two sides hold the source, one edge is the optical axis
        vertices, faces = box(64.0, 64.0, 64.0)
        vertices = vertices + 32.0
        if scene == "tilted walls":
            vertices = vertices + 1e-9 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    elif scene == "sheet":
        vertices, faces = closed_mesh("sheet", 0)
    elif scene == "flat":  # a body squeezed into a plane that holds the source
        vertices, faces = sphere(2)
        vertices = vertices * torch.tensor([1.0, 0.0, 1.0])
    elif scene == "points":  # faces without area
        vertices, faces = sphere(2)
        vertices = vertices.clone()
        vertices[faces[::7, 0]] = vertices[faces[::7, 1]]
        vertices[faces[3]] = vertices[faces[3, 0]].clone()
    else:
        vertices, faces = closed_mesh(scene, 0)
    v = vertices.to(dtype)[None].requires_grad_()
    t = camera_from_world.to(dtype).requires_grad_()
    sdd = torch.tensor(1024.0, dtype=dtype, requires_grad=True)
    camera_of = Camera(sdd, 4.0, 4.0, seen_by.x0, seen_by.y0, seen_by.height, seen_by.width)
    image = render_mesh(v, faces, t, camera_of, backend=backend)
    first, last = render_depths(v, faces, t, camera_of, backend=backend)
    for value in (image.square().sum(), first.sum(), last.sum()):
        for gradient in torch.autograd.grad(value, (v, t, sdd), retain_graph=True, allow_unused=True):
            assert gradient is not None and torch.isfinite(gradient).all()


@pytest.mark.parametrize(("backend", "seed"), [*((b, 0) for b in BACKENDS), ("numba", 1), ("numba", 3)])
def test_gradcheck_passes_where_no_edge_is_near_a_pixel_centre(backend, seed):
    rng = np.random.default_rng(seed)
    seen_by = Camera(1000.0, 24.0, 26.0, float(rng.uniform(-9, 9)), float(rng.uniform(-9, 9)), 5, 6)
    vertices, faces = closed_mesh("tetrahedron", seed)
    camera_from_world = frontal(600.0)
    camera_from_world[0, :3, :3] = torch.from_numpy(Rotation.random(rng=rng).as_matrix())
    image = render_mesh(vertices[None], faces, camera_from_world, seen_by, backend=backend)
    assert (image > 1).sum() >= 3
    views = 2 if backend == "numba" else 1  # the others are slow, and checked by parity
    both = torch.stack([vertices, vertices * 1.1 + 3.0])[:views].requires_grad_()
    poses = camera_from_world.repeat(views, 1, 1).requires_grad_()

    def whole(v, t):
        first, last = render_depths(v, faces, t, seen_by, backend=backend)
        return render_mesh(v, faces, t, seen_by, backend=backend), first, last

    assert torch.autograd.gradcheck(whole, (both, poses), eps=1e-6, atol=1e-4, rtol=1e-4)
