"""Path lengths are exact: against brute force, against analytic chords, and under what must not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import compare
from closed_meshes import (
    BACKENDS,
    CONVEX,
    KINDS,
    arrays,
    box,
    camera,
    closed_mesh,
    frontal,
    pose,
    solid,
    sphere,
)
from scipy.spatial.transform import Rotation

from shapefit import se3
from shapefit.camera import Camera, ray_lengths
from shapefit.io.mesh import read_surfaces
from shapefit.render import render_depths, render_mesh

CASES = [(b, kind, seed) for b, (_, seeds) in BACKENDS.items() for kind in KINDS for seed in range(seeds)]
SOLIDS = [kind for kind in KINDS if kind not in ("sheet", "needles", "flat needles", "slivers")]


def scene(kind: str, seed: int, side: int = 32):
    """Vertices, faces, a random pose (1, 4, 4) and a random camera, `side` rows high and wider than that."""
    rng = np.random.default_rng([seed, 7])
    vertices, faces = closed_mesh(kind, seed)
    seen_by = camera(rng, side, side + 5)
    return vertices, faces, pose(rng, seen_by), seen_by


def paths(vertices, faces, camera_from_world, seen_by, structure=None, backend="numba"):
    """The channels (S, H, W) of one view."""
    return render_mesh(vertices[None], faces, camera_from_world, seen_by, structure, backend=backend)[0]


def nearly_the_same(image, other, tolerance: float = 1e-8, share: float = 0.0):
    """Equal in mm, but for a share of the pixels: those within rounding of a grazing face."""
    difference = (image - other).abs()
    off = difference > tolerance
    assert off.double().mean() <= share, f"{int(off.sum())} pixels differ, {difference.max():.3g} mm"


@pytest.mark.parametrize(("backend", "kind", "seed"), CASES)
def test_every_ray_carries_what_brute_force_finds(backend, kind, seed):
    vertices, faces, camera_from_world, seen_by = scene(kind, seed, BACKENDS[backend][0])
    image = paths(vertices, faces, camera_from_world, seen_by, backend=backend)[0]
    rays = compare(image, vertices, faces, camera_from_world[0], seen_by)
    assert not rays.misses.all() or kind in ("needles", "flat needles")  # something is seen
    clear = ~rays.unclear
    first, last = render_depths(vertices[None], faces, camera_from_world, seen_by, backend=backend)
    tolerance = 1e-8 * rays.shake[clear] + 1e-9
    assert (np.abs(first.numpy().reshape(-1) - rays.first)[clear] <= tolerance).all()
    assert (np.abs(last.numpy().reshape(-1) - rays.last)[clear] <= tolerance).all()
    assert (first[0, 0].reshape(-1)[rays.misses] == 0).all()
    assert (last[0, 0].reshape(-1)[rays.misses] == 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_no_path_is_negative_nor_longer_than_the_span_that_holds_it(kind, seed):
    # a leaking ray would carry some 500 to 1,000 mm, plus or minus
    vertices, faces, camera_from_world, seen_by = scene(kind, seed, 200)
    image = paths(vertices, faces, camera_from_world, seen_by)
    first, last = render_depths(vertices[None], faces, camera_from_world, seen_by)
    span = (last - first)[0] * ray_lengths(seen_by)
    assert image.min() >= -1e-9
    assert (span >= 0).all()
    assert (image <= span + 1e-9).all()
    assert (image[span == 0] == 0).all()


@pytest.mark.parametrize("kind", CONVEX)
def test_a_convex_body_fills_the_span_from_entry_to_exit(kind):
    for seed in range(4):
        vertices, faces, camera_from_world, seen_by = scene(kind, seed, 100)
        image = paths(vertices, faces, camera_from_world, seen_by)
        first, last = render_depths(vertices[None], faces, camera_from_world, seen_by)
        nearly_the_same((last - first)[0] * ray_lengths(seen_by), image, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_box_in_any_pose_casts_the_chord_of_its_slabs(backend, seed):
    rng = np.random.default_rng(seed)
    half = rng.uniform(20, 60, 3)
    seen_by = camera(rng, BACKENDS[backend][0], BACKENDS[backend][0] + 5)
    camera_from_world = pose(rng, seen_by)
    vertices, faces = box(*(2 * half).tolist())
    k = np.linalg.inv(seen_by.intrinsics().numpy())
    i, j = np.meshgrid(np.arange(float(seen_by.height)), np.arange(float(seen_by.width)), indexing="ij")
    world_from_camera = se3.inverse(camera_from_world[0]).numpy()
    ray = np.stack([j, i, np.ones_like(i)], -1) @ k.T @ world_from_camera[:3, :3].T
    walls = np.stack([(w - world_from_camera[:3, 3]) / ray for w in (-half, half)])
    chord = (walls.max(0).min(-1) - walls.min(0).max(-1)).clip(min=0) * np.linalg.norm(ray, axis=-1)
    image = paths(vertices, faces, camera_from_world, seen_by, backend=backend)[0]
    assert np.abs(image.numpy() - chord).max() < 1e-6


def test_a_sphere_nears_its_chords_with_the_square_of_the_facets():
    seen_by = Camera(1020.0, 1.9, 1.7, 13.0, -9.0, 120, 130)
    turn = se3.exp(torch.tensor([[0.4, 0.1, -0.7, 0.0, 0.0, 0.0]], dtype=torch.float64))
    camera_from_world = frontal(700.0) @ turn
    centre = camera_from_world[0, :3, 3]
    i, j = torch.meshgrid(torch.arange(120.0).double(), torch.arange(130.0).double(), indexing="ij")
    ray = torch.stack([j, i, torch.ones_like(i)], -1) @ torch.linalg.inv(seen_by.intrinsics()).mT
    ray = ray / ray.norm(dim=-1, keepdim=True)
    miss = centre.square().sum() - (ray @ centre).square()
    chord = 2 * (80**2 - miss).clamp(min=0).sqrt()
    errors = []
    for subdivisions in (2, 3, 4, 5):
        image = paths(*sphere(subdivisions), camera_from_world, seen_by)[0]
        assert (image <= chord + 1e-9).all()  # facets lie inside the ball
        errors.append(float((chord - image)[miss < 70**2].mean()))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert (np.abs(ratios - 4) < 0.4).all() and errors[-1] < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_faces_vertices_and_corners_does_not_matter(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 0, 64)
    generator = torch.Generator().manual_seed(0)
    image = paths(vertices, faces, camera_from_world, seen_by)
    shuffled = faces[torch.randperm(len(faces), generator=generator)]
    nearly_the_same(paths(vertices, shuffled, camera_from_world, seen_by), image)
    turn = (torch.arange(3) + torch.randint(3, (len(faces), 1), generator=generator)) % 3
    nearly_the_same(paths(vertices, faces.gather(1, turn), camera_from_world, seen_by), image)
    order = torch.randperm(len(vertices), generator=generator)
    place = torch.argsort(order)
    nearly_the_same(paths(vertices[order], place[faces], camera_from_world, seen_by), image)
    unused = torch.cat([vertices, torch.full((3, 3), 7.0).double()])
    nearly_the_same(paths(unused, faces, camera_from_world, seen_by), image, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_inside_out_has_the_negative_path(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 1, 64)
    image = paths(vertices, faces, camera_from_world, seen_by)
    nearly_the_same(paths(vertices, faces.flip(1), camera_from_world, seen_by), -image)
    both = paths(vertices, torch.cat([faces, faces.flip(1)]), camera_from_world, seen_by)
    nearly_the_same(both, torch.zeros_like(both))
    twice = paths(vertices, torch.cat([faces, faces]), camera_from_world, seen_by)
    nearly_the_same(twice, 2 * image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_patient_moves_with_the_camera_unseen(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 2, 64)
    image = paths(vertices, faces, camera_from_world, seen_by)
    motion = se3.exp(torch.tensor([0.8, -2.0, 0.3, 90.0, -150.0, 60.0], dtype=torch.float64))
    moved = paths(se3.transform(motion, vertices), faces, camera_from_world @ se3.inverse(motion), seen_by)
    nearly_the_same(moved, image, 1e-7, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_detector_may_stand_anywhere_along_its_rays(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 3, 64)
    image = paths(vertices, faces, camera_from_world, seen_by)
    further = replace(
        seen_by, **{name: 1.37 * getattr(seen_by, name) for name in ("sdd", "delx", "dely", "x0", "y0")}
    )
    nearly_the_same(paths(vertices, faces, camera_from_world, further), image, 1e-7, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_twice_as_large_has_paths_twice_as_long(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 4, 64)
    larger = camera_from_world.clone()
    larger[:, :3, 3] *= 2
    image = paths(vertices, faces, camera_from_world, seen_by)
    nearly_the_same(paths(2 * vertices, faces, larger, seen_by), 2 * image, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_are_treated_alike(backend, kind):
    # the image of the world mirrored in the plane x = y is the transposed image
    vertices, faces, camera_from_world, seen_by = scene(kind, 0, BACKENDS[backend][0])
    swap = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    turned = Camera(
        seen_by.sdd, seen_by.dely, seen_by.delx, seen_by.y0, seen_by.x0, seen_by.width, seen_by.height
    )
    image = paths(vertices, faces, camera_from_world, seen_by, backend=backend)
    mirrored = paths(vertices, faces.flip(1), swap @ camera_from_world, turned, backend=backend)
    nearly_the_same(mirrored.mT, image, 1e-7, 2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_faces_changes_nothing(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 1, 64)
    image = paths(vertices, faces, camera_from_world, seen_by)
    a, b, c = faces.T
    new = len(vertices) + torch.arange(len(faces))
    fan = torch.cat([torch.stack(corners, 1) for corners in ((a, b, new), (b, c, new), (c, a, new))])
    weights = torch.rand(len(faces), 3, 1, generator=torch.Generator().manual_seed(0)).double() + 0.05
    inner = (vertices[faces] * weights).sum(1) / weights.sum(1)
    nearly_the_same(paths(torch.cat([vertices, inner]), fan, camera_from_world, seen_by), image, 1e-7, 1e-3)


@pytest.mark.parametrize("kind", ["components", "shell"])
def test_the_parts_of_a_structure_add(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 2, 64)
    parts = arrays_of_parts(faces)
    assert parts.max() == 3
    whole = paths(vertices, faces, camera_from_world, seen_by)
    apart = paths(vertices, faces, camera_from_world, seen_by, structure=parts)
    assert apart.shape[0] == 4
    nearly_the_same(apart.sum(0, keepdim=True), whole, 1e-9)
    for part in range(4):
        alone = paths(vertices, faces[parts == part], camera_from_world, seen_by)
        nearly_the_same(apart[part : part + 1], alone, 0.0)


def arrays_of_parts(faces: torch.Tensor) -> torch.Tensor:
    """The connected component of each face."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    f, n = faces.numpy(), int(faces.max()) + 1
    ends = np.concatenate([f[:, [0, 1]], f[:, [1, 2]]]).T
    label = connected_components(coo_array((np.ones(ends.shape[1]), ends), (n, n)), directed=False)[1]
    return torch.from_numpy(label[f[:, 0]].astype(np.int64))


