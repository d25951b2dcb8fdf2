"""Volumes, poses and images made to break a volume renderer: ties, sources inside, extremes, threads."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from twins import BACKENDS, NO_TRITON
from volume_brute_force import METHODS, SHAPES, Scene, expected, scene, shown, views, weights

from shapefit import se3
from shapefit.camera import Camera
from shapefit.volume import Volume

QUICK = ["torch", "numba"]  # the GPU's kernels, interpreted, are slow: they see fewer scenes
SEEDS = [
    pytest.param(b, seed, marks=NO_TRITON if b == "triton" else ())
    for b, seeds in (("torch", range(len(SHAPES))), ("numba", range(16)), ("triton", (7,)))
    for seed in seeds
]
CASES = [
    pytest.param(b, method, marks=NO_TRITON if b == "triton" else ())
    for b in (*QUICK, "triton")
    for method in METHODS
]


def assert_near(image, true, tolerance: float = 1e-10) -> None:
    """Alike to rounding, relative to the largest; and 0 where nothing is met, exactly."""
    true = torch.as_tensor(true)
    assert image.shape == true.shape
    error = (image - true).abs().max()
    assert error <= tolerance * max(1e-300, float(true.abs().max())), f"off by {error:.3g}"
    assert (image[true == 0] == 0).all()


# --- brute force ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("backend", "seed"), SEEDS)
def test_every_ray_has_the_integral_of_brute_force(backend, seed, method):
    given = scene(seed, labelled=seed % 2 == 1 and (backend, method) != ("triton", "raymarch"))
    assert_near(shown(given, backend, method, step=0.37), expected(given, method, 0.37))


@pytest.mark.parametrize("voxel", [1e-3, 1e3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_voxels_of_a_micrometre_and_of_a_metre_are_as_good_as_any(backend, method, voxel):
    given = scene(5, voxel=voxel)
    step = 0.37 * voxel
    assert_near(shown(given, backend, method, step=step), expected(given, method, step))


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_single_precision_stays_within_two_millionths_of_double(backend, method):
    given = scene(5 if backend != "triton" else 1)
    data = given.volume.data.float().abs() + 0.1
    single = shown(given._replace(volume=replace(given.volume, data=data)), backend, method, step=0.2)
    double = expected(given._replace(volume=replace(given.volume, data=data)), method, 0.2)
    assert single.dtype == torch.float32
    assert_near(single.double(), double, 2e-6)


# --- ties: rays along axes, borders and edges -------------------------------------------------------------


def facing(shape, turn=0, offset=(0.0, 0.0, 0.0), distance=16.0, size=(9, 9), pitch=0.5, seed=0) -> Scene:
    """Whole-numbered voxels before a camera whose every number is exact; `turn` numbers the 48 cube turns.

    Rays have slopes of 1/32 per pixel, so they meet corners, edges and borders of voxels exactly.
    """
    order = list(itertools.permutations(range(3)))[turn % 6]
    signs = np.array([1 - 2 * ((turn // 6) >> k & 1) for k in range(3)])
    place = np.eye(4)
    place[:3, :3] = np.eye(3)[:, list(order)] * signs
    place[:3, 3] = offset
    camera_from_world = np.eye(4)
    camera_from_world[2, 3] = distance
    data = torch.from_numpy(np.random.default_rng(seed).normal(size=shape))
    seen_by = Camera(distance, pitch, pitch, 0.0, 0.0, *size)
    return Scene(Volume(data, torch.from_numpy(place)), torch.from_numpy(camera_from_world), seen_by)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (-1.5, -1.0, 0.25)])
@pytest.mark.parametrize(
    ("backend", "turn"), [(b, t) for b in QUICK for t in range(0, 48, 5 if b == "numba" else 17)]
)
def test_rays_along_axes_borders_and_edges_are_exact(backend, turn, offset, method):
    given = facing((4, 5, 3), turn, offset)
    image = shown(given, backend, method, step=0.25)
    true = torch.from_numpy(expected(given, method, 0.25))
    if method != "siddon":
        assert_near(image, true, 1e-12)
        return
    # a ray within a border may belong to either side: it must be one of them, or the one that owns it
    aside = [
        torch.from_numpy(expected(_nudged(given, x, y), method)) for x in (-1e-9, 1e-9) for y in (-1e-9, 1e-9)
    ]
    near = torch.stack([(image - other).abs() for other in (true, *aside)]).amin(0)
    assert near.max() < 1e-7 * 5
    middle = (given.camera.height // 2, given.camera.width // 2)
    assert (image - true)[0][middle].abs() < 1e-12  # parallel to an axis: a voxel owns its lower border


def _nudged(given, x, y):
    moved = given.camera_from_world.clone()
    moved[0, 3] += x
    moved[1, 3] += y
    return given._replace(camera_from_world=moved)


@NO_TRITON
@pytest.mark.parametrize("method", METHODS)
def test_the_gpus_rays_along_axes_borders_and_edges_are_exact(method):
    given = facing((2, 3, 2), 7, (0.5, -0.5, 0.5))
    image, true = shown(given, "triton", method, step=0.25), expected(given, method, 0.25)
    middle = (given.camera.height // 2, given.camera.width // 2)
    assert abs(image[0][middle] - true[0][middle]) < 1e-12
    assert_near(image, true, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parallel_ray_within_a_border_belongs_to_the_voxel_above(backend):
    # voxel k fills [k - 1/2, k + 1/2): the middle ray runs along x = y = 1/2 mm
    data = torch.arange(8.0, dtype=torch.float64).reshape(2, 2, 2) + 1
    given = facing((2, 2, 2), offset=(-0.5, -0.5, 0.0), size=(1, 1))
    given = given._replace(volume=replace(given.volume, data=data))
    assert float(shown(given, backend, "siddon")) == float(data[1, 1].sum())
    outside = facing((2, 2, 2), offset=(-1.5, 0.0, 0.0), size=(1, 1))
    assert float(shown(outside, backend, "siddon")) == 0  # the upper border of the last is outside
    inside = facing((2, 2, 2), offset=(0.5, 0.0, 0.0), size=(1, 1))
    assert float(shown(inside, backend, "siddon")) != 0


@pytest.mark.parametrize("backend", QUICK)
@pytest.mark.parametrize("method", METHODS)
def test_a_diagonal_ray_through_corners_counts_each_voxel_once(backend, method):
    place = torch.eye(4, dtype=torch.float64)
    across = torch.tensor([[1.0, -1, 0], [1, 1, -2], [1, 1, 1]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = across / across.norm(dim=1, keepdim=True)  # the beam runs along (1, 1, 1)
    pose[2, 3] = 20.0
    data = torch.ones(4, 4, 4, dtype=torch.float64)
    given = Scene(Volume(data, place), pose, Camera(30.0, 1.0, 1.0, 0.0, 0.0, 1, 1))
    length = float(shown(given, backend, method, step=1e-3))
    whole = {"siddon": 4 * 3**0.5}.get(method)
    if whole is None:  # 3 cells of ones, and two halves where (1 - t)^3 falls to 0
        whole = 3**0.5 * (3 + 2 / 4)
    assert abs(length - whole) < (1e-5 if method == "raymarch" else 1e-9)


# --- where the source is ----------------------------------------------------------------------------------


SOURCES = {
    "inside a voxel": (1.3, 2.2, 0.9),
    "at a voxel's centre": (1.0, 2.0, 1.0),
    "on a border": (1.5, 2.2, 0.9),
    "at a corner": (1.5, 1.5, 0.5),
    "on the volume's side": (1.2, 2.2, -0.5),
    "at the interpolant's end": (1.2, 2.2, -1.0),
    "beyond the volume": (1.2, 2.2, 30.0),
    "aside of the volume": (9.0, 2.2, 1.2),
}


@pytest.mark.parametrize("where", SOURCES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_only_what_lies_before_the_source_is_seen(backend, method, where):
    image, true = _from_within(backend, method, where)
    assert_near(image, true)
    if where == "beyond the volume":
        assert (image == 0).all()


@NO_TRITON
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["inside a voxel", "on a border"])
def test_the_gpu_sees_only_what_lies_before_the_source(method, where):
    assert_near(*_from_within("triton", method, where))


def _from_within(backend, method, where):
    data = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 5, 3)))
    turn = se3.exp(torch.tensor([0.3, -0.2, 0.4, 0.0, 0.0, 0.0], dtype=torch.float64))
    pose = turn.clone()
    pose[:3, 3] = -turn[:3, :3] @ torch.tensor(SOURCES[where], dtype=torch.float64)
    # 140 degrees wide
    given = Scene(
        Volume(data, torch.eye(4, dtype=torch.float64)), pose, Camera(2.0, 1.1, 1.2, 0.3, 0.1, 10, 9)
    )
    return shown(given, backend, method, step=0.3), expected(given, method, 0.3)


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_a_volume_behind_or_aside_leaves_no_trace(backend, method):
    given = scene(1)
    for x in ([0.0, 0.0, -80.0], [60.0, 0.0, 0.0], [0.0, -1e6, 0.0], [1e7, 1e7, -1e7]):
        moved = given.camera_from_world.clone()
        moved[:3, 3] += torch.tensor(x)
        data = given.volume.data.clone().requires_grad_()
        p = moved[None].requires_grad_()
        volume = replace(given.volume, data=data)
        image = views(given._replace(volume=volume), p, backend, method)
        assert (image == 0).all()
        for gradient in torch.autograd.grad(image.sum(), (data, p)):
            assert (gradient == 0).all()


# --- extremes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_nothing_is_read_out_of_bounds(backend, method):
    rng = np.random.default_rng(11)
    data = torch.from_numpy(rng.uniform(0.5, 1, (3, 2, 4)))
    count, rendered = 40 if backend != "triton" else 4, 0
    for n in range(count):
        place, pose = np.eye(4), np.eye(4)
        place[:3, :3] = Rotation.random(rng=rng).as_matrix() * 10 ** rng.uniform(-6, 6, 3)
        pose[:3, :3] = Rotation.random(rng=rng).as_matrix()
        pose[:3, 3] = rng.normal(size=3) * 10 ** rng.uniform(-6, 8)
        place[:3, 3] = rng.normal(size=3) * 10 ** rng.uniform(-6, 8)
        if n % 2:  # the source within the volume, or near it
            pose[:3, 3] = -pose[:3, :3] @ (place[:3, :3] @ rng.uniform(-2, 5, 3) + place[:3, 3])
        sdd, pitch = 10 ** rng.uniform(-3, 6), 10 ** rng.uniform(-3, 6)
        given = Scene(
            Volume(data, torch.from_numpy(place)), torch.from_numpy(pose),
            Camera(sdd, pitch, pitch, rng.normal(), 0.0, 4, 5),
        )  # fmt: skip
        # some thirty samples across the volume at most
        step = float(np.linalg.norm(place[:3, :3], axis=0).max()) / 4
        d, p = data.clone().requires_grad_(), given.camera_from_world[None].clone().requires_grad_()
        try:
            image = views(given._replace(volume=replace(given.volume, data=d)), p, backend, method, step=step)
        except ValueError as error:  # farther away than numbers can tell one voxel from the next
            assert "voxels from the volume" in str(error)
            continue
        rendered += 1
        longest = np.linalg.norm(place[:3, :3], axis=0) @ (np.array(data.shape) + 2)
        assert (image >= 0).all() and (image <= 3 * longest + step * 1e3).all()
        in_data, in_pose = torch.autograd.grad(image.sum(), (d, p))
        assert (in_data >= 0).all() and torch.isfinite(in_data).all() and torch.isfinite(in_pose).all()
    assert rendered >= count / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_source_a_hundred_kilometres_away_costs_nothing(method):
    # the samples of raymarch begin where the volume does
    given = scene(6)
    moved = given.camera_from_world.clone()
    moved[2, 3] += 1e8
    far = replace(given.camera, sdd=given.camera.sdd * 1e8 / 10)
    for backend in QUICK:
        image = shown(given._replace(camera_from_world=moved, camera=far), backend, method, step=0.5)
        assert (image != 0).any() and torch.isfinite(image).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_a_large_image_is_that_of_its_pixels_and_0_beside_the_volume(backend, method):
    given = scene(5)
    large = replace(given.camera, height=60, width=70, x0=given.camera.delx * 20)
    given = given._replace(camera=large)
    image = shown(given, backend, method)
    assert 0.001 < (image != 0).double().mean() < 0.5
    hit = torch.nonzero(image[0].flatten())[:, 0]
    some = torch.cat([hit[:: max(1, len(hit) // 9)], torch.tensor([0, 69, 4199, 17]), hit[:1]])
    sparse = shown(given, backend, method, pixels=some)
    assert torch.equal(sparse[0], image[0].flatten()[some])


# --- types, orders of memory, batches ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("backend", "method"), CASES)
def test_small_types_hold_the_same_volume(backend, method, dtype):
    if backend == "triton" and dtype in (torch.uint8, torch.bfloat16):
        pytest.skip("one type is enough of the slow interpreter")
    given = scene(0 if backend == "triton" else 6)
    data = (given.volume.data * 40 + 100).round().clamp(0, 255).to(dtype)
    small = shown(given._replace(volume=replace(given.volume, data=data)), backend, method)
    single = shown(given._replace(volume=replace(given.volume, data=data.float())), backend, method)
    assert small.dtype == torch.float32 and torch.equal(small, single)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_the_order_of_the_memory_does_not_matter(backend, method):
    given = scene(5, labelled=True)
    volume = given.volume
    image = shown(given, backend, method)
    turned = volume.data.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert turned.stride() != volume.data.stride()
    spread = torch.zeros(10, 14, 6, dtype=torch.float64)[::2, ::2, ::2].copy_(volume.data)
    for data in (turned, spread):
        d = data.detach().requires_grad_()
        other = shown(given._replace(volume=replace(volume, data=d)), backend, method)
        assert_near(other.detach(), image, 1e-13)
        (gradient,) = torch.autograd.grad(other.square().sum(), d)
        d = volume.data.clone().requires_grad_()
        other = shown(given._replace(volume=replace(volume, data=d)), backend, method)
        assert_near(gradient, torch.autograd.grad(other.square().sum(), d)[0], 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_views_of_a_batch_are_those_alone_bit_by_bit(backend, method):
    given = scene(5)
    turns = se3.exp(0.1 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    poses = given.camera_from_world @ turns
    together = views(given, poses, backend, method)
    for pose, image in zip(poses, together, strict=True):
        assert torch.equal(views(given, pose[None], backend, method)[0], image)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_views_and_no_pixels_are_empty_images(backend, method):
    given = scene(1, labelled=True)
    poses = given.camera_from_world[None].clone().requires_grad_()
    data = given.volume.data.clone().requires_grad_()
    given = given._replace(volume=replace(given.volume, data=data))
    none = views(given, poses[:0], backend, method)
    assert none.shape == (0, 3, 6, 7)
    nowhere = views(given, poses, backend, method, pixels=torch.zeros(0, dtype=torch.int64))
    assert nowhere.shape == (1, 3, 0)
    for gradient in torch.autograd.grad(none.sum() + nowhere.sum(), (poses, data)):
        assert (gradient == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_the_same_bits_on_every_run(backend, method):
    given = scene(1 if backend != "triton" else 0)
    poses = torch.stack([given.camera_from_world] * 2).requires_grad_()
    data = given.volume.data.float().clone().requires_grad_()
    given = given._replace(volume=replace(given.volume, data=data))
    runs = []
    for _ in range(2):
        image = views(given, poses, backend, method)
        in_pose, in_data = torch.autograd.grad(image.square().sum(), (poses, data))
        runs.append((image.detach(), in_pose, in_data))
    same = 2 if backend == "triton" and torch.cuda.is_available() else 3  # rays race to add to the volume's
    assert all(torch.equal(a, b) for a, b in list(zip(*runs, strict=True))[:same])


def test_the_number_of_threads_does_not_change_a_bit():
    # in a process of its own, since numba starts its threads once
    program = """
