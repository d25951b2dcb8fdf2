"""What an X-ray of a volume must be, for every method and every twin of the kernels."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from twins import BACKENDS, render_volume

import shapefit
from shapefit import Camera, Volume, se3, world_from_view
from shapefit.camera import ray_lengths

METHODS = ("siddon", "trilinear", "raymarch")
CAMERA = Camera(sdd=1000.0, delx=3.0, dely=2.0, x0=4.0, y0=-2.0, height=20, width=18)
TILTED = (0.2, -0.15, 0.3, 4.0, -3.0, 10.0)


@pytest.fixture
def unchecked():
    """Shape checks off: torch.compile cannot trace what makes their messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def ap_pose(twist=(0.0,) * 6):
    """camera_from_world (1, 4, 4) of a source 800 mm before the origin; a twist moves the world."""
    pose = se3.inverse(world_from_view("ap", torch.zeros(3, dtype=torch.float64), 800.0))
    return (pose @ se3.exp(torch.tensor(twist, dtype=torch.float64)))[None]


def centred(data, spacing=3.0, **more):
    """A volume whose middle is the world's origin."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] *= spacing
    affine[:3, 3] = -spacing * (torch.tensor(data.shape, dtype=torch.float64) - 1) / 2
    return Volume(data, affine, **more)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_twins_agree_in_values_and_gradients(method, structured, backend):
    data = noise(6, 5, 7)
    structure = (noise(6, 5, 7, seed=1) * 4).to(torch.uint8)
    structure[structure == 3] = 255
    more = {"structure": structure, "names": ("a", "b", "c")} if structured else {}
    found = []
    for twin in ("torch", backend):
        leaf = data.clone().requires_grad_()
        twist = torch.tensor([TILTED, (0.0,) * 6], dtype=torch.float64, requires_grad=True)
        sdd = torch.tensor(1000.0, dtype=torch.float64, requires_grad=True)
        pose = se3.exp(twist) @ ap_pose()
        image = render_volume(
            centred(leaf, **more), pose, replace(CAMERA, sdd=sdd), method, 0.9, backend=twin
        )
        (image * noise(*image.shape, seed=2)).sum().backward()
        found.append((image.detach(), leaf.grad, twist.grad, sdd.grad))
    for ours, reference in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-8 * float(reference.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ray_along_an_axis_has_the_length_of_a_uniform_block(backend):
    block = centred(torch.ones(8, 10, 6, dtype=torch.float64))
    camera = replace(CAMERA, x0=0.0, y0=0.0, height=1, width=1)
    for method in METHODS:  # the interpolant's two ramps of a voxel count half each
        image = render_volume(block, ap_pose(), camera, method, 0.25, backend=backend)
        assert float(image) == pytest.approx(30.0, abs=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["siddon", "trilinear"])
def test_an_image_integrates_to_the_mass_of_the_volume(method, backend):
    volume = centred(noise(6, 5, 7), spacing=4.0)
    # rays of a source far away are almost parallel: a pixel is (depth / sdd)^2 of its area there
    camera = Camera(sdd=1e6, delx=0.4, dely=0.4, x0=0.0, y0=0.0, height=110, width=110)
    pose = ap_pose((*TILTED[:3], 0.0, 0.0, 0.0))
    pose[:, 2, 3] += 1e6 - 800
    image = render_volume(volume, pose, camera, method, backend=backend)
    mass = float(volume.data.sum()) * volume.voxel_volume
    assert float(image.sum()) * 0.4**2 == pytest.approx(mass, rel=2e-4)


@pytest.mark.parametrize("method", ["siddon", "trilinear"])
def test_exact_methods_are_what_dense_sampling_tends_to(method):
    volume = centred(noise(5, 6, 7))
    exact = render_volume(volume, ap_pose(TILTED), CAMERA, method)
    if method == "trilinear":
        dense = render_volume(volume, ap_pose(TILTED), CAMERA, "raymarch", 0.002)
    else:  # constant voxels: the interpolant of voxels cut into many
        fine = volume.data.repeat_interleave(16, 0).repeat_interleave(16, 1).repeat_interleave(16, 2)
        dense = render_volume(centred(fine, 3.0 / 16), ap_pose(TILTED), CAMERA, "trilinear")
    error = float((dense - exact).abs().max() / exact.max())
    assert error < (1e-6 if method == "trilinear" else 0.02)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_rays_that_miss_are_exactly_0(method, backend):
    volume = centred(torch.ones(4, 4, 4))
    image = render_volume(volume, ap_pose((0.0, 0.0, 0.0, 100.0, 0.0, 0.0)), CAMERA, method, backend=backend)
    assert not image.any()
    behind = ap_pose()
    behind[:, 2, 3] -= 1600
    assert not render_volume(volume, behind, CAMERA, method, backend=backend).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_source_inside_sees_what_lies_before_it(method, backend):
    block = centred(torch.ones(9, 21, 9, dtype=torch.float64), spacing=1.0)
    camera = replace(CAMERA, x0=0.0, y0=0.0, height=1, width=1)
    pose = se3.inverse(world_from_view("ap", torch.zeros(3, dtype=torch.float64), 4.0))[None]
    # from y = 4 mm down to the border at -10.5 mm
    assert float(render_volume(block, pose, camera, method, 0.1, backend=backend)) == pytest.approx(14.5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_structures_add_up_to_the_whole(method, backend):
    data = noise(6, 5, 4)
    structure = (noise(6, 5, 4, seed=3) * 3).to(torch.uint8)
    whole = render_volume(centred(data), ap_pose(TILTED), CAMERA, method, backend=backend)
    named = centred(data, structure=structure, names=("a", "b", "c"))
    parts = render_volume(named, ap_pose(TILTED), CAMERA, method, backend=backend)
    assert parts.shape[1] == 3
    torch.testing.assert_close(parts.sum(1, keepdim=True), whole, rtol=1e-12, atol=1e-12)
    alone = render_volume(centred(data * (structure == 1)), ap_pose(TILTED), CAMERA, method, backend=backend)
    torch.testing.assert_close(parts[:, 1:2], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_chosen_pixels_are_those_of_the_image(method, backend):
    volume, pixels = centred(noise(6, 5, 4)), torch.tensor([3, 359, 0, 180, 3])
    image = render_volume(volume, ap_pose(TILTED), CAMERA, method, backend=backend)
    chosen = render_volume(volume, ap_pose(TILTED), CAMERA, method, pixels=pixels, backend=backend)
    assert torch.equal(chosen, image.flatten(2)[:, :, pixels])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int16])
def test_other_types_of_voxels_are_rendered_as_the_numbers_they_are(dtype):
    data = (noise(6, 5, 4) * 200).to(dtype)
    for method in METHODS:
        image = render_volume(centred(data), ap_pose(TILTED), CAMERA, method)
        assert image.dtype == torch.float32
        assert torch.equal(image, render_volume(centred(data.float()), ap_pose(TILTED), CAMERA, method))


def test_siddon_in_single_precision_is_siddon():
    data = noise(24, 20, 22, dtype=torch.float32)
    single = render_volume(centred(data), ap_pose(TILTED), CAMERA, "siddon")
    double = render_volume(centred(data.double()), ap_pose(TILTED), CAMERA, "siddon", backend="torch")
    hit = double > 0
    assert float(((single - double).abs()[hit] / double[hit]).max()) < 2e-6


def test_lengths_of_rays_are_those_of_the_camera():
    wide = replace(CAMERA, delx=40.0, dely=40.0)  # rays up to 25 degrees off the axis
    slab = centred(torch.ones(200, 4, 200, dtype=torch.float64), spacing=4.0)
    image = render_volume(slab, ap_pose(), wide, "siddon")
    torch.testing.assert_close(image[0, 0], 16 * ray_lengths(wide), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "joseph"}, "unknown method 'joseph'; expected one of 'siddon', 'trilinear', 'raymarch'"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
        ({"step": 0.0}, "step must be a positive length in mm, got 0"),
        ({"step": float("nan")}, "step must be a positive length"),
        ({"pixels": torch.tensor([0, 360])}, "pixels name 0 to 360, and the image has 360"),
        ({"pixels": torch.tensor([-1])}, "pixels name -1 to -1"),
        ({"camera_from_world": ap_pose() * float("nan")}, "see the pose, the camera"),
        ({"camera_from_world": ap_pose((0, 0, 0, 1e12, 0, 0))}, "voxels from the volume"),
    ],
)
def test_bad_input_is_refused_by_name(change, complaint):
    scene = {"volume": centred(torch.ones(2, 2, 2)), "camera_from_world": ap_pose(), "camera": CAMERA}
    with pytest.raises(ValueError, match=complaint):
        shapefit.render_volume(**scene | change)


def test_a_compiled_graph_renders_the_same_image_and_gradient(unchecked):
    volume = centred(noise(6, 5, 4))
    compiled = torch.compile(
        lambda pose: shapefit.render_volume(volume, pose, CAMERA), fullgraph=True, backend="aot_eager"
    )
    poses = [ap_pose(TILTED).requires_grad_() for _ in range(2)]
    images = [compiled(poses[0]), render_volume(volume, poses[1], CAMERA)]
    torch.testing.assert_close(images[0], images[1])
    for image in images:
        image.square().sum().backward()
    torch.testing.assert_close(poses[0].grad, poses[1].grad)