@pytest.mark.parametrize("seed", range(6))
def test_union_and_intersection_add_up_to_the_two_bodies(seed):
    rng = np.random.default_rng(seed)
    bodies = []
    for n in range(2):
        vertices, faces = closed_mesh(("box", "sphere", "torus", "dented sphere")[rng.integers(4)], 10 + n)
        placed = Rotation.random(rng=rng).apply(vertices.numpy()) + rng.uniform(-30, 30, 3)
        bodies.append(solid(placed, faces))
    seen_by = camera(rng, 90, 95)
    camera_from_world = pose(rng, seen_by)

    def shown(body):
        vertices, faces = (torch.from_numpy(array) for array in arrays(body))
        return paths(vertices, faces, camera_from_world, seen_by)

    first, second = (shown(body) for body in bodies)
    union, common = shown(bodies[0] + bodies[1]), shown(bodies[0] ^ bodies[1])
    nearly_the_same(union + common, first + second, 1e-6, 1e-3)
    nearly_the_same(shown(bodies[0] - bodies[1]), first - common, 1e-6, 1e-3)
    assert (union <= first + second + 1e-6).all() and (union >= torch.maximum(first, second) - 1e-6).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", SOLIDS)
def test_the_halves_of_a_cut_body_add_up_to_the_whole(kind, seed):
    vertices, faces, camera_from_world, seen_by = scene(kind, seed, 90)
    rng = np.random.default_rng(seed)
    body = solid(vertices, faces)
    halves = body.split_by_plane(tuple(rng.normal(size=3)), rng.uniform(-10, 10))
    assert not halves[0].is_empty() and not halves[1].is_empty()
    shown = [
        paths(*(torch.from_numpy(array) for array in arrays(half)), camera_from_world, seen_by)
        for half in halves
    ]
    whole = paths(vertices, faces, camera_from_world, seen_by)
    nearly_the_same(shown[0] + shown[1], whole, 1e-6, 1e-3)
    assert (shown[0] <= whole + 1e-6).all() and (shown[1] <= whole + 1e-6).all()