import sys, numba, torch
from dataclasses import replace
sys.path[:0] = sys.argv[1:]
from volume_brute_force import METHODS, scene, views
given = scene(5, size=(40, 44), labelled=True)
for method in METHODS:
    runs = []
    for threads in (1, 2, 3):
        numba.set_num_threads(threads)
        data = given.volume.data.float().clone().requires_grad_()
        poses = given.camera_from_world[None].clone().requires_grad_()
        image = views(given._replace(volume=replace(given.volume, data=data)), poses, "numba", method)
        runs.append((image.detach(), *torch.autograd.grad(image.square().sum(), (data, poses))))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True)), method
print("the same")
"""
    folders = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    environment = os.environ | {"NUMBA_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program, *folders], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "the same", done.stderr


# --- what does not change the image -------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_turning_and_flipping_the_axes_of_the_grid_changes_nothing(backend, method):
    given = scene(5, labelled=True)
    image = shown(given, backend, method)
    for order in itertools.permutations(range(3)):
        for flips in (
            itertools.product((False, True), repeat=3) if backend == "numba" else [(True, False, True)]
        ):
            axes = [k for k in range(3) if flips[k]]
            turned = given.volume.data.permute(order).flip(axes)
            labels = given.volume.structure.permute(order).flip(axes)
            old_from_new = torch.zeros(4, 4, dtype=torch.float64)
            old_from_new[3, 3] = 1
            for new, old in enumerate(order):
                old_from_new[old, new] = -1 if flips[new] else 1
                old_from_new[old, 3] = turned.shape[new] - 1 if flips[new] else 0
            place = given.volume.world_from_voxel @ old_from_new
            volume = Volume(turned.contiguous(), place, labels.contiguous(), given.volume.names)
            assert_near(shown(given._replace(volume=volume), backend, method), image, 1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_the_integral_is_linear_in_the_volume(backend, method):
    given = scene(6)
    other = torch.randn(given.volume.data.shape, generator=torch.Generator().manual_seed(1)).double()

    def image(data):
        return shown(given._replace(volume=replace(given.volume, data=data)), backend, method)

    both = image(2.5 * given.volume.data - 0.75 * other)
    assert_near(both, 2.5 * image(given.volume.data) - 0.75 * image(other), 1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_structures_add_up_to_the_volume_without_what_is_in_none(backend, method):
    given = scene(5, labelled=True)
    volume = given.volume
    kept = torch.where(volume.structure == 255, 0.0, volume.data)
    whole = shown(given._replace(volume=Volume(kept, volume.world_from_voxel)), backend, method)
    assert_near(shown(given, backend, method).sum(0, keepdim=True), whole, 1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_the_patient_moves_with_the_camera_unseen(backend, method):
    given = scene(6)
    motion = se3.exp(torch.tensor([0.8, -2.0, 0.3, 9.0, -15.0, 6.0], dtype=torch.float64))
    volume = replace(given.volume, world_from_voxel=motion @ given.volume.world_from_voxel)
    pose = given.camera_from_world @ se3.inverse(motion)
    moved = shown(given._replace(volume=volume, camera_from_world=pose), backend, method)
    assert_near(moved, shown(given, backend, method), 1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", QUICK)
def test_the_detector_may_stand_anywhere_along_its_rays(backend, method):
    given = scene(5)
    lengths = {name: 1.37 * getattr(given.camera, name) for name in ("sdd", "delx", "dely", "x0", "y0")}
    further = given._replace(camera=replace(given.camera, **lengths))
    assert_near(shown(further, backend, method), shown(given, backend, method), 1e-11)


@pytest.mark.parametrize("method", ["siddon", "trilinear"])
def test_an_image_holds_the_mass_of_the_volume(method):
    # rays from ten kilometres away are all but parallel: sum x pixel area is the sum x voxel volume
    given = scene(6)
    volume = replace(given.volume, data=given.volume.data.abs())
    centre = volume.world_from_voxel @ torch.tensor([1.5, 1.5, 1.5, 1.0], dtype=torch.float64)
    pose = given.camera_from_world.clone()
    pose[:3, 3] = torch.tensor([0.0, 0.0, 1e7]) - pose[:3, :3] @ centre[:3]
    side, width = 160, 1.2 * float((volume.spacing * 6).norm())
    far = Camera(1e7, width / side, width / side, 0.0, 0.0, side, side)
    image = shown(Scene(volume, pose, far), "numba", method)
    mass = float(volume.data.sum()) * volume.voxel_volume
    assert float(image.sum()) * (width / side) ** 2 == pytest.approx(mass, rel=3e-3)


def test_weights_of_the_brute_force_fill_the_volume():
    # the ruler itself: through ones, siddon's weights add up to chords, of the interpolant to no more
    given = facing((3, 4, 5))
    assert weights(given, "siddon").sum(1).max() == pytest.approx(5 * (1 + 2 / 32**2) ** 0.5, rel=0.02)
    assert weights(given, "trilinear")[40].sum() == pytest.approx(5, abs=1e-12)


# --- the GPU's compiler -----------------------------------------------------------------------------------


@NO_TRITON
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels have run on this machine's GPU")
def test_gpu_kernels_compile_for_a_gpu(tmp_path):
    # the interpreter accepts more than the compiler does; ptxas comes with Triton and needs no GPU
    program = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from shapefit.render import _volume_triton_kernels as kernels

pointers = dict(structure="*u8", source="*fp64", direction="*fp64", pixels="*i64", step="*fp64")
for name, what, data, real, wide, flag in (
    ("siddon", 1, "fp16", "fp32", False, False), ("trilinear", 2, "fp64", "fp64", True, True),
    ("raymarch", 0, "u8", "fp32", False, False),
):
    kernel = getattr(kernels, name)
    constants = dict(
        WHAT=what, LISTED=flag, LABELLED=flag, BITS=32 if real == "fp32" else 44,
        REAL=tl.float32 if real == "fp32" else tl.float64, INDEX=tl.int64 if wide else tl.int32,
        LANES=64, COLUMNS=8)
    types = pointers | dict(data="*" + data, lengths="*" + real, grad="*" + real)
    types["out"] = "*fp64" if what == 2 else "*" + real
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=2))
    assert len(binary.asm["cubin"]) > 1000 and binary.asm["ptx"].count(".local") == 0  # nothing is spilled
print("compiled")
"""
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "compiled", done.stderr


@NO_TRITON
def test_triton_asks_for_a_gpu(monkeypatch):
    from shapefit.render import _volume_triton

    monkeypatch.setattr(_volume_triton, "INTERPRETED", False)
    with pytest.raises(ValueError, match="backend 'triton' needs a CUDA device, got tensors on 'cpu'"):
        shown(scene(0), "triton")