def test_a_real_pelvis_has_the_paths_of_brute_force_rays(data_dir):
    surfaces = read_surfaces(data_dir / "vsd" / "z001")
    for seed, mesh in enumerate(surfaces.values()):
        vertices, faces = torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces))
        vertices = vertices - vertices.mean(0)
        rng = np.random.default_rng(seed)
        seen_by = camera(rng, 9, 8)
        camera_from_world = pose(rng, seen_by)
        image = paths(vertices, faces, camera_from_world, seen_by)[0]
        rays = compare(image, vertices, faces, camera_from_world[0], seen_by)
        assert (rays.path > 1).sum() >= 4
        large = replace(seen_by, height=360, width=320, delx=seen_by.delx / 40, dely=seen_by.dely / 40)
        shown = paths(vertices, faces, camera_from_world, large)
        first, last = render_depths(vertices[None], faces, camera_from_world, large)
        assert shown.min() >= -1e-9  # tens of layers, none of them leaks
        assert (shown <= (last - first)[0] * ray_lengths(large) + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_images_have_float32_and_stay_near(kind):
    vertices, faces, camera_from_world, seen_by = scene(kind, 0, 64)
    image = paths(vertices, faces, camera_from_world, seen_by)
    single = paths(vertices.float(), faces, camera_from_world.float(), seen_by)
    assert single.dtype == torch.float32
    error = (single - image).abs()
    assert error.median() <= 0.01 and single.min() >= -0.1
